//! Another build takes over the files of an instance that producers are attached to.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use executor_client::{CallError, Client, ContractError, Status, TaskDescriptor, Ticket};
use executor_shm::core::status::{HandlerChange, Malformed};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{self, Sum};
use executor_tests::instance::TestInstance;
use executor_tests::process;

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

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
