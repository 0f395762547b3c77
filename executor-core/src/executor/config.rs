//! How an executor is set up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::TaskExecutor;
use super::engine::Terms;
use super::refusal::{Error, InvalidConfig};
use super::target::{LatencyGoal, LatencyTargetReport};
use crate::cpu::{allowed_cpus, check};
use crate::idle::IdleStrategy;
use crate::real_time::RealTime;
use crate::registry::Registry;

/// Most workers of one executor.
pub const WORKERS_MAX: usize = 1024;
/// Greatest [`max_queue_depth`](ExecutorConfig::max_queue_depth).
pub const DEPTH_MAX: usize = 1 << 22;

/// What every executor is told. Everything else goes through [`TaskExecutor::builder`].
///
/// ```
/// use executor_core::ExecutorConfig;
///
/// let config = ExecutorConfig { worker_threads: 2, ..ExecutorConfig::default() };
/// assert_eq!((config.max_queue_depth, config.target_latency_ns), (10_000, 5_000));
/// ```
///
/// A scheduler of one's own sets up the executor that it keeps:
///
/// ```
/// # use executor_core::{Error, ExecutorConfig, Priority, Task, TaskExecutor, TaskId};
/// # #[derive(Default)]
/// # struct CausalityGraph(std::collections::HashMap<TaskId, Vec<TaskId>>);
/// # impl CausalityGraph {
/// #     fn add_task(&mut self, task: TaskId, dependencies: Vec<TaskId>) { self.0.insert(task, dependencies); }
/// # }
/// pub struct TaskScheduler {
///     executor: TaskExecutor,
///     causality_graph: CausalityGraph,
/// }
///
/// impl TaskScheduler {
///     pub fn new() -> Result<Self, Error> {
///         let executor = TaskExecutor::new(ExecutorConfig {
///             worker_threads: 4,
///             max_queue_depth: 10_000,
///             target_latency_ns: 2_000,
///             enable_timing_metrics: true,
///             executor_cores: vec![],
///         })?;
///         Ok(Self { executor, causality_graph: CausalityGraph::default() })
///     }
///
///     pub fn submit(&mut self, task: Task) -> Result<TaskId, Error> {
///         let task_id = self.executor.submit_task(task)?;
///         self.causality_graph.add_task(task_id, vec![]);
///         Ok(task_id)
///     }
/// }
/// # let mut scheduler = TaskScheduler::new()?;
/// # let task_id = scheduler.submit(Task::new("first", Priority::Normal, || Ok(())))?;
/// # assert!(scheduler.executor.wait_for_completion(task_id, std::time::Duration::from_secs(60))?.success);
/// # assert_eq!(scheduler.causality_graph.0.get(&task_id), Some(&vec![]));
/// # Ok::<(), Error>(())
/// ```
///
/// The example `scheduler` releases tasks when what they depend on is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// The most threads that run tasks; idle ones sleep. By default one for each CPU this process may use; more than that
    /// share them. 0 is refused. At most [`WORKERS_MAX`].
    pub worker_threads: usize,
    /// The most tasks that are accepted and not finished, running ones included: exactly. As many results of finished
    /// tasks are kept for whoever waits. By default 10,000; 1 to [`DEPTH_MAX`]. It takes 200 to 400 bytes for each
    /// at the start, 2 MiB by default.
    pub max_queue_depth: usize,
    /// The latency that tasks are meant to keep, in nanoseconds; by default 5,000. It changes nothing about how they run:
    /// see [`TaskExecutor::is_meeting_latency_target`].
    pub target_latency_ns: u64,
    /// Whether tasks are timed; by default they are. Three readings of the clock a task, some 10 ns each. Without, all
    /// times of results and statistics are 0, and whether the latency target is met is unknown.
    pub enable_timing_metrics: bool,
    /// CPUs that workers are pinned to: worker `i` to the `i`-th, going round where there are more workers than CPUs; CPUs
    /// past the workers are not used. By default there is none, and workers run where the system puts them.
    pub executor_cores: Vec<u32>,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            worker_threads: cpus(),
            max_queue_depth: 10_000,
            target_latency_ns: 5_000,
            enable_timing_metrics: true,
            executor_cores: Vec::new(),
        }
    }
}

fn cpus() -> usize {
    allowed_cpus().map_or(1, |cpus| cpus.len().clamp(1, WORKERS_MAX))
}

/// Called on each change of [`TaskExecutor::is_meeting_latency_target`].
pub(crate) type OnChange = Arc<dyn Fn(&LatencyTargetReport) + Send + Sync>;

