//! A healthy node, and one thing wrong at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::{MANY_PORTS, NEEDED, all};
use crate::doctor::containerd::{Containerd, OURS, Settings, settings};
use crate::doctor::facts::{Answers, Facts, Nerdctl, Plugins, Reservation, Socket};
use crate::doctor::firewall::{Firewalls, chains};
use crate::doctor::fleet::{self, Fleet};
use crate::doctor::kernel::{FEATURES, Kernel};
use crate::doctor::neighbours::{self, Family, Table};
use crate::doctor::sysctl::{Sysctls, ra_uplinks};
use crate::doctor::{Finding, Level, tunnels};
use crate::model::{Attachment, Firewall, Network, Port, Sandbox, Status};

/// A node without fault.
pub(crate) fn healthy() -> Facts {
    let trials = FEATURES.iter().map(|feature| (feature.name, true)).collect();
    let attachment = Attachment { bridge: "netd0".to_owned(), ..Attachment::default() };
    Facts {
        kernel: Kernel {
            release: "6.12.1-amd64".to_owned(),
            modules: ["vxlan", "ipip"].map(str::to_owned).into(),
            trials,
            ..Kernel::default()
        },
        sysctls: Sysctls {
            ip_forward: Some(1),
            ipv6_forwarding: Some(1),
            rp_filter: BTreeMap::from([("all".to_owned(), 1), ("netd0".to_owned(), 2)]),
            accept_ra: BTreeMap::from([("eth0".to_owned(), 2)]),
            ra_uplinks: BTreeSet::from(["eth0".to_owned()]),
            ipv6_off: Some(BTreeMap::from([("all".to_owned(), 0), ("netd0".to_owned(), 0)])),
            bridge_nf: Some(1),
        },
        neighbours: vec![Table { family: Family::V4, most: 1_024, entries: 20, fulls: 0 }],
        netd: Ok(Answers {
            status: Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                instance: "netd".to_owned(),
                attachments: 1,
                ..Status::default()
            },
            networks: Ok(vec![in_range("10.4.0.0/24")]),
            sandboxes: vec![Sandbox { id: "a".to_owned(), attachments: vec![attachment], ..Sandbox::default() }],
        }),
        socket: ("/run/netd/netd.sock".to_owned(), Some(Socket { is_socket: true, owner: 0, mode: 0o755 })),
        containerd: Containerd {
            socket: true,
            version: Some("2.4.2".to_owned()),
            settings: Ok(Settings {
                bin_dirs: Some(vec![OURS.to_owned(), "/opt/cni/bin".to_owned()]),
                internal_loopback: Some(true),
                ..Settings::default()
            }),
            newer_import: None,
            nri_socket: true,
            hook: true,
        },
        nerdctl: Nerdctl { installed: true, cni_path: Some(OURS.to_owned()), error: None },
        plugins: Plugins { ours: NEEDED.map(str::to_owned).into(), others: vec!["/usr/lib/cni"] },
        firewalls: Firewalls { chains: Some(Vec::new()), ..Firewalls::default() },
        admin: Vec::new(),
        fleet: Fleet { heard: BTreeSet::from(["nd-vxlan".to_owned()]), ..in_fleet("vxlan") },
        reservations: Vec::new(),
        tasks: BTreeSet::new(),
    }
}

fn in_range(subnet: &str) -> Network {
    let subnets = vec![subnet.to_owned(), "fd6e:6574:6400::/64".to_owned()];
    Network { name: "netd".to_owned(), subnets, ..Network::default() }
}

