//! One task there and back between two processes, and tasks a second through one lane, each beside its floor.
//!
//! Method: both sides are measured in every round, in changing order, pinned to the same two CPUs; a ratio is taken
//! round by round, and the median of the rounds counts. The mean of a round trip is elapsed time by trips; percentiles
//! come from a second pass in which each trip is timed by fenced clock reads. A missed goal is told, never an error.

#![deny(unsafe_code)]

mod course;
mod frame;
mod report;
mod sidecar;
mod sum;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use executor_core::ClockSource;
use executord::floor::CAPACITY;
use serde_json::{Value, json};

use course::{Course, registry, sides_in_turn};
use frame::{Common, outcome, say};
use report::{Figure, Goal, Side, circumstances, median, rounded, table};
use sidecar::{end_on_signals, serve_if_asked};

/// How long one task takes through the executor, and how many a second one lane carries, beside what the machine
/// itself allows in the same run.
#[derive(Debug, Parser)]
#[command(name = "round_trip", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures both sides.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Round trips in each pass of a round.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..))]
    round_trips: u64,
    /// Tasks in each throughput pass of a round.
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    tasks: u64,
    /// Tasks that the throughput loops submit and collect in one go.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch: u64,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench round_trip
  cargo bench -p executor-benches --bench round_trip -- --json --rounds 21
  cargo bench -p executor-benches --bench round_trip -- --cpus 2,3 --round-trips 1000000

Build nothing else meanwhile: two busy cores are what is measured.";

