//! Slots: a full lane, what makes room in it, and what happens to what is in flight when a client goes.

use std::time::{Duration, Instant};

use executor_client::{Client, Status, SubmitCollectingError, SubmitError, TaskDescriptor, WaitError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{COUNT, ECHO, SLOW};

use super::{end, next, submit};
use crate::stage::{CAPACITY, Stage};

pub(crate) fn a_full_lane_hands_the_task_back_and_loses_nothing<S: Stage>(stage: S) {
    let mut client = stage.connect();
    assert_eq!(client.capacity(), CAPACITY);
    let task = |word: usize| TaskDescriptor::new(ECHO).user_data(word as u64);
    for word in 0..CAPACITY {
        client.try_submit(&task(word), &word.to_le_bytes()).unwrap();
    }
    // Full in every way to submit, and for as long as nothing is collected, ended or not.
    for _ in 0..100 {
        let refused = SubmitError::Full(task(99));
        assert_eq!(client.try_submit(&task(99), b"").unwrap_err(), refused);
        assert_eq!(client.submit_ticket(&task(99), b"").unwrap_err(), refused);
        assert_eq!(client.request(&task(99), 8).unwrap_err(), refused);
    }
    // One is taken, one fits; so round the lane.
    for word in 0..3 * CAPACITY {
        next(&mut client, |end| {
            assert_eq!((end.user_data(), end.response().read::<usize>()), (word as u64, Some(word)));
        });
        client.try_submit(&task(word + CAPACITY), &(word + CAPACITY).to_le_bytes()).unwrap();
        assert!(client.try_submit(&task(99), b"").unwrap_err().is_full());
    }
    for word in 3 * CAPACITY..4 * CAPACITY {
        assert_eq!(next(&mut client, |end| end.user_data()), word as u64);
    }
    drop(client);
    assert_eq!(stage.end().0, 4 * CAPACITY as u64);
}

pub(crate) fn a_batch_is_accepted_up_to_the_room_there_is<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let tasks = |count: u64| (0..count).map(|word| (TaskDescriptor::new(ECHO).user_data(word), &b"batch"[..]));
    let batch = client.try_submit_batch(tasks(5));
    assert_eq!((batch.accepted, batch.refused), (5, None));
    let first = batch.first.unwrap();
    let batch = client.try_submit_batch(tasks(100));
    assert_eq!(batch.accepted, CAPACITY - 5);
    assert_eq!(batch.first.unwrap().sequence(), first.sequence() + 5);
    let left = TaskDescriptor::new(ECHO).user_data(CAPACITY as u64 - 5);
    assert_eq!(batch.refused, Some(SubmitError::Full(left)), "the first that was not accepted comes back");
    let none = client.try_submit_batch(tasks(3));
    assert_eq!(
        (none.accepted, none.first, none.refused),
        (0, None, Some(SubmitError::Full(tasks(1).next().unwrap().0)))
    );
    let empty = client.try_submit_batch(tasks(0));
    assert_eq!((empty.accepted, empty.first, empty.refused), (0, None, None));
    let (mut words, begun) = (Vec::new(), Instant::now());
    while words.len() < CAPACITY {
        assert!(begun.elapsed() < FAIL_SAFE, "only {words:?} ended");
        let before = words.len();
        let taken = client.try_collect_batch(3, |end| words.push((end.task_id().sequence(), end.user_data()))).unwrap();
        assert!(taken <= 3 && words.len() == before + taken);
        std::thread::yield_now();
    }
    let expected = (0..5).chain(0..CAPACITY as u64 - 5);
    assert_eq!(words, (first.sequence()..).zip(expected).collect::<Vec<_>>());
    drop(client);
    assert_eq!(stage.end().0, CAPACITY as u64);
}

pub(crate) fn submit_collecting_hands_over_in_order_what_it_takes_to_make_room<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let tasks = 10 * CAPACITY as u64;
    let mut seen = Vec::new();
    for word in 0..tasks {
        let task = TaskDescriptor::new(ECHO).user_data(word);
        client.submit_collecting(&task, &word.to_le_bytes(), FAIL_SAFE, |end| seen.push(end.user_data())).unwrap();
    }
    client.close(FAIL_SAFE, |end| seen.push(end.user_data())).unwrap();
    assert_eq!(seen, (0..tasks).collect::<Vec<_>>());
    assert_eq!(stage.end().0, tasks);
}

