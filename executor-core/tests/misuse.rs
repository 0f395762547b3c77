//! The executor in the hands of programs that do what they should not, or what nobody thought of: whatever they do to
//! themselves, its workers live, its counts stay right and it ends.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use executor_core::executor::TargetState;
use executor_core::idle::IdleStrategy;
use executor_core::{Error, ExecutorConfig, Priority, Task, TaskError, TaskExecutor, TaskId, TicketError};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(worker_threads: usize) -> ExecutorConfig {
    ExecutorConfig { worker_threads, ..ExecutorConfig::default() }
}

fn executor(worker_threads: usize) -> TaskExecutor {
    TaskExecutor::new(config(worker_threads)).unwrap()
}

fn nothing() -> Task {
    Task::new("nothing", Priority::Normal, || Ok(()))
}

/// Keeps a worker busy until the sender is dropped.
fn occupy(executor: &TaskExecutor) -> (TaskId, Sender<()>) {
    let (began, begun) = channel();
    let (open, opened) = channel::<()>();
    let task = Task::new("gate", Priority::Normal, move || {
        began.send(()).unwrap();
        let _ = opened.recv();
        Ok(())
    });
    let id = executor.submit_task(task).unwrap();
    begun.recv().unwrap();
    (id, open)
}

/// Waits until something holds, which must come.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

/// It still runs tasks, counted `executed` so many before, and ends.
#[track_caller]
fn lives_and_ends(executor: &TaskExecutor, executed: u64) {
    assert!(executor.submit_and_wait(nothing(), PATIENCE).unwrap().success);
    assert_eq!(executor.queue_depth(), 0);
    assert_eq!(executor.stats().tasks_executed.load(Relaxed), executed + 1);
    executor.shutdown_timeout(PATIENCE).unwrap();
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

#[test]
fn a_capture_that_panics_when_it_is_dropped_is_the_task_s_own_failure() {
    let executor = executor(1);
    let bomb = Bomb;
    let task = Task::new("bomb", Priority::Normal, move || {
        let _own = &bomb;
        Ok(())
    });
    let result = executor.submit_and_wait(task, PATIENCE).unwrap();
    assert_eq!((result.success, result.error.as_deref()), (false, Some("dropped")));
    lives_and_ends(&executor, 1);
}

#[test]
fn a_value_nobody_takes_that_panics_when_it_is_dropped_ends_no_worker() {
    let executor = executor(1);
    let (_, open) = occupy(&executor);
    let ticket = executor.submit_with_result(|| Ok::<_, TaskError>(Bomb)).unwrap();
    let id = ticket.task_id();
    drop(ticket); // so that the worker is the last to hold the value
    let ticket = executor.submit_with_result(|| Err::<(), _>(Bomb)).unwrap();
    let failed = ticket.task_id();
    drop(ticket);
    drop(open);
    assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
    assert!(!executor.wait_for_completion(failed, PATIENCE).unwrap().success);
    lives_and_ends(&executor, 3);
}

/// A panic whose own payload panics when it is dropped.
fn deep_panic() -> ! {
    std::panic::panic_any(Bomb)
}

#[test]
fn a_panic_whose_payload_panics_ends_no_worker() {
    let executor = executor(1);
    let task = Task::new("deep", Priority::Normal, || deep_panic());
    assert!(!executor.submit_and_wait(task, PATIENCE).unwrap().success);
    let ticket = executor.submit_with_result(|| -> Result<(), TaskError> { deep_panic() }).unwrap();
    assert!(matches!(ticket.wait(PATIENCE), Err(TicketError::Panicked(_))));
    lives_and_ends(&executor, 2);
}

/// A waker that does something.
struct Act<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Act<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(act: impl Fn() + Send + Sync + 'static) -> Waker {
    Arc::new(Act(act)).into()
}

#[test]
fn a_waker_that_panics_ends_no_worker_and_loses_no_value() {
    let executor = executor(1);
    for panics in [(|| panic!("woken")) as fn(), || deep_panic()] {
        let (_, open) = occupy(&executor);
        let mut ticket = executor.submit_with_result(|| Ok::<_, TaskError>(7)).unwrap();
        let id = ticket.task_id();
        assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker(panics))).is_pending());
        drop(open);
        executor.wait_for_completion(id, PATIENCE).unwrap();
        assert_eq!(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(7)));
    }
    lives_and_ends(&executor, 4);
}

