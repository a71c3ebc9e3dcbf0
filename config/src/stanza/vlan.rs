//! The keys of a bridge stanza that are about VLANs.

use crate::json::{Object, quote};
use crate::name::LinkName;

/// The last VLAN there can be (IEEE 802.1Q).
const LAST: u16 = 4_094;

/// Which VLANs the port of a bridge carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BridgeVlans {
    /// Frames without a tag belong to it (`vlan`); `None`: no VLAN is named.
    pub own: Option<u16>,
    /// Carried with their tags, from one to another (`vlanTrunk`).
    pub trunk: Vec<(u16, u16)>,
    /// Frames of VLAN 1 leave by the port too, without a tag (`preserveDefaultVlan`).
    pub keeps_default: bool,
    /// The link that the gateway of `own` is on; `None`: there is no gateway, or it is on the bridge.
    pub gateway_link: Option<LinkName>,
}

impl BridgeVlans {
    /// Whether the bridge has to tell VLANs apart.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.own.is_some() || !self.trunk.is_empty()
    }
}

pub(super) fn vlans(root: &Object<'_>, bridge: &str, is_gateway: bool) -> BridgeVlans {
    let own = own(root);
    let gateway_link = own.filter(|_| is_gateway).and_then(|vlan| {
        let name = LinkName::new(format!("{bridge}.{vlan}"));
        name.map_err(|error| {
            root.wrong("bridge", format!("{error}; the VLAN's gateway gets that name, so shorten the bridge's"))
        })
        .ok()
    });
    let trunk = root.objects("vlanTrunk").iter().flat_map(trunk).collect();
    BridgeVlans { own, trunk, keeps_default: root.flag("preserveDefaultVlan"), gateway_link }
}

fn own(root: &Object<'_>) -> Option<u16> {
    let value = root.value("vlan")?;
    let vlan = value.as_u64().and_then(|vlan| u16::try_from(vlan).ok()).filter(|vlan| *vlan <= LAST);
    if vlan.is_none() {
        let wrong = format!("invalid VLAN ID {} (must be between 0 and {LAST}); 0 is none", quote(value));
        root.wrong("vlan", wrong);
    }
    vlan.filter(|vlan| *vlan != 0)
}

/// One entry: an ID, a range, or both.
fn trunk(entry: &Object<'_>) -> Vec<(u16, u16)> {
    let id = |key: &'static str, what: &str| {
        let value = entry.value(key)?;
        let id = value.as_u64().and_then(|id| u16::try_from(id).ok()).filter(|id| (1..=LAST).contains(id));
        if id.is_none() {
            entry.wrong(key, format!("incorrect trunk {what} parameter {}; use 1 to {LAST}", quote(value)));
        }
        id
    };
    let is_there = |key| entry.value(key).is_some();
    let range = match (is_there("minID"), is_there("maxID")) {
        (true, true) => {
            let range = id("minID", "minID").zip(id("maxID", "maxID"));
            if range.is_some_and(|(first, last)| first > last) {
                entry.wrong("minID", "minID is greater than maxID in trunk parameter; exchange them");
            }
            range
        }
        (true, false) => both(entry, "maxID"),
        (false, true) => both(entry, "minID"),
        (false, false) => None,
    };
    let single = id("id", "id").map(|id| (id, id));
    range.into_iter().chain(single).collect()
}

fn both<T>(entry: &Object<'_>, missing: &str) -> Option<T> {
    entry.wrong(
        missing,
        format!("minID and maxID should be configured simultaneously, {missing} is missing; add it, or use id"),
    );
    None
}
