//! Whether a flow that goes on would be let begin now. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_kernel::Flow;
use netd_policy::{Compiled, Flow as Asked, Hook, Traffic};

/// Says it for a flow between sandboxes, the node (its `own` addresses) and everybody else, as the rules would see its first
/// packet: behind the translation of its destination.
pub(super) fn allows(compiled: &Compiled, own: &BTreeSet<IpAddr>, flow: &Flow) -> bool {
    let (from, to) = (flow.opener.0, flow.answerer.0);
    let hook = match (own.contains(&from), own.contains(&to)) {
        (true, _) => Hook::Output,
        (false, true) => Hook::Input,
        (false, false) => Hook::Forward,
    };
    let traffic = Traffic { protocol: flow.protocol, port: flow.answerer.1 };
    compiled.interpret(hook, Asked { from, to, traffic }).allowed()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use netd_kernel::Flow;
    use netd_policy::{Change, Compiler, Sandbox, SandboxName};

    use super::allows;

    const SERVER: &str = "10.4.0.2";
    const PORTS: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: shop}\n\
                         spec: {podSelector: {}, ingress: [{ports: [{port: 80}, {port: 80, protocol: SCTP}]}]}\n";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn compiler() -> Compiler {
        let mut compiler = Compiler::new("here");
        let sandbox = Sandbox {
            name: SandboxName { namespace: "shop".to_owned(), name: "web".to_owned() },
            labels: BTreeMap::new(),
            namespace_labels: BTreeMap::new(),
            addresses: BTreeMap::from([(address(SERVER), "web".to_owned())]),
            ports: BTreeSet::new(),
            node: "here".to_owned(),
            known: None,
        };
        compiler.update(Change::Sandbox(sandbox));
        compiler.update(Change::Policies(netd_policy::parse("a.yaml", PORTS).unwrap()));
        compiler
    }

    #[test]
    fn a_protocol_that_no_rule_names_may_not_go_on_to_an_isolated_sandbox() {
        let (compiler, node) = (compiler(), BTreeSet::from([address("10.4.0.1")]));
        for (from, to, protocol, port, allowed) in [
            ("10.4.0.3", SERVER, 6, 80, true),
            ("10.4.0.3", SERVER, 6, 81, false),
            ("10.4.0.3", SERVER, 17, 80, false),
            ("10.4.0.3", SERVER, 132, 80, true),
            ("10.4.0.3", SERVER, 132, 81, false),
            ("10.4.0.3", SERVER, 47, 0, false),
            ("10.4.0.3", SERVER, 50, 0, false),
            ("10.4.0.3", SERVER, 253, 0, false),
            ("10.4.0.3", SERVER, 1, 0x0800, false),
            (SERVER, "10.4.0.3", 47, 0, true),
            // Between a sandbox and its node no NetworkPolicy stands.
            ("10.4.0.1", SERVER, 47, 0, true),
        ] {
            let (opener, answerer) = ((address(from), 40_000), (address(to), port));
            let flow = Flow { protocol, opener, answerer, asked: answerer };
            assert_eq!(allows(compiler.compiled(), &node, &flow), allowed, "{from} {to} {protocol} {port}");
        }
    }
}
