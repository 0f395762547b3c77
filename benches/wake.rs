//! What a task waits for that comes after a time without one, and what that time costs: each idle strategy beside a bare
//! wake-up between two processes.
//!
//! Method: every round measures everything, in an order that turns round, pinned to the same two CPUs; both sides of a pair
//! wait by the same strategy. The producer is busy during the gap, so its own CPU stays warm. A ratio is taken round by
//! round, and the median of the rounds counts. A missed goal is told, never an error.

#![deny(unsafe_code)]

mod curves;
mod frame;
#[allow(dead_code, reason = "its figures are by gap, and have tables of their own")]
mod report;
mod sidecar;
mod spells;
mod sum;

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use executor_core::Registry;
use executor_core::idle::{IdleStrategy, SPIN_MAX};
use executor_core::registry::RegistryError;
use executord::floor::{Spell, sleeping_trips};
use plotters::chart::SeriesLabelPosition;
use serde_json::{Map, Value, json};

use curves::{Caption, Curve, draw, percent, time};
use frame::{Common, outcome, say};
use report::{Goal, circumstances, median, rounded};
use sidecar::{end_on_signals, serve_if_asked};
use spells::{Passed, STRATEGIES, idle_cpu_percent, pass, spells};
use sum::{Sum, sum};

/// How long a task takes that comes after an idle gap of 1 us to 100 ms, and what the sidecar burns in the gap, by idle
/// strategy, beside a bare futex round trip between two processes.
#[derive(Debug, Parser)]
#[command(name = "wake", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures everything.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Time for each gap of a round, in milliseconds; two trips at least.
    #[arg(long, default_value_t = 40, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    spell: u64,
    /// Time without a task over which the CPU of a sidecar with 16 lanes is read, for each strategy, in seconds.
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    idle: u64,
    /// Draw wake-latency.svg and wake-cpu.svg into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench wake
  cargo bench -p executor-benches --bench wake -- --json --rounds 21
  cargo bench -p executor-benches --bench wake -- --svg docs

Keys of --json: floor_wake_ns (by lanes: a sleeper on a word for each lane and one for itself, as the worker has them;
\"plain\" sleeps on one word) and wake_ns (by strategy; \"sleep_16_lanes\" has 15 idle lanes beside), each a row for each
gap; ratio_wake_1 and ratio_wake_16 (both sides asleep against the floor, gaps of 100 us and more); adaptive_ratio_spin
(p50 at gaps below its budget); idle_cpu_percent (by strategy, 16 attached lanes); spread, by_gap, goals.

It needs two CPUs. Build nothing else meanwhile: what is measured is how soon a CPU is free.";

fn registry() -> Result<Registry, RegistryError> {
    let mut registry = Registry::builder();
    registry.typed::<Sum>(|_, numbers| Ok(sum(numbers)));
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
    if let Some(folder) = options.svg.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(format!("{} is no folder; make it first", folder.display()).into());
    }
    let circumstances = circumstances("wake");
    end_on_signals()?;
    let spells = spells(Duration::from_millis(options.spell));
    let mut results = Results::new(&spells);
    for round in 0..options.rounds as usize {
        say(&format!("round {} of {}", round + 1, options.rounds));
        results.round(cpus, (&spells, Duration::from_millis(options.spell)), round)?;
    }
    for idle in STRATEGIES {
        say(&format!("without a task: {}", idle.name()));
        let burnt = idle_cpu_percent(cpus, idle, LANES, Duration::from_secs(options.idle))?;
        results.idle.push((idle, burnt));
    }
    say("");
    if let Some(folder) = &options.svg {
        results.draw(folder, &circumstances)?;
    }
    options.common.print(|| results.json(options, cpus), || results.text(options, cpus), circumstances);
    Ok(())
}

/// Attached lanes where there are many.
const LANES: u32 = 16;
/// Gaps from here on are ones in which whoever sleeps is asleep.
const ASLEEP: Duration = Duration::from_micros(100);

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// Two bare processes, one of which sleeps on so many words.
    Floor(usize),
    /// Both sides of a lane, among so many attached ones.
    Ours(IdleStrategy, u32),
}

