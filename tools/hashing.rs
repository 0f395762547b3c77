//! Files through the rings: many chains of `sha256-block` tasks in flight at once.
//!
//! One file has one task in flight, since each needs the midstate of the one before; so a full lane takes a window of
//! files. A file is read once: the same bytes go into the lane and, where there is one, into the check. Only the chunk of
//! a task that ended as interrupted is read a second time, for the same task again.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{Client, LaneStatus, TaskDescriptor};
use executor_core::Status;
use executor_core::idle::{Idle, IdleStrategy};
use nix::fcntl::OFlag;
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use crate::files::reason;
use crate::lines::{Counts, Line};
use crate::producer::GaveUp;
use crate::sha256_block::{Chain, Header, Midstate};
use crate::times::Times;

/// Between two lines about the progress.
const PROGRESS: Duration = Duration::from_millis(100);
/// How far a file may go past the size it had when it was opened: a log that grows is hashed to its end, a pseudo-file
/// such as `/proc/self/pagemap`, which says it has 0 bytes and has 2^38, is not.
const GROWTH: u64 = 1 << 20;
/// How often a chunk is submitted in all if its tasks end as interrupted: a sidecar that its own handler kills is not
/// asked for ever.
const TRIES: u32 = 10;
/// Misses between two looks at the clock or the sidecar: with yields between them a miss may take a while.
const MISSES: u32 = 1 << 8;

/// How to hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashingOptions {
    /// The id of the handler `sha256-block`.
    pub(crate) handler: u32,
    /// Bytes of a file in one task, whole blocks.
    pub(crate) chunk_bytes: usize,
    /// Files in flight, at most the slots of the lane.
    pub(crate) window: usize,
    /// Whether to tell every digest.
    pub(crate) digests: bool,
    /// Whether to hash everything here as well and compare.
    pub(crate) check: bool,
    /// What to do while nothing comes back.
    pub(crate) idle: IdleStrategy,
    /// When to stop waiting.
    pub(crate) patience: Patience,
}

/// When the sidecar is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// It answered nothing for so long, alive or not.
    Silent(Duration),
    /// There was none for so long. One that lives may take its time; the next one on the same files goes on.
    Down(Duration),
}

/// All of one producer's work. What there is to say goes through `tell`.
#[derive(Debug)]
pub(crate) struct Hashing<T> {
    client: Client,
    tell: T,
    options: HashingOptions,
    files: Files,
    /// Files in flight by slot of the window.
    open: Vec<Option<Open>>,
    in_flight: u64,
    /// One request: header and chunk.
    request: Vec<u8>,
    idle: Idle,
    counts: Counts,
    times: Times,
}

/// The files in their order, once or, until somebody has enough, over and over.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    next: usize,
    passes: u64,
    enough: Option<Arc<AtomicBool>>,
}

impl Files {
    /// Each file once.
    pub(crate) fn once(paths: Vec<PathBuf>) -> Self {
        Self { paths, next: 0, passes: 1, enough: None }
    }

    /// All files, and all of them again as long as it is not `enough`.
    pub(crate) fn until(paths: Vec<PathBuf>, enough: Arc<AtomicBool>) -> Self {
        Self { enough: Some(enough), ..Self::once(paths) }
    }

    fn next(&mut self) -> Option<(Turn, PathBuf)> {
        let is_enough = || self.enough.as_ref().is_none_or(|enough| enough.load(Relaxed));
        if self.next == self.paths.len() && !self.paths.is_empty() && !is_enough() {
            (self.next, self.passes) = (0, self.passes + 1);
        }
        let path = self.paths.get(self.next)?.clone();
        self.next += 1;
        Some((Turn { file: self.next - 1, is_first: self.passes == 1 }, path))
    }
}

/// A file whose turn it is.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Its place in the list.
    file: usize,
    /// Only then is told what is the same each time.
    is_first: bool,
}

/// A file with one task in flight.
#[derive(Debug)]
struct Open {
    turn: Turn,
    file: File,
    /// The most bytes it may turn out to have.
    bytes_max: u64,
    chain: Chain,
    check: Option<Sha256>,
    chunk: usize,
    last: bool,
    /// How often the chunk was submitted.
    tries: u32,
}

/// What a completion said, copied out of the lane.
struct Answer {
    slot: usize,
    result: Result<Midstate, Wrong>,
}

/// A task did not end with a midstate.
struct Wrong {
    why: String,
    /// It may or may not have run; the handler is idempotent, so it can be asked again.
    is_retryable: bool,
}

