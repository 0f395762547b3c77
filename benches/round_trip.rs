//! One task there and back between two processes, and tasks a second through one lane, each beside its floor.
//!
//! Method: both sides are measured in every round, in changing order, pinned to the same two CPUs; a ratio is taken
//! round by round, and the median of the rounds counts. The mean of a round trip is elapsed time by trips; percentiles
//! come from a second pass in which each trip is timed by fenced clock reads. A missed goal is told, never an error.

#![deny(unsafe_code)]

mod report;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use executord::floor;
use serde_json::{Value, json};

use report::{Figure, Goal, Side, circumstances, median, rounded, table};

/// How long one task takes through the executor, and how many a second one lane carries, beside what the machine
/// itself allows in the same run.
#[derive(Debug, Parser)]
#[command(name = "round_trip", after_help = EXAMPLES)]
struct Options {
    /// Print one JSON object as the last line instead of a table.
    #[arg(long)]
    json: bool,
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
    /// CPUs of the producer and of the sidecar [default: the first two that are allowed].
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "PRODUCER,SIDECAR")]
    cpus: Vec<u32>,
    /// What `cargo bench` adds; without meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench round_trip
  cargo bench -p executor-benches --bench round_trip -- --json --rounds 21
  cargo bench -p executor-benches --bench round_trip -- --cpus 2,3 --round-trips 1000000

Build nothing else meanwhile: two busy cores are what is measured.";

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let cpus = match options.cpus[..] {
        [] => floor::two_cpus()?,
        [producer, sidecar] => (producer, sidecar),
        _ => return Err("--cpus takes two numbers, as in --cpus 0,1".into()),
    };
    let circumstances = circumstances("round_trip");
    let mut results = Results::new();
    for round in 0..options.rounds as usize {
        if std::io::stderr().is_terminal() {
            eprint!("\rround {} of {}", round + 1, options.rounds);
        }
        results.round(options, cpus, round)?;
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r{:30}\r", "");
    }
    if options.json {
        let Value::Object(mut object) = results.json(options, cpus) else { return Ok(()) };
        object.extend(circumstances);
        println!("{}", Value::Object(object));
    } else {
        println!("{}", results.text(options, cpus));
        for (name, value) in circumstances {
            println!("{name:<12} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Results {
    mean: Figure,
    p50: Figure,
    p99: Figure,
    p999: Figure,
    throughput: Figure,
    throughput_untimed: Figure,
    /// The design written bare, in nanoseconds.
    bare: Vec<f64>,
    /// What samples leave out of the elapsed time, in nanoseconds, and whether that is no more than reading the clock.
    floor_unsampled: Vec<(f64, bool)>,
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
            bare: Vec::new(),
            floor_unsampled: Vec::new(),
        }
    }

    fn round(&mut self, options: &Options, cpus: (u32, u32), round: usize) -> Result<(), Box<dyn Error>> {
        for side in Side::in_turn(round) {
            if side == Side::Floor {
                self.mean.push(side, floor::ping_pong(cpus, options.round_trips)?.floor_ns());
                self.bare.push(floor::bare_round_trip(cpus, options.round_trips)?.0);
            }
        }
        for side in Side::in_turn(round) {
            if side == Side::Floor {
                let both = floor::ping_pong_times(cpus, options.round_trips)?;
                let times = both.floor();
                self.p50.push(side, times.p50_ns);
                self.p99.push(side, times.p99_ns);
                self.p999.push(side, times.p999_ns);
                self.floor_unsampled.push((times.unsampled_ns(), times.agrees()));
            }
        }
        for (timed, figure) in [(true, &mut self.throughput), (false, &mut self.throughput_untimed)] {
            for side in Side::in_turn(round) {
                if side == Side::Floor {
                    let floor = floor::throughput(cpus, options.tasks, options.batch, timed)?;
                    figure.push(side, floor.tasks_per_second);
                }
            }
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

    fn json(&self, options: &Options, cpus: (u32, u32)) -> Value {
        let nanoseconds = |pick: fn(&Figure) -> &Vec<f64>| {
            json!({
                "mean": rounded(median(pick(&self.mean))),
                "p50": rounded(median(pick(&self.p50))),
                "p99": rounded(median(pick(&self.p99))),
                "p999": rounded(median(pick(&self.p999))),
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
            "bare_ns": rounded(median(&self.bare)),
            "spread": each(Figure::spread),
            "goals": each(Figure::verdict),
            "per_round": each(Figure::per_round),
            "unsampled_ns": { "floor": rounded(median_unsampled(&self.floor_unsampled)) },
            "samples_agree": { "floor": all_agree(&self.floor_unsampled) },
            "rounds": options.rounds,
            "round_trips": options.round_trips,
            "tasks": options.tasks,
            "batch": options.batch,
            "capacity": floor::CAPACITY,
            "cpus": [cpus.0, cpus.1],
            "yielded": cpus.0 == cpus.1,
        })
    }

    fn text(&self, options: &Options, cpus: (u32, u32)) -> String {
        let figures = self.named().map(|(_, figure)| figure);
        let mut text = table(&figures);
        text += &format!(
            "\nthe same protocol written bare: {:.1} ns a round trip\n\
             samples agree with the elapsed time: floor {} ({:.1} ns a trip outside samples)\n\
             {} rounds of {} trips and {} tasks, batch {}, capacity {}, CPUs {} and {}",
            median(&self.bare),
            if all_agree(&self.floor_unsampled) { "yes" } else { "no" },
            median_unsampled(&self.floor_unsampled),
            options.rounds,
            options.round_trips,
            options.tasks,
            options.batch,
            floor::CAPACITY,
            cpus.0,
            cpus.1,
        );
        if cpus.0 == cpus.1 {
            text += "\nboth processes share one CPU and yield: these are figures of the scheduler";
        }
        text
    }
}

fn median_unsampled(rounds: &[(f64, bool)]) -> f64 {
    median(&rounds.iter().map(|&(unsampled, _)| unsampled).collect::<Vec<_>>())
}

/// Whether most rounds agree: a round in which something else ran on the core is not the rule.
fn all_agree(rounds: &[(f64, bool)]) -> bool {
    rounds.iter().filter(|(_, agrees)| *agrees).count() * 2 > rounds.len()
}
