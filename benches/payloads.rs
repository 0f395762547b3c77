//! Payloads of growing size, with a copy on either side and with none, beside the two copies alone.
//!
//! Nobody makes or reads the bytes: only what it costs to get them across is measured. A handler answers with the first
//! and the last word of its request, and both are checked.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use executor_client::{Client, Completion, TaskDescriptor};
use executor_core::registry::RegistryBuilder;
use executor_core::{Handler, RequestView, TaskError};
use executord::floor::Pinned;

use crate::sidecar::{Setup, SidecarProcess};

/// Bytes of a payload.
pub(crate) const SIZES: [usize; 7] = [24, 64, 256, 1024, 4096, 16_384, 65_536];

/// Bytes of all request buffers of a lane, about: what is in flight stays in the caches.
const IN_FLIGHT: usize = 1 << 20;

const COPIED: u32 = 2;
const IN_PLACE: u32 = 3;

/// How a payload gets across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Two calls of memcpy on one thread, into a slot and out of it: the floor of a copying path.
    TwoCopies,
    /// `try_submit` copies it into its slot, the worker copies it out of there.
    Copied,
    /// It is made in a loan of its slot and read there by `Handler::in_place`.
    InPlace,
}

/// All paths, in an order that changes from round to round.
pub(crate) fn paths_in_turn(round: usize) -> [Path; 3] {
    let mut paths = [Path::TwoCopies, Path::Copied, Path::InPlace];
    paths.rotate_left(round % 3);
    paths
}

/// The handlers that payloads are sent to.
pub(crate) fn register(registry: &mut RegistryBuilder) {
    let ends = |first: Option<u64>, last: Option<u64>| match (first, last) {
        (Some(first), Some(last)) => Ok([first, last]),
        _ => Err(TaskError::new("the payload is shorter than a word")),
    };
    registry.handler(COPIED, "copied", move |_, request, response| {
        response.write_value(&ends(word(request.first_chunk()), word(request.last_chunk()))?);
        Ok(())
    });
    registry.add(Handler::in_place(IN_PLACE, "in-place", move |_, request: RequestView<'_>, response| {
        response.write_value(&ends(request.word(0), request.words().checked_sub(1).and_then(|at| request.word(at)))?);
        Ok(())
    }));
}

fn word(bytes: Option<&[u8; 8]>) -> Option<u64> {
    bytes.map(|bytes| u64::from_le_bytes(*bytes))
}

/// Nanoseconds for each payload of `bytes`, many in flight, `total` bytes in all or some thousand tasks if that is more.
pub(crate) fn nanoseconds(cpus: (u32, u32), path: Path, bytes: usize, total: u64) -> Result<f64, Box<dyn Error>> {
    let slots = (IN_FLIGHT / bytes).next_power_of_two().clamp(16, 1024);
    let tasks = (total / bytes as u64).clamp(4096, 200_000);
    let mut payload: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
    if path == Path::TwoCopies {
        let _pinned = Pinned::to(cpus.0)?;
        return Ok(two_copies(&mut payload, slots, tasks));
    }
    let request_bytes = bytes.next_multiple_of(64) as u32;
    let setup = Setup { capacity: slots as u32, request_bytes, ..Setup::one_lane(cpus.1) };
    let sidecar = SidecarProcess::start(&setup)?;
    let mut client = sidecar.connect()?;
    let _pinned = Pinned::to(cpus.0)?; // not before: the sidecar would inherit it
    send(&mut client, path, &mut payload, tasks.min(4096))?;
    let begun = Instant::now();
    send(&mut client, path, &mut payload, tasks)?;
    Ok(begun.elapsed().as_nanos() as f64 / tasks as f64)
}

fn two_copies(payload: &mut [u8], slots: usize, tasks: u64) -> f64 {
    let stride = payload.len().next_multiple_of(64);
    let (mut buffers, mut private) = (vec![1; slots * stride], vec![1; payload.len()]);
    let mut copy = |tasks: u64| {
        for task in 0..tasks {
            mark(payload, task);
            let at = task as usize % slots * stride;
            let Some(slot) = buffers.get_mut(at..at + payload.len()) else { return };
            slot.copy_from_slice(payload);
            private.copy_from_slice(black_box(slot));
            black_box(&mut private);
        }
    };
    copy(tasks.min(4096));
    let begun = Instant::now();
    copy(tasks);
    begun.elapsed().as_nanos() as f64 / tasks as f64
}

/// Gives the payload a first and a last word of its own.
fn mark(payload: &mut [u8], task: u64) {
    if let Some(last) = payload.last_chunk_mut() {
        *last = (!task).to_le_bytes();
    }
    if let Some(first) = payload.first_chunk_mut() {
        *first = task.to_le_bytes();
    }
}

/// Sends `tasks` payloads, as many at a time as the lane takes, and checks each answer against its place.
fn send(client: &mut Client, path: Path, payload: &mut [u8], tasks: u64) -> Result<(), Box<dyn Error>> {
    let capacity = client.capacity() as u64;
    let (mut submitted, mut collected) = (0, 0);
    while collected < tasks {
        while submitted < tasks.min(collected + capacity) {
            match path {
                Path::InPlace => {
                    let mut loan = client.request(&TaskDescriptor::new(IN_PLACE), payload.len())?;
                    mark(loan.bytes_mut(), submitted);
                    loan.submit();
                }
                Path::Copied | Path::TwoCopies => {
                    mark(payload, submitted);
                    client.try_submit(&TaskDescriptor::new(COPIED), payload)?;
                }
            }
            submitted += 1;
        }
        while let Some(completion) = client.try_collect()? {
            check(&completion, collected)?;
            collected += 1;
        }
    }
    Ok(())
}

fn check(completion: &Completion<'_>, task: u64) -> Result<(), Box<dyn Error>> {
    if completion.response().read::<[u64; 2]>() == Some([task, !task]) {
        return Ok(());
    }
    Err(format!("task {task} came back as {} with a wrong answer", completion.status()).into())
}
