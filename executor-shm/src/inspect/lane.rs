//! One lane as it stands, from the lane table, its rings and its journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire};

use executor_core::Status;
use executor_core::histogram::HistogramSnapshot;
use executor_core::meter::{COUNTS, REQUEST_BYTES, RESPONSE_BYTES};
use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord, WORDS};
use nix::fcntl::OFlag;

use super::{Inspector, ProducerView, one_line};
use crate::files;
use crate::layout::{Kind, header, journal::k, lane as sq_words, status};
use crate::mapped::ReadWords;
use crate::sigbus::BROKEN;
use crate::state::LaneState;
use crate::status::{self as table, Placement};
use crate::words::Words;

/// The task whose handler runs, or ran when the sidecar died.
#[derive(Clone, Copy, Debug)]
pub struct InFlightView {
    /// Its position.
    pub position: u64,
    /// The handler it asked for.
    pub handler_id: u32,
    /// Payload bytes.
    pub length: u32,
    /// When it was submitted, in ticks; 0 unknown.
    pub submitted_at: u64,
    /// When it was started, in ticks; 0 unknown.
    pub started_at: u64,
    /// Which attempt this is.
    pub attempt: u16,
}

/// One lane as it stands.
#[derive(Clone, Debug)]
pub struct LaneView {
    /// Its number.
    pub lane: u32,
    /// Its state; `None` for a damaged word.
    pub state: Option<LaneState>,
    /// Poison code, 0 none.
    pub reason: u8,
    /// Its nonce.
    pub nonce: u64,
    /// Its priority and worker.
    pub placement: Placement,
    /// Added to positions to make task ids.
    pub base: u64,
    /// How often it was reset.
    pub resets: u64,
    /// The owner's pid as the owner told it, 0 none.
    pub owner: u64,
    /// Whether its worker sleeps now, and must be woken by whoever submits.
    pub sleeping: bool,
    /// Wake-ups of its producers that found nobody asleep, over all owners.
    pub useless_wakes: u64,
    /// Whether somebody holds its lock now; `None` where that cannot be seen.
    pub attached: Option<bool>,
    /// Tasks started by this owner; `None` where the journal may not be read.
    pub started: Option<u64>,
    /// Tasks completed for this owner.
    pub completed: Option<u64>,
    /// Tasks committed and not started.
    pub depth: Option<u64>,
    /// The task in flight.
    pub in_flight: Option<InFlightView>,
    /// Why positions and the task in flight are unknown: one clause; `None` where they are known.
    pub unreadable: Option<String>,
    /// What its owner counts; `None` where that may not be read.
    pub producer: Option<ProducerView>,
    /// Tasks that did not end as Done, by status byte, over all owners.
    pub by_status: [u64; Status::CODES],
    /// Bytes of requests that were run, over all owners.
    pub request_bytes: u64,
    /// Bytes of responses that were given, over all owners.
    pub response_bytes: u64,
    /// From submit to end, in ticks, over all owners.
    pub total: HistogramSnapshot,
}

/// The files of one lane, which its producer can truncate at any moment. Where the sidecar's handlers are installed they then
/// read as zeros; elsewhere that ends the process.
#[derive(Debug)]
pub(super) struct LaneFiles {
    sq: ReadWords,
    cq: ReadWords,
    /// Raised by a load past the end of either.
    poison: Arc<AtomicU32>,
}

/// What the rings of a lane and its journal say.
struct Positions {
    started: u64,
    completed: u64,
    depth: u64,
    in_flight: Option<InFlightView>,
    producer: ProducerView,
}

impl LaneFiles {
    /// What `read` makes of the two rings, if they were whole until it was done.
    pub(super) fn read<T>(&self, read: impl FnOnce(&ReadWords, &ReadWords) -> T) -> Result<T, String> {
        let read = read(&self.sq, &self.cq);
        if self.poison.load(Acquire) & BROKEN != 0 {
            return Err("one of its files was truncated meanwhile".to_owned());
        }
        Ok(read)
    }
}

impl Inspector {
    pub(super) fn lane_files(&self, lane: u32, nonce: u64) -> Result<LaneFiles, String> {
        let instance = self.status.load(header::NONCE);
        let poison = Arc::new(AtomicU32::new(0));
        let file = |name: String, kind, bytes| {
            let words = self.map(&name).map_err(|error| one_line(&error))?;
            words.guard(&poison);
            self.prove(words, &name, kind, instance, bytes).map_err(|error| one_line(&error))
        };
        let sq = file(self.instance.sq(lane, nonce), Kind::Sq, self.geometry.sq_bytes())?;
        let cq = file(self.instance.cq(lane, nonce), Kind::Cq, self.geometry.cq_bytes())?;
        Ok(LaneFiles { sq, cq, poison })
    }

