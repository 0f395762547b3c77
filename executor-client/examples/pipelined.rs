//! Many tasks in flight: a lane is kept full, completions are taken in order as they come. With `executord run` in
//! another terminal:
//!
//! ```sh
//! cargo run --release -p executor-client --example pipelined -- default 1000000
//! ```

#![deny(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use executor_client::{Client, InstanceName, TaskDescriptor};

/// The id of `echo` in the stock sidecar.
const ECHO: u32 = 1;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipelined: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let instance: InstanceName = arguments.next().as_deref().unwrap_or("default").parse()?;
    let tasks = arguments.next().as_deref().unwrap_or("1000000").parse()?;
    let begun = Instant::now();
    pipeline(&instance, tasks)?;
    println!("{tasks} tasks, {:.2} M tasks/s", tasks as f64 / begun.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

fn pipeline(instance: &InstanceName, tasks: u64) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(instance)?;
    let (mut submitted, mut collected) = (0, 0);
    while collected < tasks {
        // A lane gives a slot back when its completion is taken, so whoever fills it must also empty it.
        while submitted < tasks {
            match client.try_submit(&TaskDescriptor::new(ECHO).user_data(submitted), &submitted.to_le_bytes()) {
                Ok(_) => submitted += 1,
                Err(error) if error.is_full() => break,
                Err(error) => return Err(error.into()),
            }
        }
        let before = collected;
        while let Some(completion) = client.try_collect()? {
            if !completion.is_done() || completion.response().read() != Some(completion.user_data()) {
                return Err(format!("task {} ended as {}", completion.task_id(), completion.status()).into());
            }
            collected += 1;
        }
        if collected == before {
            // Nothing came: look whether anybody is there before looking again.
            if !client.is_executor_alive() {
                return Err(format!("the sidecar is gone; {} tasks stay accepted", submitted - collected).into());
            }
            std::thread::yield_now();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_shm::{Sidecar, core::Registry};

    #[test]
    fn more_tasks_than_a_lane_holds_come_back_in_order() -> Result<(), Box<dyn Error>> {
        let instance: InstanceName = format!("pipelined-{}", std::process::id()).parse()?;
        let mut registry = Registry::builder();
        registry.handler(ECHO, "echo", |_, request, response| {
            response.write(request);
            Ok(())
        });
        let sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build()?).pinned(false);
        let sidecar = sidecar.capacity(64).start()?;
        pipeline(&instance, 10_000)?;
        assert_eq!(sidecar.stats().tasks, 10_000);
        Ok(())
    }
}