fn in_fleet(encapsulation: &str) -> Fleet {
    let text = format!(
        "[fleet]\npools = ['10.4.0.0/16']\nencapsulation = '{encapsulation}'\n[fleet.nodes]\nn1 = {{ address = '192.0.2.1', blocks = ['10.4.1.0/24'] }}\n"
    );
    Fleet {
        settings: netd_config::NodeConfig::parse("netd.toml", &text).map_err(|error| error.to_string()),
        host_name: "n1".to_owned(),
        addresses: fleet::addresses(r#"[{"addr_info":[{"local":"192.0.2.1"}]},{}]"#),
        routes: fleet::routes(ROUTES),
        rules: RULES.to_owned(),
        ..Fleet::default()
    }
}

/// As `ip -j route` of Debian 12 writes it.
const ROUTES: &str = r#"[{"dst":"default","gateway":"192.0.2.254","dev":"eth0","flags":[]},
    {"dst":"10.0.0.0/8","gateway":"192.0.2.254","dev":"eth0","protocol":"static","flags":[]},
    {"type":"unreachable","dst":"10.4.0.0/16","protocol":"110","metric":4294967295,"flags":[]},
    {"dst":"10.4.1.0/24","dev":"netd0","protocol":"kernel","scope":"link","prefsrc":"10.4.1.1","flags":[]},
    {"dst":"10.4.2.0/24","gateway":"192.0.2.2","dev":"nd-vxlan","protocol":"110","flags":["onlink"]}]"#;

/// netd's own rule lets nobody else's firewall pass it.
const RULES: &str = "table inet netd {\n\tchain raw {\n\t\tudp dport 4789 accept\n\t}\n}\n";

#[test]
fn fleets() {
    let settings = |facts: &mut Facts| facts.fleet.settings = Err("line 2: pools: no range".to_owned());
    assert!(finds(Level::Problem, "/etc/netd/netd.toml", settings).meaning.contains("pools: no range"));
    finds(Level::Problem, "fleet address 192.0.2.1", |facts| {
        facts.fleet.addresses = BTreeSet::from(["192.0.2.9".parse().unwrap()]);
    });
    finds(Level::Problem, "UDP port 4789", |facts| facts.fleet.is_port_taken = true);
    for (dst, to) in [("10.4.7.0/24", "10.4.7.0/24"), ("10.4.7.9", "10.4.7.9/32")] {
        let found = finds(Level::Warning, &format!("route {to}"), |facts| {
            let text = format!(r#"[{{"dst":"{dst}","dev":"docker0","protocol":"kernel"}}]"#);
            facts.fleet.routes.extend(fleet::routes(&text));
        });
        assert!(found.remedy.contains("docker0"), "{found:?}");
    }
    // A host's own network stays, whatever else is to be done.
    let remedy = |more: &str| {
        finds(Level::Warning, "route 10.4.200.0/24", |facts| {
            let text = format!(r#"[{{"dst":"10.4.200.0/24","dev":"eth0",{more}}}]"#);
            facts.fleet.routes.extend(fleet::routes(&text));
        })
        .remedy
    };
    for connected in [r#""protocol":"kernel","scope":"link","prefsrc":"10.4.200.7""#, r#""protocol":"ra""#] {
        assert!(remedy(connected).starts_with("give fleet.pools"), "{}", remedy(connected));
    }
    for made in [r#""protocol":"static""#, r#""gateway":"192.0.2.254","protocol":"kernel""#] {
        assert!(remedy(made).starts_with("take it away"), "{}", remedy(made));
    }
    finds(Level::Warning, "net.ipv4.conf.nd-vxlan.rp_filter", |facts| {
        facts.sysctls.rp_filter.insert("nd-vxlan".to_owned(), 0);
    });
    let outside = finds(Level::Warning, "fleet", |facts| {
        facts.netd.as_mut().unwrap().networks = Ok(vec![in_range("10.167.0.0/22")]);
    });
    assert!(outside.meaning.contains("lies in a pool (10.4.0.0/16)"), "{outside:?}");
    // Who is part of no fleet has none of these.
    let mut alone = healthy();
    alone.fleet = Fleet { is_port_taken: true, ..Fleet::default() };
    assert!(all(&alone).iter().all(|finding| finding.level == Level::Ok));
    assert!(all(&healthy()).iter().any(|finding| finding.object == "fleet"));
}

#[test]
fn firewalls_before_tunnels() {
    let dropping = |kind: &'static str| {
        move |facts: &mut Facts| {
            facts.fleet = in_fleet(kind);
            facts.firewalls.chains = chains(&CHAINS.replace("\"forward\"", "\"output\""));
        }
    };
    let chain = "nftables chain inet x in";
    for (kind, remedy) in [("vxlan", "UDP port 4789"), ("cross-subnet", "UDP port 4789"), ("ipip", "IP protocol 4")] {
        assert!(finds(Level::Warning, chain, dropping(kind)).remedy.contains(remedy));
    }
    finds(Level::Warning, "firewalld", |facts| {
        (facts.fleet, facts.firewalls.names) = (in_fleet("vxlan"), vec!["firewalld"]);
    });
    let let_in = |kind: &'static str, rule: &str, heard: Option<&str>| {
        let mut facts = healthy();
        dropping(kind)(&mut facts);
        facts.fleet.rules += &format!("table inet x {{\n\tchain in {{\n\t\t{rule}\n\t}}\n}}\n");
        facts.fleet.heard = heard.map(str::to_owned).into_iter().collect();
        all(&facts).iter().all(|finding| finding.level == Level::Ok)
    };
    assert!(let_in("vxlan", "udp dport { 53, 4789 } counter accept", None));
    assert!(let_in("vxlan", "ip saddr 192.0.2.0/24 accept", Some("nd-vxlan")));
    assert!(let_in("ipip", "meta l4proto ipencap counter packets 0 bytes 0 accept", None));
    assert!(let_in("direct", "", None));
    assert!(!let_in("vxlan", "udp dport 4789 drop", Some("nd-ipip")));
}

