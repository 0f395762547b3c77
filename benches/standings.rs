//! Every figure of the closures inside one process, round by round, and how they stand to each other.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use executor_core::idle::IdleStrategy;
use serde_json::{Map, Value, json};

use crate::closures::{Capturing, Sleeper, Trips, dense, sparse};
use crate::embedded::{self, Embedded};
use crate::open_loop::{Lateness, Notes, PER_SECOND, hiccups};
use crate::rates::SUBMITTERS;
use crate::report::{Goal, median, rounded};
use crate::rings;
#[cfg(feature = "rivals")]
use crate::rivals;

/// Where and how much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// The submitter's CPU and the worker's.
    pub(crate) cpus: (u32, u32),
    /// Trips of a pass, of whoever spins.
    pub(crate) round_trips: u64,
    /// Trips of a pass of a slower rival.
    pub(crate) rival_trips: u64,
    /// Trips of a pass, each after a gap.
    pub(crate) parked_trips: u64,
    /// That gap.
    pub(crate) gap: Duration,
    /// Closures of a throughput pass.
    pub(crate) tasks: u64,
    /// Passes of the open loop in a round, and as many of the machine alone.
    pub(crate) paced_pairs: u64,
    /// For the closures of such a pass.
    pub(crate) notes: &'static Notes,
}

/// Whose round trips are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Rings,
    Spinning,
    Loaded,
    Crossbeam,
    Tokio,
    Rayon,
    Sleeping,
    CrossbeamParked,
    TokioParked,
    RayonParked,
}

use Subject::{Crossbeam, CrossbeamParked, Loaded, Rayon, RayonParked, Rings, Sleeping, Spinning, Tokio, TokioParked};

/// What is compared stands beside each other. With the keys of `--json`, and what people read.
const SUBJECTS: [(Subject, &str, &str); 10] = [
    (Crossbeam, "crossbeam_ns", "crossbeam-channel, spinning"),
    (Rings, "floor_ns", "a pair of rtrb rings, spinning"),
    (Spinning, "ours_ns", "the executor, spinning"),
    (Loaded, "ours_captured_ns", "  a closure that captures 32 bytes"),
    (Tokio, "tokio_ns", "tokio, as it comes"),
    (Rayon, "rayon_ns", "rayon, as it comes"),
    (CrossbeamParked, "crossbeam_parked_ns", "crossbeam-channel, after a gap"),
    (Sleeping, "ours_sleep_ns", "the executor, asleep after a gap"),
    (TokioParked, "tokio_parked_ns", "tokio, after a gap"),
    (RayonParked, "rayon_parked_ns", "rayon, after a gap"),
];

/// Most that the p99.9 of the open loop may lie above that of the machine's own hiccups, in nanoseconds.
const HICCUP_GOAL: f64 = 5000.0;

/// Fewest closures a second through one worker.
const RATE_GOAL: f64 = 5e6;

/// Back-to-back trips of one round; `None` of a rival that was not built in, and of who is measured asleep.
fn dense_trips(subject: Subject, course: &Course) -> Result<Option<Trips>, Box<dyn Error>> {
    let spinning = || Embedded::start(course.cpus.1, IdleStrategy::Spin);
    let (cpus, round_trips) = (course.cpus, course.round_trips);
    let shown = match subject {
        Rings => rings::trips(cpus, round_trips),
        Spinning => dense(&mut spinning()?, cpus, round_trips),
        Loaded => dense(&mut Capturing(spinning()?), cpus, round_trips),
        #[cfg(feature = "rivals")]
        Crossbeam => dense(&mut rivals::Crossbeam::start(true), cpus, round_trips),
        #[cfg(feature = "rivals")]
        Tokio => dense(&mut rivals::Tokio::start()?, cpus, course.rival_trips),
        #[cfg(feature = "rivals")]
        Rayon => dense(&mut rivals::Rayon::start()?, cpus, course.rival_trips),
        _ => return Ok(None),
    };
    shown.map(Some)
}

