//! Policies that the kernel refuses: they do not stay, and what was in force is. Here it refuses to filter a bridge, since the switch
//! for that cannot be written. Needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::fs;

use netd_api::{Client, blocking};
use nix::sched::{CloneFlags, unshare};
use rig::shop::{apply, describe};
use rig::{Node, Space, assert_heard};

const BRIDGED: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;
const ROUTED: &str = r#"{"name":"routed","type":"ptp",
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.6.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;
const SWITCH: &str = "/proc/sys/net/bridge/bridge-nf-filter-vlan-tagged";

/// Nobody reaches `app`, but `app=login`.
fn closed(app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {app}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{app: login}}}}}}]}}]}}\n"
    )
}

/// The error, where there is one.
fn try_apply(client: &Client, text: &str) -> Option<String> {
    let mut request = blocking::ApplyPoliciesRequest::new();
    (request.file, request.text) = ("shop.yaml".to_owned(), text.as_bytes().to_vec());
    client.apply_policies(&request).unwrap().failure.into_option().map(|failure| failure.message)
}

#[test]
fn what_the_kernel_refuses_does_not_stay_and_who_comes_meanwhile_obeys_what_was_in_force() {
    let mut node = Node::new();
    let [web, login, bridged, late] = [(); 4].map(|()| Space::new());
    let client = |node: &Node| Client::connect(&node.socket(), &[]).unwrap();
    let attach = |node: &Node, space: &Space, name: &str, network: &str| {
        node.attach(space, name, &[network]).unwrap();
        describe(&client(node), name, name, &[("app", name)]);
    };
    for (space, name, network) in [(&web, "web", ROUTED), (&login, "login", ROUTED), (&bridged, "bridged", BRIDGED)] {
        attach(&node, space, name, network);
    }
    web.serve(80);
    apply(&client(&node), &closed("web"));
    node.stop();
    // Its threads see what its mounts are from then on.
    let one = node.folder.path().join("one");
    fs::write(&one, "1\n").unwrap();
    node.space.run(|| unshare(CloneFlags::CLONE_NEWNS).unwrap());
    node.space.command("mount --make-rprivate /");
    node.space.command(&format!("mount --bind {} {SWITCH}", one.display()));
    node.space.command(&format!("mount -o remount,bind,ro {SWITCH}"));
    node.start();

    let folder = node.folder.path().join("policies");
    let files = || fs::read_dir(&folder).unwrap().count();
    let names = |node: &Node| {
        let all = client(node).policies(&blocking::PoliciesRequest::new()).unwrap().policies;
        all.into_iter().map(|policy| policy.name.unwrap().name).collect::<Vec<_>>()
    };
    let text = [closed("web").replace("login", "nobody"), closed("bridged")].join("---\n");
    let error = try_apply(&client(&node), &text).expect("the kernel has refused nothing");
    assert!(error.contains(SWITCH), "{error}");
    assert_eq!((names(&node), files()), (vec!["web".to_owned()], 1));
    assert_eq!(client(&node).status(&blocking::StatusRequest::new()).unwrap().warnings, Vec::<String>::new());
    // One that is there by hand: it says so, and so it is for the next netd.
    fs::write(folder.join("mine.yaml"), closed("bridged")).unwrap();
    let error = try_apply(&client(&node), &closed("late")).expect("the kernel has refused nothing");
    assert!(error.contains(SWITCH), "{error}");
    let warnings = client(&node).status(&blocking::StatusRequest::new()).unwrap().warnings;
    let is_told = |warning: &String| warning.contains("mine.yaml: the kernel refuses it: ") && warning.contains(SWITCH);
    assert!(warnings.iter().any(is_told), "{warnings:?}");
    attach(&node, &late, "late", ROUTED);
    late.serve(80);
    let all_hear = |late_hears| {
        assert_heard(&[
            ("login", &login, "10.6.0.2:80", Ok("10.6.0.3")),
            ("late", &late, "10.6.0.2:80", Err(())),
            ("web", &web, "10.6.0.4:80", late_hears),
        ]);
    };
    all_hear(Ok("10.6.0.2"));
    node.space.command(&format!("umount {SWITCH}"));
    apply(&client(&node), &closed("late"));
    all_hear(Err(()));
    assert_eq!(names(&node).len(), 3);
}
