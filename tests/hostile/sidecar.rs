//! The sidecar under attack: handlers of every kind, none of which minds what it is given.

use std::time::Duration;

use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::{Handler, Registry, RequestView, Response};
use executor_shm::{Ending, InstanceName, Sidecar, StopSignals};

use crate::board::Board;

/// Answers with its payload.
pub(crate) const ECHO: u32 = 1;
/// Answers with the sum of the words of its payload, which it reads where it lies.
pub(crate) const SUM: u32 = 2;
/// Takes a little time; idempotent.
pub(crate) const SLOW: u32 = 3;
/// Panics.
pub(crate) const PANICS: u32 = 4;

/// Slots of a lane.
pub(crate) const CAPACITY: u32 = 64;
/// Bytes of a request or response buffer.
pub(crate) const BUFFER_BYTES: u32 = 256;
const LANES: u32 = 8;
const PANIC_TEXT: &str = "a panic of the attack";

/// It ended as it was told to, and its files are gone.
pub(crate) const REMOVED: i32 = 0;

/// Serves until it is told to stop.
pub(crate) fn serve(instance: &InstanceName, board: &Board) -> i32 {
    match run(instance) {
        Ok(Ending::Removed) => REMOVED,
        Ok(ending) => {
            board.complain(&format!("the sidecar stopped: {ending:?}"));
            1
        }
        Err(error) => {
            board.complain(&format!("the sidecar: {error}"));
            1
        }
    }
}

fn run(instance: &InstanceName) -> Result<Ending, Box<dyn std::error::Error>> {
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(PANIC_TEXT) {
            standard(info);
        }
    }));
    let signals = StopSignals::block()?;
    let handle = Sidecar::builder()
        .instance(instance.clone())
        .registry(registry()?)
        .lanes(LANES)
        .capacity(CAPACITY)
        .request_bytes(BUFFER_BYTES)
        .response_bytes(BUFFER_BYTES)
        .idle(IdleStrategy::Yield)
        .pinned(false)
        .start()?;
    Ok(handle.run_until(&signals)?.ending)
}

fn registry() -> Result<Registry, executor_shm::core::RegistryError> {
    let mut registry = Registry::builder();
    registry.handler(ECHO, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    });
    registry.add(Handler::in_place(SUM, "sum", |_, view: RequestView<'_>, response: &mut Response<'_>| {
        response.write_value(&view.fold_words(0u64, u64::wrapping_add));
        Ok(())
    }));
    let slow = |_: &executor_shm::core::TaskContext<'_>, request: &[u8], response: &mut Response<'_>| {
        std::thread::sleep(Duration::from_micros(u64::from(request.first().copied().unwrap_or(0)) * 2));
        response.write(request);
        Ok(())
    };
    registry.add(Handler::new(SLOW, "slow", slow).idempotent());
    registry.handler(PANICS, "panics", |_, _, _| std::panic::panic_any(PANIC_TEXT));
    registry.build()
}
