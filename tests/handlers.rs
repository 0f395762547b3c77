//! The handlers of the test sidecars. What they do is told in lines, on the standard output of a sidecar that is a process
//! of its own, so a test waits for an effect by reading and never by sleeping.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use nix::sys::signal::{Signal, raise};

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
/// [`Flip`].
pub const FLIP: u32 = 10;
/// [`Same`].
pub const SAME: u32 = 11;
/// Tells `crashing ATTEMPT`, then ends its process in the [`Crash`] its payload names; must not run twice.
pub const CRASH: u32 = 12;
/// As [`CRASH`], idempotent.
pub const CRASH_IDEMPOTENT: u32 = 13;
/// Fails with code 7 and its payload as text.
pub const REFUSE: u32 = 14;
/// No handler has it.
pub const UNKNOWN: u32 = 4000;

/// What [`FAIL`] and [`PANIC`] leave as text.
pub const FAILURE: &str = "no such order";
/// The text of a panic.
pub const PANIC_TEXT: &str = "the handler broke";

/// What a handler can do to its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Crash {
    /// `abort`.
    Abort,
    /// A segmentation fault, by a stack that is used up.
    Overflow,
    /// A signal that the thread sends itself.
    Illegal,
}

/// Uses up the stack.
#[allow(unconditional_recursion, reason = "it is to have no end")]
fn overflow(depth: &[u64; 64]) -> u64 {
    std::hint::black_box(depth)[0] + overflow(&std::hint::black_box([depth[1]; 64])) + depth[2]
}

impl Crash {
    /// All of them, with the signal that its process ends by.
    pub const ALL: [(Self, Signal); 3] =
        [(Self::Abort, Signal::SIGABRT), (Self::Overflow, Signal::SIGABRT), (Self::Illegal, Signal::SIGILL)];

    fn happen(self) {
        match self {
            Self::Abort => std::process::abort(),
            Self::Overflow => drop(std::hint::black_box(overflow(&[0; 64]))),
            Self::Illegal => drop(raise(Signal::SIGILL)),
        }
    }
}

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

/// Negates a truth. Of the 256 bytes that can stand for its argument 2 are legal.
#[derive(Debug)]
pub struct Flip;

impl TaskSpec for Flip {
    const ID: u32 = FLIP;
    const NAME: &'static str = "flip";
    const SCHEMA: u32 = 1;
    type Args = bool;
    type Output = bool;
}

/// Answers with its argument.
#[derive(Debug)]
pub struct Same;

impl TaskSpec for Same {
    const ID: u32 = SAME;
    const NAME: &'static str = "same";
    const SCHEMA: u32 = 1;
    type Args = u8;
    type Output = u8;
}

/// Tells the test something, from another process.
pub fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // A test that has ended reads no more; its processes are ended with it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Handlers that are not what they are elsewhere, by id.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// It is left out.
    pub without: Option<u32>,
    /// It has another contract.
    pub changed: Option<u32>,
    /// It may run twice.
    pub idempotent: Option<u32>,
}

/// All of them; latches are in `folder`, `tell` takes their lines.
///
/// # Errors
///
/// None, as long as the ids above differ.
pub fn registry(
    folder: PathBuf,
    tell: impl Fn(std::fmt::Arguments<'_>) + Clone + Send + Sync + 'static,
    others: Others,
) -> Result<Registry, RegistryError> {
    let told = tell.clone();
    let slow = move |latch: &[u8], attempt: u16| -> Result<(), TaskError> {
        let latch = String::from_utf8_lossy(latch).into_owned();
        told(format_args!("entered {latch} {attempt}"));
        // Opening a pipe for reading waits for a writer, reading to its end for the writer to close it.
        File::open(folder.join(&latch))?.read_to_end(&mut Vec::new())?;
        Ok(())
    };
    let again = slow.clone();
    let told = tell.clone();
    let end = move |way: &[u8], attempt: u16| -> Result<(), TaskError> {
        told(format_args!("crashing {attempt}"));
        let crash = Crash::ALL.iter().find(|(crash, _)| way == [*crash as u8]);
        crash.ok_or_else(|| TaskError::new("no such crash"))?.0.happen();
        Ok(())
    };
    let end_again = end.clone();
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
        Handler::per_worker(COUNT, "count", move |_| {
            let (mut count, tell) = (0u64, tell.clone());
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
        Handler::typed::<Flip>(|_, truth| Ok(!truth)),
        Handler::typed::<Same>(|_, byte| Ok(*byte)),
        Handler::new(CRASH, "crash", move |context, request, _| end(request, context.attempt())),
        Handler::new(CRASH_IDEMPOTENT, "crash-idempotent", move |context, request, _| {
            end_again(request, context.attempt())
        })
        .idempotent(),
        Handler::new(REFUSE, "refuse", |_, request, _| {
            Err(TaskError::with_code(7, String::from_utf8_lossy(request).into_owned()))
        }),
    ];
    let mut builder = Registry::builder();
    for handler in handlers {
        let id = Some(handler.id());
        if id == others.without {
            continue;
        }
        let handler = if id == others.changed { handler.schema(99) } else { handler };
        builder.add(if id == others.idempotent { handler.idempotent() } else { handler });
    }
    builder.build()
}