/// Trips of one round of everybody who sleeps between them.
fn sparse_trips(course: &Course) -> Result<Vec<(Subject, Trips)>, Box<dyn Error>> {
    let mut ours = Embedded::start(course.cpus.1, IdleStrategy::Sleep)?;
    #[cfg(feature = "rivals")]
    let mut rivals = (rivals::Crossbeam::start(false), rivals::Tokio::start()?, rivals::Rayon::start()?);
    let mut sleepers: Vec<(Subject, &mut dyn Sleeper)> = vec![
        #[cfg(feature = "rivals")]
        (CrossbeamParked, &mut rivals.0),
        #[cfg(feature = "rivals")]
        (TokioParked, &mut rivals.1),
        (Sleeping, &mut ours),
        #[cfg(feature = "rivals")]
        (RayonParked, &mut rivals.2),
    ];
    let (subjects, mut sleepers): (Vec<Subject>, Vec<&mut dyn Sleeper>) = sleepers.drain(..).unzip();
    let shown = sparse(&mut sleepers, course.cpus, course.parked_trips, course.gap)?;
    Ok(subjects.into_iter().zip(shown).collect())
}

/// Closures a second of crossbeam-channel; `None` if it was not built in.
fn crossbeam_rate(course: &Course, submitters: usize) -> Result<Option<f64>, Box<dyn Error>> {
    #[cfg(feature = "rivals")]
    return rivals::crossbeam_tasks_per_second(course.cpus, submitters, course.tasks, embedded::depth()).map(Some);
    #[cfg(not(feature = "rivals"))]
    {
        let _ = (course, submitters);
        Ok(None)
    }
}

/// One subject's trips by another's.
struct Ratio {
    key: &'static str,
    name: &'static str,
    goal: Goal,
    over: Subject,
    under: Subject,
    pick: fn(&Trips) -> f64,
}

impl Ratio {
    const fn new(key: &'static str, name: &'static str, goal: Goal, (over, under): (Subject, Subject)) -> Self {
        Self { key, name, goal, over, under, pick: |trips| trips.p50 }
    }

    const fn of(self, pick: fn(&Trips) -> f64) -> Self {
        Self { pick, ..self }
    }
}

const TO_FLOOR: (Subject, Subject) = (Spinning, Rings);
const RATIOS: [Ratio; 10] = [
    Ratio::new("ratio_rtrb", "executor by rtrb, spinning, p50", Goal::AtMost(2.5), TO_FLOOR),
    Ratio::new("ratio_rtrb_mean", "  elapsed / trips", Goal::None, TO_FLOOR).of(|trips| trips.mean),
    Ratio::new("ratio_rtrb_p99", "  p99", Goal::None, TO_FLOOR).of(|trips| trips.p99),
    Ratio::new("ratio_rtrb_p999", "  p99.9", Goal::None, TO_FLOOR).of(|trips| trips.p999),
    Ratio::new("times_crossbeam", "crossbeam by executor, both spinning", Goal::None, (Crossbeam, Spinning)),
    Ratio::new("times_tokio", "tokio as it comes by spinning executor", Goal::AtLeast(10.0), (Tokio, Spinning)),
    Ratio::new("times_rayon", "rayon as it comes by spinning executor", Goal::AtLeast(10.0), (Rayon, Spinning)),
    Ratio::new("times_crossbeam_parked", "crossbeam by executor, asleep", Goal::None, (CrossbeamParked, Sleeping)),
    Ratio::new("times_tokio_parked", "tokio by executor, asleep", Goal::AtLeast(1.0), (TokioParked, Sleeping)),
    Ratio::new("times_rayon_parked", "rayon by executor, asleep", Goal::AtLeast(1.0), (RayonParked, Sleeping)),
];

/// A figure with its rounds and its goal.
struct Standing {
    key: &'static str,
    name: &'static str,
    goal: Goal,
    rounds: Vec<f64>,
}

impl Standing {
    fn value(&self) -> f64 {
        median(&self.rounds)
    }

    fn bounds(&self) -> [f64; 2] {
        let all = || self.rounds.iter().copied();
        [all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max)]
    }
}

