//! Shut down an executor that many threads share, and name a task that does not end.
//!
//! ```sh
//! cargo run --release -p executor-core --example shutdown
//! ```

#![deny(unsafe_code)]

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use executor_core::{Error, ExecutorConfig, Priority, Task, TaskExecutor};

fn main() -> Result<(), Box<dyn StdError>> {
    let config = ExecutorConfig { worker_threads: 2, ..ExecutorConfig::default() };
    let executor = Arc::new(TaskExecutor::new(config)?);
    let (accepted, ran) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));

    // Threads that submit until they are told that nothing more is accepted.
    let under_way = Arc::new(Barrier::new(5));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (executor, accepted, ran) = (Arc::clone(&executor), Arc::clone(&accepted), Arc::clone(&ran));
            let under_way = Arc::clone(&under_way);
            std::thread::spawn(move || {
                for number in 0.. {
                    let ran = Arc::clone(&ran);
                    let task = Task::new("count", Priority::Normal, move || {
                        ran.fetch_add(1, Relaxed);
                        Ok(())
                    });
                    match executor.submit_task(task) {
                        Ok(_) => drop(accepted.fetch_add(1, Relaxed)),
                        Err(Error::QueueFull { .. }) => std::thread::yield_now(),
                        Err(Error::ShutDown { .. }) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                    if number == 100 {
                        under_way.wait();
                    }
                }
                Ok(())
            })
        })
        .collect();
    under_way.wait();

    // A task that does not end by itself.
    let (open, opened) = channel::<()>();
    let stuck = Task::new("stuck", Priority::Critical, move || {
        let _ = opened.recv();
        Ok(())
    });
    let stuck = submit(&executor, stuck)?;

    // `close` and `shutdown_timeout` are for who holds an `Arc`; the last owner could also call `shutdown`.
    executor.close();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    match executor.shutdown_timeout(Duration::from_millis(50)) {
        Err(Error::Stuck { tasks, queued, waited }) => {
            for task in &tasks {
                println!("after {waited:?}: {} has been running for {:?}, {queued} wait", task.name, task.running);
            }
            assert!(tasks.iter().any(|task| task.task_id == stuck), "it is named");
        }
        other => return Err(format!("{other:?}, although a task is stuck").into()),
    }
    drop(open); // whatever it takes to have it end
    executor.shutdown_timeout(Duration::from_secs(60))?;
    let (accepted, ran) = (accepted.load(Relaxed), ran.load(Relaxed));
    println!("{accepted} tasks accepted, {ran} ran");
    if accepted == ran { Ok(()) } else { Err("accepted tasks are missing".into()) }
}

/// Submits it once there is room.
fn submit(executor: &TaskExecutor, mut task: Task) -> Result<executor_core::TaskId, Error> {
    loop {
        match executor.submit_task(task) {
            Err(Error::QueueFull { task: refused, .. }) => task = refused,
            other => return other,
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_accepted_runs_and_the_stuck_task_is_named() {
        super::main().unwrap();
    }
}