impl<T: FnMut(Line) -> std::io::Result<()>> Hashing<T> {
    /// Nothing is read or submitted yet.
    pub(crate) fn new(client: Client, files: Files, options: HashingOptions, tell: T) -> Self {
        Self {
            client,
            tell,
            files,
            open: std::iter::repeat_with(|| None).take(options.window).collect(),
            in_flight: 0,
            request: vec![0; size_of::<Header>() + options.chunk_bytes],
            idle: Idle::new(options.idle),
            options,
            counts: Counts::default(),
            times: Times::default(),
        }
    }

    /// Hashes everything; the last line comes back, the ones before it are told.
    pub(crate) fn run(mut self) -> Result<Line, GaveUp> {
        let began_at_ns = now_ns();
        let mut told = Instant::now();
        for slot in 0..self.open.len() {
            self.open_next(slot)?;
        }
        while self.in_flight > 0 {
            let answer = self.collect()?;
            self.take(answer)?;
            if self.counts.tasks.is_multiple_of(256) && told.elapsed() >= PROGRESS {
                (self.tell)(Line::Progress(self.counts))?;
                told = Instant::now();
            }
        }
        Ok(Line::Done {
            counts: self.counts,
            passes: self.files.passes,
            times: self.times,
            began_at_ns,
            ended_at_ns: now_ns(),
        })
    }

    /// Puts the first chunk of the next file that can be read into flight.
    fn open_next(&mut self, slot: usize) -> Result<(), GaveUp> {
        while let Some((turn, path)) = self.files.next() {
            let open = Open::new(turn, &path, self.options.check).and_then(|open| self.submit_next(slot, open));
            match open {
                Ok(()) => return Ok(()),
                Err(Stop::Skip(why)) => self.skip(turn, why)?,
                Err(Stop::GiveUp(gave_up)) => return Err(gave_up),
            }
        }
        Ok(())
    }

    fn skip(&mut self, turn: Turn, why: String) -> std::io::Result<()> {
        if turn.is_first { (self.tell)(Line::Skipped { file: turn.file, why }) } else { Ok(()) }
    }

    /// Reads the next chunk of a file and submits it.
    fn submit_next(&mut self, slot: usize, mut open: Open) -> Result<(), Stop> {
        let chunk = self.request.get_mut(size_of::<Header>()..).unwrap_or_default();
        open.chunk = read_full(&mut open.file, chunk)?;
        // A file that ends with a full chunk has an empty one behind it: nobody knows the end before it is read.
        open.last = open.chunk < chunk.len();
        if open.chain.length() + open.chunk as u64 > open.bytes_max {
            return Err(Stop::Skip("goes on far past the size it had when it was opened".to_owned()));
        }
        let chunk = chunk.get(..open.chunk).unwrap_or_default();
        if let Some(check) = &mut open.check {
            check.update(chunk);
        }
        open.tries = 0;
        self.submit(slot, open)
    }

    /// Reads the chunk that was submitted last and submits it again.
    #[cold]
    fn submit_again(&mut self, slot: usize, open: Open) -> Result<(), Stop> {
        let end = size_of::<Header>() + open.chunk;
        let chunk = self.request.get_mut(size_of::<Header>()..end).unwrap_or_default();
        open.file.read_exact_at(chunk, open.chain.length())?;
        self.submit(slot, open)
    }

    /// Submits the chunk that is in the request.
    fn submit(&mut self, slot: usize, mut open: Open) -> Result<(), Stop> {
        open.tries += 1;
        let header = self.request.get_mut(..size_of::<Header>()).unwrap_or_default();
        header.copy_from_slice(bytemuck::bytes_of(&open.chain.header(open.last)));
        let request = self.request.get(..size_of::<Header>() + open.chunk).unwrap_or_default();
        let descriptor = TaskDescriptor::new(self.options.handler).user_data(slot as u64);
        self.client.try_submit(&descriptor, request).map_err(|error| self.give_up(&error))?;
        self.in_flight += 1;
        if let Some(place) = self.open.get_mut(slot) {
            *place = Some(open);
        }
        Ok(())
    }

    /// Waits for the next completion.
    fn collect(&mut self) -> Result<Answer, GaveUp> {
        let mut misses = 0u32;
        let mut since = None;
        loop {
            match self.client.try_collect() {
                Ok(Some(completion)) => {
                    self.idle.hit();
                    if let Some(times) = completion.times() {
                        self.times.record(times.queue_ns, times.run_ns, times.return_ns, times.total_ns());
                    }
                    let result = match completion.status() {
                        Status::Done => completion
                            .response()
                            .read()
                            .ok_or_else(|| Wrong { why: "the answer is no midstate".to_owned(), is_retryable: false }),
                        status => Err(Wrong {
                            why: format!("{status}: {}", completion.text()),
                            is_retryable: matches!(status, Status::Interrupted(_)),
                        }),
                    };
                    let slot = completion.user_data() as usize;
                    self.in_flight -= 1;
                    self.counts.tasks += 1;
                    return Ok(Answer { slot, result });
                }
                Ok(None) => {}
                Err(error) => return Err(self.give_up(&error)),
            }
            self.idle.miss();
            misses += 1;
            if misses.is_multiple_of(MISSES) {
                self.look_after_sidecar(&mut since)?;
            }
        }
    }

