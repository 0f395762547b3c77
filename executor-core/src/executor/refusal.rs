//! Why a call of the executor failed.

use std::time::Duration;

use super::work::Task;
use crate::cpu::CpuError;
use crate::task::TaskId;

/// Why a call failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wait for a task to finish, or submit less. [`into_task`](Self::into_task) gives the task back.
    #[error("{depth} tasks are accepted and not finished, which is the limit")]
    QueueFull {
        /// The task that was not accepted.
        task: Task,
        /// The limit, [`max_queue_depth`](super::ExecutorConfig::max_queue_depth).
        depth: usize,
    },
    /// The task ran and returned an error, or panicked.
    #[error("task {task_id} failed: {message}")]
    TaskFailed {
        /// The task.
        task_id: TaskId,
        /// What it said.
        message: String,
    },
    /// The task goes on, and its result can be waited for again.
    #[error("task {task_id} did not finish within {waited:?}")]
    Timeout {
        /// The task that was waited for.
        task_id: TaskId,
        /// How long.
        waited: Duration,
    },
    /// Tasks run that do not end: named, with how long they have been running.
    #[error("{} did not end within {waited:?}, {queued} more wait behind", Stuck::list(.tasks))]
    Stuck {
        /// The tasks that run.
        tasks: Vec<Stuck>,
        /// Tasks accepted that do not run yet.
        queued: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The system refused something the executor needs.
    #[error("{what}")]
    Runtime {
        /// What was refused.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The executor was shut down. [`into_task`](Self::into_task) gives the task back.
    #[error("the executor is shut down")]
    ShutDown {
        /// The task that was not accepted, if there is one.
        task: Option<Task>,
    },
    /// No task of this id was accepted here, or as many newer results have come as are kept.
    #[error("task {task_id} is unknown here, or its result was not read before {kept} newer ones came")]
    UnknownOrExpired {
        /// The task that was asked for.
        task_id: TaskId,
        /// Results that are kept.
        kept: usize,
    },
    /// A result is handed out once, and this one was.
    #[error("the result of task {task_id} was read already")]
    AlreadyRead {
        /// The task that was asked for.
        task_id: TaskId,
    },
    /// The caller is a task of this executor, and what it waits for could not run: all workers would be waiting.
    #[error("waiting here would leave no worker of this executor to go on")]
    WouldDeadlock,
    /// A setting cannot be.
    #[error("{0}")]
    InvalidConfig(#[from] InvalidConfig),
}

/// Tasks of a batch that were not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{} of the batch were accepted: {refusal}", .accepted.len())]
pub struct BatchError {
    /// Ids of the tasks that were accepted and will run, in order: the first ones.
    pub accepted: Vec<TaskId>,
    /// The others, in order, but for the one that `refusal` hands back.
    pub rest: Vec<Task>,
    /// Why; it holds the first task that was not accepted.
    #[source]
    pub refusal: Error,
}

/// A setting that cannot be, with the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// Leave `worker_threads` at its default for one on each CPU.
    #[error("worker_threads is 0, and somebody must do the work; {cpus} would be one on each cpu")]
    NoWorkers {
        /// CPUs this process may use.
        cpus: usize,
    },
    /// Choose fewer workers.
    #[error("worker_threads is {wanted}, more than {most}")]
    TooManyWorkers {
        /// What was asked for.
        wanted: usize,
        /// The most there can be.
        most: usize,
    },
    /// Choose a depth between the two.
    #[error("max_queue_depth is {wanted}, not within 1 and {most}")]
    Depth {
        /// What was asked for.
        wanted: usize,
        /// The most there can be.
        most: usize,
    },
    /// Choose CPUs this process may use.
    #[error("executor_cores: {0}")]
    Core(#[from] CpuError),
    /// A percentile lies above 0 and below 1, and a window between a millisecond and an hour.
    #[error("the latency goal is the {percentile} percentile over {window:?}, which cannot be counted")]
    Goal {
        /// What was asked for.
        percentile: f64,
        /// What was asked for.
        window: Duration,
    },
}

/// A task that runs and does not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// The worker it keeps busy.
    pub worker: usize,
    /// How long it has been running; with timing off, for how long it was seen running.
    pub running: Duration,
}

impl Stuck {
    fn list(tasks: &[Self]) -> String {
        let one = |task: &Self| format!("task {} (running for {:?})", task.name, task.running);
        if tasks.is_empty() {
            "what was accepted".to_owned()
        } else {
            tasks.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

impl Error {
    /// The task that was not accepted.
    pub fn into_task(self) -> Option<Task> {
        match self {
            Self::QueueFull { task, .. } => Some(task),
            Self::ShutDown { task } => task,
            _ => None,
        }
    }
}
