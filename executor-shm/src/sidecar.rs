//! The sidecar as a library: set it up, start it, stop it with manners.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use executor_core::clock::ClockSource;
use executor_core::cpu;
use executor_core::idle::IdleStrategy;
use executor_core::meter::WorkerWord;
use executor_core::recorder::Recording;
use executor_core::registry::Registry;
use executor_core::worker::{QUANTUM, Worker, WorkerOptions};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::barrier;
use crate::cpus::{choose_cpus, leaves_a_cpu};
use crate::crew::{Crew, Engagement};
use crate::fault::{self, Running, Witness};
use crate::files::{InstanceName, realtime_ns};
use crate::group::Group;
use crate::handle::SidecarHandle;
use crate::hold::{Held, HoldView, HoldWord, Holds, throttles};
use crate::housekeeping::{Housekeeping, Limits, Orders};
use crate::layout::{Geometry, LINE, journal, status};
use crate::master::{Master, MasterError};
use crate::mutant::Mutant;
use crate::rehearsal::{self, JoinHandle};
use crate::signals;
use crate::sleep::{self, Sleeper};
use crate::slice::ShortSlice;
use crate::standby::Standby;
use crate::state::InstanceState;
use crate::status::{self as table, HandlerRow};
use crate::wanted::Wanted;
use crate::warm::Warm;
use crate::words::{Words, WordsMut};
use executor_core::real_time::RealTime;

pub use crate::refusal::StartError;

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
    recording: Recording,
    drain_time: Duration,
    holds: Holds,
    /// Others than the default are for tests alone.
    pub(crate) limits: Limits,
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
            recording: Recording::default(),
            drain_time: DRAIN_TIME,
            holds: Holds::default(),
            limits: Limits::default(),
        }
    }
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

    /// Lets in producers of other users that are members of this group. Unset, new files are their owner's alone. It is
    /// fixed with the files, and a later start need not say it again.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.wanted.group = Some(group);
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

    /// What workers do between tasks. Unset: [`IdleStrategy::default_on`] the CPUs that are allowed.
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

    /// What is recorded beside counts, and after how long a task is slow. Without it there are no histograms, no bytes and no
    /// times, and nobody can say afterwards why a task was slow.
    #[must_use]
    pub fn recording(mut self, recording: Recording) -> Self {
        self.recording = recording;
        self
    }

    /// How long a stop serves what is committed.
    #[must_use]
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// Keeps all CPUs of the machine out of any sleep that they are not back from within so many microseconds, 0 for none,
    /// for as long as the sidecar lives: PM QoS, by `/dev/cpu_dma_latency`. It costs power. What is refused is no error:
    /// see [`SidecarHandle::holds`].
    #[must_use]
    pub fn cpu_latency(mut self, microseconds: u32) -> Self {
        self.holds.cpu_latency_us = Some(microseconds);
        self
    }

    /// Schedules workers before everything that has no real-time priority. Refused at the start if that leaves no CPU for
    /// anybody else; what the system refuses is no error: see [`SidecarHandle::holds`].
    #[must_use]
    pub fn real_time(mut self, real_time: RealTime) -> Self {
        self.holds.real_time = Some(real_time);
        self
    }

    /// Whether all memory of the process is locked, for as long as the process lives. What is refused is no error: see
    /// [`SidecarHandle::holds`].
    #[must_use]
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.holds.memory = lock;
        self
    }

    /// The sizes of the files that a start makes where there are none yet.
    pub fn new_geometry(&self) -> Geometry {
        let handlers = self.registry.as_ref().map_or(0, |registry| registry.handlers().len()) as u32;
        Wanted { handlers, workers: self.cpus.len().max(1) as u32, ..self.wanted }.geometry()
    }

    /// Takes the instance, recovers what an earlier life left, and serves. When it returns, clients can connect.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(self) -> Result<SidecarHandle, StartError> {
        let plan = self.plan()?;
        let master = Master::acquire(&plan.instance, &plan.wanted, Some(plan.source))?;
        let crew = Crew::call(&plan.registry, &plan.cpus, plan.holds.real_time)?;
        plan.serve(master, crew, Warm::default())
    }

    /// Makes everything ready to serve that can be ready while another sidecar serves the instance, and waits for the end
    /// of that one in [`Standby::take_over`]: files mapped, threads started and pinned, per-worker handlers made. If
    /// nobody serves the instance it is taken at once, and `take_over` does not wait.
    ///
    /// The default CPU is chosen as if nobody served this instance. Others do not see the choice before it serves; where
    /// that matters, choose [`cpus`](Self::cpus).
    ///
    /// # Errors
    ///
    /// See [`StartError`]: what could never be served is refused now, and not first when it is needed.
    pub fn stand_by(self) -> Result<Standby, StartError> {
        Standby::new(self.plan()?)
    }

    fn plan(self) -> Result<Plan, StartError> {
        fault::install(); // before any lane is mapped: a truncated file is met while mapping already
        barrier::is_registered(); // takes its time, which a standby has now
        let registry = match self.registry {
            Some(registry) => registry,
            None => Registry::builder().build()?,
        };
        let allowed = cpu::allowed_cpus()?;
        let cpus = choose_cpus(&self.instance, &self.cpus, self.pin, &allowed)?;
        if self.holds.real_time.is_some() && !leaves_a_cpu(&cpus, &allowed) {
            return Err(StartError::NoCpuLeft { workers: cpus.len(), allowed: allowed.len() });
        }
        let (handlers, workers) = (registry.handlers().len() as u32, cpus.len() as u32);
        Ok(Plan {
            instance: self.instance,
            registry,
            wanted: Wanted { handlers, workers, ..self.wanted },
            cpus,
            idle: self.idle.unwrap_or_else(|| IdleStrategy::default_on(allowed.len())),
            quantum: self.quantum,
            recording: self.recording,
            drain_time: self.drain_time,
            holds: self.holds,
            held: None,
            limits: self.limits,
            source: ClockSource::detect(),
        })
    }
}

