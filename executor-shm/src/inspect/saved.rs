//! A copy of an instance's files to look at elsewhere, made while their writers may be at work.
//!
//! It is no copy of bytes: those of a slot that is written meanwhile would be half of one task and half of another, and nobody
//! could tell afterwards. Each lane is copied by the rules of [`records`](super::records), the newest task first.
//!
//! # What is consistent
//! - S1: a row of the copy is one task's, whole, or it is torn: its slot was written meanwhile, and the copy says so.
//! - S2: the tasks of a lane are at most one in flight, those before it ended or torn, those behind it waiting, and the counts
//!   agree with that. For a task is looked at after those behind it, and a task is never started before those ahead ended.
//! - S3: every count is whole. Those of `status` are of one moment after all lanes, so they may be ahead of the rows; lanes
//!   are from different moments.
//! - S4: a row of the flight recorder is whole, or it is torn as one whose writer died in it.
//!
//! Buffers are left out: they may hold secrets, and no view shows them. What lies in a record itself is there.

use executor_core::record::{COMMIT, WORDS};
use executor_core::recorder::Reader;

use super::Inspector;
use super::records::{Phase, Rings, TaskView};
use crate::layout::{LINE, geometry, journal::k, lane::SLOTS, status};
use crate::status as table;
use crate::words::Words;

/// Times a lane is looked at again that was reset meanwhile.
const LOOKS: u32 = 8;

/// A file of a copy.
#[derive(Clone, Debug)]
pub struct SavedFile {
    /// Its name.
    pub name: String,
    /// Its length; what lies behind its words is zeros.
    pub bytes: u64,
    /// How it begins.
    pub words: Vec<u64>,
}

/// What a copy came to.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Lanes that are in it.
    pub lanes: u32,
    /// Tasks that are in it whole.
    pub tasks: u64,
    /// Tasks whose slots were written meanwhile.
    pub torn: u64,
    /// Lanes that are not in it, and why.
    pub unreadable: Vec<(u32, String)>,
    /// Why the journal is not in it; `None` if it is.
    pub without_journal: Option<String>,
}

/// A lane as a copy holds it.
#[derive(Debug)]
pub(super) struct LaneImage {
    pub(super) sq: Vec<u64>,
    pub(super) cq: Vec<u64>,
    /// Position + 1 of the task that was started last, its record without the commit word, and when that was.
    pub(super) started: (u64, [u64; WORDS], u64),
    pub(super) tasks: u64,
    pub(super) torn: u64,
}

impl LaneImage {
    pub(super) fn new<W: Words>(rings: &Rings<'_, W>) -> Self {
        let words = rings.geometry.buffers();
        let head = |ring: &W| (0..words).map(|at| if at < SLOTS { ring.load(at) } else { 0 }).collect::<Vec<u64>>();
        let mut image = Self { sq: head(rings.sq), cq: head(rings.cq), started: (0, [0; WORDS], 0), tasks: 0, torn: 0 };
        let positions = rings.last(rings.geometry.capacity as usize);
        // Where nothing of it was started, or all that was is past.
        image.started.0 = positions.start;
        if let Some(past) = positions.start.checked_sub(1)
            && let Some(word) = image.cq.get_mut(rings.slot(past) + COMMIT)
        {
            *word = positions.start; // so that a reader knows it is answered, and leaves it out too
        }
        let end = positions.end;
        for position in positions.rev() {
            // S2: the newest first.
            let task = rings.task(position);
            image.commit(rings, position, task.as_ref());
            // The oldest of a whole lap is left out by a reader once it is answered.
            let is_left_out = task.is_none() && end.wrapping_sub(position) == u64::from(rings.geometry.capacity);
            image.tasks += u64::from(task.is_some());
            image.torn += u64::from(task.is_none() && !is_left_out);
        }
        image
    }

    /// Puts a task into its slots; one that is torn was answered, or its slot would not have been written.
    fn commit<W: Words>(&mut self, rings: &Rings<'_, W>, position: u64, task: Option<&TaskView>) {
        let (slot, commit) = (rings.slot(position), position.wrapping_add(1));
        let put = |ring: &mut Vec<u64>, words: [u64; WORDS]| {
            for (into, word) in ring.iter_mut().skip(slot).zip(words) {
                *into = word;
            }
            if let Some(into) = ring.get_mut(slot + COMMIT) {
                *into = commit;
            }
        };
        let started = match task {
            None => {
                put(&mut self.cq, [0; WORDS]);
                Some(([0; WORDS], 0))
            }
            Some(TaskView { descriptor, phase }) => {
                put(&mut self.sq, descriptor.words);
                match phase {
                    Phase::Waiting | Phase::Unanswered => None,
                    Phase::InFlight { started_at } => Some((descriptor.words, *started_at)),
                    Phase::Ended(end) => {
                        put(&mut self.cq, end.words);
                        Some((descriptor.words, end.started_at()))
                    }
                }
            }
        };
        if let Some((words, at)) = started.filter(|_| commit > self.started.0) {
            self.started = (commit, words, at);
        }
    }
}

