//! Our nftables: a fixed skeleton, and objects as elements of its sets. Changes of concurrent attaches share one transaction.
//!
//! ```text
//! prerouting, output   address of this node . protocol . port ─▶ ports4, ports6, host_ports4, host_ports6 ─▶ dnat
//! raw_prerouting       from a routed link without a way back ─▶ drop
//! forward              known, dnat ─▶ accept; fenced link to another ─▶ drop; neither ours (where guarded) ─▶ drop
//! postrouting          masq4, masq6, unless it stays on its own bridge (home4, home6) or routed links ─▶ masquerade
//! ```
//!
//! A packet is looked up in hash sets by its address, port or interface: its cost does not grow with the attachments.

mod elements;
mod group;
mod skeleton;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_netlink::nft::{self, Element, Family, Request};
use netd_netlink::{NetlinkError, Socket, conntrack};

use crate::object::{Key, Object, Objects, Step};
use crate::seam::KernelError;
use group::Group;
pub(crate) use skeleton::MARK;

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
}

const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];
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
        })
    }

    /// Takes the steps that are the ruleset's, all in one transaction.
    pub(super) fn apply(&self, steps: &[Step]) -> Result<(), KernelError> {
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
        let mut requests = Vec::new();
        for step in steps {
            requests.extend(self.requests(step)?);
        }
        self.writer.commit(requests)
    }

    fn is_absent(&self) -> bool {
        exists(&mut self.reader(), Family::Inet, &self.table).is_ok_and(|exists| !exists)
    }

    fn requests(&self, step: &Step) -> Result<Vec<Request>, NetlinkError> {
        Ok(match step {
            // One that stands already keeps its elements.
            Step::Create(Key::Ruleset, _) if self.read_mark(&mut self.reader())? == Some(*MARK) => Vec::new(),
            Step::Create(Key::Ruleset, _) | Step::Replace(Key::Ruleset, _) => self.rebuild()?,
            Step::Delete(Key::Ruleset) => self.demolish()?,
            Step::Create(key, object) => self.with(key, object),
            // A map's element with another value is refused: the old one goes in the same transaction.
            Step::Replace(key, object) => {
                let mut requests = self.requests(&Step::Delete(key.clone()))?;
                requests.extend(self.with(key, object));
                requests
            }
            Step::Delete(key) => {
                let mut requests = Vec::new();
                for (set, element) in elements::of(key, &Object::Set) {
                    requests.extend(self.without(set, element)?);
                }
                requests
            }
        })
    }

    fn with(&self, key: &Key, object: &Object) -> Vec<Request> {
        let elements = elements::of(key, object).into_iter();
        elements.flat_map(|(set, element)| nft::elements(Family::Inet, &self.table, set, &[element])).collect()
    }

    /// Takes an element away, present or not. A kernel that cannot say so adds that of a set first, in the same transaction;
    /// that of a map cannot be added without its value, and is looked for.
    fn without(&self, set: &str, element: Element) -> Result<Vec<Request>, NetlinkError> {
        let list = [element];
        if self.has_destroy {
            return Ok(nft::destroy_elements(Family::Inet, &self.table, set, &list));
        }
        let mut requests = Vec::new();
        if !skeleton::is_map(set) {
            requests = nft::elements(Family::Inet, &self.table, set, &list);
        } else if !self.has(set, &list[0])? {
            return Ok(requests);
        }
        requests.extend(nft::delete_elements(Family::Inet, &self.table, set, &list));
        Ok(requests)
    }

    fn has(&self, set: &str, element: &Element) -> Result<bool, NetlinkError> {
        let request = nft::get_element(Family::Inet, &self.table, set, element);
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

    /// Our objects in the kernel. Where the skeleton is not the one desired, its elements do not count: they go with it.
    pub(super) fn observe(&self) -> Result<Objects, NetlinkError> {
        let mut reader = self.reader();
        let mut objects = Objects::new();
        let Some(mark) = self.read_mark(&mut reader)? else { return Ok(objects) };
        objects.insert(Key::Ruleset, Object::Ruleset(mark));
        if mark != *MARK {
            return Ok(objects);
        }
        for set in skeleton::SETS {
            for body in reader.read_netfilter(&nft::get_elements(Family::Inet, &self.table, set.name), false)? {
                for element in nft::read_element(&body) {
                    elements::read(&mut objects, set.name, &element);
                }
            }
        }
        Ok(objects)
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

/// Whether this key's objects are made by [`Ruleset::apply`]. Forwarding is, as far as its guard goes.
pub(super) fn is_ours(step: &Step) -> bool {
    let (Step::Create(key, _) | Step::Replace(key, _) | Step::Delete(key)) = step;
    match key {
        Key::Ruleset
        | Key::Forwarding(_)
        | Key::Admitted(_)
        | Key::Fenced(_)
        | Key::Masquerade(..)
        | Key::Published(_) => true,
        Key::Bridge(_) | Key::Veth(_) | Key::Gateway(..) | Key::Way(..) | Key::Interface(..) => false,
    }
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
    let element = Element { key: vec![0; 4], data: Vec::new() };
    match socket.transact(&nft::destroy_elements(Family::Inet, PROBE, PROBE, &[element])) {
        Ok(()) => true,
        Err(NetlinkError::Refused { source, .. }) => source.raw_os_error() == Some(libc::ENOENT),
        Err(_) => false,
    }
}
