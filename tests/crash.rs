//! Kills, stops and restarts: what was accepted is answered once, and an interrupted task says so.
//!
//! Nothing here sleeps to hit a moment: a slow task tells when it has begun and is held by a latch until it is let go.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::time::Instant;

use executor_client::{Client, ConnectOptions, IdleStrategy, LaneStatus, Status, TaskDescriptor, Ticket, WaitError};
use executor_shm::core::status::Interrupted;
use executor_shm::inspect::Inspector;
use executor_shm::state::{InstanceState, LaneState};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{COUNT, ECHO, SLOW, SLOW_IDEMPOTENT};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};
use nix::unistd::Pid;

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");

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

const KILLED: Status = Status::Interrupted(Interrupted::Killed);

#[test]
fn every_task_accepted_around_a_kill_gets_one_completion_and_runs_once() {
    let instance = TestInstance::new("kill");
    instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "64"]);
    let mut client = connect(&instance);
    let mut accepted = Vec::new();
    let mut tell = |client: &mut Client, handler, payload: &[u8]| {
        let task = TaskDescriptor::new(handler).user_data(accepted.len() as u64);
        accepted.push(client.try_submit(&task, payload).unwrap());
    };
    for _ in 0..10 {
        tell(&mut client, COUNT, b"");
    }
    tell(&mut client, SLOW, b"held");
    for _ in 0..20 {
        tell(&mut client, COUNT, b"");
    }
    let mut ran: Vec<String> = (0..10).map(|_| sidecar.line()).collect();
    assert_eq!(sidecar.line(), "entered held 1");
    sidecar.kill();
    for _ in 0..20 {
        tell(&mut client, COUNT, b""); // nobody is there; the lane takes them all the same
    }
    assert!(!client.is_executor_alive());

    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    ran.extend((0..40).map(|_| sidecar.line()));
    for (task, task_id) in accepted.iter().enumerate() {
        let begun = Instant::now();
        let (found, user_data, status, attempt) = loop {
            if let Some(end) = client.try_collect().unwrap() {
                break (end.task_id(), end.user_data(), end.status(), end.attempt());
            }
            assert!(begun.elapsed() < FAIL_SAFE, "task {task} is not answered");
            std::thread::yield_now();
        };
        let expected = if task == 10 { KILLED } else { Status::Done };
        assert_eq!((found, user_data, status, attempt), (*task_id, task as u64, expected, 1), "task {task}");
    }
    assert!(client.try_collect().unwrap().is_none(), "more completions than tasks");
    let effects: Vec<String> = accepted
        .iter()
        .enumerate()
        .filter(|(task, _)| *task != 10)
        .map(|(_, id)| format!("ran {}", id.as_u64()))
        .collect();
    assert_eq!(ran, effects, "each task has its effect once and in order");
    drop(client);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines.len() == 1 && lines[0].starts_with("ended Removed"), "{lines:?}");
}

#[test]
fn streams_through_kills_at_any_moment_get_each_completion_once_in_order_and_whole() {
    const TASKS: u64 = 50_000;
    let instance = TestInstance::new("kills");
    let options = ["--capacity", "64", "--request-bytes", "128", "--response-bytes", "128"];
    let mut sidecar = process::sidecar(SIDECAR, &instance, &options);
    let mut producers: Vec<Process> = (0..2).map(|_| process::producer(PRODUCER, &instance)).collect();
    for (seed, producer) in producers.iter_mut().enumerate() {
        producer.ask("connect", "lane");
        producer.tell(&format!("survive {TASKS} {seed}"));
    }
    let (mut ends, mut kills) = (Vec::new(), 0);
    while ends.len() < 2 {
        // What was said before this life of the sidecar says nothing about it.
        let said = producers.iter_mut().flat_map(|producer| std::iter::from_fn(|| producer.try_line()));
        ends.extend(said.filter(|line| line.starts_with("survived")));
        if ends.is_empty() {
            // Wherever the streams are by then: in the middle of a submit, a task, a completion.
            let line = producers[kills % 2].line();
            ends.extend(Some(line).filter(|line| line.starts_with("survived")));
            sidecar.kill();
            kills += 1;
            sidecar = process::sidecar(SIDECAR, &instance, &[]);
        } else if ends.len() < 2 {
            std::thread::yield_now();
        }
    }
    assert!(kills > 1, "the streams ended before anything was killed");
    for end in ends {
        let interrupted = end.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
        println!("{interrupted} of {TASKS} tasks interrupted by {kills} kills");
        assert!(interrupted <= kills, "a kill interrupts at most one task of a lane");
    }
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines[0].starts_with("ended Removed"), "{lines:?}");
}

