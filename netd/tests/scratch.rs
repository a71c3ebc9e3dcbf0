//! Scratch.
mod rig;
use netd_api::{Client, Tag, blocking};
use rig::{Node, call};
use std::os::fd::AsFd;
use std::time::Instant;
const CONF: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/16"}]],
    "routes":[{"dst":"0.0.0.0/0"}]},"runtimeConfig":{"portMappings":[{"hostPort":PORT,"containerPort":80,"protocol":"tcp"}]}}"#;
#[test]
fn scratch() {
    let node = Node::new();
    let max: usize = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let spaces: Vec<std::fs::File> = (0..max)
        .map(|_| {
            let (t, r) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                t.send(std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            })
            .join()
            .unwrap();
            r.recv().unwrap()
        })
        .collect();
    let mut times = Vec::new();
    for (n, space) in spaces.iter().enumerate() {
        let mut c = call(&CONF.replace("PORT", &(10000 + n).to_string()), &format!("c{n}"), "/run/netns/x");
        c.plugin = "bridge".into();
        let start = Instant::now();
        let client = Client::connect(&node.socket(), &[(Tag::SandboxNetns, space.as_fd())]).unwrap();
        let mut request = blocking::AttachRequest::new();
        request.call = Some(c).into();
        let r = client.attach(&request).unwrap();
        assert!(r.failure.is_none(), "{r:?}");
        times.push(start.elapsed().as_micros());
        if (n + 1) % 100 == 0 {
            let mut t = times[n + 1 - 100..].to_vec();
            t.sort();
            println!("{} p50 {} p99 {}", n + 1, t[50], t[98]);
        }
    }
    let mut times = Vec::new();
    for n in 0..max {
        let mut c = call(&CONF.replace("PORT", &(10000 + n).to_string()), &format!("c{n}"), "");
        c.plugin = "bridge".into();
        let start = Instant::now();
        let client = Client::connect(&node.socket(), &[]).unwrap();
        let mut request = blocking::DetachRequest::new();
        request.call = Some(c).into();
        let r = client.detach(&request).unwrap();
        assert!(r.failure.is_none(), "{r:?}");
        times.push(start.elapsed().as_micros());
        std::thread::sleep(std::time::Duration::from_millis(30));
        if n > 60 {
            break;
        }
    }
    times.sort();
    println!("del p50 {}", times[times.len() / 2]);
}
