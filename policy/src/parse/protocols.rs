//! The traffic of cluster-wide rules: `protocols` (v1alpha2) and `ports` (v1alpha1).

use crate::flow::Protocol;
use crate::model::{Port, PortRange};

use super::fields::{Field, Object};
use super::names;
use super::namespaced::transport;

const KEYS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

/// An item of `protocols`.
pub(super) fn protocol(field: &Field<'_>) -> Option<Port> {
    let object = field.object()?;
    let mut found: Vec<Option<Port>> = Vec::new();
    for (key, protocol) in KEYS {
        found.extend(object.find(key).map(|field| destination(&field, protocol)));
    }
    found.extend(
        object.find("destinationNamedPort").map(|field| names::port_name(&field).map(|name| Port::Named(None, name))),
    );
    object.close();
    field.only(found, "tcp, udp, sctp or destinationNamedPort")
}

fn destination(field: &Field<'_>, protocol: Protocol) -> Option<Port> {
    let object = field.object()?;
    let port = match object.find("destinationPort") {
        None => Some(PortRange::of(protocol, 0, u16::MAX)),
        Some(field) => number_or_range(&field, protocol),
    };
    object.close();
    port.map(Port::Range)
}

fn number_or_range(field: &Field<'_>, protocol: Protocol) -> Option<PortRange> {
    let object = field.object()?;
    let number =
        object.find("number").map(|field| field.number(1, u16::MAX).map(|port| PortRange::of(protocol, port, port)));
    let range = object.find("range").map(|field| field.object().and_then(|object| range(object, protocol)));
    object.close();
    field.only(number.into_iter().chain(range).collect(), "number or range")
}

fn range(object: Object<'_>, protocol: Protocol) -> Option<PortRange> {
    let first = object.require("start", "ranges have start and end").and_then(|field| field.number(1, u16::MAX));
    let least = first.unwrap_or(1).saturating_add(1);
    let last = object.require("end", "ranges have start and end").and_then(|field| field.number(least, u16::MAX));
    object.close();
    Some(PortRange::of(protocol, first?, last?))
}

/// An item of `ports`.
pub(super) fn admin_port(field: &Field<'_>) -> Option<Port> {
    let object = field.object()?;
    let number = object.find("portNumber").map(|field| field.object().and_then(port_number));
    let named = object.find("namedPort").map(|field| names::port_name(&field).map(|name| Port::Named(None, name)));
    let ranged = object.find("portRange").map(|field| {
        let object = field.object()?;
        let protocol = transport(&object);
        range(object, protocol?).map(Port::Range)
    });
    object.close();
    field.only(number.into_iter().chain(named).chain(ranged).collect(), "portNumber, namedPort or portRange")
}

fn port_number(object: Object<'_>) -> Option<Port> {
    let protocol = transport(&object);
    let port = object.require("port", "give the port's number").and_then(|field| field.number(1, u16::MAX));
    object.close();
    let port = port?;
    Some(Port::Range(PortRange::of(protocol?, port, port)))
}