#[test]
fn an_idempotent_task_in_flight_runs_again_as_attempt_two_and_then_no_more() {
    let instance = TestInstance::new("again");
    let latch = instance.latch("again");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    let mut ticket = submit(&mut client, SLOW_IDEMPOTENT, b"again");
    let mut follower = submit(&mut client, ECHO, b"after it");
    assert_eq!(sidecar.line(), "entered again 1");
    sidecar.kill();
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(sidecar.line(), "entered again 2");
    assert!(client.try_wait(&mut follower).unwrap().is_none(), "tasks of a lane stay in order");
    latch.open();
    assert_eq!(end(&mut client, &mut ticket), (Status::Done, 2));
    assert_eq!(end(&mut client, &mut follower), (Status::Done, 1));

    let mut ticket = submit(&mut client, SLOW_IDEMPOTENT, b"again");
    assert_eq!(sidecar.line(), "entered again 1");
    sidecar.kill();
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(sidecar.line(), "entered again 2");
    sidecar.kill();
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(end(&mut client, &mut ticket), (Status::Interrupted(Interrupted::Attempts), 2));
    drop(client);
    instance.wait_until_deserted();
    sidecar.terminate();
    assert!(!sidecar.rest().0.iter().any(|line| line.starts_with("entered")), "it ran a third time");
}

#[test]
fn a_task_that_runs_again_holds_up_neither_the_start_nor_another_worker() {
    let instance = TestInstance::new("rerun-held");
    let held = instance.latch("held");
    let options = ["--workers", "2"];
    let mut sidecar = process::sidecar(SIDECAR, &instance, &options);
    let on = |worker| ConnectOptions::new().worker(worker).timeout(FAIL_SAFE).connect(instance.name()).unwrap();
    let (mut slow, mut other) = (on(0), on(1));
    let mut again = submit(&mut slow, SLOW_IDEMPOTENT, b"held");
    assert_eq!(sidecar.line(), "entered held 1");
    let mut earlier = submit(&mut other, ECHO, b"so that both lanes have their workers");
    assert_eq!(end(&mut other, &mut earlier), (Status::Done, 1));
    sidecar.kill();
    let mut waiting = submit(&mut other, ECHO, b"waiting");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &options); // says ready while the task is held
    assert_eq!(sidecar.line(), "entered held 2");
    assert_eq!(end(&mut other, &mut waiting), (Status::Done, 1));
    let mut later = submit(&mut other, ECHO, b"of a lane that has kept its worker");
    assert_eq!(end(&mut other, &mut later), (Status::Done, 1));
    held.open();
    assert_eq!(end(&mut slow, &mut again), (Status::Done, 2));
}

#[test]
fn a_completion_that_nobody_has_taken_survives_a_kill_as_it_is() {
    let instance = TestInstance::new("untaken");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    let mut ticket = submit(&mut client, ECHO, b"untaken");
    let inspector = Inspector::open(instance.name()).unwrap();
    let begun = Instant::now();
    while inspector.look().stats.tasks == 0 {
        assert!(begun.elapsed() < FAIL_SAFE, "the task does not end");
        std::thread::yield_now();
    }
    sidecar.kill();
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut next = submit(&mut client, COUNT, b"");
    assert!(sidecar.line().starts_with("ran "));
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.response().to_vec()), (Status::Done, b"untaken".to_vec()));
    assert_eq!(end(&mut client, &mut next), (Status::Done, 1));
}

#[test]
fn a_wait_on_a_killed_sidecar_says_so_and_its_ticket_stays_good() {
    let instance = TestInstance::new("down");
    instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    let mut slow = submit(&mut client, SLOW, b"held");
    let mut behind = submit(&mut client, ECHO, b"behind it");
    assert_eq!(sidecar.line(), "entered held 1");
    sidecar.kill();
    // First with an end, so that a wait which does not notice is a failure and not a hang.
    assert_eq!(client.wait_timeout(&mut slow, FAIL_SAFE).unwrap_err(), WaitError::ExecutorDown);
    assert_eq!(client.wait(&mut slow).unwrap_err(), WaitError::ExecutorDown);
    assert_eq!(client.wait(&mut behind).unwrap_err(), WaitError::ExecutorDown);
    assert_eq!(client.state(), LaneStatus::Served, "the lane is still ours");
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(end(&mut client, &mut slow), (KILLED, 1));
    let completion = client.wait_timeout(&mut behind, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.response().to_vec()), (Status::Done, b"behind it".to_vec()));
    assert_eq!(client.wait(&mut behind).unwrap_err(), WaitError::AlreadyTaken);
}