#[test]
fn a_waker_may_submit_and_shut_down() {
    let executor = Arc::new(executor(2));
    let (_, open) = occupy(&executor);
    let (_, open_too) = occupy(&executor);
    let (inner, (tell, told)) = (Arc::clone(&executor), channel());
    let mut ticket = executor.submit_with_result(|| Ok::<_, TaskError>(1)).unwrap();
    let act = waker(move || {
        let submitted = inner.submit_task(nothing());
        let ended = inner.shutdown_timeout(Duration::ZERO);
        let _ = tell.send((submitted, ended));
    });
    assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&act)).is_pending());
    drop(open);
    let (submitted, ended) = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(ended, Err(Error::WouldDeadlock)), "{ended:?}");
    assert!(executor.wait_for_completion(submitted.unwrap(), PATIENCE).unwrap().success);
    drop(open_too);
    executor.shutdown_timeout(PATIENCE).unwrap();
}

#[test]
fn a_waker_may_wait_for_another_task_while_a_worker_is_left() {
    let executor = TaskExecutor::builder(config(2)).idle(IdleStrategy::Sleep).build().unwrap();
    let executor = Arc::new(executor);
    let (inner, (tell, told)) = (Arc::clone(&executor), channel());
    let (open, opened) = channel::<()>();
    let mut ticket = executor.submit_with_result(move || Ok::<_, TaskError>(opened.recv().is_err())).unwrap();
    let act = waker(move || drop(tell.send(inner.submit_and_wait(nothing(), PATIENCE))));
    assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&act)).is_pending());
    drop(open);
    assert!(told.recv_timeout(PATIENCE).unwrap().unwrap().success);
    until("it ends", || executor.queue_depth() == 0);
    lives_and_ends(&executor, 2);
}

#[test]
fn of_two_that_wait_for_one_task_one_gets_the_result_and_the_other_is_told() {
    let executor = executor(1);
    for _ in 0..50 {
        let (id, open) = occupy(&executor);
        let ready = Barrier::new(3);
        std::thread::scope(|scope| {
            let wait = || {
                ready.wait();
                executor.wait_for_completion(id, PATIENCE)
            };
            let waiters = [scope.spawn(wait), scope.spawn(wait)];
            ready.wait();
            drop(open);
            let ends = waiters.map(|waiter| waiter.join().unwrap());
            let got = ends.iter().filter(|end| end.as_ref().is_ok_and(|result| result.task_id == id)).count();
            let told = ends.iter().filter(|end| matches!(end, Err(Error::AlreadyRead { task_id }) if *task_id == id));
            assert_eq!((got, told.count()), (1, 1), "{ends:?}");
        });
    }
    lives_and_ends(&executor, 50);
}

/// Submits when its thread ends.
struct Last(Arc<TaskExecutor>, Sender<Result<TaskId, Error>>);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = self.1.send(self.0.submit_task(nothing()));
    }
}

thread_local! {
    static EARLY: RefCell<Option<Last>> = const { RefCell::new(None) };
    static LATE: RefCell<Option<Last>> = const { RefCell::new(None) };
}

#[test]
fn a_thread_may_submit_while_its_own_storage_is_taken_down() {
    let executor = Arc::new(executor(1));
    let (tell, told) = channel();
    for round in 0..20 {
        let (shared, tell) = (Arc::clone(&executor), tell.clone());
        // Storage goes in the order it came or the other way round: one of the two is before, one after the lanes'.
        let thread = std::thread::spawn(move || {
            EARLY.set(Some(Last(Arc::clone(&shared), tell.clone())));
            if round % 2 == 0 {
                shared.submit_task(nothing()).unwrap();
            }
            LATE.set(Some(Last(shared, tell)));
        });
        thread.join().unwrap();
        for _ in 0..2 {
            let id = told.recv_timeout(PATIENCE).unwrap().unwrap();
            assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
        }
    }
    until("all ended", || executor.queue_depth() == 0);
    lives_and_ends(&executor, 50);
}

