//! Lists that may be longer than a message: as much of one as goes into an answer.

use protobuf::Message;

/// Octets. What alone is longer still goes into a message, of which 4 MiB are the most.
pub(super) const LONGEST: u64 = 2 << 20;

/// As many as are no longer than this together, and one at least; and the number of the one behind them, if there is one.
pub(super) fn page<T: Message>(mut all: impl Iterator<Item = T>, from: u32, longest: u64) -> (Vec<T>, u32) {
    let (mut taken, mut length) = (Vec::new(), 0);
    for one in all.by_ref() {
        length += size(&one);
        taken.push(one);
        if length >= longest {
            break;
        }
    }
    let behind = from.saturating_add(u32::try_from(taken.len()).unwrap_or(u32::MAX));
    let is_last = all.next().is_none();
    (taken, if is_last { 0 } else { behind })
}

/// In a message: with what tells its length.
pub(super) fn size(message: &impl Message) -> u64 {
    const AHEAD: u64 = 6;
    message.compute_size() + AHEAD
}

#[cfg(test)]
mod tests {
    use netd_api::v1;
    use protobuf::Message;

    use super::{LONGEST, page};

    /// 10,000, of which each is some 450 octets with its text: more than ttrpc's 4 MiB of a message.
    #[test]
    fn many_policies_go_into_several_messages() {
        let policy = |number: u32| {
            let mut policy = v1::Policy::new();
            policy.file = format!("/var/lib/netd/policies/networkpolicy_default_policy-{number}.yaml");
            policy.text = "x".repeat(400);
            policy.line = number;
            policy
        };
        let whole: Vec<_> = (0..10_000).map(policy).collect();
        let all = v1::PoliciesResponse { policies: whole.clone(), ..v1::PoliciesResponse::new() };
        assert!(all.compute_size() > 4 << 20);
        let (mut from, mut got, mut pages) = (0, Vec::new(), 0);
        loop {
            let (policies, next) = page(whole.iter().skip(from as usize).cloned(), from, LONGEST);
            got.extend(policies.clone());
            let answer = v1::PoliciesResponse { policies, next, ..v1::PoliciesResponse::new() };
            assert!(answer.compute_size() < 3 << 20);
            pages += 1;
            if next == 0 {
                break;
            }
            assert!(next > from);
            from = next;
        }
        assert_eq!((got, pages), (whole.clone(), 3));
        assert_eq!(page(whole.iter().cloned(), 0, u64::MAX), (whole, 0));
        assert_eq!(page(std::iter::empty::<v1::Policy>(), 7, 1), (Vec::new(), 0));
    }
}
