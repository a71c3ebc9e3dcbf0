//! The client against a server of the same protocol. That the real containerd speaks it too is for whole-node tests.

use std::time::{Duration, Instant};

use super::fake::{Fake, IMAGE};
use super::{CallError, Containerd, Happening, Origin};
use crate::attachment::{Description, LabelState};

pub(crate) const POD: &str = r#"{"Version":"v1","Metadata":{"ID":"x","Name":"web_shop_u_0","NetNSPath":"","CNIResult":null,
    "Config":{"metadata":{"name":"web","uid":"u","namespace":"shop"},"labels":{"app":"web"},"annotations":null}}}"#;

fn described(name: &str, namespace: &str, labels: &[(&str, &str)]) -> Description {
    Description {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        image: if namespace == "shop" { String::new() } else { IMAGE.to_owned() },
        state: LabelState::Known { source: "containerd".to_owned() },
    }
}

#[tokio::test]
async fn each_kind_of_record_is_found_and_anothers_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let fake = Fake::start(&socket);
    let hex = "ab".repeat(32);
    fake.container("a-b", &hex, &[("nerdctl/name", "web-1"), ("app", "web")]);
    fake.container("default", "my-web", &[("app", "x")]);
    fake.sandbox(&hex, POD);
    let containerd = Containerd::new(&socket);
    let nerdctl = described("web-1", "a-b", &[("app", "web"), ("nerdctl/name", "web-1")]);
    let table = [
        (format!("a-b-{hex}"), Some(nerdctl)),
        (format!("b-{hex}"), None),
        ("default-my-web".to_owned(), Some(described("my-web", "default", &[("app", "x")]))),
        ("default-other".to_owned(), None),
        (hex, Some(described("web", "shop", &[("app", "web")]))),
        ("cd".repeat(32), None),
    ];
    for (id, expected) in table {
        assert_eq!(containerd.find(&Origin::of(&id, "").unwrap()).await.unwrap(), expected, "{id}");
    }
}

#[tokio::test]
async fn without_a_sandbox_store_a_pods_container_says_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let fake = Fake::start(&socket);
    fake.records.lock().unwrap().has_no_sandboxes = true;
    let hex = "ab".repeat(32);
    let origin = Origin::of(&hex, "").unwrap();
    let containerd = Containerd::new(&socket);
    assert_eq!(containerd.find(&origin).await.unwrap(), None);
    fake.container("k8s.io", &hex, &[("app", "web")]);
    assert_eq!(containerd.find(&origin).await.unwrap(), Some(described(&hex, "k8s.io", &[("app", "web")])));
    fake.tasks("k8s.io", &["one"]);
    assert!(containerd.living().await.unwrap().contains("one"));
}

#[tokio::test]
async fn what_lives_is_named_as_cni_names_it_and_half_a_list_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let fake = Fake::start(&socket);
    fake.tasks("default", &["a"]);
    fake.tasks("k8s.io", &["p"]);
    fake.sandbox("s", POD);
    let containerd = Containerd::new(&socket);
    let living: Vec<String> = containerd.living().await.unwrap().into_iter().collect();
    assert_eq!(living, ["default-a", "k8s.io-p", "p", "s"]);
    fake.records.lock().unwrap().lists_fail = true;
    let error = containerd.living().await.unwrap_err();
    assert!(matches!(error, CallError::Status { code: 14, .. }), "{error}");
}

#[tokio::test]
async fn an_absent_containerd_is_known_at_once_and_one_that_comes_back_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let containerd = Containerd::new(&socket);
    let origin = Origin::Container { namespace: "default".to_owned(), id: "a".to_owned() };
    let begin = Instant::now();
    assert!(matches!(containerd.find(&origin).await, Err(CallError::Connect(_))));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let fake = Fake::start(&socket);
    fake.container("default", "a", &[]);
    assert!(containerd.find(&origin).await.unwrap().is_some());
    let records = fake.records.clone();
    drop(fake);
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let _fake = Fake::with(&socket, records);
    assert!(containerd.find(&origin).await.unwrap().is_some(), "by a new connection");
}

#[tokio::test]
async fn events_name_their_container_and_end_with_containerd() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let fake = Fake::start(&socket);
    let mut events = Containerd::new(&socket).events().await.unwrap();
    fake.say("default", "/containers/create", "a").await;
    fake.say("k8s.io", "/images/create", "x").await;
    fake.say("k8s.io", "/tasks/delete", "p").await;
    assert_eq!(events.next().await.unwrap(), Happening::Recorded(vec!["default-a".to_owned()]));
    assert_eq!(events.next().await.unwrap(), Happening::Ended(vec!["k8s.io-p".to_owned(), "p".to_owned()]));
    drop(fake);
    assert!(events.next().await.is_err());
}