#[test]
fn thousands_of_threads_at_once_are_served_and_leave_an_executor_that_ends() {
    const THREADS: usize = 1500;
    let executor = Arc::new(executor(3));
    let all = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (executor, all) = (Arc::clone(&executor), Arc::clone(&all));
            let run = move || {
                let id = executor.submit_task(nothing()).unwrap();
                all.wait(); // so that no lane can be handed on
                assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
            };
            std::thread::Builder::new().stack_size(64 * 1024).spawn(run).unwrap()
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    lives_and_ends(&executor, THREADS as u64);
}

#[test]
fn a_shutdown_inside_of_a_task_is_refused_and_ends_the_executor_all_the_same() {
    let (tell, told) = channel();
    let (alive, ended) = channel::<()>();
    let executor = executor(1);
    let own = Arc::new(Mutex::new(None::<TaskExecutor>));
    let taken = Arc::clone(&own);
    let (open, opened) = channel::<()>();
    let task = Task::new("ends it", Priority::Normal, move || {
        let _ = opened.recv();
        let executor = taken.lock().unwrap().take().unwrap();
        // Accepted before, so it runs.
        let behind = Task::new("behind", Priority::Normal, move || {
            drop(alive);
            Ok(())
        });
        executor.submit_task(behind)?;
        tell.send(executor.shutdown())?;
        Ok(())
    });
    executor.submit_task(task).unwrap();
    *own.lock().unwrap() = Some(executor);
    drop(open);
    let refused = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(Error::WouldDeadlock)), "{refused:?}");
    assert_eq!(ended.recv_timeout(PATIENCE), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn the_last_owner_may_be_a_task() {
    let executor = Arc::new(executor(2));
    let (tell, told) = channel();
    let (open, opened) = channel::<()>();
    let (inner, held) = (Arc::clone(&executor), Arc::new(()));
    let watch = Arc::downgrade(&held);
    let task = Task::new("owner", Priority::Normal, move || {
        let _ = opened.recv();
        let ran = inner.submit_and_wait(nothing(), PATIENCE);
        drop(inner);
        drop(held);
        tell.send(ran)?;
        Ok(())
    });
    executor.submit_task(task).unwrap();
    drop(executor);
    drop(open);
    assert!(told.recv_timeout(PATIENCE).unwrap().unwrap().success);
    // Nobody holds what it held any more: its threads have ended.
    until("the engine is gone", || watch.upgrade().is_none());
}

#[test]
fn a_ticket_is_not_waited_for_where_nobody_else_could_run_it() {
    let executor = Arc::new(executor(1));
    let inner = Arc::clone(&executor);
    let outer = executor
        .submit_with_result(move || {
            let mut ticket = inner.submit_with_result(|| Ok::<_, TaskError>(5)).unwrap();
            let refused = ticket.wait_timeout(PATIENCE);
            assert_eq!(refused, Err(TicketError::WouldDeadlock));
            Ok::<_, TaskError>(ticket)
        })
        .unwrap();
    let ticket = outer.wait(PATIENCE).unwrap();
    assert_eq!(ticket.wait(PATIENCE), Ok(5), "it is good outside of the task still");
    lives_and_ends(&executor, 2);
}

#[test]
fn a_ticket_may_be_waited_for_in_a_task_while_a_worker_is_left_and_in_one_of_another_executor() {
    let [one, other] = [2, 1].map(|workers| Arc::new(executor(workers)));
    let inner = Arc::clone(&one);
    let ticket = one
        .submit_with_result(move || inner.submit_with_result(|| Ok::<_, TaskError>(5)).unwrap().wait(PATIENCE))
        .unwrap();
    assert_eq!(ticket.wait(PATIENCE), Ok(5));
    let inner = Arc::clone(&one);
    let ticket = other
        .submit_with_result(move || inner.submit_with_result(|| Ok::<_, TaskError>(6)).unwrap().wait(PATIENCE))
        .unwrap();
    assert_eq!(ticket.wait(PATIENCE), Ok(6));
}

#[test]
fn a_callback_may_wait_for_tasks_and_its_shutdown_is_refused() {
    let own = Arc::new(OnceLock::<Arc<TaskExecutor>>::new());
    let (tell, told) = channel();
    let inner = Arc::clone(&own);
    let executor = TaskExecutor::builder(ExecutorConfig { target_latency_ns: 0, ..config(1) })
        .on_latency_target_change(move |report| {
            let Some(executor) = inner.get() else { return };
            let ran = executor.submit_and_wait(nothing(), PATIENCE);
            let ended = executor.shutdown_timeout(Duration::MAX);
            let _ = tell.send((report.state, ran, ended));
        })
        .build()
        .unwrap();
    let executor = Arc::new(executor);
    own.set(Arc::clone(&executor)).unwrap();
    let busy = Task::new("busy", Priority::Normal, || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(10) {}
        Ok(())
    });
    executor.submit_task(busy).unwrap();
    let (state, ran, ended) = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(state, TargetState::Missed);
    assert!(ran.unwrap().success);
    assert!(matches!(ended, Err(Error::WouldDeadlock)), "{ended:?}");
    executor.shutdown_timeout(PATIENCE).unwrap();
}

