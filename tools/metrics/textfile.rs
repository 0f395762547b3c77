//! `shm-dump metrics`: a scrape as a file for the node exporter's textfile collector.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use executor_shm::inspect::Inspection;

use super::{Dialect, FAMILIES, exposition};

/// What the help says of it.
pub(crate) fn families_text() -> String {
    let names: String = FAMILIES
        .into_iter()
        .flatten()
        .map(|family| format!("  {:38} {}\n", family.sample_name(), family.labels.join(", ")))
        .collect();
    format!(
        "The text is Prometheus's own format, since the node exporter reads no other; `executord run --metrics` has OpenMetrics \
         for whoever asks for that. With --out it is written beside FILE and renamed, so that nobody reads half of it; FILE is to \
         end in .prom, and one file is for one instance.\n\n\
         Names and their labels, besides `executor`, the name of the instance. What cannot be read is left out. docs/operations.md \
         says what each means:\n{names}"
    )
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextfileError {
    #[error("metrics are Prometheus text; leave out --json, or look with: shm-dump show {instance} --json")]
    Json { instance: String },
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// A scrape, to be printed, or written to a file.
///
/// # Errors
///
/// JSON was asked for, or the file cannot be written.
pub(crate) fn write_textfile(view: Inspection, out: Option<&Path>, as_json: bool) -> Result<String, TextfileError> {
    if as_json {
        return Err(TextfileError::Json { instance: view.instance.to_string() });
    }
    let text = exposition(view, Dialect::Prometheus);
    let Some(path) = out else { return Ok(text) };
    replace(path, text.as_bytes()).map_err(|source| TextfileError::Write { path: path.to_owned(), source })?;
    Ok(String::new())
}

fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Its reader is another user, and takes every name that ends in `.prom`.
    let mut file = tempfile::Builder::new()
        .prefix(".metrics-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text)?;
    file.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}
