//! What the kernel looks up: maps by address, by class and by profile. How they come about is `compile.rs`; how they are
//! read is `interpret.rs`.

use std::net::IpAddr;

use crate::model::PolicyName;

use super::table::{Change, Table};

/// Addresses that everything in force treats alike. 0 is the world: nothing selects it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

/// A [`Profile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(pub u32);

/// A policy, as logs and counters know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u32);

impl ClassId {
    /// The class of every address that nothing selects.
    pub const WORLD: Self = Self(0);
}

/// The next number that is free. A kernel's rules have the greatest two for themselves, and 0 is the world's.
pub(super) fn next_number(last: &mut u32, is_taken: impl Fn(u32) -> bool) -> u32 {
    const GREATEST: u32 = u32::MAX - 2;
    loop {
        *last = if *last < GREATEST { *last + 1 } else { 1 };
        if !is_taken(*last) {
            return *last;
        }
    }
}

/// Addresses from `first` to `last`, both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

/// The answers for one subject class and one peer class: sorted and disjoint, and one for every packet there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Profile(pub Vec<Entry>);

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// IP protocol numbers, first and last.
    pub protocols: (u8, u8),
    /// Destination ports, or ICMP type and code (see [`crate::Traffic`]), first and last.
    pub ports: (u16, u16),
    /// The answer.
    pub answer: Answer,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// Whether it passes.
    pub allowed: bool,
    /// The policy that says so; `None` if none has anything to say.
    pub by: Option<PolicyId>,
    /// Whether to log it.
    pub log: bool,
    /// The policy in audit mode that would deny it: log and count.
    pub audit: Option<PolicyId>,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $key:ty => $value:ty,)*) => {
        /// Everything that a node's kernel looks up.
        #[derive(Debug, Clone, Default)]
        pub struct Compiled {
            $($(#[$doc])* pub $name: Table<$key, $value>,)*
        }

        /// What makes the kernel's copy of [`Compiled`] current, in one transaction.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Delta {
            $($(#[$doc])* pub $name: Change<$key, $value>,)*
        }

        impl Compiled {
            pub(super) fn take_change(&mut self) -> Delta {
                Delta { $($name: self.$name.take_change(),)* }
            }

            pub(super) fn change_from(&mut self, old: &Self) -> Delta {
                Delta { $($name: self.$name.change_from(&old.$name),)* }
            }
        }

        impl Delta {
            /// How many elements it touches.
            #[must_use]
            pub fn len(&self) -> usize {
                0 $(+ self.$name.len())*
            }

            /// Whether it changes nothing.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    };
}

tables! {
    /// The class of each address of a sandbox or a node, where it differs from that of `blocks`.
    classes: IpAddr => ClassId,
    /// The class of all other addresses, by disjoint ranges; none is the world.
    blocks: AddressRange => ClassId,
    /// Addresses of this node's sandboxes that policies select for ingress. Nobody else pays.
    ingress: IpAddr => (),
    /// Addresses of this node's sandboxes that policies select for egress.
    egress: IpAddr => (),
    /// Source and destination of one sandbox: it may always talk to itself.
    itself: (IpAddr, IpAddr) => (),
    /// Subject class and peer class, for packets to the subject.
    pairs_in: (ClassId, ClassId) => ProfileId,
    /// Subject class and peer class, for packets from the subject.
    pairs_out: (ClassId, ClassId) => ProfileId,
    /// Subject class, for packets to it from peers without a pair.
    any_in: ClassId => ProfileId,
    /// Subject class, for packets from it to peers without a pair.
    any_out: ClassId => ProfileId,
    /// Subject class, for packets to it from its own node (output hook). None allows.
    host_in: ClassId => ProfileId,
    /// Subject class, for packets from it to its own node (input hook). None allows.
    host_out: ClassId => ProfileId,
    /// The profiles.
    profiles: ProfileId => Profile,
    /// The policies' names, for logs.
    policies: PolicyId => PolicyName,
}
