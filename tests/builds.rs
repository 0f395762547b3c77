//! Two builds of one sidecar: a handler that is the same in both, one whose contract differs, one that only the first
//! has. Handlers that must not run twice leave a record of every run, which a killed sidecar leaves too.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use executor_shm::core::{Handler, Registry, TaskContext, TaskError, TaskSpec};

/// Answers with its payload in both builds; idempotent.
pub const STEADY: u32 = 20;
/// [`Marked`].
pub const MARKED: u32 = 21;
/// Answers with the number of its build, which is 1: the second has no such handler.
pub const RETIRED: u32 = 22;

/// Answers with the number of its build: a contract of its own for each.
#[derive(Debug)]
pub struct Marked<const BUILD: u32>;

impl<const BUILD: u32> TaskSpec for Marked<BUILD> {
    const ID: u32 = MARKED;
    const NAME: &'static str = "marked";
    const SCHEMA: u32 = BUILD;
    type Args = u64;
    type Output = u64;
}

/// One run of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The task.
    pub task_id: u64,
    /// Whose code it was.
    pub build: u64,
}

/// Where runs are recorded.
pub fn record(folder: &Path) -> PathBuf {
    folder.join("runs")
}

/// All runs so far.
///
/// # Panics
///
/// Nothing was recorded.
pub fn runs(folder: &Path) -> Vec<Run> {
    let bytes = std::fs::read(record(folder)).unwrap();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks(16).map(|run| Run { task_id: word(&run[..8]), build: word(&run[8..]) }).collect()
}

/// The handlers of build 1 or 2.
///
/// # Panics
///
/// There is no such build, or nothing can be recorded in `folder`.
pub fn registry(build: u32, folder: &Path) -> Registry {
    let runs = Arc::new(File::options().create(true).append(true).open(record(folder)).unwrap());
    let run = move |context: &TaskContext<'_>| -> Result<u64, TaskError> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&context.task_id().as_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&u64::from(build).to_le_bytes());
        (&*runs).write_all(&bytes)?; // appended as a whole, whoever is killed when
        Ok(u64::from(build))
    };
    let retired = run.clone();
    let mut registry = Registry::builder();
    registry.add(
        Handler::new(STEADY, "steady", |_, request, response| {
            response.write(request);
            Ok(())
        })
        .idempotent(),
    );
    match build {
        1 => {
            registry.handler(RETIRED, "retired", move |context, _, response| {
                response.write_value(&retired(context)?);
                Ok(())
            });
            registry.typed::<Marked<1>>(move |context, _| run(context))
        }
        2 => registry.typed::<Marked<2>>(move |context, _| run(context)),
        _ => panic!("there is no build {build}"),
    };
    registry.build().unwrap()
}