/// What is compared stands beside each other.
const SUBJECTS: [Subject; 9] = [
    Subject::Floor(2),
    Subject::Ours(IdleStrategy::Sleep, 1),
    Subject::Floor(1 + LANES as usize),
    Subject::Ours(IdleStrategy::Sleep, LANES),
    Subject::Floor(1),
    Subject::Ours(IdleStrategy::Adaptive, 1),
    Subject::Ours(IdleStrategy::Spin, 1),
    Subject::Ours(IdleStrategy::SpinThenYield, 1),
    Subject::Ours(IdleStrategy::Yield, 1),
];

/// What one subject showed at one gap.
#[derive(Debug, Default)]
struct Row {
    /// The median of each round.
    p50: Vec<f64>,
    /// All trips of all rounds, in nanoseconds.
    trips: Vec<u64>,
    cpu_ns: Vec<f64>,
    cpu_percent: Vec<f64>,
}

impl Row {
    fn push(&mut self, passed: &Passed) {
        self.p50.push(quantile(&passed.trips, 0.5));
        self.trips.extend(&passed.trips);
        self.cpu_ns.push(passed.cpu_ns);
        self.cpu_percent.push(passed.cpu_percent);
    }

    fn json(&self, spell: &Spell) -> Value {
        json!({
            "gap_ns": spell.gap.as_nanos() as u64,
            "p50": rounded(quantile(&self.trips, 0.5)),
            "p99": rounded(quantile(&self.trips, 0.99)),
            "trips": self.trips.len(),
            "cpu_ns_per_task": rounded(median(&self.cpu_ns)),
            "cpu_percent": rounded(median(&self.cpu_percent)),
        })
    }
}

/// The value below which a share `q` lies.
fn quantile(values: &[u64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = (q * sorted.len() as f64) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |&value| value as f64)
}

/// A ratio of medians, by gap and by round.
#[derive(Debug)]
struct Ratio {
    name: &'static str,
    goal: Goal,
    /// The median over the gaps, round by round.
    rounds: Vec<f64>,
    /// The median over the rounds, gap by gap, in nanoseconds.
    gaps: Vec<(u64, f64)>,
}

impl Ratio {
    fn value(&self) -> f64 {
        median(&self.rounds)
    }

    fn bounds(&self) -> [f64; 2] {
        [self.rounds.iter().copied().fold(f64::INFINITY, f64::min), self.rounds.iter().copied().fold(0.0, f64::max)]
    }
}

#[derive(Debug)]
struct Results {
    spells: Vec<Spell>,
    /// By [`SUBJECTS`], by gap.
    rows: Vec<Vec<Row>>,
    /// Percent of a core that a sidecar burns without tasks.
    idle: Vec<(IdleStrategy, f64)>,
}

impl Results {
    fn new(spells: &[Spell]) -> Self {
        let rows = || spells.iter().map(|_| Row::default()).collect();
        Self { spells: spells.to_vec(), rows: SUBJECTS.iter().map(|_| rows()).collect(), idle: Vec::new() }
    }

    fn round(
        &mut self,
        cpus: (u32, u32),
        (spells, least): (&[Spell], Duration),
        round: usize,
    ) -> Result<(), Box<dyn Error>> {
        let mut order: Vec<usize> = (0..SUBJECTS.len()).collect();
        if !round.is_multiple_of(2) {
            order.reverse(); // so that a drift of the machine favours neither
        }
        for at in order {
            let passed = match SUBJECTS[at] {
                Subject::Ours(idle, lanes) => pass(cpus, idle, lanes, spells, least)?,
                Subject::Floor(words) => sleeping_trips(cpus, words, spells)?
                    .into_iter()
                    .map(|trips| Passed { trips, cpu_ns: f64::NAN, cpu_percent: f64::NAN })
                    .collect(),
            };
            self.rows[at].iter_mut().zip(&passed).for_each(|(row, passed)| row.push(passed));
        }
        Ok(())
    }

    fn rows(&self, subject: Subject) -> &[Row] {
        let at = SUBJECTS.iter().position(|one| *one == subject);
        at.map_or(&[], |at| self.rows[at].as_slice())
    }

