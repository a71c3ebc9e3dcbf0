//! The expressions of a rule, as the kernel's virtual machine takes them: each reads or writes registers, or ends the rule.

use crate::attributes::Attributes;

/// A register of 4 octets; longer values take those that follow. `Register(0)` is `NFT_REG32_00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    /// `NFT_REG32_00`: the kernel's number of the first 4-octet register.
    const FIRST: u32 = 8;

    fn number(self) -> u32 {
        Self::FIRST + self.0
    }
}

/// What a packet's metadata holds (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The protocol above Ethernet, 2 octets.
    Protocol = 1,
    /// Name of the interface it came in by, 16 octets.
    InputName = 6,
    /// Name of the interface it leaves by, 16 octets.
    OutputName = 7,
    /// The netfilter family, 1 octet.
    Family = 15,
    /// The transport protocol, 1 octet.
    Transport = 16,
    /// Whom the frame is for, 1 octet: this host, all, many, or another (`PACKET_HOST` to `PACKET_OTHERHOST`).
    PacketKind = 19,
    /// What kind of link it came in by (`bridge`, `veth`), 16 octets.
    InputKind = 26,
}

/// Where a base chain is hooked (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// To this node.
    Input = 1,
    /// Through this node.
    Forward = 2,
    /// From this node.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `NF_DROP`.
    Drop,
    /// `NF_ACCEPT`: ends this chain's hook only; other tables are still asked.
    Accept,
    /// Goes through the chain, and on behind this rule unless that ends it.
    Jump(&'static str),
    /// Goes through the chain, and does not come back to this one.
    Goto(&'static str),
    /// Goes back to where this chain was jumped to from.
    Return,
}

impl Verdict {
    pub(super) fn data(self) -> Attributes {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5_i32, None),
        };
        verdict_data(code, chain)
    }
}

fn verdict_data(code: i32, chain: Option<&str>) -> Attributes {
    let code = Attributes::new().number(1, code.cast_unsigned());
    let body = if let Some(chain) = chain { code.text(2, chain) } else { code };
    Attributes::new().nested(2, &body)
}

/// The answer to a packet that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset.
    Reset,
    /// ICMP or ICMPv6: communication administratively prohibited.
    Prohibited,
}

/// Bits of a connection's state and status, as `ct` loads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `ct state established`.
    Established,
    /// `ct state related`: an error of a known connection, or one that a helper has seen announced.
    Related,
    /// `ct state established,related`.
    Known,
    /// `ct status dnat` (`IPS_DST_NAT`).
    DestinationChanged,
    /// `ct state untracked`.
    Untracked,
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression(Attributes);

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

impl Expression {
    fn new(name: &str, data: &Attributes) -> Self {
        Self(Attributes::new().text(1, name).nested(2, data))
    }

    pub(super) fn attributes(&self) -> &Attributes {
        &self.0
    }

    /// Loads metadata.
    #[must_use]
    pub fn meta(key: Meta, to: Register) -> Self {
        Self::new("meta", &Attributes::new().number(1, to.number()).number(2, key as u32))
    }

    /// Loads octets of the network header.
    #[must_use]
    pub fn network(offset: u32, length: u32, to: Register) -> Self {
        Self::payload(NETWORK, offset, length, to)
    }

    /// Loads octets of the transport header.
    #[must_use]
    pub fn transport(offset: u32, length: u32, to: Register) -> Self {
        Self::payload(TRANSPORT, offset, length, to)
    }

    fn payload(base: u32, offset: u32, length: u32, to: Register) -> Self {
        let data = Attributes::new().number(1, to.number()).number(2, base).number(3, offset).number(4, length);
        Self::new("payload", &data)
    }

    /// Goes on if the register holds these octets.
    #[must_use]
    pub fn is(from: Register, value: &[u8]) -> Self {
        Self::compare(from, EQUAL, value)
    }

    /// Goes on if the register does not hold these octets.
    #[must_use]
    pub fn is_not(from: Register, value: &[u8]) -> Self {
        Self::compare(from, UNEQUAL, value)
    }

    fn compare(from: Register, operator: u32, value: &[u8]) -> Self {
        let value = Attributes::new().bytes(1, value);
        Self::new("cmp", &Attributes::new().number(1, from.number()).number(2, operator).nested(3, &value))
    }

