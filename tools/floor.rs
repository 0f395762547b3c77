//! What this machine allows: the executor's traffic between two processes, without the executor.
//!
//! Two pinned processes share a few anonymous pages and do nothing but the loads, stores and clock reads that no
//! implementation of the protocol can leave out. A figure of the executor divided by the floor of the same run says what
//! the executor costs; either alone mostly says which machine it was.
//!
//! It judges no figure, prints nothing and leaves nothing behind: no file, no process, no changed CPU mask.
//!
//! # Memory ordering
//! | pair | `Release` store           | `Acquire` load            | otherwise                                 |
//! |------|---------------------------|---------------------------|-------------------------------------------|
//! | P1   | submission word, here     | submission word, the peer | the peer reads half a descriptor          |
//! | P2   | completion word, the peer | completion word, here     | this side reads half a completion         |

mod nap;
mod peer;
mod stopwatch;

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
// SeqCst: of compiler fences only, where the real step and submit have theirs.
use std::sync::atomic::{
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    compiler_fence,
};
use std::time::Instant;

use executor_core::ClockSource;
use nix::time::{ClockId, clock_gettime};

pub use nap::{Spell, sleeping_trips, time_after_gaps};
pub use peer::{FloorError, Pinned, two_cpus};
pub use stopwatch::{TripTimes, sample_trips, time_trips};

use peer::{Peer, Shared, await_word, with_peer};
use stopwatch::ticks;

/// Slots of each ring, as in a default lane.
pub const CAPACITY: u64 = 1024;
/// Trips and tasks before the clock starts: the rings a few times around.
pub const WARM_UP: u64 = 4 * CAPACITY;

/// Ping-pong of commit words only, without a clock in the loop.
#[derive(Clone, Copy, Debug)]
pub struct PingPong {
    /// Elapsed time by trips, one line passed back and forth, in nanoseconds.
    pub one_line_ns: f64,
    /// The same with the slots of two rings in turn, as the executor uses them.
    pub rotating_ns: f64,
    /// Trips of each kind.
    pub round_trips: u64,
    /// Both processes share one CPU and yield in their waits: a figure of the scheduler, not of the caches.
    pub yielded: bool,
}

impl PingPong {
    /// The floor: the faster of the two.
    pub fn floor_ns(&self) -> f64 {
        self.one_line_ns.min(self.rotating_ns)
    }
}

/// Fenced samples of both kinds of ping-pong.
#[derive(Clone, Copy, Debug)]
pub struct PingPongTimes {
    /// One line passed back and forth.
    pub one_line: TripTimes,
    /// The slots of two rings in turn.
    pub rotating: TripTimes,
    /// See [`PingPong::yielded`].
    pub yielded: bool,
}

impl PingPongTimes {
    /// The floor: the kind with the lower median.
    pub fn floor(&self) -> &TripTimes {
        if self.one_line.p50_ns < self.rotating.p50_ns { &self.one_line } else { &self.rotating }
    }
}

/// What one lane carries when nothing but the protocol's stores and clock reads is done.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Tasks answered by elapsed seconds.
    pub tasks_per_second: f64,
    /// See [`PingPong::yielded`].
    pub yielded: bool,
}

/// A blocking round trip of 64 bytes each way over a socket pair.
#[derive(Clone, Copy, Debug)]
pub struct SocketTrip {
    /// Elapsed time by trips, in nanoseconds.
    pub mean_ns: f64,
    /// Single trips.
    pub times: TripTimes,
}

/// Round trips of commit words between two CPUs: elapsed time by trips, no clock in the loop. Costs 2 × `round_trips`
/// trips, some 100 to 200 ns each between two cores of one socket.
///
/// # Errors
///
/// A CPU this process may not use, or no memory or process to be had.
///
/// # Examples
///
/// ```
/// use executord::floor;
///
/// let cpus = floor::two_cpus()?;
/// let floor = floor::ping_pong(cpus, 1000)?;
/// println!("{:.0} ns there and back", floor.floor_ns());
/// assert_eq!(floor.yielded, cpus.0 == cpus.1);
/// # Ok::<(), floor::FloorError>(())
/// ```
pub fn ping_pong(cpus: (u32, u32), round_trips: u64) -> Result<PingPong, FloorError> {
    let yielded = cpus.0 == cpus.1;
    let measure = if yielded { ping_pong_mean::<true> } else { ping_pong_mean::<false> };
    let (one_line_ns, rotating_ns) = measure(cpus, round_trips)?;
    Ok(PingPong { one_line_ns, rotating_ns, round_trips, yielded })
}

