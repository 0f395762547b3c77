//! What workers do while there is nothing to do: nothing. And what they cost that is over: nothing either.
//!
//! The tests look at the threads and the memory of this process, so they run one at a time.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use executor_core::idle::IdleStrategy;
use executor_core::{ExecutorConfig, Priority, Task, TaskExecutor};

const PATIENCE: Duration = Duration::from_secs(60);

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State and nanoseconds on a CPU of each thread of an executor.
fn threads() -> Vec<(String, char, u64)> {
    let look = |task: std::fs::DirEntry| {
        let read = |file| std::fs::read_to_string(task.path().join(file)).ok(); // the thread may have ended
        let name = read("comm")?.trim().to_owned();
        let state = read("stat")?.rsplit_once(") ")?.1.chars().next()?;
        let nanoseconds = read("schedstat")?.split(' ').next()?.parse().ok()?;
        name.starts_with("executor-").then_some((name, state, nanoseconds))
    };
    std::fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(look).collect()
}

/// Waits until all threads of the only executor are asleep.
#[track_caller]
fn until_asleep(workers: usize) {
    let begun = Instant::now();
    loop {
        let threads = threads();
        if threads.len() == workers + 1 && threads.iter().all(|thread| thread.1 == 'S') {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never asleep: {threads:?}");
        std::thread::yield_now();
    }
}

fn executor(worker_threads: usize, idle: Option<IdleStrategy>) -> TaskExecutor {
    let builder = TaskExecutor::builder(ExecutorConfig { worker_threads, ..ExecutorConfig::default() });
    match idle {
        Some(idle) => builder.idle(idle).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

#[test]
fn a_burst_on_sleeping_workers_gets_all_of_them_to_work_at_once() {
    const WORKERS: usize = 9;
    let _alone = alone();
    for idle in [None, Some(IdleStrategy::Sleep)] {
        let executor = executor(WORKERS, idle);
        for round in 0..30 {
            until_asleep(WORKERS);
            let meet = Arc::new(Barrier::new(WORKERS));
            let task = |_| {
                let meet = Arc::clone(&meet);
                Task::new("meet", Priority::ALL[round % 4], move || {
                    meet.wait(); // ends only if all run at once
                    Ok(())
                })
            };
            let ids = if round % 2 == 0 {
                executor.submit_batch((0..WORKERS).map(task)).unwrap()
            } else {
                (0..WORKERS).map(|number| executor.submit_task(task(number)).unwrap()).collect()
            };
            for id in ids {
                assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
            }
        }
        executor.shutdown().unwrap();
    }
}

#[test]
fn an_idle_executor_burns_no_processor_time() {
    const WORKERS: usize = 4;
    let _alone = alone();
    let executor = executor(WORKERS, None);
    for _ in 0..100 {
        let task = Task::new("work", Priority::Normal, || Ok(()));
        assert!(executor.submit_and_wait(task, PATIENCE).unwrap().success);
    }
    until_asleep(WORKERS);
    let total = || threads().iter().map(|thread| thread.2).sum::<u64>();
    let (before, begun) = (total(), Instant::now());
    std::thread::sleep(Duration::from_secs(3)); // the time that is looked at, not a condition that is waited for
    let (burnt, wall) = (total() - before, begun.elapsed().as_nanos() as u64);
    // One that spins burns all of it, one that yields nearly so; all together are to burn less than a two hundredth.
    assert!(burnt < wall / 200, "{burnt} ns of {wall} ns");
    executor.shutdown().unwrap();
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn threads_that_come_and_go_leave_no_lane_behind() {
    const THREADS: u64 = 4_000;
    const AT_ONCE: u64 = 8;
    let _alone = alone();
    let executor = Arc::new(executor(2, None));
    let run = |threads: u64| {
        for _ in 0..threads / AT_ONCE {
            std::thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    scope.spawn(|| {
                        for priority in Priority::ALL {
                            let task = Task::new("brief", priority, || Ok(()));
                            assert!(executor.submit_and_wait(task, PATIENCE).unwrap().success);
                        }
                    });
                }
            });
        }
    };
    run(THREADS / 10);
    let before = resident();
    run(THREADS);
    let grown = resident().saturating_sub(before);
    // Each has four lanes of 16 KiB and more.
    assert!(grown < THREADS * 4 * 16_384 / 16, "grown by {grown} bytes");
    assert_eq!(executor.stats().tasks_executed.into_inner(), (THREADS + THREADS / 10) * 4);
}

#[test]
fn executors_that_come_and_go_leave_no_thread_and_no_memory_behind() {
    let _alone = alone();
    let run = |executors: u32| {
        for round in 0..executors {
            let executor = executor(2, None);
            let task = Task::new("brief", Priority::Normal, || Ok(()));
            assert!(executor.submit_and_wait(task, PATIENCE).unwrap().success);
            if round % 2 == 0 {
                executor.shutdown().unwrap();
            }
        }
        let begun = Instant::now();
        while !threads().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "left: {:?}", threads());
            std::thread::yield_now();
        }
    };
    run(30);
    let before = resident();
    run(300);
    let grown = resident().saturating_sub(before);
    // Each has some 3 MB of results.
    assert!(grown < 300 * 3_000_000 / 16, "grown by {grown} bytes");
}
