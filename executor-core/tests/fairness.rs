//! Whose task begins next on an executor with one worker: exactly, task by task.
//!
//! The worker is held by a task while all others are submitted, each submitter from a thread of its own, so that the
//! executor has all the choice there is.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use executor_core::worker::{PASS_OVER_LIMIT, QUANTUM};
use executor_core::{ExecutorConfig, Priority, Task, TaskExecutor};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: usize = PASS_OVER_LIMIT as usize;

/// What ran, in order: a submitter's number and which of its tasks.
type Log = Arc<Mutex<Vec<(usize, usize)>>>;

struct Held {
    executor: TaskExecutor,
    log: Log,
    open: Sender<()>,
}

impl Held {
    /// An executor whose only worker is busy.
    fn new() -> Self {
        let config = ExecutorConfig { worker_threads: 1, max_queue_depth: 100_000, ..ExecutorConfig::default() };
        Self::hold(TaskExecutor::new(config).unwrap())
    }

    fn hold(executor: TaskExecutor) -> Self {
        let (began, begun) = channel();
        let (open, opened) = channel::<()>();
        let gate = Task::new("gate", Priority::Normal, move || {
            began.send(()).unwrap();
            let _ = opened.recv();
            Ok(())
        });
        executor.submit_task(gate).unwrap();
        begun.recv().unwrap();
        Self { executor, log: Log::default(), open }
    }

    /// Lets the worker run what there is, and holds it again.
    fn run_and_hold(self) -> Self {
        drop(self.open);
        while self.executor.queue_depth() > 0 {
            std::thread::yield_now();
        }
        Self::hold(self.executor)
    }

    fn note(&self, submitter: usize, number: usize, priority: Priority) -> Task {
        let log = Arc::clone(&self.log);
        Task::new("note", priority, move || {
            log.lock().unwrap().push((submitter, number));
            Ok(())
        })
    }

    /// Submits `tasks` tasks of each of `priorities` from a thread for each, all of which live until all have submitted.
    fn submit(&self, tasks: usize, priorities: &[Priority]) {
        let done = Barrier::new(priorities.len());
        std::thread::scope(|scope| {
            for (submitter, &priority) in priorities.iter().enumerate() {
                let done = &done;
                scope.spawn(move || {
                    for number in 0..tasks {
                        self.executor.submit_task(self.note(submitter, number, priority)).unwrap();
                    }
                    done.wait();
                });
            }
        });
    }

    /// Lets the worker go; what ran, in order.
    fn run(self) -> Vec<(usize, usize)> {
        drop(self.open);
        self.executor.shutdown_timeout(PATIENCE).unwrap();
        self.log.lock().unwrap().clone()
    }
}

/// Who ran how many tasks in a row.
fn turns(log: &[(usize, usize)]) -> Vec<(usize, usize)> {
    log.chunk_by(|a, b| a.0 == b.0).map(|turn| (turn[0].0, turn.len())).collect()
}

#[test]
fn submitters_of_one_priority_take_turns_of_exactly_a_quantum() {
    const SUBMITTERS: usize = 3;
    // With and without lanes of another priority, which are served by another loop.
    for other in [None, Some(Priority::Low), Some(Priority::High)] {
        let held = Held::new();
        if let Some(priority) = other {
            held.executor.submit_task(held.note(99, 0, priority)).unwrap();
        }
        let quantum = QUANTUM as usize;
        held.submit(3 * quantum + 7, &[Priority::Normal; SUBMITTERS]);
        let log = held.run();
        for submitter in 0..SUBMITTERS {
            let numbers: Vec<usize> = log.iter().filter(|ran| ran.0 == submitter).map(|ran| ran.1).collect();
            assert_eq!(numbers, (0..3 * quantum + 7).collect::<Vec<_>>(), "a submitter's tasks run in its order");
        }
        let turns = turns(&log.into_iter().filter(|ran| ran.0 != 99).collect::<Vec<_>>());
        assert_eq!(turns.len(), 4 * SUBMITTERS, "{turns:?}");
        for (turn, &(submitter, tasks)) in turns.iter().enumerate() {
            assert_eq!(submitter, turns[turn % SUBMITTERS].0, "the order of submitters stays: {turns:?}");
            assert_eq!(tasks, if turn < 3 * SUBMITTERS { quantum } else { 7 }, "{turns:?}");
        }
    }
}

#[test]
fn a_submitter_with_one_task_waits_for_a_quantum_of_each_other_one_and_no_more() {
    const OTHERS: usize = 4;
    let held = Held::new();
    let quantum = QUANTUM as usize;
    let (submitted, last) = (Barrier::new(OTHERS + 1), Barrier::new(OTHERS + 1));
    std::thread::scope(|scope| {
        for submitter in 0..OTHERS {
            let (held, submitted, last) = (&held, &submitted, &last);
            scope.spawn(move || {
                for number in 0..10 * quantum {
                    held.executor.submit_task(held.note(submitter, number, Priority::Normal)).unwrap();
                }
                submitted.wait();
                last.wait();
            });
        }
        submitted.wait();
        let own = scope.spawn(|| held.executor.submit_task(held.note(OTHERS, 0, Priority::Normal)).unwrap());
        own.join().unwrap();
        last.wait();
    });
    let turns = turns(&held.run());
    assert_eq!(turns[OTHERS], (OTHERS, 1), "{turns:?}");
    assert!(turns[..OTHERS].iter().all(|turn| turn.1 == quantum), "{turns:?}");
}

#[test]
fn a_thread_takes_over_no_lane_with_a_backlog_while_there_is_an_empty_one() {
    let held = Held::new();
    held.submit(1, &[Priority::Normal; 3]); // three lanes whose threads are gone
    let held = held.run_and_hold();
    // One thread after another.
    held.submit(10 * QUANTUM as usize, &[Priority::Normal]);
    for submitter in 1..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| held.executor.submit_task(held.note(submitter, 0, Priority::Normal)).unwrap());
        });
    }
    let log = held.run();
    for submitter in 1..3 {
        let before = log.iter().position(|ran| ran.0 == submitter).unwrap();
        assert!(before <= QUANTUM as usize + 1, "{submitter} waited for {before}: {:?}", turns(&log));
    }
}

#[test]
fn a_low_task_is_passed_over_by_exactly_as_many_as_is_stated() {
    let held = Held::new();
    let tasks = 5 * LIMIT;
    held.submit(tasks, &[Priority::Low, Priority::High]);
    let log = held.run();
    // LIMIT of the higher priority, then one that was passed over, and so on; the rest once nothing else is left.
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.extend([(1, LIMIT), (0, 1)]);
    }
    expected.pop();
    expected.push((0, tasks - 4));
    assert_eq!(turns(&log), expected);
}

#[test]
fn each_class_is_passed_over_by_no_more_than_is_stated_while_all_have_tasks() {
    let held = Held::new();
    let tasks = 3 * LIMIT;
    let priorities = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    held.submit(tasks, &priorities);
    let log = held.run();
    assert_eq!(log.len(), 4 * tasks);
    for class in 0..3 {
        let mut passed_over = 0;
        for &(submitter, number) in &log {
            if submitter == class {
                passed_over = 0;
                if number + 1 == tasks {
                    break;
                }
            } else if submitter > class {
                passed_over += 1;
                // Two classes may be due at once: then one of them waits for the other's one task.
                assert!(passed_over <= LIMIT + 2, "class {class} was passed over by {passed_over}");
            }
        }
    }
}
