//! `executord run --respawn`: what is killed comes back, what cannot start does not, and the two end together.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use executor_client::{Client, InstanceName, Status, TaskDescriptor};
use executor_shm::inspect::Inspector;
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Sidecar, assert_refused, eventually, executord, files_with, instance, signal};

fn respawn(instance: &InstanceName, arguments: &[&str]) -> Command {
    let mut command = executord();
    command.args(["run", instance.as_str(), "--unpinned", "--respawn", "--json"]).args(arguments);
    command
}

/// What a program said that is to end by itself.
#[track_caller]
fn output_of(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ended = false;
    let begun = Instant::now();
    while !ended && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2)); // between two looks
        ended = child.try_wait().unwrap().is_some();
    }
    if !ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(ended, "it goes on and on: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[track_caller]
fn event(line: &str, expected: &str) -> Value {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    assert_eq!(event["event"], expected, "{event:#}");
    event
}

fn pid(event: &Value) -> Pid {
    Pid::from_raw(event["pid"].as_i64().unwrap() as i32)
}

/// Keeps a lane busy with numbers that are to come back.
struct Echoes {
    client: Client,
    submitted: u64,
    collected: u64,
}

impl Echoes {
    fn submit(&mut self) {
        while self.client.try_submit(&TaskDescriptor::new(ECHO), &self.submitted.to_le_bytes()).is_ok() {
            self.submitted += 1;
        }
    }

    /// Collects until so many more were answered, each once, in order and right.
    fn collect(&mut self, more: u64) {
        let until = self.collected + more;
        eventually("an answer", || {
            while let Some(completion) = self.client.try_collect().unwrap() {
                assert_eq!(completion.status(), Status::Done, "echo is idempotent: it is run again");
                assert_eq!(completion.response().read::<u64>(), Some(self.collected));
                self.collected += 1;
            }
            self.collected >= until
        });
    }
}

#[test]
fn a_sidecar_that_is_killed_three_times_comes_back_and_loses_no_task() {
    let name = instance("respawn");
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &["--capacity", "64"]));
    let mut started = event(&sidecar.first_line, "started");
    let mut echoes = Echoes { client: sidecar.connect(), submitted: 0, collected: 0 };
    for expected_ms in [0, 10, 20] {
        echoes.submit();
        echoes.collect(1);
        echoes.submit();
        let before = pid(&started);
        kill(before, Signal::SIGKILL).unwrap(); // the supervisor's child, which told its pid itself
        let crashed = event(&sidecar.line(), "crashed");
        assert_eq!((pid(&crashed), &crashed["signal"]), (before, &"SIGKILL".into()), "{crashed:#}");
        let again_ms = crashed["again_in_ns"].as_u64().unwrap() / 1_000_000;
        assert!(again_ms == expected_ms || crashed["uptime_ns"].as_u64() >= Some(10_000_000_000), "{crashed:#}");
        started = event(&sidecar.line(), "started");
        assert_ne!(pid(&started), before);
        assert_eq!(started["recovered"]["lanes"], 1, "{started:#}");
        echoes.collect(echoes.submitted - echoes.collected);
    }
    assert!(echoes.submitted > 3 * 64 && echoes.collected == echoes.submitted);
    echoes.client.close(Duration::from_secs(60), |_| panic!("everything was collected")).unwrap();
    let (status, rest) = sidecar.stop(Signal::SIGTERM);
    assert_eq!((status.code(), &event(&rest, "stopped")["files"]), (Some(0), &"removed".into()));
    assert!(kill(pid(&started), None).is_err(), "the sidecar must have been waited for");
    assert_eq!(files_with(name.as_str()), [""; 0]);
}

#[test]
fn people_read_of_a_crash_on_standard_error() {
    let name = instance("respawn-text");
    let mut command = executord();
    command.args(["run", name.as_str(), "--unpinned"]).env("EXECUTOR_RESPAWN", "true").stderr(Stdio::piped());
    let mut sidecar = Sidecar::spawn(&name, command);
    let child = Inspector::open(&name).unwrap().look().pid;
    assert_ne!(child, u64::from(sidecar.child.id()), "the variable asks for a supervisor as the flag does");
    kill(Pid::from_raw(child as i32), Signal::SIGKILL).unwrap();
    assert!(sidecar.line().starts_with("instance "), "the next one has begun to serve");
    assert_eq!(sidecar.stop(Signal::SIGTERM).0.code(), Some(0));
    let told = std::io::read_to_string(sidecar.child.stderr.take().unwrap()).unwrap();
    let begin = format!("executord: the sidecar, pid {child}, was killed by SIGKILL after ");
    assert!(told.starts_with(&begin) && told.ends_with("; it is started again at once\n"), "{told}");
}

#[test]
fn a_stop_reaches_the_sidecar_and_its_exit_code_comes_back() {
    let name = instance("respawn-stop");
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &[]));
    let (status, rest) = sidecar.stop(Signal::SIGINT);
    event(&rest, "stopped");
    assert_eq!((status.code(), files_with(name.as_str()).len()), (Some(0), 0));
    // A second signal, for which somebody in haste presses more than once.
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &["--drain", "10m"]));
    let mut client = sidecar.connect();
    client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    let inspector = Inspector::open(&name).unwrap();
    eventually("the handler", || inspector.look().lanes.iter().any(|lane| lane.in_flight.is_some()));
    let mut ended = None;
    eventually("the end", || {
        signal(&sidecar.child, Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(50)); // between two presses
        ended = sidecar.child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(130));
    drop(client);
}

