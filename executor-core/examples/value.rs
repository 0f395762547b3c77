//! A value that a task computes: wait for it, or await it. A ticket is a future that needs no runtime of ours; here a
//! thread that parks is all there is.
//!
//! ```sh
//! cargo run --release -p executor-core --example value
//! ```

#![deny(unsafe_code)]

use std::error::Error;
use std::future::Future;
use std::num::ParseIntError;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use executor_core::{ExecutorConfig, TaskExecutor, Ticket, TicketError};

/// Wakes a thread that parks.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What any runtime does, for one future.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let executor = TaskExecutor::new(ExecutorConfig::default())?;

    // By waiting.
    let ticket = executor.submit_with_result(|| "42".parse::<u32>())?;
    let answer = ticket.wait(Duration::from_secs(60))?;
    println!("waited for: {answer}");

    // By awaiting; both run before the first is asked for.
    let sum: u32 = block_on(async {
        let first: Ticket<u32, ParseIntError> = executor.submit_with_result(|| "20".parse())?;
        let second: Ticket<u32, ParseIntError> = executor.submit_with_result(|| "22".parse())?;
        Ok::<_, Box<dyn Error>>(first.await? + second.await?)
    })?;
    println!("awaited: {sum}");

    // The closure's error is a value too, of its own type.
    let ticket = executor.submit_with_result(|| "forty-two".parse::<u32>())?;
    match ticket.wait(Duration::from_secs(60)) {
        Err(TicketError::Failed(error)) => println!("no value: {error}"),
        other => return Err(format!("{other:?} instead of an error").into()),
    }
    executor.shutdown()?;
    if (answer, sum) == (42, 42) { Ok(()) } else { Err("a value is wrong".into()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_and_errors_arrive_by_wait_and_by_await() {
        super::main().unwrap();
    }
}
