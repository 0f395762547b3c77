//! The engine inside one process: closures and registered handlers, run by threads of the program's own.
//!
//! [`TaskExecutor`] accepts [`Task`]s from any number of threads and runs them on its workers by the same dispatch loop as
//! a sidecar. Each thread that submits has lanes of its own, one for each priority it uses, so that submitting takes no
//! lock and allocates nothing but what the closure needs.
//!
//! # What is promised
//! - An accepted task runs once, also when the executor is shut down or dropped right afterwards, unless the process ends.
//! - A task of priority `Critical` waits for at most the task that each worker is running.
//! - A task of a lower priority is passed over by at most [`PASS_OVER_LIMIT`](crate::worker::PASS_OVER_LIMIT) tasks of higher
//!   priorities on each worker before one of its priority begins.
//! - Tasks of one thread and one priority are taken up in the order they were submitted: with one worker they run in it, with
//!   several one may overtake another on its way. Threads of one priority take turns.
//! - At most `max_queue_depth` tasks are accepted and not finished, and fewer are never refused.
//! - A result is kept until it is read, or until `max_queue_depth` newer ones came; who waits already gets it all the same.

mod account;
mod beds;
mod claim;
mod config;
mod depth;
mod engine;
mod lane;
mod node;
mod outcome;
mod refusal;
mod results;
mod seat;
mod server;
mod stats;
mod steward;
mod sync;
mod target;
mod ticket;
mod time;
mod wait;
mod work;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub use config::{DEPTH_MAX, ExecutorBuilder, ExecutorConfig, WORKERS_MAX};
pub use outcome::TaskResult;
pub use refusal::{BatchError, Error, InvalidConfig, Stuck};
pub use stats::ExecutorStats;
pub use target::{LatencyGoal, LatencyKind, LatencyTargetReport, SlowCause, SlowTask, TargetState};
pub use ticket::{Ticket, TicketError};
pub use time::{NanoTime, TimeSource, global_time_source};
pub use work::Task;

use crate::contract::TaskSpec;
use crate::meter;
use crate::task::{Priority, TaskId};
use engine::Engine;
use results::{Found, Outcome};

/// Runs tasks on threads of its own. Share it in an [`Arc`] among any number of threads.
///
/// ```
/// use std::time::Duration;
///
/// use executor_core::{Error, ExecutorConfig, Priority, Task, TaskExecutor};
///
/// # fn main() -> Result<(), Error> {
/// # // A machine that is loaded may take longer, which is no fault of the program.
/// #     match program() { Err(Error::Timeout { .. }) => Ok(()), end => end }
/// # }
/// # fn program() -> Result<(), Error> {
/// let executor = TaskExecutor::new(ExecutorConfig::default())?;
/// let task = Task::new("add", Priority::High, move || {
///     assert_eq!(1 + 1, 2);
///     Ok(())
/// });
/// let task_id = executor.submit_task(task)?;
/// let result = executor.wait_for_completion(task_id, Duration::from_millis(100))?;
/// println!("Execution latency: {} ns", result.execution_latency_ns);
/// # assert!(result.success);
/// executor.shutdown()
/// # }
/// ```
///
/// Dropped without [`shutdown`](Self::shutdown) it accepts nothing more and does not wait: its threads run what was accepted
/// and end.
pub struct TaskExecutor {
    engine: Arc<Engine>,
}

impl TaskExecutor {
    /// An executor with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting that cannot be, [`Error::Runtime`] where the system refuses a thread.
    pub fn new(config: ExecutorConfig) -> Result<Self, Error> {
        Self::builder(config).build()
    }

    /// Sets up what [`ExecutorConfig`] has no field for.
    pub fn builder(config: ExecutorConfig) -> ExecutorBuilder {
        ExecutorBuilder::new(config)
    }

    fn start(builder: ExecutorBuilder) -> Result<Self, Error> {
        Ok(Self { engine: steward::start(builder)? })
    }

    /// Accepts a task. Never blocks and takes no lock, but for the first task of a thread and priority.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] while `max_queue_depth` tasks are accepted and not finished, [`Error::ShutDown`] after
    /// [`close`](Self::close); both hold the task.
    #[inline]
    pub fn submit_task(&self, task: Task) -> Result<TaskId, Error> {
        let id = task.id;
        self.engine.submit(task, false).map(|_| id)
    }

