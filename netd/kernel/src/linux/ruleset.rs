//! Our nftables: a fixed skeleton, and objects as elements of its sets. Changes of concurrent attaches share one transaction.
//!
//! ```text
//! prerouting, output   address of this node . protocol . port ─▶ ports4, ports6, host_ports4, host_ports6 ─▶ dnat
//! raw_prerouting       from a routed link without a way back ─▶ drop
//! forward              known, dnat ─▶ accept; fenced link to another ─▶ drop; neither ours (where guarded) ─▶ drop
//! postrouting          masq4, masq6, unless it stays on its own bridge (home4, home6) or routed links ─▶ masquerade
//! ```
//!
//! A packet is looked up in hash sets by its address, port or interface: its cost does not grow with the attachments. Policy,
//! the spoof guard and tunnels have pictures of their own, in `skeleton/`.

mod apart;
mod batch;
mod elements;
mod group;
mod skeleton;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use netd_netlink::conntrack::{self, Tuple};
use netd_netlink::nft::{self, Deafness, Element, Family, Others, Request};
use netd_netlink::{NetlinkError, Socket};

use crate::object::{Flow, Key, Object, Objects, Part, Profile, Step};
use crate::seam::KernelError;
use batch::Batch;
use group::Group;
pub(crate) use skeleton::MARK;
pub use skeleton::policy::{LOG_GROUP, LOGGED_ALLOW, LOGGED_AUDIT, LOGGED_DENY};

/// The tables of one instance, and the socket that owns them.
#[derive(Debug)]
pub(super) struct Ruleset {
    table: String,
    link_prefix: String,
    flags: u32,
    has_destroy: bool,
    writer: Group,
    /// A dump and a transaction cannot share a socket while the dump runs.
    reader: Mutex<Socket>,
    /// All of conntrack takes long to read: nobody else waits for that.
    flows: Mutex<Socket>,
    deafness: OnceLock<Deafness>,
}

const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];
/// Of IPv4 and of IPv6.
const ICMP: [u8; 2] = [1, 58];
/// Requests that make too many notices; one has up to 500 elements.
const MANY: usize = 20;
/// What is looked for may be taken away by another before it is deleted; then it is looked for again.
const LOOKS: usize = 4;

impl Ruleset {
    /// Takes over the tables that a netd of this instance left behind.
    ///
    /// # Errors
    /// The kernel's; `EPERM` where the tables belong to a process that lives.
    pub(super) fn open(instance: &str, link_prefix: &str) -> io::Result<Self> {
        let mut writer = Socket::open_netfilter()?;
        let flags = owner_flags(&mut writer);
        let has_destroy = has_destroy(&mut writer);
        let mut reader = Socket::open_netfilter()?;
        for family in FAMILIES {
            if exists(&mut reader, family, instance).map_err(io::Error::other)? {
                adopt(&mut writer, family, instance, flags)?;
            }
        }
        Ok(Self {
            table: instance.to_owned(),
            link_prefix: link_prefix.to_owned(),
            flags,
            has_destroy,
            writer: Group::new(writer),
            reader: Mutex::new(reader),
            flows: Mutex::new(Socket::open_netfilter()?),
            deafness: OnceLock::new(),
        })
    }

    /// Hears what others do to their tables, but not while this makes much of its own.
    pub(super) fn others(&self) -> io::Result<Others> {
        let (others, deafness) = Others::with_deafness(&self.table)?;
        // Of several, the first is spared.
        drop(self.deafness.set(deafness));
        Ok(others)
    }

    /// Takes the steps that are the ruleset's, all in one transaction, but for the parts of profiles that are new: nothing
    /// leads to them yet, and they stand before what will. A set of ranges begins to find what a transaction added only when
    /// all of it is carried out, later than other sets do (`nft_pipapo_commit`, Linux 6.1 to 6.18): a connection that began
    /// in between was refused, on a busy machine after every sixth change. What takes the place of other parts of its profile
    /// cannot stand before they go.
    pub(super) fn apply(&self, steps: &[Step]) -> Result<(), KernelError> {
        let goes = |step: &Step| if let Step::Delete(Key::Span(part)) = step { Some(part.profile) } else { None };
        let going: BTreeSet<Profile> = steps.iter().filter_map(goes).collect();
        let is_ahead = |step: &Step| matches!(step, Step::Create(Key::Span(part), _) if !going.contains(&part.profile));
        if !steps.iter().any(is_ahead) {
            return self.apply_at_once(steps);
        }
        let (ahead, rest): (Vec<Step>, Vec<Step>) = steps.iter().cloned().partition(is_ahead);
        let is_made_anew = steps.iter().any(|step| *step.key() == Key::Ruleset);
        if rest.is_empty() || is_made_anew {
            return self.apply_at_once(steps);
        }
        self.apply_at_once(&ahead)?;
        self.apply_at_once(&rest).inspect_err(|_| {
            // Their profile's number may mean something else the next time.
            let back: Vec<Step> = ahead.iter().map(|step| Step::Delete(step.key().clone())).collect();
            drop(self.apply_at_once(&back));
        })
    }

