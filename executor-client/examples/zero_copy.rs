//! A payload that nobody copies: the producer makes it in the memory in which it travels, the handler reads it there.
//!
//! ```sh
//! cargo run --release -p executor-client --example zero_copy
//! ```

#![deny(unsafe_code)]

use std::error::Error;

use executor_client::{Client, InstanceName, TaskDescriptor};
use executor_shm::core::{Handler, Registry, RequestView, Response, TaskContext, TaskError};
use executor_shm::{Sidecar, SidecarHandle};

const BRIGHTNESS: u32 = 1;
const FRAME_BYTES: u32 = 1 << 20;

/// The mean of all bytes of a frame. It gets no slice: its producer could write there meanwhile. So each word is read
/// once, and whatever it holds then is what counts; for this handler a torn frame is just another frame.
fn brightness(_: &TaskContext<'_>, frame: RequestView<'_>, response: &mut Response<'_>) -> Result<(), TaskError> {
    let sum =
        frame.fold_words(0u64, |sum, word| sum + word.to_le_bytes().iter().map(|&byte| u64::from(byte)).sum::<u64>());
    response.write_value(&(sum as f64 / frame.len().max(1) as f64));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let instance: InstanceName = format!("zero-copy-{}", std::process::id()).parse()?;
    // Usually a program of its own; see the examples `sidecar` and `producer`.
    let _sidecar = serve(&instance)?;

    let mut client = Client::connect(&instance)?;
    for level in [0, 100, 255] {
        // The loan is the slot's own request buffer. What it holds at first is arbitrary, so all of it is written.
        let mut loan = client.request(&TaskDescriptor::new(BRIGHTNESS), FRAME_BYTES as usize)?;
        for (at, byte) in loan.bytes_mut().iter_mut().enumerate() {
            *byte = if at % 2 == 0 { level } else { 0 };
        }
        let mut ticket = loan.submit_ticket();
        let mean: f64 = client.wait(&mut ticket)?.response().read().ok_or("no answer of 8 bytes")?;
        println!("every second pixel at {level}: mean {mean}");
        if mean != f64::from(level) / 2.0 {
            return Err("that is wrong".into());
        }
    }
    Ok(())
}

fn serve(instance: &InstanceName) -> Result<SidecarHandle, Box<dyn Error>> {
    let mut registry = Registry::builder();
    registry.add(Handler::in_place(BRIGHTNESS, "brightness", brightness).idempotent());
    let sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build()?);
    // Few and long: 4 slots of 1 MiB, less than the default of 1,024 slots by far.
    Ok(sidecar.capacity(4).request_bytes(FRAME_BYTES).pinned(false).start()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames_are_read_where_they_were_made() {
        super::main().unwrap();
    }
}
