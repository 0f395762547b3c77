//! A worker and a producer that fall asleep beside each other, again and again: no sleep lasts over what it waits for.
//!
//! A race is one task. Both sides sleep as soon as they have nothing to do, and both are kept busy for a random time before,
//! so that commits and completions come at every moment of the other side's falling asleep.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a tool of the tests stops at the first surprise")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use executor_shm::attach::{Instance, Wish};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::record::DescriptorRecord;
use executor_shm::core::{Handler, Registry};
use executor_shm::inspect::Inspector;
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::{Ending, InstanceName, Sidecar, StopSignals};
use executor_tests::instance::TestInstance;
use executor_tests::role::spawn;
use executor_tests::{FAIL_SAFE, sandbox};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use serde_json::json;

/// Races a worker and a producer that fall asleep, and counts the wake-ups that were lost.
///
/// A sleep of the worker counts as lost if it ended by its time of 100 ms although a task had been waiting, one of the
/// producer if it lasted over 5 s. The exit code is 0 if no wake-up was lost, 1 if one was, 2 for a mistake in the
/// arguments, 130 after SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "sleepers", after_help = EXAMPLES)]
struct Options {
    /// How many.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    races: u64,
    /// Repeats the choices of an earlier run [default: a random one, which is printed].
    #[arg(long)]
    seed: Option<u64>,
    /// The longest time either side is busy before a race, in nanoseconds.
    #[arg(long, default_value_t = 8_000)]
    busy_ns: u64,
    /// System calls that the kernel refuses to the sidecar: membarrier, futex_waitv.
    #[arg(long, value_name = "CALLS")]
    sidecar_denied: Option<String>,
    /// The same for the producer.
    #[arg(long, value_name = "CALLS")]
    producer_denied: Option<String>,
    /// Print one JSON object in place of the text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p executor-tests --bin sleepers -- --races 10000000 --json
  cargo run --release -p executor-tests --bin sleepers -- --sidecar-denied membarrier

Everything is in /dev/shm/executor.sleepers-PID-0.*, and is removed in the end, also after SIGINT and SIGTERM.";

/// Is busy for as many nanoseconds as its payload says.
const BUSY: u32 = 1;
/// Longer than any wait that is ended by a wake-up, and not for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// A sleep that lasted so long was ended by nobody.
const LOST: Duration = Duration::from_secs(5);
/// Looks before the producer sleeps.
const LOOKS: u32 = 16;
/// Races between two looks for a signal.
const RACES: u64 = 1024;

/// What the races of the producer came to.
#[derive(Debug, Default)]
struct Seen {
    races: u64,
    sleeps: u64,
    lost: u64,
    interrupted: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.thread_block().unwrap();
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).unwrap();
    let instance = TestInstance::new("sleepers");
    let sidecar = spawn(|| serve(instance.name(), options.sidecar_denied.as_deref())).unwrap();
    if let Some(calls) = &options.producer_denied {
        sandbox::deny(calls);
    }
    let begun = Instant::now();
    let seen = race(&instance, &options, seed, &signals);
    let seconds = begun.elapsed().as_secs_f64();
    let view = Inspector::open(instance.name()).unwrap().look();
    kill(sidecar, Signal::SIGTERM).unwrap();
    let is_sound = matches!(waitpid(sidecar, None), Ok(WaitStatus::Exited(_, 0)));

    let sleep = view.workers[0].sleep;
    let useless: u64 = view.lanes.iter().map(|lane| lane.useless_wakes).sum();
    if options.json {
        let out = json!({
            "races": seen.races,
            "seed": seed,
            "seconds": seconds,
            "worker": {
                "wakes": sleep.wakes,
                "naps": sleep.naps,
                "overslept": sleep.overslept,
                "without_barrier": sleep.without_barrier,
                "without_watch": sleep.without_watch,
            },
            "producer": {"sleeps": seen.sleeps, "lost": seen.lost, "useless_wakes": useless},
            "sound": is_sound,
        });
        println!("{out}");
    } else {
        println!("seed {seed}: {} races in {seconds:.1} s", seen.races);
        println!("  worker: woken {} times, {} naps, {} overslept", sleep.wakes, sleep.naps, sleep.overslept);
        println!("  producer: {} sleeps, {} lost; {useless} wake-ups found nobody asleep", seen.sleeps, seen.lost);
    }
    match (seen.interrupted, is_sound && sleep.overslept + seen.lost == 0) {
        (true, _) => ExitCode::from(130),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

/// Serves until it is told to stop.
fn serve(instance: &InstanceName, denied: Option<&str>) -> i32 {
    if let Some(calls) = denied {
        sandbox::deny(calls);
    }
    let signals = StopSignals::block().unwrap();
    let mut registry = Registry::builder();
    registry.add(Handler::new(BUSY, "busy", |_, request, _| {
        be_busy(request.try_into().map_or(0, u64::from_le_bytes));
        Ok(())
    }));
    let sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
    let sidecar = sidecar.capacity(8).lanes(1).pinned(false).idle(IdleStrategy::Sleep).start().unwrap();
    match sidecar.run_until(&signals).unwrap().ending {
        Ending::Removed => 0,
        _ => 1,
    }
}

fn be_busy(nanoseconds: u64) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_nanos(nanoseconds) {
        std::hint::spin_loop();
    }
}

fn race(instance: &TestInstance, options: &Options, seed: u64, signals: &SignalFd) -> Seen {
    let begun = Instant::now();
    let opened = loop {
        match Instance::open(instance.name(), None) {
            Ok(opened) => break opened,
            Err(error) => assert!(begun.elapsed() < FAIL_SAFE, "{error}"),
        }
        std::thread::yield_now();
    };
    let claim = loop {
        if let Some(claim) = opened.claim(Wish::default()).unwrap() {
            break claim;
        }
        assert!(begun.elapsed() < FAIL_SAFE, "no lane becomes free");
        opened.nap(Duration::from_millis(1));
    };
    opened.wake_housekeeping();
    let (gate, clock) = (opened.gate(claim.lane), opened.clock());
    let mut producer = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(opened.geometry()));
    let (mut seen, mut dice) = (Seen::default(), fastrand::Rng::with_seed(seed));
    while seen.races < options.races && !seen.interrupted {
        be_busy(dice.u64(..=options.busy_ns));
        let mut record = DescriptorRecord::new(BUSY, 8, clock.now(), 0);
        record.inline_payload_mut()[..8].copy_from_slice(&dice.u64(..=options.busy_ns).to_le_bytes());
        let position = producer.submit(&record);
        producer.rouse(opened.status(), gate, position);
        let mut looks = 0;
        while producer.look(position) == Look::Pending {
            looks += 1;
            if looks > LOOKS {
                let lay_down = Instant::now();
                producer.sleep(position, PATIENCE);
                seen.sleeps += 1;
                seen.lost += u64::from(lay_down.elapsed() >= LOST);
                assert!(seen.lost < 10, "wake-ups are lost for good");
            }
        }
        producer.credit();
        seen.races += 1;
        seen.interrupted = seen.races.is_multiple_of(RACES) && signals.read_signal().unwrap().is_some();
    }
    seen
}
