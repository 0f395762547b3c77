//! Where promises are kept: a sidecar of the test handlers with the sizes below, and clients of it, in whatever processes
//! they are.

use std::sync::mpsc::{Receiver, channel};

use executor_client::{Client, ConnectOptions};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::{Ending, Sidecar, SidecarHandle};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{self, Others};
use executor_tests::instance::{Latch, TestInstance};
use executor_tests::process::{self, Process};

/// Slots of a lane.
pub(crate) const CAPACITY: usize = 16;
/// Most lanes.
pub(crate) const LANES: u32 = 2;
/// Longest payload, in bytes.
pub(crate) const REQUEST_BYTES: usize = 128;
/// Longest response, in bytes.
pub(crate) const RESPONSE_BYTES: usize = 192;
/// Workers, none of them pinned.
pub(crate) const WORKERS: u32 = 2;

/// One way to have a sidecar and its clients.
pub(crate) trait Stage: Sized {
    /// A sidecar that serves.
    fn start() -> Self;

    /// A client of it.
    fn connect_with(&self, options: ConnectOptions) -> Client;

    /// What holds a slow task.
    fn latch(&self, name: &str) -> Latch;

    /// What a handler tells next.
    fn line(&mut self) -> String;

    /// Stops the sidecar once nobody is attached. It must leave nothing behind; how many tasks it ended and what its
    /// handlers told that nobody has read come back.
    fn end(self) -> (u64, Vec<String>);

    /// A client that wants nothing special.
    fn connect(&self) -> Client {
        self.connect_with(ConnectOptions::new())
    }
}

/// The sidecar is another process.
pub(crate) struct BetweenProcesses {
    sidecar: Process,
    instance: TestInstance,
}

impl Stage for BetweenProcesses {
    fn start() -> Self {
        let instance = TestInstance::new("between");
        let sizes = [
            ("--lanes", LANES as usize),
            ("--capacity", CAPACITY),
            ("--request-bytes", REQUEST_BYTES),
            ("--response-bytes", RESPONSE_BYTES),
            ("--workers", WORKERS as usize),
        ];
        let options: Vec<String> =
            sizes.iter().flat_map(|(option, value)| [(*option).to_owned(), value.to_string()]).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let sidecar = process::sidecar(env!("CARGO_BIN_EXE_sidecar"), &instance, &options);
        Self { sidecar, instance }
    }

    fn connect_with(&self, options: ConnectOptions) -> Client {
        options.timeout(FAIL_SAFE).connect(self.instance.name()).unwrap()
    }

    fn latch(&self, name: &str) -> Latch {
        self.instance.latch(name)
    }

    fn line(&mut self) -> String {
        self.sidecar.line()
    }

    fn end(self) -> (u64, Vec<String>) {
        self.instance.wait_until_deserted();
        self.sidecar.terminate();
        let (mut lines, status) = self.sidecar.rest();
        assert!(status.success(), "{status}");
        let ended = lines.pop().unwrap();
        let tasks = ended.strip_prefix("ended Removed after ").and_then(|rest| rest.strip_suffix(" tasks"));
        assert_eq!(self.instance.files(), [""; 0]);
        (tasks.unwrap_or_else(|| panic!("{ended}")).parse().unwrap(), lines)
    }
}

/// The sidecar runs in the process of its clients.
pub(crate) struct InOneProcess {
    sidecar: SidecarHandle,
    lines: Receiver<String>,
    instance: TestInstance,
}

impl Stage for InOneProcess {
    fn start() -> Self {
        let instance = TestInstance::new("one");
        let (tell, lines) = channel();
        let tell = move |line: std::fmt::Arguments<'_>| {
            let _ = tell.send(line.to_string()); // a test that has failed reads no more
        };
        let registry = handlers::registry(instance.folder().to_owned(), tell, Others::default()).unwrap();
        let sidecar = Sidecar::builder()
            .instance(instance.name().clone())
            .registry(registry)
            .lanes(LANES)
            .capacity(CAPACITY as u32)
            .request_bytes(REQUEST_BYTES as u32)
            .response_bytes(RESPONSE_BYTES as u32)
            .cpus(&[0; WORKERS as usize])
            .pinned(false)
            .idle(IdleStrategy::Yield)
            .start()
            .unwrap();
        Self { sidecar, lines, instance }
    }

    fn connect_with(&self, options: ConnectOptions) -> Client {
        options.timeout(FAIL_SAFE).connect(self.instance.name()).unwrap()
    }

    fn latch(&self, name: &str) -> Latch {
        self.instance.latch(name)
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(FAIL_SAFE).unwrap()
    }

    fn end(self) -> (u64, Vec<String>) {
        self.instance.wait_until_deserted();
        self.sidecar.stop();
        let report = self.sidecar.join().unwrap();
        assert_eq!(report.ending, Ending::Removed);
        assert_eq!(self.instance.files(), [""; 0]);
        (report.stats.tasks, self.lines.try_iter().collect())
    }
}
