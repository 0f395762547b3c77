//! Which files the demo hashes, and which producer hashes which.

use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

/// One file to hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Where it is, as it was found.
    pub(crate) path: PathBuf,
    /// Its size when it was found.
    pub(crate) bytes: u64,
}

/// Something named or found that cannot be hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// One clause.
    pub(crate) why: String,
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Regular files, in the order of their names.
    pub(crate) files: Vec<Candidate>,
    /// What could not be looked at.
    pub(crate) skipped: Vec<Skipped>,
    /// Files left out because all of them together are past the limit.
    pub(crate) left_out: u64,
}

/// Finds the regular files under `roots`, links neither followed nor taken (save a root that is a link to a
/// folder), until they add up to `limit` bytes: a file that would go past it is left out, a smaller one behind it is
/// taken. With `all`, hidden and ignored files
/// (`.gitignore` and its like) are found too.
pub(crate) fn select(roots: &[PathBuf], limit: u64, all: bool) -> Selection {
    let mut selection = Selection::default();
    let Some((first, others)) = roots.split_first() else { return selection };
    let mut walk = WalkBuilder::new(first);
    for root in others {
        walk.add(root);
    }
    walk.standard_filters(!all).follow_links(false).sort_by_file_name(Ord::cmp);
    let mut room = limit;
    for entry in walk.build() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                selection.skipped.push(skipped_by(error));
                continue;
            }
        };
        let Some(kind) = entry.file_type() else { continue };
        let link = entry.path_is_symlink(); // of a root that is a link, the kind is that of its target
        if link || !kind.is_file() {
            if entry.depth() == 0 && !kind.is_dir() {
                let named = if link { "a symbolic link" } else { "a device, a socket or a pipe" };
                let why = format!("it is {named}; only regular files are hashed");
                selection.skipped.push(Skipped { path: entry.into_path(), why });
            }
            continue;
        }
        match entry.metadata() {
            Ok(facts) if facts.len() <= room => {
                room -= facts.len();
                selection.files.push(Candidate { bytes: facts.len(), path: entry.into_path() });
            }
            Ok(_) => selection.left_out += 1,
            Err(error) => selection.skipped.push(skipped_by(error)),
        }
    }
    selection
}

/// Splits `files` into `count` shares of about the same work, each with its largest file first, so that the last files
/// in flight are small ones.
pub(crate) fn share(mut files: Vec<Candidate>, count: usize) -> Vec<Vec<Candidate>> {
    /// What opening a file costs beside reading it, in bytes read meanwhile.
    const OPEN: u64 = 16 * 1024;
    let mut shares: Vec<(u64, Vec<Candidate>)> = vec![Default::default(); count.max(1)];
    files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    for file in files {
        if let Some((work, share)) = shares.iter_mut().min_by_key(|(work, _)| *work) {
            *work += file.bytes + OPEN;
            share.push(file);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

fn skipped_by(error: ignore::Error) -> Skipped {
    match error {
        ignore::Error::WithPath { path, err } => Skipped { path, why: cause(&err) },
        ignore::Error::WithDepth { err, .. } => skipped_by(*err),
        other => Skipped { path: PathBuf::new(), why: other.to_string() },
    }
}

/// The system's words without its number and without the path, which stands beside it.
fn cause(error: &ignore::Error) -> String {
    match error.io_error() {
        Some(io) => reason(io),
        None => error.to_string(),
    }
}

/// An I/O error as one clause: the system's words without its number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let text = text.rsplit(": ").next().unwrap_or(text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Whether `path` names anything.
///
/// # Errors
///
/// One clause that says why not.
pub(crate) fn check_root(path: &Path) -> Result<(), String> {
    path.symlink_metadata().map(drop).map_err(|error| reason(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(path: &str, bytes: u64) -> Candidate {
        Candidate { path: path.into(), bytes }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("executord-files-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn found(selection: &Selection, below: &Path) -> Vec<String> {
        let name = |file: &Candidate| file.path.strip_prefix(below).unwrap().display().to_string();
        selection.files.iter().map(name).collect()
    }

    #[test]
    fn only_regular_files_are_selected_and_hidden_ones_on_demand() {
        let root = folder("kinds");
        std::fs::write(root.join("b"), "b").unwrap();
        std::fs::write(root.join("a"), "").unwrap();
        std::fs::write(root.join(".hidden"), "h").unwrap();
        std::os::unix::fs::symlink(root.join("b"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(&root, root.join("loop")).unwrap();
        let selection = select(std::slice::from_ref(&root), u64::MAX, false);
        assert_eq!(found(&selection, &root), ["a", "b"]);
        assert!(selection.skipped.is_empty(), "{:?}", selection.skipped);
        let selection = select(std::slice::from_ref(&root), u64::MAX, true);
        assert_eq!(found(&selection, &root), [".hidden", "a", "b"]);
        let selection = select(&[root.join("link"), root.join("none")], u64::MAX, false);
        assert_eq!((selection.files.len(), selection.skipped.len()), (0, 2), "a link and a missing file");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn files_past_the_limit_are_left_out_and_counted() {
        let root = folder("limit");
        for (name, bytes) in [("a", 60), ("b", 50), ("c", 40)] {
            std::fs::write(root.join(name), vec![0; bytes]).unwrap();
        }
        let selection = select(std::slice::from_ref(&root), 100, false);
        assert_eq!((found(&selection, &root), selection.left_out), (vec!["a".to_owned(), "c".to_owned()], 1));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn shares_hold_every_file_once_and_about_the_same_work() {
        let files: Vec<_> = (0..100).map(|i| candidate(&format!("{i}"), i * 10_000)).collect();
        let shares = share(files.clone(), 3);
        let mut all: Vec<_> = shares.iter().flatten().cloned().collect();
        all.sort_by_key(|file| file.bytes);
        assert_eq!(all, files);
        let work: Vec<u64> = shares.iter().map(|share| share.iter().map(|file| file.bytes).sum()).collect();
        assert!(work.iter().max().unwrap() - work.iter().min().unwrap() < 100_000, "{work:?}");
        assert!(shares.iter().all(|share| share.is_sorted_by(|a, b| a.bytes >= b.bytes)));
    }

    #[test]
    fn more_producers_than_files_leave_some_without_work() {
        let shares = share(vec![candidate("a", 1)], 3);
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 0]);
    }

    #[test]
    fn a_reason_is_one_lower_case_clause_without_numbers() {
        let error = std::fs::read("/nowhere/at/all").unwrap_err();
        assert_eq!(reason(&error), "no such file or directory");
    }
}