    /// Keeps only the bits of `mask` in a register of 4 octets.
    #[must_use]
    pub fn mask(register: Register, mask: [u8; 4]) -> Self {
        Self::put(register, mask, [0; 4])
    }

    /// Puts `value` into the bits of the octets from a register on that `kept` leaves out. Only those bits of `value` may be set.
    #[must_use]
    pub fn put<const OCTETS: usize>(register: Register, kept: [u8; OCTETS], value: [u8; OCTETS]) -> Self {
        let data = Attributes::new()
            .number(1, register.number())
            .number(2, register.number())
            .number(3, u32::try_from(OCTETS).unwrap_or(u32::MAX))
            .nested(4, &Attributes::new().bytes(1, &kept))
            .nested(5, &Attributes::new().bytes(1, &value));
        Self::new("bitwise", &data)
    }

    /// Goes on if the set has what stands from the register on.
    #[must_use]
    pub fn in_set(set: &str, from: Register) -> Self {
        Self::new("lookup", &Attributes::new().text(1, set).number(2, from.number()))
    }

    /// Goes on if the set lacks what stands from the register on.
    #[must_use]
    pub fn not_in_set(set: &str, from: Register) -> Self {
        const INVERTED: u32 = 1;
        Self::new("lookup", &Attributes::new().text(1, set).number(2, from.number()).number(5, INVERTED))
    }

    /// Loads the map's value for what stands from the register on; goes on only if there is one.
    #[must_use]
    pub fn map(map: &str, from: Register, to: Register) -> Self {
        Self::new("lookup", &Attributes::new().text(1, map).number(2, from.number()).number(3, to.number()))
    }

    /// Goes on if the packet is for no address of this node (`fib daddr type != local`).
    #[must_use]
    pub fn destined_elsewhere(scratch: Register) -> [Self; 2] {
        const ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        let data = Attributes::new().number(1, scratch.number()).number(2, ADDRESS_TYPE).number(3, BY_DESTINATION);
        [Self::new("fib", &data), Self::is_not(scratch, &LOCAL.to_ne_bytes())]
    }

    /// Loads the name of the interface by which a route leads to the sender, 16 octets (`fib saddr oifname`). Where none
    /// does, or the sender is this node, the first 4 are zero, and the others anything.
    #[must_use]
    pub fn way_back_name(to: Register) -> Self {
        const OUTGOING_NAME: u32 = 2;
        const BY_SOURCE: u32 = 1;
        Self::new("fib", &Attributes::new().number(1, to.number()).number(2, OUTGOING_NAME).number(3, BY_SOURCE))
    }

    /// Goes on if a route leads back to the sender by where the packet came from (`fib saddr . iif oif exists`).
    #[must_use]
    pub fn way_back(scratch: Register) -> [Self; 2] {
        const OUTGOING: u32 = 1;
        const BY_SOURCE: u32 = 1;
        const BY_INPUT: u32 = 8;
        const PRESENT: u32 = 32;
        let flags = BY_SOURCE | BY_INPUT | PRESENT;
        let data = Attributes::new().number(1, scratch.number()).number(2, OUTGOING).number(3, flags);
        [Self::new("fib", &data), Self::is_not(scratch, &[0; 4])]
    }

    /// Goes on if the connection has one of the bits of `status`.
    #[must_use]
    pub fn connection(status: Status, scratch: Register) -> [Self; 3] {
        const STATE: u32 = 0;
        const STATUS: u32 = 2;
        const ESTABLISHED: u32 = 2;
        const RELATED: u32 = 4;
        const UNTRACKED: u32 = 1 << 6;
        const DESTINATION_NAT: u32 = 1 << 5;
        let (key, bits) = match status {
            Status::Established => (STATE, ESTABLISHED),
            Status::Related => (STATE, RELATED),
            Status::Known => (STATE, ESTABLISHED | RELATED),
            Status::DestinationChanged => (STATUS, DESTINATION_NAT),
            Status::Untracked => (STATE, UNTRACKED),
        };
        let load = Self::new("ct", &Attributes::new().number(1, scratch.number()).number(2, key));
        [load, Self::mask(scratch, bits.to_ne_bytes()), Self::is_not(scratch, &[0; 4])]
    }

