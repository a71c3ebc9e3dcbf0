//! `CNI_ARGS`: `K=V;K=V`, keys matched as written, unknown ones refused unless `IgnoreUnknown` says otherwise.

use crate::json::Mistakes;

/// The arguments that netd knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) addresses: Vec<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) mac: Option<String>,
}

pub(crate) fn parse(text: &str, mistakes: &Mistakes) -> Arguments {
    let mut arguments = Arguments::default();
    let mut unknown = Vec::new();
    let mut ignore = false;
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            mistakes.add("CNI_ARGS", 4, format!("{pair:?} is not KEY=VALUE"));
            continue;
        };
        match key {
            "IP" => arguments.addresses.extend(list(value)),
            "GATEWAY" => arguments.gateways.extend(list(value)),
            "MAC" => arguments.mac = Some(value.to_owned()),
            "IgnoreUnknown" => ignore = value == "1" || value.eq_ignore_ascii_case("true"),
            _ => unknown.push(format!("{pair:?}")),
        }
    }
    if !ignore && !unknown.is_empty() {
        let unknown = unknown.join(", ");
        mistakes.add("CNI_ARGS", 4, format!("ARGS: unknown args [{unknown}]; add IgnoreUnknown=1 to pass them over"));
    }
    arguments
}

fn list(value: &str) -> impl Iterator<Item = String> {
    value.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned)
}
