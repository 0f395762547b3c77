//! What the recorder says a slow task waited for: each cause is made to happen, and has to be the one that is told.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{Client, TaskDescriptor};
use executor_shm::attach::{Instance, Wish};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::record::DescriptorRecord;
use executor_shm::core::recorder::{EventKind, Recording, SlowTask};
use executor_shm::core::{Clock, Handler, Priority, Registry, cpu};
use executor_shm::inspect::{Inspector, Recorded};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::{Ending, Sidecar, SidecarHandle};
use executor_tests::instance::TestInstance;
use executor_tests::{FAIL_SAFE, handlers, process, until};
use memmap2::{Advice, MmapMut};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Spins for as many microseconds as the request says.
const SPINS: u32 = 1;
/// Ends at once.
const QUICK: u32 = 2;
/// Spins until the kernel has taken its CPU for as long as the request says, in microseconds.
const PREEMPTED: u32 = 3;
/// Touches as many fresh pages as the request says.
const FAULTS: u32 = 4;

fn registry() -> Registry {
    let number = |request: &[u8]| u64::from_le_bytes(request.try_into().unwrap());
    let mut registry = Registry::builder();
    registry.add(Handler::new(SPINS, "spins", move |_, request, _| {
        let (begun, time) = (Instant::now(), Duration::from_micros(number(request)));
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
        Ok(())
    }));
    registry.add(Handler::new(QUICK, "quick", |_, _, _| Ok(())));
    registry.add(Handler::new(PREEMPTED, "preempted", move |_, request, _| {
        let until = waited_ns() + 1000 * number(request);
        while waited_ns() < until {
            std::hint::spin_loop();
        }
        Ok(())
    }));
    registry.add(Handler::new(FAULTS, "faults", move |_, request, _| {
        let pages = number(request) as usize;
        let mut fresh = MmapMut::map_anon(pages * 4096).unwrap();
        fresh.advise(Advice::NoHugePage).unwrap();
        fresh.iter_mut().step_by(4096).for_each(|byte| *byte = std::hint::black_box(1));
        std::hint::black_box(&fresh);
        Ok(())
    }));
    registry.build().unwrap()
}

/// Nanoseconds that this thread was ready to run and did not.
fn waited_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A sidecar of one worker in this process, for which every task is slow, and what it recorded.
struct Scene {
    instance: TestInstance,
    sidecar: SidecarHandle,
}

impl Scene {
    fn new(of: &str, idle: IdleStrategy) -> Self {
        let instance = TestInstance::new(of);
        let sidecar = Self::serve(&instance, idle, &[]);
        Self { instance, sidecar }
    }

    fn serve(instance: &TestInstance, idle: IdleStrategy, cpus: &[u32]) -> SidecarHandle {
        let builder = Sidecar::builder().instance(instance.name().clone()).lanes(2).capacity(16).idle(idle);
        let builder = builder.pinned(!cpus.is_empty()).cpus(cpus);
        builder.recording(Recording::SlowAfter(Duration::ZERO)).registry(registry()).start().unwrap()
    }

    fn connect(&self) -> Client {
        Client::connect_timeout(self.instance.name(), FAIL_SAFE).unwrap()
    }

    fn recorded(&self) -> Recorded {
        Inspector::open(self.instance.name()).unwrap().recorded()
    }

    /// The slow task of this handler that was submitted last, once it is there: a completion is published before its task is
    /// noted.
    fn last(&self, handler_id: u32) -> SlowTask {
        let mut found = None;
        until("a task of the handler is noted", || {
            let of_it = self.recorded().slow.into_iter().filter(|task| task.handler_id == handler_id);
            found = of_it.max_by_key(|task| (task.submitted_at, task.position));
            found.is_some()
        });
        let task = found.unwrap();
        check(&task);
        task
    }
}

