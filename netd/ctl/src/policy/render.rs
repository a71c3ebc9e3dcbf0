//! Policies and denied packets to text. Pure. Verdicts are `asked`'s.

use super::model::{Dropped, Name, Policies, Policy, Validated};
use crate::render::line;
use crate::table::Table;

pub(crate) fn policies(policies: &Policies) -> String {
    let mut text = if policies.policies.is_empty() {
        "No policies: every sandbox may speak with every other and with the outside.\n".to_owned()
    } else {
        listed(policies)
    };
    for file in policies.files.iter().filter(|file| !file.error.is_empty()) {
        line(&mut text, format_args!("not taken: {}", file.error));
    }
    text
}

fn listed(policies: &Policies) -> String {
    let mut table = Table::new(["NAMESPACE", "NAME", "KIND", "DIRECTIONS", "SANDBOXES", "ALLOWED", "DENIED", "PLACE"]);
    for policy in &policies.policies {
        table.row([
            policy.namespace.clone(),
            policy.name.clone(),
            policy.kind.clone(),
            policy.directions.join(","),
            policy.sandboxes.to_string(),
            policy.allowed.to_string(),
            denied(policy),
            format!("{}:{}", policy.file, policy.line),
        ]);
    }
    table.render()
}

/// One in audit mode denies nothing, and is there for what it would.
fn denied(policy: &Policy) -> String {
    match policy.would_deny {
        0 => policy.denied.to_string(),
        would => format!("{} (audit: {would})", policy.denied),
    }
}

pub(crate) fn applied(names: &[Name]) -> String {
    let mut text = String::new();
    names.iter().for_each(|name| line(&mut text, format_args!("{} is in force", of(name))));
    text
}

pub(crate) fn deleted(name: &Name) -> String {
    format!("{} is deleted\n", of(name))
}

fn of(name: &Name) -> String {
    full(&name.kind, &name.namespace, &name.name)
}

pub(super) fn full(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

pub(crate) fn validated(files: &[Validated]) -> String {
    let mut text = String::new();
    for Validated { file, policies, errors } in files {
        if errors.is_empty() {
            line(&mut text, format_args!("{file}: good, {policies} policies"));
        }
        errors.iter().for_each(|error| line(&mut text, format_args!("{error}")));
    }
    text
}

pub(crate) fn drops(drops: &[Dropped]) -> String {
    if drops.is_empty() {
        return "No denied packets among the last 1,024 since netd started; `--follow` waits for some.\n".to_owned();
    }
    let mut text = String::new();
    for one in drops {
        let place = if one.place.is_empty() { String::new() } else { format!(" ({})", one.place) };
        let port = if one.port.is_empty() { String::new() } else { format!(" {}", one.port) };
        line(
            &mut text,
            format_args!(
                "{} {}{port} from {} to {}: {}{place}",
                time_of_day(one.at_unix_ms),
                one.protocol,
                one.from,
                one.to,
                one.rule
            ),
        );
    }
    text
}

/// UTC, with milliseconds.
fn time_of_day(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1_000 % 86_400, unix_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Dropped, File, Name, Policies, Policy, Validated};
    use super::{applied, deleted, drops, policies, validated};
    use crate::render::json_lines;

    fn a_policy() -> Policy {
        Policy {
            kind: "NetworkPolicy".to_owned(),
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            file: "/etc/netd/policies/shop.yaml".to_owned(),
            line: 12,
            directions: vec!["ingress".to_owned(), "egress".to_owned()],
            sandboxes: 3,
            allowed: 41,
            denied: 2,
            ..Policy::default()
        }
    }

    #[test]
    fn policies_are_listed_and_broken_files_told() {
        let mut all = Policies { policies: vec![a_policy()], files: Vec::new() };
        let expected = "\
NAMESPACE  NAME  KIND           DIRECTIONS      SANDBOXES  ALLOWED  DENIED  PLACE
shop       cart  NetworkPolicy  ingress,egress  3          41       2       /etc/netd/policies/shop.yaml:12
";
        assert_eq!(policies(&all), expected);
        all.policies[0].would_deny = 7;
        assert!(policies(&all).contains("  2 (audit: 7)  "), "{}", policies(&all));
        all.policies[0].would_deny = 0;
        all.files.push(File { file: "b.yaml".to_owned(), error: "b.yaml:1:2: it is wrong".to_owned(), policies: 0 });
        assert_eq!(policies(&all), format!("{expected}not taken: b.yaml:1:2: it is wrong\n"));
        assert!(policies(&Policies::default()).starts_with("No policies: "));
        let name = Name { kind: "NetworkPolicy".to_owned(), namespace: "shop".to_owned(), name: "cart".to_owned() };
        assert_eq!(applied(std::slice::from_ref(&name)), "NetworkPolicy shop/cart is in force\n");
        assert_eq!(deleted(&Name { namespace: String::new(), ..name }), "NetworkPolicy cart is deleted\n");
    }

    #[test]
    fn examined_files_are_told_one_by_one() {
        let file = |errors: &[&str]| Validated {
            file: "shop.yaml".to_owned(),
            policies: 2,
            errors: errors.iter().map(|&error| error.to_owned()).collect(),
        };
        let files = [file(&[]), file(&["shop.yaml:1:2: it is wrong", "shop.yaml:3:4: and this"])];
        let expected = "shop.yaml: good, 2 policies\nshop.yaml:1:2: it is wrong\nshop.yaml:3:4: and this\n";
        assert_eq!(validated(&files), expected);
        assert_eq!(json_lines(&files).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_denied_packet_is_a_line() {
        let dropped = Dropped {
            at_unix_ms: 86_400_000 + 3_723_004,
            from: "login (10.4.0.2)".to_owned(),
            to: "cart (10.4.0.3)".to_owned(),
            protocol: "tcp".to_owned(),
            port: "80".to_owned(),
            rule: "no rule of NetworkPolicy shop/cart allows it".to_owned(),
            place: "shop.yaml:12".to_owned(),
        };
        let expected = "01:02:03.004Z tcp 80 from login (10.4.0.2) to cart (10.4.0.3): \
                        no rule of NetworkPolicy shop/cart allows it (shop.yaml:12)\n";
        assert_eq!(drops(&[dropped]), expected);
        assert!(drops(&[]).starts_with("No denied packets among the last 1,024 "));
    }
}
