//! How tasks end, with which facts, and that the worker serves on after each.

use std::fs::File;
use std::os::unix::fs::FileExt;

use executor_client::{Client, Ran, Status};
use executor_shm::core::status::Malformed;
use executor_tests::handlers::{ECHO, FAIL, FAILURE, FLIP, PANIC, PANIC_TEXT, SIZED, SLOW, UNKNOWN, WIDE};

use super::{end, submit};
use crate::stage::{RESPONSE_BYTES, Stage};

pub(crate) fn a_task_that_went_well_is_done_with_its_response<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let ticket = submit(&mut client, ECHO, b"as it was");
    assert_eq!(end(&mut client, ticket), (Status::Done, 1, "as it was".to_owned()));
    assert_eq!((Status::Done.ran(), Status::Done.is_retryable()), (Ran::Yes, false));
    drop(client);
    assert_eq!(stage.end(), (1, Vec::new()));
}

pub(crate) fn a_handler_that_fails_answers_with_its_code_and_its_text<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let ticket = submit(&mut client, FAIL, b"");
    let (status, attempt, text) = end(&mut client, ticket);
    assert_eq!((status, attempt, text.as_str()), (Status::Failed { code: 42 }, 1, FAILURE));
    assert_eq!(status.ran(), Ran::Yes);
    serves_on(&mut client);
    drop(client);
    assert_eq!(stage.end().0, 2);
}

pub(crate) fn a_handler_that_panics_answers_with_its_text_and_its_worker_serves_on<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for _ in 0..3 {
        let ticket = submit(&mut client, PANIC, b"");
        let (status, attempt, text) = end(&mut client, ticket);
        assert_eq!((status, attempt, text.as_str(), status.ran()), (Status::Panicked, 1, PANIC_TEXT, Ran::Yes));
        serves_on(&mut client);
    }
    drop(client);
    assert_eq!(stage.end().0, 6);
}

pub(crate) fn a_task_of_an_id_that_no_handler_has_is_malformed<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for id in [0, UNKNOWN, 4095, 4096, 1 << 16 | ECHO, u32::MAX] {
        unrun(&mut client, id, b"x", Malformed::UnknownHandler);
    }
    serves_on(&mut client);
    drop(client);
    assert_eq!(stage.end().0, 7);
}

pub(crate) fn a_payload_of_a_size_that_the_handler_does_not_take_is_malformed<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for payload in [&b""[..], b"seven..", b"and nine.", &[7; 64]] {
        unrun(&mut client, SIZED, payload, Malformed::WrongSize);
        unrun(&mut client, FLIP, payload, Malformed::WrongSize);
    }
    let ticket = submit(&mut client, SIZED, b"eight...");
    assert_eq!(end(&mut client, ticket).0, Status::Done);
    drop(client);
    assert_eq!(stage.end().0, 9);
}

pub(crate) fn a_payload_that_is_no_value_of_its_type_is_malformed<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for byte in 2..=255 {
        unrun(&mut client, FLIP, &[byte], Malformed::BadValue);
    }
    for (byte, answer) in [(0, "\u{1}"), (1, "\0")] {
        let ticket = submit(&mut client, FLIP, &[byte]);
        assert_eq!(end(&mut client, ticket), (Status::Done, 1, answer.to_owned()));
    }
    drop(client);
    assert_eq!(stage.end().0, 256);
}

pub(crate) fn a_response_that_does_not_fit_says_what_length_it_wanted<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for wanted in [RESPONSE_BYTES as u32 + 1, 1 << 24, u32::MAX] {
        let ticket = submit(&mut client, WIDE, &wanted.to_le_bytes());
        let (status, attempt, text) = end(&mut client, ticket);
        assert_eq!((status, attempt, text.as_str()), (Status::ResponseTooLong { wanted }, 1, ""));
        assert_eq!(status.ran(), Ran::Yes);
    }
    let ticket = submit(&mut client, WIDE, &(RESPONSE_BYTES as u32).to_le_bytes());
    assert_eq!(end(&mut client, ticket), (Status::Done, 1, "\u{7}".repeat(RESPONSE_BYTES)), "one that just fits");
    serves_on(&mut client);
    drop(client);
    assert_eq!(stage.end().0, 5);
}

/// For stages whose lanes are files: what no client of ours sends, written over what ours sent while a slow task before
/// it holds the worker.
pub(crate) fn a_descriptor_that_no_client_of_ours_sends_is_malformed<S: Stage>(mut stage: S) {
    let latch = stage.latch("held");
    let mut client = stage.connect();
    let slow = submit(&mut client, SLOW, b"held");
    assert_eq!(stage.line(), "entered held 1");
    let limit = client.request_limit() as u64;
    let cases = [
        (1 << 32, Malformed::BadFlags),
        (1 << 39, Malformed::BadFlags),
        ((limit + 1) << 40, Malformed::TooLong),
        (0xff_ffff << 40, Malformed::TooLong),
    ];
    let tickets: Vec<_> = cases.iter().map(|_| submit(&mut client, ECHO, b"")).collect();
    let behind = submit(&mut client, ECHO, b"behind them");
    let lane = submissions(&client);
    for (slot, (bits, _)) in (1u64..).zip(cases) {
        let word = u64::from(ECHO) | bits;
        lane.write_all_at(&word.to_le_bytes(), 4096 + slot * 64 + 8).unwrap();
    }
    latch.open();
    assert_eq!(end(&mut client, slow).0, Status::Done);
    for (ticket, (bits, reason)) in tickets.into_iter().zip(cases) {
        assert_eq!(end(&mut client, ticket), (Status::Malformed(reason), 0, String::new()), "{bits:#x}");
    }
    assert_eq!(end(&mut client, behind), (Status::Done, 1, "behind them".to_owned()));
    drop(client);
    assert_eq!(stage.end().0, 6);
}

/// A client's `sq`, as anybody of its user may open it.
fn submissions(client: &Client) -> File {
    let begin = format!("executor.{}.lane-{}-", client.instance(), client.lane_number());
    let mut names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&begin) && name.ends_with(".sq")
    };
    File::options().write(true).open(names.find(is_it).unwrap()).unwrap()
}

#[track_caller]
fn unrun(client: &mut Client, handler: u32, payload: &[u8], reason: Malformed) {
    let ticket = submit(client, handler, payload);
    let (status, attempt, text) = end(client, ticket);
    assert_eq!((status, attempt, text.as_str()), (Status::Malformed(reason), 0, ""), "{handler} {payload:?}");
    assert_eq!(status.ran(), Ran::No);
}

#[track_caller]
fn serves_on(client: &mut Client) {
    let ticket = submit(client, ECHO, b"still here");
    assert_eq!(end(client, ticket), (Status::Done, 1, "still here".to_owned()));
}
