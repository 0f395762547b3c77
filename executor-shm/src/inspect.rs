//! Reading an instance from outside, living or dead: it maps everything read-only, takes no lock and believes nothing.
//!
//! A view is a copy made while its writers may be at work: every number is whole, and numbers beside each other may be
//! from slightly different moments. Where two of them would contradict each other the later one is clamped.

mod lane;
mod list;
mod producer;
mod recorded;
mod records;
mod saved;
mod worker;

use std::path::{Path, PathBuf};

use executor_core::Clock;
use executor_core::Status;
use executor_core::histogram::{BUCKETS, HistogramSnapshot};
use executor_core::meter::{COUNTS, REQUEST_BYTES, RESPONSE_BYTES};
use nix::fcntl::OFlag;

use crate::boot::Boot;
use crate::files::{self, DIRECTORY, FileError, Header, InstanceName};
use crate::group::Group;
use crate::hold::HoldView;
use crate::layout::{ABI_VERSION, Geometry, GeometryError, Kind, header, status};
use crate::mapped::ReadWords;
use crate::state::InstanceState;
use crate::status::{self as table, HandlerRow};
use crate::words::Words;

pub use lane::{InFlightView, LaneView};
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
