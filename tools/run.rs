//! `executord run`: a sidecar from its options to its totals.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use executor_core::recorder::Recording;
use executor_core::{Registry, RegistryBuilder, RegistryError, Status};
use executor_shm::clean::{CleanOptions, clean};
use executor_shm::files::FileError;
use executor_shm::{
    Ending, Group, MasterError, Moment, Sidecar, SidecarBuilder, SidecarHandle, StartError, StopError, StopReport,
    StopSignals,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use crate::config::ConfigError;
use crate::exit::{FAILED, USAGE, print};
use crate::holds::{complain, holds_json};
use crate::metrics::{Page, PageError, listen};
use crate::notify::Notifier;
use crate::respawn::line_to;
use crate::settings::Settings;
use crate::standby::stand_by;
use crate::units::{bytes, count, counted, nanoseconds};

/// Why nothing was served, or not to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Mend the variable or the file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Mend the handlers.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// See the reason.
    #[error(transparent)]
    Start(#[from] StartError),
    /// See the reason.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// See the reason.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The kernel gave no signal descriptor.
    #[error("cannot listen for Ctrl-C and SIGTERM")]
    Signals(#[source] std::io::Error),
    /// Leave out `--supervisor`: it is for a child of `--respawn`.
    #[error("this is no child of a supervisor {0} that lives")]
    Supervisor(u32),
    /// The kernel gave no descriptor.
    #[error("cannot talk to the supervisor")]
    Line(#[source] std::io::Error),
    /// Do not remove files of a running instance.
    #[error("somebody removed the files of instance {0} while it ran; its producers have lost it")]
    NamesLost(String),
}

impl RunError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => USAGE,
            Self::Start(StartError::Cpu(_) | StartError::CpuTwice { .. } | StartError::NoCpuLeft { .. }) => USAGE,
            Self::Start(StartError::Master(MasterError::Geometry(_) | MasterError::File(FileError::Group(_)))) => USAGE,
            _ => FAILED,
        }
    }
}

/// What the process that started this one is to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// A shell, a service manager.
    Anybody,
    /// It holds the other end of standard input: when that ends, this ends and leaves no file.
    Holder,
    /// It starts another after a crash; its pid.
    Supervisor(u32),
}

/// Serves until a signal says stop, or a parent that matters is gone.
pub(crate) fn run(
    settings: &Settings,
    parent: Parent,
    register: impl FnOnce(&mut RegistryBuilder),
) -> Result<(), RunError> {
    // Before the start, so that a signal that comes during it is not lost.
    let signals = StopSignals::block().map_err(RunError::Signals)?;
    let line = match parent {
        Parent::Supervisor(pid) => Some(line_to(pid).map_err(RunError::Line)?.ok_or(RunError::Supervisor(pid))?),
        Parent::Anybody | Parent::Holder => None,
    };
    let mut registry = Registry::builder();
    register(&mut registry);
    let registry = registry.build()?;
    let handlers: Vec<String> = registry.handlers().iter().map(|handler| handler.name().to_owned()).collect();
    let as_json = settings.json.unwrap_or(false);
    let mut notifier = match (parent, line) {
        (_, Some(line)) => Some(Notifier::of_supervisor(line)),
        // Its parent is the manager; what the environment names is the parent's.
        (Parent::Holder, _) => None,
        _ => Notifier::of_this_process(),
    };
    let listener = match settings.metrics {
        // Whoever served before listens there until it has ended.
        Some(address) if settings.standby != Some(true) => match (listen(address), parent) {
            (Ok(listener), _) => Some(listener),
            // Its first start was tried before: a start again is not to fail for that.
            (Err(_), Parent::Supervisor(_)) => None,
            (Err(error), _) => return Err(error.into()),
        },
        _ => None,
    };
    let sidecar = sidecar(settings, registry);
    let handle = if settings.standby == Some(true) {
        stand_by(sidecar, &signals, notifier.as_mut(), &handlers, as_json)?
    } else {
        Some(sidecar.start()?)
    };
    let Some(handle) = handle else { return Ok(()) };
    if settings.standby != Some(true) {
        complain(handle.holds()); // a standby did when it began to wait
    }
    let page = settings.metrics.and_then(|address| open_page(&handle, address, listener));
    let started = Instant::now();
    // Before the line: whoever has read it may kill this process and expect a supervisor to start another.
    if let Some(notifier) = &mut notifier {
        notifier.ready(&serving_text(&handle, handlers.len()), handle.progress());
    }
    let metrics = page.as_ref().map(Page::address);
    say(as_json, || started_json(&handle, &handlers, metrics), || started_text(&handle, &handlers, metrics));
    if parent == Parent::Holder {
        std::thread::spawn(stop_at_end_of_input);
    }
    let name = handle.instance().clone();
    let instance = name.to_string();
    let report = serve(handle, &signals, notifier)?;
    drop(page); // so far it told of what is served in a stop
    let served_ns = started.elapsed().as_nanos() as u64;
    say(as_json, || stopped_json(&instance, &report, served_ns), || stopped_text(&instance, &report, served_ns));
    if parent == Parent::Holder {
        // The parent's producers end with it, perhaps a moment after this process: nobody will miss the rest.
        let _ = clean(&name, CleanOptions { discard: true, dry_run: false });
    }
    match report.ending {
        Ending::NamesLost => Err(RunError::NamesLost(instance)),
        Ending::Removed | Ending::Kept { .. } => Ok(()),
    }
}