    fn apply_at_once(&self, steps: &[Step]) -> Result<(), KernelError> {
        self.lie_apart(steps)?;
        let mut done = self.commit(steps);
        for _ in 1..LOOKS {
            if self.has_destroy || !done.as_ref().is_err_and(is_of_the_absent) {
                break;
            }
            done = self.commit(steps);
        }
        match done {
            // Where the table is absent, so is all that was in it.
            Err(_) if steps.iter().all(|step| matches!(step, Step::Delete(_))) && self.is_absent() => Ok(()),
            done => done.map_err(|error| KernelError::Refused {
                action: format!("change nftables table {}", self.table),
                source: io::Error::other(error),
            }),
        }
    }

    fn commit(&self, steps: &[Step]) -> Result<(), NetlinkError> {
        let mut changes = Batch::default();
        for run in steps.chunk_by(stands_with) {
            match run {
                [step] if *step.key() == Key::Ruleset => self.take(step, &mut changes)?,
                run => take(run, &mut changes),
            }
        }
        let requests = changes.requests(&self.table, |set, list| self.without(set, list))?;
        match self.deafness.get().filter(|_| requests.len() > MANY) {
            Some(deafness) => deafness.during(|| self.writer.commit(requests)),
            None => self.writer.commit(requests),
        }
    }

    fn is_absent(&self) -> bool {
        exists(&mut self.reader(), Family::Inet, &self.table).is_ok_and(|exists| !exists)
    }

    /// A step of the ruleset itself.
    fn take(&self, step: &Step, changes: &mut Batch) -> Result<(), NetlinkError> {
        match step {
            // One that stands already keeps its elements.
            Step::Create(..) if self.read_mark(&mut self.reader())? == Some(*MARK) => {}
            Step::Create(..) | Step::Replace(..) => changes.extend(self.rebuild()?),
            Step::Delete(_) => changes.extend(self.demolish()?),
        }
        Ok(())
    }

    /// Takes elements away, present or not. A kernel that cannot say so adds those of a set first, in the same transaction;
    /// those of a map cannot be added without their values, and are looked for.
    fn without(&self, set: &str, list: &[Element]) -> Result<Vec<Request>, NetlinkError> {
        let family = skeleton::family(set);
        if self.has_destroy {
            return Ok(nft::destroy_elements(family, &self.table, set, list));
        }
        if !skeleton::is_map(set) {
            let mut requests = nft::elements(family, &self.table, set, list);
            requests.extend(nft::delete_elements(family, &self.table, set, list));
            return Ok(requests);
        }
        let mut present = Vec::new();
        for element in list {
            if self.has(set, element)? {
                present.push(element.clone());
            }
        }
        Ok(nft::delete_elements(family, &self.table, set, &present))
    }

    fn has(&self, set: &str, element: &Element) -> Result<bool, NetlinkError> {
        let request = nft::get_element(skeleton::family(set), &self.table, set, element);
        found(self.reader().read_netfilter(&request, true))
    }

    /// What stands there goes in the same transaction, so that no packet meets neither the old nor the new.
    fn rebuild(&self) -> Result<Vec<Request>, NetlinkError> {
        let mut requests = self.demolish()?;
        requests.extend(skeleton::requests(&self.table, &self.link_prefix, self.flags));
        Ok(requests)
    }

    fn demolish(&self) -> Result<Vec<Request>, NetlinkError> {
        let mut reader = self.reader();
        let mut requests = Vec::new();
        for family in FAMILIES {
            if exists(&mut reader, family, &self.table)? {
                requests.push(nft::delete_table(family, &self.table));
            }
        }
        Ok(requests)
    }

    /// Drops connections from conntrack. None to drop is success, and so is a kernel that cannot.
    pub(super) fn forget(&self, requests: &[Request]) -> Result<(), KernelError> {
        let mut reader = self.reader();
        requests.iter().try_for_each(|request| forget(&mut reader, request)).map_err(|error| KernelError::Refused {
            action: "drop connections from conntrack".to_owned(),
            source: io::Error::other(error),
        })
    }

