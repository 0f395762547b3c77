//! A lane whose submissions were damaged is poisoned: it alone suffers, its producer is told, and it comes back.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use executor_client::{
    Client, ConnectOptions, IdleStrategy, LaneStatus, Status, SubmitError, TaskDescriptor, WaitError,
};
use executor_shm::inspect::{self, Inspector};
use executor_shm::layout::lane::SLOTS;
use executor_tests::handlers::{ECHO, SLOW, SLOW_IDEMPOTENT};
use executor_tests::instance::TestInstance;
use executor_tests::process;
use executor_tests::{FAIL_SAFE, until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const ECHOED: TaskDescriptor = TaskDescriptor::new(ECHO);

/// A client that never sleeps: one that does writes into its `sq`, and whose `sq` was truncated dies of that.
fn connect(instance: &TestInstance) -> Client {
    ConnectOptions::new().idle(IdleStrategy::Yield).timeout(FAIL_SAFE).connect(instance.name()).unwrap()
}

fn echo(client: &mut Client) -> u64 {
    let mut ticket = client.submit_ticket(&ECHOED, b"hello").unwrap();
    assert_eq!(client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().status(), Status::Done);
    ticket.task_id().sequence()
}

/// What a wild write of its producer does to the commit word of a slot.
fn scribble(instance: &TestInstance, lane: u32, slot: u64, word: u64) {
    let lane = format!(".lane-{lane}-");
    let is_sq = |name: &String| name.contains(&lane) && name.ends_with(".sq");
    let name = instance.files().into_iter().find(is_sq).unwrap();
    let file = std::fs::File::options().write(true).open(format!("/dev/shm/{name}")).unwrap();
    file.write_all_at(&word.to_le_bytes(), (SLOTS as u64 + slot * 8) * 8).unwrap();
}

#[test]
fn a_damaged_lane_tells_its_producer_and_comes_back_for_the_next_one() {
    let instance = TestInstance::new("damaged");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--lanes", "2", "--capacity", "16"]);
    let (mut victim, mut damaged) = (connect(&instance), connect(&instance));
    echo(&mut victim);
    let ids = (0..20).map(|_| echo(&mut damaged)).last().unwrap();
    // The next task is number 20, in slot 4; one that is far ahead was never submitted.
    scribble(&instance, damaged.lane_number(), 4, 1 << 40);
    until("the lane is poisoned", || damaged.state() == LaneStatus::Poisoned);
    assert_eq!(damaged.try_submit(&ECHOED, b"more"), Err(SubmitError::Poisoned(ECHOED)));
    assert_eq!(victim.state(), LaneStatus::Served);
    echo(&mut victim);

    let lane = damaged.lane_number();
    drop(damaged);
    let mut next = connect(&instance); // of two lanes the other one is taken
    assert_eq!((next.lane_number(), next.state() == LaneStatus::Poisoned), (lane, false));
    assert!(echo(&mut next) > ids + 16, "ids past the journal's count may have been handed out");
}

#[test]
fn a_wait_for_a_task_that_was_damaged_ends_and_says_so() {
    let instance = TestInstance::new("lost-task");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "16"]);
    let mut client = connect(&instance);
    let mut running = client.submit_ticket(&TaskDescriptor::new(SLOW), b"held").unwrap();
    assert_eq!(sidecar.line(), "entered held 1");
    let mut waiting = client.submit_ticket(&ECHOED, b"behind it").unwrap();
    scribble(&instance, client.lane_number(), 1, 77);
    until("the lane is poisoned", || client.state() == LaneStatus::Poisoned);
    assert_eq!(client.wait_timeout(&mut waiting, FAIL_SAFE).unwrap_err(), WaitError::Damaged);
    latch.open(); // the task before it was read long ago
    let completion = client.wait_timeout(&mut running, FAIL_SAFE).unwrap();
    assert!(completion.status().ran() == executor_client::Ran::Yes, "{}", completion.status());

    // The next sidecar finds it poisoned, and so does its producer.
    sidecar.kill();
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(client.state(), LaneStatus::Poisoned);
    assert_eq!(client.wait_timeout(&mut waiting, FAIL_SAFE).unwrap_err(), WaitError::Damaged);
    let lane = client.lane_number();
    drop(client);
    until("the lane is free again", || {
        let other = connect(&instance);
        other.lane_number() == lane
    });
}

