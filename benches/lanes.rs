//! One worker and more than a bare task: lanes that wait, lanes that work, payloads that are long.
//!
//! Method: each round measures everything, in changing order, pinned to the same two CPUs; a ratio is taken round by
//! round, and the median of the rounds counts. A missed goal is told, never an error.

#![deny(unsafe_code)]

mod crowd;
mod frame;
mod payloads;
mod report;
mod sidecar;
mod sum;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use executor_core::Registry;
use executor_core::registry::RegistryError;
use serde_json::{Value, json};

use crowd::{IDLE_LANES, PRODUCERS};
use frame::{Common, outcome, say};
use payloads::{Path, SIZES};
use report::{Figure, Goal, Side, circumstances, median, rounded, table};
use sidecar::{end_on_signals, serve_if_asked};
use sum::{Sum, sum};

/// What attached idle lanes cost a round trip, what several producers get through one worker, and how fast payloads of
/// 24 bytes to 64 KiB cross with copies and in place.
#[derive(Debug, Parser)]
#[command(name = "lanes", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures everything.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Round trips with each count of idle lanes.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1000..))]
    round_trips: u64,
    /// Tasks of all producers together.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    tasks: u64,
    /// Bytes sent for each size of payload; at least 4,096 tasks, at most 200,000.
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES")]
    bytes: u64,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench lanes
  cargo bench -p executor-benches --bench lanes -- --json --rounds 5

Keys of --json: round_trip_ns, ratio_16, ratio_64, ratio_256 (by idle lanes, against one); tasks_per_second and
ratio_producers (by producers, against one); payloads (a row for each size: nanoseconds a task and bytes a second of two
calls of memcpy on one thread, of the executor with copies, of the executor in place); goals; per_round.

It needs two CPUs and builds nothing else meanwhile: two busy cores are what is measured.";

fn registry() -> Result<Registry, RegistryError> {
    let mut registry = Registry::builder();
    registry.typed::<Sum>(|_, numbers| Ok(sum(numbers)));
    payloads::register(&mut registry);
    registry.build()
}