#[test]
fn kernels_without_a_fleets_tunnels() {
    let without = |mode: &str, config: &str, modules: &[&str]| {
        finds(Level::Problem, "fleet pool 10.4.0.0/16", |facts| {
            facts.fleet = in_fleet(mode);
            facts.kernel.config = Some(config.to_owned());
            facts.kernel.modules = modules.iter().map(|name| (*name).to_owned()).collect();
        })
    };
    let (vxlan, ipip) = ("CONFIG_VXLAN=y\n", "CONFIG_NET_IPIP=m\n");
    let found = without("ipip", vxlan, &[]);
    let (meaning, remedy) = (found.meaning.as_str(), found.remedy.as_str());
    assert_eq!(
        meaning,
        "needs ipip, which this kernel lacks (not in its configuration): no other node is reached there"
    );
    assert!(remedy.starts_with("give it encapsulation = \"vxlan\", which works here"), "{remedy}");
    assert!(remedy.ends_with("or boot a kernel with CONFIG_NET_IPIP"), "{remedy}");
    let found = without("cross-subnet-ipip", &(vxlan.to_owned() + ipip), &[]);
    assert!(found.meaning.contains("module ipip is not on this machine for 6.12.1-amd64"), "{found:?}");
    assert!(found.meaning.contains("share no link") && found.remedy.contains("\"cross-subnet\""), "{found:?}");
    assert!(found.remedy.contains("package of kernel modules"), "{found:?}");
    for (mode, modules, other) in [
        ("vxlan", &["ipip"][..], "\"ipip\""),
        ("cross-subnet", &["ipip"], "\"cross-subnet-ipip\""),
        ("vxlan", &[], "\"direct\""),
    ] {
        let remedy = without(mode, ipip, modules).remedy;
        assert!(remedy.starts_with(&format!("give it encapsulation = {other}")), "{remedy}");
    }
}

