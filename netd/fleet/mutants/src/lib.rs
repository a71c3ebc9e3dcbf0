//! The protocol of `netd-fleet` from the same sources, with any one of its rules broken. For tests alone.

mod table;

pub use self::table::{DEEP, MUTANTS, Mutant};

use std::cell::Cell;

thread_local! {
    static BROKEN: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Breaks the rule of this place in [`MUTANTS`], for this thread; or none.
pub fn break_rule(number: Option<usize>) {
    BROKEN.set(number);
}

pub(crate) fn broken() -> Option<usize> {
    BROKEN.get()
}

mod protocol {
    #![allow(
        warnings,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        missing_debug_implementations,
        clippy::wildcard_enum_match_arm,
        clippy::use_self,
        clippy::redundant_clone,
        clippy::or_fun_call,
        clippy::manual_let_else,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        clippy::allow_attributes,
        reason = "generated from the sources of netd-fleet, which are checked there"
    )]
    include!(concat!(env!("OUT_DIR"), "/protocol.rs"));
}

use protocol::{charter, decide, identity, memory, plan, record, span, view};

pub use self::charter::{Charter, Phase, Settling, WITNESSES};
pub use self::decide::{Action, Wish, decide};
pub use self::identity::{ClaimId, FleetId, IdentityError, IncarnationId, InstanceId, NodeName, RecordId, TellingId};
pub use self::memory::{Hold, Holding, Memory};
pub use self::plan::{Plan, PlanError, Pool};
pub use self::record::{Claim, Record, Table};
pub use self::view::{Ack, Key, Txn, Value, View};
