//! The handlers of the test sidecar. What they do is told on the sidecar's standard output, a line each, so a test
//! waits for an effect by reading and never by sleeping.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use executor_shm::core::{Handler, Registry, RegistryError, TaskError, TaskSpec};

/// Answers with its payload.
pub const ECHO: u32 = 1;
/// [`Sum`].
pub const SUM: u32 = 2;
/// Fails with code 42.
pub const FAIL: u32 = 3;
/// Panics.
pub const PANIC: u32 = 4;
/// Tells `entered LATCH ATTEMPT`, then waits until the latch named by its payload is opened; must not run twice.
pub const SLOW: u32 = 5;
/// As [`SLOW`], idempotent.
pub const SLOW_IDEMPOTENT: u32 = 6;
/// Tells `ran TASK_ID`, answers with the count of tasks its worker ran.
pub const COUNT: u32 = 7;
/// Answers with as many bytes as its payload says.
pub const WIDE: u32 = 8;
/// Takes payloads of 8 bytes only.
pub const SIZED: u32 = 9;
/// No handler has it.
pub const UNKNOWN: u32 = 4000;

/// What [`FAIL`] and [`PANIC`] leave as text.
pub const FAILURE: &str = "no such order";
/// The text of a panic.
pub const PANIC_TEXT: &str = "the handler broke";

/// Adds two numbers.
#[derive(Debug)]
pub struct Sum;

impl TaskSpec for Sum {
    const ID: u32 = SUM;
    const NAME: &'static str = "sum";
    const SCHEMA: u32 = 1;
    type Args = [u64; 2];
    type Output = u64;
}

/// Tells the test something.
pub fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // A test that has ended reads no more; its processes are ended with it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// All of them; latches are in `folder`. `without` leaves one out, `changed` gives one another contract.
///
/// # Errors
///
/// None, as long as the ids above differ.
pub fn registry(folder: PathBuf, without: Option<u32>, changed: Option<u32>) -> Result<Registry, RegistryError> {
    let slow = move |latch: &[u8], attempt: u16| -> Result<(), TaskError> {
        let latch = String::from_utf8_lossy(latch).into_owned();
        tell(format_args!("entered {latch} {attempt}"));
        // Opening a pipe for reading waits for a writer, reading to its end for the writer to close it.
        File::open(folder.join(&latch))?.read_to_end(&mut Vec::new())?;
        Ok(())
    };
    let again = slow.clone();
    let handlers = [
        Handler::new(ECHO, "echo", |_, request, response| {
            response.write(request);
            Ok(())
        }),
        Handler::typed::<Sum>(|_, [a, b]| Ok(a.wrapping_add(*b))),
        Handler::new(FAIL, "fail", |_, _, _| Err(TaskError::with_code(42, FAILURE))),
        Handler::new(PANIC, "panic", |_, _, _| panic!("{PANIC_TEXT}")),
        Handler::new(SLOW, "slow", move |context, request, _| slow(request, context.attempt())),
        Handler::new(SLOW_IDEMPOTENT, "slow-idempotent", move |context, request, _| again(request, context.attempt()))
            .idempotent(),
        Handler::per_worker(COUNT, "count", |_| {
            let mut count = 0u64;
            move |context, _, response| {
                count += 1;
                tell(format_args!("ran {}", context.task_id().as_u64()));
                response.write_value(&count);
                Ok(())
            }
        }),
        Handler::new(WIDE, "wide", |_, request, response| {
            let length = request.try_into().map_or(0, u32::from_le_bytes) as usize;
            if let Some(room) = response.reserve(length) {
                room.fill(7);
            }
            Ok(())
        }),
        Handler::new(SIZED, "sized", |_, _, _| Ok(())).request_bytes(8..=8),
    ];
    let mut builder = Registry::builder();
    for handler in handlers {
        if Some(handler.id()) == without {
            continue;
        }
        let handler = if Some(handler.id()) == changed { handler.schema(99) } else { handler };
        builder.add(handler);
    }
    builder.build()
}
