//! Who may ask: certificates on both sides, and passwords.

use std::path::Path;
use std::process::Command;

use netd_fleet::{EtcdSettings, Status, TlsFiles};

use crate::cluster::Cluster;
use crate::{blocks, node_at, play, settings, until};

/// An authority, and one certificate of it for the member and for the node.
fn certify(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"));
    openssl(&format!("req {key} -subj /CN=member -keyout key.pem -out csr.pem"));
    std::fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        .unwrap();
    openssl("x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem");
}

#[test]
fn certificates_are_asked_for_on_both_sides() {
    let cluster = Cluster::start_with(1, "https", |folder| {
        certify(folder);
        let path = |name: &str| folder.join(name).display().to_string();
        let pairs = [("--cert-file", "cert.pem"), ("--key-file", "key.pem"), ("--trusted-ca-file", "ca.pem")];
        let files = pairs.iter().flat_map(|(flag, name)| [(*flag).to_owned(), path(name)]);
        files.chain(["--client-cert-auth".to_owned()]).collect()
    });
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

#[test]
fn passwords_are_asked_for() {
    let cluster = Cluster::start(1);
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
    let with =
        |password: &str| EtcdSettings { user: Some(("netd".to_owned(), password.to_owned())), ..settings(&cluster) };
    play(&cluster, async || {
        let wrong = node_at(&cluster, with("wrong"), "n", "n", 1);
        // A busy member may say nothing in time first.
        let is_refused = |error: &String| error.contains("refused with gRPC status");
        until(wrong.status(), |status: &Status| status.error.as_ref().is_some_and(is_refused)).await;
        let a = node_at(&cluster, with("secret"), "a", "a", 1);
        blocks(&a, 1).await;
    });
}