    /// Accepts tasks in order for the price of a single wake-up, as many as there is room for.
    ///
    /// # Errors
    ///
    /// [`BatchError`] with the ids of those that were accepted and with all others, so the iterator must have an end.
    pub fn submit_batch(&self, tasks: impl IntoIterator<Item = Task>) -> Result<Vec<TaskId>, BatchError> {
        /// Wakes workers for what was pushed, also when the iterator unwinds.
        struct Pushed<'a>(&'a Engine, u64);
        impl Drop for Pushed<'_> {
            fn drop(&mut self) {
                if self.1 > 0 {
                    self.0.wake_for(self.1);
                }
            }
        }
        let mut tasks = tasks.into_iter();
        let mut accepted = Vec::with_capacity(tasks.size_hint().0.min(self.engine.terms.depth)); // the hint may be anything
        let mut refused = None;
        let mut pushed = Pushed(&self.engine, 0);
        for task in tasks.by_ref() {
            let id = task.id;
            if let Err(error) = self.engine.accept(task) {
                refused = Some(error);
                break;
            }
            if accepted.is_empty() {
                self.engine.wake_for(1); // one may begin while the others are still made
            } else {
                pushed.1 += 1;
            }
            accepted.push(id);
        }
        drop(pushed);
        match refused {
            None => Ok(accepted),
            Some(refusal) => {
                let mut rest = Vec::new();
                tasks.for_each(|task| rest.push(task)); // one by one: `collect` would believe the hint
                Err(BatchError { accepted, rest, refusal })
            }
        }
    }

    /// Accepts a task and waits for its result.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use executor_core::{Error, ExecutorConfig, Priority, Task, TaskExecutor};
    /// # fn main() -> Result<(), Error> {
    /// # // A machine that is loaded may take longer, which is no fault of the program.
    /// #     match program() { Err(Error::Timeout { .. }) => Ok(()), end => end }
    /// # }
    /// # fn program() -> Result<(), Error> {
    /// # let executor = TaskExecutor::new(ExecutorConfig::default())?;
    /// # let task = Task::new("critical", Priority::Critical, || Ok(()));
    /// let result = executor.submit_and_wait(task, Duration::from_millis(10))?;
    /// if result.success {
    ///     println!("Task completed in {} ns", result.total_latency_ns);
    /// } else {
    ///     println!("Task failed: {:?}", result.error);
    /// }
    /// # assert!(result.success);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`submit_task`](Self::submit_task) and of [`wait_for_completion`](Self::wait_for_completion).
    #[inline]
    pub fn submit_and_wait(&self, task: Task, timeout: Duration) -> Result<TaskResult, Error> {
        let id = task.id;
        let place = self.engine.submit(task, true)?;
        let found = self.engine.wait_in(place, id, timeout)?;
        self.result(id, found)
    }

    /// Waits until a task has finished, and takes its result, which is handed out once. A zero `timeout` only looks; one
    /// past some centuries is for ever. It waits as [`ExecutorBuilder::idle`] says.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`]: the task goes on, and its result can be waited for again. [`Error::UnknownOrExpired`],
    /// [`Error::AlreadyRead`], and inside a task [`Error::WouldDeadlock`].
    pub fn wait_for_completion(&self, task_id: TaskId, timeout: Duration) -> Result<TaskResult, Error> {
        let found = self.engine.wait(task_id, timeout)?;
        self.result(task_id, found)
    }

    fn result(&self, task_id: TaskId, found: Found) -> Result<TaskResult, Error> {
        match found {
            Found::Ended(outcome) => Ok(self.told(task_id, outcome)),
            Found::AlreadyRead => Err(Error::AlreadyRead { task_id }),
            Found::Unknown => Err(Error::UnknownOrExpired { task_id, kept: self.engine.terms.depth }),
            Found::Pending(_) => Err(Error::Timeout { task_id, waited: Duration::ZERO }),
            Found::Crowded => Err(Error::Runtime {
                what: "65,535 threads wait for this task already",
                source: std::io::ErrorKind::QuotaExceeded.into(),
            }),
        }
    }

    fn told(&self, task_id: TaskId, outcome: Outcome) -> TaskResult {
        let Outcome { submitted_at, started_at, completed_at, error } = outcome;
        let time = self.engine.time();
        let [submitted, started, completed] = time.moments([submitted_at, started_at, completed_at]);
        let length = |from: u64| time.clock().ticks_to_ns(completed_at.saturating_sub(from));
        TaskResult {
            task_id,
            submitted_at: submitted,
            started_at: started,
            completed_at: completed,
            execution_latency_ns: length(started_at),
            total_latency_ns: length(submitted_at),
            success: error.is_none(),
            error: error.map(String::from),
        }
    }

    /// Runs a closure and gives its value to whoever holds the ticket.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use executor_core::{ExecutorConfig, TaskExecutor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let executor = TaskExecutor::new(ExecutorConfig::default())?;
    /// let ticket = executor.submit_with_result(|| "42".parse::<u32>())?;
    /// assert_eq!(ticket.wait(Duration::from_secs(5))?, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`submit_task`](Self::submit_task).
    pub fn submit_with_result<T, E, F>(&self, closure: F) -> Result<Ticket<T, E>, Error>
    where
        F: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.submit_with_result_as("closure", Priority::Normal, closure)
    }

    /// The same with a name and a priority.
    ///
    /// # Errors
    ///
    /// Those of [`submit_task`](Self::submit_task).
    pub fn submit_with_result_as<T, E, F>(
        &self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        priority: Priority,
        closure: F,
    ) -> Result<Ticket<T, E>, Error>
    where
        F: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let (task, ticket) = ticket::of_closure(name.into(), priority, closure, &self.engine);
        self.submit_task(task)?;
        Ok(ticket)
    }

    /// Calls a registered handler, for the bytes of its response.
    ///
    /// # Errors
    ///
    /// Those of [`submit_task`](Self::submit_task).
    pub fn submit_call(&self, task: Task) -> Result<Ticket<Vec<u8>>, Error> {
        let (task, ticket) = ticket::of_call(task, &self.engine, |bytes| Some(bytes.to_vec()));
        self.submit_task(task)?;
        Ok(ticket)
    }

    /// Calls a registered handler by its contract.
    ///
    /// # Errors
    ///
    /// Those of [`submit_task`](Self::submit_task).
    pub fn submit_typed<S: TaskSpec>(&self, args: &S::Args) -> Result<Ticket<S::Output>, Error>
    where
        S::Output: Send,
    {
        let read = |bytes: &[u8]| bytemuck::checked::try_pod_read_unaligned(bytes).ok();
        let (task, ticket) = ticket::of_call(Task::typed::<S>(args), &self.engine, read);
        self.submit_task(task)?;
        Ok(ticket)
    }

    /// What it has done so far. Costs some ten loads a worker.
    ///
    /// ```
    /// # use std::sync::atomic::Ordering;
    /// # use executor_core::{ExecutorConfig, TaskExecutor};
    /// # fn main() -> Result<(), executor_core::Error> {
    /// # let executor = TaskExecutor::new(ExecutorConfig::default())?;
    /// let stats = executor.stats();
    /// println!("Average latency: {} ns", stats.avg_latency_ns.load(Ordering::Relaxed));
    /// if !executor.is_meeting_latency_target() {
    ///     println!("Warning: average latency exceeds target!");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> ExecutorStats {
        let clock = self.engine.time().clock();
        let (mut executed, mut failed, mut ticks) = (0u64, 0u64, 0u64);
        let (mut min, mut max, mut active) = (u64::MAX, 0u64, 0u64);
        for account in &self.engine.accounts {
            executed += account.executed.load(Relaxed);
            failed += account.failed.load(Relaxed);
            ticks = ticks.wrapping_add(account.run_ticks.load(Relaxed));
            min = min.min(account.min_ticks.load(Relaxed));
            max = max.max(account.max_ticks.load(Relaxed));
            active += u64::from(account.running.load(Relaxed) != 0);
        }
        let min = if min == u64::MAX { 0 } else { min };
        let total_ns = clock.ticks_to_ns(ticks);
        ExecutorStats {
            tasks_executed: executed.into(),
            tasks_failed: failed.into(),
            total_execution_time_ns: total_ns.into(),
            min_latency_ns: clock.ticks_to_ns(min).into(),
            max_latency_ns: clock.ticks_to_ns(max).into(),
            avg_latency_ns: total_ns.checked_div(executed).unwrap_or(0).into(),
            active_workers: active.into(),
        }
    }

    /// Whether the tasks of the last second were as fast as [`target_latency_ns`](ExecutorConfig::target_latency_ns) wants,
    /// by the [goal](ExecutorBuilder::latency_goal) in force: 99 % of them, by the time they ran, if no other was chosen.
    /// Exact: the tasks above the target are counted.
    ///
    /// `true` where nothing speaks against it: no task finished of late, or timing is off, which
    /// [`latency_target_report`](Self::latency_target_report) tells apart. Costs some thirty loads a worker.
    pub fn is_meeting_latency_target(&self) -> bool {
        self.engine.target_state() != TargetState::Missed
    }

    /// The figure behind [`is_meeting_latency_target`](Self::is_meeting_latency_target), and the reasons. Costs some ten
    /// thousand loads a worker.
    pub fn latency_target_report(&self) -> LatencyTargetReport {
        self.engine.report()
    }

    /// Tasks that have been running for longer than [`ExecutorBuilder::stuck_after`], the longest first.
    pub fn stuck_tasks(&self) -> Vec<Stuck> {
        self.engine.running(self.engine.terms.stuck_after)
    }

    /// Sleeps of workers that ended by themselves, after a second, while a task was waiting: wake-ups that were lost. 0, or
    /// something is wrong with this library.
    pub fn lost_wakes(&self) -> u64 {
        let Engine { meter, layout, .. } = &*self.engine;
        let word = |worker| layout.worker(worker) + meter::WorkerWord::Overslept as usize;
        (0..self.engine.terms.workers).map(|worker| meter::read(meter, word(worker))).sum()
    }

    /// What the system refused that is not needed to run, such as [real-time scheduling](ExecutorBuilder::real_time), each
    /// with the reason and the cure. They are logged as well.
    pub fn warnings(&self) -> Vec<String> {
        self.engine.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Tasks accepted and not finished, running ones included.
    pub fn queue_depth(&self) -> usize {
        self.engine.depth.waiting() as usize
    }

    /// Accepts nothing more. What was accepted runs. For who holds an [`Arc`]; may be called again and from inside a task.
    pub fn close(&self) {
        self.engine.close();
    }

    /// Accepts nothing more, runs what was accepted, and ends all threads. Waits for as long as that takes.
    ///
    /// # Errors
    ///
    /// [`Error::WouldDeadlock`] inside a task, a waker or a callback of this executor: the executor is closed and ends without the wait.
    pub fn shutdown(self) -> Result<(), Error> {
        self.end(None)
    }

    /// The same within a time. Who holds an [`Arc`] may call it too.
    ///
    /// # Errors
    ///
    /// [`Error::Stuck`] names the tasks that did not end. Their threads are left to them, as are tasks that wait behind
    /// where there is no other worker; everything ends once they do.
    pub fn shutdown_timeout(&self, timeout: Duration) -> Result<(), Error> {
        self.end(Some(timeout))
    }

    fn end(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.engine.close();
        if wait::is_thread_of(&self.engine) {
            return Err(Error::WouldDeadlock);
        }
        let begun = Instant::now();
        if self.engine.wait_for_news(timeout, |news| news.ended).ended {
            return Ok(());
        }
        let tasks = self.engine.running(Duration::ZERO);
        let queued = self.engine.depth.waiting().saturating_sub(tasks.len() as u64);
        Err(Error::Stuck { tasks, queued, waited: begun.elapsed() })
    }
}

impl Drop for TaskExecutor {
    fn drop(&mut self) {
        self.engine.close();
    }
}

impl fmt::Debug for TaskExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskExecutor")
            .field("workers", &self.engine.terms.workers)
            .field("queue_depth", &self.queue_depth())
            .finish_non_exhaustive()
    }
}
