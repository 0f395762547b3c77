//! The executor's own threads: how they begin, what looks after them, how they end.
//!
//! The steward is a thread that sleeps until somebody works, looks around ten times a second then, and ends the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};
use std::sync::atomic::{Ordering::SeqCst, fence};
use std::sync::{PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::config::{ExecutorBuilder, OnChange};
use super::engine::{Engine, Reins};
use super::node::Nodes;
use super::refusal::{Error, InvalidConfig, Stuck};
use super::server::Server;
use super::target::{LatencyTargetReport, TargetState};
use super::wait;
use crate::cpu::{allowed_cpus, cpu_list, pin_current_thread};
use crate::dispatch::contain;
use crate::meter::MeterLayout;
use crate::recorder::Recording;
use crate::registry::Registry;
use crate::worker::{Lanes, QUANTUM, Sleep, Woken, Worker, WorkerOptions};

/// Between two looks while there is work.
const ROUND: Duration = Duration::from_millis(100);

/// A worker's bed.
#[derive(Debug)]
struct Bed {
    engine: std::sync::Weak<Engine>,
    worker: usize,
}

impl Sleep<Server> for Bed {
    fn sleep(&mut self, lanes: &mut Lanes<'_, Server>, call: &AtomicU32) -> Woken {
        let Some(engine) = self.engine.upgrade() else { return Woken::AtOnce };
        let is_due = || call.load(Acquire) != 0 || lanes.iter().any(crate::dispatch::Lane::is_ready);
        let woken = engine.beds.sleep(self.worker, is_due);
        if let Some(account) = engine.accounts.get(self.worker).filter(|_| woken != Woken::AtOnce) {
            account.woke_at.store(engine.stamp(), std::sync::atomic::Ordering::Relaxed);
        }
        if woken != Woken::InTime {
            engine.stir();
        }
        woken
    }
}

/// Starts an executor.
pub(crate) fn start(builder: ExecutorBuilder) -> Result<Arc<Engine>, Error> {
    let terms = builder.terms().map_err(Error::InvalidConfig)?;
    let registry = match builder.registry {
        Some(registry) => registry,
        None => Registry::empty(),
    };
    let layout = MeterLayout { workers: terms.workers, handlers: registry.handlers().len(), lanes: terms.workers };
    let cores = &builder.config.executor_cores;
    let cores = (0..terms.workers).map(|number| cores.get(number % cores.len().max(1)).copied()).collect();
    let nodes = Nodes::read(&builder.sysfs, &allowed_cpus().unwrap_or_default());
    let engine = Arc::new(Engine::new(terms, layout, cores, nodes)?);
    let (mut reins, mut threads, mut failed) = (Vec::new(), Vec::new(), None);
    for number in 0..engine.terms.workers {
        match hire(&engine, &registry, number) {
            Ok((control, thread)) => {
                reins.push(control);
                threads.push(thread);
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    engine.employ(reins);
    let shared = Arc::clone(&engine);
    let on_change = builder.on_change;
    // Who started what is ended by the steward too, whatever failed.
    let spawned = std::thread::Builder::new().name("executor-steward".to_owned()).spawn(move || {
        Steward { engine: shared, threads, on_change, seen: HashMap::new(), looked: 0, state: None }.run();
    });
    if let Err(source) = spawned {
        engine.close();
        engine.dismiss();
        engine.bury();
        return Err(Error::Runtime { what: "a thread that looks after the workers was refused", source });
    }
    if let Some(error) = failed {
        engine.close();
        return Err(error);
    }
    Ok(engine)
}

/// Starts a worker and waits until it is ready.
fn hire(engine: &Arc<Engine>, registry: &Registry, number: usize) -> Result<(Reins, JoinHandle<()>), Error> {
    let options = WorkerOptions {
        worker: number as u32,
        clock: *engine.time().clock(),
        timed: engine.terms.timed,
        idle: engine.terms.idle,
        quantum: QUANTUM,
        request_bytes: 0,
        recording: Recording::Off, // an executor has its own accounts
        meter: Arc::clone(&engine.meter),
        layout: engine.layout,
    };
    let (worker, control) = Worker::<Server, _>::new(options);
    let worker = worker.sleeping(Box::new(Bed { engine: Arc::downgrade(engine), worker: number }));
    let (tell, told) = mpsc::sync_channel(1);
    let (shared, registry) = (Arc::clone(engine), registry.clone());
    let run = move || {
        if let Err(error) = shared.place(number) {
            let _ = tell.send(Err(error));
            return;
        }
        wait::settle(&shared, Some(number));
        drop(shared); // its lanes hold on to the engine
        let _ = worker.serve(&registry, &[], |ready| {
            let refused = |error: &crate::registry::TableError| Error::Runtime {
                what: "a handler's state for a worker could not be made",
                source: std::io::Error::other(error.to_string()),
            };
            let _ = tell.send(ready.map_err(refused));
        });
    };
    let refused = |source| Error::Runtime { what: "a thread for a worker was refused", source };
    let thread = std::thread::Builder::new().name(format!("executor-work-{number}")).spawn(run).map_err(refused)?;
    match told.recv() {
        Ok(Ok(())) => Ok((control, thread)),
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => {
            Err(Error::Runtime { what: "a worker ended before it was ready", source: std::io::ErrorKind::Other.into() })
        }
    }
}

struct Steward {
    engine: Arc<Engine>,
    threads: Vec<JoinHandle<()>>,
    on_change: Option<OnChange>,
    /// By worker: the task that ran at the last look, since when, and whether it was reported.
    seen: HashMap<usize, (u64, Instant, bool)>,
    /// Tasks that had finished before the last look.
    looked: u64,
    state: Option<TargetState>,
}

impl Steward {
    fn run(mut self) {
        wait::settle(&self.engine, None);
        loop {
            let rests = self.may_rest();
            self.engine.steward_rests.0.store(rests, Release);
            // SeqCst: the word comes before the second look at the beds, as in `stir` a worker that has left its bed comes before
            // its look at the word: either the steward sees that somebody is up or the worker that the steward rests.
            fence(SeqCst);
            // Somebody may have begun to work just before that was said.
            let timeout = if rests && self.may_rest() { None } else { Some(ROUND) };
            let news = self.engine.wait_for_news(timeout, |news| news.drained || news.stirred);
            self.engine.steward_rests.0.store(false, Release);
            self.engine.tell(|news| news.stirred = false);
            if news.drained {
                break;
            }
            self.look_around();
        }
        self.engine.dismiss();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a worker that panics outside of tasks has said so on stderr
        }
        self.engine.bury();
        self.engine.tell(|news| news.ended = true);
    }

    /// Whether nothing can change before somebody wakes a worker, and everything that has was looked at.
    fn may_rest(&self) -> bool {
        let Engine { beds, depth, terms, .. } = &*self.engine;
        beds.asleep() == terms.workers && depth.waiting() == 0 && depth.latest() == self.looked
    }

    fn look_around(&mut self) {
        self.looked = self.engine.depth.latest();
        self.engine.pay_debts();
        self.look_for_stuck();
        self.look_at_target();
    }

    fn look_for_stuck(&mut self) {
        let now = Instant::now();
        for (worker, account) in self.engine.accounts.iter().enumerate() {
            let Some((number, current)) = account.current() else {
                self.seen.remove(&worker);
                continue;
            };
            let seen = self.seen.entry(worker).or_insert((number, now, false));
            if seen.0 != number {
                *seen = (number, now, false);
            }
            let running = self.engine.running_for(current.started_at).unwrap_or(now - seen.1);
            if running >= self.engine.terms.stuck_after && !seen.2 {
                seen.2 = true;
                tracing::warn!(
                    task_id = %current.id,
                    name = %current.name,
                    worker,
                    running_ms = running.as_millis() as u64,
                    "a task does not end; what waits behind it is run by other workers"
                );
            }
        }
    }

    fn look_at_target(&mut self) {
        let state = self.engine.target_state();
        let before = self.state.replace(state);
        let known = |state: &TargetState| matches!(state, TargetState::Met | TargetState::Missed);
        if !known(&state) {
            self.state = before;
            return;
        }
        // The first figure is news only if it is bad.
        if before == Some(state) || (before.is_none() && state == TargetState::Met) {
            return;
        }
        let report = LatencyTargetReport { state, ..self.engine.report() };
        match report.state {
            TargetState::Missed => tracing::warn!(
                latency_ns = report.latency_ns,
                target_ns = report.target_ns,
                percentile = report.percentile,
                tasks = report.tasks,
                over = report.over,
                worst = report.worst.as_ref().map(|worst| worst.name.as_str()),
                cause = report.worst.as_ref().map(|worst| worst.cause.to_string()),
                "the latency target is missed"
            ),
            _ => tracing::info!(
                latency_ns = report.latency_ns,
                target_ns = report.target_ns,
                percentile = report.percentile,
                tasks = report.tasks,
                "the latency target is met"
            ),
        }
        if let Some(callback) = &self.on_change {
            contain(|| callback(&report));
        }
    }
}

impl Engine {
    /// Puts the calling thread where worker `number` belongs.
    fn place(&self, number: usize) -> Result<(), Error> {
        if let Some(core) = self.cores.get(number).copied().flatten() {
            pin_current_thread(core).map_err(InvalidConfig::Core)?;
        } else if let Some(node) = self.nodes.of_worker(number) {
            let mut cpus = CpuSet::new();
            let fits = node.iter().all(|&cpu| cpus.set(cpu as usize).is_ok());
            if let (true, Err(errno)) = (fits, sched_setaffinity(Pid::from_raw(0), &cpus)) {
                self.warn(format!("worker {number} cannot be kept to the cpus {}: {errno}", cpu_list(node)));
            }
        }
        if let Some(real_time) = self.terms.real_time
            && let Err(errno) = real_time.take()
        {
            self.warn(format!(
                "worker {number} cannot be scheduled at {real_time}: {errno}; give it LimitRTPRIO={} (ulimit -r), or \
                 CAP_SYS_NICE, and a control group that may use real time",
                real_time.priority()
            ));
        }
        Ok(())
    }

    fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// How long a task has been running that started at this tick; `None` with timing off.
    fn running_for(&self, started_at: u64) -> Option<Duration> {
        let clock = self.time().clock();
        (started_at != 0).then(|| Duration::from_nanos(clock.ticks_to_ns(clock.now().saturating_sub(started_at))))
    }

    /// Tasks that have been running for at least `least`, the longest first.
    pub(crate) fn running(&self, least: Duration) -> Vec<Stuck> {
        let found = self.accounts.iter().enumerate().filter_map(|(worker, account)| {
            let (_, current) = account.current()?;
            let running = self.running_for(current.started_at).unwrap_or_default();
            (running >= least).then(|| Stuck { task_id: current.id, name: current.name.into_owned(), worker, running })
        });
        let mut found: Vec<Stuck> = found.collect();
        found.sort_by_key(|stuck| std::cmp::Reverse(stuck.running));
        found
    }
}
