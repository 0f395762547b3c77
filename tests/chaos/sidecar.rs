//! The sidecar's role: the library as anybody would start it, with handlers that write down what they do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_shm::core::{Handler, Registry, Response, TaskContext, TaskError, TaskSpec};
use executor_shm::{Ending, Sidecar, StopSignals};

use crate::ledger::{Doing, Ledger};
use crate::plan::Mode;
use crate::setting::Setting;
use crate::task::{Kind, Task};

/// Its files are gone: nobody was attached and nothing unanswered.
pub(crate) const REMOVED: i32 = 0;
/// Its files stay for the next start.
pub(crate) const KEPT: i32 = 10;
/// It did not start, or did not end well; a letter says why.
pub(crate) const FAILED: i32 = 11;

/// It stood by, and was told that nobody needs it.
pub(crate) const STOOD_BY: i32 = 12;

/// How a sidecar starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Its word in the ledger.
    pub(crate) role: usize,
    pub(crate) build: u32,
    pub(crate) workers: usize,
}

/// Most workers of a sidecar: files have room for so many unless told otherwise.
pub(crate) const WORKERS_MAX: usize = 2;

const PANIC_TEXT: &str = "a panic of the chaos";
/// Shorter waits spin: a sleep takes some 60 us at least.
const SPIN: Duration = Duration::from_micros(100);

/// A handler with another contract in each build.
pub(crate) struct Marked<const BUILD: u32>;

impl<const BUILD: u32> TaskSpec for Marked<BUILD> {
    const ID: u32 = Kind::Marked as u32;
    const NAME: &'static str = "marked";
    const SCHEMA: u32 = BUILD;
    type Args = [u64; 4];
    type Output = [u64; 2];
}

/// Serves until it is told to stop, or killed.
pub(crate) fn serve(setting: &Arc<Setting>, start: Start) -> i32 {
    let Start { role, build, workers } = start;
    let ledger = &setting.ledger;
    ledger.set_doing(role, Doing::Nothing, 0);
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(PANIC_TEXT) {
            standard(info);
        }
    }));
    let plan = &setting.plan;
    let signals = match StopSignals::block() {
        Ok(signals) => signals,
        Err(error) => return failed(setting, "block signals", &error),
    };
    let registry = match registry(setting, build) {
        Ok(registry) => registry,
        Err(error) => return failed(setting, "make a registry", &error),
    };
    ledger.set_doing(role, Doing::Starting, 0);
    let builder = Sidecar::builder()
        .instance(setting.instance.clone())
        .registry(registry)
        .lanes(plan.lanes)
        .capacity(plan.capacity)
        .request_bytes(plan.request_bytes)
        .response_bytes(plan.response_bytes)
        .timing(plan.timing)
        .idle(plan.idle)
        .quantum(plan.quantum)
        .drain_time(plan.drain_time)
        .cpus(&[0; WORKERS_MAX][..workers]) // not pinned, so only their count counts
        .pinned(false);
    let started = if plan.mode == Mode::Standby {
        builder.stand_by().and_then(|standby| {
            ledger.set_doing(role, Doing::Waiting, 0);
            standby.take_over_unless(&signals)
        })
    } else {
        builder.start().map(Some)
    };
    let handle = match started {
        Ok(Some(handle)) => handle,
        Ok(None) => return STOOD_BY,
        Err(error) => return failed(setting, "start", &error),
    };
    ledger.set_doing(role, Doing::Serving, 0);
    match handle.run_until(&signals) {
        Ok(report) => match report.ending {
            Ending::Removed => REMOVED,
            Ending::Kept { .. } => KEPT,
            Ending::NamesLost => {
                setting.complain("a sidecar lost the names of its files, which nobody took away");
                FAILED
            }
        },
        Err(error) => failed(setting, "stop", &error),
    }
}

fn failed(setting: &Setting, what: &str, error: &dyn std::error::Error) -> i32 {
    let mut text = format!("a sidecar did not {what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    setting.complain(&text);
    FAILED
}

/// One run of a handler.
struct Run<'a> {
    ledger: &'a Ledger,
    build: u32,
    entry: u64,
    task: Task,
}

