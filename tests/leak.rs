//! Tasks that nobody waits for, by the hundred million: memory stays as it was.
//!
//! All kinds that own memory come in turn: closures with captures, failures and panics with a text of their own, names
//! that are strings, tickets that are dropped before, while or after their task runs, handlers that are called. Threads
//! that submit come and go.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a tool of the tests stops at the first surprise")]

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use clap::Parser;
use executor_shm::core::{Error, ExecutorConfig, Priority, Registry, Task, TaskError, TaskExecutor};
use serde_json::json;

/// Runs tasks whose results nobody reads, and compares the memory of this process before and after.
///
/// A tenth of the tasks, at most a million, run first: the executor's tables and rings get their size from them. The exit
/// code is 0 if memory has grown by no more than `--allowed-bytes` since, 1 if it has, 2 for a mistake in the arguments.
#[derive(Debug, Parser)]
#[command(name = "leak", after_help = EXAMPLES)]
struct Options {
    /// How many.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    tasks: u64,
    /// Growth of resident memory, or of data, that is put down to the allocator.
    #[arg(long, default_value_t = 8 << 20)]
    allowed_bytes: u64,
    /// Print one JSON object in place of the text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p executor-tests --bin leak -- --tasks 100000000 --json
  cargo run --release -p executor-tests --bin leak -- --tasks 500000 --allowed-bytes 1000000";

/// Tasks that one thread submits before it ends.
const THREAD: u64 = 50_000;
const WARM_UP: u64 = 1_000_000;
/// One in so many panics; a panic takes thousands of times as long as a task.
const PANICS: u64 = 1000;

/// Memory of this process in bytes.
#[derive(Clone, Copy, Debug)]
struct Memory {
    resident: u64,
    /// Heap, stacks and what else is private and can be written.
    data: u64,
}

fn memory() -> Memory {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<u64> = text.split_whitespace().map(|pages| pages.parse().unwrap()).collect();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap_or(4096) as u64;
    Memory { resident: pages[1] * page, data: pages[5] * page }
}

const ECHO: u32 = 1;

fn submit(executor: &TaskExecutor, mut task: Task) {
    loop {
        match executor.submit_task(task) {
            Ok(_) => return,
            Err(Error::QueueFull { task: refused, .. }) => task = refused,
            Err(error) => panic!("{error}"),
        }
        std::thread::yield_now();
    }
}

fn submit_one(executor: &TaskExecutor, number: u64) {
    let priority = Priority::ALL[(number / 8 % 4) as usize];
    let capture = Box::new([number; 4]);
    let plain = move || {
        std::hint::black_box(&capture);
        Ok(())
    };
    match number % 8 {
        0 | 1 => submit(executor, Task::new("closure", priority, plain)),
        2 => submit(executor, Task::new(format!("task number {number}, with a name of its own"), priority, plain)),
        3 => {
            let text = move || Err(TaskError::new(format!("task {number} failed and says so at some length")));
            submit(executor, Task::new("failing", priority, text));
        }
        4 if number % PANICS < 8 => {
            submit(
                executor,
                Task::new("panicking", priority, move || std::panic::resume_unwind(Box::new(format!("{number}")))),
            );
        }
        4 => submit(executor, Task::call(ECHO, vec![number as u8; (number % 100) as usize])),
        // The ticket is dropped at once, whether its task has run or not; so is the value.
        5 => drop(until_accepted(|| executor.submit_with_result(move || Ok::<_, TaskError>(vec![number; 8])))),
        6 => drop(until_accepted(|| executor.submit_with_result(move || Err::<(), _>(format!("error {number}"))))),
        _ => drop(until_accepted(|| executor.submit_call(Task::call(ECHO, vec![7; 64]).with_priority(priority)))),
    }
}

fn until_accepted<T>(mut submit: impl FnMut() -> Result<T, Error>) -> T {
    loop {
        match submit() {
            Ok(ticket) => return ticket,
            Err(Error::QueueFull { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs so many tasks, from one thread after another, and waits until they have ended.
fn run(executor: &TaskExecutor, tasks: u64) {
    let mut begin = 0;
    while begin < tasks {
        let end = tasks.min(begin + THREAD);
        std::thread::scope(|scope| {
            scope.spawn(|| (begin..end).for_each(|number| submit_one(executor, number)));
        });
        begin = end;
    }
    while executor.queue_depth() > 0 {
        std::thread::yield_now();
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut registry = Registry::builder();
    registry.handler(ECHO, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    });
    let config = ExecutorConfig { max_queue_depth: 2_000, ..ExecutorConfig::default() };
    let executor = TaskExecutor::builder(config).registry(registry.build().unwrap()).build().unwrap();
    let warm_up = (options.tasks / 10).min(WARM_UP);
    run(&executor, warm_up);
    let (before, begun) = (memory(), Instant::now());
    run(&executor, options.tasks - warm_up);
    let (after, seconds) = (memory(), begun.elapsed().as_secs_f64());
    let stats = executor.stats();
    let (executed, failed) = (stats.tasks_executed.load(Relaxed), stats.tasks_failed.load(Relaxed));
    executor.shutdown().unwrap();

    let grown = after.resident.saturating_sub(before.resident).max(after.data.saturating_sub(before.data));
    let is_flat = grown <= options.allowed_bytes && executed == options.tasks;
    if options.json {
        let out = json!({
            "tasks": executed,
            "failed": failed,
            "seconds": seconds,
            "tasks_per_second": ((options.tasks - warm_up) as f64 / seconds) as u64,
            "resident_bytes": {"before": before.resident, "after": after.resident},
            "data_bytes": {"before": before.data, "after": after.data},
            "grown_bytes": grown,
            "allowed_bytes": options.allowed_bytes,
            "flat": is_flat,
        });
        println!("{out}");
    } else {
        println!("{executed} tasks, {failed} of them failed, in {seconds:.1} s");
        println!("  resident: {} bytes before, {} after", before.resident, after.resident);
        println!("  data:     {} bytes before, {} after", before.data, after.data);
        println!("  grown by {grown} bytes, {} are allowed", options.allowed_bytes);
    }
    if is_flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