/// The same trips as [`ping_pong`], each timed on its own with [`sample_trips`].
///
/// # Errors
///
/// As [`ping_pong`].
pub fn ping_pong_times(cpus: (u32, u32), round_trips: u64) -> Result<PingPongTimes, FloorError> {
    let yielded = cpus.0 == cpus.1;
    let measure = if yielded { ping_pong_samples::<true> } else { ping_pong_samples::<false> };
    let (one_line, rotating) = measure(cpus, round_trips)?;
    Ok(PingPongTimes { one_line, rotating, yielded })
}

/// The most tasks a second that one lane could carry: the producer keeps up to [`CAPACITY`] tasks submitted and
/// collects in batches of `batch`; both sides do every store of submission, journal and completion, the consumer calls
/// a sum over the 32 inline bytes through a function pointer. Not done: validation, registry, panic guard, counters,
/// histograms. With `timed`, the clock reads are the executor's: one a submit, one a completion, and one a start
/// unless the task was submitted before the last one ended; without, the stamps are 0.
///
/// # Errors
///
/// As [`ping_pong`].
pub fn throughput(cpus: (u32, u32), tasks: u64, batch: u64, timed: bool) -> Result<Throughput, FloorError> {
    let yielded = cpus.0 == cpus.1;
    let tasks_per_second = match (timed.then(ClockSource::detect), yielded) {
        (None, false) => throughput_of::<false>(cpus, tasks, batch, || 0),
        (None, true) => throughput_of::<true>(cpus, tasks, batch, || 0),
        (Some(ClockSource::Tsc), false) => throughput_of::<false>(cpus, tasks, batch, ticks),
        (Some(ClockSource::Tsc), true) => throughput_of::<true>(cpus, tasks, batch, ticks),
        (Some(ClockSource::Monotonic), false) => throughput_of::<false>(cpus, tasks, batch, monotonic_ns),
        (Some(ClockSource::Monotonic), true) => throughput_of::<true>(cpus, tasks, batch, monotonic_ns),
    }?;
    Ok(Throughput { tasks_per_second, yielded })
}

/// The executor's round trip written bare: the loops of [`throughput`] with one task at a time, timestamps on. Returns
/// elapsed time by trips, in nanoseconds, and whether both sides yielded.
///
/// # Errors
///
/// As [`ping_pong`].
pub fn bare_round_trip(cpus: (u32, u32), round_trips: u64) -> Result<(f64, bool), FloorError> {
    let yielded = cpus.0 == cpus.1;
    let elapsed_ns = match (ClockSource::detect(), yielded) {
        (ClockSource::Tsc, false) => bare_trip_of::<false>(cpus, round_trips, ticks),
        (ClockSource::Tsc, true) => bare_trip_of::<true>(cpus, round_trips, ticks),
        (ClockSource::Monotonic, false) => bare_trip_of::<false>(cpus, round_trips, monotonic_ns),
        (ClockSource::Monotonic, true) => bare_trip_of::<true>(cpus, round_trips, monotonic_ns),
    }?;
    Ok((elapsed_ns, yielded))
}

/// Round trips of 64 bytes over a blocking Unix stream socket: what a program pays that asks the kernel each time.
///
/// # Errors
///
/// As [`ping_pong`], and what the socket says.
pub fn unix_socket_round_trip(cpus: (u32, u32), round_trips: u64) -> Result<SocketTrip, FloorError> {
    let (here, there) = UnixStream::pair()?;
    let _pinned = Pinned::to(cpus.0)?;
    let mut peer = Some((here.try_clone()?, there));
    let _peer = Peer::start(cpus.1, || {
        // The child's copy of this side's end must go, or the child would never see the end of the stream.
        let Some((here_copy, mut there)) = peer.take() else { return };
        drop(here_copy);
        let mut message = [0; 64];
        while there.read_exact(&mut message).is_ok() && there.write_all(&message).is_ok() {}
    })?;
    drop(peer);
    let mut here = here;
    let mut message = [0; 64];
    let mut trip = |_| -> Result<(), FloorError> {
        here.write_all(&message)?;
        here.read_exact(&mut message)?;
        Ok(())
    };
    for _ in 0..round_trips.min(WARM_UP) {
        trip(0)?;
    }
    let mean_ns = time_trips(round_trips, &mut trip)?;
    let times = sample_trips(round_trips, &mut trip)?;
    Ok(SocketTrip { mean_ns, times })
}

