#![allow(unsafe_code, reason = "a global allocator that counts is the only way to see an allocation")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
//! The path of a task allocates nothing: the threads at both ends of a lane are watched while tasks go round.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use executor_core::clock::Clock;
use executor_core::dispatch::Served;
use executor_core::idle::IdleStrategy;
use executor_core::local;
use executor_core::meter::{self, MeterLayout};
use executor_core::recorder::Recording;
use executor_core::status::Malformed;
use executor_core::task::LaneFacts;
use executor_core::worker::{QUANTUM, Worker, WorkerOptions};
use executor_core::{
    ExecutorConfig, Handler, LatencyGoal, LatencyKind, Priority, Registry, Response, Status, Task, TaskContext,
    TaskError, TaskExecutor,
};

thread_local! {
    /// Whether this thread is watched. Constant and without a destructor, so looking at it allocates nothing.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Calls to the allocator by watched threads, giving back included.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Held by the test that watches: they share the count.
static WATCH: Mutex<()> = Mutex::new(());

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if WATCHED.get() {
        CALLS.fetch_add(1, Relaxed);
    }
}

// SAFETY: every call is passed on to `System` as it came, and counting touches no allocated memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System` by `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn a_task_with_an_inline_payload_allocates_nothing_on_its_way_round() {
    let _watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = Registry::builder();
    // Its state is made on the worker's thread, which is watched from then on.
    builder.add(Handler::per_worker(1, "echo", |_| {
        WATCHED.set(true);
        |_: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>| {
            response.write(request);
            Ok(())
        }
    }));
    builder.handler(2, "fails", |_, _, _| Err(TaskError::with_code(1, "a constant text")));
    builder.handler(3, "allocates", |_, request, response| {
        let copy: Box<[u8]> = request.into();
        response.write(&copy);
        Ok(())
    });
    let registry = builder.build().unwrap();
    let layout = MeterLayout { workers: 1, handlers: 3, lanes: 2 };
    let clock = Clock::detect();
    let (worker, mut control) = Worker::new(WorkerOptions {
        recording: Recording::default(),
        worker: 0,
        clock,
        timed: true,
        idle: IdleStrategy::SpinThenYield,
        quantum: QUANTUM,
        request_bytes: 64,
        meter: meter::heap(&layout),
        layout,
    });
    let mut producers = [Priority::Normal, Priority::Low].map(|priority| {
        let (producer, lane) = local::lane(16, 64, 64);
        let facts = LaneFacts {
            lane: priority as u32,
            base: 0,
            instance_nonce: 0,
            generation: 0,
            priority,
            attached_at: 1,
            meter: layout.lane(priority as usize),
        };
        control.adopt(Box::new(Served::new(lane, facts))).unwrap();
        producer
    });
    let thread = std::thread::spawn(move || worker.serve(&registry, &[], |_| {}).unwrap());

    let mut round = |handler: u32, expected: Status| {
        for producer in &mut producers {
            while producer.try_submit(handler, &[7; 24], clock.now(), 0).is_ok() {}
        }
        for producer in &mut producers {
            while producer.in_flight() > 0 {
                match producer.try_collect() {
                    Some(completion) => assert_eq!(completion.record.status(), Some(expected)),
                    None => std::thread::yield_now(),
                }
            }
        }
    };
    // Once round before it counts: the worker obeys its commands, and the thread's first yield may set something up.
    let kinds = [(1, Status::Done), (2, Status::Failed { code: 1 }), (9, Status::Malformed(Malformed::UnknownHandler))];
    kinds.iter().for_each(|&(handler, expected)| round(handler, expected));

    WATCHED.set(true);
    let before = CALLS.load(Relaxed);
    for _ in 0..200 {
        kinds.iter().for_each(|&(handler, expected)| round(handler, expected));
    }
    let steady = CALLS.load(Relaxed) - before;
    round(3, Status::Done);
    let seen = CALLS.load(Relaxed) - before - steady;
    WATCHED.set(false);

    assert_eq!(steady, 0, "19,200 tasks called the allocator {steady} times");
    assert_eq!(seen, 64, "a handler that allocates and frees for each of its 32 tasks is seen");
    control.close().unwrap();
    thread.join().unwrap();
}

/// Runs a closure so many times, with all priorities in turns.
fn run(executor: &TaskExecutor, tasks: u64, code: impl Fn() -> Result<(), TaskError> + Copy + Send + 'static) {
    for number in 0..tasks {
        let priority = Priority::ALL[(number % 4) as usize];
        let result = executor.submit_and_wait(Task::new("constant name", priority, code), Duration::from_secs(60));
        assert!(result.unwrap().success);
    }
}

#[test]
fn a_closure_that_captures_nothing_allocates_nothing_on_its_way_round() {
    let _watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    // Every task is over its target, and the first one is the worst of all.
    let config = ExecutorConfig { worker_threads: 1, target_latency_ns: 0, ..ExecutorConfig::default() };
    let goal =
        LatencyGoal { kind: LatencyKind::Execution, window: Duration::from_secs(3600), ..LatencyGoal::default() };
    let executor = TaskExecutor::builder(config).latency_goal(goal).build().unwrap();
    let worst = Task::new("worst", Priority::Normal, || {
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    });
    assert!(executor.submit_and_wait(worst, Duration::from_secs(60)).unwrap().success);
    // Once with everything that is made on first use: the lanes, the thread's ids, the worker's sleep.
    run(&executor, 100, || Ok(()));
    let watch = || {
        WATCHED.set(true);
        Ok(())
    };
    run(&executor, 1, watch);
    WATCHED.set(true);
    let before = CALLS.load(Relaxed);
    run(&executor, 2000, || Ok(()));
    let steady = CALLS.load(Relaxed) - before;
    run(&executor, 1, || {
        std::hint::black_box(Box::new(7));
        Ok(())
    });
    let seen = CALLS.load(Relaxed) - before - steady;
    WATCHED.set(false);
    assert_eq!((steady, seen), (0, 2), "calls to the allocator by 2,000 tasks, and by one that allocates and frees");
}
