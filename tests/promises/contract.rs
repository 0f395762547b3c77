//! Typed calls.

use executor_client::{CallError, ContractError, Failure, Status, TaskSpec};
use executor_shm::core::status::Malformed;
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{Flip, SAME, SUM, Same, Sum, UNKNOWN};

use super::next;
use crate::stage::{CAPACITY, Stage};

pub(crate) fn a_call_answers_with_the_output_of_its_handler<S: Stage>(stage: S) {
    let mut client = stage.connect();
    for round in 0..3 * CAPACITY as u64 {
        assert_eq!(client.call_timeout::<Sum>(&[round, 2], FAIL_SAFE), Ok(round + 2));
        assert_eq!(client.call::<Flip>(&(round % 2 == 0)), Ok(round % 2 != 0));
    }
    let task_id = client.try_submit_typed::<Sum>(&[40, 2]).unwrap();
    assert_eq!(next(&mut client, |end| (end.task_id(), end.response().read::<u64>())), (task_id, Some(42)));
    drop(client);
    assert_eq!(stage.end().0, 6 * CAPACITY as u64 + 1);
}

macro_rules! spec {
    ($name:ident, $id:expr, $text:literal, $schema:literal, $args:ty, $output:ty) => {
        struct $name;
        impl TaskSpec for $name {
            const ID: u32 = $id;
            const NAME: &'static str = $text;
            const SCHEMA: u32 = $schema;
            type Args = $args;
            type Output = $output;
        }
    };
}

spec!(Absent, UNKNOWN, "absent", 1, u64, u64);
spec!(Newer, SUM, "sum", 2, [u64; 2], u64);
spec!(Renamed, SUM, "total", 1, [u64; 2], u64);
spec!(Wider, SUM, "sum", 1, [u64; 3], u64);
// The sizes agree, so the contracts do; the types do not.
spec!(Liar, SAME, "same", 1, u8, bool);
spec!(Refuser, executor_tests::handlers::FLIP, "flip", 1, u8, u8);

pub(crate) fn a_call_by_another_contract_is_refused_with_both_and_submits_nothing<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let refused = |error: CallError, its_name: &str, its_fingerprint: u64| match error {
        CallError::Contract(ContractError::Different { id: SUM, name, found, fingerprint, found_fingerprint }) => {
            assert_eq!((name, found.as_str()), (its_name, "sum"));
            assert_eq!((fingerprint, found_fingerprint), (its_fingerprint, Sum::FINGERPRINT));
        }
        other => panic!("{other}"),
    };
    // Before and after a contract that fits was checked under the same id.
    for round in 0..2 {
        refused(client.call::<Newer>(&[1, 2]).unwrap_err(), "sum", Newer::FINGERPRINT);
        refused(client.call::<Renamed>(&[1, 2]).unwrap_err(), "total", Renamed::FINGERPRINT);
        refused(client.call::<Wider>(&[1, 2, 3]).unwrap_err(), "sum", Wider::FINGERPRINT);
        refused(client.try_submit_typed::<Newer>(&[1, 2]).unwrap_err(), "sum", Newer::FINGERPRINT);
        let missing = client.call::<Absent>(&1).unwrap_err();
        assert_eq!(missing, CallError::Contract(ContractError::Missing { id: UNKNOWN, name: "absent" }));
        assert_eq!(client.call::<Sum>(&[round, 1]), Ok(round + 1));
    }
    drop(client);
    assert_eq!(stage.end().0, 2, "nothing but the two calls that fit was submitted");
}

pub(crate) fn a_call_that_ends_otherwise_than_done_says_how<S: Stage>(stage: S) {
    let mut client = stage.connect();
    let CallError::Failed(Failure { status, .. }) = client.call::<Refuser>(&2).unwrap_err() else { panic!() };
    assert_eq!(status, Status::Malformed(Malformed::BadValue));
    assert_eq!(client.call::<Refuser>(&1), Ok(0));
    assert_eq!(client.call::<Same>(&200), Ok(200));
    assert!(matches!(client.call::<Liar>(&200).unwrap_err(), CallError::BadOutput { length: 1, .. }));
    assert_eq!(client.call::<Liar>(&1), Ok(true));
    drop(client);
    assert_eq!(stage.end().0, 5);
}