fn main() -> ExitCode {
    if let Some(code) = serve_if_asked(registry) {
        return code;
    }
    outcome(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let cpus = options.common.two_cpus()?;
    let circumstances = circumstances("lanes");
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

/// Every figure, round by round. The floor of a crowd is one alone.
#[derive(Debug)]
struct Results {
    /// By the later ones of [`IDLE_LANES`].
    trips: [Figure; 3],
    /// By the later ones of [`PRODUCERS`].
    rates: [Figure; 3],
    /// By [`SIZES`]: nanoseconds a payload, against two copies.
    copied: Vec<Figure>,
    in_place: Vec<Figure>,
}

impl Results {
    fn new() -> Self {
        let sizes = |name: [&'static str; SIZES.len()]| name.map(|name| Figure::new(name, Goal::None)).into();
        Self {
            trips: [
                Figure::new("round trip, ns, 16 idle lanes", Goal::None),
                Figure::new("round trip, ns, 64 idle lanes", Goal::AtMost(3.0)),
                Figure::new("round trip, ns, 256 idle lanes", Goal::None),
            ],
            rates: [
                Figure::new("tasks a second, 2 producers", Goal::None),
                Figure::new("tasks a second, 4 producers", Goal::None),
                Figure::new("tasks a second, 8 producers", Goal::AtLeast(0.8)),
            ],
            copied: sizes([
                "ns a payload of 24 B, copied",
                "ns a payload of 64 B, copied",
                "ns a payload of 256 B, copied",
                "ns a payload of 1 KiB, copied",
                "ns a payload of 4 KiB, copied",
                "ns a payload of 16 KiB, copied",
                "ns a payload of 64 KiB, copied",
            ]),
            in_place: sizes([
                "ns a payload of 24 B, in place",
                "ns a payload of 64 B, in place",
                "ns a payload of 256 B, in place",
                "ns a payload of 1 KiB, in place",
                "ns a payload of 4 KiB, in place",
                "ns a payload of 16 KiB, in place",
                "ns a payload of 64 KiB, in place",
            ]),
        }
    }

    fn round(&mut self, options: &Options, cpus: (u32, u32), round: usize) -> Result<(), Box<dyn Error>> {
        let [alone, crowded @ ..] = crowd::trips_among_idle_lanes(cpus, options.round_trips)?;
        for (figure, trip) in self.trips.iter_mut().zip(crowded) {
            figure.push(Side::Floor, alone);
            figure.push(Side::Ours, trip);
        }

        let mut rates = [0.0; PRODUCERS.len()];
        for at in 0..PRODUCERS.len() {
            let at = (at + round) % PRODUCERS.len();
            rates[at] = crowd::tasks_per_second(cpus, PRODUCERS[at], options.tasks)?;
        }
        let [alone, several @ ..] = rates;
        for (figure, rate) in self.rates.iter_mut().zip(several) {
            figure.push(Side::Floor, alone);
            figure.push(Side::Ours, rate);
        }

        for (size, (copied, in_place)) in SIZES.into_iter().zip(self.copied.iter_mut().zip(&mut self.in_place)) {
            for path in payloads::paths_in_turn(round) {
                let nanoseconds = payloads::nanoseconds(cpus, path, size, options.bytes)?;
                match path {
                    Path::TwoCopies => {
                        copied.push(Side::Floor, nanoseconds);
                        in_place.push(Side::Floor, nanoseconds);
                    }
                    Path::Copied => copied.push(Side::Ours, nanoseconds),
                    Path::InPlace => in_place.push(Side::Ours, nanoseconds),
                }
            }
        }
        Ok(())
    }

    fn json(&self, options: &Options, cpus: (u32, u32)) -> Value {
        let against_one = |counts: [usize; 4], figures: &[Figure; 3]| -> Value {
            let alone = figures.first().map_or(f64::NAN, |figure| median(&figure.floor));
            let all = [alone].into_iter().chain(figures.iter().map(|figure| median(&figure.ours)));
            counts.into_iter().zip(all).map(|(count, value)| (count.to_string(), Value::from(rounded(value)))).collect()
        };
        let [trips_16, trips_64, trips_256] = &self.trips;
        let [_, _, eight] = &self.rates;
        let ratios: Value = PRODUCERS
            .into_iter()
            .skip(1)
            .zip(&self.rates)
            .map(|(count, figure)| (count.to_string(), Value::from(rounded(figure.ratio()))))
            .collect();
        let payloads: Vec<Value> = SIZES
            .into_iter()
            .zip(self.copied.iter().zip(&self.in_place))
            .map(|(bytes, (copied, in_place))| {
                let path = |values: &[f64]| {
                    let ns = median(values);
                    json!({ "ns": rounded(ns), "bytes_per_second": (bytes as f64 * 1e9 / ns).round() })
                };
                json!({
                    "bytes": bytes,
                    "memcpy_twice": path(&copied.floor),
                    "copied": path(&copied.ours),
                    "in_place": path(&in_place.ours),
                    "ratio_copied": rounded(copied.ratio()),
                    "ratio_in_place": rounded(in_place.ratio()),
                    "spread_copied": copied.spread(),
                    "spread_in_place": in_place.spread(),
                })
            })
            .collect();
        json!({
            "round_trip_ns": against_one(IDLE_LANES, &self.trips),
            "ratio_16": rounded(trips_16.ratio()),
            "ratio_64": rounded(trips_64.ratio()),
            "ratio_256": rounded(trips_256.ratio()),
            "spread_64": trips_64.spread(),
            "tasks_per_second": against_one(PRODUCERS, &self.rates),
            "ratio_producers": ratios,
            "spread_8": eight.spread(),
            "payloads": payloads,
            "goals": { "ratio_64": trips_64.verdict(), "ratio_producers_8": eight.verdict() },
            "per_round": {
                "ratio_64": trips_64.per_round(),
                "producers_8": eight.per_round(),
            },
            "rounds": options.rounds,
            "round_trips": options.round_trips,
            "tasks": options.tasks,
            "cpus": [cpus.0, cpus.1],
        })
    }

    fn text(&self, options: &Options, cpus: (u32, u32)) -> String {
        let mut text = "Beside one idle lane, one producer:\n".to_owned();
        text += &table(&self.trips.iter().chain(&self.rates).collect::<Vec<_>>());
        text += "\nBeside two calls of memcpy on one thread:\n";
        text += &table(&self.copied.iter().chain(&self.in_place).collect::<Vec<_>>());
        text += "\nBytes a second\n";
        let gigabytes = |bytes: usize, values: &[f64]| format!("{:.2} GB/s", bytes as f64 / median(values));
        for (bytes, (copied, in_place)) in SIZES.into_iter().zip(self.copied.iter().zip(&self.in_place)) {
            text += &format!(
                "{bytes:>6} B   memcpy twice {:>12}   copied {:>12}   in place, untouched {:>13}\n",
                gigabytes(bytes, &copied.floor),
                gigabytes(bytes, &copied.ours),
                gigabytes(bytes, &in_place.ours),
            );
        }
        text += &format!(
            "\n{} rounds of {} trips and {} tasks, producers on CPU {}, the worker on CPU {}\n",
            options.rounds, options.round_trips, options.tasks, cpus.0, cpus.1
        );
        text
    }
}
