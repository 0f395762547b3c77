//! What a kill leaves: the files of an instance, by name, and the page of effects.
//!
//! Files are kept in pages that images share, so that some hundred images of one operation take little more than one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use executor_shm::InstanceName;
use executor_shm::core::record::{COMMIT, WORDS};
use executor_shm::layout::{Geometry, header, journal, lane, status};
use executor_shm::state::LaneWord;

/// The sizes of every instance of the harness: the least that has room for what is tried.
pub(crate) const GEOMETRY: Geometry =
    Geometry { capacity: 8, request_bytes: 64, response_bytes: 64, lanes: 3, handlers: 8, workers: 2 };

const DIRECTORY: &str = "/dev/shm";
const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// Bytes of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: usize,
    pub(crate) mode: u32,
    /// Somebody held a write lock on it. A kill frees it; a late attacher still meets it.
    pub(crate) locked: bool,
    pub(crate) pages: Vec<Arc<Page>>,
}

/// The files of an instance by what follows `executor.<instance>.` in their names, and the effects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) files: BTreeMap<String, Content>,
    pub(crate) effects: Vec<u8>,
}

/// `executor.<instance>.`
pub(crate) fn prefix(instance: &InstanceName) -> String {
    format!("executor.{instance}.")
}

/// Where a file of an instance is.
pub(crate) fn path(instance: &InstanceName, suffix: &str) -> PathBuf {
    Path::new(DIRECTORY).join(prefix(instance) + suffix)
}

/// What follows `executor.<instance>.` in the names of its files, sorted.
pub(crate) fn suffixes(instance: &InstanceName) -> Vec<String> {
    let prefix = prefix(instance);
    let names = fs::read_dir(DIRECTORY).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect();
    names.sort();
    names
}

/// Removes every file of an instance.
pub(crate) fn remove(instance: &InstanceName) {
    for suffix in suffixes(instance) {
        let _ = fs::remove_file(path(instance, &suffix));
    }
}

impl Content {
    /// The bytes of an open file; pages that are those of `like` are shared with it.
    pub(crate) fn read(file: &File, like: Option<&Content>) -> Self {
        let facts = file.metadata().unwrap();
        let bytes = facts.len() as usize;
        let mut all = vec![0; bytes.next_multiple_of(PAGE)];
        file.read_exact_at(&mut all[..bytes], 0).unwrap();
        let pages = all.chunks_exact(PAGE).enumerate().map(|(at, chunk)| {
            let page: &Page = chunk.try_into().unwrap();
            let same = like.and_then(|like| like.pages.get(at)).filter(|same| same[..] == page[..]);
            same.map_or_else(|| Arc::new(*page), Arc::clone)
        });
        Self { bytes, mode: facts.permissions().mode() & 0o7777, locked: false, pages: pages.collect() }
    }

    /// Bytes of whole pages before those that only count: the meter of `status` is no part of what a kill decides.
    pub(crate) fn head(bytes: usize) -> usize {
        if bytes == GEOMETRY.status_bytes() { GEOMETRY.meter() * 8 } else { bytes }
    }

    /// The first word in which `bytes`, the head of the file now, differ: where, before and now.
    pub(crate) fn difference(&self, bytes: &[u8]) -> Option<(usize, u64, u64)> {
        let mut pairs = self.pages.iter().zip(bytes.chunks(PAGE)).enumerate();
        let (at, (page, chunk)) = pairs.find(|(_, (page, chunk))| page[..chunk.len()] != **chunk)?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let mut words = page.chunks_exact(8).zip(chunk.chunks_exact(8)).enumerate();
        let (within, (old, new)) = words.find(|(_, (old, new))| old != new)?;
        Some((at * PAGE / 8 + within, word(old), word(new)))
    }

    /// Word `at`, 0 past the end.
    pub(crate) fn word(&self, at: usize) -> u64 {
        let page = self.pages.get(at * 8 / PAGE);
        page.map_or(0, |page| {
            let at = at * 8 % PAGE;
            u64::from_le_bytes(std::array::from_fn(|i| page[at + i]))
        })
    }

    /// Stores a word, as a stranger would.
    pub(crate) fn set_word(&mut self, at: usize, value: u64) {
        let page = Arc::make_mut(&mut self.pages[at * 8 / PAGE]);
        page[at * 8 % PAGE..][..8].copy_from_slice(&value.to_le_bytes());
    }

    /// What counts of it, hashed into `state`.
    fn hash(&self, mut state: u64) -> u64 {
        let mut add = |word: u64| state = (state ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        add(self.bytes as u64);
        add(u64::from(self.mode));
        for at in 0..Self::head(self.bytes) / 8 {
            add(self.word(at));
        }
        state
    }
}

impl Image {
    /// The files of an instance that no process writes now.
    pub(crate) fn capture(instance: &InstanceName, effects: Vec<u8>) -> Self {
        let read = |suffix: String| {
            let file = File::open(path(instance, &suffix)).unwrap();
            (suffix, Content::read(&file, None))
        };
        Self { files: suffixes(instance).into_iter().map(read).collect(), effects }
    }

