//! The executor inside one process keeps what it promises.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use executor_core::executor::{DEPTH_MAX, InvalidConfig, WORKERS_MAX};
use executor_core::idle::IdleStrategy;
use executor_core::{Error, ExecutorConfig, Priority, Task, TaskExecutor, TaskId, TicketError};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(worker_threads: usize) -> ExecutorConfig {
    ExecutorConfig { worker_threads, ..ExecutorConfig::default() }
}

fn executor(worker_threads: usize) -> TaskExecutor {
    TaskExecutor::new(config(worker_threads)).unwrap()
}

fn with_depth(worker_threads: usize, max_queue_depth: usize) -> TaskExecutor {
    TaskExecutor::new(ExecutorConfig { worker_threads, max_queue_depth, ..ExecutorConfig::default() }).unwrap()
}

/// A task that runs until the sender is dropped or sends, and says when it began.
fn gate(name: &'static str) -> (Task, Receiver<()>, Sender<()>) {
    let (began, begun) = channel();
    let (open, opened) = channel::<()>();
    let task = Task::new(name, Priority::Normal, move || {
        began.send(()).unwrap();
        let _ = opened.recv();
        Ok(())
    });
    (task, begun, open)
}

/// Keeps a worker busy until the sender is dropped.
fn occupy(executor: &TaskExecutor) -> (TaskId, Sender<()>) {
    let (task, begun, open) = gate("gate");
    let id = executor.submit_task(task).unwrap();
    begun.recv().unwrap();
    (id, open)
}

fn nothing() -> Task {
    Task::new("nothing", Priority::Normal, || Ok(()))
}

#[test]
fn a_task_runs_once_and_tells_when_and_how_it_ended() {
    let executor = executor(2);
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let task = Task::new("count", Priority::High, move || {
        counted.fetch_add(1, Relaxed);
        Ok(())
    });
    let id = task.id();
    assert_eq!(executor.submit_task(task).unwrap(), id);
    let result = executor.wait_for_completion(id, PATIENCE).unwrap();
    assert!(result.success && result.error.is_none() && result.task_id == id);
    assert!(result.submitted_at <= result.started_at && result.started_at <= result.completed_at);
    assert!(result.submitted_at.as_nanos() > 0);
    assert!(result.total_latency_ns >= result.execution_latency_ns);
    executor.shutdown().unwrap();
    assert_eq!(count.load(Relaxed), 1);
}

#[test]
fn a_failure_and_a_panic_are_told_by_their_text_and_the_worker_lives() {
    let executor = executor(1);
    let failing = Task::new("fails", Priority::Normal, || Err(executor_core::TaskError::new("no such order")));
    let result = executor.submit_and_wait(failing, PATIENCE).unwrap();
    assert_eq!((result.success, result.error.as_deref()), (false, Some("no such order")));
    let panicking = Task::new("panics", Priority::Normal, || panic!("index {} is out", 7));
    let result = executor.submit_and_wait(panicking, PATIENCE).unwrap();
    assert_eq!((result.success, result.error.as_deref()), (false, Some("index 7 is out")));
    assert!(executor.submit_and_wait(nothing(), PATIENCE).unwrap().success);
    let stats = executor.stats();
    assert_eq!((stats.tasks_executed.load(Relaxed), stats.tasks_failed.load(Relaxed)), (3, 2));
}

#[test]
fn the_limit_is_exact_and_hands_the_task_back() {
    let executor = with_depth(1, 3);
    let (_, open) = occupy(&executor);
    let waiting = [nothing(), nothing()].map(|task| executor.submit_task(task).unwrap());
    let refused = nothing();
    let id = refused.id();
    let error = executor.submit_task(refused).unwrap_err();
    assert!(matches!(&error, Error::QueueFull { depth: 3, .. }), "{error}");
    assert_eq!(error.into_task().unwrap().id(), id);
    drop(open);
    for id in waiting {
        executor.wait_for_completion(id, PATIENCE).unwrap();
        // What is known to have finished takes no place.
        executor.submit_task(nothing()).unwrap();
    }
}

