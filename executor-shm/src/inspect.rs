//! Reading an instance from outside, living or dead: it maps everything read-only, takes no lock and believes nothing.
//!
//! A view is a copy made while its writers may be at work: every number is whole, and numbers beside each other may be
//! from slightly different moments. Where two of them would contradict each other the later one is clamped.

mod list;
mod producer;
mod recorded;
mod records;
mod saved;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire};

use executor_core::Clock;
use executor_core::Status;
use executor_core::histogram::{BUCKETS, HistogramSnapshot};
use executor_core::meter::{COUNTS, REQUEST_BYTES, RESPONSE_BYTES};
use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord, WORDS};
use nix::fcntl::OFlag;

use crate::boot::Boot;
use crate::files::{self, DIRECTORY, FileError, Header, InstanceName};
use crate::group::Group;
use crate::hold::HoldView;
use crate::layout::{ABI_VERSION, Geometry, GeometryError, Kind, header, journal::k, lane as sq_words, status};
use crate::mapped::ReadWords;
use crate::sigbus::BROKEN;
use crate::state::{InstanceState, LaneState};
use crate::status::{self as table, HandlerRow, Placement};
use crate::words::Words;

pub use list::{Listed, cpus_in_use, cpus_in_use_beside, list, list_copies};
pub use producer::ProducerView;
pub use recorded::Recorded;
pub use records::{LaneRecords, Phase, TaskRow, TaskView};
pub use saved::{Saved, SavedFile};
pub use worker::{ErrorsView, Gap, SLEEP_LANES, SleepView, TimeView, WorkerView};

/// Why an instance cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// There are no files of this name. `shm-dump list` shows which there are.
    #[error("there is no instance {instance} in {directory}; shm-dump list{} shows which there are", from(directory))]
    Missing {
        /// The instance.
        instance: InstanceName,
        /// Where it was looked for.
        directory: String,
    },
    /// A file could not be opened or believed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A size in `status` is impossible.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

/// How `shm-dump` is told where to look.
fn from(directory: &str) -> String {
    if directory == DIRECTORY { String::new() } else { format!(" --from {directory}") }
}

/// One handler as it stands, over all workers. Histograms are in ticks.
#[derive(Clone, Debug)]
pub struct HandlerView {
    /// Its registry row.
    pub row: HandlerRow,
    /// Tasks ended by status byte.
    pub by_status: [u64; Status::CODES],
    /// Bytes of requests that were run.
    pub request_bytes: u64,
    /// Bytes of responses that were given.
    pub response_bytes: u64,
    /// From submit to start.
    pub queue: HistogramSnapshot,
    /// From start to end.
    pub run: HistogramSnapshot,
}

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

/// An instance as it stands.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its name.
    pub instance: InstanceName,
    /// ABI of its files.
    pub abi: u32,
    /// Whether a sidecar holds the life lock; `None` for a copy in another folder.
    pub alive: Option<bool>,
    /// Its state; `None` for a damaged word.
    pub state: Option<InstanceState>,
    /// Its random number.
    pub nonce: u64,
    /// How often it was started.
    pub epoch: u64,
    /// Registry generation.
    pub generation: u64,
    /// The sidecar's pid as it told it.
    pub pid: u64,
    /// When its files were made, CLOCK_REALTIME nanoseconds.
    pub created_at_ns: u64,
    /// When its sidecar started, CLOCK_REALTIME nanoseconds.
    pub started_at_ns: u64,
    /// Bytes of its files.
    pub footprint: u64,
    /// Its sizes.
    pub geometry: Geometry,
    /// Its clock; `None` while its calibration cannot be read.
    pub clock: Option<Clock>,
    /// Whether tasks are stamped.
    pub timed: bool,
    /// Whether more than counts is recorded: bytes, times, events.
    pub is_recorded: bool,
    /// The group whose members may attach; `None` for none, or for a damaged word.
    pub group: Option<Group>,
    /// Whether its files are known to be from another boot of the machine: their times mean nothing in this one.
    pub other_boot: bool,
    /// How often housekeeping waited because what was wanted of it took more than its share of a core.
    pub held_back: u64,
    /// What its sidecar was to hold for the whole process, and whether it does.
    pub holds: Vec<HoldView>,
    /// Tasks ended, by status byte.
    pub stats: crate::handle::SidecarStats,
    /// Workers of the last start.
    pub workers: Vec<WorkerView>,
    /// Handlers, gone ones included.
    pub handlers: Vec<HandlerView>,
    /// Lanes that were ever made.
    pub lanes: Vec<LaneView>,
}

