//! A service whose requests are tasks of a runtime: all of them share one client, and each awaits its own answer. With
//! `executord run` in another terminal:
//!
//! ```sh
//! cargo run --release -p executor-client --example async_service -- default 100000
//! ```

#![deny(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use executor_client::{AsyncClient, InstanceName, TaskDescriptor};
use tokio::runtime;

/// The id of `echo` in the stock sidecar.
const ECHO: u32 = 1;
/// Requests under way at a time, some more than the lane of a small instance holds.
const CONNECTIONS: u64 = 100;

type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async_service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1);
    let instance: InstanceName = arguments.next().as_deref().unwrap_or("default").parse()?;
    let requests = arguments.next().as_deref().unwrap_or("100000").parse()?;
    let begun = Instant::now();
    let answered = serve(&instance, requests)?;
    println!("{answered} requests, {:.0} a second", answered as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

/// Returns how many requests were answered.
fn serve(instance: &InstanceName, requests: u64) -> Result<u64, AnyError> {
    // It blocks for a millisecond or so, therefore before the runtime has anything to do.
    let client = AsyncClient::connect(instance)?;
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    runtime.block_on(async {
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut answered = 0;
                    for request in (connection..requests).step_by(CONNECTIONS as usize) {
                        handle(&client, request).await?;
                        answered += 1;
                    }
                    Ok::<_, AnyError>(answered)
                })
            })
            .collect();
        let mut answered = 0;
        for connection in connections {
            answered += connection.await??;
        }
        Ok(answered)
    })
}

/// What a web framework would call for each request.
async fn handle(client: &AsyncClient, request: u64) -> Result<(), AnyError> {
    // The first await is for room in the lane, the second for the task's end.
    let completion = client.submit(&TaskDescriptor::new(ECHO), request.to_le_bytes()).await?.await?;
    if !completion.is_done() || completion.read() != Some(request) {
        return Err(format!("task {} ended as {}", completion.task_id(), completion.status()).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_shm::{Sidecar, core::Registry};

    #[test]
    fn each_request_gets_its_own_answer_though_all_share_a_lane_that_holds_fewer() -> Result<(), AnyError> {
        let instance: InstanceName = format!("async-service-{}", std::process::id()).parse()?;
        let mut registry = Registry::builder();
        registry.handler(ECHO, "echo", |_, request, response| {
            response.write(request);
            Ok(())
        });
        let sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build()?).pinned(false);
        let _sidecar = sidecar.capacity(64).start()?;
        assert_eq!(serve(&instance, 10_000)?, 10_000);
        Ok(())
    }
}