/// Every figure, round by round.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    /// By [`SUBJECTS`].
    trips: [Vec<Trips>; SUBJECTS.len()],
    /// One submitter over a bare ring.
    floor_rate: Vec<f64>,
    /// By [`SUBMITTERS`].
    rates: [Vec<f64>; SUBMITTERS.len()],
    crossbeam_rates: [Vec<f64>; SUBMITTERS.len()],
    hiccups: Vec<Lateness>,
    open_loop: Vec<Lateness>,
    /// Closures of the open loop that found no room at first, of all rounds.
    refused: u64,
}

impl Standings {
    /// Measures everything once more, every other time in the other order, so that a drift of the machine favours nobody.
    pub(crate) fn round(&mut self, course: &Course, round: usize) -> Result<(), Box<dyn Error>> {
        let in_turn =
            |count: usize| (0..count).map(move |at| if round.is_multiple_of(2) { at } else { count - 1 - at });
        for at in in_turn(SUBJECTS.len()) {
            self.trips[at].extend(dense_trips(SUBJECTS[at].0, course)?);
        }
        for (subject, trips) in sparse_trips(course)? {
            let at = SUBJECTS.iter().position(|(one, ..)| *one == subject);
            self.trips[at.ok_or("a subject without a name")?].push(trips);
        }
        for at in in_turn(1 + SUBMITTERS.len()) {
            let Some(at) = at.checked_sub(1) else {
                self.floor_rate.push(rings::tasks_per_second(course.cpus, course.tasks, embedded::depth())?);
                continue;
            };
            self.rates[at].push(embedded::tasks_per_second(course.cpus, SUBMITTERS[at], course.tasks)?);
            self.crossbeam_rates[at].extend(crossbeam_rate(course, SUBMITTERS[at])?);
        }
        // Short passes and many of them: the machine's own pauses differ more from pass to pass than the two sides do.
        for at in (0..course.paced_pairs).flat_map(|pair| if pair.is_multiple_of(2) { [0, 1] } else { [1, 0] }) {
            if at == 0 {
                self.hiccups.push(hiccups(course.notes, course.cpus)?);
            } else {
                let (late, refused) = embedded::lateness(course.cpus, course.notes)?;
                self.open_loop.push(late);
                self.refused += refused;
            }
        }
        Ok(())
    }

    fn trips(&self, subject: Subject) -> &[Trips] {
        let at = SUBJECTS.iter().position(|(one, ..)| *one == subject);
        at.map_or(&[], |at| self.trips[at].as_slice())
    }

    /// What has rounds, of all that is compared or has a goal.
    fn standings(&self) -> Vec<Standing> {
        let ratios = RATIOS.iter().map(|ratio| {
            let pairs = self.trips(ratio.over).iter().zip(self.trips(ratio.under));
            let rounds = pairs.map(|(over, under)| (ratio.pick)(over) / (ratio.pick)(under)).collect();
            Standing { key: ratio.key, name: ratio.name, goal: ratio.goal, rounds }
        });
        let over_hiccup = self.open_loop.iter().zip(&self.hiccups).map(|(ours, machine)| ours.p999 - machine.p999);
        let others = [
            Standing {
                key: "tasks_per_second_1",
                name: "closures a second, one submitter",
                goal: Goal::AtLeast(RATE_GOAL),
                rounds: self.rates[0].clone(),
            },
            Standing {
                key: "p999_over_hiccup_ns",
                name: "p99.9 at 1 M a second over the machine's, ns",
                goal: Goal::AtMost(HICCUP_GOAL),
                rounds: over_hiccup.collect(),
            },
        ];
        ratios.chain(others).filter(|standing| !standing.rounds.is_empty()).collect()
    }

