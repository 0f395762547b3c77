//! A sidecar in a process of its own, or several that follow each other: the bench started once more, with other arguments.
//!
//! Whatever ends the bench, Ctrl-C and a panic included, ends the sidecars too and leaves nothing in `/dev/shm`. Only
//! processes that were started here are ever signalled, and only by their pid while they are unreaped.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use executor_client::{Client, ConnectOptions, InstanceName};
use executor_core::Registry;
use executor_core::idle::IdleStrategy;
use executor_core::recorder::Recording;
use executor_core::registry::RegistryError;
use executor_shm::{Sidecar, StopSignals};
use executord::floor::CAPACITY;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// First argument of a bench that is to be a sidecar.
const SIDECAR: &str = "serve-as-sidecar";
/// What a standby says once it is ready.
const STANDS_BY: &str = "stands by";
/// For a start, for a connect and for an orderly end; all of them take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a sidecar is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// The CPU of its only worker.
    pub(crate) cpu: u32,
    /// The most lanes.
    pub(crate) lanes: u32,
    /// Slots of a lane.
    pub(crate) capacity: u32,
    /// Bytes of a request buffer.
    pub(crate) request_bytes: u32,
    /// Whether tasks are stamped.
    pub(crate) timing: bool,
    /// What its worker does between tasks.
    pub(crate) idle: IdleStrategy,
    /// Whether histograms, times and the flight recorder are kept.
    pub(crate) records: bool,
}

impl Setup {
    /// A default lane, stamps, and a worker that spins.
    pub(crate) fn one_lane(cpu: u32) -> Self {
        let (capacity, idle) = (CAPACITY as u32, IdleStrategy::Spin);
        Self { cpu, lanes: 1, capacity, request_bytes: 256, timing: true, idle, records: true }
    }
}

/// The one instance that is served now, where the thread that waits for signals finds it.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

struct Running {
    /// The first one serves; the others stand by.
    children: VecDeque<Child>,
    instance: InstanceName,
}

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running sidecar; dropping it ends it, and those that stand by.
#[derive(Debug)]
pub(crate) struct SidecarProcess {
    instance: InstanceName,
    setup: Setup,
}

/// What a process of an instance is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Serve,
    StandBy,
}