/// The peer's side of `trips` trips over one line.
#[inline(always)]
fn return_one_line<const YIELD: bool>(shared: &Shared, trips: u64) {
    let word = &shared.single.words[0];
    for number in 0..trips {
        await_word::<YIELD>(word, 2 * number + 1);
        word.store(2 * number + 2, Release); // P2
    }
}

#[inline(always)]
fn pass_one_line<const YIELD: bool>(shared: &Shared, peer: &Peer, number: u64) -> Result<(), FloorError> {
    let word = &shared.single.words[0];
    word.store(2 * number + 1, Release); // P1
    peer.wait_for::<YIELD>(word, 2 * number + 2)
}

/// The peer's side of `trips` trips over two rings.
#[inline(always)]
fn return_rotating<const YIELD: bool>(shared: &Shared, trips: u64) {
    for position in 0..trips {
        await_word::<YIELD>(&shared.submission(position)[0], position + 1);
        shared.completion(position)[0].store(position + 1, Release); // P2
    }
}

#[inline(always)]
fn pass_rotating<const YIELD: bool>(shared: &Shared, peer: &Peer, position: u64) -> Result<(), FloorError> {
    shared.submission(position)[0].store(position + 1, Release); // P1
    peer.wait_for::<YIELD>(&shared.completion(position)[0], position + 1)
}

fn ping_pong_mean<const YIELD: bool>(cpus: (u32, u32), trips: u64) -> Result<(f64, f64), FloorError> {
    with_peer(
        cpus,
        |shared| {
            return_one_line::<YIELD>(shared, WARM_UP + trips);
            return_rotating::<YIELD>(shared, WARM_UP + trips);
        },
        |shared, peer| {
            time_trips(WARM_UP, |number| pass_one_line::<YIELD>(shared, peer, number))?;
            let one_line = time_trips(trips, |number| pass_one_line::<YIELD>(shared, peer, WARM_UP + number))?;
            time_trips(WARM_UP, |number| pass_rotating::<YIELD>(shared, peer, number))?;
            let rotating = time_trips(trips, |number| pass_rotating::<YIELD>(shared, peer, WARM_UP + number))?;
            Ok((one_line, rotating))
        },
    )
}

fn ping_pong_samples<const YIELD: bool>(cpus: (u32, u32), trips: u64) -> Result<(TripTimes, TripTimes), FloorError> {
    let trips = trips.max(1);
    with_peer(
        cpus,
        |shared| {
            return_one_line::<YIELD>(shared, WARM_UP + trips);
            return_rotating::<YIELD>(shared, WARM_UP + trips);
        },
        |shared, peer| {
            time_trips(WARM_UP, |number| pass_one_line::<YIELD>(shared, peer, number))?;
            let one_line = sample_trips(trips, |number| pass_one_line::<YIELD>(shared, peer, WARM_UP + number))?;
            time_trips(WARM_UP, |number| pass_rotating::<YIELD>(shared, peer, number))?;
            let rotating = sample_trips(trips, |number| pass_rotating::<YIELD>(shared, peer, WARM_UP + number))?;
            Ok((one_line, rotating))
        },
    )
}

/// What a handler is to the bare loop: called through a pointer that the compiler cannot see through.
type Handler = fn(&[u64; 4], u64) -> u64;

fn sum(payload: &[u64; 4], length: u64) -> u64 {
    payload.iter().take(length as usize / 8).fold(0, |sum, &word| sum.wrapping_add(word))
}

/// Word 1 of a descriptor with 32 inline bytes for handler 1, and of a completion with 8, status Done, attempt 1.
const DESCRIPTOR: u64 = 1 | 32 << 40;
const COMPLETION: u64 = 1 | 1 << 16 | 8 << 32;

/// The executor's clock where the counter is not to be trusted.
#[inline(always)]
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The producer's stores of one submit.
#[inline(always)]
fn submit(shared: &Shared, position: u64, clock: impl Fn() -> u64) {
    let slot = shared.submission(position);
    for (word, value) in slot[4..].iter().zip([position, 1, 2, 3]) {
        word.store(value, Relaxed);
    }
    slot[1].store(DESCRIPTOR, Relaxed);
    slot[2].store(clock(), Relaxed);
    slot[3].store(0, Relaxed);
    slot[0].store(position + 1, Release); // P1
}