    /// Gives up if the sidecar is past patience; `since` is when a wait for it began.
    #[cold]
    fn look_after_sidecar(&self, since: &mut Option<Instant>) -> Result<(), GaveUp> {
        let why = match self.options.patience {
            _ if self.client.state() == LaneStatus::Lost => "the instance was discarded meanwhile".to_owned(),
            Patience::Silent(most) if since.get_or_insert_with(Instant::now).elapsed() > most => {
                format!("the sidecar answered nothing for {} s", most.as_secs())
            }
            Patience::Silent(_) => return Ok(()),
            Patience::Down(_) if self.client.is_executor_alive() => {
                *since = None;
                return Ok(());
            }
            Patience::Down(most) if since.get_or_insert_with(Instant::now).elapsed() > most => {
                let instance = self.client.instance();
                format!(
                    "the sidecar has been down for {} s; start it with: executord run {instance}, then hash again",
                    most.as_secs()
                )
            }
            Patience::Down(_) => return Ok(()),
        };
        Err(GaveUp { why, lost: self.in_flight })
    }

    /// Goes on with the file that was answered, or with the next one.
    fn take(&mut self, answer: Answer) -> Result<(), GaveUp> {
        let Answer { slot, result } = answer;
        let Some(mut open) = self.open.get_mut(slot).and_then(Option::take) else {
            return Err(GaveUp { why: format!("an answer came for slot {slot}, which asked nothing"), lost: 0 });
        };
        let turn = open.turn;
        if result.as_ref().is_err_and(|wrong| wrong.is_retryable) {
            self.counts.interrupted += 1;
            if open.tries < TRIES {
                let submitted = self.submit_again(slot, open);
                return self.go_on(slot, turn, submitted);
            }
        }
        let advanced = result.map_err(|wrong| wrong.why).and_then(|midstate| {
            open.chain.advance(midstate, open.chunk, open.last).map_err(|error| error.to_string())
        });
        if let Err(why) = advanced {
            (self.tell)(Line::Mismatched { file: turn.file, why })?;
            return self.open_next(slot);
        }
        let Some(digest) = open.chain.digest() else {
            let submitted = self.submit_next(slot, open);
            return self.go_on(slot, turn, submitted);
        };
        let bytes = open.chain.length();
        let expected = open.check.map(Sha256::finalize);
        let wrong = expected.filter(|expected| digest[..] != expected[..]);
        if let Some(expected) = wrong {
            let why = format!("the chain says {}, the check says {}", hex(&digest), hex(&expected));
            (self.tell)(Line::Mismatched { file: turn.file, why })?;
        } else {
            self.counts.files += 1;
            self.counts.bytes += bytes;
            if self.options.digests && turn.is_first {
                (self.tell)(Line::Digest { file: turn.file, sha256: hex(&digest) })?;
            }
        }
        self.open_next(slot)
    }

    /// After a submit: the next file, if this one goes no further.
    fn go_on(&mut self, slot: usize, turn: Turn, submitted: Result<(), Stop>) -> Result<(), GaveUp> {
        match submitted {
            Ok(()) => Ok(()),
            Err(Stop::GiveUp(gave_up)) => Err(gave_up),
            Err(Stop::Skip(why)) => {
                self.skip(turn, why)?;
                self.open_next(slot)
            }
        }
    }

    fn give_up(&self, error: &dyn std::error::Error) -> GaveUp {
        GaveUp { why: crate::exit::one_line(error), lost: self.in_flight }
    }
}

/// Why a file goes no further.
enum Stop {
    /// This file; the others go on.
    Skip(String),
    /// All of them.
    GiveUp(GaveUp),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Skip(reason(&error))
    }
}

impl From<GaveUp> for Stop {
    fn from(gave_up: GaveUp) -> Self {
        Self::GiveUp(gave_up)
    }
}

impl Open {
    /// Opens a file that is still a regular one: since it was found, a link or a pipe may have taken its name.
    fn new(turn: Turn, path: &Path, check: bool) -> Result<Self, Stop> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(Stop::Skip("no longer a regular file".to_owned()));
        }
        let bytes_max = facts.len().saturating_add(GROWTH);
        let check = check.then(Sha256::new);
        Ok(Self { turn, file, bytes_max, chain: Chain::default(), check, chunk: 0, last: false, tries: 0 })
    }
}

/// Fills `chunk` as far as the file goes.
fn read_full(file: &mut File, chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kernel's monotonic clock, which all processes share.
fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}