/// A sidecar that owns nothing yet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) instance: InstanceName,
    pub(crate) registry: Registry,
    pub(crate) wanted: Wanted,
    /// One for each worker; `None` is not pinned.
    pub(crate) cpus: Vec<Option<u32>>,
    idle: IdleStrategy,
    quantum: u32,
    recording: Recording,
    drain_time: Duration,
    pub(crate) holds: Holds,
    /// What of them was taken.
    held: Option<Held>,
    limits: Limits,
    pub(crate) source: ClockSource,
}

impl Plan {
    /// The registry table after a start, given its rows and generation before; see [`table::merge_registry`].
    pub(crate) fn merge_registry(
        &self,
        old_rows: &[HandlerRow],
        generation: u32,
        room: u32,
    ) -> Result<(Vec<HandlerRow>, u32), StartError> {
        table::merge_registry(old_rows, &self.registry, generation, room)
            .ok_or_else(|| StartError::NoRoom { instance: self.instance.clone(), room })
    }

    /// Takes what of the process is to be held, unless it was taken before.
    pub(crate) fn take_holds(&mut self) {
        self.held.get_or_insert_with(|| self.holds.take());
    }

    /// How each worker is scheduled, as `status` tells it.
    fn real_time(&self, crew: &Crew) -> Vec<HoldWord> {
        let is_throttled = !self.idle.may_sleep() && throttles();
        crew.real_time().into_iter().map(|word| word.throttled(is_throttled)).collect()
    }

    /// Everything that was asked for to be held, and what came of it.
    pub(crate) fn holds(&self, crew: &Crew) -> Vec<HoldView> {
        let held = self.held.as_ref();
        let cpu_latency = held.and_then(|held| HoldView::cpu_latency(held.cpu_latency.0));
        let memory = held.and_then(|held| HoldView::memory(held.memory.0));
        let workers = (0u32..).zip(self.real_time(crew));
        let real_time = workers.filter_map(|(worker, word)| HoldView::real_time(word.0, worker));
        cpu_latency.into_iter().chain(memory).chain(real_time).collect()
    }

