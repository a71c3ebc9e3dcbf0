//! Verdicts, and who reaches whom, to text. Pure. Where it depends on the addresses of two ends, each answer says by which.

use super::model::{Pair, Reason, TestedWay, Verdict, Way, WayBy};
use crate::render::{Look, line};
use crate::table::Table;

pub(crate) fn verdict(verdict: &Verdict, look: Look) -> String {
    let mut text = String::new();
    match verdict.ways.as_slice() {
        [one] => {
            line(&mut text, format_args!("{}: {} to {}", word(one.allowed, look), one.from, one.to));
            reasons(&mut text, one, look);
            if one.pairs.len() > 1 {
                line(&mut text, format_args!("The same by all their addresses: {}", pairs(&one.pairs)));
            }
        }
        // A netd that asks about one pair only.
        [] => {
            let Verdict { allowed, from, to, reasons: told, remedy, ways: _ } = verdict.clone();
            let one = TestedWay { allowed, from, to, reasons: told, remedy, ..TestedWay::default() };
            line(&mut text, format_args!("{}: {} to {}", word(one.allowed, look), one.from, one.to));
            reasons(&mut text, &one, look);
        }
        several => differing(&mut text, several, look),
    }
    text
}

fn differing(text: &mut String, ways: &[TestedWay], look: Look) {
    let families = |way: &TestedWay| way.families.clone();
    let all: Vec<String> = ways.iter().map(|way| by(way, ways, families, |way| &way.pairs)).collect();
    let told = ways.iter().zip(&all).map(|(way, by)| format!("{} by {by}", word(way.allowed, look)));
    line(text, format_args!("It depends on the address: {}.", told.collect::<Vec<_>>().join("; ")));
    for (way, by) in ways.iter().zip(&all) {
        line(text, format_args!("{} by {by}: {} to {}", word(way.allowed, look), way.from, way.to));
        reasons(text, way, look);
    }
}

fn word(allowed: bool, look: Look) -> String {
    if allowed { look.paint(32, "allowed") } else { look.paint(31, "denied") }
}

fn reasons(text: &mut String, way: &TestedWay, look: Look) {
    if !way.published.is_empty() {
        line(text, format_args!("  {}: judged there", way.published));
    }
    for Reason { direction, allowed, rule, place } in &way.reasons {
        let place = if place.is_empty() { String::new() } else { format!(" ({place})") };
        line(text, format_args!("  {direction} {}: {rule}{place}", word(*allowed, look)));
    }
    if !way.remedy.is_empty() {
        line(text, format_args!("What would allow it: {}", way.remedy));
    }
}

/// What tells one from the others: its families, and its addresses where another has one of these, too.
fn by<T>(one: &T, all: &[T], families: impl Fn(&T) -> Vec<String>, of: impl Fn(&T) -> &[Pair]) -> String {
    let own = families(one);
    let holders = |family: &String| all.iter().filter(|other| families(other).contains(family)).count();
    let is_told = own.iter().all(|family| holders(family) == 1);
    let own = own.join(" and ");
    if is_told { own } else { format!("{own}, {}", pairs(of(one))) }
}

/// All of them would be read by nobody.
fn pairs(all: &[Pair]) -> String {
    const TOLD: usize = 3;
    let told: Vec<String> = all.iter().take(TOLD).map(|pair| format!("{} to {}", pair.from, pair.to)).collect();
    let more = all.len().saturating_sub(TOLD);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{more}", told.join(", "))
}

/// One way a line, and where it depends on the address one line an answer.
pub(crate) fn matrix(ways: &[Way]) -> String {
    if ways.is_empty() {
        return "No sandboxes: there is nobody to reach.\n".to_owned();
    }
    let mut table = Table::new(["FROM", "TO", "PORTS"]);
    for way in ways {
        if way.by.is_empty() {
            table.row([way.from.clone(), way.to.clone(), way.ports.clone()]);
        }
        for one in &way.by {
            table.row([way.from.clone(), way.to.clone(), format!("{} (by {})", one.ports, of(one, way))]);
        }
    }
    table.render()
}

/// Only what changes.
pub(crate) fn diff(ways: &[Way]) -> String {
    if ways.is_empty() {
        return "Nothing would open or close.\n".to_owned();
    }
    let mut table = Table::new(["FROM", "TO", "NOW", "THEN"]);
    for way in ways {
        let then = |after: &Option<String>| after.clone().unwrap_or_default();
        if way.by.is_empty() {
            table.row([way.from.clone(), way.to.clone(), way.ports.clone(), then(&way.ports_after)]);
        }
        for one in way.by.iter().filter(|one| one.changes()) {
            let after = format!("{} (by {})", then(&one.ports_after), of(one, way));
            table.row([way.from.clone(), way.to.clone(), one.ports.clone(), after]);
        }
    }
    table.render()
}

