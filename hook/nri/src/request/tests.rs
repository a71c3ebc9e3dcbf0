//! Both dialects mean the same; what is not about pods is answered and forgotten.

use std::time::Duration;

use super::{Request, SERVICE};
use crate::message::{Answer, INVALID_ARGUMENT, UNIMPLEMENTED};
use crate::pod::Pod;
use crate::wire::{nri, ttrpc};

fn read(method: &str, message: &impl protobuf::Message) -> Request {
    read_bytes(method, message.write_to_bytes().unwrap())
}

fn read_bytes(method: &str, payload: Vec<u8>) -> Request {
    let (service, method) = (SERVICE.to_owned(), method.to_owned());
    Request::read(&ttrpc::Request { service, method, payload, ..ttrpc::Request::default() })
}

fn sandbox(namespaces: &[(&str, &str)]) -> nri::PodSandbox {
    let mut pod = nri::PodSandbox { id: "p".to_owned(), name: "web".to_owned(), ..nri::PodSandbox::default() };
    pod.namespace = "shop".to_owned();
    pod.labels.insert("tier".to_owned(), "front".to_owned());
    let namespaces = namespaces.iter().map(|(kind, path)| nri::LinuxNamespace {
        type_: (*kind).to_owned(),
        path: (*path).to_owned(),
        ..nri::LinuxNamespace::default()
    });
    pod.linux.mut_or_insert_default().namespaces = namespaces.collect();
    pod
}

fn code(answer: &Answer) -> i32 {
    match answer {
        Answer::Done(_) => 0,
        Answer::Refused { code, .. } => *code,
    }
}

#[test]
fn both_dialects_mean_the_same() {
    let pod = sandbox(&[("pid", "/proc/1/ns/pid"), ("network", "/run/netns/p")]);
    let expected = Pod {
        id: "p".to_owned(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        netns: Some("/run/netns/p".into()),
        ..Pod::default()
    };
    for (event, method, expected) in [
        (nri::Event::RUN_POD_SANDBOX, "RunPodSandbox", Request::Ran(expected.clone())),
        (nri::Event::STOP_POD_SANDBOX, "StopPodSandbox", Request::Stopped(expected.clone())),
        (nri::Event::REMOVE_POD_SANDBOX, "RemovePodSandbox", Request::Removed(expected)),
    ] {
        let dedicated = nri::PodSandboxRequest { pod: Some(pod.clone()).into(), ..nri::PodSandboxRequest::default() };
        let mut changed = nri::StateChangeEvent { event: event.into(), ..nri::StateChangeEvent::default() };
        changed.pod = Some(pod.clone()).into();
        assert_eq!(read(method, &dedicated), expected);
        assert_eq!(read("StateChange", &changed), expected);
        assert_eq!(expected.answer(), Answer::Done(Vec::new()));
    }
}

#[test]
fn a_pod_on_the_nodes_network_has_no_namespace() {
    for namespaces in [&[][..], &[("pid", "/x")], &[("network", "")]] {
        assert_eq!(Pod::from(sandbox(namespaces)).netns, None);
    }
}

#[test]
fn an_event_about_a_container_or_about_nothing_is_irrelevant() {
    let mut changed = nri::StateChangeEvent { pod: Some(sandbox(&[])).into(), ..nri::StateChangeEvent::default() };
    changed.event = protobuf::EnumOrUnknown::from_i32(5);
    assert_eq!(read("StateChange", &changed), Request::Irrelevant);
    assert_eq!(read("RunPodSandbox", &nri::PodSandboxRequest::new()), Request::Irrelevant);
    assert_eq!(read("CreateContainer", &nri::PodSandboxRequest::new()).answer(), Answer::Done(Vec::new()));
    assert_eq!(read_bytes("Shutdown", Vec::new()).answer(), Answer::Done(Vec::new()));
}

#[test]
fn configure_subscribes_to_pods_only_and_learns_the_timeout() {
    let mut configure = nri::ConfigureRequest { request_timeout: 500, ..nri::ConfigureRequest::default() };
    let request = read("Configure", &configure);
    assert!(matches!(request, Request::Configure { timeout, .. } if timeout == Duration::from_millis(500)));
    // Field 2, the number 7.
    assert_eq!(request.answer(), Answer::Done(vec![0x10, 7]));
    for untold in [0, -1] {
        configure.request_timeout = untold;
        let request = read("Configure", &configure);
        assert!(matches!(request, Request::Configure { timeout, .. } if timeout == Duration::from_secs(2)));
    }
}

#[test]
fn a_piece_of_the_list_is_answered_as_it_asks() {
    for (more, answer) in [(true, vec![0x10, 1]), (false, vec![])] {
        let pods = vec![sandbox(&[])];
        let request =
            read("Synchronize", &nri::SynchronizeRequest { pods, more, ..nri::SynchronizeRequest::default() });
        assert_eq!(request.answer(), Answer::Done(answer));
    }
}

#[test]
fn an_unknown_method_is_unimplemented_so_that_the_runtime_falls_back() {
    assert_eq!(code(&read_bytes("Dance", Vec::new()).answer()), UNIMPLEMENTED);
    let elsewhere =
        ttrpc::Request { service: "x".to_owned(), method: "Configure".to_owned(), ..ttrpc::Request::default() };
    assert_eq!(code(&Request::read(&elsewhere).answer()), UNIMPLEMENTED);
}

#[test]
fn what_cannot_be_read_fails_no_pod_but_fails_a_handshake() {
    for (method, expected) in
        [("RunPodSandbox", 0), ("StateChange", 0), ("Configure", INVALID_ARGUMENT), ("Synchronize", INVALID_ARGUMENT)]
    {
        let request = read_bytes(method, vec![0xff; 3]);
        assert!(matches!(request, Request::Undecodable { .. }), "{request:?}");
        assert_eq!(code(&request.answer()), expected, "{method}");
    }
}