#[test]
fn a_batch_without_an_end_is_accepted_as_far_as_there_is_room() {
    let executor = TaskExecutor::new(ExecutorConfig { max_queue_depth: 10, ..config(1) }).unwrap();
    let (_, open) = occupy(&executor);
    let mut made = 0;
    let tasks = std::iter::repeat_with(|| {
        made += 1;
        nothing()
    });
    // Its size hint is the greatest there is; it ends after 100 all the same.
    let mut left = 100;
    let tasks = tasks.take_while(move |_| {
        left -= 1;
        left > 0
    });
    struct Endless<I>(I);
    impl<I: Iterator> Iterator for Endless<I> {
        type Item = I::Item;
        fn next(&mut self) -> Option<I::Item> {
            self.0.next()
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (usize::MAX, None)
        }
    }
    let error = executor.submit_batch(Endless(tasks)).unwrap_err();
    assert_eq!((error.accepted.len(), error.rest.len()), (9, 89));
    assert!(matches!(error.refusal, Error::QueueFull { depth: 10, .. }));
    drop(open);
    executor.shutdown_timeout(PATIENCE).unwrap();
    assert_eq!(executor.stats().tasks_executed.load(Relaxed), 10);
}

#[test]
fn a_batch_whose_iterator_submits_or_panics_loses_nothing_that_was_accepted() {
    let executor = executor(1);
    let count = AtomicUsize::new(0);
    let tasks = (0..10).map(|_| {
        executor.submit_task(nothing()).unwrap();
        assert!(count.fetch_add(1, Relaxed) < 5, "no more");
        nothing()
    });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| executor.submit_batch(tasks)));
    assert!(caught.is_err());
    until("all ended", || executor.queue_depth() == 0);
    lives_and_ends(&executor, 11);
}

#[test]
fn with_timing_off_all_times_are_0_and_the_target_is_unknown() {
    let executor = TaskExecutor::new(ExecutorConfig { enable_timing_metrics: false, ..config(2) }).unwrap();
    let failing = Task::new("fails", Priority::Normal, || Err(TaskError::new("no")));
    for task in [nothing(), failing] {
        let result = executor.submit_and_wait(task, PATIENCE).unwrap();
        let moments = [result.submitted_at, result.started_at, result.completed_at];
        assert_eq!(moments.map(|moment| moment.as_nanos()), [0; 3]);
        assert_eq!((result.execution_latency_ns, result.total_latency_ns), (0, 0));
    }
    let stats = executor.stats();
    assert_eq!((stats.tasks_executed.load(Relaxed), stats.tasks_failed.load(Relaxed)), (2, 1));
    let times = [stats.total_execution_time_ns, stats.min_latency_ns, stats.max_latency_ns, stats.avg_latency_ns];
    assert_eq!(times.map(AtomicU64::into_inner), [0; 4]);
    let report = executor.latency_target_report();
    assert_eq!((report.state, report.latency_ns, report.tasks), (TargetState::Unknown, 0, 0));
    assert!(executor.is_meeting_latency_target());
    // A task that is stuck is named all the same.
    let (id, open) = occupy(&executor);
    let Err(Error::Stuck { tasks, .. }) = executor.shutdown_timeout(Duration::ZERO) else { panic!() };
    assert_eq!(tasks.iter().map(|stuck| stuck.task_id).collect::<Vec<_>>(), [id]);
    drop(open);
    executor.shutdown_timeout(PATIENCE).unwrap();
}

