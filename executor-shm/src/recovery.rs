//! What a lane's files say about the task that was in flight when the last sidecar ended, and what to do about it.
//!
//! It runs before any dispatch, under the journal's lock, and runs no handler. A kill inside it leaves files that it
//! judges the same way again.
//!
//! # Crash budget
//! A lane is charged for a task whose worker noted a fatal signal of its own while it ran (see [`fault`](crate::fault)), and
//! for nothing else: SIGKILL, which anybody may send, charges nobody, and neither does a signal that a handler survived.

use std::time::Duration;

use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord, WORDS};
use executor_core::status::{Interrupted, Status};

use crate::lane::Rerun;
use crate::layout::{Geometry, journal::crash, journal::k, lane::SLOTS};
use crate::mutant::Mutant;
use crate::words::{Words, WordsMut};

/// Most times a task is run in all.
pub const ATTEMPTS_MAX: u16 = 2;
/// Crashes within [`CRASH_WINDOW`] that poison their lane. One task alone cannot reach it: its attempts are fewer.
pub const CRASHES_MAX: usize = crash::CHARGED.len();
/// How far apart the first and the last of them may be, by CLOCK_BOOTTIME.
pub const CRASH_WINDOW: Duration = Duration::from_secs(60);

const _: () = assert!((ATTEMPTS_MAX as usize) < CRASHES_MAX);

/// What recovery needs to know about the task's handler and lane.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The lane answers nothing but `Poisoned`.
    pub poisoned: bool,
    /// The payload is in `sq` and `sq` cannot be read.
    pub payload_lost: bool,
    /// The handler changed or vanished since the lane attached.
    pub handler_changed: bool,
    /// The handler is idempotent in the entry the task was accepted under and in today's.
    pub idempotent: bool,
    /// The worker recorded a fatal signal while the task ran.
    pub signal: bool,
}

/// Where a lane goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The next position to serve.
    pub position: u64,
    /// The task there is run again, from the journal.
    pub rerun: Option<Rerun>,
    /// The task that was in flight was answered by recovery with this status.
    pub answered: Option<Status>,
}

/// Whether a lane holds a task that is accepted and has no completion: one that waits, or one in flight. `cq` is `None`
/// while a worker has it; a task may then be in its hands.
pub fn is_unanswered(
    journal: &impl Words,
    lines: usize,
    sq: &impl Words,
    cq: Option<&impl Words>,
    geometry: &Geometry,
) -> bool {
    let position = journal.load_commit(lines + COMMIT);
    let slot = |position: u64| SLOTS + (position & geometry.mask()) as usize * WORDS;
    let waiting = sq.load_commit(slot(position) + COMMIT) == position.wrapping_add(1);
    let in_flight = position > 0 && cq.is_none_or(|cq| cq.load(slot(position - 1) + COMMIT) != position);
    (waiting && !Mutant::WaitingForgotten.is_on()) || (in_flight && !Mutant::InFlightForgotten.is_on())
}

/// What a lane was charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// The signal that the task in flight raised.
    pub signal: Option<u8>,
    /// The lane is over its crash budget.
    pub over_budget: bool,
}

/// Charges the lane for the crash of its task in flight, if its worker noted one. Once a start, before [`recover`]; a start
/// that was killed in between charges the same crash again, which counts once.
pub fn charge(journal: &impl WordsMut, lines: usize, cq: &impl Words, geometry: &Geometry) -> Charge {
    let committed = journal.load_commit(lines + COMMIT);
    let slot = SLOTS + (committed.wrapping_sub(1) & geometry.mask()) as usize * WORDS;
    let is_noted = committed != 0
        && (journal.load_commit(lines + crash::POSITION) == committed || Mutant::EarlierNoteCharged.is_on())
        && journal.load(lines + k::VERDICT) == 0
        && cq.load_commit(slot + COMMIT) != committed;
    if !is_noted {
        return Charge::default();
    }
    let now = journal.load(lines + crash::AT);
    let mut times = crash::CHARGED.map(|at| journal.load(lines + at));
    if (!times.contains(&now) || Mutant::CrashChargedTwice.is_on())
        && let Some((oldest, at)) = times.iter_mut().zip(crash::CHARGED).min_by_key(|(time, _)| **time)
    {
        *oldest = now;
        journal.store(lines + at, now);
    }
    let window = if Mutant::CrashWindowIgnored.is_on() { u64::MAX } else { CRASH_WINDOW.as_nanos() as u64 };
    // A time of another boot may lie ahead of this one's clock; it is no crash of the last minute.
    let is_recent = |&time: &u64| time != 0 && time <= now && now - time <= window;
    Charge { signal: Some(journal.load(lines + crash::CAUSE) as u8), over_budget: times.iter().all(is_recent) }
}

