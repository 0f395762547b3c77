//! The control plane with its processes interleaved and killed at every step: attach, reset, stop, restart, clean.
//!
//! The code is the product's own, from `Sidecar::builder` and `Instance::open` on, over real files, real locks and real
//! mappings. Each process is a thread of this test; `shuttle` decides before every system call and every access to shared
//! words who goes on, and the test decides who is killed there (see `rehearsal::stage` in the library).
//!
//! In every execution: no accepted task is lost or runs twice, no id is given twice, no lane has two owners, whoever wants
//! a lane gets one or is refused, and nothing is left in `/dev/shm`.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --release -p executor-shm --test shuttle
//! ```
#![cfg(shuttle)]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use executor_core::idle::IdleStrategy;
use executor_core::record::DescriptorRecord;
use executor_core::{Handler, Registry, Status, TaskContext};
use executor_shm::attach::{Claim, Instance, OpenError, Wish};
use executor_shm::clean::{CleanOptions, clean};
use executor_shm::inspect::Inspector;
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::rehearsal::stage::{Process, pause, random};
use executor_shm::{Ending, InstanceName, MasterError, Sidecar, Standby, StartError};
use shuttle::scheduler::{DataSource, RandomDataSource, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

const LANES: u32 = 3;
const CAPACITY: u32 = 2;
/// Runs once.
const ONCE: u32 = 1;
/// May run twice.
const TWICE: u32 = 2;

/// Looks at a process that does not end before it is called stuck: many times what the longest took.
const PATIENCE: u32 = 50_000;

/// A task: the nonce of its instance, its lane, its number there.
type Key = (u64, u32, u64);

#[derive(Debug, Default)]
struct Told {
    /// Tasks that a producer was about to submit.
    offered: BTreeSet<Key>,
    /// Tasks that were accepted, and how each ended as far as its producer saw it.
    accepted: BTreeMap<Key, Submitted>,
    effects: BTreeMap<Key, u32>,
    owners: BTreeMap<u32, Process>,
}

#[derive(Debug)]
struct Submitted {
    handler: u32,
    end: Option<Status>,
}

/// What everybody tells.
#[derive(Debug)]
struct World {
    name: InstanceName,
    told: Mutex<Told>,
}

impl World {
    fn new() -> Arc<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rehearsal-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        Arc::new(Self { name: InstanceName::new(&name).unwrap(), told: Mutex::default() })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    fn files(&self) -> BTreeSet<String> {
        let prefix = format!("executor.{}.", self.name);
        let names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
    }

    fn registry(self: &Arc<Self>) -> Registry {
        let mut registry = Registry::builder();
        for (id, name) in [(ONCE, "once"), (TWICE, "twice")] {
            let world = Arc::clone(self);
            let handler = Handler::new(id, name, move |context: &TaskContext<'_>, _, _| {
                pause(); // somebody may kill the sidecar before the effect, or after it
                let key = context.key();
                let key = (key.instance_nonce, key.task_id.lane(), key.task_id.sequence());
                *world.told().effects.entry(key).or_default() += 1;
                Ok(())
            });
            registry.add(if id == TWICE { handler.idempotent() } else { handler });
        }
        registry.build().unwrap()
    }

    /// Waits until nothing is left of a process, which must not wait for ever.
    fn join(&self, process: &Process) {
        for _ in 0..PATIENCE {
            if process.is_gone() {
                return;
            }
            pause();
        }
        let instance = Inspector::open(&self.name).map(|inspector| inspector.look().lanes);
        let (told, files) = (self.told(), self.files());
        panic!("stuck: {process:?} {told:#?} {files:#?} {instance:#?}");
    }

    /// Nobody is left: was everything answered, with the effects that its answer says, and is everything gone? So many
    /// sidecars were killed, each over one task of each lane at most.
    fn close_books(&self, kills: u32) {
        let told = self.told();
        let mut unrun = 0;
        for (key, task) in &told.accepted {
            let effects = told.effects.get(key).copied().unwrap_or(0);
            let least = u32::from(task.end == Some(Status::Done));
            assert!((least..=task.handler).contains(&effects), "task {key:?} had {effects} effects: {task:?}");
            unrun += u32::from(effects == 0 && task.end.is_none());
        }
        assert!(unrun <= kills * LANES, "{unrun} tasks of producers that are gone never ran, with {kills} kills");
        let strangers: Vec<_> = told.effects.keys().filter(|key| !told.offered.contains(key)).collect();
        assert!(strangers.is_empty(), "nobody submitted {strangers:?}");
        assert_eq!(self.files(), BTreeSet::new(), "left in /dev/shm");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in self.files() {
            let _ = std::fs::remove_file(format!("/dev/shm/{name}"));
        }
    }
}