impl Inspector {
    /// Copies the instance, and hands over file by file, `status` last: a copy without it is none.
    ///
    /// # Errors
    ///
    /// What `keep` says.
    pub fn save<E>(&self, mut keep: impl FnMut(SavedFile) -> Result<(), E>) -> Result<Saved, E> {
        let mut saved = Saved { without_journal: self.journal.as_ref().err().cloned(), ..Saved::default() };
        let mut journal = self.journal.as_ref().map(all).ok();
        let mut rows = Vec::new();
        for lane in 0..self.geometry.lanes {
            let Some((row, image)) = self.lane_image(lane) else { continue };
            let image = match image {
                Ok(image) => image,
                Err(why) => {
                    saved.unreadable.push((lane, why));
                    continue;
                }
            };
            saved.lanes += 1;
            saved.tasks += image.tasks;
            saved.torn += image.torn;
            if let Some(journal) = &mut journal {
                self.put_started(journal, lane, &row, &image);
            }
            let nonce = row.word.nonce();
            let (sq, cq) = (self.geometry.sq_bytes() as u64, self.geometry.cq_bytes() as u64);
            keep(SavedFile { name: self.instance.sq(lane, nonce), bytes: sq, words: image.sq })?;
            keep(SavedFile { name: self.instance.cq(lane, nonce), bytes: cq, words: image.cq })?;
            rows.push((lane, row));
        }
        if let Some(words) = journal {
            keep(SavedFile { name: self.instance.journal(), bytes: words.len() as u64 * 8, words })?;
        }
        let mut words = all(&self.status);
        let (layout, meter) = (self.geometry.meter_layout(), self.geometry.meter());
        Reader::new(&layout, |at| self.status.load_commit(meter + at)).copy_rows(|at, row| {
            row.iter().enumerate().for_each(|(word, &value)| put(&mut words, meter + at + word, value)); // S4
        });
        for (lane, row) in rows {
            let gate = self.geometry.gate(lane);
            put(&mut words, gate + status::GATE_STATE, row.word.word());
            put(&mut words, gate + status::LANE_BASE, row.base);
        }
        self.put_clock(&mut words);
        keep(SavedFile { name: self.instance.status(), bytes: words.len() as u64 * 8, words })?;
        Ok(saved)
    }

    /// A lane and its row of the lane table, of one life of it; `None` if it was never made.
    fn lane_image(&self, lane: u32) -> Option<(table::LaneFactsRow, Result<LaneImage, String>)> {
        let mut looks = 0;
        loop {
            looks += 1;
            let row = table::load_lane(&self.status, &self.geometry, lane);
            if row.word.word() == 0 {
                return None;
            }
            let read = |sq: &_, cq: &_| {
                let (geometry, journal) = (self.geometry, self.journal.as_ref().ok());
                LaneImage::new(&Rings { lane, geometry, sq, cq, journal })
            };
            let image = self.lane_files(lane, row.word.nonce()).and_then(|files| files.read(read));
            let after = table::load_lane(&self.status, &self.geometry, lane);
            let is_same = (after.word.nonce(), after.base) == (row.word.nonce(), row.base);
            if is_same || looks == LOOKS {
                let image = if is_same { image } else { Err("it was reset again and again meanwhile".to_owned()) };
                return Some((row, image));
            }
        }
    }

    /// The lines of a lane in the journal, as its rows have it.
    fn put_started(&self, journal: &mut [u64], lane: u32, row: &table::LaneFactsRow, image: &LaneImage) {
        let lines = self.geometry.journal_lane(lane);
        let (started, words, at) = image.started;
        for (word, value) in words.into_iter().enumerate() {
            put(journal, lines + word, value);
        }
        put(journal, lines + COMMIT, started);
        put(journal, lines + k::STARTED_AT, at);
        put(journal, lines + k::STATE, row.word.word());
        put(journal, lines + k::BASE, row.base);
    }

    /// The calibration whole: its sequence may have been odd while it was copied.
    fn put_clock(&self, words: &mut [u64]) {
        let Ok(clock) = table::load_clock(&self.status) else { return };
        let calibration = clock.calibration();
        put(words, status::CLOCK_SEQUENCE, 2);
        put(words, status::CLOCK_TICKS, calibration.ticks);
        put(words, status::CLOCK_MONOTONIC, calibration.monotonic_ns);
        put(words, status::CLOCK_REALTIME, calibration.realtime_ns);
        put(words, status::CLOCK_RATE, calibration.ticks_per_second);
        put(words, geometry::CLOCK, clock.source().code());
    }
}

fn all(words: &impl Words) -> Vec<u64> {
    (0..words.len()).map(|at| words.load(at)).collect()
}

fn put(words: &mut [u64], at: usize, value: u64) {
    if let Some(word) = words.get_mut(at) {
        *word = value;
    }
}

const _: () = assert!(COMMIT == 0 && WORDS == LINE);
