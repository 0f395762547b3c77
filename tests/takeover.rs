//! Another build takes over the files of an instance that producers are attached to.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;

use executor_client::{CallError, Client, ContractError, Status, TaskDescriptor, Ticket};
use executor_shm::core::status::{HandlerChange, Interrupted, Malformed};
use executor_tests::handlers::{self, Sum};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};
use executor_tests::{FAIL_SAFE, builds};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");

fn connect(instance: &TestInstance) -> Client {
    Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn submit(client: &mut Client, handler: u32, payload: &[u8]) -> Ticket {
    client.submit_ticket(&TaskDescriptor::new(handler), payload).unwrap()
}

fn status(client: &mut Client, mut ticket: Ticket) -> Status {
    client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().status()
}

#[test]
fn a_task_runs_again_only_if_it_may_in_the_build_that_accepted_it_and_in_the_next() {
    let instance = TestInstance::new("may-again");
    instance.latch("held");
    let slow = handlers::SLOW.to_string();
    for (first, next, may) in [(false, true, false), (true, false, false), (true, true, true)] {
        let options = |may: bool| if may { vec!["--idempotent", &slow] } else { Vec::new() };
        let mut sidecar = process::sidecar(SIDECAR, &instance, &options(first));
        let mut client = connect(&instance);
        let ticket = submit(&mut client, handlers::SLOW, b"held");
        assert_eq!(sidecar.line(), "entered held 1");
        sidecar.kill();
        let mut sidecar = process::sidecar(SIDECAR, &instance, &options(next));
        if may {
            assert_eq!(sidecar.line(), "entered held 2");
        } else {
            let killed = Status::Interrupted(Interrupted::Killed);
            assert_eq!(status(&mut client, ticket), killed, "idempotent: {first}, then {next}");
        }
        sidecar.kill();
    }
}

#[test]
fn a_handler_that_changed_or_vanished_answers_earlier_lanes_so_and_later_lanes_as_it_is() {
    let instance = TestInstance::new("changed");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut early = connect(&instance);
    assert_eq!(early.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
    sidecar.kill();
    let (echo, count) = (handlers::ECHO.to_string(), handlers::COUNT.to_string());
    let sidecar = process::sidecar(SIDECAR, &instance, &["--changed", &echo, "--without", &count]);
    for (handler, expected) in [
        (handlers::ECHO, Status::HandlerChanged(HandlerChange::Changed)),
        (handlers::COUNT, Status::HandlerChanged(HandlerChange::Missing)),
        (handlers::FAIL, Status::Failed { code: 42 }),
    ] {
        let ticket = submit(&mut early, handler, b"");
        assert_eq!(status(&mut early, ticket), expected, "handler {handler}");
    }
    let mut late = connect(&instance);
    for (handler, expected) in
        [(handlers::ECHO, Status::Done), (handlers::COUNT, Status::Malformed(Malformed::UnknownHandler))]
    {
        let ticket = submit(&mut late, handler, b"");
        assert_eq!(status(&mut late, ticket), expected, "handler {handler}");
    }
    sidecar.kill();
    let sum = handlers::SUM.to_string();
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--without", &sum]);
    let mut last = connect(&instance);
    let missing = last.call_timeout::<Sum>(&[1, 2], FAIL_SAFE).unwrap_err();
    assert!(matches!(missing, CallError::Contract(ContractError::Missing { id: handlers::SUM, .. })), "{missing}");
}

/// How a sidecar is ended for the next one.
#[derive(Clone, Copy)]
enum End {
    Term,
    Kill,
}

/// What became of the tasks whose handlers must not run twice.
#[derive(Debug, Default)]
struct Outcomes {
    done: [usize; 3],
    interrupted: usize,
    changed: usize,
    reconnects: usize,
}

/// Sidecars of `builds` in turn on the same files, each ended as `ends` says in turn while two producers stay on their
/// lanes and two more reconnect when they are told to.
fn take_over(of: &str, builds: &[&str], ends: &[End], rounds: usize) -> Outcomes {
    let instance = TestInstance::new(of);
    let start = |round: usize| {
        let mut options = vec!["--build", builds[round % builds.len()]];
        if round == 0 {
            options.extend(["--lanes", "6", "--capacity", "64", "--request-bytes", "128", "--response-bytes", "128"]);
        }
        process::sidecar(SIDECAR, &instance, &options)
    };
    let mut sidecar = start(0);
    let enough = instance.folder().join("enough");
    let ledgers = [0, 1].map(|number| instance.folder().join(format!("ledger-{number}")));
    let mut producers: Vec<Process> = (0..4).map(|_| process::producer(PRODUCER, &instance)).collect();
    for (number, producer) in producers.iter_mut().enumerate() {
        match ledgers.get(number) {
            Some(ledger) => producer.tell(&format!("move {} {}", enough.display(), ledger.display())),
            None => {
                producer.ask("connect", "lane");
                producer.tell(&format!("steady {}", enough.display()));
            }
        }
    }
    for round in 1..=rounds {
        for producer in &mut producers {
            // What was said before this life of the sidecar says nothing about it. A task that a kill interrupted has
            // ended before the next report, so that no task is interrupted twice.
            while producer.try_line().is_some() {}
            producer.expect("progress");
            producer.expect("progress");
        }
        match ends[round % ends.len()] {
            End::Kill => sidecar.kill(),
            End::Term => {
                sidecar.terminate();
                let (lines, status) = sidecar.rest();
                assert!(status.success() && lines[0].starts_with("ended Kept"), "{lines:?}");
            }
        }
        sidecar = start(round);
    }
    std::fs::write(&enough, b"").unwrap();
    let mut outcomes = Outcomes::default();
    let mut total = 0;
    for (number, producer) in producers.iter_mut().enumerate() {
        let end = producer.expect(if number < 2 { "moved" } else { "steady" });
        let mut numbers = end.split(' ').map(|number| number.parse::<usize>().unwrap());
        total += numbers.next().unwrap();
        outcomes.reconnects += numbers.next().unwrap_or(0);
    }
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines[0].starts_with("ended Removed"), "{lines:?}");
    assert_eq!(instance.files(), [""; 0]);

    // Every run belongs to a task, and to what that task's completion says of it.
    let mut runs = HashMap::<u64, Vec<u64>>::new();
    for run in builds::runs(instance.folder()) {
        runs.entry(run.task_id).or_default().push(run.build);
    }
    for ledger in &ledgers {
        for entry in std::fs::read(ledger).unwrap().chunks(24) {
            let word = |at: usize| u64::from_le_bytes(entry[at * 8..at * 8 + 8].try_into().unwrap());
            let (task_id, code, mark) = (word(0), word(1) as u8, word(2));
            let ran = runs.remove(&task_id).unwrap_or_default();
            if code == Status::Done.code() {
                assert_eq!(ran, [mark], "task {task_id} must have run once, by the build that it says");
                outcomes.done[mark as usize] += 1;
            } else if code == Status::Interrupted(Interrupted::Killed).code() {
                assert!(ran.len() <= 1, "task {task_id} ran twice: {ran:?}");
                outcomes.interrupted += 1;
            } else {
                assert_eq!(ran, [0; 0], "task {task_id} ended with status {code} and ran all the same");
                outcomes.changed += usize::from(code == Status::HandlerChanged(HandlerChange::Changed).code());
            }
        }
    }
    assert!(runs.is_empty(), "runs of tasks that nobody submitted, or whose end nobody saw: {runs:?}");
    println!("{of}: {total} tasks, {outcomes:?}");
    outcomes
}

#[test]
fn two_builds_that_take_over_from_each_other_under_load_lose_double_and_mistake_nothing() {
    let outcomes = take_over("builds", &["1", "1", "2", "2"], &[End::Term, End::Kill, End::Kill], 60);
    assert!(outcomes.done[1] > 0 && outcomes.done[2] > 0, "both builds must have answered: {outcomes:?}");
    assert!(outcomes.changed > 0, "nobody was told of a change: {outcomes:?}");
    assert!(outcomes.reconnects > 0, "nobody reconnected: {outcomes:?}");
    assert!(outcomes.interrupted <= 40 * 2, "a kill interrupts at most one task of a lane: {outcomes:?}");
}

#[test]
fn stops_and_restarts_of_one_build_under_load_are_a_pause_and_nothing_else() {
    let outcomes = take_over("restarts", &["1"], &[End::Term], 20);
    let expected = (0, 0, 0);
    assert_eq!((outcomes.interrupted, outcomes.changed, outcomes.reconnects), expected, "{outcomes:?}");
}