    /// Recovers what an earlier life left, and serves. Whatever is warm is looked at again.
    pub(crate) fn serve(mut self, master: Master, mut crew: Crew, mut warm: Warm) -> Result<SidecarHandle, StartError> {
        let clock = master.settle_clock(self.source);
        let (status, geometry) = (master.status.clone(), master.geometry);
        let old_rows = if master.is_new() { Vec::new() } else { table::load_registry(&status, &geometry) };
        // A `status` made anew knows no generation; the journal remembers. What attached under it then finds every
        // handler changed, which is the safe side.
        let generation = status.load(status::GENERATION).max(master.journal.load(journal::GENERATION)) as u32;
        let (rows, generation) = self.merge_registry(&old_rows, generation, geometry.handlers)?;
        if !Mutant::EpochNotRaised.is_on() {
            status.store(status::EPOCH, status.load(status::EPOCH).wrapping_add(1));
        }
        status.store(status::PID, u64::from(std::process::id()));
        status.store(status::STARTED_AT, realtime_ns());
        status.store(status::WORKERS_USED, self.cpus.len() as u64);

        let orders = Arc::new(Orders::default());
        let (mut housekeeping, recovery) = Housekeeping::recover(
            master,
            clock,
            (&old_rows, &rows, generation),
            &self.registry,
            Arc::clone(&orders),
            (self.drain_time, self.limits),
            &mut warm,
        )?;
        crew.muster()?;
        // After recovery: a start killed before this point leaves the old rows for the next one to judge by.
        table::store_registry(&status, &geometry, &rows, generation);
        housekeeping.master.journal.store(journal::GENERATION, u64::from(generation));
        housekeeping.master.sweep()?;
        housekeeping.make_first_lanes()?;
        if !housekeeping.master.is_intact() {
            return Err(MasterError::NamesLost { instance: self.instance }.into());
        }

        let ended =
            Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|errno| StartError::Thread(errno.into()))?);
        let problem = Arc::clone(&housekeeping.problem);
        let (go, wait) = mpsc::channel::<(Housekeeping, Vec<JoinHandle<bool>>)>();
        let bell = Arc::clone(&ended);
        let keeper = spawn("executor-keeper", move || {
            let _short = ShortSlice::take();
            let ending = rehearsal::receive(&wait).ok().map(|(housekeeping, workers)| {
                let (ending, housekeeping) = housekeeping.run(workers);
                let attached = housekeeping.attached();
                drop(housekeeping); // both locks go free before anybody hears that it has ended
                (ending, attached)
            });
            let _ = bell.write(1);
            ending
        })?;
        self.take_holds();
        let (holds, real_time) = (self.holds(&crew), self.real_time(&crew));
        let of_process = |hold: fn(&Held) -> HoldWord| self.held.as_ref().map_or(0, |held| hold(held).0);
        status.store(status::HOLD_CPU_LATENCY, of_process(|held| held.cpu_latency));
        status.store(status::HOLD_MEMORY, of_process(|held| held.memory));
        status.store(status::SLOW_AFTER, table::slow_after_word(self.recording));
        // What workers of the last start served, of which there may have been more, nobody serves now.
        let (meter, layout) = (geometry.meter(), geometry.meter_layout());
        for worker in 0..layout.workers {
            status.store(meter + layout.worker(worker) + WorkerWord::Lanes as usize, 0);
        }
        let (mut engagements, since) = (Vec::new(), table::since(&rows));
        let lacks = sleep::lacks();
        for (number, &cpu) in (0u32..).zip(&self.cpus) {
            let (worker, control) = Worker::new(WorkerOptions {
                worker: number,
                clock,
                timed: housekeeping.master.timed,
                idle: self.idle,
                quantum: self.quantum,
                request_bytes: geometry.request_bytes as usize,
                recording: self.recording,
                meter: status.meter(geometry.meter(), geometry.meter_layout().words()),
                layout: geometry.meter_layout(),
            });
            let worker = worker.sleeping(Box::new(Sleeper::new(clock, housekeeping.master.timed)));
            housekeeping.controls.push(control);
            let running = Arc::new(Running::default());
            let witness = Witness::new(housekeeping.master.journal.clone(), Arc::clone(&running), number);
            housekeeping.running.push(running);
            let line = status::WORKERS + number as usize * LINE;
            status.store(line + status::WORKER_CPU, cpu.map_or(0, |cpu| u64::from(cpu) + 1));
            status.store(line + status::WORKER_IDLE, self.idle as u64);
            status.store(line + status::WORKER_LACKS, lacks);
            status.store(line + status::WORKER_REAL_TIME, real_time.get(number as usize).map_or(0, |word| word.0));
            engagements.push(Engagement { worker, witness, since: since.clone() });
        }
        let threads = crew.engage(engagements);
        housekeeping.note_start(recovery.lanes);
        housekeeping.hand_over_recovered();
        housekeeping.master.set_state(InstanceState::Running);
        let bytes = status.load(status::FOOTPRINT);
        let (timed, group) = (housekeeping.master.timed, housekeeping.master.group);
        if go.send((housekeeping, threads)).is_err() {
            return Err(StartError::Thread(std::io::Error::other("the housekeeping thread ended before it began")));
        }
        drop(warm); // what was mapped and not needed after all
        Ok(SidecarHandle {
            instance: self.instance,
            workers: self.cpus.len(),
            cpus: self.cpus.into_iter().flatten().collect(),
            geometry,
            bytes,
            idle: self.idle,
            holds,
            _held: self.held,
            timed,
            group,
            clock: self.source,
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

pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    let thread = rehearsal::spawn(name, || {
        signals::block_sent();
        body()
    });
    thread.map_err(StartError::Thread)
}
