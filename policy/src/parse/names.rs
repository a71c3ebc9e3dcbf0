//! What Kubernetes takes for a name, a label and a port's name.

use super::fields::Field;

/// Checks the name of an object or a namespace (RFC 1123).
pub(super) fn object_name<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.text()?;
    if text.len() <= 253 && text.split('.').all(is_dns_label) {
        return Some(text);
    }
    field.wrong("is no name", "use small letters, digits, '-' and '.', with a letter or digit at both ends");
    None
}

/// Checks the key of a label: `name` or `domain/name`.
pub(super) fn is_label_key(text: &str) -> bool {
    let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    domain.is_none_or(|domain| domain.len() <= 253 && domain.split('.').all(is_dns_label))
        && !name.is_empty()
        && is_label_value(name)
}

/// Checks the value of a label.
pub(super) fn is_label_value(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Checks the name of an image as containerd records it: `docker.io/library/nginx:1.29`, or with a digest behind `@`.
pub(super) fn is_image(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@');
    text.len() <= 512 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good)
}

/// Checks a port's name (`IANA_SVC_NAME`).
pub(super) fn port_name(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.parse::<u32>().is_ok() {
        field.wrong("is text, which would be a port's name", "take the quotes away");
        return None;
    }
    let letters = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let hyphens = !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
    if letters && hyphens && text.len() <= 15 && text.contains(|c: char| c.is_ascii_lowercase()) {
        return Some(text.to_owned());
    }
    field.wrong("is no port's name", "use a number, or at most 15 small letters, digits and single '-'");
    None
}

fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
