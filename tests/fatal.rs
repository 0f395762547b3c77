//! Handlers that end their process: who is told what, who is charged, and how the process ends.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::os::unix::process::ExitStatusExt;

use executor_client::{Client, LaneStatus, Status, SubmitError, TaskDescriptor, Ticket};
use executor_shm::core::status::{Interrupted, Poison};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{CRASH, CRASH_IDEMPOTENT, Crash, ECHO, SLOW};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const SIGNAL: Status = Status::Interrupted(Interrupted::Signal);
const POISONED: Status = Status::Poisoned(Poison::CrashBudget);

fn start(instance: &TestInstance) -> Process {
    process::sidecar(SIDECAR, instance, &[])
}

fn connect(instance: &TestInstance) -> Client {
    Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn submit(client: &mut Client, handler: u32, payload: &[u8]) -> Ticket {
    client.submit_ticket(&TaskDescriptor::new(handler), payload).unwrap()
}

fn end(client: &mut Client, ticket: &mut Ticket) -> (Status, u16) {
    let completion = client.wait_timeout(ticket, FAIL_SAFE).unwrap();
    (completion.status(), completion.attempt())
}

/// The signal that ended it.
fn ended_by(sidecar: Process) -> Option<i32> {
    sidecar.rest().1.signal()
}

#[test]
fn a_crash_is_told_as_its_signal_and_ends_the_process_by_it() {
    for (crash, signal) in Crash::ALL {
        let instance = TestInstance::new("fatal");
        let sidecar = start(&instance);
        let mut client = connect(&instance);
        let mut before = submit(&mut client, ECHO, b"before");
        let mut ticket = submit(&mut client, CRASH, &[crash as u8]);
        let mut behind = submit(&mut client, ECHO, b"behind");
        assert_eq!(ended_by(sidecar), Some(signal as i32), "{crash:?}: as it would end without a sidecar's handler");
        let _sidecar = start(&instance);
        assert_eq!(end(&mut client, &mut before), (Status::Done, 1));
        assert_eq!(end(&mut client, &mut ticket), (SIGNAL, 1), "{crash:?}");
        assert_eq!(end(&mut client, &mut behind), (Status::Done, 1));
    }
}

#[test]
fn three_crashes_poison_their_lane_and_no_other() {
    let instance = TestInstance::new("budget");
    let sidecar = start(&instance);
    let (mut client, mut other) = (connect(&instance), connect(&instance));
    // Idempotent: it is run again, crashes again, and is given up.
    let mut twice = submit(&mut client, CRASH_IDEMPOTENT, &[Crash::Abort as u8]);
    assert_eq!(ended_by(sidecar), Some(6));
    let sidecar = process::Process::start(&mut process::sidecar_command(SIDECAR, &instance, &[]));
    let (lines, status) = sidecar.rest();
    assert!(lines.contains(&"crashing 2".to_owned()), "{lines:?}");
    assert_eq!(status.signal(), Some(6));
    let sidecar = start(&instance);
    assert_eq!(end(&mut client, &mut twice), (SIGNAL, 2));
    assert_eq!(client.state(), LaneStatus::Served, "one task alone poisons nobody");

    let mut third = submit(&mut client, CRASH, &[Crash::Abort as u8]);
    let mut behind = submit(&mut client, ECHO, b"behind");
    assert_eq!(ended_by(sidecar), Some(6));
    let sidecar = start(&instance);
    assert_eq!(end(&mut client, &mut third), (SIGNAL, 1));
    assert_eq!(end(&mut client, &mut behind), (POISONED, 0));
    assert_eq!(client.state(), LaneStatus::Poisoned);
    let task = TaskDescriptor::new(ECHO);
    assert_eq!(client.try_submit(&task, b"more"), Err(SubmitError::Poisoned(task)));
    let mut fine = submit(&mut other, ECHO, b"fine");
    assert_eq!(end(&mut other, &mut fine), (Status::Done, 1));

    // It stays so over a restart, and comes back for its next owner with nothing on its account.
    sidecar.kill();
    let sidecar = start(&instance);
    assert_eq!(client.state(), LaneStatus::Poisoned);
    drop(client);
    let lane = loop {
        let client = connect(&instance);
        if client.lane_number() == 0 {
            break client;
        }
    };
    assert_ne!(lane.state(), LaneStatus::Poisoned);
    drop(sidecar);
}

#[test]
fn kills_by_others_charge_no_lane() {
    let instance = TestInstance::new("uncharged");
    let mut client = {
        let _sidecar = start(&instance);
        connect(&instance)
    };
    instance.latch("held");
    // SIGKILL, which leaves no note, and SIGABRT, which a watchdog sends.
    for round in 0..6 {
        let mut sidecar = start(&instance);
        let mut ticket = submit(&mut client, SLOW, b"held");
        assert_eq!(sidecar.line(), "entered held 1");
        if round % 2 == 0 {
            sidecar.kill();
        } else {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(sidecar.pid() as i32), nix::sys::signal::SIGABRT)
                .unwrap();
            assert_eq!(ended_by(sidecar), Some(6));
        }
        let _sidecar = start(&instance);
        assert_eq!(end(&mut client, &mut ticket), (Status::Interrupted(Interrupted::Killed), 1), "round {round}");
        assert_eq!(client.state(), LaneStatus::Served);
    }
}