#[test]
fn kernels_that_say_nothing_or_lack_what_nobody_needs() {
    let unknown = finds(Level::Warning, "fleet pool 10.4.0.0/16", |facts| facts.kernel.modules.clear());
    assert!(unknown.remedy.contains("modprobe --dry-run vxlan"), "{unknown:?}");
    let mut direct = healthy();
    direct.fleet = in_fleet("direct");
    direct.kernel.config = Some(String::new());
    let found = all(&direct);
    assert!(found.iter().all(|finding| finding.level == Level::Ok));
    let tunnels = found.iter().find(|finding| finding.object == "kernel tunnels").unwrap();
    let lack = "vxlan missing (not in its configuration), ipip missing (not in its configuration)";
    assert_eq!(tunnels.meaning, lack);
}

#[test]
fn ip_in_ip_takes_no_ipv6_pools_tunnel() {
    let v6 =
        "[fleet]\npools = ['10.4.0.0/16', 'fd04::/48']\n[fleet.nodes]\nn1 = { address = '192.0.2.1', blocks = [] }\n";
    let config = netd_config::NodeConfig::parse("netd.toml", v6).unwrap().fleet;
    let kernel = Kernel { config: Some("CONFIG_NET_IPIP=y\n".to_owned()), ..Kernel::default() };
    let remedies: Vec<String> = tunnels::check(&config, &kernel).into_iter().map(|finding| finding.remedy).collect();
    assert!(remedies[0].contains("\"ipip\"") && remedies[1].contains("\"direct\""), "{remedies:?}");
}

#[test]
fn ports_of_programs() {
    let table = |port: &str, inode: &str| {
        format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n 2066: 00000000:{port} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 {inode} 2 0000000000000000 0\n"
        )
    };
    assert!(fleet::is_taken(&table("12B5", "4711"), 4_789));
    assert!(!fleet::is_taken(&table("12B5", "0"), 4_789), "the kernel's own");
    assert!(!fleet::is_taken(&table("0035", "4711"), 4_789));
}

#[test]
fn a_healthy_node_has_no_finding_to_act_on() {
    let bad: Vec<Finding> = all(&healthy()).into_iter().filter(|finding| finding.level != Level::Ok).collect();
    assert_eq!(bad, Vec::new());
}

/// What is no longer well after `harm`: exactly one finding, of this level, that speaks of `object` and has a remedy.
#[track_caller]
fn finds(level: Level, object: &str, harm: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    harm(&mut facts);
    let bad: Vec<Finding> = all(&facts).into_iter().filter(|finding| finding.level != Level::Ok).collect();
    let [finding] = bad.as_slice() else { panic!("not one finding: {bad:#?}") };
    assert_eq!((finding.level, finding.object.as_str()), (level, object), "{finding:#?}");
    assert!(!finding.remedy.is_empty() && !finding.meaning.is_empty(), "{finding:#?}");
    finding.clone()
}