pub(crate) fn submit_collecting_that_gets_no_room_in_its_time_hands_the_task_back<S: Stage>(stage: S) {
    let mut client = stage.connect();
    // Only tickets: nothing that could be handed over, so no room, however long one waits.
    let held: Vec<_> = (0..CAPACITY).map(|_| submit(&mut client, ECHO, b"")).collect();
    let task = TaskDescriptor::new(ECHO).user_data(9);
    let error = client.submit_collecting(&task, b"", Duration::ZERO, |_| panic!("nothing is to be taken")).unwrap_err();
    assert_eq!(error, SubmitCollectingError::StillFull { task, source: WaitError::Timeout });
    for ticket in held {
        assert_eq!(end(&mut client, ticket).0, Status::Done);
    }
    client.submit_collecting(&task, b"", FAIL_SAFE, |_| panic!("there is room")).unwrap();
    assert_eq!(next(&mut client, |end| end.user_data()), 9);
    drop(client);
    assert_eq!(stage.end().0, CAPACITY as u64 + 1);
}

pub(crate) fn dropped_tickets_give_their_slots_back_and_their_tasks_run<S: Stage>(mut stage: S) {
    let mut client = stage.connect();
    let (mut ids, begun) = (Vec::new(), Instant::now());
    while ids.len() < 5 * CAPACITY {
        assert!(begun.elapsed() < FAIL_SAFE, "no slot came back after {} tasks", ids.len());
        match client.submit_ticket(&TaskDescriptor::new(COUNT), b"") {
            Ok(ticket) => ids.push(ticket.task_id()), // and dropped
            Err(error) => {
                assert!(error.is_full(), "{error}");
                std::thread::yield_now();
            }
        }
    }
    for id in &ids {
        assert_eq!(stage.line(), format!("ran {}", id.as_u64()));
    }
    assert!(client.try_collect().unwrap().is_none(), "a ticket's completion is no plain task's");
    drop(client);
    assert_eq!(stage.end(), (ids.len() as u64, Vec::new()));
}

pub(crate) fn a_close_hands_over_everything_and_gives_the_lane_back<S: Stage>(stage: S) {
    // More owners than lanes, one after another.
    for owner in 0..5 {
        let mut client = stage.connect();
        let ids: Vec<_> = (0..owner * 3).map(|_| client.try_submit(&TaskDescriptor::new(ECHO), b"").unwrap()).collect();
        let mut seen = Vec::new();
        client.close(FAIL_SAFE, |end| seen.push(end.task_id())).unwrap();
        assert_eq!(seen, ids);
    }
    assert_eq!(stage.end().0, 30);
}

pub(crate) fn a_close_that_does_not_end_in_time_gives_the_client_back<S: Stage>(mut stage: S) {
    let latch = stage.latch("held");
    let mut client = stage.connect();
    client.try_submit(&TaskDescriptor::new(ECHO).user_data(1), b"").unwrap();
    client.try_submit(&TaskDescriptor::new(SLOW).user_data(2), b"held").unwrap();
    client.try_submit(&TaskDescriptor::new(ECHO).user_data(3), b"").unwrap();
    assert_eq!(stage.line(), "entered held 1");
    let mut seen = Vec::new();
    let error = client.close(Duration::ZERO, |end| seen.push(end.user_data())).unwrap_err();
    assert_eq!((error.unanswered, error.source), (2, WaitError::Timeout));
    latch.open();
    let client: Client = *error.client;
    client.close(FAIL_SAFE, |end| seen.push(end.user_data())).unwrap();
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(stage.end().0, 3);
}

pub(crate) fn a_dropped_client_leaves_tasks_that_run_and_a_lane_for_the_next<S: Stage>(mut stage: S) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        let mut client = stage.connect();
        for _ in 0..3 {
            ids.push(client.try_submit(&TaskDescriptor::new(COUNT), b"").unwrap());
        }
    }
    let mut ran: Vec<_> = ids.iter().map(|_| stage.line()).collect();
    let mut expected: Vec<_> = ids.iter().map(|id| format!("ran {}", id.as_u64())).collect();
    // Between lanes there is no order.
    ran.sort();
    expected.sort();
    assert_eq!(ran, expected);
    assert_eq!(stage.end(), (15, Vec::new()));
}
