//! `shm-dump save`: a copy of an instance's files to look at elsewhere, and when it was made.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use executor_shm::InstanceName;
use executor_shm::inspect::{Inspector, Saved, SavedFile};
use serde_json::{Value, json};

use crate::units::{counted, nanoseconds};

/// What the help says of a copy.
pub(crate) const CONSISTENT: &str = "\
A copy may be made while everybody is at work. A record in it is one task's, whole, or `torn` where its slot was written \
meanwhile: never a mixture. In each lane at most one task is in flight, those before it ended and those behind it wait, and \
the counts agree with that. Lanes are copied one after the other, the counts of handlers and workers last, so these may be \
ahead. Requests and responses past what lies in a record (32 and 24 bytes) are left out: they may be secret. Look at it with \
--from DIR; files are mode 0600.";

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "no room in {folder} for {path}; nothing of the copy is left there: make room, or save to another folder",
        folder = folder.display(), path = path.display()
    )]
    NoRoom { folder: PathBuf, path: PathBuf },
    #[error("{path} is there already; save to another folder, or remove it", path = path.display())]
    Taken { path: PathBuf },
}

/// The name of the file that says when a copy was made.
fn note(instance: &InstanceName) -> String {
    format!("executor.{instance}.saved.json")
}

/// Copies an instance into a folder and tells what came of it, as text and as JSON.
///
/// # Errors
///
/// A file cannot be written, or one is there already; what was written until then is removed.
pub(crate) fn save(
    inspector: &Inspector,
    instance: &InstanceName,
    folder: &Path,
) -> Result<(String, Value), SaveError> {
    let mut written = Vec::new();
    let saved = write_copy(inspector, instance, folder, &mut written);
    if saved.is_err() {
        for path in &written {
            let _ = std::fs::remove_file(path); // half a copy would fill the disk and stand in the way of the next
        }
    }
    saved
}

/// Copies an instance; each file that was made, whole or not, is in `written`.
fn write_copy(
    inspector: &Inspector,
    instance: &InstanceName,
    folder: &Path,
    written: &mut Vec<PathBuf>,
) -> Result<(String, Value), SaveError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: std::io::Error| match source.kind() {
            ErrorKind::AlreadyExists => SaveError::Taken { path },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SaveError::NoRoom { folder: folder.to_owned(), path },
            _ => SaveError::Write { path, source },
        }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    // Of another life of the instance there may be lanes of other names: the note and `status` are never missing.
    for name in [note(instance), format!("executor.{instance}.status")] {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(SaveError::Taken { path });
        }
    }
    let began = std::time::Instant::now();
    let mut files = 0u64;
    let saved = inspector.save(|file| {
        files += 1;
        let path = folder.join(&file.name);
        let mut out = create(&path, written).map_err(failed(&path))?;
        write(&mut out, &file).map_err(failed(&path))
    })?;
    let took_ns = began.elapsed().as_nanos() as u64;
    let saved_at_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let note_path = folder.join(note(instance));
    let said = json!({"instance": instance.as_str(), "saved_at_ns": saved_at_ns, "alive": inspector.is_alive()});
    let words = format!("{said:#}\n").into_bytes();
    create(&note_path, written).and_then(|mut file| file.write_all(&words)).map_err(failed(&note_path))?;
    let Saved { lanes, tasks, torn, unreadable, without_journal } = saved;
    let mut text = format!(
        "instance {instance}: {} saved to {} in {}: {}, {}, {torn} torn; look with: shm-dump show {instance} --from {}\n",
        counted(files + 1, "file"),
        folder.display(),
        nanoseconds(took_ns),
        counted(lanes.into(), "lane"),
        counted(tasks, "whole task"),
        folder.display(),
    );
    for (lane, why) in &unreadable {
        text.push_str(&format!("lane {lane} is left out: {why}\n"));
    }
    if let Some(why) = &without_journal {
        text.push_str(&format!("the journal is left out, and with it which tasks are in flight: {why}\n"));
    }
    let left_out: Vec<Value> = unreadable.iter().map(|(lane, why)| json!({"lane": lane, "why": why})).collect();
    let json = json!({
        "instance": instance.as_str(),
        "folder": folder.to_string_lossy(),
        "saved_at_ns": saved_at_ns,
        "took_ns": took_ns,
        "files": files + 1,
        "lanes": lanes,
        "tasks": tasks,
        "torn": torn,
        "left_out": left_out,
        "without_journal": without_journal,
    });
    Ok((text, json))
}

/// A new file that only its owner reads.
fn create(path: &Path, written: &mut Vec<PathBuf>) -> std::io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    written.push(path.to_owned());
    Ok(file)
}

fn write(out: &mut File, file: &SavedFile) -> std::io::Result<()> {
    let bytes: Vec<u8> = file.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    out.write_all(&bytes)?;
    out.set_len(file.bytes) // what is behind is zeros that take no room
}

/// When a copy was made, in nanoseconds since 1970; `None` for one that was made by other means.
pub(crate) fn saved_at(instance: &InstanceName, folder: &Path) -> Option<u64> {
    noted(instance, folder)?.get("saved_at_ns")?.as_u64()
}

/// Whether a sidecar served the instance when it was copied; `None` for a copy that was made by other means.
pub(crate) fn was_alive(instance: &InstanceName, folder: &Path) -> Option<bool> {
    noted(instance, folder)?.get("alive")?.as_bool()
}

fn noted(instance: &InstanceName, folder: &Path) -> Option<Value> {
    let path = folder.join(note(instance));
    let is_file = path.metadata().is_ok_and(|found| found.is_file()); // not a pipe that nobody writes to
    serde_json::from_str(&std::fs::read_to_string(Some(path).filter(|_| is_file)?).ok()?).ok()
}