    /// Who takes parts of the tables away. `None` where nobody but netd can.
    pub(super) fn changes(&self) -> io::Result<Option<nft::Changes>> {
        if self.flags == 0 { nft::Changes::open(&self.table).map(Some) } else { Ok(None) }
    }

    /// The flows that have one of these addresses at an end.
    pub(super) fn flows(&self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, KernelError> {
        let mut flows = Vec::new();
        let mut keep = |body: &[u8]| flows.extend(flow(body).filter(|flow| touches(flow, addresses)));
        let mut socket = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        socket.each_netfilter(&conntrack::all(), &mut keep).map_err(|error| failed("read conntrack", error))?;
        drop(socket);
        Ok(flows)
    }

    /// First the set, then conntrack: a packet in between is still one of a known flow.
    pub(super) fn cut(&self, flows: &[Flow]) -> Result<(), KernelError> {
        let mut changes = Batch::default();
        changes.add(flows.iter().map(elements::cut));
        let requests = changes.requests(&self.table, |set, list| self.without(set, list));
        let cut = requests.and_then(|requests| self.writer.commit(requests));
        cut.map_err(|error| failed("cut flows", error))?;
        self.forget(&flows.iter().map(|flow| conntrack::forget_flow(&original(flow))).collect::<Vec<_>>())
    }

    /// How many packets have found each pair, and each part of a profile.
    pub(super) fn counts(&self) -> Result<BTreeMap<Key, u64>, NetlinkError> {
        let mut reader = self.reader();
        let mut counts = BTreeMap::new();
        for set in skeleton::PAIRS.into_iter().chain(skeleton::ANY).chain([skeleton::PROFILES]) {
            let bodies = reader.read_netfilter(&nft::get_elements(Family::Inet, &self.table, set), false)?;
            let found: Vec<_> = bodies.iter().flat_map(|body| nft::read_counted(body)).collect();
            counts.extend(elements::counts(set, &found));
        }
        Ok(counts)
    }

    /// Our objects in the kernel, but for those of policies.
    pub(super) fn observe(&self) -> Result<Objects, NetlinkError> {
        self.read(|set| !skeleton::is_of_policy(set))
    }

    /// The objects of policies in the kernel.
    pub(super) fn observe_policies(&self) -> Result<Objects, NetlinkError> {
        self.read(skeleton::is_of_policy)
    }

    /// Where the skeleton is not the one desired, its elements do not count: they go with it.
    fn read(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Objects, NetlinkError> {
        let mut reader = self.reader();
        let mut objects = Objects::new();
        let Some(mark) = self.read_mark(&mut reader)? else { return Ok(objects) };
        objects.insert(Key::Ruleset, Object::Ruleset(mark));
        if mark != *MARK {
            return Ok(objects);
        }
        for (family, set) in skeleton::SETS.into_iter().filter(|(_, set)| is_wanted(set.name)) {
            let bodies = reader.read_netfilter(&nft::get_elements(family, &self.table, set.name), false)?;
            let found: Vec<Element> = bodies.iter().flat_map(|body| nft::read_element(body)).collect();
            elements::read(&mut objects, set.name, &found);
        }
        Ok(objects)
    }

    /// The mark of the ruleset that stands.
    pub(super) fn mark(&self) -> Result<Option<u64>, NetlinkError> {
        self.read_mark(&mut self.reader())
    }

    /// The mark in the kernel; one that lost rules has a mark that nobody desires.
    fn read_mark(&self, reader: &mut Socket) -> Result<Option<u64>, NetlinkError> {
        if !exists(reader, Family::Inet, &self.table)? {
            return Ok(None);
        }
        let tables = reader.read_netfilter(&nft::get_table(Family::Inet, &self.table), true)?;
        let mark = tables.first().and_then(|body| nft::read_userdata(body)).and_then(skeleton::read_mark);
        let mut rules = 0;
        for family in FAMILIES {
            if exists(reader, family, &self.table)? {
                rules += reader.read_netfilter(&nft::get_rules(family, &self.table), false)?.len();
            }
        }
        Ok(Some(mark.filter(|_| rules == skeleton::rule_count()).unwrap_or_default()))
    }

    fn reader(&self) -> MutexGuard<'_, Socket> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First what goes, then what comes: so many elements, in two requests a set. The ruleset itself stands alone.
fn stands_with(one: &Step, next: &Step) -> bool {
    let is_alone = [one, next].iter().any(|step| *step.key() == Key::Ruleset);
    let goes = |step: &Step| matches!(step, Step::Delete(_));
    !is_alone && (goes(one) || !goes(next))
}

fn take(run: &[Step], changes: &mut Batch) {
    // A map's element with another value is refused: the old one goes in the same transaction.
    changes.remove(run.iter().filter_map(|step| match step {
        Step::Replace(key, _) | Step::Delete(key) => Some(elements::of(key, &Object::Set)),
        Step::Create(..) => None,
    }));
    changes.add(run.iter().filter_map(|step| match step {
        Step::Create(key, object) | Step::Replace(key, object) => Some(elements::of(key, object)),
        Step::Delete(_) => None,
    }));
}

fn failed(action: &str, error: NetlinkError) -> KernelError {
    KernelError::Refused { action: action.to_owned(), source: io::Error::other(error) }
}

fn flow(body: &[u8]) -> Option<Flow> {
    let (there, back) = conntrack::read(body)?;
    let (address, port) = back.source;
    // An answer of ICMP has another type than the question, and its identifier at the source.
    let port = if ICMP.contains(&there.protocol) { there.destination.1 } else { port };
    Some(Flow { protocol: there.protocol, opener: there.source, answerer: (address, port), asked: there.destination })
}

fn original(flow: &Flow) -> Tuple {
    Tuple { protocol: flow.protocol, source: flow.opener, destination: flow.asked }
}

fn touches(flow: &Flow, addresses: &BTreeSet<IpAddr>) -> bool {
    [flow.opener, flow.answerer, flow.asked].iter().any(|(address, _)| addresses.contains(address))
}

/// Whether this key's objects are made by [`Ruleset::apply`]. Forwarding is, as far as its guard goes.
/// The objects that elements of the set `set` stand for. Any elements are safe, and any set.
#[must_use]
pub fn read_elements(set: &str, found: &[Element]) -> Objects {
    let mut objects = Objects::new();
    elements::read(&mut objects, set, found);
    objects
}

pub(super) fn is_ours(step: &Step) -> bool {
    let part = step.key().part();
    part == Part::Skeleton || part.is_elements()
}

/// A kernel that does not drop by a filter is asked for the connections, and told each.
fn forget(socket: &mut Socket, request: &Request) -> Result<(), NetlinkError> {
    match socket.command(request) {
        Err(NetlinkError::Refused { source, .. }) if is_no_filter(&source) => {
            let bodies = match socket.read_netfilter(&conntrack::list(request), false) {
                // An address that could never be given again would be worse than a connection that is remembered until it
                // times out.
                Err(NetlinkError::Refused { source, .. }) if is_no_filter(&source) => return Ok(()),
                listed => listed?,
            };
            let each = bodies.iter().filter_map(|body| conntrack::forget_one(request, body));
            each.into_iter().try_for_each(|one| found(socket.command(&one)).map(drop))
        }
        done => found(done).map(drop),
    }
}

fn is_no_filter(refusal: &io::Error) -> bool {
    matches!(refusal.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn exists(reader: &mut Socket, family: Family, table: &str) -> Result<bool, NetlinkError> {
    found(reader.read_netfilter(&nft::get_table(family, table), true))
}

fn found<T>(answer: Result<T, NetlinkError>) -> Result<bool, NetlinkError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if is_of_the_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_of_the_absent(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::Refused { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
}

fn adopt(writer: &mut Socket, family: Family, table: &str, flags: u32) -> io::Result<()> {
    match writer.transact(&[nft::table(family, table, flags, &[])]) {
        Ok(()) => Ok(()),
        // Made where the kernel had no owners: it stays open to all until it is made anew.
        Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        Err(NetlinkError::Refused { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    }
}

const PROBE: &str = "netd-probe";

/// Owned and persistent where the kernel has it; a kernel that has not refuses the flags.
fn owner_flags(socket: &mut Socket) -> u32 {
    let flags = nft::TABLE_OWNER | nft::TABLE_PERSIST;
    let probe = [nft::table(Family::Inet, PROBE, flags, &[]), nft::delete_table(Family::Inet, PROBE)];
    if socket.transact(&probe).is_ok() { flags } else { 0 }
}

/// Whether the kernel takes away what may be absent: it refuses an unknown request with `EINVAL`, this one for lack of a table.
fn has_destroy(socket: &mut Socket) -> bool {
    let element = Element { key: vec![0; 4], ..Element::default() };
    match socket.transact(&nft::destroy_elements(Family::Inet, PROBE, PROBE, &[element])) {
        Ok(()) => true,
        Err(NetlinkError::Refused { source, .. }) => source.raw_os_error() == Some(libc::ENOENT),
        Err(_) => false,
    }
}