#[test]
fn netd_its_socket_and_its_networks() {
    let answers = |facts: &mut Facts, change: fn(&mut Answers)| change(facts.netd.as_mut().unwrap());
    finds(Level::Problem, "netd", |facts| facts.netd = Err("there is no socket".to_owned()));
    finds(Level::Warning, "netd", |facts| answers(facts, |a| a.status.version = "0.0.9".to_owned()));
    finds(Level::Warning, "netd", |facts| answers(facts, |a| a.status.warnings = vec!["x".to_owned()]));
    finds(Level::Warning, "networks", |facts| answers(facts, |a| a.networks = Ok(Vec::new())));
    finds(Level::Warning, "networks", |facts| answers(facts, |a| a.networks = Err("netd is older".to_owned())));
    let broken = finds(Level::Problem, "network file /etc/cni/net.d/x.conflist", |facts| {
        facts.netd.as_mut().unwrap().networks = Ok(vec![Network {
            file: "/etc/cni/net.d/x.conflist".to_owned(),
            error: "mtu: not a number; write 1500".to_owned(),
            ..Network::default()
        }]);
    });
    assert!(broken.remedy.contains("write 1500"));
    let of_types = |types: &[&str]| {
        let types = types.iter().map(|&kind| kind.to_owned()).collect();
        let error = "plugins[0].type: netd does not run it".to_owned();
        vec![Network { name: "lan".to_owned(), types, error, ..Network::default() }]
    };
    finds(Level::Warning, "network lan", |facts| {
        facts.netd.as_mut().unwrap().networks = Ok(of_types(&["brigde", "portmap"]));
    });
    finds(Level::Problem, "network lan", |facts| facts.netd.as_mut().unwrap().networks = Ok(of_types(&["bridge"])));
    let mut others = healthy();
    others.netd.as_mut().unwrap().networks =
        Ok([of_types(&["macvlan", "tuning"]), vec![in_range("10.4.0.0/24")]].concat());
    assert!(all(&others).iter().all(|finding| finding.level == Level::Ok));
    assert!(all(&others).iter().any(|finding| finding.meaning.starts_with("left to other plugins (macvlan)")));
    finds(Level::Warning, "network web", |facts| {
        let unknown_keys = vec!["plugins[0].colour".to_owned()];
        facts.netd.as_mut().unwrap().networks =
            Ok(vec![Network { name: "web".to_owned(), unknown_keys, ..Network::default() }]);
    });
    let many = finds(Level::Warning, "sandbox a", |facts| {
        let ports = vec![Port::default(); MANY_PORTS + 1];
        facts.netd.as_mut().unwrap().sandboxes[0].attachments[0].ports = ports;
    });
    assert!(many.meaning.contains("publishes 257 ports: of more than 256 none is reserved"), "{many:?}");
    let path = "socket /run/netd/netd.sock";
    for socket in [
        Socket { is_socket: true, owner: 0, mode: 0o777 },
        Socket { is_socket: true, owner: 1000, mode: 0o700 },
        Socket { is_socket: false, owner: 0, mode: 0o700 },
    ] {
        finds(Level::Problem, path, |facts| facts.socket.1 = Some(socket));
    }
}

#[test]
fn kernels() {
    finds(Level::Problem, "kernel nft fib", |facts| {
        facts.kernel.trials.insert("nft fib", false);
    });
    finds(Level::Warning, "kernel 6.1.0-9-amd64", |facts| facts.kernel.release = "6.1.0-9-amd64".to_owned());
    let untried = |config: Option<&str>, modules: &[&str]| {
        let (config, modules) = (config.map(str::to_owned), modules.iter().map(|&name| name.to_owned()).collect());
        move |facts: &mut Facts| {
            facts.fleet = Fleet::default();
            facts.kernel.trials.remove("veth");
            (facts.kernel.config, facts.kernel.modules) = (config, modules);
        }
    };
    let object = "kernel veth";
    assert!(
        finds(Level::Problem, object, untried(Some("CONFIG_BRIDGE=y\n# CONFIG_VETH is not set\n"), &[]))
            .meaning
            .contains("not in its configuration")
    );
    assert!(finds(Level::Problem, object, untried(Some("CONFIG_VETH=m\n"), &["bridge"])).remedy.contains("reboot"));
    assert!(finds(Level::Warning, object, untried(None, &[])).meaning.contains("cannot tell"));
    for (config, modules) in
        [(Some("CONFIG_VETH=y\n"), &[][..]), (Some("CONFIG_VETH=m\n"), &["veth"]), (None, &["veth"])]
    {
        let mut facts = healthy();
        untried(config, modules)(&mut facts);
        assert!(all(&facts).iter().all(|finding| finding.level == Level::Ok), "{config:?} {modules:?}");
    }
    let mut old = healthy();
    old.kernel.release = "5.10.0".to_owned();
    assert!(all(&old).iter().any(|finding| finding.level == Level::Problem && finding.meaning.contains("5.14")));
}

