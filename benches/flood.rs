//! Producers that attach and drop as fast as they can, and a process that wakes housekeeping as fast as it can: what the
//! keeper's thread burns, and what a lane that was there before and an honest attach notice of it.
//!
//! Method: each round measures a quiet instance and both floods on one sidecar, the quiet one as the floor. Floods and
//! victims share the first CPU with the keeper, as far as the scheduler wants; the worker has the second for itself.

#![deny(unsafe_code)]

mod frame;
#[allow(dead_code, reason = "the other benches have goals of both kinds")]
mod report;
mod sidecar;
mod sum;

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use executor_client::{Client, InstanceName};
use executor_core::Registry;
use executor_core::registry::RegistryError;
use executor_shm::attach::Instance;
use executor_shm::inspect::Inspector;
use serde_json::{Value, json};

use frame::{Common, outcome, say};
use report::{Figure, Goal, Side, circumstances, median, rounded, table};
use sidecar::{Setup, SidecarProcess, end_on_signals, serve_if_asked};
use sum::{Sum, call, sum};

/// What an attach flood and a wake flood cost, beside none.
#[derive(Debug, Parser)]
#[command(name = "flood", after_help = EXAMPLES)]
struct Options {
    /// Rounds; each measures everything.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Seconds of each flood.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Threads that attach and drop.
    #[arg(long, default_value_t = 2)]
    flooders: u32,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench flood
  cargo bench -p executor-benches --bench flood -- --json --rounds 1

Keys of --json: quiet, attach_flood, wake_flood, each with keeper_cpu (share of a core), victim_p50_ns and victim_p99_ns (a
round trip through a lane that was attached before), connect_p50_ns and connect_p99_ns (an honest connect until its first
answer), attaches_per_second (by the flood); victim_p50 with its goal; per_round.";

/// Between two honest connects.
const CONNECT_EVERY: Duration = Duration::from_millis(20);
/// Between two calls of the victim.
const CALL_EVERY: Duration = Duration::from_micros(200);
/// Of the sidecar, so that the flood never holds all of them.
const LANES: u32 = 16;

fn registry() -> Result<Registry, RegistryError> {
    Registry::builder().typed::<Sum>(|_, numbers| Ok(sum(numbers))).build()
}

fn main() -> ExitCode {
    if let Some(code) = serve_if_asked(registry) {
        return code;
    }
    outcome(run(&Options::parse()))
}

/// What goes on while the victims are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    None,
    Attaches,
    Wakes,
}

/// What one pass showed.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Share of a core.
    keeper_cpu: f64,
    victim_ns: [f64; 2],
    connect_ns: [f64; 2],
    attaches_per_second: f64,
}

/// The name of a figure, its key, and what a pass says of it.
type Row = (&'static str, &'static str, fn(&Pass) -> f64);

const FIGURES: [Row; 6] = [
    ("keeper, share of a core", "keeper_cpu", |pass| pass.keeper_cpu),
    ("round trip of a victim, ns, p50", "victim_p50_ns", |pass| pass.victim_ns[0]),
    ("round trip of a victim, ns, p99", "victim_p99_ns", |pass| pass.victim_ns[1]),
    ("honest connect and call, ns, p50", "connect_p50_ns", |pass| pass.connect_ns[0]),
    ("honest connect and call, ns, p99", "connect_p99_ns", |pass| pass.connect_ns[1]),
    ("attaches a second by the flood", "attaches_per_second", |pass| pass.attaches_per_second),
];

