//! The page on its way out: printed, or a file that is there in one step.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("a report is a page for a browser; leave out --json, or look with: shm-dump show {instance} --json")]
    Json { instance: String },
    #[error("{path} is {what} and no file; choose another name, or - for standard output", path = path.display())]
    NoFile { path: PathBuf, what: &'static str },
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// Gives the text back for `-`, and writes it to a file otherwise: beside it, then renamed, so that nobody reads half of it.
///
/// # Errors
///
/// What is there is no file, or none can be written.
pub(crate) fn write_page(text: String, out: &Path) -> Result<String, PageError> {
    if out == Path::new("-") {
        return Ok(text);
    }
    let what = match std::fs::symlink_metadata(out) {
        Ok(found) if found.is_file() => None,
        Ok(found) if found.is_dir() => Some("a folder"),
        Ok(found) if found.is_symlink() => Some("a symbolic link"),
        Ok(_) => Some("a device, a pipe or a socket"),
        Err(_) => None, // what hinders will hinder the write
    };
    if let Some(what) = what {
        return Err(PageError::NoFile { path: out.to_owned(), what });
    }
    replace(out, text.as_bytes()).map_err(|source| PageError::Write { path: out.to_owned(), source })?;
    Ok(String::new())
}

fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As for any new file, the creation mask takes away what it takes away.
    let mut file = tempfile::Builder::new()
        .prefix(".report-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(text)?;
    file.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}