fn of(one: &WayBy, way: &Way) -> String {
    by(one, &way.by, |by| by.families.clone(), |by| &by.pairs)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Pair, Reason, TestedWay, Verdict, Way, WayBy};
    use super::{diff, matrix, verdict};
    use crate::render::Look;

    fn reason(direction: &str, allowed: bool, place: &str) -> Reason {
        Reason { direction: direction.to_owned(), allowed, rule: "a rule".to_owned(), place: place.to_owned() }
    }

    fn pair(from: &str, to: &str) -> Pair {
        Pair { from: from.to_owned(), to: to.to_owned() }
    }

    fn denied() -> TestedWay {
        TestedWay {
            allowed: false,
            families: vec!["IPv4".to_owned()],
            pairs: vec![pair("10.4.0.2", "10.4.0.3")],
            from: "login (10.4.0.2)".to_owned(),
            to: "cart (10.4.0.3), tcp/80".to_owned(),
            reasons: vec![reason("egress", true, ""), reason("ingress", false, "shop.yaml:12")],
            remedy: "an ingress rule".to_owned(),
            published: String::new(),
        }
    }

    fn told(ways: Vec<TestedWay>) -> String {
        verdict(&Verdict { ways, ..Verdict::default() }, Look::default())
    }

    #[test]
    fn a_verdict_says_why_and_what_to_do() {
        let expected = "\
denied: login (10.4.0.2) to cart (10.4.0.3), tcp/80
  egress allowed: a rule
  ingress denied: a rule (shop.yaml:12)
What would allow it: an ingress rule
";
        assert_eq!(told(vec![denied()]), expected);
        let TestedWay { allowed, from, to, reasons, remedy, .. } = denied();
        let old = Verdict { allowed, from, to, reasons, remedy, ways: Vec::new() };
        assert_eq!(verdict(&old, Look::default()), expected);
        let mut both = denied();
        both.pairs.push(pair("fd00::2", "fd00::3"));
        let same = "The same by all their addresses: 10.4.0.2 to 10.4.0.3, fd00::2 to fd00::3\n";
        assert_eq!(told(vec![both]), format!("{expected}{same}"));
        let published = TestedWay { published: "node n1:8080 is published, leads to cart:80".to_owned(), ..denied() };
        assert!(
            told(vec![published]).contains("\n  node n1:8080 is published, leads to cart:80: judged there\n  egress")
        );
    }

    #[test]
    fn a_verdict_that_depends_on_the_address_says_by_which() {
        let way = |families: &[&str], pairs: &[Pair]| TestedWay {
            allowed: true,
            families: families.iter().map(|one| (*one).to_owned()).collect(),
            pairs: pairs.to_vec(),
            from: "login (a)".to_owned(),
            to: "cart (b), tcp/80".to_owned(),
            ..TestedWay::default()
        };
        let text = told(vec![denied(), way(&["IPv6", "IPv6 link-local"], &[pair("fd00::2", "fd00::3")])]);
        assert!(
            text.starts_with("It depends on the address: denied by IPv4; allowed by IPv6 and IPv6 link-local.\n"),
            "{text}"
        );
        assert!(text.contains("\nallowed by IPv6 and IPv6 link-local: login (a) to cart (b), tcp/80\n"), "{text}");
        let all: Vec<Pair> = (3..8).map(|to| pair("10.4.0.9", &format!("10.4.0.{to}"))).collect();
        let text = told(vec![denied(), way(&["IPv4"], &all)]);
        assert!(text.starts_with("It depends on the address: denied by IPv4, 10.4.0.2 to 10.4.0.3; allowed by IPv4, 10.4.0.9 to 10.4.0.3, 10.4.0.9 to 10.4.0.4, 10.4.0.9 to 10.4.0.5, and 2 more.\n"), "{text}");
    }

    #[test]
    fn ways_are_listed_and_compared() {
        let way = |after: Option<&str>| Way {
            from: "login".to_owned(),
            to: "cart".to_owned(),
            ports: "none".to_owned(),
            ports_after: after.map(str::to_owned),
            by: Vec::new(),
        };
        assert_eq!(matrix(&[]), "No sandboxes: there is nobody to reach.\n");
        assert_eq!(matrix(&[way(None)]), "FROM   TO    PORTS\nlogin  cart  none\n");
        assert_eq!(diff(&[way(Some("tcp/80"))]), "FROM   TO    NOW   THEN\nlogin  cart  none  tcp/80\n");
        assert_eq!(diff(&[]), "Nothing would open or close.\n");
        let by = |family: &str, after: Option<&str>| WayBy {
            families: vec![family.to_owned()],
            ports: "none".to_owned(),
            ports_after: after.map(str::to_owned),
            ..WayBy::default()
        };
        let one = Way { by: vec![by("IPv4", Some("none")), by("IPv6", Some("tcp/80"))], ..way(Some("none")) };
        assert!(one.changes() && !way(Some("none")).changes());
        assert_eq!(diff(std::slice::from_ref(&one)), "FROM   TO    NOW   THEN\nlogin  cart  none  tcp/80 (by IPv6)\n");
        let now = "FROM   TO    PORTS\nlogin  cart  none (by IPv4)\nlogin  cart  none (by IPv6)\n";
        assert_eq!(matrix(&[one]), now);
    }
}
