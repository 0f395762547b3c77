//! Which task comes when, and how often.

use std::collections::BTreeSet;

use executor_client::{ConnectOptions, Status, TaskDescriptor};
use executor_tests::handlers::{COUNT, ECHO, FAIL, PANIC, UNKNOWN};

use super::{end, next, submit};
use crate::stage::{CAPACITY, Stage, WORKERS};

/// Several laps, the lane as full as it gets.
pub(crate) fn tasks_of_a_lane_run_and_complete_in_the_order_of_their_submits<S: Stage>(mut stage: S) {
    let mut client = stage.connect();
    let (tasks, mut submitted, mut collected) = (CAPACITY * 20, Vec::new(), 0);
    while collected < tasks {
        while submitted.len() < tasks {
            match client.try_submit(&TaskDescriptor::new(COUNT), b"") {
                Ok(task_id) => submitted.push(task_id),
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    break;
                }
            }
        }
        let (task_id, count) = next(&mut client, |end| (end.task_id(), end.response().read::<u64>()));
        assert_eq!((task_id, count), (submitted[collected], Some(collected as u64 + 1)), "task {collected}");
        collected += 1;
    }
    for task_id in submitted {
        assert_eq!(stage.line(), format!("ran {}", task_id.as_u64()));
    }
    drop(client);
    assert_eq!(stage.end(), (tasks as u64, Vec::new()));
}

/// Whatever becomes of them, and from two lanes at once.
pub(crate) fn every_accepted_task_gets_exactly_one_completion<S: Stage>(stage: S) {
    let kinds = [
        (ECHO, Status::Done),
        (FAIL, Status::Failed { code: 42 }),
        (PANIC, Status::Panicked),
        (UNKNOWN, Status::Malformed(executor_shm::core::status::Malformed::UnknownHandler)),
    ];
    let rounds = 50;
    let mut clients = [stage.connect(), stage.connect()];
    let mut seen = BTreeSet::new();
    for round in 0..rounds {
        let count = 1 + round % CAPACITY;
        let mut accepted = [const { Vec::new() }; 2];
        for task in 0..count {
            for (client, accepted) in clients.iter_mut().zip(&mut accepted) {
                let kind = TaskDescriptor::new(kinds[(round + task) % 4].0);
                accepted.push(client.try_submit(&kind, b"").unwrap());
            }
        }
        for (client, accepted) in clients.iter_mut().zip(accepted) {
            for (task, task_id) in accepted.into_iter().enumerate() {
                let status = kinds[(round + task) % 4].1;
                assert_eq!(next(client, |end| (end.task_id(), end.status())), (task_id, status));
                assert!(seen.insert(task_id), "{task_id} ended twice");
            }
            assert!(client.try_collect().unwrap().is_none(), "more completions than tasks");
        }
    }
    drop(clients);
    assert_eq!(stage.end().0, seen.len() as u64, "the sidecar must have ended as many tasks as it was given");
}

pub(crate) fn ids_never_repeat_however_often_a_lane_changes_hands<S: Stage>(stage: S) {
    let (mut seen, mut lanes) = (BTreeSet::new(), BTreeSet::new());
    for owner in 0..12 {
        let mut client = stage.connect();
        lanes.insert(client.lane_number());
        for task in 0..owner {
            // The last task of every other owner is left to itself: its id counts all the same.
            let ticket = submit(&mut client, ECHO, b"");
            assert_eq!(ticket.task_id().lane(), client.lane_number());
            assert!(seen.insert(ticket.task_id()), "{} was given twice", ticket.task_id());
            if task + 1 < owner || owner % 2 == 0 {
                assert_eq!(end(&mut client, ticket).0, Status::Done);
            }
        }
    }
    assert!(lanes.len() < 12, "no lane ever changed hands");
    assert_eq!(stage.end().0, seen.len() as u64);
}

pub(crate) fn each_worker_has_handler_state_of_its_own<S: Stage>(stage: S) {
    let mut clients: Vec<_> =
        (0..WORKERS).map(|worker| stage.connect_with(ConnectOptions::new().worker(worker))).collect();
    for count in 1..=5u64 {
        for client in &mut clients {
            client.try_submit(&TaskDescriptor::new(COUNT), b"").unwrap();
            assert_eq!(next(client, |end| end.response().read::<u64>()), Some(count), "a worker saw another's tasks");
        }
    }
    drop(clients);
    assert_eq!(stage.end().0, 5 * u64::from(WORKERS));
}

pub(crate) fn the_word_of_a_task_comes_back_with_its_completion<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let words = [0, 1, u64::MAX, 1 << 63, 0x0123_4567_89ab_cdef];
    for handler in [ECHO, FAIL, UNKNOWN] {
        let task = TaskDescriptor::new(handler);
        for word in words {
            client.try_submit(&task.user_data(word), b"").unwrap();
            assert_eq!(next(&mut client, |end| end.user_data()), word);
            let mut ticket = client.submit_ticket(&task.user_data(word), b"").unwrap();
            assert_eq!(client.wait_timeout(&mut ticket, executor_tests::FAIL_SAFE).unwrap().user_data(), word);
            client.request(&task.user_data(word), 0).unwrap().submit();
            assert_eq!(next(&mut client, |end| end.user_data()), word);
        }
    }
    client.try_submit(&TaskDescriptor::new(ECHO), b"").unwrap();
    assert_eq!(next(&mut client, |end| end.user_data()), 0, "without a word of its own it has 0, not an earlier one");
    drop(client);
    assert_eq!(stage.end().0, 46);
}
