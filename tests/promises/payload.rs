//! Bytes on their way there and back.

use executor_client::{Status, SubmitError, TaskDescriptor};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{ECHO, WIDE};

use super::{end, next, submit};
use crate::stage::{CAPACITY, REQUEST_BYTES, RESPONSE_BYTES, Stage};

const EVERY_BYTE: [u8; REQUEST_BYTES] = {
    let mut bytes = [0; REQUEST_BYTES];
    let mut at = 0;
    while at < REQUEST_BYTES {
        bytes[at] = (at * 37 + 11) as u8;
        at += 1;
    }
    bytes
};

/// None, what a descriptor and a completion hold (32 and 24 bytes), one more, and the limit.
pub(crate) fn a_payload_of_any_length_arrives_and_comes_back_whole<S: Stage>(stage: S) {
    let mut client = stage.connect();
    assert_eq!(client.request_limit(), REQUEST_BYTES);
    for length in [0, 1, 23, 24, 25, 31, 32, 33, 63, 64, 65, REQUEST_BYTES - 1, REQUEST_BYTES] {
        // Twice round the lane, so that each slot has carried something else before.
        for _ in 0..2 * CAPACITY {
            let ticket = submit(&mut client, ECHO, &EVERY_BYTE[..length]);
            let mut ticket = ticket;
            let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
            assert_eq!(completion.status(), Status::Done);
            assert_eq!(completion.response().to_vec(), &EVERY_BYTE[..length], "length {length}");
        }
    }
    drop(client);
    assert_eq!(stage.end().0, 13 * 2 * CAPACITY as u64);
}

pub(crate) fn a_payload_past_the_limit_is_handed_back_with_both_lengths<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let task = TaskDescriptor::new(ECHO).user_data(5);
    for length in [REQUEST_BYTES + 1, 1 << 24, 1 << 25] {
        let refused = SubmitError::TooLong { task, length, limit: REQUEST_BYTES };
        let payload = vec![0; length];
        assert_eq!(client.try_submit(&task, &payload).unwrap_err(), refused);
        assert_eq!(client.submit_ticket(&task, &payload).unwrap_err(), refused);
        assert_eq!(client.request(&task, length).unwrap_err(), refused);
        assert_eq!(client.try_submit_batch([(task, &payload[..])]).refused, Some(refused));
        assert!(refused.to_string().contains("--request-bytes"), "{refused}");
    }
    drop(client);
    assert_eq!(stage.end().0, 0, "nothing of it may have been submitted");
}

pub(crate) fn a_response_of_any_length_can_be_read_in_every_way<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for length in [0, 1, 24, 25, 64, 65, RESPONSE_BYTES - 1, RESPONSE_BYTES] {
        let mut ticket = submit(&mut client, WIDE, &(length as u32).to_le_bytes());
        let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
        assert_eq!(completion.status(), Status::Done);
        let (response, whole) = (completion.response(), vec![7; length]);
        assert_eq!((response.len(), response.is_empty()), (length, length == 0));
        assert_eq!(response.to_vec(), whole);
        let mut room = [0; RESPONSE_BYTES + 1];
        assert_eq!((response.copy_to(&mut room), &room[..length]), (length, &whole[..]));
        assert_eq!(room[length..], [0; RESPONSE_BYTES + 1][length..], "more was written than there is");
        assert_eq!(response.copy_to(&mut room[..length / 2]), length / 2);
        let mut pieces = Vec::new();
        response.chunks(&mut [0; 16], |piece| pieces.extend_from_slice(piece));
        assert_eq!(pieces, whole);
        assert_eq!(response.read::<[u8; 25]>(), (length == 25).then_some([7; 25]));
    }
    drop(client);
    assert_eq!(stage.end().0, 8);
}

pub(crate) fn a_payload_made_in_place_arrives_as_it_was_left<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let echo = TaskDescriptor::new(ECHO);
    let mut tasks = 0;
    for length in [0, 1, 32, 33, REQUEST_BYTES] {
        let mut loan = client.request(&echo.user_data(length as u64), length).unwrap();
        assert_eq!(loan.bytes_mut().len(), length);
        loan.bytes_mut().copy_from_slice(&EVERY_BYTE[..length]);
        let task_id = loan.submit();
        next(&mut client, |end| {
            assert_eq!((end.task_id(), end.user_data()), (task_id, length as u64));
            assert_eq!(end.response().to_vec(), &EVERY_BYTE[..length]);
        });

        // A loan that is given up leaves no trace: its slot is the next task's.
        client.request(&echo, length).unwrap().bytes_mut().fill(0xff);
        let mut loan = client.request(&echo, length).unwrap();
        loan.bytes_mut().copy_from_slice(&EVERY_BYTE[..length]);
        let ticket = loan.submit_ticket();
        assert_eq!(ticket.task_id().sequence(), task_id.sequence() + 1);
        assert_eq!(end(&mut client, ticket).0, Status::Done);
        tasks += 2;
    }
    drop(client);
    assert_eq!(stage.end().0, tasks);
}
