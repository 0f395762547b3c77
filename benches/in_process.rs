//! A closure through the executor inside one process: from submit to result, how many a second, and how late a million a
//! second run, beside a pair of bare rings and beside what others would take.
//!
//! Method: every round measures everything, in an order that turns round, the submitter pinned to one CPU and the worker to
//! another; a ratio is taken round by round, and the median of the rounds counts. Trips that follow each other have a mean,
//! elapsed time by trips without a clock in the loop, and percentiles of a second pass in which each is timed by fenced
//! clock reads; whether those samples add up to their elapsed time is told. Trips after a gap are timed one by one, a trip
//! of each side in turn, so there is no such sum. The open loop goes by the clock and counts from the moment at which a
//! closure was due. A missed goal is told, never an error.
//!
//! What is compared with what: our spinning worker with two spinning threads over bare rings, and with tokio and rayon as
//! they come, back to back; our sleeping worker with the same two after gaps in which every worker falls asleep.

#![deny(unsafe_code)]

mod closures;
mod embedded;
mod frame;
mod open_loop;
mod rates;
#[allow(dead_code, reason = "figures of several rivals have tables of their own")]
mod report;
mod rings;
#[cfg(feature = "rivals")]
mod rivals;
mod standings;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use executor_core::Clock;
use executord::floor::Pinned;

use frame::{Common, outcome, say};
use open_loop::Notes;
use report::circumstances;
use standings::{Course, Standings};

/// What a closure takes through the executor inside one process, beside a pair of rtrb rings, crossbeam-channel, tokio and
/// rayon in the same run.
#[derive(Debug, Parser)]
#[command(name = "in_process", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures everything.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Round trips in each pass of a round, of whoever spins.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1000..))]
    round_trips: u64,
    /// The same of tokio and rayon, which are slower.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1000..))]
    rival_trips: u64,
    /// Round trips of whoever sleeps, each after a gap.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..))]
    parked_trips: u64,
    /// The gap before each of them, in microseconds: time to fall asleep.
    #[arg(long, default_value_t = 300, value_name = "US", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    gap: u64,
    /// Closures of all submitters together, in each throughput pass.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    tasks: u64,
    /// Closures of each pass of the open loop; they are due at a million a second.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    paced: u64,
    /// Such passes in a round, each beside one of the machine alone.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    paced_pairs: u64,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench in_process
  cargo bench -p executor-benches --features rivals --bench in_process -- --json
  cargo bench -p executor-benches --features rivals --bench in_process -- --rounds 21 --cpus 2,3

Keys of --json, times in nanoseconds:
  floor_ns             a number there and back over two rtrb rings, both threads spinning
  ours_ns              submit_and_wait of an empty closure, the worker spinning
  ours_captured_ns     the same with a closure that captures 32 bytes: it costs an allocation
  ours_sleep_ns        the same with a worker that sleeps, after a gap
  crossbeam_ns         a thread with two channels, boxed closures, both sides spin on try_recv
  tokio_ns             spawn, and block_on of its handle: as it comes, back to back
  rayon_ns             install: as it comes, back to back
  *_parked_ns          the same after a gap, a trip of each in turn; crossbeam's recv blocks
  ratio_rtrb           ours_ns by floor_ns, p50; ratio_rtrb_mean is elapsed by trips
  times_*              crossbeam_ns, tokio_ns, rayon_ns by ours_ns, p50
  times_*_parked       the *_parked_ns by ours_sleep_ns, p50
  tasks_per_second     by submitters, one worker; floor_ and crossbeam_tasks_per_second too
  hiccup_ns            how late the machine itself is, at a million moments a second
  open_loop_ns         how late closures run that are due at a million a second
  p999_over_hiccup_ns  the difference of the p99.9 of both
  spread, goals, per_round

Rivals are measured with --features rivals; without it their keys are null.
It needs two CPUs. Build nothing else meanwhile: two busy cores are what is measured.";

fn main() -> ExitCode {
    outcome(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let cpus = options.common.two_cpus()?;
    for cpu in [cpus.0, cpus.1] {
        drop(Pinned::to(cpu)?); // now, and not in a thread that others wait for
    }
    let course = Course {
        cpus,
        round_trips: options.round_trips,
        rival_trips: options.rival_trips,
        parked_trips: options.parked_trips,
        gap: Duration::from_micros(options.gap),
        tasks: options.tasks,
        paced_pairs: options.paced_pairs,
        notes: Notes::leaked(Clock::detect(), options.paced),
    };
    let circumstances = circumstances("in_process");
    let mut standings = Standings::default();
    for round in 0..options.rounds as usize {
        say(&format!("round {} of {}", round + 1, options.rounds));
        standings.round(&course, round)?;
    }
    say("");
    options.common.print(|| standings.json(&course), || standings.text(&course), circumstances);
    Ok(())
}
