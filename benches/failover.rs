//! From SIGKILL of a sidecar with many attached lanes to the next completion that a producer sees: by a standby, and by a
//! restart.
//!
//! Method: one producer process holds all lanes and spins on one of them, another one in each round; rounds with a
//! standby and rounds with a restart take turns on the same instance. A missed goal is told, never an error.

#![deny(unsafe_code)]

mod frame;
mod outage;
#[allow(dead_code, reason = "there is no floor here")]
mod report;
mod sidecar;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use executor_client::Client;
use executor_core::Registry;
use executor_core::registry::RegistryError;
use executord::floor::Pinned;
use serde_json::{Value, json};

use frame::{Common, outcome, say};
use outage::{Outage, Parent, Successor, WhoServes, outage};
use report::{Goal, circumstances, rounded};
use sidecar::{Setup, SidecarProcess, end_on_signals, serve_if_asked};

/// How long producers wait when their sidecar is killed: until a standby serves them, or one that is started anew.
#[derive(Debug, Parser)]
#[command(name = "failover", after_help = EXAMPLES)]
struct Options {
    /// Kills of each kind.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Attached lanes, of 1,024 slots and 256 + 256 bytes a slot.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=500))]
    lanes: u32,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench -p executor-benches --bench failover
  cargo bench -p executor-benches --bench failover -- --json --rounds 1000
  cargo bench -p executor-benches --bench failover -- --lanes 1

Keys of --json: standby_ms and restart_ms (p50, p99 and max from the kill to the next completion), standby_all_ms and
restart_all_ms (to the completion of a task on every lane), standby_dead_ms and restart_dead_ms (until the kernel tells the
parent of the death: no sidecar can follow sooner), goals, per_round.

It needs two CPUs and builds nothing else meanwhile: two busy cores are what is measured.";

fn registry() -> Result<Registry, RegistryError> {
    let mut registry = Registry::builder();
    registry.typed::<WhoServes>(|_, _| Ok(u64::from(std::process::id())));
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
    let circumstances = circumstances("failover");
    end_on_signals()?;
    // Two more than are attached, so that the sidecar has its spare lanes.
    let sidecar = SidecarProcess::start(&Setup { lanes: options.lanes + 2, ..Setup::one_lane(cpus.1) })?;
    let mut clients: Vec<Client> = (0..options.lanes).map(|_| sidecar.connect()).collect::<Result<_, _>>()?;
    let mut outages = [Vec::new(), Vec::new()];
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let parent = Parent::new(scope, &sidecar);
        let _pinned = Pinned::to(cpus.0)?;
        for round in 0..options.rounds as usize {
            say(&format!("round {} of {}", round + 1, options.rounds));
            for (successor, outages) in [Successor::Standby, Successor::Restart].into_iter().zip(&mut outages) {
                let lane = round % clients.len();
                outages.push(outage(&sidecar, &parent, successor, &mut clients, lane)?);
            }
        }
        Ok(())
    })?;
    drop(clients);
    drop(sidecar);
    say("");
    let [standby, restart] = outages;
    let results = Results { standby, restart };
    options.common.print(|| results.json(options, cpus), || results.text(options, cpus), circumstances);
    Ok(())
}

/// The p99 of the time to the next completion, in milliseconds.
const GOALS: [(Successor, Goal); 2] =
    [(Successor::Standby, Goal::AtMost(5.0)), (Successor::Restart, Goal::AtMost(50.0))];

#[derive(Debug)]
struct Results {
    standby: Vec<Outage>,
    restart: Vec<Outage>,
}

/// One figure of all rounds of a kind, in milliseconds.
#[derive(Debug)]
struct Times(Vec<f64>);

impl Times {
    fn of(outages: &[Outage], part: fn(&Outage) -> Duration) -> Self {
        Self(outages.iter().map(|outage| part(outage).as_secs_f64() * 1e3).collect())
    }

    /// The least time that at least this share of the rounds took at most.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    fn json(&self) -> Value {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| rounded(self.quantile(share)));
        json!({ "p50": p50, "p99": p99, "max": max })
    }

    fn row(&self, name: &str, goal: Goal) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        let met = goal.is_met(p99).map_or("-", |met| if met { "yes" } else { "no" });
        let goal = goal.to_string();
        format!("{name:<44} {p50:>8.2} {p99:>8.2} {max:>8.2}  {goal:<9} {met}\n")
    }
}

impl Results {
    fn outages(&self, successor: Successor) -> &[Outage] {
        match successor {
            Successor::Standby => &self.standby,
            Successor::Restart => &self.restart,
        }
    }

    fn json(&self, options: &Options, cpus: (u32, u32)) -> Value {
        let times = |successor, part| Times::of(self.outages(successor), part);
        let goal = |successor: Successor| {
            let (_, goal) = GOALS[successor as usize];
            let p99 = times(successor, |outage| outage.first).quantile(0.99);
            json!({ "goal": goal.to_string(), "p99_ms": rounded(p99), "met": goal.is_met(p99) })
        };
        let rounds =
            |successor| -> Vec<f64> { times(successor, |outage| outage.first).0.into_iter().map(rounded).collect() };
        json!({
            "standby_ms": times(Successor::Standby, |outage| outage.first).json(),
            "restart_ms": times(Successor::Restart, |outage| outage.first).json(),
            "standby_all_ms": times(Successor::Standby, |outage| outage.all).json(),
            "restart_all_ms": times(Successor::Restart, |outage| outage.all).json(),
            "standby_dead_ms": times(Successor::Standby, |outage| outage.dead).json(),
            "restart_dead_ms": times(Successor::Restart, |outage| outage.dead).json(),
            "goals": { "standby": goal(Successor::Standby), "restart": goal(Successor::Restart) },
            "per_round": { "standby_ms": rounds(Successor::Standby), "restart_ms": rounds(Successor::Restart) },
            "rounds": options.rounds,
            "lanes": options.lanes,
            "cpus": [cpus.0, cpus.1],
        })
    }

    fn text(&self, options: &Options, cpus: (u32, u32)) -> String {
        let mut text =
            format!("{:<44} {:>8} {:>8} {:>8}  {:<9} {}\n", "from SIGKILL, ms", "p50", "p99", "max", "p99 goal", "met");
        for (name, (successor, goal)) in ["standby", "restart"].into_iter().zip(GOALS) {
            let outages = self.outages(successor);
            let row = |what: &str, part, goal| Times::of(outages, part).row(&format!("{name}: {what}"), goal);
            text += &row("the next completion", |outage| outage.first, goal);
            text += &row("one on every lane", |outage| outage.all, Goal::None);
            text += &row("the old process is dead", |outage| outage.dead, Goal::None);
        }
        text += &format!(
            "\n{} kills of each kind, {} attached lanes, the producer on CPU {}, the worker on CPU {}\n",
            options.rounds, options.lanes, cpus.0, cpus.1
        );
        text
    }
}