/// Lets others go on for a while.
fn wait(pauses: u64) {
    (0..pauses).for_each(|_| pause());
}

/// A sidecar from its start to its end; `None` if it was refused. A standby waits until nobody else serves.
fn serve(world: &Arc<World>, standby: bool, stop: &AtomicBool) -> Option<Ending> {
    let drain = if random(2) == 0 { Duration::ZERO } else { Duration::from_secs(3600) };
    let builder = Sidecar::builder()
        .instance(world.name.clone())
        .registry(world.registry())
        .lanes(LANES)
        .capacity(CAPACITY)
        .request_bytes(0)
        .response_bytes(0)
        .pinned(false)
        .idle(IdleStrategy::Yield)
        .drain_time(drain);
    let started = if standby { builder.stand_by().and_then(Standby::take_over) } else { builder.start() };
    let sidecar = match started {
        Ok(sidecar) => sidecar,
        Err(StartError::Master(MasterError::AlreadyRunning { .. })) => return None,
        Err(error) => panic!("a start failed: {error:?}"),
    };
    while !stop.load(Relaxed) {
        pause();
    }
    wait(random(40));
    sidecar.stop();
    let ending = sidecar.join().unwrap().ending;
    assert_ne!(ending, Ending::NamesLost, "somebody took the names of a living instance");
    Some(ending)
}

/// A producer that takes a lane `turns` times.
fn produce(world: &Arc<World>, turns: u64) {
    for _ in 0..turns {
        let (instance, claim) = attach(world);
        let mut told = world.told();
        if let Some(owner) = told.owners.insert(claim.lane, Process::current().unwrap()) {
            assert!(owner.is_dead(), "lane {} has two owners", claim.lane);
        }
        drop(told);
        use_lane(world, &instance, claim);
    }
}

/// Opens the instance and takes a lane of it, however long that takes.
fn attach(world: &World) -> (Instance, Claim) {
    loop {
        match Instance::open(&world.name, None) {
            Ok(instance) => {
                // The same one again while its sidecar lives, as a client does it.
                while instance.is_alive() {
                    match instance.claim(Wish::default()) {
                        Ok(Some(claim)) => return (instance, claim),
                        Ok(None) => wait(random(40)),
                        Err(error) => panic!("a claim failed: {error:?}"),
                    }
                }
            }
            Err(OpenError::NotRunning { .. }) => {}
            Err(error) => panic!("a connect failed: {error:?}"),
        }
        wait(random(80));
    }
}

/// Submits some tasks, waits for most of them, and goes.
fn use_lane(world: &World, instance: &Instance, claim: Claim) {
    let Claim { lane, base, sq, cq, lock, .. } = claim;
    let mut half = ProducerHalf::new(sq, cq, LaneShape::new(instance.geometry()));
    let key = |position: u64| (instance.nonce(), lane, base + position);
    let collect = |half: &mut ProducerHalf<_, _>| {
        let position = half.credited();
        let record = loop {
            match half.look(position) {
                Look::Ended(record) => break record,
                Look::Corrupt(word) => panic!("a commit word of no task: {word}"),
                Look::Pending if random(16) == 0 => {
                    assert!(!instance.is_discarded(), "the files of lane {lane} went under its owner");
                }
                Look::Pending => {}
            }
            pause();
        };
        let status = record.status().unwrap();
        let legal = matches!(status, Status::Done | Status::Interrupted(_));
        assert!(legal, "task {position} of lane {lane} ended as {status:?}");
        world.told().accepted.get_mut(&key(position)).unwrap().end = Some(status);
        half.credit();
    };
    for _ in 0..random(4) {
        if half.is_full() {
            collect(&mut half);
        }
        let handler = if random(2) == 0 { ONCE } else { TWICE };
        let key = key(half.submitted());
        world.told().offered.insert(key);
        half.submit(&DescriptorRecord::new(handler, 0, 0, 0));
        let earlier = world.told().accepted.insert(key, Submitted { handler, end: None });
        assert!(earlier.is_none(), "task {key:?} is there already: an id was given twice");
    }
    let abandoned = random(2);
    while half.submitted() - half.credited() > abandoned {
        collect(&mut half);
    }
    world.told().owners.remove(&lane);
    drop(half); // unmapped first, as a client does it
    drop(lock);
}

