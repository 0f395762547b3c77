//! What it costs to see: recording on and off, and a reader beside the round trips.
//!
//! Method: three questions, each with both sides in every round, in changing order. A worker serves full lanes with and
//! without recording, on one core: the difference is taken round by round. Round trips go through two sidecars, one that
//! records and one that does not: the ratio of their p50. Round trips go through a sidecar that records while a third
//! process wakes a thousand times a second, on the producer's CPU, and reads either the instance with everything that was
//! recorded or, as the floor, a copy of its files: the ratio of their p99. Medians of the rounds count; a missed goal is
//! told, never an error.

#![deny(unsafe_code)]

mod frame;
#[allow(dead_code, reason = "its lanes have a journal")]
mod notes;
#[allow(dead_code, reason = "there is nothing to be reached from below")]
mod report;
mod sidecar;
mod sum;
mod visitor;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use executor_core::recorder::Recording;
use executor_core::registry::RegistryError;
use executor_core::{ClockSource, Registry};
use executord::floor::{CAPACITY, Pinned, TripTimes, WARM_UP, sample_trips, time_trips};
use serde_json::{Value, json};

use frame::{Common, outcome, say};
use report::{Figure, Goal, Side, circumstances, median, rounded, table};
use sidecar::{Setup, SidecarProcess, end_on_signals, serve_if_asked};
use sum::{Sum, call, sum};
use visitor::{Reads, Visitor, visit_if_asked};

/// What recording costs a task and a round trip, and what a reader costs them.
#[derive(Debug, Parser)]
#[command(name = "seeing", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures both sides.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Laps of each side in a round; each serves a full lane of 1,024 tasks.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    laps: u64,
    /// Round trips of each side in a round.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..))]
    round_trips: u64,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench seeing
  cargo bench -p executor-benches --bench seeing -- --json --rounds 21

Keys of --json: seeing_ns_per_task (recording on less off), seeing_ratio_p50 (round trips, recording on by off),
reading_ratio_p99 (round trips beside a reader of the instance by those beside one of a copy), spread, goals, per_round.

Build nothing else meanwhile: two busy cores are what is measured.";

/// The difference, in nanoseconds a task.
const TASK: Goal = Goal::AtMost(5.0);

fn registry() -> Result<Registry, RegistryError> {
    Registry::builder().typed::<Sum>(|_, numbers| Ok(sum(numbers))).build()
}