#[test]
fn more_workers_than_cpus_that_spin_all_get_to_work() {
    let workers = executor_core::cpu::allowed_cpus().unwrap().len() * 4 + 1;
    let executor = TaskExecutor::builder(config(workers)).idle(IdleStrategy::Spin).build().unwrap();
    let meet = Arc::new(Barrier::new(workers));
    let task = |_| {
        let meet = Arc::clone(&meet);
        Task::new("meet", Priority::Normal, move || {
            meet.wait();
            Ok(())
        })
    };
    for id in executor.submit_batch((0..workers).map(task)).unwrap() {
        assert!(executor.wait_for_completion(id, PATIENCE).unwrap().success);
    }
    lives_and_ends(&executor, workers as u64);
}

#[test]
fn many_executors_at_once_keep_their_tasks_and_results_apart() {
    let executors: Vec<Arc<TaskExecutor>> = (0..40).map(|_| Arc::new(executor(2))).collect();
    let counts: Vec<AtomicU64> = executors.iter().map(|_| AtomicU64::new(0)).collect();
    let counts = Arc::new(counts);
    for round in 0..20 {
        let submit = |(index, executor): (usize, &Arc<TaskExecutor>)| {
            let counts = Arc::clone(&counts);
            let task = Task::new("count", Priority::ALL[round % 4], move || {
                counts[index].fetch_add(1, AcqRel);
                Ok(())
            });
            executor.submit_task(task).unwrap()
        };
        let ids: Vec<TaskId> = executors.iter().enumerate().map(submit).collect();
        for (index, executor) in executors.iter().enumerate() {
            let other = ids[(index + 1) % ids.len()];
            let unknown = executor.wait_for_completion(other, Duration::ZERO);
            assert!(matches!(unknown, Err(Error::UnknownOrExpired { .. })), "{unknown:?}");
            assert!(executor.wait_for_completion(ids[index], PATIENCE).unwrap().success);
        }
    }
    assert!(counts.iter().all(|count| count.load(Acquire) == 20));
    for executor in executors {
        lives_and_ends(&executor, 20);
    }
}

#[test]
fn extreme_settings_work_or_are_refused() {
    let extreme = ExecutorConfig { target_latency_ns: u64::MAX, max_queue_depth: 1, ..config(1) };
    let executor =
        TaskExecutor::builder(extreme).stuck_after(Duration::ZERO).response_bytes(usize::MAX).build().unwrap();
    for _ in 0..100 {
        let id = executor.submit_task(nothing()).unwrap();
        until("it ends", || match executor.wait_for_completion(id, Duration::ZERO) {
            Ok(result) => result.success,
            Err(Error::Timeout { waited: Duration::ZERO, .. }) => false,
            Err(error) => panic!("{error}"),
        });
    }
    assert!(executor.is_meeting_latency_target());
    executor.shutdown_timeout(Duration::MAX).unwrap();
    let executor = TaskExecutor::builder(config(1)).stuck_after(Duration::MAX).response_bytes(0).build().unwrap();
    assert!(executor.stuck_tasks().is_empty());
    executor.shutdown().unwrap();
    for (percentile, window) in
        [(f64::NAN, 1), (0.0, 1), (1.0, 1), (-1.0, 1), (0.5, 0), (0.5, u64::MAX), (f64::INFINITY, 1)]
    {
        let goal = executor_core::LatencyGoal { percentile, window: Duration::from_secs(window), ..Default::default() };
        let refused = TaskExecutor::builder(config(1)).latency_goal(goal).build();
        assert!(matches!(refused, Err(Error::InvalidConfig(_))), "{percentile} {window}");
    }
}

