//! Who may ask: certificates on both sides, and passwords.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netd_fleet::{EtcdSettings, Fleet, Status, TlsFiles};
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::{LEASE, blocks, node_at, play, settings, until};

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and one certificate of it for the member and for the node.
fn certify(folder: &Path) {
    let openssl = |arguments: &str| openssl(folder, arguments);
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"));
    openssl(&format!("req {key} -subj /CN=member -keyout key.pem -out csr.pem"));
    fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    openssl("x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem");
}

/// A member with TLS that asks for clients' certificates.
fn certified() -> Cluster {
    Cluster::start_with(1, "https", |folder| {
        certify(folder);
        let path = |name: &str| folder.join(name).display().to_string();
        let pairs = [("--cert-file", "cert.pem"), ("--key-file", "key.pem"), ("--trusted-ca-file", "ca.pem")];
        let files = pairs.iter().flat_map(|(flag, name)| [(*flag).to_owned(), path(name)]);
        files.chain(["--client-cert-auth".to_owned()]).collect()
    })
}

#[test]
fn certificates_are_asked_for_on_both_sides() {
    let cluster = certified();
    let file = |name: &str| cluster.folder.path().join(name);
    let with = |identity| {
        let tls = TlsFiles { authority: file("ca.pem"), identity };
        EtcdSettings { tls: Some(tls), ..settings(&cluster) }
    };
    play(&cluster, async || {
        let nobody = node_at(&cluster, with(None), "n", "n", 1);
        until(nobody.status(), |status: &Status| status.error.is_some()).await;
        assert!(nobody.blocks().memory().borrow().usable().is_empty());
        let a = node_at(&cluster, with(Some((file("cert.pem"), file("key.pem")))), "a", "a", 1);
        blocks(&a, 1).await;
        assert!(nobody.blocks().memory().borrow().usable().is_empty());
    });
}

/// At a boot they may not be there yet, and later they are others.
#[test]
fn certificates_that_are_renewed_are_taken() {
    let mut cluster = certified();
    let file = |name: &str| cluster.folder.path().join(name);
    let identity = Some((file("node.pem"), file("node.key")));
    let tls = TlsFiles { authority: file("ca.pem"), identity };
    let settings = EtcdSettings { tls: Some(tls), ..settings(&cluster) };
    let [node, key, good, good_key] = ["node.pem", "node.key", "cert.pem", "key.pem"].map(file);
    let renew = || {
        fs::copy(&good_key, &key).unwrap();
        fs::copy(&good, &node).unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = async {
        let a = node_at(&cluster, settings, "a", "a", 1);
        says(&a, "node.pem").await;
        renew();
        blocks(&a, 1).await;
        // What holds already goes on with what it began with.
        fs::remove_file(&node).unwrap();
        a
    };
    let a = cluster.place.run(|| runtime.block_on(begin)).unwrap();
    cluster.kill(0);
    cluster.launch(0);
    cluster.wait();
    let check = async {
        says(&a, "node.pem").await;
        renew();
        until(a.status(), |status: &Status| status.is_connected).await;
    };
    cluster.place.run(|| runtime.block_on(check)).unwrap();
}

/// Only who knows a password is let in.
fn lock(cluster: &Cluster) {
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/user/add", r#"{"name":"netd","password":"secret"}"#),
        ("/v3/auth/role/add", r#"{"name":"netd"}"#),
        // /netd/ to /netd0
        (
            "/v3/auth/role/grant",
            r#"{"name":"netd","perm":{"permType":"READWRITE","key":"L25ldGQv","range_end":"L25ldGQw"}}"#,
        ),
        ("/v3/auth/user/grant", r#"{"user":"netd","role":"netd"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        cluster.post(path, body);
    }
}

/// A node that reads its password where `password` is written.
fn with_password(cluster: &Cluster, at: &str) -> EtcdSettings {
    EtcdSettings { user: Some(("netd".to_owned(), cluster.folder.path().join(at))), ..settings(cluster) }
}

/// A busy member may say nothing in time first.
async fn says(node: &Fleet, words: &str) {
    until(node.status(), |status: &Status| status.error.as_ref().is_some_and(|error| error.contains(words))).await;
}

#[test]
fn passwords_are_asked_for_and_read_each_time() {
    let cluster = Cluster::start(1);
    lock(&cluster);
    let write = |text: &str| fs::write(cluster.folder.path().join("password"), text).unwrap();
    play(&cluster, async || {
        let a = node_at(&cluster, with_password(&cluster, "password"), "a", "a", 1);
        says(&a, "cannot read the password in").await;
        write("wrong\n");
        says(&a, "refused with gRPC status").await;
        assert!(a.blocks().memory().borrow().usable().is_empty());
        write("secret\n");
        blocks(&a, 1).await;
    });
}

/// They end by time, whether somebody is connected or not. etcd writes the end in whole seconds: a token of one second may be over
/// before its first use.
#[test]
fn a_token_that_ends_ends_no_session() {
    let cluster = Cluster::start_with(1, "http", |folder| {
        openssl(folder, "genrsa -out token.key 2048");
        openssl(folder, "rsa -in token.key -pubout -out token.pub");
        let path = |name: &str| folder.join(name).display().to_string();
        let keys = format!("pub-key={},priv-key={}", path("token.pub"), path("token.key"));
        vec!["--auth-token".to_owned(), format!("jwt,{keys},sign-method=RS256,ttl=2s")]
    });
    lock(&cluster);
    fs::write(cluster.folder.path().join("password"), "secret").unwrap();
    play(&cluster, async || {
        // With the longest patience: a member that is busy for a moment ends none either.
        let patient = EtcdSettings { lease: Duration::from_secs(30), ..with_password(&cluster, "password") };
        let a = node_at(&cluster, patient, "a", "a", 1);
        blocks(&a, 1).await;
        let mut status = a.status();
        let ended = timeout(3 * LEASE, status.wait_for(|status| !status.is_connected)).await;
        assert!(ended.is_err(), "{ended:?}");
        a.blocks().want("main", 2);
        blocks(&a, 2).await;
    });
}