/// Clock ticks that a thread of this process has spent running.
fn ticks_run(thread: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let field = |at: usize| after_name.split_whitespace().nth(at).unwrap().parse::<u64>().unwrap();
    field(11) + field(12)
}

#[test]
fn a_wait_that_is_spinning_when_its_sidecar_dies_says_so_and_its_ticket_stays_good() {
    let instance = TestInstance::new("spinning");
    instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client =
        ConnectOptions::new().idle(IdleStrategy::SpinThenYield).timeout(FAIL_SAFE).connect(instance.name()).unwrap();
    let mut ticket = submit(&mut client, SLOW, b"held");
    assert_eq!(sidecar.line(), "entered held 1");
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (client, ticket) = (&mut client, &mut ticket);
        let waiter = scope.spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            client.wait_timeout(ticket, FAIL_SAFE).unwrap_err()
        });
        let thread = told.recv().unwrap();
        // It has nothing else to do than to wait, so what it runs for it waits.
        let (begun, ran) = (Instant::now(), ticks_run(thread));
        while ticks_run(thread) < ran + 3 {
            assert!(begun.elapsed() < FAIL_SAFE, "the thread that waits does not run");
            std::thread::yield_now();
        }
        assert!(!waiter.is_finished(), "it waits for a task that has not ended");
        sidecar.kill();
        let error = waiter.join().unwrap();
        assert_eq!(error, WaitError::ExecutorDown);
        assert!(error.to_string().contains("the task stays accepted and the next sidecar answers it"), "{error}");
    });
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(end(&mut client, &mut ticket), (KILLED, 1));
}

#[test]
fn a_stop_with_nobody_attached_leaves_no_file() {
    let instance = TestInstance::new("empty");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert!(!instance.files().is_empty());
    drop(connect(&instance));
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, status) = sidecar.rest();
    assert_eq!(lines, ["ended Removed after 0 tasks"]);
    assert!(status.success());
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn a_stop_with_an_attached_producer_keeps_its_files_and_the_next_start_serves_what_it_submits() {
    let instance = TestInstance::new("kept");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    let mut before = submit(&mut client, ECHO, b"before");
    assert_eq!(end(&mut client, &mut before), (Status::Done, 1));
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert_eq!(lines, ["ended Kept { attached: 1, unanswered: 0 } after 1 tasks"]);
    let mut meanwhile: Vec<Ticket> = (0..30).map(|_| submit(&mut client, ECHO, b"meanwhile")).collect();
    assert_eq!(client.wait_timeout(&mut meanwhile[0], FAIL_SAFE).unwrap_err(), WaitError::ExecutorDown);

    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    for ticket in &mut meanwhile {
        assert_eq!(end(&mut client, ticket), (Status::Done, 1));
    }
    drop(client);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert_eq!(lines, ["ended Removed after 31 tasks"]);
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn a_stop_serves_all_that_was_accepted_before_it() {
    let instance = TestInstance::new("drained");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--drain-seconds", "3600"]);
    let mut client = connect(&instance);
    let mut tickets = vec![submit(&mut client, SLOW, b"held")];
    tickets.extend((0..10).map(|_| submit(&mut client, ECHO, b"behind it")));
    assert_eq!(sidecar.line(), "entered held 1");
    sidecar.terminate();
    let inspector = Inspector::open(instance.name()).unwrap();
    let begun = Instant::now();
    while inspector.look().state != Some(InstanceState::Closing) {
        assert!(begun.elapsed() < FAIL_SAFE, "the sidecar does not stop");
        std::thread::yield_now();
    }
    latch.open();
    let (lines, _) = sidecar.rest();
    assert_eq!(lines, ["ended Kept { attached: 1, unanswered: 0 } after 11 tasks"]);
    for ticket in &mut tickets {
        assert_eq!(end(&mut client, ticket), (Status::Done, 1));
    }
}

#[test]
fn a_second_signal_ends_a_stop_that_waits_and_loses_nothing() {
    let instance = TestInstance::new("hurried");
    let _latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--drain-seconds", "3600"]);
    let mut client = connect(&instance);
    let mut held = submit(&mut client, SLOW, b"held");
    let mut behind = submit(&mut client, ECHO, b"behind it");
    assert_eq!(sidecar.line(), "entered held 1");
    let begun = Instant::now();
    // Signals close together count as one, so it is asked until it has heard a second one.
    while client.is_executor_alive() {
        assert!(begun.elapsed() < FAIL_SAFE, "the sidecar does not end");
        sidecar.terminate();
        std::thread::yield_now();
    }
    let (lines, status) = sidecar.rest();
    assert_eq!((lines.len(), status.code()), (0, Some(130)));
    let _next = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(end(&mut client, &mut held), (KILLED, 1));
    assert_eq!(end(&mut client, &mut behind), (Status::Done, 1));
}

/// Connects a producer, lets it submit `count` counting tasks, and returns it with their ids.
fn owner(instance: &TestInstance, count: usize) -> (Process, Vec<u64>) {
    let mut producer = process::producer(PRODUCER, instance);
    assert_eq!(producer.ask("connect", "lane"), "0");
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(producer.ask(&format!("submit {COUNT}"), "accepted").parse().unwrap());
    }
    (producer, ids)
}