#[test]
fn sysctls() {
    finds(Level::Problem, "net.ipv4.ip_forward", |facts| facts.sysctls.ip_forward = Some(0));
    let accept_ra = |value, forwarding| {
        move |facts: &mut Facts| {
            facts.sysctls.accept_ra.insert("eth0".to_owned(), value);
            facts.sysctls.ipv6_forwarding = Some(forwarding);
        }
    };
    finds(Level::Problem, "net.ipv6.conf.eth0.accept_ra", accept_ra(1, 1));
    finds(Level::Warning, "net.ipv6.conf.eth0.accept_ra", accept_ra(1, 0));
    // The larger value holds: `all` 1 makes an interface's 0 strict, and its 2 stays loose.
    finds(Level::Warning, "net.ipv4.conf.netd0.rp_filter", |facts| {
        facts.sysctls.rp_filter.insert("netd0".to_owned(), 0);
    });
}

#[test]
fn a_range_of_ipv6_where_there_is_none() {
    let without = finds(Level::Problem, "network netd", |facts| facts.sysctls.ipv6_off = None);
    assert!(without.remedy.starts_with("take fd6e:6574:6400::/64 and the routes of IPv6 out of"), "{without:?}");
    let off = |name: &'static str| {
        move |facts: &mut Facts| {
            facts.netd.as_mut().unwrap().networks.as_mut().unwrap()[0].bridge = "netd0".to_owned();
            facts.sysctls.ipv6_off = Some(BTreeMap::from([(name.to_owned(), 1)]));
        }
    };
    finds(Level::Problem, "net.ipv6.conf.netd0.disable_ipv6", off("netd0"));
    let mut on_the_node = healthy();
    off("all")(&mut on_the_node);
    assert!(
        all(&on_the_node).iter().any(|one| one.object == "net.ipv6.conf.all.disable_ipv6" && one.level == Level::Ok)
    );
    assert!(all(&on_the_node).iter().all(|finding| finding.level == Level::Ok));
}

#[test]
fn neighbours() {
    let object = "net.ipv4.neigh.default.gc_thresh3";
    let found = finds(Level::Problem, object, |facts| facts.neighbours[0].fulls = 3);
    assert!(found.meaning.contains("full 3 times") && found.remedy.contains("gc_thresh3=8192 and gc_thresh2=4096"));
    let since_widened = Table { family: Family::V4, most: 8_192, entries: 20, fulls: 3 };
    assert_eq!(neighbours::check(&[since_widened], 1)[0].level, Level::Ok);
    finds(Level::Warning, object, |facts| facts.neighbours[0].entries = 600);
    finds(Level::Warning, object, |facts| facts.netd.as_mut().unwrap().status.attachments = 300);
    let statistics = "entries  allocs   destroys hash_grows table_fulls\n0000028f 00028018 0002b690 00000009 0005dfed\n\
        0000028f 00028a2c 00025125 00000004 00000013\n";
    assert_eq!(neighbours::count(statistics), Some((0x28f, 0x5dfed + 0x13)));
    assert_eq!([neighbours::count(""), neighbours::count("entries table_fulls\n")], [None; 2]);
}

#[test]
fn uplinks_by_router_advertisement() {
    let zero = "0".repeat(32);
    let line = |flags: &str, name: &str| {
        format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 {flags} {name}\n")
    };
    let table =
        [line("00450003", "eth0"), line("00000003", "eth1"), line("00040001", "eth2"), "short\n".to_owned()].concat();
    assert_eq!(ra_uplinks(&table), BTreeSet::from(["eth0".to_owned()]));
}

