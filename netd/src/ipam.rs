//! Which address goes to whom. Pure: no file and no clock; reservations of others come in as an argument.

mod sticky;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netd_config::{ContainerId, NetworkName, Range};
use thiserror::Error;

use crate::attachment::{AttachmentKey, Lease};
use sticky::Sticky;

/// Why no address could be leased.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// Every address of a range set is held.
    #[error(
        "cannot lease an address for {key}: no IP addresses available in range set: {ranges} ({held} leased by netd, \
         {reserved} reserved in the host-local data directory or held for other networks of the same link; `netdctl lease ls` \
         names the holders); remove containers, or give the network a larger range"
    )]
    Exhausted {
        /// Who asked.
        key: String,
        /// The set, as `start-end` pairs.
        ranges: String,
        /// Addresses of this network leased by netd.
        held: usize,
        /// Addresses that a host-local data directory reserves, or that are held for other networks of the same link.
        reserved: usize,
    },
    /// The asked-for address is somebody else's.
    #[error(
        "cannot lease {address} for {key}: it is held by {holder}; ask for another address, or remove that container"
    )]
    Held {
        /// Who asked.
        key: String,
        /// For what.
        address: IpAddr,
        /// Who holds it.
        holder: String,
    },
    /// Others still know the asked-for address as somebody else's.
    #[error(
        "cannot lease {address} for {key}: other nodes may still take it for container {container}'s and let pass what its \
         policies allow; try again in a moment (while the fleet's store is away, ask for another address)"
    )]
    SpokenFor {
        /// Who asked.
        key: String,
        /// For what.
        address: IpAddr,
        /// Whose others take it for.
        container: ContainerId,
    },
    /// The asked-for address is the gateway's.
    #[error("cannot lease {address} for {key}: requested ip {address} is subnet's gateway")]
    Gateway {
        /// Who asked.
        key: String,
        /// For what.
        address: IpAddr,
    },
    /// Asked-for addresses outside every range.
    #[error(
        "cannot lease for {key}: failed to allocate all requested IPs: {addresses} lie in no range of the network; ask for \
         addresses of its ranges (`netdctl network inspect`)"
    )]
    OutOfRange {
        /// Who asked.
        key: String,
        /// The addresses, comma-separated.
        addresses: String,
    },
}

/// All addresses held, by network.
#[derive(Debug, Default)]
pub struct Leases {
    held: BTreeMap<NetworkName, BTreeMap<IpAddr, AttachmentKey>>,
    /// The same, by holder.
    holdings: BTreeMap<AttachmentKey, Vec<IpAddr>>,
    last: BTreeMap<(NetworkName, usize), IpAddr>,
    sticky: Sticky,
    /// Whose other nodes may take an address for.
    spoken: BTreeMap<IpAddr, ContainerId>,
}

/// Addresses that somebody other than netd holds.
pub type Reserved = BTreeSet<IpAddr>;

impl Leases {
    /// Who holds `address` on `network`.
    #[must_use]
    pub fn holder(&self, network: &NetworkName, address: IpAddr) -> Option<&AttachmentKey> {
        self.held.get(network)?.get(&address)
    }

    /// What `key` holds.
    #[must_use]
    pub fn held_by(&self, key: &AttachmentKey) -> Vec<IpAddr> {
        self.holdings.get(key).cloned().unwrap_or_default()
    }

