//! What a person types so that a firewall lets containers pass. Pure.

use std::collections::BTreeSet;

use netd_kernel::{Firewall, Obstacle, OurLink, Passage};

/// Empty where nothing is to be done.
pub(super) fn of(obstacle: &Obstacle, links: &BTreeSet<OurLink>) -> String {
    let by_hand = || commands(obstacle, links).join("; ");
    let or_netd =
        |commands: &str| format!("`{commands}`, or coexist = \"insert\" in netd.toml: netd does it and keeps it so");
    match (&obstacle.passage, obstacle.firewall) {
        (Passage::Open, _) => String::new(),
        (Passage::Closed, Firewall::Other) => format!("`{}`", by_hand()),
        (Passage::Closed, Firewall::Docker | Firewall::Ufw | Firewall::Firewalld) => or_netd(&by_hand()),
        (Passage::Refused(why), _) => format!("`{}`; netd may not write there ({why})", by_hand()),
    }
}

fn commands(obstacle: &Obstacle, links: &BTreeSet<OurLink>) -> Vec<String> {
    let iptables = if obstacle.family == "ip6" { "ip6tables" } else { "iptables" };
    let is_iptables =
        obstacle.family != "inet" && (obstacle.table.as_str(), obstacle.chain.as_str()) == ("filter", "FORWARD");
    match obstacle.firewall {
        Firewall::Ufw => each(links, "+", |link| {
            vec![format!("ufw route allow in on {link}"), format!("ufw route allow out on {link}")]
        }),
        Firewall::Firewalld => {
            let zone = |link: &str| vec![format!("firewall-cmd --permanent --zone=trusted --add-interface={link}")];
            let mut commands = each(links, "+", zone);
            commands.push("firewall-cmd --reload".to_owned());
            commands
        }
        Firewall::Docker => each(links, "+", |link| by_iptables(iptables, "DOCKER-USER", link)),
        Firewall::Other if is_iptables => each(links, "+", |link| by_iptables(iptables, "FORWARD", link)),
        Firewall::Other => {
            let chain = format!("nft insert rule {} {} {}", obstacle.family, obstacle.table, obstacle.chain);
            each(links, "*", |link| {
                vec![
                    format!("{chain} iifname \"{link}\" accept"),
                    format!("{chain} oifname \"{link}\" ct state established,related accept"),
                    format!("{chain} oifname \"{link}\" ct status dnat accept"),
                ]
            })
        }
    }
}

fn by_iptables(program: &str, chain: &str, link: &str) -> Vec<String> {
    let known = "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT";
    vec![
        format!("{program} -I {chain} -i {link} -j ACCEPT"),
        format!("{program} -I {chain} -o {link} {known} -j ACCEPT"),
    ]
}

fn each(links: &BTreeSet<OurLink>, wildcard: &str, commands: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let name = |link: &OurLink| match link {
        OurLink::Bridge(name) => name.to_string(),
        OurLink::Beginning(prefix) => format!("{prefix}{wildcard}"),
    };
    links.iter().flat_map(|link| commands(&name(link))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use netd_config::LinkName;
    use netd_kernel::{Firewall, Obstacle, OurLink, Passage};

    use super::of;

    fn remedy(firewall: Firewall, (family, table, chain): (&'static str, &str, &str), passage: Passage) -> String {
        let links =
            BTreeSet::from([OurLink::Bridge(LinkName::new("br0").unwrap()), OurLink::Beginning("nd".to_owned())]);
        let obstacle = Obstacle { firewall, family, table: table.to_owned(), chain: chain.to_owned(), passage };
        of(&obstacle, &links)
    }

    #[test]
    fn each_firewall_is_told_in_its_own_words() {
        let filter = ("ip6", "filter", "FORWARD");
        let netd = ", or coexist = \"insert\" in netd.toml: netd does it and keeps it so";
        let known = "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT";
        let by_iptables = |chain: &str| {
            format!(
                "`ip6tables -I {chain} -i br0 -j ACCEPT; ip6tables -I {chain} -o br0 {known}; \
                 ip6tables -I {chain} -i nd+ -j ACCEPT; ip6tables -I {chain} -o nd+ {known}`"
            )
        };
        let ufw = "`ufw route allow in on br0; ufw route allow out on br0; ufw route allow in on nd+; ufw route allow out on nd+`";
        let firewalld = "`firewall-cmd --permanent --zone=trusted --add-interface=br0; \
                         firewall-cmd --permanent --zone=trusted --add-interface=nd+; firewall-cmd --reload`";
        let table = [
            (Firewall::Docker, filter, by_iptables("DOCKER-USER") + netd),
            (Firewall::Other, filter, by_iptables("FORWARD")),
            (Firewall::Ufw, filter, ufw.to_owned() + netd),
            (Firewall::Firewalld, ("inet", "firewalld", "filter_FORWARD"), firewalld.to_owned() + netd),
        ];
        for (firewall, place, expected) in table {
            assert_eq!(remedy(firewall, place, Passage::Closed), expected);
            assert_eq!(remedy(firewall, place, Passage::Open), "");
        }
        let own = remedy(Firewall::Other, ("inet", "mine", "fwd"), Passage::Closed);
        assert!(own.starts_with("`nft insert rule inet mine fwd iifname \"br0\" accept; nft insert"), "{own}");
        assert!(own.contains("oifname \"nd*\" ct status dnat accept"), "{own}");
        let refused = Passage::Refused("Operation not permitted".to_owned());
        let refused = remedy(Firewall::Firewalld, ("inet", "firewalld", "filter_FORWARD"), refused);
        assert_eq!(refused, format!("{firewalld}; netd may not write there (Operation not permitted)"));
    }
}
