//! How one task ended.

use super::refusal::Error;
use super::time::NanoTime;
use crate::task::TaskId;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResult {
    /// The task.
    pub task_id: TaskId,
    /// When it was submitted. Moments are of `CLOCK_MONOTONIC`, within some 100 ns, and 0 with timing off.
    pub submitted_at: NanoTime,
    /// When a worker began with it.
    pub started_at: NanoTime,
    /// When it had ended.
    pub completed_at: NanoTime,
    /// Nanoseconds from begin to end; 0 with timing off.
    pub execution_latency_ns: u64,
    /// Nanoseconds from submit to end; 0 with timing off.
    pub total_latency_ns: u64,
    /// Whether it returned `Ok`.
    pub success: bool,
    /// What it said if it failed: the error's text, or the panic's.
    pub error: Option<String>,
}

impl TaskResult {
    /// The result if the task succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::TaskFailed`] with what it said.
    pub fn into_success(self) -> Result<Self, Error> {
        if self.success {
            return Ok(self);
        }
        Err(Error::TaskFailed { task_id: self.task_id, message: self.error.unwrap_or_default() })
    }
}
