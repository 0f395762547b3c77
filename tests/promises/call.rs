//! What a call of a registered handler comes to, wherever it is made: by a client over its lane, or inside one process
//! without any lane in shared memory.

use std::collections::BTreeSet;

use executor_client::Status;
use executor_shm::core::status::Malformed;
use executor_tests::handlers::{
    COUNT, ECHO, FAIL, FAILURE, FLIP, Flip, PANIC, PANIC_TEXT, SIZED, SUM, Same, Sum, UNKNOWN, WIDE,
};

use crate::stage::{CAPACITY, Caller, REQUEST_BYTES, RESPONSE_BYTES};

fn ends<C: Caller>(caller: &mut C, handler: u32, payload: &[u8]) -> (Status, Vec<u8>) {
    let claim = caller.submit(handler, payload);
    caller.end(claim)
}

pub(crate) fn calls_of_one_thread_run_in_the_order_of_their_submits<C: Caller>(mut caller: C) {
    let (mut count, mut ids) = (0u64, Vec::new());
    for _ in 0..20 {
        let claims: Vec<_> = (0..CAPACITY).map(|_| caller.submit(COUNT, b"")).collect();
        for claim in claims {
            count += 1;
            ids.push(C::id(&claim));
            assert_eq!(caller.end(claim), (Status::Done, count.to_le_bytes().to_vec()));
        }
    }
    for id in ids {
        assert_eq!(caller.line(), format!("ran {id}"), "the handler is told the id that the submit returned");
    }
    assert_eq!(caller.finish(), (count, Vec::new()));
}

pub(crate) fn every_call_ends_once_whatever_becomes_of_it<C: Caller>(mut caller: C) {
    let kinds = [
        (ECHO, Status::Done, ""),
        (FAIL, Status::Failed { code: 42 }, FAILURE),
        (PANIC, Status::Panicked, PANIC_TEXT),
        (UNKNOWN, Status::Malformed(Malformed::UnknownHandler), ""),
    ];
    let mut seen = BTreeSet::new();
    for round in 0..50 {
        let count = 1 + round % CAPACITY;
        let claims: Vec<_> = (0..count).map(|task| caller.submit(kinds[(round + task) % 4].0, b"")).collect();
        for (task, claim) in claims.into_iter().enumerate() {
            let (_, status, text) = kinds[(round + task) % 4];
            assert!(seen.insert(C::id(&claim)), "an id came twice");
            assert_eq!(caller.end(claim), (status, text.as_bytes().to_vec()));
        }
    }
    assert_eq!(caller.finish().0, seen.len() as u64, "as many must have ended as were submitted");
}

pub(crate) fn a_claim_that_is_dropped_leaves_a_call_that_runs<C: Caller>(mut caller: C) {
    let ids: Vec<u64> = (0..CAPACITY).map(|_| C::id(&caller.submit(COUNT, b""))).collect();
    for id in ids {
        assert_eq!(caller.line(), format!("ran {id}"));
    }
    assert_eq!(caller.finish(), (CAPACITY as u64, Vec::new()));
}

pub(crate) fn a_call_of_what_is_not_there_or_takes_another_payload_is_malformed_and_does_not_run<C: Caller>(
    mut caller: C,
) {
    let mut tasks = 0;
    let mut refused = |handler, payload: &[u8], reason| {
        assert_eq!(ends(&mut caller, handler, payload), (Status::Malformed(reason), Vec::new()), "{handler}");
        tasks += 1;
    };
    for id in [0, UNKNOWN, 4095, 4096, 1 << 16 | ECHO, u32::MAX] {
        refused(id, b"x", Malformed::UnknownHandler);
    }
    for payload in [&b""[..], b"seven..", b"and nine.", &[7; 64]] {
        refused(SIZED, payload, Malformed::WrongSize);
        refused(FLIP, payload, Malformed::WrongSize);
        refused(SUM, payload, Malformed::WrongSize);
    }
    for byte in 2..=255 {
        refused(FLIP, &[byte], Malformed::BadValue);
    }
    assert_eq!(ends(&mut caller, SIZED, b"eight..."), (Status::Done, Vec::new()));
    assert_eq!(caller.finish(), (tasks + 1, Vec::new()));
}

pub(crate) fn a_payload_of_any_length_comes_back_whole<C: Caller>(mut caller: C) {
    let bytes: Vec<u8> = (0..REQUEST_BYTES).map(|at| (at * 37 + 11) as u8).collect();
    let lengths = [0, 1, 23, 24, 25, 31, 32, 33, 63, 64, 65, REQUEST_BYTES - 1, REQUEST_BYTES];
    for length in lengths {
        let claims: Vec<_> = (0..CAPACITY).map(|_| caller.submit(ECHO, &bytes[..length])).collect();
        for claim in claims {
            assert_eq!(caller.end(claim), (Status::Done, bytes[..length].to_vec()), "length {length}");
        }
    }
    assert_eq!(caller.finish().0, (lengths.len() * CAPACITY) as u64);
}

pub(crate) fn a_response_up_to_the_limit_fits_and_a_longer_one_says_what_it_wanted<C: Caller>(mut caller: C) {
    for length in [0, 1, 24, 25, RESPONSE_BYTES as u32] {
        let whole = vec![7; length as usize];
        assert_eq!(ends(&mut caller, WIDE, &length.to_le_bytes()), (Status::Done, whole));
    }
    for wanted in [RESPONSE_BYTES as u32 + 1, 1 << 24, u32::MAX] {
        let too_long = Status::ResponseTooLong { wanted };
        assert_eq!(ends(&mut caller, WIDE, &wanted.to_le_bytes()), (too_long, Vec::new()));
    }
    assert_eq!(caller.finish().0, 8);
}

pub(crate) fn a_typed_call_answers_with_the_output_of_its_handler<C: Caller>(mut caller: C) {
    for round in 0..3 * CAPACITY as u64 {
        assert_eq!(caller.call::<Sum>(&[round, 2]), round + 2);
        assert_eq!(caller.call::<Flip>(&(round % 2 == 0)), round % 2 != 0);
        assert_eq!(caller.call::<Same>(&(round as u8)), round as u8);
    }
    assert_eq!(caller.finish().0, 9 * CAPACITY as u64);
}
