//! What processes owe each other while all goes well: every task once, in order, whole; every status with its facts.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use executor_client::{CallError, Client, ContractError, Ran, Status, SubmitError, TaskDescriptor, Ticket};
use executor_shm::core::status::{HandlerChange, Malformed};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{self, Sum};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");

fn connect(instance: &TestInstance) -> Client {
    Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn submit(client: &mut Client, handler: u32, payload: &[u8]) -> Ticket {
    client.submit_ticket(&TaskDescriptor::new(handler), payload).unwrap()
}

/// Status, attempt and text of a task's end.
fn end(client: &mut Client, mut ticket: Ticket) -> (Status, u16, String) {
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    (completion.status(), completion.attempt(), completion.text())
}

#[test]
fn a_task_goes_round_between_two_processes() {
    let instance = TestInstance::new("round");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    assert_eq!(client.call_timeout::<Sum>(&[40, 2], FAIL_SAFE), Ok(42));
    drop(client);
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 1 tasks"]);
}

#[test]
fn three_producers_get_each_completion_once_in_order_and_whole() {
    let instance = TestInstance::new("three");
    let sidecar = process::sidecar(
        SIDECAR,
        &instance,
        &["--capacity", "64", "--request-bytes", "128", "--response-bytes", "128"],
    );
    let mut producers: Vec<Process> = (0..3).map(|_| process::producer(PRODUCER, &instance)).collect();
    let lanes: Vec<String> = producers.iter_mut().map(|producer| producer.ask("connect", "lane")).collect();
    assert!(lanes[0] != lanes[1] && lanes[1] != lanes[2] && lanes[0] != lanes[2], "lanes {lanes:?}");
    for (seed, producer) in producers.iter_mut().enumerate() {
        producer.tell(&format!("stream 20000 {seed}"));
    }
    for producer in &mut producers {
        assert_eq!(producer.line(), "streamed 20000");
    }
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines[0].ends_with(" after 60000 tasks"), "{lines:?}");
}

#[test]
fn every_status_crosses_with_its_detail_and_its_text() {
    let instance = TestInstance::new("statuses");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--request-bytes", "64", "--response-bytes", "64"]);
    let mut client = connect(&instance);
    let latch = instance.latch("busy");

    type Case<'a> = (u32, &'a [u8], Status, u16, &'a str, Ran);
    let cases: [Case<'_>; 7] = [
        (handlers::ECHO, b"as it was", Status::Done, 1, "as it was", Ran::Yes),
        (handlers::FAIL, b"", Status::Failed { code: 42 }, 1, handlers::FAILURE, Ran::Yes),
        (handlers::PANIC, b"", Status::Panicked, 1, handlers::PANIC_TEXT, Ran::Yes),
        (handlers::UNKNOWN, b"", Status::Malformed(Malformed::UnknownHandler), 0, "", Ran::No),
        (handlers::SIZED, b"seven..", Status::Malformed(Malformed::WrongSize), 0, "", Ran::No),
        (handlers::WIDE, &65u32.to_le_bytes(), Status::ResponseTooLong { wanted: 65 }, 1, "", Ran::Yes),
        (handlers::WIDE, &(1u32 << 30).to_le_bytes(), Status::ResponseTooLong { wanted: 1 << 30 }, 1, "", Ran::Yes),
    ];
    let tickets: Vec<Ticket> = cases.iter().map(|case| submit(&mut client, case.0, case.1)).collect();
    for (case, ticket) in cases.iter().zip(tickets) {
        let (status, attempt, text) = end(&mut client, ticket);
        assert_eq!((status, attempt, text.as_str(), status.ran()), (case.2, case.3, case.4, case.5));
    }
    let ticket = submit(&mut client, handlers::WIDE, &64u32.to_le_bytes());
    assert_eq!(end(&mut client, ticket), (Status::Done, 1, "\u{7}".repeat(64)), "a response that just fits");

    let task = TaskDescriptor::new(handlers::ECHO).user_data(5);
    let refused = client.try_submit(&task, &[0; 65]).unwrap_err();
    assert_eq!(refused, SubmitError::TooLong { task, length: 65, limit: 64 });

    // A deadline of zero is over once the slow task before it has ended.
    let slow = submit(&mut client, handlers::SLOW, b"busy");
    let late = TaskDescriptor::new(handlers::COUNT).deadline(Duration::ZERO);
    let late = client.submit_ticket(&late, b"").unwrap();
    let patient = TaskDescriptor::new(handlers::ECHO).deadline(Duration::from_secs(3600));
    let patient = client.submit_ticket(&patient, b"in time").unwrap();
    assert_eq!(sidecar.line(), "entered busy 1");
    latch.open();
    assert_eq!(end(&mut client, slow).0, Status::Done);
    let mut late = late;
    let completion = client.wait_timeout(&mut late, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.attempt()), (Status::Expired, 0));
    let [submitted, started, completed] = completion.stamps();
    assert!(submitted <= started && started == completed, "a task that never ran starts and ends at once");
    assert_eq!(end(&mut client, patient).0, Status::Done);

    drop(client);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert_eq!(lines, ["ended Removed after 11 tasks"], "the expired task must not have run");
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
    for (handler, status) in [
        (handlers::ECHO, Status::HandlerChanged(HandlerChange::Changed)),
        (handlers::COUNT, Status::HandlerChanged(HandlerChange::Missing)),
        (handlers::FAIL, Status::Failed { code: 42 }),
    ] {
        let ticket = submit(&mut early, handler, b"");
        assert_eq!(end(&mut early, ticket).0, status, "handler {handler}");
    }
    let mut late = connect(&instance);
    for (handler, status) in
        [(handlers::ECHO, Status::Done), (handlers::COUNT, Status::Malformed(Malformed::UnknownHandler))]
    {
        let ticket = submit(&mut late, handler, b"");
        assert_eq!(end(&mut late, ticket).0, status, "handler {handler}");
    }
    sidecar.kill();
    let sum = handlers::SUM.to_string();
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--without", &sum]);
    let mut last = connect(&instance);
    let missing = last.call_timeout::<Sum>(&[1, 2], FAIL_SAFE).unwrap_err();
    assert!(matches!(missing, CallError::Contract(ContractError::Missing { id: handlers::SUM, .. })), "{missing}");
}