    /// Everything, by the keys that `--help` tells.
    pub(crate) fn json(&self, course: &Course) -> Value {
        let rates = |rounds: &[Vec<f64>]| -> Value {
            SUBMITTERS
                .iter()
                .map(ToString::to_string)
                .zip(rounds.iter().map(|rounds| middle(rounds, |&rate| rate)))
                .collect()
        };
        let mut object: Map<String, Value> = SUBJECTS
            .iter()
            .zip(&self.trips)
            .map(|((_, key, _), rounds)| ((*key).to_owned(), trips_json(rounds)))
            .collect();
        object.extend(RATIOS.iter().map(|ratio| (ratio.key.to_owned(), Value::Null)));
        let (mut goals, mut spread, mut per_round) = (Map::new(), Map::new(), Map::new());
        for standing in self.standings() {
            let (key, value, [least, most]) = (standing.key.to_owned(), standing.value(), standing.bounds());
            object.insert(key.clone(), rounded(value).into());
            if let Some(met) = standing.goal.is_met(value) {
                goals.insert(key.clone(), json!({ "goal": standing.goal.to_string(), "met": met }));
            }
            spread.insert(key.clone(), json!({ "min": rounded(least), "max": rounded(most) }));
            per_round.insert(key, standing.rounds.iter().copied().map(rounded).collect());
        }
        let others = json!({
            "tasks_per_second": rates(&self.rates),
            "floor_tasks_per_second": { "1": middle(&self.floor_rate, |&rate| rate) },
            "crossbeam_tasks_per_second": rates(&self.crossbeam_rates),
            "hiccup_ns": lateness_json(&self.hiccups),
            "open_loop_ns": lateness_json(&self.open_loop),
            "open_loop_per_second": PER_SECOND,
            "open_loop_refused": self.refused,
            "spread": spread,
            "goals": goals,
            "per_round": per_round,
            "rounds": self.floor_rate.len(),
            "round_trips": course.round_trips,
            "rival_trips": course.rival_trips,
            "parked_trips": course.parked_trips,
            "gap_ns": course.gap.as_nanos() as u64,
            "tasks": course.tasks,
            "paced": course.notes.len(),
            "paced_pairs": course.paced_pairs,
            "depth": embedded::depth(),
            "cpus": [course.cpus.0, course.cpus.1],
            "rivals": cfg!(feature = "rivals"),
        });
        if let Value::Object(others) = others {
            object.extend(others);
        }
        object.into()
    }