    /// Writes the files under another instance's name.
    pub(crate) fn restore(&self, instance: &InstanceName) {
        for (suffix, content) in &self.files {
            let path = path(instance, suffix);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
            file.set_len(content.bytes as u64).unwrap();
            for (at, page) in content.pages.iter().enumerate() {
                let begin = at * PAGE;
                let end = content.bytes.min(begin + PAGE);
                if page.iter().any(|&byte| byte != 0) {
                    file.write_all_at(&page[..end - begin], begin as u64).unwrap();
                }
            }
            file.set_permissions(Permissions::from_mode(content.mode)).unwrap();
        }
    }

    /// A number for what counts of it.
    pub(crate) fn hash(&self) -> u64 {
        let mut state = 0xcbf2_9ce4_8422_2325;
        let mut bytes = |bytes: &[u8]| {
            for &byte in bytes {
                state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        bytes(&self.effects);
        self.files.keys().for_each(|name| bytes(name.as_bytes()));
        self.files.values().fold(state, |state, content| content.hash(state))
    }

    /// Word `at` of a file, 0 if there is no such file or word.
    pub(crate) fn word(&self, suffix: &str, at: usize) -> u64 {
        self.files.get(suffix).map_or(0, |content| content.word(at))
    }

    /// The state in the header of `status`.
    pub(crate) fn instance_state(&self) -> u64 {
        self.word("status", header::STATE)
    }

    /// Whether there are files and no journal among them.
    pub(crate) fn has_lost_its_journal(&self) -> bool {
        !self.files.is_empty() && !self.files.contains_key("journal")
    }

    /// State, reason and nonce of a lane, as the journal has them.
    pub(crate) fn lane_word(&self, number: u32) -> LaneWord {
        LaneWord::from_word(self.word("journal", GEOMETRY.journal_lane(number) + journal::k::STATE))
    }

    /// The same in the mirror.
    pub(crate) fn mirror(&self, number: u32) -> LaneWord {
        LaneWord::from_word(self.word("status", GEOMETRY.gate(number) + status::GATE_STATE))
    }

    /// The commit word of a slot in an `sq` or `cq`.
    pub(crate) fn commit(&self, suffix: &str, position: u64) -> u64 {
        self.word(suffix, slot(position) + COMMIT)
    }
}

/// Where the slot of a position begins in a lane's file.
pub(crate) fn slot(position: u64) -> usize {
    lane::SLOTS + (position & GEOMETRY.mask()) as usize * WORDS
}

/// What stands at word `at` of a file, for people.
pub(crate) fn name_of_word(suffix: &str, bytes: usize, at: usize) -> String {
    let in_lane = |kind: &str| match at.checked_sub(lane::SLOTS) {
        Some(inside) if at < GEOMETRY.buffers() => format!("{kind} slot {} w{}", inside / WORDS, inside % WORDS),
        Some(_) => format!("{kind} buffer {}", (at - GEOMETRY.buffers()) / (GEOMETRY.request_bytes as usize / 8)),
        None if at == lane::WISH => format!("{kind} wish"),
        None => format!("{kind} word {at}"),
    };
    match bytes {
        _ if suffix.ends_with("sq") => in_lane("sq"),
        _ if suffix.ends_with("cq") => in_lane("cq"),
        bytes if bytes == GEOMETRY.journal_bytes() => match at.checked_sub(journal::LANES) {
            Some(inside) => {
                let names = ["attempts", "verdict", "started_at", "state", "base", "generation", "resets", "placement"];
                let (number, word) = (inside / journal::LANE_WORDS, inside % journal::LANE_WORDS);
                match word {
                    0..8 => format!("journal lane {number} J.w{word}"),
                    8..16 => format!("journal lane {number} K.{}", names[word - 8]),
                    word => format!("journal lane {number} spare {word}"),
                }
            }
            None => format!("journal word {at}"),
        },
        bytes if bytes == GEOMETRY.status_bytes() => match at.checked_sub(GEOMETRY.lane_table()) {
            Some(inside) if at < GEOMETRY.row(0) => {
                format!("status lane {} word {}", inside / status::LANE_WORDS, inside % status::LANE_WORDS)
            }
            Some(_) => {
                let inside = at - GEOMETRY.row(0);
                format!("status row {} word {}", inside / status::ROW_WORDS, inside % status::ROW_WORDS)
            }
            None => format!("status word {at}"),
        },
        _ => format!("{suffix} word {at}"),
    }
}