    /// Loads the address, of `family` (2 or 10), that the connection was opened to, before any translation (`ct original ip
    /// daddr`).
    #[must_use]
    pub fn asked_address(family: u8, to: Register) -> Self {
        const DESTINATION4: u32 = 20;
        const DESTINATION6: u32 = 22;
        Self::original(if family == 2 { DESTINATION4 } else { DESTINATION6 }, to)
    }

    /// Loads the port that the connection was opened to, before any translation (`ct original proto-dst`).
    #[must_use]
    pub fn asked_port(to: Register) -> Self {
        const DESTINATION_PORT: u32 = 12;
        Self::original(DESTINATION_PORT, to)
    }

    fn original(key: u32, to: Register) -> Self {
        const ORIGINAL: u8 = 0;
        Self::new("ct", &Attributes::new().number(1, to.number()).number(2, key).bytes(3, &[ORIGINAL]))
    }

    /// Writes the register into the network header, as an address: the transport's checksum follows, and with `checksum`
    /// (where it stands) the header's own.
    #[must_use]
    pub fn put_address(from: Register, offset: u32, length: u32, checksum: Option<u32>) -> Self {
        const PSEUDO_HEADER: u32 = 1;
        let data = Self::write(from, NETWORK, offset, length, checksum).number(8, PSEUDO_HEADER);
        Self::new("payload", &data)
    }

    /// Writes the register into the transport header, whose checksum stands at `checksum`.
    #[must_use]
    pub fn put_transport(from: Register, offset: u32, length: u32, checksum: u32) -> Self {
        Self::new("payload", &Self::write(from, TRANSPORT, offset, length, Some(checksum)))
    }

    fn write(from: Register, base: u32, offset: u32, length: u32, checksum: Option<u32>) -> Attributes {
        const INTERNET: u32 = 1;
        let data = Attributes::new().number(2, base).number(3, offset).number(4, length).number(5, from.number());
        match checksum {
            Some(place) => data.number(6, INTERNET).number(7, place),
            None => data,
        }
    }

    /// The connection is not tracked (`notrack`); before conntrack sees it.
    #[must_use]
    pub fn untrack() -> Self {
        Self::new("notrack", &Attributes::new())
    }

    /// Sends the packet to the address and port in the registers; `family` is that of the address (2 or 10).
    #[must_use]
    pub fn destination_nat(family: u32, address: Register, port: Register) -> Self {
        const DESTINATION: u32 = 1;
        let data = Attributes::new()
            .number(1, DESTINATION)
            .number(2, family)
            .number(3, address.number())
            .number(5, port.number());
        Self::new("nat", &data)
    }

    /// Gives the packet the address of the interface it leaves by.
    #[must_use]
    pub fn masquerade() -> Self {
        Self::new("masq", &Attributes::new())
    }

    /// Makes the largest segment that TCP announces no larger than the routes there and back take it
    /// (`tcp option maxseg size set rt mtu`). It never becomes larger.
    #[must_use]
    pub fn clamp_segments(scratch: Register) -> [Self; 3] {
        const LARGEST_BY_ROUTE: u32 = 3;
        const TO_NETWORK_ORDER: u32 = 1;
        const LENGTH: u32 = 2;
        // `NFT_EXTHDR_OP_TCPOPT`; the option (RFC 9293, 3.7.1), and where its value is.
        const TCP_OPTION: u32 = 1;
        const MAXIMUM_SEGMENT_SIZE: u8 = 2;
        const OFFSET: u32 = 2;
        let register = scratch.number();
        let load = Attributes::new().number(1, register).number(2, LARGEST_BY_ROUTE);
        let order = Attributes::new().number(1, register).number(2, register).number(3, TO_NETWORK_ORDER);
        let option = Attributes::new().bytes(2, &[MAXIMUM_SEGMENT_SIZE]).number(3, OFFSET).number(4, LENGTH);
        [
            Self::new("rt", &load),
            Self::new("byteorder", &order.number(4, LENGTH).number(5, LENGTH)),
            Self::new("exthdr", &option.number(6, TCP_OPTION).number(7, register)),
        ]
    }