    /// Of `ours` to `floor`, at the gaps that `counts` picks.
    fn ratio(
        &self,
        name: &'static str,
        goal: Goal,
        (ours, floor): (Subject, Subject),
        counts: fn(Duration) -> bool,
    ) -> Ratio {
        let by_gap: Vec<(u64, Vec<f64>)> = self
            .spells
            .iter()
            .zip(self.rows(ours).iter().zip(self.rows(floor)))
            .filter(|(spell, _)| counts(spell.gap))
            .map(|(spell, (ours, floor))| {
                let ratios = ours.p50.iter().zip(&floor.p50).map(|(ours, floor)| ours / floor).collect();
                (spell.gap.as_nanos() as u64, ratios)
            })
            .collect();
        let rounds = by_gap.first().map_or(0, |(_, ratios)| ratios.len());
        let of_round = |round: usize| median(&by_gap.iter().map(|(_, ratios)| ratios[round]).collect::<Vec<_>>());
        let gaps = by_gap.iter().map(|(gap, ratios)| (*gap, median(ratios))).collect();
        Ratio { name, goal, rounds: (0..rounds).map(of_round).collect(), gaps }
    }

    fn ratios(&self) -> [Ratio; 3] {
        let ours = Subject::Ours;
        let asleep = |gap| gap >= ASLEEP;
        let goal = Goal::AtMost(1.2);
        [
            self.ratio("ratio_wake_1", goal, (ours(IdleStrategy::Sleep, 1), Subject::Floor(2)), asleep),
            self.ratio("ratio_wake_16", goal, (ours(IdleStrategy::Sleep, LANES), Subject::Floor(17)), asleep),
            self.ratio(
                "adaptive_ratio_spin",
                Goal::AtMost(1.1),
                (ours(IdleStrategy::Adaptive, 1), ours(IdleStrategy::Spin, 1)),
                |gap| 2 * gap <= SPIN_MAX,
            ),
        ]
    }

    /// Every subject with its name in `--json` and whether it is a floor.
    fn named(&self) -> impl Iterator<Item = (Subject, String, &[Row])> {
        SUBJECTS.iter().zip(&self.rows).map(|(subject, rows)| {
            let name = match subject {
                Subject::Floor(1) => "plain".to_owned(),
                Subject::Floor(words) => (words - 1).to_string(),
                Subject::Ours(idle, 1) => idle.name().to_owned(),
                Subject::Ours(idle, lanes) => format!("{}_{lanes}_lanes", idle.name()),
            };
            (*subject, name, rows.as_slice())
        })
    }

