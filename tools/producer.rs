//! A producer process of the demo: what it is asked for, what it answers.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{Client, ConnectOptions, TaskDescriptor};
use executor_core::idle::{Idle, IdleStrategy};
use executor_core::{Status, cpu};
use executor_shm::InstanceName;

use crate::cli::{ProduceArgs, Work};
use crate::exit::{FAILED, one_line};
use crate::floor;
use crate::handlers::{ECHO, SHA256_BLOCK};
use crate::hashing::{Files, Hashing, HashingOptions, Patience};
use crate::lines::{Line, say};
use crate::processes::end_with_parent;

/// Without any completion for so long, the sidecar is given up. The demo starts a dead one again well before.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it waits for the demo's sidecar.
const CONNECT: Duration = Duration::from_secs(10);
/// Trips of either kind in one turn: some 20 to 50 ms.
const PING_PONG_TRIPS: u64 = 100_000;
const SOCKET_TRIPS: u64 = 1_000;
/// How long one turn of echo goes on: five are a second.
const ECHO_TIME: Duration = Duration::from_millis(200);
/// Round trips between two looks at the clock.
const ECHO_BATCH: u64 = 256;

/// A producer came to no end.
#[derive(Debug)]
pub(crate) struct GaveUp {
    /// One clause.
    pub(crate) why: String,
    /// Tasks that were accepted and not answered.
    pub(crate) lost: u64,
}

impl<E: std::error::Error> From<E> for GaveUp {
    fn from(error: E) -> Self {
        Self { why: one_line(&error), lost: 0 }
    }
}

/// Does what it is told and says how it went; the parent reads.
pub(crate) fn produce(arguments: &ProduceArgs) -> ExitCode {
    if !end_with_parent(arguments.parent) {
        return ExitCode::from(FAILED);
    }
    let done = match &arguments.work {
        Work::PingPong { here, there } => ping_pong((*here, *there)),
        Work::UnixSocket { here, there } => unix_socket((*here, *there)),
        Work::Echo { instance, cpu } => echo(instance, *cpu),
        Work::Hash { instance, cpu, chunk, window, digests, over } => connect(instance, *cpu).and_then(|client| {
            let options = HashingOptions {
                handler: SHA256_BLOCK,
                chunk_bytes: *chunk,
                window: *window,
                digests: *digests,
                check: true,
                idle: idle(),
                patience: Patience::Silent(SILENCE),
            };
            Hashing::new(client, read_files(*over)?, options, |line| say(&line)).run()
        }),
    };
    let line = match done {
        Ok(line) => line,
        Err(GaveUp { why, lost }) => Line::Failed { why, lost },
    };
    match say(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED), // nobody reads any more
    }
}

fn connect(instance: &InstanceName, on: u32) -> Result<Client, GaveUp> {
    cpu::pin_current_thread(on)?;
    Ok(ConnectOptions::new().timeout(CONNECT).connect(instance)?)
}

/// With a single CPU the other side runs only while this one lets it.
pub(crate) fn idle() -> IdleStrategy {
    match std::thread::available_parallelism() {
        Ok(cpus) if cpus.get() == 1 => IdleStrategy::Yield,
        _ => IdleStrategy::SpinThenYield,
    }
}

fn ping_pong(cpus: (u32, u32)) -> Result<Line, GaveUp> {
    let trips = if cpus.0 == cpus.1 { PING_PONG_TRIPS / 10 } else { PING_PONG_TRIPS };
    Ok(Line::RoundTrip { ns: floor::ping_pong(cpus, trips)?.floor_ns() })
}

fn unix_socket(cpus: (u32, u32)) -> Result<Line, GaveUp> {
    Ok(Line::RoundTrip { ns: floor::unix_socket_round_trip(cpus, SOCKET_TRIPS)?.mean_ns })
}

fn echo(instance: &InstanceName, cpu: u32) -> Result<Line, GaveUp> {
    let mut idle = Idle::new(idle());
    let mut client = connect(instance, cpu)?;
    let mut trip = |number: u64| -> Result<(), GaveUp> {
        client.try_submit(&TaskDescriptor::new(ECHO), &number.to_le_bytes())?;
        loop {
            if let Some(answer) = client.try_collect()? {
                idle.hit();
                return match answer.status() {
                    Status::Done if answer.response().read() == Some(number) => Ok(()),
                    status => Err(GaveUp { why: format!("echo {number} came back wrong: {status}"), lost: 0 }),
                };
            }
            idle.miss();
        }
    };
    for number in 0..ECHO_BATCH {
        trip(number)?;
    }
    let (begin, mut round_trips) = (Instant::now(), 0);
    while begin.elapsed() < ECHO_TIME {
        for number in round_trips..round_trips + ECHO_BATCH {
            trip(number)?;
        }
        round_trips += ECHO_BATCH;
    }
    Ok(Line::RoundTrip { ns: begin.elapsed().as_nanos() as f64 / round_trips as f64 })
}

/// The files to hash: paths that each end with a zero byte. If it is to be done over and over, an empty path ends the list
/// and the end of standard input the work.
fn read_files(over: bool) -> Result<Files, GaveUp> {
    let mut paths = Vec::new();
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut path = Vec::new();
        stdin.read_until(0, &mut path)?;
        if path.pop_if(|byte| *byte == 0).is_none() || path.is_empty() {
            break;
        }
        paths.push(PathBuf::from(OsString::from_vec(path)));
    }
    if !over {
        return Ok(Files::once(paths));
    }
    let enough = Arc::new(AtomicBool::new(false));
    let is_enough = Arc::clone(&enough);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        is_enough.store(true, Relaxed);
    });
    Ok(Files::until(paths, enough))
}
