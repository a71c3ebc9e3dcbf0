//! Against the real kernel, in a namespace that dies with its thread. Needs root, and fails without.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many attributes, a test wants one")]

use netd_netlink::{NetlinkError, Notice, Notices, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

/// Runs `test` on a thread of its own in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        test();
    });
    thread.join().unwrap();
}

fn bridge(name: &str) -> (RouteNetlinkMessage, u16) {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    (RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
}

fn names(socket: &mut Socket) -> Vec<String> {
    let name = |object: RouteNetlinkMessage| match object {
        RouteNetlinkMessage::NewLink(link) => link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        }),
        _ => None,
    };
    let mut names = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), name).unwrap();
    names.sort();
    names
}

#[test]
fn a_batch_is_done_when_it_says_so() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        socket.execute((0..50).map(|number| bridge(&format!("br{number:02}"))).collect()).unwrap();
        let found = names(&mut socket);
        assert_eq!(found.iter().filter(|name| name.starts_with("br")).count(), 50);
        socket.execute(Vec::new()).unwrap();
    });
}

#[test]
fn a_batch_that_is_larger_than_a_sockets_usual_room_is_carried_out() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let loopback = || {
            let mut link = LinkMessage::default();
            link.header.index = 1;
            (RouteNetlinkMessage::SetLink(link), 0)
        };
        // Some 300 KB, and the last of it has an effect.
        let batch = std::iter::repeat_with(loopback).take(9_000).chain([bridge("br0")]);
        socket.execute(batch.collect()).unwrap();
        assert!(names(&mut socket).contains(&"br0".to_owned()));
    });
}

#[test]
fn the_refused_message_is_named_and_those_behind_it_were_tried() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let error = socket.execute(vec![bridge("br0"), bridge("br0"), bridge("br1")]).unwrap_err();
        let NetlinkError::Refused { index, source, .. } = error else { panic!("{error:?}") };
        assert_eq!((index, source.raw_os_error()), (1, Some(17)), "EEXIST of the second");
        let found = names(&mut socket);
        assert!(found.contains(&"br0".to_owned()) && found.contains(&"br1".to_owned()), "{found:?}");
    });
}

/// From Linux 6.2 on.
fn tells_of_new_links() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).take(2).map(|number| number.parse().unwrap()).collect();
    numbers >= vec![6, 2]
}

#[test]
fn what_came_of_a_new_link_is_what_the_kernel_says_when_it_is_asked() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let named = |name: &str| LinkAttribute::IfName(name.to_owned());
        let mut other = LinkMessage::default();
        other.attributes.push(named("end1"));
        let mut pair = LinkMessage::default();
        let info = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other)));
        let mac = LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]);
        pair.attributes = vec![named("end0"), mac, LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), info])];
        let create = |flags| vec![(RouteNetlinkMessage::NewLink(pair.clone()), NLM_F_CREATE | NLM_F_EXCL | flags)];
        let told = socket.create_link(create(NLM_F_ECHO)).unwrap();
        let mut ask = |name: &str| {
            let mut question = LinkMessage::default();
            question.attributes.push(named(name));
            socket.link(RouteNetlinkMessage::GetLink(question)).unwrap()
        };
        let (here, there) = (ask("end0"), ask("end1"));
        assert_eq!((here.other_end, there.other_end), (Some(there.index), Some(here.index)));
        assert_eq!(told, tells_of_new_links().then_some(here));
        let refused = socket.create_link(create(NLM_F_ECHO)).unwrap_err();
        assert!(matches!(refused, NetlinkError::Refused { index: 0, .. }), "{refused:?}");
    });
}

#[test]
fn the_kernels_explanation_is_in_the_error() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("x0".to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other("nosuchkind".to_owned()))]));
        let error = socket.execute(vec![(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE)]).unwrap_err();
        assert_eq!(error.to_string(), "message 0 of the batch was refused (Unknown device type)");
    });
}

#[test]
fn a_socket_stays_in_the_namespace_it_was_opened_in() {
    in_namespace(|| {
        let mut first = Socket::open().unwrap();
        first.execute(vec![bridge("br-first")]).unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(names(&mut first).contains(&"br-first".to_owned()));
        assert!(!names(&mut Socket::open().unwrap()).contains(&"br-first".to_owned()));
    });
}

/// Everything that was said, in its order.
fn heard(notices: &Notices) -> Vec<Notice> {
    let mut heard = Vec::new();
    loop {
        match notices.receive() {
            Ok(more) => heard.extend(more),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return heard,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_link_that_goes_is_told_and_what_there_was_no_room_for_is_too() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let notices = Notices::open().unwrap();
        socket.execute(vec![bridge("br0")]).unwrap();
        assert_eq!(heard(&notices), []);
        let mut gone = LinkMessage::default();
        gone.attributes.push(LinkAttribute::IfName("br0".to_owned()));
        socket.execute(vec![(RouteNetlinkMessage::DelLink(gone), 0)]).unwrap();
        assert_eq!(heard(&notices), [Notice::Gone("br0".to_owned())]);
        // Room for a notice or two.
        setsockopt(&notices, sockopt::RcvBuf, &1).unwrap();
        socket.execute((0..20).map(|number| bridge(&format!("many{number}"))).collect()).unwrap();
        let delete = |number: u32| {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName(format!("many{number}")));
            (RouteNetlinkMessage::DelLink(link), 0)
        };
        socket.execute((0..20).map(delete).collect()).unwrap();
        let lost = heard(&notices);
        assert!(lost.contains(&Notice::Lost), "{lost:?}");
        socket.execute(vec![bridge("br1")]).unwrap();
        assert_eq!(heard(&notices), [], "it goes on");
    });
}