#[test]
fn a_result_is_handed_out_once_and_expires_after_exactly_as_many_newer_ones() {
    const KEPT: usize = 5;
    let executor = with_depth(1, KEPT);
    let run = || {
        let id = executor.submit_task(nothing()).unwrap();
        while executor.queue_depth() > 0 {
            std::thread::yield_now();
        }
        id
    };
    let (read, kept, expired) = (run(), run(), run());
    executor.wait_for_completion(read, PATIENCE).unwrap();
    assert!(
        matches!(executor.wait_for_completion(read, PATIENCE), Err(Error::AlreadyRead { task_id }) if task_id == read)
    );
    let newer: Vec<TaskId> = (0..KEPT - 2).map(|_| run()).collect();
    // `kept` has KEPT - 1 newer results.
    executor.wait_for_completion(kept, PATIENCE).unwrap();
    run();
    assert!(!newer.is_empty());
    run();
    let error = executor.wait_for_completion(expired, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::UnknownOrExpired { kept: KEPT, .. }), "{error}");
    let error = executor.wait_for_completion(TaskId::from_u64(u64::MAX), PATIENCE).unwrap_err();
    assert!(matches!(error, Error::UnknownOrExpired { .. }), "{error}");
}

#[test]
fn a_time_out_leaves_the_task_accepted_and_its_result_to_be_found_later() {
    let executor = executor(1);
    let (id, open) = occupy(&executor);
    for timeout in [Duration::ZERO, Duration::from_millis(3)] {
        let error = executor.wait_for_completion(id, timeout).unwrap_err();
        assert!(matches!(error, Error::Timeout { task_id, waited } if task_id == id && waited == timeout), "{error}");
    }
    drop(open);
    assert!(executor.wait_for_completion(id, Duration::MAX).unwrap().success);
}

#[test]
fn what_waits_behind_a_stuck_task_is_run_by_others() {
    let executor = executor(2);
    let (stuck, open) = occupy(&executor);
    for _ in 0..100 {
        executor.submit_and_wait(nothing(), PATIENCE).unwrap();
    }
    drop(open);
    executor.wait_for_completion(stuck, PATIENCE).unwrap();
}

#[test]
fn a_critical_task_waits_for_at_most_the_task_that_runs() {
    let executor = executor(1);
    let (_, open) = occupy(&executor);
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |text: &'static str, priority| {
        let order = Arc::clone(&order);
        Task::new(text, priority, move || {
            order.lock().unwrap().push(text);
            Ok(())
        })
    };
    for _ in 0..10 {
        executor.submit_task(note("low", Priority::Low)).unwrap();
        executor.submit_task(note("normal", Priority::Normal)).unwrap();
        executor.submit_task(note("high", Priority::High)).unwrap();
    }
    executor.submit_task(note("critical", Priority::Critical)).unwrap();
    drop(open);
    executor.shutdown().unwrap();
    let order = order.lock().unwrap();
    let expected = [&["critical"][..], &["high"; 10], &["normal"; 10], &["low"; 10]].concat();
    assert_eq!(*order, expected);
}

#[test]
fn a_shutdown_runs_what_was_accepted_and_accepts_nothing_more() {
    let executor = Arc::new(executor(2));
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..1000 {
        let count = Arc::clone(&count);
        let task = Task::new("count", Priority::Normal, move || {
            count.fetch_add(1, Relaxed);
            Ok(())
        });
        executor.submit_task(task).unwrap();
    }
    executor.close();
    let error = executor.submit_task(nothing()).unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
    assert!(error.into_task().is_some());
    executor.shutdown_timeout(PATIENCE).unwrap();
    assert_eq!(count.load(Relaxed), 1000);
    Arc::into_inner(executor).unwrap().shutdown().unwrap();
}

#[test]
fn a_shutdown_in_time_names_the_task_that_is_stuck() {
    let executor = executor(1);
    let (id, open) = occupy(&executor);
    executor.submit_task(nothing()).unwrap();
    let error = executor.shutdown_timeout(Duration::from_millis(20)).unwrap_err();
    let Error::Stuck { tasks, queued, .. } = &error else { panic!("{error}") };
    assert_eq!((tasks.len(), tasks[0].task_id, tasks[0].name.as_str(), *queued), (1, id, "gate", 1));
    assert!(error.to_string().contains("task gate (running for"), "{error}");
    drop(open);
    executor.shutdown().unwrap();
}

