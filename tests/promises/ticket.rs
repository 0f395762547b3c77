//! Claims on single completions.

use std::time::Duration;

use executor_client::{Status, TaskDescriptor, WaitError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{ECHO, SLOW};

use super::{end, next, submit};
use crate::stage::{CAPACITY, Stage};

pub(crate) fn tickets_are_redeemed_in_any_order<S: Stage>(stage: S) {
    let mut client = stage.connect();
    // Strides that have no factor in common with the lane's length visit every slot.
    for stride in [1, 3, 5, 7, CAPACITY - 1] {
        let mut tickets: Vec<_> = (0..CAPACITY).map(|word| submit(&mut client, ECHO, &word.to_le_bytes())).collect();
        for turn in 0..CAPACITY {
            let word = turn * stride % CAPACITY;
            let completion = client.wait_timeout(&mut tickets[word], FAIL_SAFE).unwrap();
            assert_eq!(completion.response().read::<usize>(), Some(word), "stride {stride}");
        }
        assert!(tickets.iter().all(executor_client::Ticket::is_taken));
    }
    drop(client);
    assert_eq!(stage.end().0, 5 * CAPACITY as u64);
}

pub(crate) fn tickets_and_plain_tasks_take_none_of_each_others_completions<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for round in 0..3 * CAPACITY as u64 {
        let plain = TaskDescriptor::new(ECHO).user_data(round);
        client.try_submit(&plain, b"plain").unwrap();
        drop(submit(&mut client, ECHO, b"nobody asks"));
        let ticket = submit(&mut client, ECHO, b"asked");
        assert_eq!(end(&mut client, ticket).2, "asked");
        assert_eq!(next(&mut client, |end| (end.user_data(), end.text())), (round, "plain".to_owned()));
        assert!(client.try_collect().unwrap().is_none());
    }
    drop(client);
    assert_eq!(stage.end().0, 3 * 3 * CAPACITY as u64);
}

pub(crate) fn a_ticket_is_good_until_it_is_taken_and_for_its_own_client<S: Stage>(mut stage: S) {
    let latch = stage.latch("held");
    let (mut client, mut other) = (stage.connect(), stage.connect());
    let mut ticket = submit(&mut client, SLOW, b"held");
    assert_eq!(stage.line(), "entered held 1");
    for error in [
        other.wait(&mut ticket).unwrap_err(),
        other.try_wait(&mut ticket).unwrap_err(),
        other.wait_timeout(&mut ticket, FAIL_SAFE).unwrap_err(),
    ] {
        assert_eq!(error, WaitError::ForeignTicket);
        assert!(error.to_string().contains("wait on that one"), "{error}");
    }
    assert!(client.try_wait(&mut ticket).unwrap().is_none());
    assert_eq!(client.wait_timeout(&mut ticket, Duration::ZERO).unwrap_err(), WaitError::Timeout);
    latch.open();
    assert_eq!(client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().status(), Status::Done);
    assert_eq!(client.wait(&mut ticket).unwrap_err(), WaitError::AlreadyTaken);
    assert_eq!(client.try_wait(&mut ticket).unwrap_err(), WaitError::AlreadyTaken);
    assert_eq!(other.wait(&mut ticket).unwrap_err(), WaitError::ForeignTicket);
    drop((client, other));
    assert_eq!(stage.end().0, 1);
}