/// Sets up an executor beyond [`ExecutorConfig`].
#[derive(Clone)]
pub struct ExecutorBuilder {
    pub(crate) config: ExecutorConfig,
    pub(crate) registry: Option<Registry>,
    pub(crate) idle: Option<IdleStrategy>,
    pub(crate) goal: LatencyGoal,
    pub(crate) response_bytes: usize,
    pub(crate) stuck_after: Duration,
    pub(crate) on_change: Option<OnChange>,
    pub(crate) real_time: Option<RealTime>,
    pub(crate) sysfs: PathBuf,
}

impl ExecutorBuilder {
    pub(crate) fn new(config: ExecutorConfig) -> Self {
        Self {
            config,
            registry: None,
            idle: None,
            goal: LatencyGoal::default(),
            response_bytes: 4096,
            stuck_after: Duration::from_secs(1),
            on_change: None,
            real_time: None,
            sysfs: PathBuf::from("/sys"),
        }
    }

    /// Handlers that [`Task::call`](super::Task::call) can name; none by default.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// What workers and waiting threads do while there is nothing to do: by default [`IdleStrategy::Adaptive`], or
    /// [`IdleStrategy::Sleep`] where there is a single CPU.
    #[must_use]
    pub fn idle(mut self, idle: IdleStrategy) -> Self {
        self.idle = Some(idle);
        self
    }

    /// What it takes to meet the latency target: by default 99 % of the execution times of the last second.
    #[must_use]
    pub fn latency_goal(mut self, goal: LatencyGoal) -> Self {
        self.goal = goal;
        self
    }

    /// Longest response of a registered handler in bytes, by default 4,096; longer ones fail, and the text of a failure is cut.
    /// 24 always fit.
    #[must_use]
    pub fn response_bytes(mut self, bytes: usize) -> Self {
        self.response_bytes = bytes;
        self
    }

    /// Has workers scheduled before every thread that is not real-time. Where the system refuses that the executor runs
    /// without, and [says so](TaskExecutor::warnings). A worker that spins keeps its CPU from everybody: let it sleep.
    #[must_use]
    pub fn real_time(mut self, real_time: RealTime) -> Self {
        self.real_time = Some(real_time);
        self
    }

    /// Where the machine's NUMA nodes are read, by default `/sys`.
    #[must_use]
    pub fn sysfs(mut self, root: impl Into<PathBuf>) -> Self {
        self.sysfs = root.into();
        self
    }

    /// How long a task runs before it is reported as stuck, by default a second.
    #[must_use]
    pub fn stuck_after(mut self, time: Duration) -> Self {
        self.stuck_after = time;
        self
    }

    /// Has `callback` called, on a thread of the executor's own, whenever the latency target is met or missed anew. It is
    /// looked at ten times a second while there is work.
    #[must_use]
    pub fn on_latency_target_change(mut self, callback: impl Fn(&LatencyTargetReport) + Send + Sync + 'static) -> Self {
        self.on_change = Some(Arc::new(callback));
        self
    }

    /// Starts the executor.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting that cannot be, [`Error::Runtime`] where the system refuses a thread.
    pub fn build(self) -> Result<TaskExecutor, Error> {
        TaskExecutor::start(self)
    }

    /// What the settings come to.
    pub(crate) fn terms(&self) -> Result<Terms, InvalidConfig> {
        let Self { config, goal, .. } = self;
        match config.worker_threads {
            0 => return Err(InvalidConfig::NoWorkers { cpus: cpus() }),
            wanted if wanted > WORKERS_MAX => {
                return Err(InvalidConfig::TooManyWorkers { wanted, most: WORKERS_MAX });
            }
            _ => {}
        }
        if !(1..=DEPTH_MAX).contains(&config.max_queue_depth) {
            return Err(InvalidConfig::Depth { wanted: config.max_queue_depth, most: DEPTH_MAX });
        }
        for &cpu in &config.executor_cores {
            check(cpu)?;
        }
        let LatencyGoal { percentile, window, .. } = *goal;
        let windows = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !(percentile > 0.0 && percentile < 1.0 && windows.contains(&window)) {
            return Err(InvalidConfig::Goal { percentile, window });
        }
        Ok(Terms {
            workers: config.worker_threads,
            depth: config.max_queue_depth,
            target_ns: config.target_latency_ns,
            timed: config.enable_timing_metrics,
            idle: self.idle.unwrap_or_else(|| IdleStrategy::default_on(cpus())),
            goal: *goal,
            response_bytes: self.response_bytes,
            stuck_after: self.stuck_after,
            real_time: self.real_time,
        })
    }
}

impl std::fmt::Debug for ExecutorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { config, idle, goal, .. } = self;
        f.debug_struct("ExecutorBuilder")
            .field("config", config)
            .field("idle", idle)
            .field("goal", goal)
            .finish_non_exhaustive()
    }
}
