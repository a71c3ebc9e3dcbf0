//! Other programs' tables on the real kernel, made by iptables and nft: what netd puts there, what iptables says of it, and that
//! nothing of it stays. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use netd_config::LinkName;
use netd_kernel::{
    Class, Coexistence, Firewall, Kernel, Key, LinuxKernel, Object, Obstacle, Others, OurLink, Passage, Step,
    fixed_ruleset,
};
use netd_netlink::{Socket, nft};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

fn on_a_node(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        test();
    });
    thread.join().unwrap();
}

/// Runs each line; what the last one says.
fn run(lines: &str) -> String {
    let mut said = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        said = String::from_utf8(output.stdout).unwrap();
    }
    said
}

/// As `iptables-save` has it, without counters and the time of day.
fn saved(six: bool) -> Vec<String> {
    let text = run(if six { "ip6tables-save -t filter" } else { "iptables-save -t filter" });
    let line = |line: &str| line.split(" [").next().unwrap_or(line).to_owned();
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn links(bridges: &[&str]) -> BTreeSet<OurLink> {
    let bridges = bridges.iter().map(|name| OurLink::Bridge(LinkName::new(*name).unwrap()));
    bridges.chain([OurLink::Beginning("nd".to_owned())]).collect()
}

fn told(obstacles: &[Obstacle]) -> Vec<(Firewall, &str, &Passage)> {
    obstacles.iter().map(|one| (one.firewall, one.family, &one.passage)).collect()
}

/// As dockerd 20 to 28 makes them.
const DOCKER: &str = "
    iptables -N DOCKER-USER
    iptables -A DOCKER-USER -s 203.0.113.7 -j DROP
    iptables -A DOCKER-USER -j RETURN
    iptables -I FORWARD -j DOCKER-USER
    iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables -P FORWARD DROP";

#[test]
fn iptables_reads_what_is_put_among_its_rules() {
    on_a_node(|| {
        run(DOCKER);
        let mut coexistence = Coexistence::open("netd").unwrap();
        let obstacles = coexistence.settle(Some(&links(&["br0"]))).unwrap();
        assert_eq!(told(&obstacles), [(Firewall::Docker, "ip", &Passage::Open)]);
        let lines = saved(false);
        let of = |chain: &str| -> Vec<&str> {
            let start = format!("-A {chain} ");
            lines.iter().filter_map(|line| line.strip_prefix(&start)).collect()
        };
        assert_eq!(
            of("netd-forward"),
            [
                "-i br0 -j ACCEPT",
                "-o br0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
                "-i nd+ -j ACCEPT",
                "-o nd+ -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
            ]
        );
        let [drop, jump, end] = of("DOCKER-USER")[..] else { panic!("{lines:#?}") };
        assert_eq!((drop, end), ("-s 203.0.113.7/32 -j DROP", "-j RETURN"));
        assert!(jump.starts_with("-m comment --comment \"netd: its containers, "), "{jump}");
        assert!(jump.ends_with("\" -j netd-forward"), "{jump}");
        // What is restored from iptables' own words is the same, and netd knows it again.
        run("iptables -L -n
            iptables-save | iptables-restore");
        assert_eq!(saved(false), lines);
        let restored = run("nft -a list ruleset");
        coexistence.settle(Some(&links(&["br0"]))).unwrap();
        assert_eq!(run("nft -a list ruleset"), restored);
    });
}

#[test]
fn it_is_written_once_repaired_and_taken_away_whole() {
    on_a_node(|| {
        run(DOCKER);
        run(&DOCKER.replace("iptables", "ip6tables").replace("203.0.113.7", "2001:db8::7"));
        let before = [saved(false), saved(true)];
        let mut coexistence = Coexistence::open("netd").unwrap();
        let links = links(&["br0", "br1"]);
        let open = [(Firewall::Docker, "ip", &Passage::Open), (Firewall::Docker, "ip6", &Passage::Open)];
        assert_eq!(told(&coexistence.settle(Some(&links)).unwrap()), open);
        let written = [saved(false), saved(true)];
        let handles = run("nft -a list ruleset");
        assert_eq!(told(&coexistence.settle(Some(&links)).unwrap()), open);
        assert_eq!(run("nft -a list ruleset"), handles, "nothing is written twice");
        for harm in [
            "iptables -D DOCKER-USER 2",
            "iptables -F netd-forward",
            "ip6tables -D netd-forward 1",
            "iptables -F DOCKER-USER && iptables -A DOCKER-USER -s 203.0.113.7 -j DROP && iptables -A DOCKER-USER -j RETURN",
            "iptables -I DOCKER-USER -m comment --comment 'netd: its containers, 1' -j netd-forward",
        ] {
            run(harm);
            assert_eq!(told(&coexistence.settle(Some(&links)).unwrap()), open);
            assert_eq!([saved(false), saved(true)], written, "{harm}");
        }
        let closed = [(Firewall::Docker, "ip", &Passage::Closed), (Firewall::Docker, "ip6", &Passage::Closed)];
        assert_eq!(told(&coexistence.settle(None).unwrap()), closed);
        assert_eq!([saved(false), saved(true)], before);
        // Another netd's is not ours.
        Coexistence::open("other").unwrap().settle(Some(&links)).unwrap();
        let others = saved(false);
        coexistence.settle(None).unwrap();
        assert_eq!(saved(false), others);
    });
}

/// Rules of `DOCKER-USER`; of a netd's, its name.
fn docker_user() -> Vec<String> {
    let rule = |line: String| {
        let rule = line.strip_prefix("-A DOCKER-USER ")?;
        let netd = rule.strip_prefix("-m comment --comment \"").and_then(|comment| comment.split(':').next());
        Some(netd.unwrap_or(rule).to_owned())
    };
    saved(false).into_iter().filter_map(rule).collect()
}

#[test]
fn what_people_write_behind_the_jump_comes_to_stand_ahead_of_it() {
    on_a_node(|| {
        run(DOCKER);
        run("iptables -D DOCKER-USER -j RETURN");
        let mut netds = ["netd", "other"].map(|name| Coexistence::open(name).unwrap());
        let mut settle = || {
            for netd in &mut netds {
                netd.settle(Some(&links(&["br0"]))).unwrap();
            }
        };
        settle();
        assert_eq!(docker_user(), ["-s 203.0.113.7/32 -j DROP", "netd", "other"]);
        let settled = run("nft -a list ruleset");
        settle();
        assert_eq!(run("nft -a list ruleset"), settled, "they make way for each other for ever");
        run("iptables -A DOCKER-USER -s 203.0.113.8 -j DROP");
        settle();
        assert_eq!(docker_user(), ["-s 203.0.113.7/32 -j DROP", "-s 203.0.113.8/32 -j DROP", "netd", "other"]);
        // Behind what sends every packet back they would meet none.
        run("iptables -I DOCKER-USER -j RETURN");
        settle();
        assert_eq!(docker_user()[..3], ["netd", "other", "-j RETURN"]);
    });
}

#[test]
fn without_a_drop_there_is_nothing_to_pass_and_what_was_put_there_goes() {
    on_a_node(|| {
        run(DOCKER);
        let mut coexistence = Coexistence::open("netd").unwrap();
        coexistence.settle(Some(&links(&[]))).unwrap();
        run("iptables -P FORWARD ACCEPT");
        assert_eq!(coexistence.settle(Some(&links(&[]))).unwrap(), []);
        assert!(!saved(false).iter().any(|line| line.contains("netd")));
    });
}

#[test]
fn what_nobody_known_made_is_told_and_not_touched() {
    on_a_node(|| {
        run("iptables -P FORWARD DROP
            nft add table inet mine
            nft add chain inet mine forward '{ type filter hook forward priority 0; policy drop; }'
            nft add chain inet mine input '{ type filter hook input priority 0; policy drop; }'");
        let before = run("nft list ruleset");
        let obstacles = Coexistence::open("netd").unwrap().settle(Some(&links(&["br0"]))).unwrap();
        assert_eq!(
            told(&obstacles),
            [(Firewall::Other, "inet", &Passage::Closed), (Firewall::Other, "ip", &Passage::Closed)]
        );
        assert_eq!((obstacles[0].table.as_str(), obstacles[0].chain.as_str()), ("mine", "forward"));
        assert_eq!(run("nft list ruleset"), before);
    });
}

/// As firewalld 2.1 and newer make theirs: nobody else may change it.
#[test]
fn a_table_with_an_owner_is_told_as_refused() {
    on_a_node(|| {
        let mut owner = Socket::open_netfilter().unwrap();
        let forward =
            nft::Chain { name: "filter_FORWARD", kind: nft::ChainKind::Filter, hook: nft::Hook::Forward, priority: 10 };
        owner
            .transact(&[
                nft::table(nft::Family::Inet, "firewalld", nft::TABLE_OWNER, &[]),
                nft::chain(nft::Family::Inet, "firewalld", forward),
            ])
            .unwrap();
        let obstacles = Coexistence::open("netd").unwrap().settle(Some(&links(&["br0"]))).unwrap();
        let [Obstacle { firewall: Firewall::Firewalld, passage: Passage::Refused(why), .. }] = &obstacles[..] else {
            panic!("{obstacles:?}")
        };
        assert!(why.contains("not permitted"), "{why}");
    });
}

/// nf_tables does not show what the old iptables made: there is nothing to find, and nothing is done.
#[test]
fn the_old_iptables_is_left_alone() {
    on_a_node(|| {
        run(&DOCKER.replace("iptables", "iptables-legacy"));
        let before = run("iptables-legacy -S");
        assert_eq!(Coexistence::open("netd").unwrap().settle(Some(&links(&["br0"]))).unwrap(), []);
        assert_eq!(run("iptables-legacy -S"), before);
    });
}

#[test]
fn what_others_change_is_heard_and_elements_and_our_own_tables_are_not() {
    on_a_node(|| {
        let others = Others::open("netd").unwrap();
        run("nft add table inet netd '{ set s { type mark; elements = { 1, 2 }; }; chain c { accept; }; }'
            nft delete element inet netd s '{ 1 }'
            nft delete table inet netd");
        assert!(!others.receive().unwrap());
        for line in [
            "iptables -N X",
            "iptables -A X -j RETURN",
            "iptables -P FORWARD DROP",
            "iptables -F X",
            "iptables -X X",
            "nft add table inet firewalld",
            "nft flush ruleset",
        ] {
            run(line);
            assert!(others.receive().unwrap(), "{line}");
            assert!(!others.receive().unwrap(), "{line}");
        }
    });
}

/// Both are at work at once: what others did meanwhile is looked at afterwards.
#[test]
fn while_much_is_made_nobody_is_told_of_it_and_a_change_of_others_is_not_missed() {
    on_a_node(|| {
        let kernel = LinuxKernel::new("netd", "nd").unwrap();
        let others = kernel.others().unwrap();
        let (key, fixed) = fixed_ruleset();
        let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let class = |number| (Key::Class(address(number)), Object::Class(Class(number)));
        let make = |count: u32| {
            let steps = (1..=count).map(class).map(|(key, object)| Step::Create(key, object));
            kernel.apply(&steps.collect::<Vec<_>>(), None).unwrap();
        };
        kernel.apply(&[Step::Create(key, fixed)], None).unwrap();
        others.receive().unwrap();
        make(100);
        assert!(!others.receive().unwrap());
        make(20_000);
        let ready = others.ears().map(|ear| {
            let mut polled = [PollFd::new(ear, PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::ZERO).unwrap() == 1
        });
        assert_eq!(ready, [false, true], "told of each element, or not told that it was deaf");
        assert!(others.receive().unwrap());
        assert!(!others.receive().unwrap());
        run("nft add table inet firewalld");
        assert!(others.receive().unwrap(), "deaf for ever");
    });
}