    /// Number of addresses held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.values().map(BTreeMap::len).sum()
    }

    /// Records `address` as held by `key`.
    pub fn hold(&mut self, key: &AttachmentKey, address: IpAddr) {
        let before = self.held.entry(key.network.clone()).or_default().insert(address, key.clone());
        if let Some(other) = before.filter(|before| before != key) {
            self.let_go(&other, address);
        }
        add(self.holdings.entry(key.clone()).or_default(), address);
    }

    /// Gives `address` back, if `key` holds it. It is remembered: `key` gets it again if it is still free then.
    pub fn release(&mut self, key: &AttachmentKey, address: IpAddr) {
        let Some(held) = self.held.get_mut(&key.network) else { return };
        let was_held = held.get(&address) == Some(key);
        if was_held {
            held.remove(&address);
        }
        if held.is_empty() {
            self.held.remove(&key.network);
        }
        if was_held {
            self.let_go(key, address);
            self.remember(key, address);
        }
    }

    fn let_go(&mut self, key: &AttachmentKey, address: IpAddr) {
        if let Some(holding) = self.holdings.get_mut(key) {
            holding.retain(|held| *held != address);
            if holding.is_empty() {
                self.holdings.remove(key);
            }
        }
    }

    /// Remembers that `key` held `address` last.
    pub fn remember(&mut self, key: &AttachmentKey, address: IpAddr) {
        self.sticky.remember(key, address);
    }

    /// Whose addresses are remembered, the oldest first.
    pub fn remembered(&self) -> impl Iterator<Item = (&AttachmentKey, &[IpAddr])> {
        self.sticky.iter()
    }

    /// Other nodes may take these addresses for these containers': nobody else gets them. What is returned somebody else has
    /// already.
    pub fn speak(&mut self, addresses: BTreeMap<IpAddr, ContainerId>) -> BTreeSet<IpAddr> {
        self.spoken = addresses;
        let is_anothers = |key: &AttachmentKey, address: &IpAddr| {
            self.spoken.get(address).is_some_and(|container| *container != key.container)
        };
        self.holders().filter(|(key, address)| is_anothers(key, address)).map(|(_, address)| address).collect()
    }

    /// Addresses that nobody holds, and not everybody may have.
    pub fn spoken(&self) -> impl Iterator<Item = IpAddr> {
        let is_held = |address: &IpAddr| self.held.values().any(|held| held.contains_key(address));
        self.spoken.keys().copied().filter(move |address| !is_held(address))
    }

    /// Whether `key` may have the address, as far as other nodes know whose it is.
    ///
    /// # Errors
    /// [`LeaseError::SpokenFor`].
    pub fn unspoken(&self, key: &AttachmentKey, address: IpAddr) -> Result<(), LeaseError> {
        match self.spoken.get(&address).filter(|container| **container != key.container) {
            Some(container) => {
                Err(LeaseError::SpokenFor { key: key.to_string(), address, container: container.clone() })
            }
            None => Ok(()),
        }
    }

    /// Who holds which addresses.
    pub fn holders(&self) -> impl Iterator<Item = (&AttachmentKey, IpAddr)> {
        self.held.values().flatten().map(|(address, key)| (key, *address))
    }

    /// Chooses one address from every range set and holds them all, or holds none.
    ///
    /// An address that `key` holds already (a draining attachment of its own) is preferred, then the one it held last.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing is held then.
    pub fn lease(
        &mut self,
        key: &AttachmentKey,
        sets: &[Vec<Range>],
        requested: &[IpAddr],
        reserved: &Reserved,
    ) -> Result<Vec<Lease>, LeaseError> {
        let mut chosen: Vec<Lease> = Vec::new();
        let mut cursors = Vec::new();
        let mut left: Vec<IpAddr> = requested.to_vec();
        for (index, set) in sets.iter().enumerate() {
            let wanted = left.iter().position(|ip| set.iter().any(|range| range.contains(*ip)));
            let address = match wanted {
                Some(position) => self.requested(key, set, left.remove(position), reserved)?,
                None => {
                    let known = self.own(key, set).or_else(|| self.last_of(key, set, reserved));
                    known.map_or_else(|| self.next(key, index, set, reserved), Ok)?
                }
            };
            cursors.push((index, address));
            chosen.push(lease_of(set, address));
        }
        if !left.is_empty() {
            let addresses = left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(LeaseError::OutOfRange { key: key.to_string(), addresses });
        }
        for (index, address) in cursors {
            self.hold(key, address);
            self.last.insert((key.network.clone(), index), address);
        }
        self.sticky.forget(key);
        Ok(chosen)
    }

    /// Whether [`Leases::lease`] finds an address for `key` in this set.
    #[must_use]
    pub fn has_for(&self, key: &AttachmentKey, set: &[Range], reserved: &Reserved) -> bool {
        !set.is_empty() && (self.own(key, set).is_some() || self.next(key, 0, set, reserved).is_ok())
    }

    /// Whether it finds one that `key` has, or had last.
    #[must_use]
    pub fn has_again(&self, key: &AttachmentKey, set: &[Range], reserved: &Reserved) -> bool {
        self.own(key, set).or_else(|| self.last_of(key, set, reserved)).is_some()
    }

    fn requested(
        &self,
        key: &AttachmentKey,
        set: &[Range],
        address: IpAddr,
        reserved: &Reserved,
    ) -> Result<IpAddr, LeaseError> {
        if set.iter().any(|range| range.gateway == address) {
            return Err(LeaseError::Gateway { key: key.to_string(), address });
        }
        let holder = match self.holder(&key.network, address) {
            Some(holder) if holder != key => holder.to_string(),
            None if reserved.contains(&address) => "a reservation in the host-local data directory".to_owned(),
            Some(_) | None => return self.unspoken(key, address).map(|()| address),
        };
        Err(LeaseError::Held { key: key.to_string(), address, holder })
    }

    fn own(&self, key: &AttachmentKey, set: &[Range]) -> Option<IpAddr> {
        self.holdings.get(key)?.iter().copied().find(|ip| set.iter().any(|range| range.contains(*ip)))
    }

    fn last_of(&self, key: &AttachmentKey, set: &[Range], reserved: &Reserved) -> Option<IpAddr> {
        let held = self.held.get(&key.network);
        self.sticky.of(key).find(|ip| {
            set.iter().any(|range| range.contains(*ip) && range.gateway != *ip)
                && !reserved.contains(ip)
                && !held.is_some_and(|held| held.contains_key(ip))
                && self.unspoken(key, *ip).is_ok()
        })
    }

    /// Round robin from the address given out last, as host-local does it; what somebody might come back for is the last
    /// to be given away.
    fn next(
        &self,
        key: &AttachmentKey,
        index: usize,
        set: &[Range],
        reserved: &Reserved,
    ) -> Result<IpAddr, LeaseError> {
        let held = self.held.get(&key.network);
        let free = |ip: &IpAddr| {
            !reserved.contains(ip)
                && !held.is_some_and(|held| held.contains_key(ip))
                && !set.iter().any(|range| range.gateway == *ip)
                && self.unspoken(key, *ip).is_ok()
        };
        let unwanted = |ip: &IpAddr| free(ip) && !self.sticky.is_wanted(&key.network, *ip);
        let last = self.last.get(&(key.network.clone(), index)).copied();
        let found = walk(set, last).find(unwanted).or_else(|| walk(set, last).find(free));
        found.ok_or_else(|| LeaseError::Exhausted {
            key: key.to_string(),
            ranges: set.iter().map(|r| format!("{}-{}", r.start, r.end)).collect::<Vec<_>>().join(", "),
            held: held.map_or(0, BTreeMap::len),
            reserved: reserved.iter().filter(|ip| set.iter().any(|range| range.contains(**ip))).count(),
        })
    }
}