    pub(super) fn lane(&self, lane: u32) -> Option<LaneView> {
        let row = table::load_lane(&self.status, &self.geometry, lane);
        if row.word.word() == 0 {
            return None;
        }
        let at = self.geometry.meter_layout().lane(lane as usize);
        let mut view = LaneView {
            lane,
            state: row.word.state(),
            reason: row.word.reason(),
            nonce: row.word.nonce(),
            placement: row.placement,
            base: row.base,
            resets: row.resets,
            owner: row.owner,
            sleeping: self.status.load(self.geometry.gate(lane) + status::GATE_SLEEPING) != 0,
            useless_wakes: self.status.load(self.geometry.gate(lane) + status::LANE_USELESS_WAKES),
            attached: None,
            started: None,
            completed: None,
            depth: None,
            in_flight: None,
            unreadable: None,
            producer: None,
            by_status: std::array::from_fn(|code| self.meter(at + code)),
            request_bytes: self.meter(at + REQUEST_BYTES),
            response_bytes: self.meter(at + RESPONSE_BYTES),
            total: self.histogram(at + COUNTS),
        };
        if self.life.is_some() {
            let probe = files::open(&self.instance.sq(lane, row.word.nonce()), OFlag::O_RDONLY);
            view.attached = probe.ok().and_then(|lock| lock.is_write_locked().ok());
        }
        match self.positions(lane, view.nonce) {
            Ok(Positions { started, completed, depth, in_flight, producer }) => {
                (view.started, view.completed, view.depth) = (Some(started), Some(completed), Some(depth));
                (view.in_flight, view.producer) = (in_flight, Some(producer));
            }
            Err(why) => view.unreadable = Some(why),
        }
        Some(view)
    }

    /// Positions and the task in flight, from the three files that only the same user may read.
    fn positions(&self, lane: u32, nonce: u64) -> Result<Positions, String> {
        let journal = self.journal.as_ref().map_err(String::clone)?;
        self.lane_files(lane, nonce)?.read(|sq, cq| self.positions_of(lane, journal, sq, cq))
    }

    fn positions_of(&self, lane: u32, journal: &ReadWords, sq: &ReadWords, cq: &ReadWords) -> Positions {
        let producer = ProducerView::load(sq);
        let slot = |position: u64| sq_words::SLOTS + (position & self.geometry.mask()) as usize * WORDS;
        let lines = self.geometry.journal_lane(lane);
        let started = journal.load_commit(lines + COMMIT);
        let record = DescriptorRecord { words: journal.load_record(lines) };
        let started_at = journal.load(lines + k::STARTED_AT);
        let attempts = journal.load(lines + k::ATTEMPTS);
        let completed = match started.checked_sub(1) {
            Some(last) if cq.load_commit(slot(last) + COMMIT) < started => last,
            _ => started,
        };
        // A worker that moved on since has made the record another task's; then there is nothing certain to tell.
        let is_certain = completed < started && journal.load_commit(lines + COMMIT) == started;
        let in_flight = is_certain.then(|| InFlightView {
            position: completed,
            handler_id: record.handler_id(),
            length: record.length(),
            submitted_at: record.submitted_at(),
            started_at,
            attempt: if attempts >> 8 == completed { (attempts as u16 & 0xff).max(1) } else { 1 },
        });
        let capacity = u64::from(self.geometry.capacity);
        let waits = |position: u64| sq.load_commit(slot(position) + COMMIT) > position;
        let depth = (0..capacity).take_while(|ahead| waits(started.wrapping_add(*ahead)));
        let depth = depth.count() as u64;
        let producer = producer.agree(started.saturating_add(depth));
        Positions { started, completed, depth, in_flight, producer }
    }

    /// The completion of `position` in lane `lane` with this nonce, if its slot still holds it.
    pub fn completion(&self, lane: u32, nonce: u64, position: u64) -> Option<CompletionRecord> {
        let slot = sq_words::SLOTS + (position & self.geometry.mask()) as usize * WORDS;
        let look = |_: &ReadWords, cq: &ReadWords| {
            let is_there = cq.load_commit(slot + COMMIT) == position.wrapping_add(1);
            is_there.then(|| CompletionRecord { words: cq.load_record(slot) })
        };
        self.lane_files(lane, nonce).ok()?.read(look).ok()?
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use executor_core::Registry;
    use executor_core::idle::IdleStrategy;

    use super::*;
    use crate::{Ending, InstanceName, Sidecar};

    #[test]
    fn a_lane_that_was_truncated_under_its_reader_is_no_figure_and_no_end() {
        let instance = InstanceName::new(&format!("inspect-cut-{}", std::process::id())).unwrap();
        let builder = Sidecar::builder().instance(instance.clone()).registry(Registry::builder().build().unwrap());
        let sidecar = builder.capacity(8).lanes(2).pinned(false).idle(IdleStrategy::Yield).start().unwrap();
        let inspector = Inspector::open(&instance).unwrap();
        let lanes = inspector.look().lanes;
        assert!(lanes.iter().all(|lane| lane.unreadable.is_none()) && lanes.len() == 2);
        for (lane, name) in lanes.iter().zip([InstanceName::sq, InstanceName::cq]) {
            let files = inspector.lane_files(lane.lane, lane.nonce).unwrap();
            let path = format!("/dev/shm/{}", name(&instance, lane.lane, lane.nonce));
            let load = |sq: &ReadWords, cq: &ReadWords| sq.load(sq_words::SLOTS) | cq.load(sq_words::SLOTS);
            assert_eq!(files.read(load), Ok(0));
            File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            assert!(files.read(load).unwrap_err().contains("truncated"));
        }
        sidecar.stop();
        assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
    }
}