#[test]
fn a_child_that_is_stopped_by_itself_ends_its_supervisor() {
    let name = instance("respawn-child");
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &[]));
    kill(pid(&event(&sidecar.first_line, "started")), Signal::SIGTERM).unwrap();
    event(&sidecar.line(), "stopped");
    assert_eq!((sidecar.child.wait().unwrap().code(), sidecar.line().as_str()), (Some(0), ""));
}

#[test]
fn what_cannot_start_is_not_tried_again() {
    let name = instance("respawn-refused");
    let mut wrong_cpu = executord();
    wrong_cpu.args(["run", name.as_str(), "--respawn", "--cpu", "1023"]);
    assert_refused(&output_of(wrong_cpu), 2, "online are");
    let mut no_lanes = respawn(&name, &[]);
    no_lanes.env("EXECUTOR_LANES", "0");
    assert_refused(&output_of(no_lanes), 2, "EXECUTOR_LANES=0");
    let running = Sidecar::start(&name, &[]);
    assert_refused(&output_of(respawn(&name, &[])), 1, "already running");
    drop(running);
    assert_refused(&output_of(respawn(&name, &["--supervisor", "1"])), 1, "no child of a supervisor");
}

#[test]
fn a_first_start_that_dies_is_not_tried_again() {
    let name = instance("respawn-limit");
    // Files may have 512 bytes: the kernel kills who wants more.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 1; ulimit -c 0; exec \"$0\" run \"$1\" --unpinned --respawn"]);
    command.args([env!("CARGO_BIN_EXE_executord"), name.as_str()]);
    let output = output_of(command);
    assert_refused(&output, 128 + Signal::SIGXFSZ as i32, "was killed by SIGXFSZ");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with("; it is not started again, since it never served\n"), "{told}");
    for file in files_with(name.as_str()) {
        std::fs::remove_file(format!("/dev/shm/{file}")).unwrap();
    }
}

#[test]
fn a_killed_supervisor_takes_the_sidecar_with_it() {
    let name = instance("respawn-orphan");
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &[]));
    let child = pid(&event(&sidecar.first_line, "started"));
    sidecar.crash();
    eventually("the end of the sidecar", || kill(child, None).is_err());
    // It stopped with manners, so it said so and left no file.
    event(&sidecar.line(), "stopped");
    assert_eq!(files_with(name.as_str()), [""; 0]);
}

#[test]
fn waits_double_and_a_stop_ends_the_longest() {
    let name = instance("respawn-wait");
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &[]));
    let mut started = event(&sidecar.first_line, "started");
    let mut expected_ms = 0;
    loop {
        kill(pid(&started), Signal::SIGKILL).unwrap();
        let crashed = event(&sidecar.line(), "crashed");
        if crashed["uptime_ns"].as_u64() >= Some(10_000_000_000) {
            expected_ms = 0;
        }
        assert_eq!(crashed["again_in_ns"], expected_ms * 1_000_000u64, "{crashed:#}");
        if expected_ms == 5_000 {
            break;
        }
        expected_ms = (expected_ms * 2).clamp(10, 5_000);
        started = event(&sidecar.line(), "started");
    }
    let (status, rest) = sidecar.stop(Signal::SIGTERM);
    assert_eq!((status.code(), rest.as_str()), (Some(1), ""), "nobody serves, and nobody is started");
}

#[test]
fn a_service_manager_hears_everything_from_the_process_it_started() {
    let name = instance("respawn-notify");
    let path = std::env::temp_dir().join(format!("{name}.notify"));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    setsockopt(&manager, PassCred, &true).unwrap();
    let mut command = respawn(&name, &[]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "150000");
    let mut sidecar = Sidecar::spawn(&name, command);
    let supervisor = sidecar.child.id() as i32;
    let heard = || loop {
        let (text, sender) = receive(&manager);
        assert_eq!(sender, supervisor, "{text}");
        if !text.starts_with("WATCHDOG") {
            return text;
        }
    };
    let ready = format!("READY=1\nSTATUS=instance {name} serves 6 handlers on no CPU of its own\n");
    assert_eq!(heard(), ready);
    kill(pid(&event(&sidecar.first_line, "started")), Signal::SIGKILL).unwrap();
    let crashed = heard();
    assert!(crashed.starts_with("STATUS=the sidecar, pid ") && crashed.contains("SIGKILL"), "{crashed}");
    assert_eq!(heard(), ready);
    for _ in 0..2 {
        assert_eq!(receive(&manager), ("WATCHDOG=1\n".to_owned(), supervisor), "the next one is fed for as well");
    }
    assert_eq!(sidecar.stop(Signal::SIGTERM).0.code(), Some(0));
    assert_eq!(heard(), "STOPPING=1\nSTATUS=serving what was accepted, then stopping\n");
    std::fs::remove_file(&path).unwrap();
}

/// The next message and the pid of its sender, as the kernel knows it.
fn receive(manager: &UnixDatagram) -> (String, i32) {
    let mut buffer = [0; 4096];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
    let message = recvmsg::<()>(manager.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    let sender = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
        _ => None,
    });
    let length = message.bytes;
    (String::from_utf8(buffer[..length].to_vec()).unwrap(), sender.unwrap())
}
