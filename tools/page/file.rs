//! The page on its way out: printed, or a file.

use std::path::Path;

use crate::out_file::{OutError, write_out};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("a report is a page for a browser; leave out --json, or look with: shm-dump show {instance} --json")]
    Json { instance: String },
    #[error(transparent)]
    Out(#[from] OutError),
}

/// Gives the text back for `-`, and writes it to a file otherwise.
///
/// # Errors
///
/// What is there is no file, or none can be written.
pub(crate) fn write_page(text: String, out: &Path) -> Result<String, PageError> {
    Ok(write_out(text, out, 0o666)?)
}