#[test]
fn a_drop_does_not_wait_and_loses_nothing() {
    let (told, heard) = channel();
    let open = {
        let executor = executor(1);
        let (_, open) = occupy(&executor);
        executor.submit_task(Task::new("after", Priority::Normal, move || Ok(told.send(())?))).unwrap();
        open
    };
    drop(open);
    heard.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_task_may_submit_and_may_not_wait_where_nobody_else_could_run() {
    let executor = Arc::new(executor(1));
    let inner = Arc::clone(&executor);
    let ticket = executor
        .submit_with_result(move || {
            let id = inner.submit_task(nothing())?;
            let error = inner.wait_for_completion(id, PATIENCE).unwrap_err();
            assert!(matches!(error, Error::WouldDeadlock), "{error}");
            Ok::<_, Error>(id)
        })
        .unwrap();
    let id = ticket.wait(PATIENCE).unwrap();
    assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
}

#[test]
fn a_task_may_wait_for_another_one_while_a_worker_is_left() {
    let executor = Arc::new(executor(2));
    let inner = Arc::clone(&executor);
    let ticket = executor.submit_with_result(move || inner.submit_and_wait(nothing(), PATIENCE)).unwrap();
    assert!(ticket.wait(PATIENCE).unwrap().success);
}

#[test]
fn a_ticket_brings_the_value_the_error_or_the_text_of_the_panic() {
    let executor = executor(2);
    let ticket = executor.submit_with_result(|| Ok::<_, String>(vec![1, 2, 3])).unwrap();
    assert_eq!(ticket.wait(PATIENCE), Ok(vec![1, 2, 3]));
    let ticket = executor.submit_with_result(|| Err::<u8, _>("bad".to_owned())).unwrap();
    assert_eq!(ticket.wait(PATIENCE), Err(TicketError::Failed("bad".to_owned())));
    let ticket = executor.submit_with_result(|| -> Result<u8, String> { panic!("broken") }).unwrap();
    let id = ticket.task_id();
    assert_eq!(ticket.wait(PATIENCE), Err(TicketError::Panicked("broken".to_owned())));
    assert_eq!(executor.wait_for_completion(id, PATIENCE).unwrap().error.as_deref(), Some("broken"));
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_cure() {
    let refused = |config: ExecutorConfig| match TaskExecutor::new(config).unwrap_err() {
        Error::InvalidConfig(refusal) => refusal,
        error => panic!("{error}"),
    };
    assert!(matches!(refused(config(0)), InvalidConfig::NoWorkers { cpus } if cpus > 0));
    assert!(matches!(refused(config(WORKERS_MAX + 1)), InvalidConfig::TooManyWorkers { .. }));
    for max_queue_depth in [0, DEPTH_MAX + 1] {
        let refusal = refused(ExecutorConfig { max_queue_depth, ..config(1) });
        assert!(matches!(refusal, InvalidConfig::Depth { .. }), "{refusal}");
    }
    let refusal = refused(ExecutorConfig { executor_cores: vec![1023], ..config(1) });
    assert!(matches!(&refusal, InvalidConfig::Core(_)) && refusal.to_string().contains("1023"), "{refusal}");
}

#[test]
fn more_workers_than_cpus_and_fewer_cores_than_workers_share() {
    let allowed = executor_core::cpu::allowed_cpus().unwrap();
    let executor_cores = vec![allowed[0]];
    let executor = TaskExecutor::new(ExecutorConfig { executor_cores, ..config(allowed.len() * 2 + 1) }).unwrap();
    let ticket = executor.submit_with_result(executor_core::cpu::allowed_cpus).unwrap();
    assert_eq!(ticket.wait(PATIENCE).unwrap(), vec![allowed[0]]);
    executor.shutdown().unwrap();
}

#[test]
fn threads_that_share_an_executor_lose_and_double_nothing() {
    const THREADS: u64 = 8;
    let tasks = if cfg!(debug_assertions) { 5_000 } else { 100_000u64 };
    let executor = Arc::new(with_depth(3, 64));
    let sum = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (executor, sum) = (Arc::clone(&executor), Arc::clone(&sum));
            std::thread::spawn(move || {
                let mut waited = 0;
                for number in 0..tasks {
                    let sum = Arc::clone(&sum);
                    let priority = Priority::ALL[(number % 4) as usize];
                    let mut task = Task::new("add", priority, move || {
                        sum.fetch_add(thread * tasks + number, Relaxed);
                        Ok(())
                    });
                    let id = loop {
                        match executor.submit_task(task) {
                            Ok(id) => break id,
                            Err(error) => task = error.into_task().unwrap(),
                        }
                        std::thread::yield_now();
                    };
                    if number % 7 == 0 {
                        match executor.wait_for_completion(id, PATIENCE) {
                            Ok(result) => waited += u64::from(result.success),
                            Err(Error::UnknownOrExpired { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                waited
            })
        })
        .collect();
    assert!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>() > 0);
    executor.shutdown_timeout(PATIENCE).unwrap();
    assert_eq!(executor.lost_wakes(), 0);
    let all = THREADS * tasks;
    assert_eq!(sum.load(Relaxed), all * (all - 1) / 2);
    assert_eq!(executor.stats().tasks_executed.load(Relaxed), all);
}

#[test]
fn every_idle_strategy_wakes_for_every_task() {
    for idle in ["spin", "spin-then-yield", "yield", "adaptive", "sleep"] {
        let executor = TaskExecutor::builder(config(2)).idle(idle.parse::<IdleStrategy>().unwrap()).build().unwrap();
        for _ in 0..200 {
            assert!(executor.submit_and_wait(nothing(), PATIENCE).unwrap().success);
        }
        assert_eq!(executor.lost_wakes(), 0, "{idle}");
        executor.shutdown().unwrap();
    }
}

#[test]
fn everything_is_sent_and_shared() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<TaskExecutor>();
    is_shared::<Error>();
    is_shared::<Task>();
    is_shared::<executor_core::TaskResult>();
    is_shared::<executor_core::Ticket<Vec<u8>, Error>>();
    is_shared::<executor_core::BatchError>();
}

#[test]
fn a_batch_is_accepted_up_to_the_room_there_is_and_hands_the_rest_back() {
    let executor = with_depth(1, 4);
    let (_, open) = occupy(&executor);
    let tasks: Vec<Task> = (0..6).map(|_| nothing()).collect();
    let ids: Vec<TaskId> = tasks.iter().map(Task::id).collect();
    let error = executor.submit_batch(tasks).unwrap_err();
    assert_eq!(error.accepted, ids[..3]);
    assert_eq!(error.rest.iter().map(Task::id).collect::<Vec<_>>(), ids[4..]);
    assert!(matches!(error.refusal, Error::QueueFull { depth: 4, .. }));
    assert_eq!(error.refusal.into_task().unwrap().id(), ids[3]);
    drop(open);
    for &id in &ids[..3] {
        assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
    }
    assert_eq!(executor.submit_batch([]).unwrap(), []);
    let all: Vec<Task> = (0..3).map(|_| nothing()).collect();
    let ids: Vec<TaskId> = all.iter().map(Task::id).collect();
    assert_eq!(executor.submit_batch(all).unwrap(), ids);
}

#[test]
fn statistics_are_zero_before_the_first_task_and_exact_once_its_result_is_known() {
    let executor = executor(1);
    let stats = executor.stats();
    let all = |stats: &executor_core::ExecutorStats| {
        [&stats.min_latency_ns, &stats.avg_latency_ns, &stats.max_latency_ns].map(|word| word.load(Relaxed))
    };
    assert_eq!((all(&stats), stats.tasks_executed.load(Relaxed)), ([0; 3], 0));
    let mut latencies = Vec::new();
    for number in 1..=5 {
        let result = executor.submit_and_wait(nothing(), PATIENCE).unwrap();
        latencies.push(result.execution_latency_ns);
        let stats = executor.stats();
        assert_eq!((stats.tasks_executed.load(Relaxed), stats.active_workers.load(Relaxed)), (number, 0));
        let [min, avg, max] = all(&stats);
        assert_eq!((min, max), (*latencies.iter().min().unwrap(), *latencies.iter().max().unwrap()));
        assert_eq!(avg, stats.total_execution_time_ns.load(Relaxed) / number);
        // Each of them was rounded down by itself.
        let sum: u64 = latencies.iter().sum();
        assert!((sum..=sum + number).contains(&stats.total_execution_time_ns.load(Relaxed)));
    }
    let (_, open) = occupy(&executor);
    assert_eq!(executor.stats().active_workers.load(Relaxed), 1);
    drop(open);
}

#[test]
fn registered_handlers_answer_calls_as_a_sidecar_would() {
    struct Double;
    impl executor_core::TaskSpec for Double {
        const ID: u32 = 7;
        const NAME: &'static str = "double";
        const SCHEMA: u32 = 1;
        type Args = u64;
        type Output = u64;
    }
    let mut registry = executor_core::Registry::builder();
    registry.typed::<Double>(|_, value| {
        value.checked_mul(2).ok_or_else(|| executor_core::TaskError::with_code(9, "overflow"))
    });
    registry.handler(8, "echo", |context, request, response| {
        assert_eq!(context.task_id().lane(), 0);
        response.write(request);
        Ok(())
    });
    let registry = registry.build().unwrap();
    let executor = TaskExecutor::builder(config(2)).registry(registry).build().unwrap();
    assert_eq!(executor.submit_typed::<Double>(&21).unwrap().wait(PATIENCE), Ok(42));
    let error = executor.submit_typed::<Double>(&u64::MAX).unwrap().wait(PATIENCE).unwrap_err();
    assert_eq!(error, TicketError::Failed(executor_core::TaskError::with_code(9, "overflow")));
    for length in [0, 1, 24, 25, 32, 33, 1000, 4096] {
        let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
        let ticket = executor.submit_call(Task::call(8, bytes.clone())).unwrap();
        assert_eq!(ticket.wait(PATIENCE), Ok(bytes), "{length}");
    }
    let too_long = executor.submit_call(Task::call(8, vec![1; 4097])).unwrap().wait(PATIENCE).unwrap_err();
    assert_eq!(too_long.to_string(), executor_core::Status::ResponseTooLong { wanted: 4097 }.to_string());
    let unknown = executor.submit_and_wait(Task::call(99, []).named("nobody"), PATIENCE).unwrap();
    assert!(!unknown.success && unknown.error.is_some(), "{unknown:?}");
    let wrong = executor.submit_and_wait(Task::call(7, [1, 2, 3]), PATIENCE).unwrap();
    assert!(!wrong.success, "{wrong:?}");
}

#[test]
fn moments_are_those_of_the_wall_clock_too() {
    let second = Duration::from_secs(1); // somebody may adjust the clock
    let before = std::time::SystemTime::now() - second;
    let result = executor(1).submit_and_wait(nothing(), PATIENCE).unwrap();
    let wall = result.completed_at.to_wall_time().unwrap();
    assert!(before <= wall && wall <= std::time::SystemTime::now() + second);
    let now = executor_core::global_time_source().now();
    assert!(now > result.completed_at && now.since(result.completed_at) > Duration::ZERO);
    assert_eq!(result.completed_at.since(now), Duration::ZERO);
}

#[test]
fn a_task_that_does_not_end_is_reported_with_its_name_and_how_long() {
    let stuck_after = Duration::from_millis(5);
    let executor = TaskExecutor::builder(config(2)).stuck_after(stuck_after).build().unwrap();
    assert_eq!(executor.stuck_tasks(), []);
    let (id, open) = occupy(&executor);
    let stuck = loop {
        if let [stuck] = &executor.stuck_tasks()[..] {
            break stuck.clone();
        }
        std::thread::yield_now();
    };
    assert_eq!((stuck.task_id, stuck.name.as_str()), (id, "gate"));
    assert!(stuck.running >= stuck_after);
    drop(open);
    executor.wait_for_completion(id, PATIENCE).unwrap();
    assert_eq!(executor.stuck_tasks(), []);
}

#[test]
fn a_value_whose_drop_panics_ends_no_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a drop that panics");
        }
    }
    let executor = executor(1);
    drop(executor.submit_with_result(|| Ok::<_, Error>(Bomb)).unwrap());
    let captured = Bomb;
    let task = Task::new("capture", Priority::Normal, move || {
        let _captured = &captured;
        Ok(())
    });
    let result = executor.submit_and_wait(task, PATIENCE).unwrap();
    assert_eq!(result.error.as_deref(), Some("a drop that panics"));
    assert!(executor.submit_and_wait(nothing(), PATIENCE).unwrap().success);
}

#[test]
fn a_task_that_could_not_run_counts_and_has_no_latency() {
    let executor = executor(1);
    let run = || executor.submit_and_wait(nothing(), PATIENCE).unwrap().execution_latency_ns;
    let latencies = [run(), run()];
    let result = executor.submit_and_wait(Task::call(9, []), PATIENCE).unwrap();
    assert_eq!((result.success, result.execution_latency_ns), (false, 0));
    let stats = executor.stats();
    assert_eq!((stats.tasks_executed.load(Relaxed), stats.tasks_failed.load(Relaxed)), (3, 1));
    assert_eq!(stats.min_latency_ns.load(Relaxed), *latencies.iter().min().unwrap());
}
