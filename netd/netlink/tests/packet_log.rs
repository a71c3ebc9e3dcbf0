//! The packet log on the real kernel, told by a rule of `nft`'s. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;

use netd_netlink::{LoggedPacket, PacketLog};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

const GROUP: u16 = 4_711;

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

fn next(log: &PacketLog) -> LoggedPacket {
    let mut polled = [PollFd::new(log.as_fd(), PollFlags::POLLIN)];
    // Unasked, the kernel holds a packet back for a whole second.
    assert_eq!(poll(&mut polled, PollTimeout::from(900_u16)).unwrap(), 1, "nothing was logged in time");
    log.receive().unwrap().remove(0)
}

#[test]
fn what_a_rule_logs_is_heard_with_its_ends_and_its_words() {
    let node = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        run("ip", &["link", "set", "lo", "up"]);
        let rules = format!(
            "table inet test {{ chain output {{ type filter hook output priority 0; udp dport 53 log prefix \"why\" group {GROUP} drop; }}; }}"
        );
        run("nft", &[rules.as_str()]);
        let log = PacketLog::open(GROUP).unwrap();
        assert_eq!(log.receive().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        // A group has one listener.
        assert_eq!(PacketLog::open(GROUP).unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
        for (from, to) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1")] {
            let sender = UdpSocket::bind((from, 0)).unwrap();
            let port = sender.local_addr().unwrap().port();
            // Passed over: another port.
            sender.send_to(b"x", (to, 54)).unwrap();
            // Refused or not: the rule drops it.
            drop(sender.send_to(b"x", (to, 53)));
            let address = |text: &str| text.parse::<IpAddr>().unwrap();
            let expected = LoggedPacket {
                prefix: "why".to_owned(),
                input: 0,
                source: address(from),
                destination: address(to),
                protocol: 17,
                ports: Some((port, 53)),
            };
            assert_eq!(next(&log), expected);
        }
        drop(log);
        PacketLog::open(GROUP).unwrap();
    });
    node.join().unwrap();
}