/// The parts add up to the whole.
fn check(task: &SlowTask) {
    let behind = task.behind_lane.ticks + task.behind_others.ticks;
    let gaps = task.late + task.wait_preempted + task.wait_stalled;
    assert_eq!(task.unserved + task.asleep + behind + gaps + task.wait_unexplained(), task.wait(), "{task:?}");
    assert_eq!(task.run_preempted + task.faulting + task.run_itself(), task.run(), "{task:?}");
}

/// Whether `part` is most of `whole`.
fn is_most(part: u64, whole: u64) -> bool {
    part > whole / 2
}

fn submit(client: &mut Client, handler_id: u32, number: u64) {
    client.try_submit(&TaskDescriptor::new(handler_id), &number.to_le_bytes()).unwrap();
}

fn collect(client: &mut Client, tasks: usize) {
    for _ in 0..tasks {
        until("a completion", || client.try_collect().unwrap().inspect(|it| assert!(it.is_done())).is_some());
    }
}

#[test]
fn a_task_behind_a_long_one_of_its_lane_waited_for_that() {
    let scene = Scene::new("behind", IdleStrategy::Sleep);
    let mut client = scene.connect();
    submit(&mut client, SPINS, 20_000);
    submit(&mut client, QUICK, 0);
    collect(&mut client, 2);
    let task = scene.last(QUICK);
    assert!(is_most(task.behind_lane.ticks, task.wait()), "{task:?}");
    assert_eq!((task.behind_lane.handler_id, task.behind_lane.tasks, task.behind_lane.lane), (SPINS, 1, task.lane));
    assert_eq!(task.behind_others.ticks, 0);
    let long = scene.last(SPINS);
    assert!(is_most(long.run(), long.total()) && long.known.history, "{long:?}");
}

#[test]
fn a_task_behind_one_of_another_lane_waited_for_that() {
    let scene = Scene::new("others", IdleStrategy::Sleep);
    let (mut long, mut quick) = (scene.connect(), scene.connect());
    submit(&mut quick, QUICK, 0);
    collect(&mut quick, 1); // its worker has the lane
    submit(&mut long, SPINS, 20_000);
    let inspector = Inspector::open(scene.instance.name()).unwrap();
    until("it runs", || inspector.look().lanes.iter().any(|lane| lane.in_flight.is_some()));
    submit(&mut quick, QUICK, 0);
    collect(&mut quick, 1);
    collect(&mut long, 1);
    until("it is noted", || scene.last(QUICK).position == 1);
    let task = scene.last(QUICK);
    assert!(is_most(task.behind_others.ticks, task.wait()), "{task:?}");
    assert_eq!((task.behind_others.handler_id, task.behind_others.tasks), (SPINS, 1));
    assert_ne!(task.behind_others.lane, task.lane);
    assert_eq!(task.behind_lane.ticks, 0);
}

#[test]
fn a_task_that_woke_its_worker_waited_for_the_waking() {
    let scene = Scene::new("asleep", IdleStrategy::Sleep);
    let mut client = scene.connect();
    let inspector = Inspector::open(scene.instance.name()).unwrap();
    submit(&mut client, QUICK, 0);
    collect(&mut client, 1);
    let lane = client.lane_number();
    until("it sleeps", || inspector.look().lanes.iter().any(|it| it.lane == lane && it.sleeping));
    submit(&mut client, QUICK, 0);
    collect(&mut client, 1);
    until("the second is noted", || scene.last(QUICK).position == 1);
    let task = scene.last(QUICK);
    assert!(is_most(task.asleep, task.wait()), "{task:?}");
    let woken = scene.recorded().events.into_iter().any(|event| event.kind == EventKind::Slept && event.values[1] == 1);
    assert!(woken, "the sleep is an event");
}

#[test]
fn a_handler_that_takes_long_is_told_as_itself() {
    let scene = Scene::new("itself", IdleStrategy::Sleep);
    let mut client = scene.connect();
    // Something else may have its CPU for a while; not every time.
    until("it is told", || {
        submit(&mut client, SPINS, 5_000);
        collect(&mut client, 1);
        let task = scene.last(SPINS);
        is_most(task.run_itself(), task.total())
    });
}