/// The producer's loads of one collect; `None` if the task is not answered yet.
#[inline(always)]
fn collect(shared: &Shared, position: u64) -> Option<[u64; 7]> {
    let [commit, words @ ..] = shared.completion(position);
    if commit.load(Acquire) != position + 1 {
        return None;
    }
    Some(words.each_ref().map(|word| word.load(Relaxed)))
}

/// The consumer's whole life: `tasks` tasks from descriptor to completion, journal included. A clock that stands still
/// at 0 is timing off.
#[inline(always)]
fn serve<const YIELD: bool>(shared: &Shared, tasks: u64, clock: impl Fn() -> u64) {
    let handler: Handler = black_box(sum);
    let [hot, verdict, _] = &shared.journal;
    let mut last_completed_at = 0;
    for position in 0..tasks {
        let [commit, words @ ..] = shared.submission(position);
        if commit.load(Acquire) != position + 1 {
            last_completed_at = 0;
            await_word::<YIELD>(commit, position + 1);
        }
        let words = words.each_ref().map(|word| word.load(Relaxed));
        let [_, submitted_at, _, payload @ ..] = &words;
        let started_at = if *submitted_at <= last_completed_at { last_completed_at } else { clock() };
        for (word, value) in hot.words[1..].iter().zip(words) {
            word.store(value, Relaxed);
        }
        verdict.words[1].store(0, Relaxed);
        verdict.words[2].store(started_at, Relaxed);
        hot.words[0].store(position + 1, Release); // read by nobody here; by recovery in the executor
        // SeqCst: for the compiler alone, as in the executor: a kill between two instructions must find the journal
        // stored before the handler begins, and no completion before it ends. The other side never reads the journal.
        compiler_fence(SeqCst);
        let output = handler(payload, words[0] >> 40);
        compiler_fence(SeqCst);
        let completed_at = clock();
        let completion = [COMPLETION, *submitted_at, started_at, completed_at, output, 0, 0];
        let [commit, slot @ ..] = shared.completion(position);
        for (word, value) in slot.iter().zip(completion) {
            word.store(value, Relaxed);
        }
        commit.store(position + 1, Release); // P2
        last_completed_at = completed_at;
    }
}

fn throughput_of<const YIELD: bool>(
    cpus: (u32, u32),
    tasks: u64,
    batch: u64,
    clock: impl Fn() -> u64 + Copy,
) -> Result<f64, FloorError> {
    let produce = |shared: &Shared, peer: &Peer, from: u64, to: u64| -> Result<(), FloorError> {
        let (mut submitted, mut collected) = (from, from);
        let mut misses = 0u32;
        while collected < to {
            let room = (collected + CAPACITY).min(submitted + batch).min(to);
            while submitted < room {
                submit(shared, submitted, clock);
                submitted += 1;
            }
            let before = collected;
            while collected < submitted && collected - before < batch {
                let Some(completion) = collect(shared, collected) else { break };
                black_box(completion);
                collected += 1;
            }
            if collected == before {
                peer.missed::<YIELD>(&mut misses)?;
            }
        }
        Ok(())
    };
    let elapsed = with_peer(
        cpus,
        |shared| serve::<YIELD>(shared, WARM_UP + tasks, clock),
        |shared, peer| {
            produce(shared, peer, 0, WARM_UP)?;
            let start = Instant::now();
            produce(shared, peer, WARM_UP, WARM_UP + tasks)?;
            Ok(start.elapsed())
        },
    )?;
    Ok(tasks as f64 / elapsed.as_secs_f64())
}

fn bare_trip_of<const YIELD: bool>(
    cpus: (u32, u32),
    trips: u64,
    clock: impl Fn() -> u64 + Copy,
) -> Result<f64, FloorError> {
    with_peer(
        cpus,
        |shared| serve::<YIELD>(shared, WARM_UP + trips, clock),
        |shared, peer| {
            let trip = |position: u64| {
                submit(shared, position, clock);
                peer.wait_for::<YIELD>(&shared.completion(position)[0], position + 1)?;
                black_box(collect(shared, position));
                Ok::<(), FloorError>(())
            };
            time_trips(WARM_UP, trip)?;
            time_trips(trips, |number| trip(WARM_UP + number))
        },
    )
}
