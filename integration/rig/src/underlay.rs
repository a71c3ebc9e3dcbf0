//! What lies outside of the nodes: a bridge that they hang on, and a web server further away. Their inside is `node`'s.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::{Place, Web};

/// Where the outside's web server answers, behind the underlay's router.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
/// The same over IPv6.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x80);

/// The network that joins nodes. It knows no route to the addresses of their sandboxes.
#[derive(Debug)]
pub struct Underlay {
    /// Where its router and the web server stand.
    pub place: Place,
    _web: Web,
}

impl Underlay {
    /// Makes it, with the web server `outside` on port 80.
    ///
    /// # Errors
    /// This process is not root, or `ip` is missing.
    pub fn new() -> Result<Self> {
        let place = Place::fresh()?;
        place
            .ip(&format!(
                "link add ul type bridge\n\
                 addr add 192.0.2.1/24 dev ul\n\
                 addr add 2001:db8::1/64 dev ul nodad\n\
                 addr add {OUTSIDE_V4}/32 dev lo\n\
                 addr add {OUTSIDE_V6}/128 dev lo nodad\n\
                 link set ul up\n"
            ))
            .context("cannot make the underlay")?;
        let web = Web::start(&place, "outside", 80)?;
        Ok(Self { place, _web: web })
    }

    /// Hangs node `number` on the bridge.
    pub(crate) fn attach(&self, number: u8, node: &Place) -> Result<()> {
        self.place.ip(&format!(
            "link add n{number} type veth peer name eth0 netns {}\nlink set n{number} master ul up\n",
            node.path()
        ))?;
        node.ip(&format!(
            "addr add {}/24 dev eth0\n\
             addr add {}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 192.0.2.1\n\
             route add ::/0 via 2001:db8::1\n",
            node_v4(number),
            node_v6(number)
        ))?;
        Ok(())
    }
}

pub(crate) fn node_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + number)
}

pub(crate) fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10 + u16::from(number))
}
