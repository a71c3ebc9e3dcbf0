//! Copies the protocol's sources; in the copy each function that a rule of `src/table.rs` lives in has one more body for each
//! such rule, broken.

#[path = "src/table.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library exports it")]
mod table;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use table::{MUTANTS, Mutant};

const SOURCES: &str = "../src";
/// The pure part of the crate.
const MODULES: [&str; 8] = ["charter", "decide", "identity", "memory", "plan", "record", "span", "view"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/table.rs");
    println!("cargo::rerun-if-changed={SOURCES}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut root = String::new();
    for module in MODULES {
        writeln!(root, "#[path = {:?}]\npub(crate) mod {module};", out.join(format!("{module}.rs")))?;
        copy(&out, &format!("{module}.rs"))?;
    }
    fs::write(out.join("protocol.rs"), root)?;
    Ok(())
}

/// Copies a file and the modules below it.
fn copy(out: &Path, file: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(Path::new(SOURCES).join(file)).map_err(|error| format!("{file}: {error}"))?;
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let text = broken(text, file)?;
    let folder = file.trim_end_matches(".rs");
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            let below = format!("{folder}/{name}.rs");
            lines.push(format!("#[path = {:?}]", out.join(&below)));
            fs::create_dir_all(out.join(folder))?;
            copy(out, &below)?;
        }
        // `include!` and `#[path]` take no inner documentation of generated files amiss, but nobody reads it.
        if !line.starts_with("//!") {
            lines.push(line.to_owned());
        }
    }
    fs::write(out.join(file), lines.join("\n"))?;
    Ok(())
}

fn broken(text: &str, file: &str) -> Result<String, String> {
    let mut functions: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in MUTANTS.iter().enumerate().filter(|(_, mutant)| mutant.file == file) {
        functions.entry(mutant.function).or_default().push((number, mutant));
    }
    let mut text = text.to_owned();
    for (function, mutants) in functions {
        let (start, end) = body(&text, function).ok_or_else(|| format!("{file} has no function {function:?}"))?;
        let sound = text[start..end].to_owned();
        let mut arms = String::new();
        for (number, mutant) in mutants {
            let arm = broken_body(&sound, mutant).ok_or_else(|| {
                format!("{file}, {function:?}: {:?} is not there once; mend the table ({})", mutant.from, mutant.rule)
            })?;
            arms.push_str(&format!("Some({number}) => {arm}\n"));
        }
        let all = format!("{{ match crate::broken() {{ {arms} Some(_) | None => {sound} }} }}");
        text.replace_range(start..end, &all);
    }
    Ok(text)
}

fn broken_body(sound: &str, mutant: &Mutant) -> Option<String> {
    let plain = plain(sound);
    let from = plain_line(mutant.from);
    (plain.matches(&from).count() == 1).then(|| plain.replace(&from, mutant.to))
}

/// Without comments, in one line.
fn plain(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    plain_line(&code.collect::<Vec<_>>().join("\n"))
}

fn plain_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The body of a function, braces included. `function` is what follows `fn `.
fn body(text: &str, function: &str) -> Option<(usize, usize)> {
    let at = text.find(&format!("fn {function}"))?;
    let start = at + text[at..].find('{')?;
    let mut depth = 0_usize;
    for (offset, character) in text[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((start, start + offset + 1));
        }
    }
    None
}
