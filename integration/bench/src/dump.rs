//! What an attachment left in the kernel, as text, so that two ways to make it can be compared. What differs by chance (names of
//! host links, MACs, indices, handles, times) is masked.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::network::{BRIDGE, INTERFACE};
use crate::space::Space;

/// Keys whose values are chance: identities, counters, times.
const CHANCE: [&str; 15] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "handle",
    "valid_life_time",
    "preferred_life_time",
    "hello_timer",
    "gc_timer",
    "tcn_timer",
    "topology_change_timer",
    "root_id",
    "bridge_id",
    "designated_root",
    "designated_bridge",
    "num_tx_queues",
];
/// Of a bridge port: its number, and what follows from it or from the time since.
const PORT_CHANCE: [&str; 6] =
    ["id", "no", "designated_port", "hold_timer", "message_age_timer", "forward_delay_timer"];

/// The node's side: links, addresses, routes, bridge ports, tables, sockets.
///
/// # Errors
/// A program is missing (`iproute2`, `nftables`), or its output cannot be read.
pub fn node(space: &Space) -> Result<String> {
    let mut text = String::new();
    for line in [
        "ip -d -j link show",
        "ip -j address show",
        "ip -4 -j route show table all",
        "ip -6 -j route show table all",
        "bridge -d -j link show",
    ] {
        text += &json(space, line)?;
    }
    for family in ["inet", "bridge"] {
        text += &section(
            &format!("nft list table {family} netd"),
            &rules(&space.output(&format!("nft list table {family} netd"))?),
        );
    }
    text += &section("ss -lntH", &sorted(&space.output("ss -lntH")?));
    text += &sysctls(space, BRIDGE)?;
    for link in host_links(space)? {
        text += &sysctls(space, &link)?;
    }
    Ok(text)
}

/// The sandbox's side.
///
/// # Errors
/// As for [`node`].
pub fn sandbox(space: &Space) -> Result<String> {
    let mut text = String::new();
    for line in
        ["ip -d -j link show", "ip -j address show", "ip -4 -j route show table all", "ip -6 -j route show table all"]
    {
        text += &json(space, line)?;
    }
    for name in ["lo", INTERFACE] {
        text += &sysctls(space, name)?;
    }
    Ok(text)
}

fn host_links(space: &Space) -> Result<Vec<String>> {
    space.run(|| {
        let folders = fs::read_dir("/proc/sys/net/ipv4/conf")?.flatten();
        let names = folders.map(|folder| folder.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| is_host_link(name)).collect())
    })
}

fn is_host_link(name: &str) -> bool {
    name.strip_prefix("nd").is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_hexdigit()))
}

fn section(title: &str, body: &str) -> String {
    format!("== {title}\n{}\n", body.trim_end())
}

/// The output of an `ip` command, one value a line, in an order of its own.
fn json(space: &Space, line: &str) -> Result<String> {
    let mut value = serde_json::from_str(&space.output(line)?).with_context(|| format!("`{line}` printed no JSON"))?;
    mask(&mut value);
    let rows = value.as_array().cloned().unwrap_or_default();
    let rows = rows.iter().map(serde_json::to_string_pretty).collect::<Result<Vec<_>, _>>()?;
    let mut rows = rows;
    rows.sort();
    Ok(section(line, &rows.join("\n")))
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !CHANCE.contains(&key.as_str()) && !PORT_CHANCE.contains(&key.as_str()));
            object.values_mut().for_each(mask);
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        Value::String(text) => *text = masked(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A word that is a MAC, a link-local address made of one, one of our links, or its mark.
fn masked(text: &str) -> String {
    let is_mac = text.len() == 17 && text.split(':').filter(|part| part.len() == 2).count() == 6;
    if is_mac && text != "00:00:00:00:00:00" && text != "ff:ff:ff:ff:ff:ff" {
        "MAC".to_owned()
    } else if text.starts_with("fe80::") && !text.starts_with("fe80::/") && text.len() > 6 {
        "LINK-LOCAL".to_owned()
    } else if is_host_link(text) {
        "HOST-LINK".to_owned()
    } else if let Some((_, interface)) = text.strip_prefix("netd:").and_then(|rest| rest.split_once(':')) {
        format!("netd:SANDBOX:{interface}")
    } else {
        text.to_owned()
    }
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// A table as `nft` shows it; the owner's process is chance, and so is the order of a set's elements.
fn rules(text: &str) -> String {
    let mut lines = Vec::new();
    let mut elements: Option<Vec<String>> = None;
    for line in text.lines().map(|line| line.split(" # ").next().unwrap_or(line).trim()) {
        let begins = line.strip_prefix("elements = {");
        if begins.is_none() && elements.is_none() {
            lines.push(line.to_owned());
            continue;
        }
        let inner = begins.unwrap_or(line);
        let list = elements.get_or_insert_default();
        let parts = inner.trim_end_matches('}').split(',').map(str::trim).filter(|part| !part.is_empty());
        list.extend(parts.map(masked_element));
        if inner.ends_with('}') {
            let mut done = elements.take().unwrap_or_default();
            done.sort();
            lines.push(format!("elements = {}", done.join(", ")));
        }
    }
    lines.join("\n")
}

/// An element may name a host link of ours.
fn masked_element(element: &str) -> String {
    let part = |part: &str| match part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(name) if is_host_link(name) => "HOST-LINK".to_owned(),
        _ => part.to_owned(),
    };
    element.split(" . ").map(part).collect::<Vec<_>>().join(" . ")
}

/// All switches of an interface, and forwarding. What the kernel counts or draws itself is left out.
fn sysctls(space: &Space, interface: &str) -> Result<String> {
    space.run(|| {
        let mut lines = Vec::new();
        for family in ["ipv4", "ipv6"] {
            for folder in
                [format!("/proc/sys/net/{family}/conf/{interface}"), format!("/proc/sys/net/{family}/conf/all")]
            {
                // An interface that is not there has none.
                for entry in fs::read_dir(&folder).into_iter().flatten() {
                    let path = entry?.path();
                    // A secret that was never set cannot be read.
                    let Ok(value) = fs::read_to_string(&path) else { continue };
                    let shown = path.display().to_string().replace(interface, &masked(interface));
                    lines.push(format!("{shown} = {}", value.trim()));
                }
            }
        }
        lines.sort();
        Ok(section(&format!("sysctls of {}", masked(interface)), &lines.join("\n")))
    })
}

#[cfg(test)]
mod tests {
    use super::{masked, rules};

    #[test]
    fn what_is_chance_is_masked_and_nothing_else() {
        let table = [
            ("aa:bb:cc:dd:ee:01", "MAC"),
            ("ff:ff:ff:ff:ff:ff", "ff:ff:ff:ff:ff:ff"),
            ("fe80::1234:56ff:fe78:9abc", "LINK-LOCAL"),
            ("fe80::/64", "fe80::/64"),
            ("nd1f", "HOST-LINK"),
            ("nerdctl0", "nerdctl0"),
            ("netd:1a2b:eth0", "netd:SANDBOX:eth0"),
            ("10.4.0.2", "10.4.0.2"),
        ];
        for (text, expected) in table {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn the_order_of_elements_is_chance_and_their_values_are_not() {
        let one = "set a {\n\telements = { 2,\n\t\t     1 : 3 }\n}";
        let other = "set a {\n\telements = { 1 : 3, 2 }\n}";
        assert_eq!(rules(one), rules(other));
        assert_ne!(rules(one), rules("set a {\n\telements = { 1 : 4, 2 }\n}"));
    }
}