#[test]
fn tasks_of_a_killed_producer_run_and_no_later_owner_of_its_lane_gets_their_ids() {
    let instance = TestInstance::new("orphans");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--lanes", "1", "--capacity", "16"]);
    let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..4 {
        let latch = instance.latch(&format!("held-{round}"));
        let mut producer = process::producer(PRODUCER, &instance);
        assert_eq!(producer.ask("connect", "lane"), "0");
        let submissions: Vec<String> = instance.files().into_iter().filter(|name| name.ends_with(".sq")).collect();
        assert_eq!(submissions.len(), 1, "files of an earlier owner are still there: {submissions:?}");
        assert!(names.insert(submissions), "an owner got the names of an earlier one");
        let slow = producer.ask(&format!("submit {SLOW} held-{round}"), "accepted").parse::<u64>().unwrap();
        assert_eq!(sidecar.line(), format!("entered held-{round} 1"));
        let mut ids = vec![slow];
        for _ in 0..=round {
            ids.push(producer.ask(&format!("submit {COUNT}"), "accepted").parse().unwrap());
        }
        producer.kill();
        latch.open();
        for id in &ids[1..] {
            assert_eq!(sidecar.line(), format!("ran {id}"));
        }
        for id in ids {
            assert!(seen.insert(id), "task id {id} was given twice");
        }
    }
}

#[test]
fn tasks_of_a_producer_that_died_with_the_sidecar_run_after_the_restart() {
    let instance = TestInstance::new("both");
    instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--lanes", "1", "--capacity", "16"]);
    let (mut producer, first) = owner(&instance, 2);
    assert_eq!([sidecar.line(), sidecar.line()], [format!("ran {}", first[0]), format!("ran {}", first[1])]);
    producer.ask(&format!("submit {SLOW} held"), "accepted");
    assert_eq!(sidecar.line(), "entered held 1");
    let waiting: Vec<u64> =
        (0..5).map(|_| producer.ask(&format!("submit {COUNT}"), "accepted").parse().unwrap()).collect();
    sidecar.kill();
    producer.kill();
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    for id in &waiting {
        assert_eq!(sidecar.line(), format!("ran {id}"));
    }
    let (_producer, next) = owner(&instance, 1);
    assert_eq!(sidecar.line(), format!("ran {}", next[0]));
    assert!(next[0] > waiting[4], "ids of a lane only grow: {next:?} after {waiting:?}");
}

#[test]
fn tasks_of_a_lane_that_was_draining_at_a_kill_run_after_the_restart() {
    let instance = TestInstance::new("draining");
    instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--lanes", "1", "--capacity", "16"]);
    let mut producer = process::producer(PRODUCER, &instance);
    producer.ask("connect", "lane");
    producer.ask(&format!("submit {SLOW} held"), "accepted");
    let waiting: Vec<_> = (0..5).map(|_| producer.ask(&format!("submit {COUNT}"), "accepted")).collect();
    assert_eq!(sidecar.line(), "entered held 1");
    producer.kill();
    let (begun, inspector) = (Instant::now(), Inspector::open(instance.name()).unwrap());
    while inspector.look().lanes[0].state != Some(LaneState::Draining) {
        assert!(begun.elapsed() < FAIL_SAFE, "the lane of a dead producer does not drain");
        std::thread::yield_now();
    }
    sidecar.kill();
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    for id in &waiting {
        assert_eq!(sidecar.line(), format!("ran {id}"));
    }
}

#[test]
fn what_a_producer_submitted_and_did_not_live_to_see_noticed_runs_at_the_next_start() {
    let instance = TestInstance::new("unnoticed");
    let sidecar = process::sidecar(SIDECAR, &instance, &["--lanes", "2"]);
    let mut producer = process::producer(PRODUCER, &instance);
    producer.ask("connect", "lane");
    sidecar.kill();
    let id = producer.ask(&format!("submit {COUNT}"), "accepted");
    producer.kill();
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(sidecar.line(), format!("ran {id}"));
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 1 tasks"]);
    assert_eq!(instance.files(), [""; 0]);
}