fn main() -> ExitCode {
    if let Some(code) = serve_if_asked(registry) {
        return code;
    }
    outcome(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let cpus = options.common.cpus()?;
    let course = Course { cpus, round_trips: options.round_trips, tasks: options.tasks, batch: options.batch };
    let circumstances = circumstances("round_trip");
    end_on_signals()?;
    let mut results = Results::new();
    for round in 0..options.rounds as usize {
        say(&format!("round {} of {}", round + 1, options.rounds));
        results.round(&course, round)?;
    }
    say("");
    options.common.print(
        || results.json(&course, options.rounds),
        || results.text(&course, options.rounds),
        circumstances,
    );
    Ok(())
}

/// Every figure, round by round.
#[derive(Debug)]
struct Results {
    mean: Figure,
    p50: Figure,
    p99: Figure,
    p999: Figure,
    throughput: Figure,
    throughput_untimed: Figure,
    one_line: Vec<f64>,
    rotating: Vec<f64>,
    bare: Vec<f64>,
    /// What the samples leave out of the elapsed time, in nanoseconds.
    unsampled: Figure,
    /// 1 where that is no more than reading the clock costs, 0 elsewhere.
    agreement: Figure,
}

impl Results {
    fn new() -> Self {
        Self {
            mean: Figure::new("round trip, elapsed / trips, ns", Goal::AtMost(1.10)),
            p50: Figure::new("round trip, p50, ns", Goal::AtMost(1.15)),
            p99: Figure::new("round trip, p99, ns", Goal::None),
            p999: Figure::new("round trip, p99.9, ns", Goal::AtMost(2.0)),
            throughput: Figure::new("tasks a second, timestamps on", Goal::AtLeast(0.85)),
            throughput_untimed: Figure::new("tasks a second, timestamps off", Goal::AtLeast(0.85)),
            one_line: Vec::new(),
            rotating: Vec::new(),
            bare: Vec::new(),
            unsampled: Figure::new("elapsed and not in a sample, ns a trip", Goal::None),
            agreement: Figure::new("rounds whose samples add up", Goal::None),
        }
    }

    fn round(&mut self, course: &Course, round: usize) -> Result<(), Box<dyn Error>> {
        let sides = sides_in_turn(round);
        for side in sides {
            match side {
                Side::Floor => {
                    let floor = course.floor_trips()?;
                    self.one_line.push(floor.one_line_ns);
                    self.rotating.push(floor.rotating_ns);
                    self.mean.push(side, floor.floor_ns());
                }
                Side::Ours => self.mean.push(side, course.task_ns()?),
            }
        }
        self.bare.push(course.bare_trip_ns()?);
        for side in sides {
            let times = course.trip_times(side)?;
            self.p50.push(side, times.p50_ns);
            self.p99.push(side, times.p99_ns);
            self.p999.push(side, times.p999_ns);
            self.unsampled.push(side, times.unsampled_ns());
            self.agreement.push(side, f64::from(u8::from(times.agrees())));
        }
        for side in sides {
            self.throughput.push(side, course.tasks_per_second(side, true)?);
        }
        for side in sides {
            self.throughput_untimed.push(side, course.tasks_per_second(side, false)?);
        }
        Ok(())
    }

    fn named(&self) -> [(&'static str, &Figure); 6] {
        [
            ("mean", &self.mean),
            ("p50", &self.p50),
            ("p99", &self.p99),
            ("p999", &self.p999),
            ("throughput", &self.throughput),
            ("throughput_untimed", &self.throughput_untimed),
        ]
    }

    /// Whether samples add up to the elapsed time in most rounds: one in which something else ran on the core may not.
    fn samples_agree(&self, pick: fn(&Figure) -> &Vec<f64>) -> bool {
        median(pick(&self.agreement)) > 0.5
    }

    fn json(&self, course: &Course, rounds: u64) -> Value {
        let nanoseconds = |pick: fn(&Figure) -> &Vec<f64>| {
            json!({
                "mean": rounded(median(pick(&self.mean))),
                "p50": rounded(median(pick(&self.p50))),
                "p99": rounded(median(pick(&self.p99))),
                "p999": rounded(median(pick(&self.p999))),
                "unsampled": rounded(median(pick(&self.unsampled))),
                "samples_agree": self.samples_agree(pick),
            })
        };
        let each = |of: fn(&Figure) -> Value| -> Value {
            self.named().into_iter().map(|(name, figure)| (name.to_owned(), of(figure))).collect()
        };
        json!({
            "floor_ns": nanoseconds(|figure| &figure.floor),
            "task_ns": nanoseconds(|figure| &figure.ours),
            "ratio_mean": rounded(self.mean.ratio()),
            "ratio_p50": rounded(self.p50.ratio()),
            "ratio_p99": rounded(self.p99.ratio()),
            "ratio_p999": rounded(self.p999.ratio()),
            "floor_tasks_per_second": median(&self.throughput.floor).round(),
            "tasks_per_second": median(&self.throughput.ours).round(),
            "ratio_throughput": rounded(self.throughput.ratio()),
            "floor_tasks_per_second_untimed": median(&self.throughput_untimed.floor).round(),
            "tasks_per_second_untimed": median(&self.throughput_untimed.ours).round(),
            "ratio_throughput_untimed": rounded(self.throughput_untimed.ratio()),
            "floor_kinds_ns": {
                "one_line": rounded(median(&self.one_line)),
                "rotating": rounded(median(&self.rotating)),
                "written_bare": rounded(median(&self.bare)),
            },
            "spread": each(Figure::spread),
            "goals": each(Figure::verdict),
            "per_round": each(Figure::per_round),
            "rounds": rounds,
            "round_trips": course.round_trips,
            "tasks": course.tasks,
            "batch": course.batch,
            "capacity": CAPACITY,
            "cpus": [course.cpus.0, course.cpus.1],
            "yielded": course.is_lonely(),
            "clock": ClockSource::detect().name(),
        })
    }

    fn text(&self, course: &Course, rounds: u64) -> String {
        let figures = self.named().map(|(_, figure)| figure);
        let agree = |pick| if self.samples_agree(pick) { "yes" } else { "no" };
        let Course { cpus: (producer, sidecar), round_trips, tasks, batch } = course;
        let mut text = table(&figures);
        text += &format!(
            "\nfloor: one line {:.1} ns, rotating slots {:.1} ns; the protocol written bare {:.1} ns\n\
             samples add up to the elapsed time: floor {} (all but {:.1} ns a trip), executor {} (all but {:.1} ns)\n\
             {rounds} rounds of {round_trips} trips and {tasks} tasks, batch {batch}, capacity {CAPACITY}, \
             CPUs {producer} and {sidecar}, clock {}\n",
            median(&self.one_line),
            median(&self.rotating),
            median(&self.bare),
            agree(|figure| &figure.floor),
            median(&self.unsampled.floor),
            agree(|figure| &figure.ours),
            median(&self.unsampled.ours),
            ClockSource::detect().name(),
        );
        if course.is_lonely() {
            text += "both processes share one CPU and yield: these are figures of the scheduler\n";
        }
        text
    }
}
