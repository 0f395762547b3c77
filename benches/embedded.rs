//! The executor inside one process: its worker has the second CPU, and times every task, as is the default.

use std::error::Error;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use executor_core::idle::IdleStrategy;
use executor_core::{ExecutorConfig, Priority, Task, TaskExecutor};

use crate::closures::Runner;
use crate::open_loop::{Lateness, Notes, paced};
use crate::rates::{Refused, count, insist, rate};

/// Longest wait for one closure.
const PATIENCE: Duration = Duration::from_secs(60);

/// An executor with one worker, and what else is the default.
pub(crate) struct Embedded(TaskExecutor);

impl Embedded {
    pub(crate) fn start(cpu: u32, idle: IdleStrategy) -> Result<Self, Box<dyn Error>> {
        let config = ExecutorConfig { worker_threads: 1, executor_cores: vec![cpu], ..ExecutorConfig::default() };
        Ok(Self(TaskExecutor::builder(config).idle(idle).build()?))
    }
}

/// Tasks that may be accepted and not finished.
pub(crate) fn depth() -> usize {
    ExecutorConfig::default().max_queue_depth
}

fn task(closure: impl FnOnce() + Send + 'static) -> Task {
    Task::new("closure", Priority::Normal, move || {
        closure();
        Ok(())
    })
}

impl Runner for Embedded {
    #[inline(always)]
    fn run(&mut self, closure: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn Error>> {
        let result = self.0.submit_and_wait(task(closure), PATIENCE)?;
        if result.success { Ok(()) } else { Err(result.error.unwrap_or_default().into()) }
    }
}

#[inline(always)]
fn try_submit(executor: &TaskExecutor, task: Task) -> Result<(), Refused<Task>> {
    match executor.submit_task(task) {
        Ok(_) => Ok(()),
        Err(executor_core::Error::QueueFull { task, .. }) => Err(Refused::Full(task)),
        Err(error) => Err(Refused::Ended(error.to_string())),
    }
}

/// Closures a second of so many submitters, into one worker that spins.
pub(crate) fn tasks_per_second(cpus: (u32, u32), submitters: usize, tasks: u64) -> Result<f64, Box<dyn Error>> {
    let Embedded(executor) = Embedded::start(cpus.1, IdleStrategy::Spin)?;
    let handles = vec![&executor; submitters];
    let (per_second, ran) =
        rate(cpus.0, tasks, handles, |executor| insist(task(count), |task| try_submit(executor, task)))?;
    executor.shutdown_timeout(PATIENCE)?; // a task is counted after its closure has returned
    let stats = executor.stats();
    let counted = [&stats.tasks_executed, &stats.tasks_failed].map(|count| count.load(Relaxed));
    if counted == [ran, 0] {
        Ok(per_second)
    } else {
        Err(format!("{ran} closures ran, and the executor counts {counted:?} executed and failed").into())
    }
}

/// How late closures run that are submitted by the clock, and how many found the queue full.
pub(crate) fn lateness(cpus: (u32, u32), notes: &'static Notes) -> Result<(Lateness, u64), Box<dyn Error>> {
    let Embedded(executor) = Embedded::start(cpus.1, IdleStrategy::Spin)?;
    let measured = paced(notes, cpus.0, |due| task(move || due.run()), |task| try_submit(&executor, task))?;
    executor.shutdown_timeout(PATIENCE)?;
    Ok(measured)
}
