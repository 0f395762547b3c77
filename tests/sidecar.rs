//! A sidecar of the test handlers, or of one of two builds (`--build`): `sidecar INSTANCE FOLDER [OPTION VALUE]…`. It says `ready` once it serves, `refused …`
//! if it cannot, and `ended …` after SIGTERM. With `--standby 1` it waits for another one to end: then it says `warm LANES` at
//! first and when that changes, and `dismissed` if SIGTERM comes before it is needed.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::recorder::Recording;
use executor_shm::{InstanceName, Sidecar, SidecarBuilder, SidecarHandle, Standby, StartError, StopSignals};
use executor_tests::handlers::{Others, PANIC_TEXT, tell};
use executor_tests::user::User;
use executor_tests::{builds, handlers, sandbox};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    set_pdeathsig(Signal::SIGKILL).unwrap(); // a test that is killed leaves no process
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap(); // handlers crash on purpose
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(PANIC_TEXT) {
            standard(info);
        }
    }));

    let mut arguments = std::env::args().skip(1);
    let instance = InstanceName::new(&arguments.next().unwrap()).unwrap();
    let folder = PathBuf::from(arguments.next().unwrap());
    let (mut build, mut shared_memory, mut standby) = (None, false, false);
    let mut others = Others::default();
    // Yielding, so that tests with more processes than CPUs move on.
    let mut builder = Sidecar::builder().instance(instance).pinned(false).idle(IdleStrategy::Yield);
    while let Some(option) = arguments.next() {
        let value = arguments.next().unwrap();
        let number = || value.parse::<u32>().unwrap();
        match option.as_str() {
            "--lanes" => builder = builder.lanes(number()),
            "--capacity" => builder = builder.capacity(number()),
            "--request-bytes" => builder = builder.request_bytes(number()),
            "--response-bytes" => builder = builder.response_bytes(number()),
            "--workers" => builder = builder.cpus(&vec![0; number() as usize]), // not pinned, so only their count counts
            "--timing" => builder = builder.timing(number() == 1),
            "--drain-seconds" => builder = builder.drain_time(Duration::from_secs(u64::from(number()))),
            "--standby" => standby = number() == 1,
            "--group" => builder = builder.group(value.parse().unwrap()),
            "--user" => {
                if let Err(errno) = value.parse::<User>().unwrap().become_it() {
                    tell(format_args!("skipped: cannot become user {value}: {errno}"));
                    return ExitCode::SUCCESS;
                }
            }
            "--held" => {
                tell(format_args!("held"));
                std::io::stdin().read_line(&mut String::new()).unwrap();
            }
            "--boot-id" => {
                if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
                    tell(format_args!("skipped: no mount namespace of its own: {errno}"));
                    return ExitCode::SUCCESS;
                }
                let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
                mount(none, "/", none, flags, none).unwrap();
                mount(Some(value.as_str()), "/proc/sys/kernel/random/boot_id", none, MsFlags::MS_BIND, none).unwrap();
            }
            "--build" => build = Some(number()),
            "--idle" => builder = builder.idle(value.parse().unwrap()),
            "--slow-after" => {
                builder = builder.recording(Recording::SlowAfter(Duration::from_micros(u64::from(number()))));
            }
            "--recording" if number() == 0 => builder = builder.recording(Recording::Off),
            "--deny" => sandbox::deny(&value),
            "--without" => others.without = Some(number()),
            "--changed" => others.changed = Some(number()),
            "--idempotent" => others.idempotent = Some(number()),
            "--shared-memory" => {
                if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
                    tell(format_args!("skipped: no mount namespace of its own: {errno}"));
                    return ExitCode::SUCCESS;
                }
                let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
                mount(none, "/", none, flags, none).unwrap();
                let size = format!("size={value}");
                mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
                shared_memory = true;
            }
            option => panic!("no option is called {option}"),
        }
    }

    let signals = StopSignals::block().unwrap();
    let registry = match build {
        Some(build) => builds::registry(build, &folder),
        None => handlers::registry(folder, tell, others).unwrap(),
    };
    let builder = builder.registry(registry);
    let started = if standby { stand_by(builder, &signals) } else { builder.start().map(Some) };
    let handle = match started {
        Ok(Some(handle)) => handle,
        Ok(None) => {
            tell(format_args!("dismissed"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let mut text = format!("{error:?}: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            tell(format_args!("refused {text}"));
            if shared_memory {
                let left: Vec<_> =
                    std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name()).collect();
                tell(format_args!("left {left:?}"));
            }
            return ExitCode::from(3);
        }
    };
    tell(format_args!("ready"));
    let report = handle.run_until(&signals).unwrap();
    tell(format_args!("ended {:?} after {} tasks", report.ending, report.stats.tasks));
    ExitCode::SUCCESS
}

fn stand_by(builder: SidecarBuilder, signals: &StopSignals) -> Result<Option<SidecarHandle>, StartError> {
    let standby = builder.stand_by()?;
    let mut lanes = None;
    let mut report = |standby: &Standby| {
        if lanes.replace(standby.warm_lanes()) != Some(standby.warm_lanes()) {
            tell(format_args!("warm {}", standby.warm_lanes()));
        }
    };
    if standby.is_waiting() {
        report(&standby);
    }
    standby.take_over_ticking(signals, Duration::from_millis(5), report)
}