    fn json(&self, options: &Options, cpus: (u32, u32)) -> Value {
        let rows =
            |rows: &[Row]| -> Value { self.spells.iter().zip(rows).map(|(spell, row)| row.json(spell)).collect() };
        let (mut floor, mut ours) = (Map::new(), Map::new());
        for (subject, name, of) in self.named() {
            match subject {
                Subject::Floor(_) => {
                    let mut of = rows(of);
                    for row in of.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                        row.retain(|key, _| !key.starts_with("cpu"));
                    }
                    floor.insert(name, of);
                }
                Subject::Ours(..) => {
                    ours.insert(name, rows(of));
                }
            }
        }
        let mut object = json!({ "floor_wake_ns": floor, "wake_ns": ours });
        let (mut spread, mut by_gap, mut goals) = (Map::new(), Map::new(), Map::new());
        for ratio in self.ratios() {
            let (name, value, [least, most]) = (ratio.name.to_owned(), ratio.value(), ratio.bounds());
            object[ratio.name] = rounded(value).into();
            spread.insert(name.clone(), json!({ "min": rounded(least), "max": rounded(most) }));
            let gaps: Vec<Value> =
                ratio.gaps.iter().map(|(gap, ratio)| json!({ "gap_ns": gap, "ratio": rounded(*ratio) })).collect();
            by_gap.insert(name.clone(), gaps.into());
            goals.insert(name, json!({ "goal": ratio.goal.to_string(), "met": ratio.goal.is_met(value) }));
        }
        let idle: Map<String, Value> =
            self.idle.iter().map(|(idle, burnt)| (idle.name().to_owned(), rounded(*burnt).into())).collect();
        let is_met = self.idle.iter().all(|(idle, burnt)| !idle.may_sleep() || *burnt <= IDLE_GOAL);
        goals.insert(
            "idle_cpu_percent".to_owned(),
            json!({ "goal": Goal::AtMost(IDLE_GOAL).to_string(), "met": is_met }),
        );
        object["idle_cpu_percent"] = idle.into();
        object["idle_lanes"] = LANES.into();
        object["idle_seconds"] = options.idle.into();
        object["spread"] = spread.into();
        object["by_gap"] = by_gap.into();
        object["goals"] = goals.into();
        object["rounds"] = options.rounds.into();
        object["cpus"] = json!([cpus.0, cpus.1]);
        object
    }

    fn text(&self, options: &Options, cpus: (u32, u32)) -> String {
        let mut text = String::from("round trip after an idle gap: p50 / p99 of all rounds, and the sidecar's CPU\n");
        let _ = write!(text, "{:<16}", "gap");
        for spell in &self.spells {
            let _ = write!(text, "{:>9}", time(spell.gap.as_nanos() as f64));
        }
        text.push('\n');
        for (subject, name, rows) in self.named() {
            let name = if matches!(subject, Subject::Floor(_)) { format!("floor {name}") } else { name };
            let mut line = |what: &str, of: &dyn Fn(&Row) -> String| {
                let _ = write!(text, "{:<16}", what);
                for row in rows {
                    let _ = write!(text, "{:>9}", of(row));
                }
                text.push('\n');
            };
            line(&name, &|row| time(quantile(&row.trips, 0.5)));
            line("  p99", &|row| time(quantile(&row.trips, 0.99)));
            if matches!(subject, Subject::Ours(..)) {
                line("  CPU a task", &|row| time(median(&row.cpu_ns)));
                line("  CPU", &|row| percent(median(&row.cpu_percent)));
            }
        }
        text.push('\n');
        for ratio in self.ratios() {
            let [least, most] = ratio.bounds();
            let met = if ratio.goal.is_met(ratio.value()) == Some(true) { "met" } else { "missed" };
            let _ = writeln!(
                text,
                "{:<20} {:.3} ({least:.3}, {most:.3})  goal {} {met}",
                ratio.name,
                ratio.value(),
                ratio.goal
            );
        }
        for (idle, burnt) in &self.idle {
            let _ = writeln!(text, "without a task, {LANES} lanes, {:<16} {}", idle.name(), percent(*burnt));
        }
        let (producer, sidecar) = cpus;
        let _ = writeln!(
            text,
            "{} rounds, CPUs {producer} and {sidecar}, {} s without a task",
            options.rounds, options.idle
        );
        text
    }

    fn draw(&self, folder: &Path, circumstances: &Map<String, Value>) -> Result<(), Box<dyn Error>> {
        let curves = |cost: fn(&Row) -> f64, has_floor: bool| -> Vec<Curve> {
            let ours = STRATEGIES.map(|idle| (idle.name().to_owned(), Subject::Ours(idle, 1), false));
            let floor = ("bare futex round trip".to_owned(), Subject::Floor(2), true);
            let all = ours.into_iter().chain(has_floor.then_some(floor));
            all.map(|(name, subject, is_floor)| {
                let gaps = self.spells.iter().map(|spell| spell.gap.as_nanos() as f64);
                Curve { name, points: gaps.zip(self.rows(subject).iter().map(cost)).collect(), is_floor }
            })
            .collect()
        };
        let fact = |name: &str| circumstances.get(name).and_then(Value::as_str).unwrap_or("unknown");
        let load = circumstances.get("load_before").and_then(Value::as_f64).unwrap_or(f64::NAN);
        let [machine, kernel, date] = ["machine", "kernel", "date"].map(fact);
        let measured = format!("{machine}, {kernel}, {date}, load {load:.1} before, medians of all rounds");
        let latency = Caption {
            title: "A task after a pause: from submit to the answer in hand, by idle strategy of both sides",
            measured: &measured,
            cost: "round trip, p50",
            label: time,
            legend: SeriesLabelPosition::UpperLeft,
        };
        draw(&folder.join("wake-latency.svg"), &latency, &curves(|row| quantile(&row.trips, 0.5), true))?;
        let cpu = Caption {
            title: "What the sidecar burns, pauses included, by idle strategy",
            measured: &measured,
            cost: "CPU of the sidecar, share of one core",
            label: percent,
            legend: SeriesLabelPosition::LowerLeft,
        };
        draw(&folder.join("wake-cpu.svg"), &cpu, &curves(|row| median(&row.cpu_percent), false))
    }
}

/// Most percent of a core that a sidecar that may sleep is to burn without tasks.
const IDLE_GOAL: f64 = 0.5;
