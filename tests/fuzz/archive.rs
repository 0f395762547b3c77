//! A few files with little in them as one input.
//!
//! ```text
//! file    kind u8 | lane u8 | pages u8 | odd u8 | chunks u8 | nonce u64 | chunks
//! chunk   place u16, in words | words u8 | words
//! kind    bits 0-1: 0 status, 1 journal, 2 sq, 3 cq; bit 2: its header is one of this build, whatever the chunks say
//! odd     bytes that are missing from the last page
//! ```
//! With that bit seeds outlive a change of the layout, and no run ends at a hash that nobody guesses.

#![allow(dead_code, reason = "each program uses its half")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use executor_shm::layout::{ABI_VERSION, LAYOUT_HASH, MAGIC, header};

use crate::input::Input;

const PAGE_BYTES: usize = 4096;
const FILES_MAX: usize = 8;
const OF_THIS_BUILD: u8 = 1 << 2;

/// The file's name, of instance `fuzz`.
pub fn name(kind: u8, lane: u8, nonce: u64) -> String {
    match kind % 4 {
        0 => "executor.fuzz.status".to_owned(),
        1 => "executor.fuzz.journal".to_owned(),
        2 => format!("executor.fuzz.lane-{lane}-{nonce:014x}.sq"),
        _ => format!("executor.fuzz.lane-{lane}-{nonce:014x}.cq"),
    }
}

/// Makes the files that an input names; a later one of the same name writes into the earlier.
pub fn unpack(mut input: Input<'_>, folder: &Path) {
    for _ in 0..FILES_MAX {
        if input.is_empty() {
            return;
        }
        let (kind, lane, pages, odd, chunks) = (input.byte(), input.byte(), input.byte(), input.byte(), input.byte());
        let nonce = input.word() & (u64::MAX >> 8);
        let bytes = (usize::from(pages) * PAGE_BYTES).saturating_sub(odd.into());
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(folder.join(name(kind, lane, nonce)));
        let file = file.expect("a file in the folder");
        file.set_len(bytes as u64).expect("room for it");
        for _ in 0..chunks {
            let (at, words) = (usize::from(input.half()) * 8, usize::from(input.byte()));
            let chunk = input.bytes(words * 8);
            let chunk = &chunk[..chunk.len().min(bytes.saturating_sub(at))];
            file.write_all_at(chunk, at as u64).expect("room for it");
        }
        if kind & OF_THIS_BUILD != 0 && bytes >= PAGE_BYTES {
            let kind = u64::from(kind % 4) + 1;
            let words = [
                (header::MAGIC, MAGIC),
                (header::ABI_KIND, u64::from(ABI_VERSION) | kind << 32),
                (header::LAYOUT, LAYOUT_HASH),
            ];
            for (word, value) in words {
                file.write_all_at(&value.to_le_bytes(), word as u64 * 8).expect("room for it");
            }
        }
    }
}

/// The words of a file that are not 0, as an input says them.
pub fn pack(kind: u8, lane: u8, nonce: u64, content: &[u8], into: &mut Vec<u8>) {
    let words: Vec<&[u8]> = content.chunks(8).collect();
    let is_zero = |at: usize| words[at].iter().all(|&byte| byte == 0);
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if is_zero(at) {
            at += 1;
            continue;
        }
        let begin = at;
        // A gap of a word or two is shorter than another chunk.
        while at < words.len() && at - begin < 255 && (at..words.len().min(at + 3)).any(|at| !is_zero(at)) {
            at += 1;
        }
        chunks.push((begin, &content[begin * 8..at * 8]));
    }
    let pages = content.len().div_ceil(PAGE_BYTES);
    let odd = pages * PAGE_BYTES - content.len();
    chunks.truncate(255);
    into.extend([kind | OF_THIS_BUILD, lane, pages.min(255) as u8, odd.min(255) as u8, chunks.len() as u8]);
    into.extend(nonce.to_le_bytes());
    for (begin, chunk) in chunks {
        into.extend((begin as u16).to_le_bytes());
        into.push((chunk.len() / 8) as u8);
        into.extend(chunk);
    }
}