/// The page with the metrics. It is no reason not to serve.
fn open_page(handle: &SidecarHandle, address: SocketAddr, listener: Option<TcpListener>) -> Option<Page> {
    let page = Page::open(handle.instance(), address, listener, handle.cpus());
    let page = page.inspect_err(|error| eprintln!("executord: no metrics: cannot start a thread: {error}")).ok()?;
    if let Some(warning) = page.warning() {
        eprintln!("executord: {warning}");
    }
    Some(page)
}

/// The sidecar that these settings ask for.
pub(crate) fn sidecar(settings: &Settings, registry: Registry) -> SidecarBuilder {
    let mut sidecar = Sidecar::builder()
        .instance(settings.instance.clone().unwrap_or_default())
        .registry(registry)
        .cpus(&settings.cpus)
        .pinned(settings.pinned.unwrap_or(true))
        .lock_memory(settings.lock_memory.unwrap_or(false));
    if let Some(lanes) = settings.lanes {
        sidecar = sidecar.lanes(lanes);
    }
    if let Some(slots) = settings.capacity {
        sidecar = sidecar.capacity(slots);
    }
    if let Some(bytes) = settings.request_bytes {
        sidecar = sidecar.request_bytes(bytes);
    }
    if let Some(bytes) = settings.response_bytes {
        sidecar = sidecar.response_bytes(bytes);
    }
    if let Some(group) = settings.group {
        sidecar = sidecar.group(group);
    }
    if let Some(idle) = settings.idle {
        sidecar = sidecar.idle(idle);
    }
    if let Some(tasks) = settings.quantum {
        sidecar = sidecar.quantum(tasks);
    }
    if let Some(time) = settings.drain {
        sidecar = sidecar.drain_time(time);
    }
    if let Some(us) = settings.cpu_latency {
        sidecar = sidecar.cpu_latency(us);
    }
    if let Some(real_time) = settings.real_time {
        sidecar = sidecar.real_time(real_time);
    }
    if let Some(timing) = settings.timing {
        sidecar = sidecar.timing(timing);
    }
    if settings.recording == Some(false) {
        sidecar = sidecar.recording(Recording::Off);
    } else if let Some(time) = settings.slow_after {
        sidecar = sidecar.recording(Recording::SlowAfter(time));
    }
    sidecar
}

/// Waits for the end, and keeps the service manager informed if there is one.
fn serve(handle: SidecarHandle, signals: &StopSignals, notifier: Option<Notifier>) -> Result<StopReport, StopError> {
    let Some(mut notifier) = notifier else { return handle.run_until(signals) };
    // Without a watchdog only the stop is of interest.
    let interval = notifier.interval().unwrap_or(Duration::MAX);
    handle.run_until_ticking(signals, interval, |handle, moment| match moment {
        Moment::Tick => notifier.look(handle.progress()),
        Moment::Stopping => notifier.stopping("serving what was accepted, then stopping"),
    })
}

/// The end of standard input as one SIGTERM. (A parent-death signal would do, came it once: the kernel sends one for each
/// thread of the parent, and a second signal means "at once".)
fn stop_at_end_of_input() {
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    let _ = kill(Pid::this(), Signal::SIGTERM); // blocked in every thread, so it waits where all stops are read
}

pub(crate) fn say(as_json: bool, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
    let line = if as_json { json().to_string() } else { text() };
    let _ = print(format!("{line}\n").as_bytes()); // it serves all the same
}

fn started_json(handle: &SidecarHandle, handlers: &[String], metrics: Option<SocketAddr>) -> Value {
    let (geometry, recovery) = (handle.geometry(), handle.recovery());
    json!({
        "event": "started",
        "instance": handle.instance().as_str(),
        "pid": std::process::id(),
        "cpus": handle.cpus(),
        "handlers": handlers,
        "shm_bytes": handle.bytes(),
        "lanes": geometry.lanes,
        "capacity": geometry.capacity,
        "request_bytes": geometry.request_bytes,
        "response_bytes": geometry.response_bytes,
        "group": handle.group().map(Group::gid),
        "timing": handle.is_timed(),
        "clock": handle.clock_source().name(),
        "idle": handle.idle().name(),
        "holds": holds_json(handle.holds()),
        "metrics": metrics.map(|address| address.to_string()),
        "recovered": {
            "lanes": recovery.lanes,
            "reruns": recovery.reruns,
            "interrupted": recovery.interrupted,
            "poisoned": recovery.poisoned,
        },
    })
}

