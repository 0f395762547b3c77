//! Every lane's files that a producer ever had, kept mapped until the round is judged, so that no reset hides anything;
//! and what changed in them that must not.
//!
//! A completion is read twice at least: when it is first seen and in the end. Between its commit and the commit of a later
//! task in the same slot of `sq` not one of its words may change.

use std::os::fd::OwnedFd;

use executor_shm::core::record::{COMMIT, WORDS};
use executor_shm::layout::lane::SLOTS;
use executor_shm::words::Words;
use executor_tests::shared::KeptFile;

use crate::ledger::Life;
use crate::reckoning::LaneImage;

/// The files of one life.
#[derive(Debug)]
pub(crate) struct KeptLane {
    pub(crate) life: u64,
    pub(crate) facts: Life,
    sq: KeptFile,
    cq: KeptFile,
    capacity: u64,
    /// Of each slot of `cq` what was seen last, the commit word first.
    seen: Vec<[u64; WORDS]>,
}

impl KeptLane {
    fn slot(&self, position: u64) -> usize {
        SLOTS + (position % self.capacity) as usize * WORDS
    }

    /// The commit word of a task's slot in `sq`.
    pub(crate) fn submitted(&self, position: u64) -> u64 {
        self.sq.load_commit(self.slot(position) + COMMIT)
    }

    /// The descriptor of a task's slot in `sq`, with its commit word.
    pub(crate) fn descriptor(&self, position: u64) -> [u64; WORDS] {
        read(&self.sq, self.slot(position))
    }

    /// The commit word of a task's slot in `cq`.
    pub(crate) fn completed(&self, position: u64) -> u64 {
        self.cq.load_commit(self.slot(position) + COMMIT)
    }

    /// The completion of a task's slot in `cq`, with its commit word.
    pub(crate) fn completion(&self, position: u64) -> [u64; WORDS] {
        read(&self.cq, self.slot(position))
    }

    /// All slots of both rings as they are now.
    pub(crate) fn image(&self) -> LaneImage {
        let slots = || (0..self.capacity).map(|slot| self.slot(slot));
        LaneImage {
            sq: slots().map(|slot| read(&self.sq, slot)).collect(),
            cq: slots().map(|slot| read(&self.cq, slot)).collect(),
        }
    }

    /// Compares every completion with what it was; tells of each that changed.
    fn scan(&mut self, found: &mut Vec<String>) {
        for slot in 0..self.capacity {
            let commit = self.completed(slot);
            if commit == 0 && self.seen[slot as usize][COMMIT] == 0 {
                continue;
            }
            let now = self.completion(slot);
            if self.completed(slot) != commit {
                continue; // the next one was committed meanwhile; it is read at the next look
            }
            let before = std::mem::replace(&mut self.seen[slot as usize], now);
            if before == now {
                continue;
            }
            if before[COMMIT] == 0 {
                self.judge_first(slot, commit, found);
            } else if before[COMMIT] == commit {
                // A later task may be about to be completed here, if it was submitted.
                if self.submitted(slot) <= commit {
                    found.push(self.tell(slot, "changed after it was seen", &before, &now));
                }
            } else if commit < before[COMMIT] || !(commit - before[COMMIT]).is_multiple_of(self.capacity) {
                found.push(self.tell(slot, "was followed by no later task", &before, &now));
            }
        }
    }

    /// A commit word that no task of this slot can have.
    fn judge_first(&self, slot: u64, commit: u64, found: &mut Vec<String>) {
        if (commit - 1) % self.capacity != slot {
            let now = &self.seen[slot as usize];
            found.push(self.tell(slot, "is of no task of this slot", now, now));
        }
    }

    fn tell(&self, slot: u64, what: &str, before: &[u64; WORDS], now: &[u64; WORDS]) -> String {
        let Life { lane, nonce, producer, .. } = self.facts;
        format!(
            "the completion in slot {slot} of lane {lane} nonce {nonce:014x}, life {} of producer {producer}, {what}: \
             {before:x?}, then {now:x?}, beside the submission {:x?}",
            self.life,
            self.descriptor(slot)
        )
    }
}

fn read(words: &KeptFile, slot: usize) -> [u64; WORDS] {
    let commit = words.load_commit(slot + COMMIT);
    let mut record = words.load_record(slot);
    record[COMMIT] = commit;
    record
}

/// All kept lanes of a round.
#[derive(Debug, Default)]
pub(crate) struct Auditor {
    lanes: Vec<KeptLane>,
    /// Lanes before this one were given back long ago.
    retired: usize,
}

impl Auditor {
    /// Keeps the files of a life, which come as open files.
    pub(crate) fn keep(&mut self, life: u64, facts: Life, files: &[OwnedFd], capacity: u32) -> std::io::Result<()> {
        let [sq, cq] = files else { return Err(std::io::Error::other("a letter without the two files of a lane")) };
        let (sq, cq, capacity) = (KeptFile::map(sq)?, KeptFile::map(cq)?, u64::from(capacity));
        let seen = vec![[0; WORDS]; capacity as usize];
        self.lanes.push(KeptLane { life, facts, sq, cq, capacity, seen });
        Ok(())
    }

    /// Looks at the lanes that may still change; `is_current` says of which lane words are in force.
    pub(crate) fn scan(&mut self, is_current: impl Fn(&Life) -> bool, found: &mut Vec<String>) {
        while self.lanes.get(self.retired).is_some_and(|lane| !is_current(&lane.facts)) {
            self.lanes[self.retired].scan(found);
            self.retired += 1;
        }
        for lane in self.lanes.iter_mut().skip(self.retired).filter(|lane| is_current(&lane.facts)) {
            lane.scan(found);
        }
    }

    /// Looks at every lane once more.
    pub(crate) fn scan_all(&mut self, found: &mut Vec<String>) {
        self.lanes.iter_mut().for_each(|lane| lane.scan(found));
    }

    /// The files of a life.
    pub(crate) fn of_life(&self, life: u64) -> Option<&KeptLane> {
        self.lanes.iter().find(|lane| lane.life == life)
    }

    /// The files of a lane with this nonce.
    pub(crate) fn of_lane(&self, lane: u32, nonce: u64) -> Option<&KeptLane> {
        self.lanes.iter().rev().find(|kept| (kept.facts.lane, kept.facts.nonce) == (lane, nonce))
    }

    pub(crate) fn lanes(&self) -> &[KeptLane] {
        &self.lanes
    }
}
