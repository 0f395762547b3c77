//! The shortest program: run a closure on a worker and look at what became of it.
//!
//! ```sh
//! cargo run --release -p executor-core --example closure
//! ```

#![deny(unsafe_code)]

use std::time::Duration;

use executor_core::{Error, ExecutorConfig, Priority, Task, TaskError, TaskExecutor};

fn main() -> Result<(), Error> {
    let executor = TaskExecutor::new(ExecutorConfig::default())?;

    let task = Task::new("sum", Priority::High, move || {
        println!("the sum of 1 to 100 is {}", (1..=100).sum::<u32>());
        Ok(())
    });
    let task_id = executor.submit_task(task)?;
    let result = executor.wait_for_completion(task_id, Duration::from_secs(60))?;
    println!("task {task_id} took {} ns", result.execution_latency_ns);
    let sum_succeeded = result.success;

    // An error and a panic are results as well, and the worker lives on.
    let failing = Task::new("find", Priority::Normal, || Err(TaskError::new("there is no such order")));
    let result = executor.submit_and_wait(failing, Duration::from_secs(60))?;
    if let Some(text) = &result.error {
        println!("task {} failed: {text}", result.task_id);
    }
    assert!(sum_succeeded && !result.success);
    executor.shutdown()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_closure_runs_and_a_failure_is_told() {
        super::main().unwrap();
    }
}