/// All addresses of a set, from the one after `last` on and round to it.
fn walk(set: &[Range], last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let whole = |ranges: &[Range]| ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
    let found = last.and_then(|last| Some((set.iter().position(|range| range.contains(last))?, last)));
    let (spans, skipped) = match found {
        None => (whole(set), 0),
        Some((at, last)) => {
            let rest = vec![(last, set[at].end)];
            ([rest, whole(&set[at + 1..]), whole(&set[..at]), vec![(set[at].start, last)]].concat(), 1)
        }
    };
    spans.into_iter().flat_map(|(start, end)| span(start, end)).skip(skipped)
}

fn lease_of(set: &[Range], address: IpAddr) -> Lease {
    let range = set.iter().find(|range| range.contains(address));
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let prefix = range.map_or(whole, |range| range.subnet.prefix_len());
    let address = IpNet::new(address, prefix).unwrap_or_else(|_| IpNet::from(address));
    Lease { address, gateway: range.map(|range| range.gateway) }
}

/// All addresses from `start` to `end`, both included.
fn span(start: IpAddr, end: IpAddr) -> impl Iterator<Item = IpAddr> {
    let (low, high, v4) = match (start, end) {
        (IpAddr::V4(low), IpAddr::V4(high)) => (u128::from(low.to_bits()), u128::from(high.to_bits()), true),
        (IpAddr::V6(low), IpAddr::V6(high)) => (low.to_bits(), high.to_bits(), false),
        // A range never mixes families (netd-config refuses it): nothing to walk.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => (1, 0, false),
    };
    (low..=high).map(move |bits| match u32::try_from(bits) {
        Ok(bits) if v4 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        Ok(_) | Err(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    })
}

/// Most hold one address or two: a tree of its own for each would have room for eleven. `false`: it is there already.
fn add(addresses: &mut Vec<IpAddr>, address: IpAddr) -> bool {
    let Err(place) = addresses.binary_search(&address) else { return false };
    addresses.reserve_exact(1);
    addresses.insert(place, address);
    true
}

#[cfg(test)]
mod tests;