impl Run<'_> {
    /// What every handler does: begins, has its effect somewhere, comes to its end.
    fn run(&self) {
        let length = Duration::from_nanos(u64::from(self.task.length) * 16);
        let first = length * u32::from(self.task.effect_at) / 255;
        pass(first);
        self.ledger.effect(self.entry, self.build);
        pass(length - first);
    }
}

fn pass(time: Duration) {
    if time > SPIN {
        std::thread::sleep(time);
    } else if !time.is_zero() {
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

/// Begins a run, or says that the payload is none that a producer made.
fn begin<'a>(
    setting: &'a Setting,
    build: u32,
    context: &TaskContext<'_>,
    payload: &[u8],
) -> Result<Run<'a>, TaskError> {
    let told = context.task_id().as_u64();
    let read = Task::read(setting.plan.task_seed, payload);
    let Some((entry, task)) = read.filter(|&(entry, _)| setting.ledger.start(entry, build, told)) else {
        setting.complain(&format!(
            "handler {} was given a payload that nobody made, as task {told:#x} on attempt {}: {payload:02x?}",
            context.handler_id(),
            context.attempt(),
        ));
        return Err(TaskError::with_code(99, "a payload that nobody made"));
    };
    if task.kind.handler_id() != context.handler_id() {
        setting.complain(&format!("handler {} was given entry {entry}, a {task:?}", context.handler_id()));
    }
    Ok(Run { ledger: &setting.ledger, build, entry, task })
}

fn registry(setting: &Arc<Setting>, build: u32) -> Result<Registry, executor_shm::core::RegistryError> {
    let seed = setting.plan.task_seed;
    let mut registry = Registry::builder();
    let mut add = |kind: Kind, name: &str| {
        let setting = Arc::clone(setting);
        let handler = move |context: &TaskContext<'_>, payload: &[u8], response: &mut Response<'_>| {
            let run = begin(&setting, build, context, payload)?;
            run.run();
            match kind {
                Kind::Fails => return Err(TaskError::with_code(7, "as it was told")),
                Kind::Panics => std::panic::panic_any(PANIC_TEXT),
                Kind::TooLong => response.write(&vec![0; setting.plan.response_bytes as usize + 1]),
                _ => response.write(&run.task.response(seed, run.entry)),
            };
            Ok(())
        };
        let handler = Handler::new(kind as u32, name, handler);
        registry.add(if kind == Kind::Again { handler.idempotent() } else { handler });
    };
    for (kind, name) in [
        (Kind::Once, "once"),
        (Kind::Again, "again"),
        (Kind::Fails, "fails"),
        (Kind::Panics, "panics"),
        (Kind::TooLong, "too-long"),
    ] {
        add(kind, name);
    }
    if setting.plan.mode == Mode::Upgrade && build == 1 {
        add(Kind::Retired, "retired");
    }
    let inside = Arc::clone(setting);
    registry.add(Handler::in_place(Kind::InPlace as u32, "in-place", move |context, view, response| {
        let mut payload = vec![0; view.len()];
        view.copy_to(0, &mut payload);
        let run = begin(&inside, build, context, &payload)?;
        run.run();
        response.write(&run.task.response(seed, run.entry));
        Ok(())
    }));
    let inside = Arc::clone(setting);
    let marked = move |context: &TaskContext<'_>, args: &[u64; 4]| {
        let payload: Vec<u8> = args.iter().flat_map(|word| word.to_le_bytes()).collect();
        let run = begin(&inside, build, context, &payload)?;
        run.run();
        Ok([run.entry, run.task.key(seed, run.entry)])
    };
    match (setting.plan.mode, build) {
        (Mode::Upgrade, 1) => {
            registry.typed::<Marked<1>>(marked);
        }
        (Mode::Upgrade, _) => {
            registry.typed::<Marked<2>>(marked);
        }
        _ => {}
    }
    registry.build()
}