#[test]
fn a_handler_without_its_cpu_is_told_as_preempted() {
    let _hog = Hog::start(cpu::allowed_cpus().unwrap()[0]);
    let instance = TestInstance::new("preempted");
    let sidecar = Scene::serve(&instance, IdleStrategy::Sleep, &[cpu::allowed_cpus().unwrap()[0]]);
    let scene = Scene { instance, sidecar };
    let mut client = scene.connect();
    submit(&mut client, PREEMPTED, 5_000);
    collect(&mut client, 1);
    let task = scene.last(PREEMPTED);
    if !task.known.preemption {
        println!("skipped: threads have no rseq area here");
        return;
    }
    let clock = Inspector::open(scene.instance.name()).unwrap().look().clock.unwrap();
    assert!(clock.ticks_to_ns(task.run_preempted) >= 4_900_000, "{task:?}");
    let time = Inspector::open(scene.instance.name()).unwrap().look().workers[0].time.unwrap();
    assert!(time.preemptions > 0 && time.preempted_ns >= 4_900_000, "{time:?}");
}

#[test]
fn a_task_that_finds_its_worker_without_a_cpu_waited_for_that() {
    let cpu = cpu::allowed_cpus().unwrap()[0];
    let _hog = Hog::start(cpu);
    let instance = TestInstance::new("taken");
    let sidecar = Scene::serve(&instance, IdleStrategy::Spin, &[cpu]);
    let scene = Scene { instance, sidecar };
    let mut client = scene.connect();
    submit(&mut client, QUICK, 0);
    collect(&mut client, 1);
    if !scene.last(QUICK).known.preemption {
        println!("skipped: threads have no rseq area here");
        return;
    }
    // The worker has its CPU half of the time: soon one comes while it has not, for as long as the hog's slice lasts.
    until("it is told", || {
        submit(&mut client, QUICK, 0);
        collect(&mut client, 1);
        let recorded = scene.recorded();
        recorded.slow.iter().for_each(check);
        recorded.slow.iter().any(|task| is_most(task.wait_preempted, task.total()))
    });
}

#[test]
fn a_worker_that_was_stopped_is_not_told_as_stalled() {
    let instance = TestInstance::new("stopped");
    let options = ["--idle", "spin", "--slow-after", "0"];
    let sidecar = process::sidecar(env!("CARGO_BIN_EXE_sidecar"), &instance, &options);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    submit(&mut client, handlers::ECHO, 0);
    collect(&mut client, 1);
    let inspector = Inspector::open(instance.name()).unwrap();
    let pid = Pid::from_raw(sidecar.pid() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    until("it is stopped", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit_once(") ").unwrap().1.starts_with('T')
    });
    submit(&mut client, handlers::ECHO, 0);
    let clock: Clock = *client.clock();
    let enough = clock.now() + clock.ns_to_ticks(20_000_000);
    until("some time is over", || clock.now() > enough);
    kill(pid, Signal::SIGCONT).unwrap();
    collect(&mut client, 1);
    let find = || inspector.recorded().slow.into_iter().find(|task| task.position == 1);
    until("it is noted", || find().is_some());
    let task = find().unwrap();
    check(&task);
    if !task.known.preemption {
        println!("skipped: threads have no rseq area here");
        return;
    }
    assert!(task.wait_stalled < task.wait() / 10, "{task:?}");
    assert!(is_most(task.wait_unexplained() + task.wait_preempted, task.wait()), "{task:?}");
}

