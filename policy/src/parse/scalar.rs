//! Plain YAML scalars as kubectl reads them (go-yaml: YAML 1.1 booleans, numbers with prefixes). Structure is `yaml.rs`.

/// A plain scalar's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Kept as written: nothing in a policy is a fraction.
    Float(String),
    Text(String),
}

pub(super) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Scalar::Bool(false);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Scalar::Text(text.to_owned());
    }
    if let Some(number) = integer(text) {
        return Scalar::Int(number);
    }
    if is_float(text) { Scalar::Float(text.to_owned()) } else { Scalar::Text(text.to_owned()) }
}

fn integer(text: &str) -> Option<i64> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn is_float(text: &str) -> bool {
    let plain = text.replace('_', "");
    let has_digit = plain.contains(|c: char| c.is_ascii_digit());
    let numeric = plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E'));
    has_digit && numeric && plain.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{Scalar, resolve};

    #[test]
    fn plain_scalars_are_what_kubectl_takes_them_for() {
        let table = [
            ("80", Scalar::Int(80)),
            ("0x50", Scalar::Int(80)),
            ("010", Scalar::Int(8)),
            ("1_000", Scalar::Int(1000)),
            ("-1", Scalar::Int(-1)),
            ("yes", Scalar::Bool(true)),
            ("off", Scalar::Bool(false)),
            ("~", Scalar::Null),
            ("1.5", Scalar::Float("1.5".to_owned())),
            ("10.0.0.0/8", Scalar::Text("10.0.0.0/8".to_owned())),
            ("1.2.3", Scalar::Text("1.2.3".to_owned())),
            ("v1", Scalar::Text("v1".to_owned())),
            ("-", Scalar::Text("-".to_owned())),
        ];
        for (text, value) in table {
            assert_eq!(resolve(text), value, "{text}");
        }
    }
}
