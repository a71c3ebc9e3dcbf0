//! Many nodes as one fleet: which node owns which block of addresses, and who the peers are.
//!
//! ```text
//! netd.toml ─▶ Plan: pools, carved into blocks
//!                │
//! store ─▶ View ─┴▶ decide (pure) ─▶ Save: Memory on disk ─▶ what this node may use, with or without the store
//!            ▲                    ─▶ Commit: Txn ─┐
//!            └────────────────────────────────────┘
//! ```
//!
//! PROTOCOL.md has the protocol, its reasons and its limits. Not here: routes, tunnels, and which sandbox gets which address.

mod blocks;
mod charter;
mod decide;
mod disk;
mod etcd;
mod identity;
mod memory;
mod peers;
mod plan;
mod record;
mod sandboxes;
mod span;
mod view;

pub use self::blocks::Blocks;
pub use self::charter::{Charter, Phase, Settling, WITNESSES};
pub use self::decide::{Action, Wish, decide, lacks};
pub use self::disk::{Disk, DiskError};
pub use self::etcd::{
    CallError, EtcdSettings, Fleet, FleetError, ForeignError, SessionError, SettingsError, Status, TlsFiles,
};
pub use self::identity::{
    ClaimId, FleetId, IdentityError, IncarnationId, InstanceId, NodeName, RecordId, TellingId, TicketId,
};
pub use self::memory::{Hold, Holding, Memory};
pub use self::peers::{Discovery, Encapsulation, Fixed, FixedError, FixedNode, Lending, NodeRecord, Peers};
pub use self::plan::{Plan, PlanError, Pool};
pub use self::record::{Claim, Record, Table};
pub use self::sandboxes::{Heard, Needs, Records, SandboxRecord, Told};
pub use self::span::without;
pub use self::view::{Ack, Key, Txn, Value, View};
