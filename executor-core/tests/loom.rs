//! Every interleaving of what submitters, workers and waiters of one process share, up to the preemption bound, over
//! `loom`'s atomics.
//!
//! Each model lists the outcomes that are legal, and fails if it did not see each of them.
//!
//! | model | pair or invariant | weakened, it sees |
//! |---|---|---|
//! | [`a_claimed_value_is_changed_by_one_thread_at_a_time`] | K1 | two threads inside, or half a change |
//! | [`a_result_is_read_whole_and_once`] | V1 | a moment that is no task's, two results |
//! | [`a_slot_goes_to_a_new_task_only_once_its_result_is_of_no_use`] | V2, V3 | another task's result |
//! | [`whoever_sleeps_for_a_result_is_woken`] | `SLEEPER` | a sleeper that nobody wakes |
//! | [`the_limit_holds_and_refuses_nobody_without_need`] | B1, B2 | a task too many, or a refusal below the limit |
//! | [`the_end_is_told_exactly_once`] | B3 | an end nobody hears of, or two |
//! | [`a_worker_that_falls_asleep_beside_a_submit_is_woken`] | S2 | a task that waits for a worker that sleeps |
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p executor-core --test loom
//! ```
#![cfg(loom)]
#![deny(unsafe_code)]
#![allow(
    dead_code,
    reason = "the sources of the executor are compiled here once more, and not all of them is modelled"
)]

#[path = "../src/executor/beds.rs"]
mod beds;
#[path = "../src/executor/claim.rs"]
mod claim;
#[path = "../src/executor/depth.rs"]
mod depth;
#[path = "../src/executor/results.rs"]
mod results;
#[path = "../src/executor/sync.rs"]
mod sync;
/// As the sources call it.
mod worker {
    pub(crate) use executor_core::worker::Woken;
}

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex};

use beds::Beds;
use claim::Claim;
use depth::{Depth, Refusal};
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::thread;
use results::{Found, Outcome, Results};

/// Runs `model` in every interleaving and compares the outcomes it returns with `legal`.
fn explore<T: Ord + Debug + Send + 'static>(
    legal: impl IntoIterator<Item = T>,
    model: impl Fn() -> T + Send + Sync + 'static,
) {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let inner = Arc::clone(&seen);
    loom::model(move || {
        let outcome = model();
        inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(outcome);
    });
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    assert_eq!(seen, legal.into_iter().collect(), "seen on the left, legal on the right");
}

#[test]
fn a_claimed_value_is_changed_by_one_thread_at_a_time() {
    // How many of the two changes were made; a refused one is not made.
    explore([1, 2], || {
        let claim = Arc::new(Claim::new([0u64; 2]));
        let change = |claim: &Claim<[u64; 2]>| {
            claim.try_with(|value| {
                assert_eq!(value[0], value[1], "half a change");
                value[0] += 1;
                thread::yield_now();
                value[1] += 1;
            })
        };
        let other = Arc::clone(&claim);
        let thread = thread::spawn(move || change(&other).is_some());
        let mine = change(&claim).is_some();
        let made = u64::from(mine) + u64::from(thread.join().unwrap_or(false));
        // After a refusal loom lets this thread see the flag as it was; the refused swap and the store after it are in no
        // order for it.
        assert!(made == 1 || claim.try_with(|value| *value) == Some([2; 2]));
        made
    });
}

/// A table for one result beside one task that has not ended, in four slots.
fn table() -> Results {
    Results::new(1, 4).unwrap_or_else(|| unreachable!("four slots always fit"))
}

fn reserve(results: &Results, id: u64, finished: u64, pinned: bool) -> Option<results::Place> {
    results.reserve(id, id * 10, pinned, || finished, || finished)
}

/// What a task of this id is told.
fn outcome(id: u64, error: Option<&str>) -> Outcome {
    Outcome { submitted_at: id * 10, started_at: id * 10 + 1, completed_at: id * 10 + 2, error: error.map(Box::from) }
}

fn complete(results: &Results, place: results::Place, id: u64, sequence: u64, error: Option<&str>) -> bool {
    let times = [id * 10 + 1, id * 10 + 2];
    results.complete(place.index(), sequence, times, error.map(Box::from)).is_some()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Pending,
    Ended,
    AlreadyRead,
    Unknown,
}

fn told(found: Found, id: u64, error: Option<&str>) -> Seen {
    match found {
        Found::Pending(_) => Seen::Pending,
        Found::Ended(found) => {
            assert_eq!(found, outcome(id, error));
            Seen::Ended
        }
        Found::AlreadyRead => Seen::AlreadyRead,
        Found::Unknown => Seen::Unknown,
        Found::Crowded => unreachable!("two threads are no crowd"),
    }
}

#[test]
fn a_result_is_read_whole_and_once() {
    use Seen::{AlreadyRead, Ended, Pending};
    let legal = [[Pending, Pending], [Pending, Ended], [Ended, Pending], [Ended, AlreadyRead], [AlreadyRead, Ended]];
    explore(legal, || {
        let results = Arc::new(table());
        let Some(place) = reserve(&results, 5, 0, false) else { unreachable!("it is empty") };
        let worker = Arc::clone(&results);
        let worker = thread::spawn(move || complete(&worker, place, 5, 1, Some("why")));
        let other = Arc::clone(&results);
        let other = thread::spawn(move || told(other.find(5, false, || 1), 5, Some("why")));
        let mine = told(results.find(5, false, || 1), 5, Some("why"));
        let theirs = other.join().unwrap_or(Seen::Unknown);
        assert!(!worker.join().unwrap_or(true), "nobody sleeps");
        [mine, theirs]
    });
}

