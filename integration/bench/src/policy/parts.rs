//! What a packet's cost consists of: tables that have one part of netd's each, in place of it.

/// Conntrack, and one rule that asks it: the least that a firewall which knows connections has.
pub(super) const CONNTRACK: &str = "table inet part {
    chain forward { type filter hook forward priority filter; ct state established,related accept; }
}
";
/// And the hooks of address translation, with nothing to translate.
pub(super) const TRANSLATION: &str = "table inet part {
    chain prerouting { type nat hook prerouting priority dstnat; }
    chain forward { type filter hook forward priority filter; ct state established,related accept; }
    chain postrouting { type nat hook postrouting priority srcnat; }
}
";
/// Whether a route leads back to who sent it, and nothing else.
pub(super) const WAY_BACK: &str = "table inet part {
    chain prerouting { type filter hook prerouting priority raw; iifname \"nd*\" fib saddr . iif oif missing drop; }
}
";
/// One rule at a hook, that asks nothing.
pub(super) const HOOK: &str = "table inet part {
    chain forward { type filter hook forward priority filter; accept; }
}
";
/// By name in the results.
pub(super) const PARTS: [(&str, &str); 4] = [
    ("part-hook", HOOK),
    ("part-conntrack", CONNTRACK),
    ("part-conntrack-nat", TRANSLATION),
    ("part-way-back", WAY_BACK),
];
