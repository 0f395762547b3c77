//! A sidecar that had nothing to do for a while, and then one task: how long that takes, and what it costs.

use std::error::Error;
use std::time::{Duration, Instant};

use executor_client::Client;
use executor_core::idle::IdleStrategy;
use executord::floor::{Pinned, Spell, time_after_gaps};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::sidecar::{Setup, SidecarProcess};
use crate::sum::call;

/// The strategies, in the order in which they are told.
pub(crate) const STRATEGIES: [IdleStrategy; 5] =
    [IdleStrategy::Adaptive, IdleStrategy::Sleep, IdleStrategy::Spin, IdleStrategy::SpinThenYield, IdleStrategy::Yield];
/// Gaps, in microseconds: half powers of ten from 1 us to 100 ms.
pub(crate) const GAPS_US: [u64; 11] = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000];
/// Fewest and most trips of a spell, before it has lasted its time.
const TRIPS: (u64, u64) = (2, 1000);
/// Trips in which a strategy learns the gap, where they do not take long.
const LESSONS: u64 = 16;

/// A spell for each gap that takes about `each`, unless that were too few trips or more than enough.
pub(crate) fn spells(each: Duration) -> Vec<Spell> {
    let spell = |us: u64| {
        let trips = (each.as_micros() as u64 / us).clamp(TRIPS.0, TRIPS.1);
        Spell { gap: Duration::from_micros(us), warm_up: if us <= 3_000 { LESSONS } else { 1 }, trips }
    };
    GAPS_US.map(spell).into()
}

/// What the trips of a spell came to.
#[derive(Debug)]
pub(crate) struct Passed {
    /// What each took, in nanoseconds.
    pub(crate) trips: Vec<u64>,
    /// CPU time of the sidecar's process by trips, in nanoseconds.
    pub(crate) cpu_ns: f64,
    /// The same by elapsed time, in percent of a core.
    pub(crate) cpu_percent: f64,
}

/// A sidecar and its lanes, both sides waiting by one strategy.
struct Pair {
    sidecar: SidecarProcess,
    client: Client,
    /// Attached, and without a task.
    _others: Vec<Client>,
    _pinned: Pinned,
}

impl Pair {
    fn start(cpus: (u32, u32), idle: IdleStrategy, lanes: u32) -> Result<Self, Box<dyn Error>> {
        let setup = Setup { lanes, idle, ..Setup::one_lane(cpus.1) };
        let sidecar = SidecarProcess::start(&setup)?;
        let _pinned = Pinned::to(cpus.0)?;
        let mut clients = Vec::new();
        for _ in 0..lanes {
            let mut client = sidecar.connect_idle(idle)?;
            call(&mut client, 1)?; // its first call waits until a worker serves it
            clients.push(client);
        }
        let client = clients.pop().ok_or("no lane")?;
        Ok(Self { sidecar, client, _others: clients, _pinned })
    }

    fn cpu_time(&self) -> Result<Duration, Box<dyn Error>> {
        let clock = clock_getcpuclockid(Pid::from_raw(self.sidecar.pid()? as i32))?;
        Ok(clock_gettime(clock)?.into())
    }

    /// Runs `body`; returns what it gives, the sidecar's CPU time meanwhile, and how long it took.
    fn watch<T>(
        &mut self,
        body: impl FnOnce(&mut Client) -> Result<T, Box<dyn Error>>,
    ) -> Result<(T, Duration, Duration), Box<dyn Error>> {
        let (before, begun) = (self.cpu_time()?, Instant::now());
        let given = body(&mut self.client)?;
        let elapsed = begun.elapsed();
        Ok((given, self.cpu_time()?.saturating_sub(before), elapsed))
    }
}

fn percent_of(cpu: Duration, elapsed: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64()
}

/// One task after each gap, again and again, in one of `lanes` attached lanes; for at least `least` each, because what is
/// known of the CPU time of a thread that runs is some milliseconds old.
pub(crate) fn pass(
    cpus: (u32, u32),
    idle: IdleStrategy,
    lanes: u32,
    spells: &[Spell],
    least: Duration,
) -> Result<Vec<Passed>, Box<dyn Error>> {
    let mut pair = Pair::start(cpus, idle, lanes)?;
    let mut passed = Vec::new();
    for spell in spells {
        let (trips, cpu, elapsed) = pair.watch(|client| {
            let (begun, more) = (Instant::now(), Spell { warm_up: 0, ..*spell });
            let mut trips = time_after_gaps(spell, |number| call(client, number))?;
            while begun.elapsed() < least {
                trips.extend(time_after_gaps(&more, |number| call(client, number))?);
            }
            Ok(trips)
        })?;
        let cpu_ns = cpu.as_nanos() as f64 / (spell.warm_up + trips.len() as u64) as f64;
        passed.push(Passed { trips, cpu_ns, cpu_percent: percent_of(cpu, elapsed) });
    }
    Ok(passed)
}

/// What a sidecar with so many attached lanes burns while nobody submits, in percent of a core.
pub(crate) fn idle_cpu_percent(
    cpus: (u32, u32),
    idle: IdleStrategy,
    lanes: u32,
    time: Duration,
) -> Result<f64, Box<dyn Error>> {
    let mut pair = Pair::start(cpus, idle, lanes)?;
    let ((), cpu, elapsed) = pair.watch(|_| {
        std::thread::sleep(time); // the time that is measured
        Ok(())
    })?;
    Ok(percent_of(cpu, elapsed))
}
