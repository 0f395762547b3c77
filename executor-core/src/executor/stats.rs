//! What an executor has done.

use std::sync::atomic::AtomicU64;

/// What an executor has done since it was made: a copy, whose words are atomics for the convenience of its readers.
///
/// A task counts before its result can be read. Latency is the time from a task's begin to its end; all times are 0 with
/// timing off and before the first task.
#[derive(Debug, Default)]
pub struct ExecutorStats {
    /// Tasks finished, failed ones included.
    pub tasks_executed: AtomicU64,
    /// Tasks that returned an error, panicked or could not run.
    pub tasks_failed: AtomicU64,
    /// Nanoseconds spent in tasks, over all workers.
    pub total_execution_time_ns: AtomicU64,
    /// The shortest latency.
    pub min_latency_ns: AtomicU64,
    /// The longest latency.
    pub max_latency_ns: AtomicU64,
    /// The mean latency.
    pub avg_latency_ns: AtomicU64,
    /// Workers that run a task at this moment.
    pub active_workers: AtomicU64,
}
