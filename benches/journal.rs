//! What the journal costs a task: the worker of the sidecar over a full lane, with its journal and without one.
//!
//! Method: both sides run in every round, one lap of a lane each in turn, on the same core; the median lap of each side
//! counts, the difference is taken round by round, and the median of the rounds is the figure. The two differ in the type
//! of the journal's words alone, so no branch tells them apart. A missed goal is told, never an error.

#![deny(unsafe_code)]

mod frame;
mod notes;
#[allow(dead_code, reason = "its figure is a difference and no ratio")]
mod report;
#[allow(dead_code, reason = "there is no client here")]
mod sum;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use executor_core::ClockSource;
use executord::floor::{CAPACITY, Pinned};
use serde_json::{Value, json};

use frame::{Common, outcome, say};
use notes::Course;
use report::{Figure, Goal, Side, circumstances, median, rounded, table};

/// How long a worker takes for a task, with a journal and without.
#[derive(Debug, Parser)]
#[command(name = "journal", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures both sides.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Laps of each side in a round; each serves a full lane of 1,024 tasks.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    laps: u64,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench journal
  cargo bench -p executor-benches --bench journal -- --json --rounds 51

Keys of --json: journal_ns_per_task (the difference, median of the rounds), spread (its least and greatest round),
with_ns_per_task, without_ns_per_task, ratio, goals, per_round.

Build nothing else meanwhile: a busy core is what is measured.";

/// The difference, in nanoseconds a task.
const GOAL: Goal = Goal::AtMost(5.0);

fn main() -> ExitCode {
    outcome(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let (_, cpu) = options.common.cpus()?;
    let circumstances = circumstances("journal");
    let _pinned = Pinned::to(cpu)?;
    let (mut with, mut without) = (Course::with_journal()?, Course::without_journal()?);
    let mut figure = Figure::new("nanoseconds a task", Goal::None);
    for round in 0..options.rounds as usize {
        say(&format!("round {} of {}", round + 1, options.rounds));
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for lap in 0..options.laps as usize {
            // The first side changes from lap to lap, so that a drift of the machine favours neither.
            if (lap + round).is_multiple_of(2) {
                ours.push(with.lap()?);
                floor.push(without.lap()?);
            } else {
                floor.push(without.lap()?);
                ours.push(with.lap()?);
            }
        }
        figure.push(Side::Ours, median(&ours));
        figure.push(Side::Floor, median(&floor));
    }
    say("");
    let costs: Vec<f64> = figure.ours.iter().zip(&figure.floor).map(|(with, without)| with - without).collect();
    options.common.print(
        || as_json(options, cpu, &figure, &costs),
        || as_text(options, cpu, &figure, &costs),
        circumstances,
    );
    Ok(())
}

fn least_and_most(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn as_json(options: &Options, cpu: u32, figure: &Figure, costs: &[f64]) -> Value {
    let (cost, (min, max)) = (median(costs), least_and_most(costs));
    json!({
        "journal_ns_per_task": rounded(cost),
        "spread": { "min": rounded(min), "max": rounded(max) },
        "with_ns_per_task": rounded(median(&figure.ours)),
        "without_ns_per_task": rounded(median(&figure.floor)),
        "ratio": rounded(figure.ratio()),
        "goals": {
            "journal_ns_per_task": { "goal": GOAL.to_string(), "value": rounded(cost), "met": GOAL.is_met(cost) },
        },
        "per_round": figure.per_round(),
        "rounds": options.rounds,
        "laps": options.laps,
        "tasks_per_lap": CAPACITY,
        "cpu": cpu,
        "clock": ClockSource::detect().name(),
    })
}

fn as_text(options: &Options, cpu: u32, figure: &Figure, costs: &[f64]) -> String {
    let (cost, (min, max)) = (median(costs), least_and_most(costs));
    let met = if GOAL.is_met(cost) == Some(true) { "yes" } else { "no" };
    format!(
        "The floor is the same worker without a journal.\n{}\nthe journal costs {cost:.2} ns a task (rounds from {min:.2} \
         to {max:.2}); goal {GOAL}, met: {met}\n{} rounds of {} laps of {CAPACITY} tasks on CPU {cpu}, clock {}\n",
        table(&[figure]),
        options.rounds,
        options.laps,
        ClockSource::detect().name(),
    )
}