/// Judges one lane; `lines` is where its lines begin in the journal. `look` is asked about the task in flight only
/// where its answer matters.
pub fn recover(
    journal: &impl Words,
    lines: usize,
    cq: &impl WordsMut,
    geometry: &Geometry,
    look: impl FnOnce(&DescriptorRecord) -> Circumstances,
) -> Recovered {
    let committed = journal.load_commit(lines + COMMIT); // P3
    if committed == 0 || (committed == 1 && Mutant::FirstTaskForgotten.is_on()) {
        return Recovered { position: 0, rerun: None, answered: None };
    }
    let position = committed - 1;
    let slot = SLOTS + (position & geometry.mask()) as usize * WORDS;
    let next = Recovered { position: committed, rerun: None, answered: None };
    if cq.load_commit(slot + COMMIT) == committed && !Mutant::CompletedNotNoticed.is_on() {
        return next; // it had completed
    }
    let record = DescriptorRecord { words: journal.load_record(lines) };
    let started_at = journal.load(lines + k::STARTED_AT);
    let publish = |status: Status, attempt: u16| {
        // Done and its like carry lengths that only a handler knows; none of them is ever a verdict.
        let completion =
            CompletionRecord::new(status, attempt, 0, record.submitted_at(), started_at, started_at, [0; 3]);
        Mutant::AnswerBeforeRecord.then(|| cq.commit(slot + COMMIT, committed));
        cq.store_record(slot, &completion.words);
        cq.commit(slot + COMMIT, committed); // P2
        let again = u64::from(Mutant::AnsweredServedAgain.is_on());
        Recovered { answered: Some(status), position: committed - again, ..next }
    };

    let verdict = journal.load(lines + k::VERDICT);
    if verdict != 0 && !Mutant::VerdictIgnored.is_on() {
        // It never ran, and says so. A verdict no build writes is a damaged journal: nobody knows.
        let status = Status::from_wire(verdict as u8, (verdict >> 8) as u8, 0);
        return match status {
            Some(status) if status.ran() == executor_core::Ran::No => publish(status, 0),
            _ => publish(Status::Interrupted(Interrupted::Killed), 1),
        };
    }
    let attempts = match journal.load(lines + k::ATTEMPTS) {
        word if word >> 8 == position || Mutant::AttemptsOfAnyTask.is_on() => (word as u16) & 0xff,
        _ => 1,
    }
    .max(1);
    let seen = look(&record);
    let is_poisoned = seen.poisoned && !Mutant::PoisonIgnored.is_on();
    let is_idempotent = seen.idempotent || Mutant::IdempotenceIgnored.is_on();
    let bar = if attempts >= ATTEMPTS_MAX && !Mutant::AttemptsIgnored.is_on() {
        Some(Interrupted::Attempts)
    } else if seen.payload_lost && !Mutant::LossIgnored.is_on() {
        Some(Interrupted::PayloadLost)
    } else if seen.handler_changed && !Mutant::ChangeIgnored.is_on() {
        Some(Interrupted::HandlerChanged)
    } else {
        (is_poisoned || !is_idempotent).then_some(Interrupted::Killed)
    };
    // Whatever else keeps it from running again, its author wants to hear of the signal.
    let is_signal = seen.signal && !Mutant::SignalNotTold.is_on();
    let reason = bar.map(|reason| if is_signal { Interrupted::Signal } else { reason });
    match reason {
        Some(reason) => publish(Status::Interrupted(reason), attempts),
        None => Recovered { position, rerun: Some(Rerun { attempt: attempts + 1 }), answered: None },
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::words::HeapWords;

    const GEOMETRY: Geometry =
        Geometry { capacity: 4, request_bytes: 64, response_bytes: 64, lanes: 1, handlers: 8, workers: 1 };
    const SECOND: u64 = 1_000_000_000;

    /// The task at `position` is in flight and its worker has noted SIGABRT at `at`.
    fn crashed(journal: &HeapWords, position: u64, at: u64) {
        journal.store(COMMIT, position + 1);
        journal.store(crash::AT, at);
        journal.store(crash::CAUSE, 6 | 1 << 8);
        journal.store(crash::POSITION, position + 1);
    }

    fn charges(times: &[u64]) -> Vec<bool> {
        let (journal, cq) = (HeapWords::new(64), HeapWords::new(SLOTS + 4 * WORDS));
        let charge = |(position, &at)| {
            crashed(&journal, position, at);
            let first = charge(&journal, 0, &cq, &GEOMETRY);
            assert_eq!(first.signal, Some(6));
            assert_eq!(charge(&journal, 0, &cq, &GEOMETRY), first, "a start that begins again charges nothing more");
            first.over_budget
        };
        (0..).zip(times).map(charge).collect()
    }

    #[test]
    fn the_third_crash_within_a_minute_is_one_too_many() {
        assert_eq!(charges(&[5 * SECOND, 35 * SECOND, 65 * SECOND]), [false, false, true]);
        assert_eq!(charges(&[5 * SECOND, 35 * SECOND, 65 * SECOND + 1]), [false, false, false]);
        assert_eq!(charges(&[1, 100 * SECOND, 140 * SECOND, 159 * SECOND]), [false, false, false, true]);
        assert_eq!(charges(&[900 * SECOND, 901 * SECOND, 2 * SECOND]), [false; 3], "two of them of another boot");
    }

    #[test]
    fn nobody_is_charged_for_what_was_not_noted_or_did_not_end_the_process() {
        let (journal, cq) = (HeapWords::new(64), HeapWords::new(SLOTS + 4 * WORDS));
        assert_eq!(charge(&journal, 0, &cq, &GEOMETRY), Charge::default(), "no task was ever started");
        journal.store(COMMIT, 1);
        assert_eq!(charge(&journal, 0, &cq, &GEOMETRY), Charge::default(), "killed");
        crashed(&journal, 0, 7);
        journal.store(COMMIT, 2);
        assert_eq!(charge(&journal, 0, &cq, &GEOMETRY), Charge::default(), "the task before it, long completed");
        crashed(&journal, 1, 7);
        cq.store(SLOTS + WORDS + COMMIT, 2);
        assert_eq!(charge(&journal, 0, &cq, &GEOMETRY), Charge::default(), "a handler survived its signal");
        cq.store(SLOTS + WORDS + COMMIT, 0);
        journal.store(k::VERDICT, 6);
        assert_eq!(charge(&journal, 0, &cq, &GEOMETRY), Charge::default(), "it never ran");
        assert!(crash::CHARGED.iter().all(|&at| journal.load(at) == 0));
    }
}