    /// Ends the rule.
    #[must_use]
    pub fn verdict(verdict: Verdict) -> Self {
        Self::new("immediate", &Attributes::new().number(1, 0).nested(2, &verdict.data()))
    }

    /// Goes through the chain, and on behind this rule unless that ends it: as [`Verdict::Jump`], to a chain whose name is
    /// found out at run time.
    #[must_use]
    pub fn jump(chain: &str) -> Self {
        Self::new("immediate", &Attributes::new().number(1, 0).nested(2, &verdict_data(-3, Some(chain))))
    }

    /// Goes on if the connection is known or its destination was changed, in the words of iptables (`-m conntrack --ctstate
    /// RELATED,ESTABLISHED,DNAT`): of a table that iptables made, it cannot read nf_tables' own.
    #[must_use]
    pub fn conntrack_match() -> Self {
        // `struct xt_conntrack_mtinfo3` (linux/netfilter/xt_conntrack.h), as long as the kernel's alignment makes it.
        const LENGTH: usize = 168;
        const MATCHED: usize = 146;
        const STATES: usize = 150;
        const STATE: u16 = 1;
        const ESTABLISHED_RELATED_DNAT: u16 = 1 << 1 | 1 << 2 | 1 << 7;
        let mut info = [0; LENGTH];
        info[MATCHED..MATCHED + 2].copy_from_slice(&STATE.to_ne_bytes());
        info[STATES..STATES + 2].copy_from_slice(&ESTABLISHED_RELATED_DNAT.to_ne_bytes());
        Self::new("match", &Attributes::new().text(1, "conntrack").number(2, 3).bytes(3, &info))
    }

    /// Ends the rule with the map's verdict for what stands from the register on; goes on behind it if there is none.
    #[must_use]
    pub fn verdict_of(map: &str, from: Register) -> Self {
        Self::new("lookup", &Attributes::new().text(1, map).number(2, from.number()).number(3, 0))
    }

    /// Loads a constant.
    #[must_use]
    pub fn load(value: &[u8], to: Register) -> Self {
        let value = Attributes::new().bytes(1, value);
        Self::new("immediate", &Attributes::new().number(1, to.number()).nested(2, &value))
    }

    /// Loads octets of the Ethernet header.
    #[must_use]
    pub fn link(offset: u32, length: u32, to: Register) -> Self {
        Self::payload(LINK, offset, length, to)
    }

    /// Goes on if the octets in the register are in this range, both ends in it.
    #[must_use]
    pub fn in_range(from: Register, first: &[u8], last: &[u8]) -> Self {
        let (first, last) = (Attributes::new().bytes(1, first), Attributes::new().bytes(1, last));
        let data = Attributes::new().number(1, from.number()).number(2, EQUAL).nested(3, &first).nested(4, &last);
        Self::new("range", &data)
    }

    /// Counts the packets that come here.
    #[must_use]
    pub fn counter() -> Self {
        Self::new("counter", &Attributes::new())
    }

    /// Goes on while there are no more than `a_second`, beyond the first `burst`.
    #[must_use]
    pub fn limit(a_second: u64, burst: u32) -> Self {
        const SECOND: u64 = 1;
        let data = Attributes::new().bytes(1, &a_second.to_be_bytes()).bytes(2, &SECOND.to_be_bytes()).number(3, burst);
        Self::new("limit", &data)
    }

    /// Gives the head of the packet to whoever listens to the group (NFLOG), with a text.
    #[must_use]
    pub fn log(group: u16, prefix: &str) -> Self {
        const OCTETS: u32 = 128;
        let data = Attributes::new().bytes(1, &group.to_be_bytes()).text(2, prefix).number(3, OCTETS);
        Self::new("log", &data)
    }

    /// Drops the packet and answers its sender.
    #[must_use]
    pub fn refuse(refusal: Refusal) -> Self {
        const TCP_RESET: u32 = 1;
        const UNREACHABLE: u32 = 2;
        const PROHIBITED: u8 = 3;
        let data = match refusal {
            Refusal::Reset => Attributes::new().number(1, TCP_RESET),
            Refusal::Prohibited => Attributes::new().number(1, UNREACHABLE).bytes(2, &[PROHIBITED]),
        };
        Self::new("reject", &data)
    }
}