/// The mapped files of an instance, to be looked at again and again.
#[derive(Debug)]
pub struct Inspector {
    instance: InstanceName,
    directory: PathBuf,
    status: ReadWords,
    life: Option<crate::lock::LockFile>,
    /// Or why it cannot be read.
    journal: Result<ReadWords, String>,
    geometry: Geometry,
}

/// The files of one lane, which its producer can truncate at any moment. Where the sidecar's handlers are installed they then
/// read as zeros; elsewhere that ends the process.
#[derive(Debug)]
struct LaneFiles {
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
    fn read<T>(&self, read: impl FnOnce(&ReadWords, &ReadWords) -> T) -> Result<T, String> {
        let read = read(&self.sq, &self.cq);
        if self.poison.load(Acquire) & BROKEN != 0 {
            return Err("one of its files was truncated meanwhile".to_owned());
        }
        Ok(read)
    }
}

/// From here on a lane that its producer truncates while it is looked at is unreadable, where it would end this process by
/// SIGBUS: installs the handlers of fatal signals that a sidecar has, which pass on what is not theirs.
pub fn survive_truncation() {
    crate::fault::install();
}

impl Inspector {
    /// Maps the files of an instance in `/dev/shm`.
    ///
    /// # Errors
    ///
    /// See [`InspectError`].
    pub fn open(instance: &InstanceName) -> Result<Self, InspectError> {
        let life = match files::open(&instance.status(), OFlag::O_RDONLY) {
            Ok(life) => life,
            Err(error) if error.is_missing() => {
                return Err(InspectError::Missing { instance: instance.clone(), directory: DIRECTORY.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let status = files::map_for_reading(&life, &instance.status())?;
        Self::with(instance, Path::new(DIRECTORY), status, Some(life))
    }

    /// Maps a copy of the files in another folder.
    ///
    /// # Errors
    ///
    /// See [`InspectError`].
    pub fn open_copy(instance: &InstanceName, directory: &Path) -> Result<Self, InspectError> {
        let path = directory.join(instance.status());
        if !path.exists() && !directory.join(instance.journal()).exists() {
            let directory = directory.display().to_string();
            return Err(InspectError::Missing { instance: instance.clone(), directory });
        }
        Self::with(instance, directory, files::map_path(&path)?, None)
    }

    fn with(
        instance: &InstanceName,
        directory: &Path,
        status: ReadWords,
        life: Option<crate::lock::LockFile>,
    ) -> Result<Self, InspectError> {
        let name = files::name_in(directory, &instance.status());
        let head = Header::load(&status, &name, Kind::Status)?;
        let geometry = Geometry::load(&status);
        geometry.check()?;
        if geometry.status_bytes() > status.len() * 8 {
            let what = "its length does not fit its sizes".to_owned();
            return Err(FileError::Foreign { name, what }.into());
        }
        let (instance, directory) = (instance.clone(), directory.to_owned());
        let journal = Err(String::new());
        let mut this = Self { instance, directory, status, life, journal, geometry };
        let journal = this.file(&this.instance.journal(), Kind::Journal, head.nonce, geometry.journal_bytes());
        this.journal = journal.map_err(|error| one_line(&error));
        Ok(this)
    }

    /// Maps a file, of a copy even through links: somebody put them there on purpose.
    fn map(&self, name: &str) -> Result<ReadWords, FileError> {
        match self.life {
            Some(_) => files::map_for_reading(&files::open(name, OFlag::O_RDONLY)?, name),
            None => files::map_path(&self.directory.join(name)),
        }
    }

    /// Maps a file of the instance and checks that it is what its name says.
    fn file(&self, name: &str, kind: Kind, nonce: u64, bytes: usize) -> Result<ReadWords, FileError> {
        self.prove(self.map(name)?, name, kind, nonce, bytes)
    }

    fn prove(
        &self,
        words: ReadWords,
        name: &str,
        kind: Kind,
        nonce: u64,
        bytes: usize,
    ) -> Result<ReadWords, FileError> {
        let name = files::name_in(&self.directory, name);
        files::prove(&words, &name, kind, nonce)?;
        if words.len() * 8 < bytes {
            return Err(FileError::Foreign { name, what: "its length does not fit the instance's sizes".to_owned() });
        }
        Ok(words)
    }

    fn lane_files(&self, lane: u32, nonce: u64) -> Result<LaneFiles, String> {
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

    /// Whether a sidecar holds the life lock; `None` for a copy.
    pub fn is_alive(&self) -> Option<bool> {
        self.life.as_ref().and_then(|life| life.is_write_locked().ok())
    }

    /// The CPUs its workers are pinned to.
    pub fn cpus(&self) -> Vec<u32> {
        self.workers().into_iter().filter_map(|worker| worker.cpu).collect()
    }

    /// How often these files were started.
    pub fn epoch(&self) -> u64 {
        self.status.load(status::EPOCH)
    }

    /// Everything, copied now.
    pub fn look(&self) -> Inspection {
        let words = &self.status;
        Inspection {
            instance: self.instance.clone(),
            abi: ABI_VERSION,
            alive: self.is_alive(),
            state: table::load_state(words),
            nonce: words.load(header::NONCE),
            epoch: self.epoch(),
            generation: words.load(status::GENERATION),
            pid: words.load(status::PID),
            created_at_ns: words.load(header::CREATED_AT),
            started_at_ns: words.load(status::STARTED_AT),
            footprint: words.load(status::FOOTPRINT),
            geometry: self.geometry,
            clock: table::load_clock(words).ok(),
            timed: table::is_timed(words),
            is_recorded: words.load(status::SLOW_AFTER) != 0,
            group: Group::from_word(words.load(status::GROUP)).ok().flatten(),
            other_boot: Boot::load(words, status::BOOT).is_other(Boot::now()),
            held_back: words.load(status::HELD_BACK),
            holds: self.holds(),
            stats: crate::handle::read_stats(words, &self.geometry),
            workers: self.workers(),
            handlers: self.handlers(),
            lanes: (0..self.geometry.lanes).filter_map(|lane| self.lane(lane)).collect(),
        }
    }

    fn holds(&self) -> Vec<HoldView> {
        let cpu_latency = HoldView::cpu_latency(self.status.load(status::HOLD_CPU_LATENCY));
        cpu_latency.into_iter().chain(HoldView::memory(self.status.load(status::HOLD_MEMORY))).collect()
    }

    fn meter(&self, at: usize) -> u64 {
        self.status.load(self.geometry.meter() + at)
    }

    fn histogram(&self, at: usize) -> HistogramSnapshot {
        HistogramSnapshot::from_buckets((0..BUCKETS).map(|bucket| self.meter(at + bucket)))
    }

    fn workers(&self) -> Vec<WorkerView> {
        let used = self.status.load(status::WORKERS_USED).min(u64::from(self.geometry.workers)) as u32;
        (0..used).map(|worker| WorkerView::load(&self.status, &self.geometry, worker)).collect()
    }

    fn handlers(&self) -> Vec<HandlerView> {
        let layout = self.geometry.meter_layout();
        let rows = table::load_registry(&self.status, &self.geometry);
        rows.into_iter()
            .enumerate()
            .map(|(place, row)| {
                let mut view = HandlerView {
                    row,
                    by_status: [0; Status::CODES],
                    request_bytes: 0,
                    response_bytes: 0,
                    queue: HistogramSnapshot::from_buckets(std::iter::empty()),
                    run: HistogramSnapshot::from_buckets(std::iter::empty()),
                };
                for worker in 0..layout.workers {
                    let at = layout.handler(worker, place);
                    for (code, count) in view.by_status.iter_mut().enumerate() {
                        *count = count.saturating_add(self.meter(at + code));
                    }
                    let add = |sum: &mut u64, word: usize| *sum = sum.saturating_add(self.meter(at + word));
                    add(&mut view.request_bytes, REQUEST_BYTES);
                    add(&mut view.response_bytes, RESPONSE_BYTES);
                    view.queue.merge(&self.histogram(at + COUNTS));
                    view.run.merge(&self.histogram(at + COUNTS + BUCKETS));
                }
                view
            })
            .collect()
    }

    fn lane(&self, lane: u32) -> Option<LaneView> {
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

/// An error with its causes, without the number of a system error.
fn one_line(error: &FileError) -> String {
    let mut line = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        if !line.ends_with(text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}
