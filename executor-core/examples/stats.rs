//! Watch an executor work: its counts, and whether tasks are as fast as they are meant to be.
//!
//! ```sh
//! cargo run --release -p executor-core --example stats
//! ```

#![deny(unsafe_code)]

use std::error::Error;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use executor_core::{ExecutorConfig, Priority, Task, TaskExecutor};

/// Half a millisecond: far more than a task of the first kind takes, and less than any of the second.
const TARGET_NS: u64 = 500_000;

fn spin(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (tell, told) = channel();
    let config = ExecutorConfig { target_latency_ns: TARGET_NS, ..ExecutorConfig::default() };
    let executor = TaskExecutor::builder(config)
        .on_latency_target_change(move |report| drop(tell.send(report.clone())))
        .build()?;

    for busy in [Duration::from_micros(1), Duration::from_micros(600)] {
        let task = |_| {
            Task::new("busy", Priority::Normal, move || {
                spin(busy);
                Ok(())
            })
        };
        let ids = executor.submit_batch((0..200).map(task))?;
        for id in ids {
            executor.wait_for_completion(id, Duration::from_secs(60))?;
        }
        let stats = executor.stats();
        println!("after tasks of {busy:?}:");
        println!("  {} executed", stats.tasks_executed.load(Ordering::Relaxed));
        println!("  {} failed", stats.tasks_failed.load(Ordering::Relaxed));
        println!("  {} ns in all", stats.total_execution_time_ns.load(Ordering::Relaxed));
        println!("  {} ns the shortest", stats.min_latency_ns.load(Ordering::Relaxed));
        println!("  {} ns the longest", stats.max_latency_ns.load(Ordering::Relaxed));
        println!("  {} ns on average", stats.avg_latency_ns.load(Ordering::Relaxed));
    }

    if !executor.is_meeting_latency_target() {
        let report = executor.latency_target_report();
        println!(
            "warning: {} of {} tasks of the last {:?} were over {} ns; the {} percentile is {} ns",
            report.over, report.tasks, report.window, report.target_ns, report.percentile, report.latency_ns
        );
    }
    // The executor looks ten times a second and says so once it changes.
    let change = told.recv_timeout(Duration::from_secs(60))?;
    println!("told: {:?}", change.state);
    executor.shutdown()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counts_can_be_watched_and_a_missed_target_is_told() {
        super::main().unwrap();
    }
}