/// Ends a thread also where the test has panicked.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Cuts a file of a lane to nothing, as any process of its user can.
fn truncate(instance: &TestInstance, lane: u32, kind: &str) {
    let lane = format!(".lane-{lane}-");
    let name = instance.files().into_iter().find(|name| name.contains(&lane) && name.ends_with(kind)).unwrap();
    std::fs::File::options().write(true).open(format!("/dev/shm/{name}")).unwrap().set_len(0).unwrap();
}

#[test]
fn a_truncated_lane_harms_its_own_producer_alone() {
    for kind in [".sq", ".cq"] {
        let instance = TestInstance::new("truncated");
        let latch = instance.latch("held");
        let mut sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "16"]);
        let (mut victim, mut client) = (connect(&instance), connect(&instance));
        let mut running = client.submit_ticket(&TaskDescriptor::new(SLOW), b"held").unwrap();
        assert_eq!(sidecar.line(), "entered held 1");
        let mut waiting = client.submit_ticket(&ECHOED, b"behind it").unwrap();
        truncate(&instance, client.lane_number(), kind);
        latch.open();
        until("the lane is poisoned", || client.state() == LaneStatus::Poisoned);
        echo(&mut victim);
        if kind == ".sq" {
            // What was read before is answered, what was not is told to be lost.
            let completion = client.wait_timeout(&mut running, FAIL_SAFE).unwrap();
            assert_eq!(completion.status(), Status::Done);
            assert_eq!(client.wait_timeout(&mut waiting, FAIL_SAFE).unwrap_err(), WaitError::Damaged);
            assert!(client.is_damaged() && !victim.is_damaged());
            drop(client);
        } else {
            // This process maps the file as well: a load would end it.
            std::mem::forget(client);
        }
        echo(&mut victim);
        sidecar.terminate();
        assert!(sidecar.rest().1.success());
    }
}

#[test]
fn a_lane_that_is_truncated_while_it_is_looked_at_is_unreadable_and_ends_nobody() {
    inspect::survive_truncation();
    let instance = TestInstance::new("truncated-looks");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "16"]);
    let mut client = connect(&instance);
    (0..20).for_each(|_| _ = echo(&mut client));
    let (lane, files) = (client.lane_number(), instance.files());
    for kind in [".sq", ".cq"] {
        let lane = format!(".lane-{lane}-");
        let name = files.iter().find(|name| name.contains(&lane) && name.ends_with(kind)).unwrap();
        let path = format!("/dev/shm/{name}");
        let (whole, stop) = (std::fs::read(&path).unwrap(), AtomicBool::new(false));
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    file.set_len(0).unwrap();
                    file.write_all_at(&whole, 0).unwrap(); // with its head, or it would be no file of the instance
                }
            });
            let _stop = Stop(&stop);
            let inspector = Inspector::open(instance.name()).unwrap();
            // That one of them meets it is shown where it is made to, beside the inspector; here all of them end well.
            for _ in 0..200 {
                let lanes = inspector.look().lanes;
                assert!(lanes.iter().all(|lane| lane.unreadable.is_some() == lane.depth.is_none()));
                assert_eq!(inspector.records(None, 16).unwrap().len(), lanes.len());
                inspector.save(|_| Ok::<(), ()>(())).unwrap();
            }
        });
    }
    // This process maps its own lane as well, unguarded.
    std::mem::forget(client);
}

#[test]
fn a_free_lane_that_is_truncated_is_made_anew() {
    let instance = TestInstance::new("truncated-free");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--lanes", "1"]);
    for length in [0, 1 << 20] {
        truncate(&instance, 0, ".sq");
        let name = instance.files().into_iter().find(|name| name.ends_with(".sq")).unwrap();
        std::fs::File::options().write(true).open(format!("/dev/shm/{name}")).unwrap().set_len(length).unwrap();
        echo(&mut connect(&instance));
    }
}

#[test]
fn a_task_in_flight_whose_payload_is_gone_says_so() {
    let instance = TestInstance::new("payload-lost");
    instance.latch("held");
    let long = [b'h'; 100];
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    instance.latch(std::str::from_utf8(&long).unwrap());
    let mut running = client.submit_ticket(&TaskDescriptor::new(SLOW_IDEMPOTENT), &long).unwrap();
    assert!(sidecar.line().starts_with("entered"));
    let position = 1;
    scribble(&instance, client.lane_number(), position, 77); // poisons it
    until("the lane is poisoned", || client.state() == LaneStatus::Poisoned);
    sidecar.kill();
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let completion = client.wait_timeout(&mut running, FAIL_SAFE).unwrap();
    assert_eq!(completion.status(), Status::Interrupted(executor_shm::core::status::Interrupted::PayloadLost));
}
