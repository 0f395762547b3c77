//! Where promises are kept: a sidecar of the test handlers with the sizes below, and clients of it, in whatever processes
//! they are.

use std::sync::mpsc::{Receiver, channel};

use executor_client::{Client, ConnectOptions, Status, TaskDescriptor, TaskSpec};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::{ExecutorConfig, Task, TaskExecutor, TicketError};
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

/// One who calls registered handlers: a client over its lane, or a thread of a program that embeds the executor.
pub(crate) trait Caller: Sized {
    /// A claim on what becomes of a call.
    type Claim;

    /// Somewhere to call, with nobody else who calls.
    fn start() -> Self;

    /// Submits a call, for which there is room.
    fn submit(&mut self, handler: u32, payload: &[u8]) -> Self::Claim;

    /// The task's number.
    fn id(claim: &Self::Claim) -> u64;

    /// How it ended, with its response or the text of its failure.
    fn end(&mut self, claim: Self::Claim) -> (Status, Vec<u8>);

    /// A typed call.
    fn call<T: TaskSpec<Output: Send>>(&mut self, args: &T::Args) -> T::Output;

    /// What a handler tells next.
    fn line(&mut self) -> String;

    /// Ends everything; how many tasks ran and what handlers told that nobody has read.
    fn finish(self) -> (u64, Vec<String>);
}

/// A client on a stage.
pub(crate) struct OverLane<S> {
    client: Client,
    stage: S,
}

impl<S: Stage> Caller for OverLane<S> {
    type Claim = executor_client::Ticket;

    fn start() -> Self {
        let stage = S::start();
        Self { client: stage.connect(), stage }
    }

    fn submit(&mut self, handler: u32, payload: &[u8]) -> Self::Claim {
        self.client.submit_ticket(&TaskDescriptor::new(handler), payload).unwrap()
    }

    fn id(claim: &Self::Claim) -> u64 {
        claim.task_id().as_u64()
    }

    fn end(&mut self, mut claim: Self::Claim) -> (Status, Vec<u8>) {
        let completion = self.client.wait_timeout(&mut claim, FAIL_SAFE).unwrap();
        (completion.status(), completion.response().to_vec())
    }

    fn call<T: TaskSpec<Output: Send>>(&mut self, args: &T::Args) -> T::Output {
        self.client.call_timeout::<T>(args, FAIL_SAFE).unwrap()
    }

    fn line(&mut self) -> String {
        self.stage.line()
    }

    fn finish(self) -> (u64, Vec<String>) {
        drop(self.client);
        self.stage.end()
    }
}

/// The program embeds the executor. One worker, as a lane has.
pub(crate) struct Embedded {
    executor: TaskExecutor,
    lines: Receiver<String>,
    _instance: TestInstance,
}

impl Caller for Embedded {
    type Claim = executor_shm::core::Ticket<Vec<u8>>;

    fn start() -> Self {
        let instance = TestInstance::new("embedded");
        let (tell, lines) = channel();
        let tell = move |line: std::fmt::Arguments<'_>| {
            let _ = tell.send(line.to_string()); // a test that has failed reads no more
        };
        let registry = handlers::registry(instance.folder().to_owned(), tell, Others::default()).unwrap();
        let config = ExecutorConfig { worker_threads: 1, max_queue_depth: CAPACITY, ..ExecutorConfig::default() };
        let builder = TaskExecutor::builder(config).registry(registry).response_bytes(RESPONSE_BYTES);
        Self { executor: builder.build().unwrap(), lines, _instance: instance }
    }

    fn submit(&mut self, handler: u32, payload: &[u8]) -> Self::Claim {
        self.executor.submit_call(Task::call(handler, payload)).unwrap()
    }

    fn id(claim: &Self::Claim) -> u64 {
        claim.task_id().as_u64()
    }

    fn end(&mut self, claim: Self::Claim) -> (Status, Vec<u8>) {
        match claim.wait(FAIL_SAFE) {
            Ok(response) => (Status::Done, response),
            Err(TicketError::Failed(error)) => (Status::Failed { code: error.code() }, error.message().into()),
            Err(TicketError::Panicked(text)) => (Status::Panicked, text.into()),
            Err(TicketError::Unanswered { status }) => (status, Vec::new()),
            Err(error) => panic!("{error}"),
        }
    }

    fn call<T: TaskSpec<Output: Send>>(&mut self, args: &T::Args) -> T::Output {
        self.executor.submit_typed::<T>(args).unwrap().wait(FAIL_SAFE).unwrap()
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(FAIL_SAFE).unwrap()
    }

    fn finish(self) -> (u64, Vec<String>) {
        self.executor.shutdown_timeout(FAIL_SAFE).unwrap();
        (self.executor.stats().tasks_executed.into_inner(), self.lines.try_iter().collect())
    }
}