#[test]
fn containerd() {
    let dirs = |dirs: &[&str]| {
        let dirs: Vec<String> = dirs.iter().map(|&dir| dir.to_owned()).collect();
        move |facts: &mut Facts| facts.containerd.settings.as_mut().unwrap().bin_dirs = Some(dirs)
    };
    let object = "containerd CNI bin_dirs";
    assert!(finds(Level::Problem, object, dirs(&["/opt/cni/bin", OURS])).meaning.contains("comes before"));
    finds(Level::Problem, object, dirs(&["/opt/cni/bin"]));
    finds(Level::Problem, object, |facts| facts.containerd.settings.as_mut().unwrap().bin_dirs = None);
    let both = finds(Level::Problem, object, |facts| facts.containerd.settings.as_mut().unwrap().has_both_dirs = true);
    assert!(both.remedy.contains("remove bin_dir"), "{both:?}");
    let old = finds(Level::Problem, object, |facts| {
        facts.containerd.version = Some("2.0.5".to_owned());
        dirs(&["/opt/cni/bin"])(facts);
    });
    assert!(old.remedy.starts_with("set bin_dir ="), "{old:?}");
    finds(Level::Warning, "/etc/containerd/config.toml", |facts| {
        facts.containerd.version = Some("2.2.9".to_owned());
        facts.containerd.newer_import = Some("/etc/containerd/conf.d/netd.toml".to_owned());
    });
    finds(Level::Warning, "containerd use_internal_loopback", |facts| {
        facts.containerd.settings.as_mut().unwrap().internal_loopback = None;
    });
    finds(Level::Problem, "containerd NRI", |facts| {
        facts.containerd.settings.as_mut().unwrap().nri_disabled = Some(true)
    });
    // 1.7 has NRI off and no loopback of its own.
    finds(Level::Problem, "containerd NRI", |facts| {
        facts.containerd.version = Some("1.7.35".to_owned());
        facts.containerd.settings.as_mut().unwrap().internal_loopback = None;
    });
    finds(Level::Warning, "containerd NRI", |facts| facts.containerd.nri_socket = false);
    finds(Level::Problem, "netd-hook", |facts| facts.containerd.hook = false);
    finds(Level::Problem, "/etc/containerd/config.toml", |facts| facts.containerd.settings = Err("line 1".to_owned()));
    finds(Level::Warning, "containerd 2.4.2", |facts| facts.containerd.socket = false);
    finds(Level::Warning, "containerd", |facts| {
        (facts.containerd.socket, facts.containerd.version) = (false, None);
    });
}

#[test]
fn containerd_settings_of_every_version() {
    let read = |text: &str| settings(&text.parse().unwrap());
    let shipped = read(include_str!("../../../../../packaging/containerd/netd.toml"));
    assert_eq!(shipped.bin_dirs, Some(vec![OURS.to_owned(), "/opt/cni/bin".to_owned()]));
    assert_eq!((shipped.internal_loopback, shipped.nri_disabled), (Some(true), Some(false)));
    let old = read(include_str!("../../../../../packaging/containerd/netd-1.7.toml"));
    assert_eq!((old.bin_dirs, old.nri_disabled), (Some(vec![OURS.to_owned()]), Some(false)));
    let both = "[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = '/opt/cni/bin'\nbin_dirs = ";
    assert!(read(&format!("{both}['/usr/libexec/netd/cni']")).has_both_dirs);
    assert!(!read(&format!("{both}[]")).has_both_dirs && !shipped.has_both_dirs);
    let dumped = read(&format!("{}['/opt/cni/bin']", both.replace("/opt/cni/bin", OURS)));
    assert_eq!((dumped.has_both_dirs, dumped.bin_dirs), (false, Some(vec![OURS.to_owned()])));
    assert!(read("disabled_plugins = [\"cri\"]").cri_disabled);
    assert_eq!(read("version = 3"), Settings::default());
}

