//! How findings are written.

use super::{Finding, Level, examine, is_ill, table};
use crate::doctor::checks::tests::healthy;
use crate::render::{self, Look};

fn some() -> Vec<Finding> {
    vec![
        Finding::problem("netd-hook", "does not run", "start it: `systemctl enable --now netd-hook`"),
        Finding::warning("ufw", "is active beside netd", "allow it"),
        Finding::ok("kernel veth", "there (built in)"),
    ]
}

#[test]
fn for_people_and_for_programs() {
    let expected = "\
problem  netd-hook: does not run
         -> start it: `systemctl enable --now netd-hook`
warning  ufw: is active beside netd
         -> allow it
ok       kernel veth: there (built in)
problems: 1, warnings: 1, ok: 1
";
    assert_eq!(table(&some(), Look::default()), expected);
    assert!(table(&some(), Look { colour: true, ..Look::default() }).contains("\x1b[31mproblem\x1b[0m"));
    let expected = r#"[
  {
    "level": "warning",
    "object": "ufw",
    "meaning": "is active beside netd",
    "remedy": "allow it"
  }
]
"#;
    assert_eq!(render::json(&&some()[1..2]).unwrap(), expected);
}

#[test]
fn the_worst_comes_first() {
    let mut facts = healthy();
    facts.containerd.hook = false;
    facts.firewalls.chains = None;
    let levels: Vec<Level> = examine(&facts).iter().map(|finding| finding.level).collect();
    assert_eq!(levels[..3], [Level::Problem, Level::Warning, Level::Ok]);
    assert!(is_ill(&examine(&facts)) && !is_ill(&examine(&healthy())));
}