fn main() -> ExitCode {
    if let Some(code) = serve_if_asked(registry).or_else(visit_if_asked) {
        return code;
    }
    outcome(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let cpus = options.common.two_cpus()?;
    let circumstances = circumstances("seeing");
    end_on_signals()?;
    let mut results = Results::new();
    for round in 0..options.rounds as usize {
        say(&format!("round {} of {}", round + 1, options.rounds));
        results.round(options, cpus, round)?;
    }
    say("");
    options.common.print(|| results.json(options, cpus), || results.text(options, cpus), circumstances);
    Ok(())
}

/// Every figure, round by round. The floor is recording off, or a reader of a copy.
#[derive(Debug)]
struct Results {
    task: Figure,
    p50: Figure,
    mean: Figure,
    beside_reader: Figure,
}

impl Results {
    fn new() -> Self {
        Self {
            task: Figure::new("served task, ns", Goal::None),
            p50: Figure::new("round trip, p50, ns", Goal::AtMost(1.03)),
            mean: Figure::new("round trip, elapsed / trips, ns", Goal::None),
            beside_reader: Figure::new("round trip beside a reader, p99, ns", Goal::AtMost(1.10)),
        }
    }

    fn round(&mut self, options: &Options, cpus: (u32, u32), round: usize) -> Result<(), Box<dyn Error>> {
        let sides = if round.is_multiple_of(2) { [Side::Floor, Side::Ours] } else { [Side::Ours, Side::Floor] };
        self.serve(options, cpus.1, sides)?;
        for side in sides {
            let (mean, times) = trips(options, cpus, side == Side::Ours, None)?;
            self.mean.push(side, mean);
            self.p50.push(side, times.p50_ns);
        }
        for side in sides {
            let reads = if side == Side::Ours { Reads::Instance } else { Reads::Copy };
            self.beside_reader.push(side, trips(options, cpus, true, Some(reads))?.1.p99_ns);
        }
        Ok(())
    }

    fn serve(&mut self, options: &Options, cpu: u32, sides: [Side; 2]) -> Result<(), Box<dyn Error>> {
        let _pinned = Pinned::to(cpu)?;
        let mut on = notes::Course::with_journal()?;
        let mut off = notes::Course::with_journal()?.recording(Recording::Off);
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for lap in 0..options.laps as usize {
            let mut sides = sides;
            if !lap.is_multiple_of(2) {
                sides.reverse();
            }
            for side in sides {
                match side {
                    Side::Ours => ours.push(on.lap()?),
                    Side::Floor => floor.push(off.lap()?),
                }
            }
        }
        self.task.push(Side::Ours, median(&ours));
        self.task.push(Side::Floor, median(&floor));
        Ok(())
    }

    /// Recording on less off, round by round.
    fn costs(&self) -> Vec<f64> {
        self.task.ours.iter().zip(&self.task.floor).map(|(on, off)| on - off).collect()
    }

    fn json(&self, options: &Options, cpus: (u32, u32)) -> Value {
        let costs = self.costs();
        let cost = median(&costs);
        let of = |pick: fn(&Figure) -> Value| {
            json!({
                "task": pick(&self.task),
                "p50": pick(&self.p50),
                "mean": pick(&self.mean),
                "beside_reader": pick(&self.beside_reader),
            })
        };
        let mut goals = of(Figure::verdict);
        goals["task"] = json!({ "goal": TASK.to_string(), "value": rounded(cost), "met": TASK.is_met(cost) });
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut spread = of(Figure::spread);
        spread["seeing_ns_per_task"] = json!({ "min": rounded(least), "max": rounded(most) });
        json!({
            "seeing_ns_per_task": rounded(cost),
            "seeing_ratio_p50": rounded(self.p50.ratio()),
            "seeing_ratio_mean": rounded(self.mean.ratio()),
            "reading_ratio_p99": rounded(self.beside_reader.ratio()),
            "spread": spread,
            "goals": goals,
            "per_round": of(Figure::per_round),
            "rounds": options.rounds,
            "laps": options.laps,
            "tasks_per_lap": CAPACITY,
            "round_trips": options.round_trips,
            "cpus": [cpus.0, cpus.1],
            "clock": ClockSource::detect().name(),
        })
    }

    fn text(&self, options: &Options, cpus: (u32, u32)) -> String {
        let costs = self.costs();
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let met = if TASK.is_met(median(&costs)) == Some(true) { "yes" } else { "no" };
        format!(
            "The floor is the same without recording, and of the last line a reader of a copy.\n{}\n\
             recording costs {:.2} ns a task (rounds from {least:.2} to {most:.2}); goal {TASK}, met: {met}\n\
             {} rounds of {} laps of {CAPACITY} tasks and {} round trips, CPUs {} and {}, clock {}\n",
            table(&[&self.task, &self.p50, &self.mean, &self.beside_reader]),
            median(&costs),
            options.rounds,
            options.laps,
            options.round_trips,
            cpus.0,
            cpus.1,
            ClockSource::detect().name(),
        )
    }
}

/// Round trips through a sidecar that was just started and used a little: elapsed time by trips, and single ones.
fn trips(
    options: &Options,
    cpus: (u32, u32),
    records: bool,
    reads: Option<Reads>,
) -> Result<(f64, TripTimes), Box<dyn Error>> {
    let sidecar = SidecarProcess::start(&Setup { records, ..Setup::one_lane(cpus.1) })?;
    let mut client = sidecar.connect()?;
    let visitor = reads.map(|reads| Visitor::start(client.instance(), reads, cpus.0)).transpose()?;
    let _pinned = Pinned::to(cpus.0)?;
    time_trips(WARM_UP, |number| call(&mut client, number))?;
    let mean = time_trips(options.round_trips, |number| call(&mut client, number))?;
    let times = sample_trips(options.round_trips, |number| call(&mut client, number))?;
    if let Some(visitor) = visitor {
        visitor.end()?;
    }
    Ok((mean, times))
}
