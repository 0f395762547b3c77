//! What `--out` names: a file that is there in one step, or standard output.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutError {
    #[error("{path} is {what} and no file; choose another name, or - for standard output", path = path.display())]
    NoFile { path: PathBuf, what: &'static str },
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// Whether it stands for standard output.
pub(crate) fn is_stdout(out: &Path) -> bool {
    out == Path::new("-")
}

/// Gives the text back for `-`, and writes it to a file otherwise: beside it, then renamed, so that nobody reads half of it.
/// From `mode` the creation mask takes away what it takes from any new file.
///
/// # Errors
///
/// What is there is no file, or none can be written.
pub(crate) fn write_out(text: String, out: &Path, mode: u32) -> Result<String, OutError> {
    if is_stdout(out) {
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
        return Err(OutError::NoFile { path: out.to_owned(), what });
    }
    replace(out, text.as_bytes(), mode).map_err(|source| OutError::Write { path: out.to_owned(), source })?;
    Ok(String::new())
}

fn replace(path: &Path, text: &[u8], mode: u32) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".shm-dump-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(text)?;
    file.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}
