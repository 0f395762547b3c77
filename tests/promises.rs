//! What every way to have a sidecar and its clients owes: each promise once, for any [`Stage`].
//!
//! A new promise goes into the list in `conformance.rs` as well; the compiler names those that do not.
//!
//! [`Stage`]: crate::stage::Stage

mod call;
mod contract;
mod order;
mod outcome;
mod payload;
mod room;
mod ticket;
mod time;

pub(crate) use call::*;
pub(crate) use contract::*;
pub(crate) use order::*;
pub(crate) use outcome::*;
pub(crate) use payload::*;
pub(crate) use room::*;
pub(crate) use ticket::*;
pub(crate) use time::*;

use std::time::Instant;

use executor_client::{Client, Completion, Status, TaskDescriptor, Ticket};
use executor_tests::FAIL_SAFE;

fn submit(client: &mut Client, handler: u32, payload: &[u8]) -> Ticket {
    client.submit_ticket(&TaskDescriptor::new(handler), payload).unwrap()
}

/// Status, attempt and text of a task's end.
fn end(client: &mut Client, mut ticket: Ticket) -> (Status, u16, String) {
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    (completion.status(), completion.attempt(), completion.text())
}

/// What `see` makes of the next completion of a plain task.
#[track_caller]
fn next<R>(client: &mut Client, see: impl FnOnce(Completion<'_>) -> R) -> R {
    let begun = Instant::now();
    loop {
        if let Some(completion) = client.try_collect().unwrap() {
            return see(completion);
        }
        assert!(begun.elapsed() < FAIL_SAFE, "no task ends");
        std::thread::yield_now();
    }
}