#[test]
fn a_slot_goes_to_a_new_task_only_once_its_result_is_of_no_use() {
    use Seen::{Ended, Pending, Unknown};
    // Task 1 has ended; one newer result makes it expire. Its slot is wanted by task 5, and a reader comes for task 1; then
    // task 5 is looked for.
    let legal = [[Ended, Pending], [Unknown, Pending]];
    explore(legal, || {
        let results = Arc::new(table());
        let finished = Arc::new(AtomicU64::new(1));
        let Some(first) = reserve(&results, 1, 0, false) else { unreachable!("it is empty") };
        complete(&results, first, 1, 1, None);
        let (submitter, clock) = (Arc::clone(&results), Arc::clone(&finished));
        let submitter = thread::spawn(move || {
            clock.store(2, Release);
            reserve(&submitter, 5, 2, false).is_some()
        });
        let mine = told(results.find(1, false, || finished.load(Acquire)), 1, None);
        assert!(submitter.join().unwrap_or(false), "there are free slots");
        [mine, told(results.find(5, false, || 2), 5, None)]
    });
}

#[test]
fn whoever_waits_gets_the_result_however_late() {
    // A pinned slot is not given away, whatever expires.
    explore([Seen::Ended], || {
        let results = Arc::new(table());
        let Some(place) = reserve(&results, 1, 0, true) else { unreachable!("it is empty") };
        let other = Arc::clone(&results);
        let other = thread::spawn(move || {
            complete(&other, place, 1, 1, None);
            reserve(&other, 5, 9, false).is_some()
        });
        while !results.has_ended(place) {
            thread::yield_now();
        }
        let seen = told(results.read(place), 1, None);
        assert!(other.join().unwrap_or(false));
        seen
    });
}

#[test]
fn whoever_sleeps_for_a_result_is_woken() {
    // Whether the waiter slept.
    explore([false, true], || {
        let results = Arc::new(table());
        let Some(place) = reserve(&results, 1, 0, true) else { unreachable!("it is empty") };
        let worker = Arc::clone(&results);
        let worker = thread::spawn(move || complete(&worker, place, 1, 1, None));
        let mut slept = false;
        while !results.has_ended(place) {
            if let Some((word, value)) = results.doze(place) {
                slept = true;
                sync::nap(word, value, None); // ends for no other reason
            }
            thread::yield_now();
        }
        assert_eq!(told(results.read(place), 1, None), Seen::Ended);
        assert_eq!(worker.join().unwrap_or(false), slept, "woken if and only if it sleeps");
        slept
    });
}

#[test]
fn the_limit_holds_and_refuses_nobody_without_need() {
    // How many of two submits were accepted, with room for one and one that finishes meanwhile.
    explore([0, 1], || {
        let depth = Arc::new(Depth::new(1));
        assert_eq!(depth.admit(1), Ok(1));
        let (worker, other) = (Arc::clone(&depth), Arc::clone(&depth));
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let worker = thread::spawn(move || {
            worker.finish();
            told.store(true, Release);
        });
        let other = thread::spawn(move || other.admit(1).is_ok());
        let knew = done.load(Acquire);
        let mine = depth.admit(1);
        let accepted = u64::from(mine.is_ok()) + u64::from(other.join().unwrap_or(false));
        assert!(worker.join().is_ok() && accepted <= 1);
        assert!(!knew || accepted == 1, "who knows that the task finished is refused only for another one");
        if accepted == 0 {
            assert_eq!(depth.admit(1), Ok(1), "it has finished now");
        }
        accepted
    });
}

#[test]
fn the_end_is_told_exactly_once() {
    // Who hears that nothing is left: whoever closes (0), or the worker (1).
    explore([0, 1], || {
        let depth = Arc::new(Depth::new(2));
        assert_eq!(depth.admit(1), Ok(1));
        let worker = Arc::clone(&depth);
        let worker = thread::spawn(move || worker.finish().is_last);
        let closed = depth.close();
        let last = worker.join().unwrap_or(false);
        assert!(closed != last, "the end is told {} times", u8::from(closed) + u8::from(last));
        assert_eq!(depth.admit(1), Err(Refusal::Closed));
        u8::from(last)
    });
}

#[test]
fn a_worker_that_falls_asleep_beside_a_submit_is_woken() {
    // What ended the sleep: the look before it, or the submitter.
    explore([0, 1], || {
        let depth = Arc::new(Depth::new(2));
        let beds = Arc::new(Beds::new(1));
        let pushed = Arc::new(AtomicU64::new(0));
        let (intake, lane, bell) = (Arc::clone(&depth), Arc::clone(&pushed), Arc::clone(&beds));
        let submitter = thread::spawn(move || {
            assert_eq!(intake.admit(1), Ok(1));
            lane.store(1, Release);
            bell.pushed(1, &intake, |_| true);
        });
        let woken = beds.sleep(0, || pushed.load(Relaxed) != 0); // in no time: a wake-up that is lost is a deadlock
        assert!(submitter.join().is_ok());
        assert_eq!(pushed.load(Relaxed), 1);
        u8::from(woken == worker::Woken::Woken)
    });
}