/// How many steps a process does before it is killed, or that it is not.
fn fate(steps: u64) -> Option<u64> {
    (random(2) == 0).then(|| random(steps))
}

/// One execution: producers come and go while sidecars and cleaners do. The last sidecar stays until all are through.
fn day() {
    let world = World::new();
    let producers: Vec<Process> = (0..1 + random(3))
        .map(|number| {
            let (world, turns) = (Arc::clone(&world), 1 + random(2));
            Process::start(&format!("producer {number}"), fate(400), move || produce(&world, turns))
        })
        .collect();
    let mut others: Vec<(Process, Arc<AtomicBool>)> = Vec::new();
    for number in 0..random(4) {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, its) = (Arc::clone(&stop), Arc::clone(&world));
        let process = if random(4) == 0 {
            Process::start(&format!("cleaner {number}"), fate(300), move || {
                let cleaned = clean(&its.name, CleanOptions::default());
                assert!(matches!(cleaned, Ok(_) | Err(MasterError::AlreadyRunning { .. })), "{cleaned:?}");
            })
        } else {
            Process::start(&format!("sidecar {number}"), fate(3000), move || {
                serve(&its, random(3) == 0, &told);
            })
        };
        wait(random(200));
        if random(2) == 0 {
            stop.store(true, Relaxed);
        }
        others.push((process, stop));
        // Some follow one after the other, some are rivals.
        if random(2) == 0 {
            others.iter().for_each(|(_, stop)| stop.store(true, Relaxed));
            others.iter().for_each(|(process, _)| world.join(process));
        }
    }
    // One stop after the other: a standby waits for the end of those before it.
    others.iter().for_each(|(_, stop)| stop.store(true, Relaxed));
    others.iter().for_each(|(process, _)| world.join(process));
    let kills = others.iter().filter(|(process, _)| process.is_dead()).count() as u32;
    let enough = Arc::new(AtomicBool::new(false));
    let (told, its) = (Arc::clone(&enough), Arc::clone(&world));
    let last = Process::start("last sidecar", None, move || {
        // What it had not noticed yet when it was told to stop is served by the next.
        while serve(&its, false, &told) != Some(Ending::Removed) {
            pause();
        }
    });
    producers.iter().for_each(|producer| world.join(producer));
    enough.store(true, Relaxed);
    world.join(&last);
    world.close_books(kills);
}

/// Goes on with whom it was at, as often as the mood of the execution says, or else with anybody.
struct Moody {
    data: RandomDataSource,
    /// Chances in 256 to go on.
    mood: u64,
    left: bool,
}

impl Moody {
    fn new(seed: u64) -> Self {
        let mut data = RandomDataSource::initialize(seed);
        let mood = [0, 128, 230, 252][data.next_u64() as usize % 4];
        Self { data, mood, left: true }
    }
}

impl Scheduler for Moody {
    fn new_execution(&mut self) -> Option<Schedule> {
        std::mem::take(&mut self.left).then(|| Schedule::new(self.data.reinitialize()))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let dice = self.data.next_u64();
        let again = current.filter(|current| {
            !is_yielding && dice % 256 < self.mood && runnable.iter().any(|task| task.id() == *current)
        });
        again.or_else(|| runnable.get((dice >> 8) as usize % runnable.len()).map(|task| task.id()))
    }

    fn next_u64(&mut self) -> u64 {
        self.data.next_u64()
    }
}

/// So many executions by default; `EXECUTOR_EXECUTIONS` asks for another number.
const EXECUTIONS: u64 = 2000;

#[test]
fn whoever_is_killed_when_nothing_is_lost_doubled_shared_or_left() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let executions = number("EXECUTOR_EXECUTIONS").unwrap_or(EXECUTIONS);
    let one = number("EXECUTOR_SEED");
    let first = one.unwrap_or_else(|| {
        u64::from(std::process::id()) << 32 | u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_micros()) << 12
    });
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    config.max_steps = MaxSteps::FailAfter(2_000_000);
    config.failure_persistence = FailurePersistence::None;
    for seed in first..first + one.map_or(executions, |_| 1) {
        let told = Seed(seed);
        Runner::new(Moody::new(seed), config.clone()).run(day);
        std::mem::forget(told);
    }
    println!("{executions} executions from seed {first}");
}

/// Says how to see a failure again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("again with: EXECUTOR_SEED={}", self.0);
    }
}