impl SidecarProcess {
    /// Starts a sidecar under a name that no other run uses. One instance at a time.
    pub(crate) fn start(setup: &Setup) -> Result<Self, Box<dyn Error>> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance: InstanceName = format!("bench-{}-{count}", std::process::id()).parse()?;
        *running() = Some(Running { children: VecDeque::new(), instance: instance.clone() });
        let this = Self { instance, setup: *setup };
        this.spawn(Role::Serve)?;
        Ok(this)
    }

    /// Starts a process for this instance; returns what it says.
    fn spawn(&self, role: Role) -> Result<BufReader<ChildStdout>, Box<dyn Error>> {
        let setup = &self.setup;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SIDECAR).arg(std::process::id().to_string()).arg(self.instance.to_string());
        command.args([setup.cpu, setup.lanes, setup.capacity, setup.request_bytes].map(|number| number.to_string()));
        command.args([
            &setup.timing.to_string(),
            setup.idle.name(),
            &(role == Role::StandBy).to_string(),
            &setup.records.to_string(),
        ]);
        // A group of its own: Ctrl-C reaches the bench alone, which then ends the sidecar in order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut running = running();
        let mut child = command.spawn()?;
        let said = child.stdout.take().map(BufReader::new).ok_or("a process without output")?;
        match &mut *running {
            Some(running) => running.children.push_back(child),
            None => return Err("the bench is ending".into()),
        }
        Ok(said)
    }

    /// Starts a standby and waits until it stands by and waits for the locks with all its threads at rest, as one that has
    /// stood by for a while does.
    #[allow(dead_code, reason = "not every bench lets sidecars follow each other")]
    pub(crate) fn stand_by(&self) -> Result<(), Box<dyn Error>> {
        let mut said = self.spawn(Role::StandBy)?;
        let mut line = String::new();
        said.read_line(&mut line)?;
        if line.trim() != STANDS_BY {
            return Err(format!("the standby said {line:?}").into());
        }
        let pid = running().as_ref().and_then(|running| running.children.back().map(Child::id)).unwrap_or_default();
        while !waits_at_rest(pid)? {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Starts another sidecar after one that is dead.
    #[allow(dead_code, reason = "not every bench lets sidecars follow each other")]
    pub(crate) fn restart(&self) -> Result<(), Box<dyn Error>> {
        self.spawn(Role::Serve).map(drop)
    }

    /// Takes charge of the process that serves, to end it and to wait for that.
    #[allow(dead_code, reason = "not every bench lets sidecars follow each other")]
    pub(crate) fn take_serving(&self) -> Result<Child, Box<dyn Error>> {
        let serving = running().as_mut().and_then(|running| running.children.pop_front());
        serving.ok_or_else(|| "no sidecar runs".into())
    }

    /// The pid of the process that serves.
    #[allow(dead_code, reason = "not every bench looks what a sidecar burns")]
    pub(crate) fn pid(&self) -> Result<u32, Box<dyn Error>> {
        let serving = running().as_ref().and_then(|running| running.children.front().map(Child::id));
        serving.ok_or_else(|| "no sidecar runs".into())
    }

    /// Connects once the sidecar serves.
    #[allow(dead_code, reason = "not every bench looks at lanes alone")]
    pub(crate) fn connect(&self) -> Result<Client, Box<dyn Error>> {
        // What is measured is a lane, not a wake-up: the client never sleeps either.
        self.connect_idle(IdleStrategy::SpinThenYield)
    }

    /// The same, with waits of the client's by another strategy.
    pub(crate) fn connect_idle(&self, idle: IdleStrategy) -> Result<Client, Box<dyn Error>> {
        Ok(ConnectOptions::new().idle(idle).timeout(PATIENCE).connect(&self.instance)?)
    }
}

impl Drop for SidecarProcess {
    fn drop(&mut self) {
        end(&mut running());
    }
}

/// Ends the sidecar and those that stand by, waits for them and removes what they left.
fn end(running: &mut Option<Running>) {
    let Some(Running { mut children, instance }) = running.take() else { return };
    let until = Instant::now() + PATIENCE;
    // The last first: a standby that outlives what it waits for would serve.
    while let Some(mut child) = children.pop_back() {
        // Unreaped and ours, so the pid is still its own.
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    let ours = format!("executor.{instance}.");
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&ours) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// From now on a signal that asks the bench to end also ends its sidecar.
pub(crate) fn end_on_signals() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end(&mut running());
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Serves `registry` until a signal if the arguments say so, and returns how that ended; `None` for a bench.
pub(crate) fn serve_if_asked(registry: impl FnOnce() -> Result<Registry, RegistryError>) -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, arguments @ ..] = &arguments[..] else { return None };
    if first != SIDECAR {
        return None;
    }
    Some(match serve(arguments, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the sidecar of the bench: {error}");
            ExitCode::FAILURE
        }
    })
}

fn serve(
    arguments: &[String],
    registry: impl FnOnce() -> Result<Registry, RegistryError>,
) -> Result<(), Box<dyn Error>> {
    let [parent, instance, cpu, lanes, capacity, request_bytes, timing, idle, stands_by, records] = arguments else {
        return Err("wrong number of arguments".into());
    };
    let signals = StopSignals::block()?;
    set_pdeathsig(Signal::SIGTERM)?;
    if getppid().to_string() != *parent {
        return Ok(()); // it died before the line above
    }
    let sidecar = Sidecar::builder()
        .instance(instance.parse()?)
        .registry(registry()?)
        .lanes(lanes.parse()?)
        .capacity(capacity.parse()?)
        .request_bytes(request_bytes.parse()?)
        .cpus(&[cpu.parse()?])
        .idle(idle.parse()?)
        .timing(timing.parse()?)
        .recording(if records.parse()? { Recording::default() } else { Recording::Off });
    let handle = if stands_by.parse()? {
        let standby = sidecar.stand_by()?;
        println!("{STANDS_BY}");
        standby.take_over_unless(&signals)?
    } else {
        Some(sidecar.start()?)
    };
    if let Some(handle) = handle {
        handle.run_until(&signals)?;
    }
    Ok(())
}

/// Whether all threads of the process sleep, and one of them waits for locks.
fn waits_at_rest(pid: u32) -> std::io::Result<bool> {
    let (mut waits, mut rests) = (false, true);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        waits |= stat.contains("(executor-waite"); // names have 15 letters there
        rests &= stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'));
    }
    Ok(waits && rests)
}
