//! What `executord run` tells a service manager.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use executor_client::{Client, InstanceName, TaskDescriptor};
use executor_shm::inspect::Inspector;
use executord::handlers::{SPIN, Spin};
use nix::sys::signal::Signal;
use support::{Sidecar, eventually, executord, files_with, instance};

const FAIL_SAFE: Duration = Duration::from_secs(120);
/// What the watchdog is set to, and the least time between two feedings.
const INTERVAL: Duration = Duration::from_millis(150);
const PERIOD: Duration = Duration::from_millis(50);

/// The service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &InstanceName) -> Self {
        let path = std::env::temp_dir().join(format!("{name}.notify"));
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    /// A sidecar that knows of this manager and its watchdog.
    fn command(&self, name: &InstanceName) -> Command {
        let mut command = executord();
        command.args(["run", name.as_str(), "--unpinned"]).env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", INTERVAL.as_micros().to_string());
        command
    }

    /// The next message that comes within `time`.
    fn message_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn message(&self) -> String {
        self.message_within(FAIL_SAFE).unwrap()
    }

    /// What has come already.
    fn messages(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let messages = std::iter::from_fn(|| self.message_within(FAIL_SAFE)).collect();
        self.socket.set_nonblocking(false).unwrap();
        messages
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_manager_hears_ready_then_feedings_a_third_apart_then_stopping() {
    let name = instance("notify");
    let manager = Manager::new(&name);
    let begun = Instant::now();
    let mut sidecar = Sidecar::spawn(&name, manager.command(&name));
    let ready = manager.message();
    assert_eq!(ready, format!("READY=1\nSTATUS=instance {name} serves 6 handlers on no CPU of its own\n"));
    for feeding in 1..=5 {
        assert_eq!(manager.message(), "WATCHDOG=1\n");
        assert!(begun.elapsed() >= PERIOD * feeding, "feeding {feeding} came too early");
    }
    // A worker that is busy all the time moves as well.
    let mut client = sidecar.connect();
    let mut fed = 0;
    let begun = Instant::now();
    while fed < 3 {
        client.call::<Spin>(&1_000_000).unwrap();
        fed += manager.messages().len();
        assert!(begun.elapsed() < FAIL_SAFE, "a busy worker is not fed for");
    }
    client.close(FAIL_SAFE, |_| {}).unwrap();
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
    let mut last = manager.messages();
    last.retain(|message| message != "WATCHDOG=1\n");
    assert_eq!(last, ["STOPPING=1\nSTATUS=serving what was accepted, then stopping\n"]);
    assert_eq!(files_with(name.as_str()), [""; 0]);
}

/// Whether a worker is in a handler.
fn is_in_flight(name: &InstanceName) -> bool {
    Inspector::open(name).unwrap().look().lanes.iter().any(|lane| lane.in_flight.is_some())
}

/// Submits a spin of so many seconds and counts the feedings during ten periods of it. `None` if that took so long that
/// the task had ended meanwhile.
fn feedings_during_a_spin(manager: &Manager, name: &InstanceName, client: &mut Client, seconds: u64) -> Option<usize> {
    let ns = seconds * 1_000_000_000;
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(SPIN), &ns.to_le_bytes()).unwrap();
    eventually("the handler", || is_in_flight(name));
    manager.messages(); // of before
    let end = Instant::now() + 10 * PERIOD;
    let mut count = 0;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        count += usize::from(manager.message_within(left).is_some());
    }
    let held = is_in_flight(name);
    client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    held.then_some(count)
}

#[test]
fn a_worker_that_a_handler_holds_is_not_fed_for_and_is_again_once_it_moves() {
    let name = instance("held");
    let manager = Manager::new(&name);
    let sidecar = Sidecar::spawn(&name, manager.command(&name));
    assert!(manager.message().starts_with("READY=1\n"));
    assert_eq!(manager.message(), "WATCHDOG=1\n");
    let mut client = sidecar.connect();
    let mut rounds = [1, 4, 16, 50].into_iter();
    let count = rounds.find_map(|seconds| feedings_during_a_spin(&manager, &name, &mut client, seconds));
    // One for what the worker did after the last feeding and before the task.
    assert!(count.unwrap() <= 1, "{count:?} feedings while a handler held the only worker");
    manager.messages();
    assert_eq!(manager.message(), "WATCHDOG=1\n");
    assert_eq!(manager.message(), "WATCHDOG=1\n");
}

#[test]
fn a_watchdog_of_another_process_or_none_at_all_is_not_fed() {
    for watchdog in [None, Some("1")] {
        let name = instance("unwatched");
        let manager = Manager::new(&name);
        let mut command = manager.command(&name);
        match watchdog {
            None => command.env_remove("WATCHDOG_USEC"),
            Some(pid) => command.env("WATCHDOG_USEC", "3000").env("WATCHDOG_PID", pid),
        };
        let mut sidecar = Sidecar::spawn(&name, command);
        let mut client = sidecar.connect();
        for _ in 0..10 {
            client.call::<Spin>(&5_000_000).unwrap(); // time for many feedings
        }
        drop(client);
        sidecar.stop(Signal::SIGTERM);
        let first_lines: Vec<String> =
            manager.messages().iter().filter_map(|message| message.lines().next().map(str::to_owned)).collect();
        assert_eq!(first_lines, ["READY=1", "STOPPING=1"]);
    }
}

#[test]
fn a_manager_that_is_not_there_costs_one_line_and_nothing_else() {
    let name = instance("unheard");
    let mut command = executord();
    command.args(["run", name.as_str(), "--unpinned"]).stderr(Stdio::piped());
    command.env("NOTIFY_SOCKET", "/nowhere/notify").env("WATCHDOG_USEC", "3000");
    let mut sidecar = Sidecar::spawn(&name, command);
    let mut client = sidecar.connect();
    for _ in 0..10 {
        client.call::<Spin>(&5_000_000).unwrap();
    }
    drop(client);
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
    let complaint = std::io::read_to_string(sidecar.child.stderr.take().unwrap()).unwrap();
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.starts_with("executord: cannot tell the service manager at NOTIFY_SOCKET: No such file"));
}

#[test]
fn a_standby_is_ready_for_its_manager_while_it_waits_and_is_fed_for_all_the_time() {
    let name = instance("standby");
    let mut first = Sidecar::start(&name, &[]);
    let manager = Manager::new(&name);
    let mut command = manager.command(&name);
    command.arg("--standby");
    let mut standby = Sidecar::spawn(&name, command);
    assert_eq!(manager.message(), format!("READY=1\nSTATUS=standing by for instance {name}\n"));
    for _ in 0..3 {
        assert_eq!(manager.message(), "WATCHDOG=1\n");
    }
    first.crash();
    let ready = format!("READY=1\nSTATUS=instance {name} serves 6 handlers on no CPU of its own\n");
    eventually("the take-over", || manager.message() == ready);
    for _ in 0..3 {
        assert_eq!(manager.message(), "WATCHDOG=1\n");
    }
    assert!(standby.stop(Signal::SIGTERM).0.success());
}
