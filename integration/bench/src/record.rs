//! What every bench leaves behind: its lines, and beside them all samples with what is to be known of the run.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::aim::Aim;
use crate::attach::Settings;
use crate::samples::Samples;

/// Writes `NAME.json` and `NAME-raw.json`; the latter has `more` of the bench's own.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn write(name: &str, settings: &Settings, samples: &Samples, aims: &[Aim], more: Value) -> Result<()> {
    let mut raw = json!({
        "commit": settings.commit,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "quick": settings.quick,
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "samples": samples.raw_json(),
        "aims": aims.iter().map(Aim::json).collect::<Vec<_>>(),
    });
    if let (Value::Object(raw), Value::Object(more)) = (&mut raw, more) {
        raw.extend(more);
    }
    let folder = &settings.output;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (file, value) in [(format!("{name}.json"), json!(samples.json())), (format!("{name}-raw.json"), raw)] {
        let path = folder.join(file);
        let text = serde_json::to_string_pretty(&value)?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
