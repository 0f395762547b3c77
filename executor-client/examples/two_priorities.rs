//! Two priorities are two lanes: bulk work goes through one, what is urgent through the other, and the worker looks at
//! the urgent one between any two tasks.
//!
//! ```sh
//! cargo run --release -p executor-client --example two_priorities
//! ```

#![deny(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};

use executor_client::{ConnectOptions, InstanceName, Priority, TaskDescriptor};
use executor_shm::{Sidecar, core::Registry};

const WORK: u32 = 1;
const BULK: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let instance: InstanceName = format!("two-priorities-{}", std::process::id()).parse()?;
    let mut registry = Registry::builder();
    registry.handler(WORK, "work", |_, _, _| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(100) {}
        Ok(())
    });
    // Usually a program of its own; see the examples `sidecar` and `producer`.
    let _sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build()?).pinned(false).start()?;

    // Inside a lane order never changes, so whoever wants two priorities holds two lanes, perhaps in one thread.
    let connect = |priority| ConnectOptions::new().priority(priority).connect(&instance);
    let (mut bulk, mut urgent) = (connect(Priority::Low)?, connect(Priority::Critical)?);

    let task = TaskDescriptor::new(WORK);
    let batch = bulk.try_submit_batch(std::iter::repeat_n((task, &[][..]), BULK));
    if let Some(error) = batch.refused {
        return Err(error.into());
    }
    let begun = Instant::now();
    let mut ticket = urgent.submit_ticket(&task, &[])?;
    urgent.wait(&mut ticket)?;
    println!("the urgent task, submitted behind {BULK} others, ended after {:?}", begun.elapsed());
    let mut ended = 0;
    bulk.close(Duration::from_secs(60), |completion| ended += usize::from(completion.is_done()))?;
    println!("the {ended} others after {:?}", begun.elapsed());
    if ended == BULK { Ok(()) } else { Err("some of them did not end well".into()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_urgent_task_and_all_others_end_well() {
        super::main().unwrap();
    }
}