#[test]
fn a_payload_past_what_any_lane_takes_is_refused_and_never_cut() {
    let mut registry = executor_core::Registry::builder();
    registry.handler(1, "length", |_, request, response| {
        response.write_value(&(request.len() as u64));
        Ok(())
    });
    let executor = TaskExecutor::builder(config(1)).registry(registry.build().unwrap()).build().unwrap();
    let longest = executor_core::record::LENGTH_MAX;
    for length in [0, 32, 33, longest] {
        let ticket = executor.submit_call(Task::call(1, vec![1; length])).unwrap();
        assert_eq!(ticket.wait(PATIENCE), Ok((length as u64).to_le_bytes().to_vec()));
    }
    for length in [longest + 1, 1 << 24, (1 << 24) + 8, 1 << 25] {
        let ticket = executor.submit_call(Task::call(1, vec![1; length])).unwrap();
        let status = executor_core::Status::Malformed(executor_core::status::Malformed::TooLong);
        assert_eq!(ticket.wait(PATIENCE), Err(TicketError::Unanswered { status }), "{length}");
    }
    lives_and_ends(&executor, 8);
}

#[test]
fn handlers_whose_state_panics_when_it_is_made_or_dropped_hurt_nobody() {
    let mut registry = executor_core::Registry::builder();
    registry.add(executor_core::Handler::per_worker(1, "made", |worker| {
        assert_ne!(worker, 1, "the second worker's state cannot be made");
        |_, _, _| Ok(())
    }));
    let registry = registry.build().unwrap();
    let refused = TaskExecutor::builder(config(3)).registry(registry.clone()).build();
    assert!(matches!(refused, Err(Error::Runtime { .. })), "{refused:?}");
    lives_and_ends(&TaskExecutor::builder(config(1)).registry(registry).build().unwrap(), 0);

    let mut registry = executor_core::Registry::builder();
    registry.add(executor_core::Handler::per_worker(1, "dropped", |_| {
        let bomb = Bomb;
        move |_, _, _| {
            let _own = &bomb;
            panic!("the handler broke")
        }
    }));
    let executor = TaskExecutor::builder(config(2)).registry(registry.build().unwrap()).build().unwrap();
    for _ in 0..3 {
        let ticket = executor.submit_call(Task::call(1, [])).unwrap();
        assert_eq!(ticket.wait(PATIENCE), Err(TicketError::Panicked("the handler broke".to_owned())));
    }
    until("all ended", || executor.queue_depth() == 0);
    lives_and_ends(&executor, 3);
}

#[test]
fn who_polls_a_ticket_after_its_value_is_told_so() {
    let executor = executor(1);
    let mut ticket = executor.submit_with_result(|| Ok::<_, TaskError>(1)).unwrap();
    until("it finishes", || ticket.is_finished());
    assert_eq!(ticket.wait_timeout(Duration::ZERO), Ok(1));
    assert_eq!(ticket.wait_timeout(Duration::ZERO), Err(TicketError::Taken));
    let again = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(again, Poll::Ready(Err(TicketError::Taken)));
}

#[test]
fn a_task_that_submits_when_it_is_dropped_unrun_hurts_nobody() {
    struct Chain(Arc<TaskExecutor>, Arc<AtomicU64>);
    impl Drop for Chain {
        fn drop(&mut self) {
            self.1.fetch_add(1, AcqRel);
            let _ = self.0.submit_task(nothing());
        }
    }
    let executor = Arc::new(TaskExecutor::new(ExecutorConfig { max_queue_depth: 1, ..config(1) }).unwrap());
    let dropped = Arc::new(AtomicU64::new(0));
    let (_, open) = occupy(&executor);
    for _ in 0..10 {
        let chain = Chain(Arc::clone(&executor), Arc::clone(&dropped));
        let task = Task::new("chain", Priority::Normal, move || {
            let _own = &chain;
            Ok(())
        });
        let error = executor.submit_task(task).unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }));
    }
    assert_eq!(dropped.load(Acquire), 10);
    drop(open);
    until("it ends", || executor.queue_depth() == 0);
    lives_and_ends(&executor, 1);
}
