//! The sidecar as a library: set it up, start it, stop it with manners.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use executor_core::clock::ClockSource;
use executor_core::cpu::{self, CpuError};
use executor_core::idle::IdleStrategy;
use executor_core::registry::{Registry, RegistryError, TableError};
use executor_core::worker::{QUANTUM, Worker, WorkerOptions};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::fault::{self, Running, Witness};
use crate::files::{FileError, InstanceName, realtime_ns};
use crate::handle::SidecarHandle;
use crate::housekeeping::{Housekeeping, Orders};
use crate::layout::{LINE, journal, status};
use crate::master::{Master, MasterError};
use crate::signals;
use crate::state::InstanceState;
use crate::status as table;
use crate::wanted::Wanted;
use crate::words::{Words, WordsMut};

/// How long a stop serves what is committed, unless configured.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The sidecar of one instance: entry point of this module.
#[derive(Debug)]
pub struct Sidecar;

impl Sidecar {
    /// A sidecar for instance `default`, with no handlers, one worker on the last allowed CPU that no living instance
    /// uses, 1,024 slots a lane, 256 + 256 bytes of buffers a slot and up to 16 lanes.
    pub fn builder() -> SidecarBuilder {
        SidecarBuilder::default()
    }
}

/// What a sidecar is to be. Sizes that are not set are those of the files that are there, or the defaults.
#[derive(Debug)]
pub struct SidecarBuilder {
    instance: InstanceName,
    registry: Option<Registry>,
    wanted: Wanted,
    cpus: Vec<u32>,
    pin: bool,
    idle: Option<IdleStrategy>,
    quantum: u32,
    drain_time: Duration,
}

impl Default for SidecarBuilder {
    fn default() -> Self {
        Self {
            instance: InstanceName::default(),
            registry: None,
            wanted: Wanted::default(),
            cpus: Vec::new(),
            pin: true,
            idle: None,
            quantum: QUANTUM,
            drain_time: DRAIN_TIME,
        }
    }
}