#[test]
fn page_faults_of_a_handler_are_counted_and_told_as_a_part_of_its_run() {
    let scene = Scene::new("faults", IdleStrategy::Sleep);
    let mut client = scene.connect();
    // Of the first one it may only be told that there were so many at most; those after a slow one are watched.
    let pages = 5000;
    for _ in 0..2 {
        submit(&mut client, FAULTS, pages);
        collect(&mut client, 1);
    }
    until("both are noted", || scene.last(FAULTS).position == 1);
    let task = scene.last(FAULTS);
    assert!(task.known.faults && u64::from(task.minor_faults) >= pages, "{task:?}");
    assert!(task.faulting > 0 && task.faulting <= task.run(), "{task:?}");
    submit(&mut client, SPINS, 1_000);
    collect(&mut client, 1);
    assert!(u64::from(scene.last(SPINS).minor_faults) < pages / 2, "those of others are not counted twice");
}

#[test]
fn a_task_that_its_producer_committed_late_is_told_as_late() {
    // A worker that yields looks more slowly; before the first task there was no other to count from.
    for (idle, tasks_before) in [(IdleStrategy::Spin, 1), (IdleStrategy::Spin, 0), (IdleStrategy::Yield, 0)] {
        let scene = Scene::new("late", idle);
        let instance = Instance::open(scene.instance.name(), None).unwrap();
        let claim = instance.claim(Wish { priority: Priority::Normal, worker: None }).unwrap().unwrap();
        let (mut producer, clock) =
            (ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(instance.geometry())), instance.clock());
        let served = |producer: &mut ProducerHalf<_, _>, record: &DescriptorRecord| {
            let position = producer.submit(record);
            until("it is served", || producer.look(position) != Look::Pending);
            producer.credit();
        };
        let inspector = Inspector::open(scene.instance.name()).unwrap();
        until("a worker has the lane", || inspector.look().workers[0].lanes == 1);
        (0..tasks_before).for_each(|_| served(&mut producer, &DescriptorRecord::new(QUICK, 0, clock.now(), 0)));
        let record = DescriptorRecord::new(QUICK, 0, clock.now(), 0);
        let enough = clock.now() + clock.ns_to_ticks(20_000_000);
        until("the worker has looked for long", || inspector.look().workers[0].time.unwrap().looked_at > enough);
        served(&mut producer, &record);
        until("it is noted", || scene.last(QUICK).position == tasks_before);
        let task = scene.last(QUICK);
        // One that yields may have had no CPU at the end of that, and then its last look was before.
        let taken = if idle == IdleStrategy::Yield { task.wait_preempted } else { 0 };
        assert!(is_most(task.late + taken, task.wait()), "{idle:?} after {tasks_before}: {task:?}");
    }
}

#[test]
fn a_task_that_no_worker_was_there_for_is_told_as_unserved() {
    let scene = Scene::new("unserved", IdleStrategy::Sleep);
    let mut client = scene.connect();
    submit(&mut client, QUICK, 0);
    collect(&mut client, 1);
    scene.sidecar.stop();
    let ended = scene.sidecar.join().unwrap();
    assert_eq!(ended.ending, Ending::Kept { attached: 1, unanswered: 0 });
    submit(&mut client, QUICK, 0);
    let clock: Clock = *client.clock();
    let enough = clock.now() + clock.ns_to_ticks(20_000_000);
    until("some time is over", || clock.now() > enough);
    let sidecar = Scene::serve(&scene.instance, IdleStrategy::Sleep, &[]);
    let scene = Scene { instance: scene.instance, sidecar };
    collect(&mut client, 1);
    until("it is noted", || scene.last(QUICK).position == 1);
    let task = scene.last(QUICK);
    assert!(is_most(task.unserved, task.wait()), "{task:?}");
    let kinds: Vec<EventKind> = scene.recorded().events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Started).count(), 2);
    assert!(kinds.contains(&EventKind::Stopping) && kinds.contains(&EventKind::LaneTaken));
}

/// A thread that never gives its CPU away.
struct Hog {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hog {
    fn start(on: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            cpu::pin_current_thread(on).unwrap();
            while !seen.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}