    /// The same as tables.
    pub(crate) fn text(&self, course: &Course) -> String {
        let mut text = format!(
            "{:<36} {:>9} {:>9} {:>9} {:>9}  {:>11} {:>9}\n",
            "from submit to result, ns", "p50", "p99", "p99.9", "mean", "not sampled", "sleeps"
        );
        for ((_, _, name), rounds) in SUBJECTS.iter().zip(&self.trips).filter(|(_, rounds)| !rounds.is_empty()) {
            let figure = |pick: fn(&Trips) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
            let dense = |value: f64| if value.is_nan() { "-".to_owned() } else { format!("{value:.1}") };
            let _ = writeln!(
                text,
                "{name:<36} {:>9.1} {:>9.1} {:>9.1} {:>9}  {:>7} {:>3} {:>4.1}/{:<4.1}",
                figure(|trips| trips.p50),
                figure(|trips| trips.p99),
                figure(|trips| trips.p999),
                dense(figure(|trips| trips.mean)),
                dense(figure(|trips| trips.unsampled)),
                samples_agree(rounds).map_or("", |agree| if agree { "ok" } else { "no" }),
                figure(|trips| trips.worker_sleeps),
                figure(|trips| trips.submitter_sleeps),
            );
        }
        text += "Not sampled: elapsed time that is in no sample, and whether that is what reading the clock costs.\n\
                 Sleeps: how often the worker and the submitter went to sleep, by trips.\n";
        if !cfg!(feature = "rivals") {
            text +=
                "crossbeam, tokio and rayon: cargo bench -p executor-benches --features rivals --bench in_process\n";
        }
        let _ = write!(text, "\n{:<36}", "closures a second, by submitters");
        for count in SUBMITTERS {
            let _ = write!(text, " {count:>9}");
        }
        let floor = [self.floor_rate.clone()];
        for (name, rates) in
            [("one rtrb ring", &floor[..]), ("the executor", &self.rates), ("crossbeam-channel", &self.crossbeam_rates)]
        {
            let _ = write!(text, "\n{name:<36}");
            for rounds in rates.iter().filter(|rounds| !rounds.is_empty()) {
                let _ = write!(text, " {:>9}", short(median(rounds)));
            }
        }
        let _ = writeln!(
            text,
            "\n\n{:<36} {:>9} {:>9} {:>9} {:>9}",
            "a million a second, ns late", "p50", "p99", "p99.9", "most"
        );
        for (name, rounds) in [("the machine", &self.hiccups), ("the executor", &self.open_loop)] {
            let figure = |pick: fn(&Lateness) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
            let [p50, p99] = [figure(|late| late.p50), figure(|late| late.p99)];
            let [p999, most] = [figure(|late| late.p999), figure(|late| late.most)];
            let _ = writeln!(text, "{name:<36} {p50:>9.0} {p99:>9.0} {p999:>9.0} {most:>9.0}");
        }
        let _ = writeln!(text, "closures that found the queue full at first: {}", self.refused);
        let _ = writeln!(text, "\n{:<46} {:>10} {:>10} {:>10}  goal", "median of rounds", "", "least", "most");
        for standing in self.standings() {
            let [least, most] = standing.bounds().map(short);
            let met = match standing.goal.is_met(standing.value()) {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            let value = short(standing.value());
            let _ = writeln!(text, "{:<46} {value:>10} {least:>10} {most:>10}  {} {met}", standing.name, standing.goal);
        }
        let _ = writeln!(
            text,
            "\n{} rounds, {} trips ({} of tokio and rayon, {} after gaps of {:?}), {} closures, {} times {} in the open loop; \
             submitters on CPU {}, the worker on CPU {}",
            self.floor_rate.len(),
            course.round_trips,
            course.rival_trips,
            course.parked_trips,
            course.gap,
            course.tasks,
            course.paced_pairs,
            course.notes.len(),
            course.cpus.0,
            course.cpus.1,
        );
        text
    }
}

/// The middle one of what the rounds showed; null without rounds or where there is no such figure.
fn middle<T>(rounds: &[T], pick: fn(&T) -> f64) -> Value {
    let value = median(&rounds.iter().map(pick).collect::<Vec<_>>());
    if value.is_nan() { Value::Null } else { rounded(value).into() }
}

/// Whether the samples of most rounds add up: one in which something else ran on the core may not.
fn samples_agree(rounds: &[Trips]) -> Option<bool> {
    let agree: Vec<bool> = rounds.iter().filter_map(|trips| trips.agrees).collect();
    (!agree.is_empty()).then(|| 2 * agree.iter().filter(|&&agrees| agrees).count() > agree.len())
}

fn trips_json(rounds: &[Trips]) -> Value {
    if rounds.is_empty() {
        return Value::Null;
    }
    json!({
        "p50": middle(rounds, |trips| trips.p50),
        "p99": middle(rounds, |trips| trips.p99),
        "p999": middle(rounds, |trips| trips.p999),
        "mean": middle(rounds, |trips| trips.mean),
        "unsampled": middle(rounds, |trips| trips.unsampled),
        "samples_agree": samples_agree(rounds),
        "worker_sleeps": middle(rounds, |trips| trips.worker_sleeps),
        "submitter_sleeps": middle(rounds, |trips| trips.submitter_sleeps),
        "p50_per_round": rounds.iter().map(|trips| rounded(trips.p50)).collect::<Vec<_>>(),
    })
}

fn lateness_json(rounds: &[Lateness]) -> Value {
    json!({
        "p50": middle(rounds, |late| late.p50),
        "p99": middle(rounds, |late| late.p99),
        "p999": middle(rounds, |late| late.p999),
        "most": middle(rounds, |late| late.most),
        "p999_per_round": rounds.iter().map(|late| late.p999).collect::<Vec<_>>(),
    })
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{:.2} M", value / 1e6),
        large if large >= 1e3 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}