/// A victim must hardly notice; what an honest attach waits for is the flood's own lane.
fn goal(key: &str) -> Goal {
    if key == "victim_p50_ns" { Goal::AtMost(1.5) } else { Goal::None }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let cpus = options.common.cpus()?;
    let circumstances = circumstances("flood");
    end_on_signals()?;
    let figures = || FIGURES.map(|(name, key, _)| Figure::new(name, goal(key)));
    let (mut attaches, mut wakes) = (figures(), figures());
    for round in 0..options.rounds {
        say(&format!("round {} of {}", round + 1, options.rounds));
        let sidecar = SidecarProcess::start(&Setup { lanes: LANES, ..Setup::one_lane(cpus.1) })?;
        let mut victim = sidecar.connect()?;
        let quiet = pass(&mut victim, Flood::None, options)?;
        for (flood, figures) in [(Flood::Attaches, &mut attaches), (Flood::Wakes, &mut wakes)] {
            let flooded = pass(&mut victim, flood, options)?;
            for (figure, (_, _, of)) in figures.iter_mut().zip(FIGURES) {
                figure.push(Side::Floor, of(&quiet));
                figure.push(Side::Ours, of(&flooded));
            }
        }
    }
    say("");
    let json = || {
        let side = |figures: &[Figure; 6], of: fn(&Figure) -> &[f64]| -> Value {
            FIGURES
                .iter()
                .zip(figures)
                .map(|((_, key, _), f)| ((*key).to_owned(), Value::from(rounded(median(of(f))))))
                .collect()
        };
        let per_round = |figures: &[Figure; 6]| -> Value {
            FIGURES.iter().zip(figures).map(|((_, key, _), figure)| ((*key).to_owned(), figure.per_round())).collect()
        };
        let verdicts = |figures: &[Figure; 6]| json!({ "goal": figures[1].verdict(), "spread": figures[1].spread() });
        json!({
            "quiet": side(&attaches, |figure| &figure.floor),
            "attach_flood": side(&attaches, |figure| &figure.ours),
            "wake_flood": side(&wakes, |figure| &figure.ours),
            "victim_p50": { "attach": verdicts(&attaches), "wake": verdicts(&wakes) },
            "per_round": { "attach": per_round(&attaches), "wake": per_round(&wakes) },
        })
    };
    let text = || {
        let told = |figures: &[Figure; 6]| table(&figures.iter().collect::<Vec<_>>());
        format!(
            "Attach flood by {} threads, beside none:\n{}\nWake flood by a thread, beside none:\n{}",
            options.flooders,
            told(&attaches),
            told(&wakes),
        )
    };
    options.common.print(json, text, circumstances);
    Ok(())
}

fn pass(victim: &mut Client, flood: Flood, options: &Options) -> Result<Pass, Box<dyn Error>> {
    let instance = victim.instance().clone();
    let keeper = Keeper::of(&instance)?;
    let (stop, attaches) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut trips, begun, cpu_before) = (Vec::new(), Instant::now(), keeper.cpu_ns()?);
    let connects = std::thread::scope(|scope| {
        match flood {
            Flood::None => {}
            Flood::Attaches => {
                for _ in 0..options.flooders {
                    scope.spawn(|| {
                        while !stop.load(Relaxed) {
                            let attached = Client::connect(&instance).is_ok();
                            attaches.fetch_add(u64::from(attached), Relaxed);
                        }
                    });
                }
            }
            Flood::Wakes => {
                scope.spawn(|| {
                    let Ok(found) = Instance::open(&instance, None) else { return };
                    while !stop.load(Relaxed) {
                        found.wake_housekeeping();
                    }
                });
            }
        }
        let honest = scope.spawn(|| {
            let mut times = Vec::new();
            while !stop.load(Relaxed) {
                let begun = Instant::now();
                let client = Client::connect_timeout(&instance, Duration::from_secs(10));
                if client.is_ok_and(|mut client| call(&mut client, 1).is_ok()) {
                    times.push(begun.elapsed().as_nanos() as f64);
                }
                std::thread::park_timeout(CONNECT_EVERY);
            }
            times
        });
        let end = begun + Duration::from_secs_f64(options.seconds);
        let mut outcome = Ok(());
        while Instant::now() < end && outcome.is_ok() {
            let begun = Instant::now();
            outcome = call(victim, 1);
            trips.push(begun.elapsed().as_nanos() as f64);
            std::thread::park_timeout(CALL_EVERY); // it is not to be a flood itself
        }
        stop.store(true, Relaxed);
        outcome.map(|()| honest.join().unwrap_or_default())
    })?;
    let elapsed = begun.elapsed();
    let cpu = keeper.cpu_ns()?.saturating_sub(cpu_before);
    Ok(Pass {
        keeper_cpu: cpu as f64 / elapsed.as_nanos() as f64,
        victim_ns: percentiles(trips),
        connect_ns: percentiles(connects),
        attaches_per_second: attaches.load(Relaxed) as f64 / elapsed.as_secs_f64(),
    })
}

/// The middle one and the one that a hundredth is longer than.
fn percentiles(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [2, 100]
        .map(|part| times.get(times.len() - (times.len() / part).max(1).min(times.len())).copied().unwrap_or(f64::NAN))
}

/// The sidecar's housekeeping thread as the kernel knows it.
struct Keeper {
    schedstat: String,
}

impl Keeper {
    fn of(instance: &InstanceName) -> Result<Self, Box<dyn Error>> {
        let pid = Inspector::open(instance)?.look().pid;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path().display().to_string();
            if std::fs::read_to_string(format!("{thread}/comm"))?.trim() == "executor-keeper" {
                return Ok(Self { schedstat: format!("{thread}/schedstat") });
            }
        }
        Err("the sidecar has no thread executor-keeper".into())
    }

    /// Nanoseconds that it ran.
    fn cpu_ns(&self) -> Result<u64, Box<dyn Error>> {
        let text = std::fs::read_to_string(&self.schedstat)?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    }
}