/// Why a sidecar did not start. Nothing of another instance or of a living one was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Mend the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The instance's files could not be taken.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// The instance's lanes could not be made or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A CPU cannot be used.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A CPU was named twice; a worker wants one for itself.
    #[error("CPU {cpu} is named twice; each worker needs one of its own")]
    CpuTwice {
        /// The CPU.
        cpu: u32,
    },
    /// A handler's own state could not be made.
    #[error(transparent)]
    Handler(#[from] TableError),
    /// More handlers than the instance's files have room for. Remove the instance's files first.
    #[error("instance {instance} has room for {room} handlers, retired ones included; remove its files first")]
    NoRoom {
        /// The instance.
        instance: InstanceName,
        /// Rows there are.
        room: u32,
    },
    /// The kernel gave no thread or descriptor.
    #[error("cannot start a thread of the sidecar")]
    Thread(#[source] std::io::Error),
}

impl SidecarBuilder {
    /// The instance to serve.
    #[must_use]
    pub fn instance(mut self, instance: InstanceName) -> Self {
        self.instance = instance;
        self
    }

    /// The handlers.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Most lanes, 1 to 1,024.
    #[must_use]
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.wanted.lanes = Some(lanes);
        self
    }

    /// Slots of a lane, a power of two from 2 to 65,536.
    #[must_use]
    pub fn capacity(mut self, slots: u32) -> Self {
        self.wanted.capacity = Some(slots);
        self
    }

    /// Bytes of a request buffer, a multiple of 64. Up to 32 bytes need none.
    #[must_use]
    pub fn request_bytes(mut self, bytes: u32) -> Self {
        self.wanted.request_bytes = Some(bytes);
        self
    }

    /// Bytes of a response buffer, a multiple of 64. Up to 24 bytes need none.
    #[must_use]
    pub fn response_bytes(mut self, bytes: u32) -> Self {
        self.wanted.response_bytes = Some(bytes);
        self
    }

    /// One worker pinned to each of these CPUs; empty for one worker on the default CPU.
    #[must_use]
    pub fn cpus(mut self, cpus: &[u32]) -> Self {
        self.cpus = cpus.to_vec();
        self
    }

    /// Whether to pin workers at all: for tests of many sidecars on few CPUs. One worker, wherever the kernel puts it.
    #[must_use]
    pub fn pinned(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// What workers do between tasks. Unset: spin, then yield; with a single CPU, yield at once.
    #[must_use]
    pub fn idle(mut self, idle: IdleStrategy) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Whether tasks carry timestamps.
    #[must_use]
    pub fn timing(mut self, timing: bool) -> Self {
        self.wanted.timing = Some(timing);
        self
    }

    /// Most tasks a lane is served before the next lane of its priority has its turn.
    #[must_use]
    pub fn quantum(mut self, tasks: u32) -> Self {
        self.quantum = tasks;
        self
    }

    /// How long a stop serves what is committed.
    #[must_use]
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// Takes the instance, recovers what an earlier life left, and serves. When it returns, clients can connect.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(self) -> Result<SidecarHandle, StartError> {
        fault::install(); // before any lane is mapped: a truncated file is met while mapping already
        let registry = match self.registry {
            Some(registry) => registry,
            None => Registry::builder().build()?,
        };
        let allowed = cpu::allowed_cpus()?;
        let cpus = choose_cpus(&self.cpus, self.pin, &allowed)?;
        let idle = self.idle.unwrap_or_else(|| IdleStrategy::default_on(allowed.len()));
        let source = ClockSource::detect();
        let workers = cpus.len() as u32;
        let wanted = Wanted { handlers: registry.handlers().len() as u32, workers, ..self.wanted };

        let master = Master::acquire(&self.instance, &wanted, Some(source))?;
        let clock = master.settle_clock(source);
        let (status, geometry) = (master.status.clone(), master.geometry);
        let old_rows = if master.is_new() { Vec::new() } else { table::load_registry(&status, &geometry) };
        // A `status` made anew knows no generation; the journal remembers. What attached under it then finds every
        // handler changed, which is the safe side.
        let generation = status.load(status::GENERATION).max(master.journal.load(journal::GENERATION)) as u32;
        let merged = table::merge_registry(&old_rows, &registry, generation, geometry.handlers);
        let Some((rows, generation)) = merged else {
            return Err(StartError::NoRoom { instance: self.instance, room: geometry.handlers });
        };
        status.store(status::EPOCH, status.load(status::EPOCH).wrapping_add(1));
        status.store(status::PID, u64::from(std::process::id()));
        status.store(status::STARTED_AT, realtime_ns());
        status.store(status::WORKERS_USED, u64::from(workers));

        let orders = Arc::new(Orders::default());
        let (mut housekeeping, recovery) = Housekeeping::recover(
            master,
            clock,
            (&old_rows, &rows, generation),
            &registry,
            Arc::clone(&orders),
            self.drain_time,
        )?;
        // After recovery: a start killed before this point leaves the old rows for the next one to judge by.
        table::store_registry(&status, &geometry, &rows, generation);
        housekeeping.master.journal.store(journal::GENERATION, u64::from(generation));
        housekeeping.master.sweep()?;
        housekeeping.make_first_lanes()?;

        let ended =
            Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|errno| StartError::Thread(errno.into()))?);
        let problem = Arc::clone(&housekeeping.problem);
        let since = table::since(&rows);
        let (go, wait) = mpsc::channel::<(Housekeeping, Vec<JoinHandle<bool>>)>();
        let bell = Arc::clone(&ended);
        // Before any worker is pinned, so that it inherits the whole set of CPUs.
        let keeper = spawn("executor-keeper", move || {
            let ending = wait.recv().ok().map(|(housekeeping, workers)| {
                let (ending, housekeeping) = housekeeping.run(workers);
                let attached = housekeeping.attached();
                drop(housekeeping); // both locks go free before anybody hears that it has ended
                (ending, attached)
            });
            let _ = bell.write(1);
            ending
        })?;
        let mut threads = Vec::new();
        let mut failure = None;
        for (number, &cpu) in (0u32..).zip(&cpus) {
            let options = WorkerOptions {
                worker: number,
                clock,
                timed: housekeeping.master.timed,
                idle,
                quantum: self.quantum,
                request_bytes: geometry.request_bytes as usize,
                meter: status.meter(geometry.meter(), geometry.meter_layout().words()),
                layout: geometry.meter_layout(),
            };
            let (worker, control) = Worker::new(options);
            housekeeping.controls.push(control);
            let running = Arc::new(Running::default());
            let witness = Witness::new(housekeeping.master.journal.clone(), Arc::clone(&running), number);
            housekeeping.running.push(running);
            let line = status::WORKERS + number as usize * LINE;
            status.store(line + status::WORKER_CPU, cpu.map_or(0, |cpu| u64::from(cpu) + 1));
            status.store(line + status::WORKER_IDLE, idle as u64);
            let (registry, since) = (registry.clone(), since.clone());
            let (tell, told) = mpsc::channel::<Result<(), StartError>>();
            let thread = spawn(&format!("executor-work-{number}"), move || {
                if let Some(cpu) = cpu
                    && let Err(error) = cpu::pin_current_thread(cpu)
                {
                    let _ = tell.send(Err(error.into()));
                    return false;
                }
                let ready = |result: Result<(), &TableError>| {
                    let _ = tell.send(result.map_err(|error| error.clone().into()));
                };
                witness.watch(|| worker.serve(&registry, &since, ready).is_ok())
            })?;
            threads.push(thread);
            let died = || StartError::Thread(std::io::Error::other("a worker ended before it was ready"));
            failure = told.recv().unwrap_or_else(|_| Err(died())).err().or(failure);
        }
        if let Some(failure) = failure {
            housekeeping.drain(threads); // new files go with their master; older ones stay for a start that succeeds
            drop(go);
            let _ = keeper.join();
            return Err(failure);
        }
        housekeeping.hand_over_recovered();
        housekeeping.master.set_state(InstanceState::Running);
        let bytes = status.load(status::FOOTPRINT);
        let timed = housekeeping.master.timed;
        if go.send((housekeeping, threads)).is_err() {
            return Err(StartError::Thread(std::io::Error::other("the housekeeping thread ended before it began")));
        }
        Ok(SidecarHandle {
            instance: self.instance,
            workers: cpus.len(),
            cpus: cpus.into_iter().flatten().collect(),
            geometry,
            bytes,
            idle,
            timed,
            clock: source,
            recovery,
            status,
            generation: crate::lock::fork_generation(),
            orders,
            problem,
            ended,
            keeper: Some(keeper),
        })
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(|| {
        signals::block_sent();
        body()
    });
    thread.map_err(StartError::Thread)
}

/// One worker a CPU; `None` leaves a worker where the kernel puts it.
fn choose_cpus(asked: &[u32], pin: bool, allowed: &[u32]) -> Result<Vec<Option<u32>>, StartError> {
    if !pin {
        return Ok(vec![None; asked.len().max(1)]);
    }
    for (at, &cpu) in asked.iter().enumerate() {
        cpu::check(cpu)?;
        if asked.iter().take(at).any(|&earlier| earlier == cpu) {
            return Err(StartError::CpuTwice { cpu });
        }
    }
    if !asked.is_empty() {
        return Ok(asked.iter().copied().map(Some).collect());
    }
    let taken = crate::inspect::cpus_in_use();
    let free = allowed.iter().rev().find(|cpu| !taken.contains(cpu));
    Ok(vec![free.or(allowed.last()).copied()])
}