fn serving_text(handle: &SidecarHandle, handlers: usize) -> String {
    format!("instance {} serves {} on {}", handle.instance(), counted(handlers as u64, "handler"), cpus_text(handle))
}

fn cpus_text(handle: &SidecarHandle) -> String {
    match handle.cpus() {
        [] => "no CPU of its own".to_owned(),
        [cpu] => format!("CPU {cpu}"),
        cpus => format!("CPUs {}", executor_core::cpu::cpu_list(cpus)),
    }
}

fn started_text(handle: &SidecarHandle, handlers: &[String], metrics: Option<SocketAddr>) -> String {
    let instance = handle.instance();
    let cpus = cpus_text(handle);
    let recovery = match handle.recovery() {
        recovery if recovery.lanes == 0 => String::new(),
        recovery => format!(
            "; recovered {}, {} run again, {} interrupted{}",
            counted(recovery.lanes.into(), "lane"),
            counted(recovery.reruns.into(), "task"),
            recovery.interrupted,
            match recovery.poisoned {
                0 => String::new(),
                lanes => format!(", {} poisoned by crashes", counted(lanes.into(), "lane")),
            },
        ),
    };
    let group = handle.group().map_or(String::new(), |group| format!(", open to group {group}"));
    let metrics = metrics.map_or(String::new(), |address| format!("; metrics: http://{address}/metrics"));
    format!(
        "instance {instance} serves {} on {cpus}, {} in /dev/shm{group}{recovery}; look: shm-dump show {instance}{metrics}; \
         stop: Ctrl-C or kill {}",
        handlers.join(", "),
        bytes(handle.bytes()),
        std::process::id(),
    )
}

fn stopped_json(instance: &str, report: &StopReport, served_ns: u64) -> Value {
    let by_status: Map<String, Value> = (1..Status::CODES as u8)
        .zip(report.stats.by_status.iter().skip(1))
        .map(|(code, &tasks)| (Status::name_of(code).to_owned(), tasks.into()))
        .collect();
    let (files, attached, unanswered) = match report.ending {
        Ending::Removed => ("removed", 0, 0),
        Ending::Kept { attached, unanswered } => ("kept", attached, unanswered),
        Ending::NamesLost => ("lost", 0, 0),
    };
    json!({
        "event": "stopped",
        "instance": instance,
        "served_ns": served_ns,
        "tasks": report.stats.tasks,
        "by_status": by_status,
        "files": files,
        "attached": attached,
        "unanswered": unanswered,
    })
}

fn stopped_text(instance: &str, report: &StopReport, served_ns: u64) -> String {
    let statuses: Vec<String> = (1..Status::CODES as u8)
        .zip(report.stats.by_status.iter().skip(1))
        .filter(|(_, tasks)| **tasks > 0)
        .map(|(code, tasks)| format!("{} {}", count(*tasks), Status::name_of(code).replace('_', " ")))
        .collect();
    let statuses = if statuses.is_empty() { String::new() } else { format!(" ({})", statuses.join(", ")) };
    let files = match report.ending {
        Ending::Removed => "nothing is left in /dev/shm".to_owned(),
        Ending::Kept { attached, unanswered } => format!(
            "its files stay for the next start: {} attached, {} with unanswered tasks",
            counted(attached.into(), "producer"),
            counted(unanswered.into(), "lane"),
        ),
        Ending::NamesLost => "its files were gone".to_owned(),
    };
    format!(
        "instance {instance} stopped after {}: {} in all its lives{statuses}; {files}",
        nanoseconds(served_ns),
        counted(report.stats.tasks, "task"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_shm::SidecarStats;

    fn report(ending: Ending) -> StopReport {
        let mut by_status = [0; Status::CODES];
        (by_status[1], by_status[5]) = (1200, 1);
        StopReport { stats: SidecarStats { tasks: 1201, by_status, lanes: 0 }, ending }
    }

    #[test]
    fn a_stop_says_what_was_done_and_what_is_left() {
        assert_eq!(
            stopped_text("x", &report(Ending::Removed), 2_000_000_000),
            "instance x stopped after 2.00 s: 1,201 tasks in all its lives (1,200 done, 1 response too long); \
             nothing is left in /dev/shm"
        );
        let kept = stopped_text("x", &report(Ending::Kept { attached: 1, unanswered: 2 }), 0);
        assert!(
            kept.ends_with("stay for the next start: 1 producer attached, 2 lanes with unanswered tasks"),
            "{kept}"
        );
        let json = stopped_json("x", &report(Ending::Removed), 7);
        assert_eq!((&json["tasks"], &json["by_status"]["done"]), (&json!(1201), &json!(1200)));
        assert_eq!((&json["files"], &json["by_status"]["expired"]), (&json!("removed"), &json!(0)));
    }
}
