//! What is to happen, drawn from a seed before it does: each event has chance of its own, so that one can be left out and the
//! others stay what they were.

use crate::chance::Chance;

/// What may happen. The order is that of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// All goes well for all at first.
    Dawn,
    Decide,
    Deliver,
    Hear,
    Write,
    Renew,
    Work,
    Calm,
    Fork,
    Lineage,
    Rivals,
    Tenants,
    Echo,
    Oblivion,
    Lose,
    Repeat,
    Late,
    Tire,
    Crash,
    Start,
    Destroy,
    Replace,
    Cut,
    Join,
    Copy,
    SetBack,
    Empty,
    Compact,
    Wish,
    Part,
    Remove,
    RemoveLiving,
    Abandon,
    Jump,
    Expire,
    Stray,
    Grow,
    Annex,
}

const EVENTS: [(Event, usize); 37] = [
    (Event::Decide, 60),
    (Event::Deliver, 70),
    (Event::Hear, 60),
    (Event::Write, 40),
    (Event::Renew, 15),
    (Event::Work, 80),
    (Event::Calm, 2),
    (Event::Fork, 1),
    (Event::Lineage, 1),
    (Event::Rivals, 2),
    (Event::Tenants, 1),
    (Event::Echo, 3),
    (Event::Oblivion, 3),
    (Event::Lose, 2),
    (Event::Repeat, 3),
    (Event::Late, 3),
    (Event::Tire, 6),
    (Event::Crash, 3),
    (Event::Start, 6),
    (Event::Destroy, 1),
    (Event::Replace, 1),
    (Event::Cut, 3),
    (Event::Join, 5),
    (Event::Copy, 3),
    (Event::SetBack, 1),
    (Event::Empty, 1),
    (Event::Compact, 1),
    (Event::Wish, 6),
    (Event::Part, 6),
    (Event::Remove, 1),
    (Event::RemoveLiving, 1),
    (Event::Abandon, 1),
    (Event::Jump, 1),
    (Event::Expire, 3),
    (Event::Stray, 1),
    (Event::Grow, 2),
    (Event::Annex, 3),
];
/// Events that nothing works without.
const ESSENTIAL: usize = 7;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) event: Event,
    pub(crate) salt: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    /// Of the world that it begins with.
    pub(crate) salt: u64,
    pub(crate) steps: Vec<Step>,
}

impl Schedule {
    pub(crate) fn drawn(seed: u64) -> Self {
        let mut chance = Chance::new(seed.wrapping_mul(0xd134_2543_de82_ef95));
        let weights = weights(&mut chance);
        let salt = chance.number();
        let count = 40 + chance.below(4) * chance.below(4) * 50;
        let dawn = (!chance.once_in(4)).then(|| Step { event: Event::Dawn, salt: chance.number() });
        let mut step = || Step { event: EVENTS[chance.weighted(&weights)].0, salt: chance.number() };
        let steps = (0..count).map(|_| step()).collect::<Vec<_>>();
        Self { salt, steps: dawn.into_iter().chain(steps).collect() }
    }
}

/// Some schedules have no faults of one kind, others many. With a store that is set back witnesses are seldom declared gone: what
/// only they knew is lost then, and not all laws hold.
fn weights(chance: &mut Chance) -> Vec<usize> {
    let is_set_back = !chance.once_in(4);
    let is_lossy = chance.once_in(8);
    let is_wild = chance.once_in(2);
    let mut left_out = Vec::new();
    if !is_set_back {
        left_out.extend([Event::Fork, Event::Lineage, Event::Rivals, Event::Tenants, Event::Echo, Event::Annex]);
        left_out.extend([Event::SetBack, Event::Empty]);
    }
    if is_set_back && !is_lossy {
        left_out.push(Event::Abandon);
    }
    if !(is_set_back && is_lossy) {
        left_out.push(Event::Oblivion);
    }
    if !is_wild {
        left_out.push(Event::RemoveLiving);
    }
    let weigh = |(at, (event, weight)): (usize, &(Event, usize))| {
        if left_out.contains(event) {
            0
        } else if at < ESSENTIAL {
            2 * *weight
        } else {
            weight * [0, 1, 2, 6][chance.below(4)]
        }
    };
    EVENTS.iter().enumerate().map(weigh).collect()
}
