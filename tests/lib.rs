//! What the tests with several processes share: an instance that leaves nothing behind, processes that are ended with
//! their test, and the handlers both sides know.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

pub mod block_on;
pub mod builds;
pub mod handlers;
pub mod instance;
pub mod mail;
pub mod ownership;
pub mod process;
pub mod role;
pub mod sandbox;
pub mod shared;
pub mod user;

use std::time::{Duration, Instant};

/// How long a test waits for what must happen. Nothing is asserted about time: this only turns a hang into a failure. Where
/// faults are there on purpose, hangs are what is waited for.
pub const FAIL_SAFE: Duration = Duration::from_secs(if cfg!(executor_mutants) { 12 } else { 60 });

/// Waits until something holds, which must come.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < FAIL_SAFE, "never came: {what}");
        std::thread::yield_now();
    }
}