#[test]
fn plugins_nerdctl_and_reservations() {
    finds(Level::Problem, OURS, |facts| {
        facts.plugins.ours.remove("portmap");
    });
    finds(Level::Warning, "/opt/cni/bin", |facts| facts.plugins.others = vec!["/opt/cni/bin"]);
    finds(Level::Problem, "nerdctl cni_path", |facts| facts.nerdctl.cni_path = None);
    finds(Level::Problem, "nerdctl cni_path", |facts| facts.nerdctl.cni_path = Some("/opt/cni/bin".to_owned()));
    finds(Level::Problem, "/etc/nerdctl/nerdctl.toml", |facts| facts.nerdctl.error = Some("line 1".to_owned()));
    let held = |file: usize, container: &str| Reservation { file: format!("f{file}"), container: container.to_owned() };
    let stale = finds(Level::Warning, "/var/lib/cni/networks", |facts| {
        facts.tasks.insert("k8s.io-t".to_owned());
        facts.reservations = (0..7).map(|file| held(file, "gone")).collect();
        facts.reservations.extend([held(8, "a"), held(9, "k8s.io-t")]);
    });
    assert!(stale.meaning.contains("7 addresses") && stale.meaning.contains("and 2 more"), "{stale:?}");
    assert!(!stale.meaning.contains("f8") && !stale.meaning.contains("f9"), "{stale:?}");
}

#[test]
fn policies_on_a_bridge_need_br_netfilter() {
    finds(Level::Warning, "br_netfilter", |facts| facts.sysctls.bridge_nf = None);
}

/// As nft 1.1 writes it.
const CHAINS: &str = r#"{"nftables": [{"metainfo": {"version": "1.1.3", "json_schema_version": 1}},
    {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
    {"chain": {"family": "ip", "table": "filter", "name": "DOCKER", "handle": 2}},
    {"chain": {"family": "inet", "table": "netd", "name": "forward", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
    {"chain": {"family": "inet", "table": "x", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}]}"#;

#[test]
fn what_netd_says_of_a_firewall_is_not_said_twice() {
    let told = |passes| Firewall {
        name: "docker".to_owned(),
        chain: "ip filter FORWARD".to_owned(),
        passes,
        remedy: if passes { String::new() } else { "`iptables -I DOCKER-USER -i br0 -j ACCEPT`".to_owned() },
    };
    let besides = |facts: &mut Facts, passes| {
        facts.firewalls.chains = chains(CHAINS);
        facts.firewalls.names = vec!["docker"];
        facts.netd.as_mut().unwrap().status.firewalls = vec![told(passes)];
    };
    let found = finds(Level::Warning, "nftables chain ip filter FORWARD", |facts| {
        besides(facts, false);
        facts.sysctls.bridge_nf = Some(0);
    });
    assert_eq!(found.remedy, told(false).remedy);
    let mut passed = healthy();
    besides(&mut passed, true);
    let bad: Vec<Finding> = all(&passed).into_iter().filter(|finding| finding.level != Level::Ok).collect();
    assert_eq!(bad, []);
    let input = all(&passed).into_iter().find(|finding| finding.object == "nftables chain inet x in");
    assert!(input.unwrap().meaning.contains("sent to this node"));
}

#[test]
fn firewalls() {
    assert_eq!(chains("no json"), None);
    let dropping = |facts: &mut Facts| facts.firewalls.chains = chains(CHAINS);
    // netd's own chain, an input chain and a chain without a hook are nobody's drop.
    finds(Level::Warning, "nftables chain ip filter FORWARD", |facts| {
        dropping(facts);
        facts.sysctls.bridge_nf = Some(0);
    });
    let mut bridged = healthy();
    dropping(&mut bridged);
    assert!(all(&bridged).iter().any(|finding| finding.object.ends_with("bridge-nf-call-iptables")));
    // What netd says of them counts; without it, who runs is suspect.
    for name in ["docker", "ufw", "firewalld"] {
        let mut facts = healthy();
        facts.firewalls.names = vec![name];
        let level = |facts: &Facts| all(facts).into_iter().find(|finding| finding.object == name).map(|one| one.level);
        assert_eq!(level(&facts), Some(Level::Ok));
        facts.netd = Err("start it".to_owned());
        assert_eq!(level(&facts), Some(Level::Warning));
    }
    finds(Level::Warning, "iptables-legacy", |facts| {
        (facts.firewalls.legacy, facts.sysctls.bridge_nf) = (true, Some(0));
    });
    finds(Level::Warning, "nftables", |facts| facts.firewalls.chains = None);
}
