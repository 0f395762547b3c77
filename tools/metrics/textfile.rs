//! `shm-dump metrics`: a scrape as a file for the node exporter's textfile collector.

use std::path::{Path, PathBuf};

use executor_shm::inspect::Inspection;

use super::{Dialect, FAMILIES, exposition};
use crate::out_file::{OutError, is_stdout, write_out};

/// What the help says of it.
pub(crate) fn families_text() -> String {
    let names: String = FAMILIES
        .into_iter()
        .flatten()
        .map(|family| format!("  {:38} {}\n", family.sample_name(), family.labels.join(", ")))
        .collect();
    format!(
        "The text is Prometheus's own format, since the node exporter reads no other; `executord run --metrics` has OpenMetrics \
         for whoever asks for that. With --out it is written beside FILE and renamed, so that nobody reads half of it; FILE has to \
         end in .prom, `-` is standard output, and one file is for one instance.\n\n\
         Names and their labels, besides `executor`, the name of the instance. What cannot be read is left out. docs/operations.md \
         says what each means:\n{names}"
    )
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextfileError {
    #[error("metrics are Prometheus text; leave out --json, or look with: shm-dump show {instance} --json")]
    Json { instance: String },
    #[error("the node exporter reads no {path}: its name does not end in .prom; write to {path}.prom, or - for standard output", path = path.display())]
    Name { path: PathBuf },
    #[error(transparent)]
    Out(#[from] OutError),
}

/// A scrape, to be printed, or written to a file.
///
/// # Errors
///
/// JSON was asked for, nobody would read the file, or it cannot be written.
pub(crate) fn write_textfile(view: Inspection, out: Option<&Path>, as_json: bool) -> Result<String, TextfileError> {
    if as_json {
        return Err(TextfileError::Json { instance: view.instance.to_string() });
    }
    let text = exposition(view, Dialect::Prometheus);
    let Some(out) = out else { return Ok(text) };
    if !is_stdout(out) && !out.as_os_str().as_encoded_bytes().ends_with(b".prom") {
        return Err(TextfileError::Name { path: out.to_owned() });
    }
    Ok(write_out(text, out, 0o644)?) // its reader is another user
}
