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

/// A node that cannot filter bridges, until that is mended: one policy is in force, and who it is about is attached.
struct Broken {
    node: Node,
    web: Space,
    login: Space,
    _bridged: Space,
}

impl Broken {
    fn new(mut node: Node) -> Self {
        let [web, login, bridged] = [(); 3].map(|()| Space::new());
        for (space, name, network) in [(&web, "web", ROUTED), (&login, "login", ROUTED), (&bridged, "bridged", BRIDGED)]
        {
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
        Self { node, web, login, _bridged: bridged }
    }

    fn mend(&self) {
        self.node.space.command(&format!("umount {SWITCH}"));
    }

    fn names(&self) -> Vec<String> {
        let all = client(&self.node).policies(&blocking::PoliciesRequest::new()).unwrap().policies;
        all.into_iter().map(|policy| policy.name.unwrap().name).collect()
    }

    fn warnings(&self) -> Vec<String> {
        client(&self.node).status(&blocking::StatusRequest::new()).unwrap().warnings
    }

    /// That the kernel refuses one file, and which.
    fn tells_of(&self, file: &str) -> bool {
        let is_refused = |warning: &&String| warning.contains(": the kernel refuses it: ");
        let warnings = self.warnings();
        let refused: Vec<_> = warnings.iter().filter(is_refused).collect();
        matches!(refused[..], [one] if one.contains(&format!("/{file}: ")) && one.contains(SWITCH))
    }
}

fn client(node: &Node) -> Client {
    Client::connect(&node.socket(), &[]).unwrap()
}

fn attach(node: &Node, space: &Space, name: &str, network: &str) {
    node.attach(space, name, &[network]).unwrap();
    describe(&client(node), name, name, &[("app", name)]);
}

#[test]
fn what_the_kernel_refuses_does_not_stay_and_who_comes_meanwhile_obeys_what_was_in_force() {
    let broken = Broken::new(Node::new());
    let (node, late) = (&broken.node, Space::new());
    let folder = node.policies();
    let files = || fs::read_dir(&folder).unwrap().count();
    let text = [closed("web").replace("login", "nobody"), closed("bridged")].join("---\n");
    let error = try_apply(&client(node), &text).expect("the kernel has refused nothing");
    assert!(error.contains(SWITCH), "{error}");
    assert_eq!((broken.names(), files()), (vec!["web".to_owned()], 1));
    assert_eq!(broken.warnings(), Vec::<String>::new());
    // One that is there by hand, and is not told from what is applied: it says so.
    fs::write(folder.join("mine.yaml"), closed("bridged")).unwrap();
    let error = try_apply(&client(node), &closed("late")).expect("the kernel has refused nothing");
    assert!(error.contains(SWITCH), "{error}");
    assert!(broken.tells_of("mine.yaml"), "{:?}", broken.warnings());
    attach(node, &late, "late", ROUTED);
    late.serve(80);
    let all_hear = |late_hears| {
        assert_heard(&[
            ("login", &broken.login, "10.6.0.2:80", Ok("10.6.0.3")),
            ("late", &late, "10.6.0.2:80", Err(())),
            ("web", &broken.web, "10.6.0.4:80", late_hears),
        ]);
    };
    all_hear(Ok("10.6.0.2"));
    broken.mend();
    apply(&client(node), &closed("late"));
    all_hear(Err(()));
    assert_eq!(broken.names().len(), 3);
}

#[test]
fn of_files_that_are_saved_together_only_the_one_that_the_kernel_refuses_is_not_in_force() {
    let mut broken = Broken::new(Node::of_the_program());
    let late = Space::new();
    attach(&broken.node, &late, "late", ROUTED);
    late.serve(80);
    let folder = broken.node.own_policies();
    let saved = folder.with_extension("new");
    fs::create_dir(&saved).unwrap();
    for (file, text) in [("a", closed("late")), ("b", closed("bridged")), ("c", closed("login"))] {
        fs::write(saved.join(file).with_extension("yaml"), text).unwrap();
    }
    fs::rename(&saved, &folder).unwrap();
    let are = |broken: &Broken, names: &[&str]| {
        broken.node.until(|_| broken.names() == names);
        assert_heard(&[
            ("web", &broken.web, "10.6.0.4:80", Err(())),
            ("login", &broken.login, "10.6.0.2:80", Ok("10.6.0.3")),
        ]);
    };
    are(&broken, &["late", "login", "web"]);
    broken.node.until(|_| broken.tells_of("b.yaml"));
    // It keeps nobody from applying others, all or none of them, and is told of by the next netd, too.
    apply(&client(&broken.node), &closed("other"));
    let both = [closed("more"), closed("bridged").replace("name: bridged", "name: again")].join("---\n");
    assert!(try_apply(&client(&broken.node), &both).is_some_and(|error| error.contains(SWITCH)));
    are(&broken, &["late", "login", "other", "web"]);
    broken.node.stop();
    broken.node.start();
    are(&broken, &["late", "login", "other", "web"]);
    broken.node.until(|_| broken.tells_of("b.yaml"));
    broken.mend();
    apply(&client(&broken.node), &closed("other"));
    are(&broken, &["late", "bridged", "login", "other", "web"]);
    assert_eq!(broken.warnings(), Vec::<String>::new());
}
