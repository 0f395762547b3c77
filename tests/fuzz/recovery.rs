//! Arbitrary journal, `cq` and `status`, as a crash, a disk that was full, or a stranger may have left them.
//!
//! ```text
//! input   sizes u8 | circumstances u8 | death u8 | lane u8 | bytes of status u16, of journal u16 | status | journal | cq
//! sizes   bits 0-1 capacity 2 << n, 2-3 handlers, 4 workers: unless status names sizes that are small
//! death   stores after which a first recovery is killed; past all it makes it is not
//! ```
//! The journal's image is that of the lane's three lines, the cq's is what follows the first page.
//!
//! Whatever the bytes: nothing panics, a crash is charged once, a recovery changes one slot of the
//! `cq` at most and the journal never, and the next one judges the same or finds the task answered, also if the first was
//! killed after any store.

#![no_main]

mod input;

use std::cell::Cell;

use executor_core::Ran;
use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord, WORDS};
use executor_core::registry::NAME_MAX;
use executor_core::status::Interrupted;
use executor_core::{Status, TaskId};
use executor_shm::layout::{Geometry, PAGE, journal, journal::crash, lane::SLOTS};
use executor_shm::recovery::{ATTEMPTS_MAX, Circumstances, Recovered, charge, is_unanswered, recover};
use executor_shm::status as table;
use executor_shm::words::{HeapWords, Words, WordsMut};
use input::{Input, lay};
use libfuzzer_sys::fuzz_target;

/// A `cq` whose writer dies after some stores.
struct Mortal<'a> {
    words: &'a HeapWords,
    left: Cell<u32>,
}

impl Mortal<'_> {
    fn survives(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

impl Words for Mortal<'_> {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.words.load(at)
    }

    fn load_commit(&self, at: usize) -> u64 {
        self.words.load_commit(at)
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        self.words.load_record(at)
    }
}

impl WordsMut for Mortal<'_> {
    fn store(&self, at: usize, value: u64) {
        if self.survives() {
            self.words.store(at, value);
        }
    }

    fn commit(&self, at: usize, value: u64) {
        if self.survives() {
            self.words.commit(at, value);
        }
    }

    fn store_record(&self, at: usize, record: &[u64; WORDS]) {
        (1..WORDS).for_each(|word| self.store(at + word, record[word]));
    }

    fn buffer(&mut self, _: usize, _: usize) -> &mut [u8] {
        unreachable!("a recovery answers without text")
    }
}

fn content(words: &HeapWords) -> Vec<u64> {
    (0..words.len()).map(|at| words.load(at)).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (sizes, seen, death, lane) = (input.byte(), input.byte(), input.byte(), input.byte());
    let (status_bytes, journal_bytes) = (input.half().into(), input.half().into());
    let (status_image, journal_image) = (input.bytes(status_bytes), input.bytes(journal_bytes));
    let mut geometry = Geometry {
        capacity: 2 << (sizes & 3),
        request_bytes: 0,
        response_bytes: 64,
        lanes: 4,
        handlers: 1 + u32::from(sizes >> 2 & 3) * 4,
        workers: 1 + u32::from(sizes >> 4 & 1),
    };
    let head = HeapWords::new(PAGE);
    lay(&head, 0, status_image);
    let told = Geometry::load(&head);
    let is_small = told.capacity <= 64 && told.lanes <= 16 && told.handlers <= 32 && told.workers <= 4;
    if told.check().is_ok() && is_small && told.response_bytes <= 256 {
        geometry = told;
    }
    geometry.check().expect("small sizes");
    let status = HeapWords::new(geometry.meter().max(PAGE));
    lay(&status, 0, status_image);
    read_status(&status, &geometry, seen & 0x80 != 0);

    let lane = u32::from(lane) % geometry.lanes;
    let lines = geometry.journal_lane(lane);
    let journal = HeapWords::new(geometry.journal_bytes() / 8);
    lay(&journal, lines, journal_image.get(..journal::LANE_WORDS * 8).unwrap_or(journal_image));
    let cq = HeapWords::new(geometry.cq_bytes() / 8);
    lay(&cq, SLOTS, input.0);
    budget(&journal, lines, &cq, &geometry);
    judge(&journal, lines, &cq, &geometry, circumstances(seen), u32::from(death));
    // The same memory as an `sq`: it is only looked at.
    let _ = is_unanswered(&journal, lines, &cq, Some(&cq), &geometry);
    let _ = is_unanswered(&journal, lines, &cq, None::<&HeapWords>, &geometry);
});

fn circumstances(seen: u8) -> Circumstances {
    let is = |bit: u8| seen & 1 << bit != 0;
    Circumstances { poisoned: is(0), payload_lost: is(1), handler_changed: is(2), idempotent: is(3), signal: is(4) }
}

/// Everything that a start, a producer or an inspector reads of it.
fn read_status(status: &HeapWords, geometry: &Geometry, with_clock: bool) {
    let before = content(status);
    let _ = (table::load_state(status), table::is_timed(status));
    let rows = table::load_registry(status, geometry);
    assert!(rows.len() <= geometry.handlers as usize, "{} rows", rows.len());
    for row in &rows {
        assert!(row.name.len() <= NAME_MAX && row.name.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", row.name);
    }
    for lane in 0..geometry.lanes {
        let row = table::load_lane(status, geometry, lane);
        let _ = (row.word.state(), row.word.reason(), row.word.nonce());
        let _ = TaskId::new(lane, row.base).to_string();
    }
    // A sequence that never rests is looked at ten thousand times: not in every run.
    if with_clock && let Ok(clock) = table::load_clock(status) {
        for ticks in [0, 1, clock.calibration().ticks, u64::MAX / 2, u64::MAX] {
            let _ = (clock.ticks_to_ns(ticks), clock.ns_to_ticks(ticks));
            let _ = (clock.monotonic_ns_at(ticks), clock.realtime_ns_at(ticks));
        }
    }
    assert_eq!(content(status), before);
}

/// A lane is charged for a crash once, however often a start begins again.
fn budget(journal: &HeapWords, lines: usize, cq: &HeapWords, geometry: &Geometry) {
    let (before, cq_before) = (content(journal), content(cq));
    let first = charge(journal, lines, cq, geometry);
    let after = content(journal);
    let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    let is_charge = |at: &usize| crash::CHARGED.iter().any(|charged| lines + charged == *at);
    assert!(changed.len() <= 1 && changed.iter().all(is_charge), "a charge stores words {changed:?}");
    assert!(changed.is_empty() || first.signal.is_some(), "charged without a signal");
    assert_eq!(charge(journal, lines, cq, geometry), first, "a second start charges otherwise");
    assert_eq!((content(journal), content(cq)), (after, cq_before), "a second start charges again");
}

fn judge(
    journal: &HeapWords,
    lines: usize,
    cq: &HeapWords,
    geometry: &Geometry,
    circumstances: Circumstances,
    death: u32,
) {
    let (journal_before, cq_before) = (content(journal), content(cq));
    let look = |record: &DescriptorRecord| {
        let words = journal.load_record(lines);
        assert_eq!(record.words[1..], words[1..], "another task is asked about");
        circumstances
    };
    // On a copy, and killed; then again, not killed.
    let killed = HeapWords::new(cq.len());
    cq_before.iter().enumerate().for_each(|(at, &word)| killed.store(at, word));
    recover(journal, lines, &Mortal { words: &killed, left: Cell::new(death) }, geometry, look);
    let after_kill = recover(journal, lines, &killed, geometry, look);

    let first = recover(journal, lines, cq, geometry, look);
    let committed = journal.load(lines + COMMIT);
    if death < WORDS as u32 || first.answered.is_none() {
        assert_eq!(after_kill, first, "a killed recovery changes the judgement");
    }
    assert_eq!(content(&killed), content(cq), "a killed recovery changes the answer");
    assert_eq!(content(journal), journal_before, "a recovery changes no journal");

    let changed: Vec<usize> = (0..cq.len()).filter(|&at| cq.load(at) != cq_before[at]).collect();
    match first {
        Recovered { position: 0, rerun: None, answered: None } if committed == 0 => assert!(changed.is_empty()),
        Recovered { position, rerun: Some(rerun), answered: None } => {
            assert_eq!(position, committed - 1);
            assert!((2..=ATTEMPTS_MAX).contains(&rerun.attempt), "attempt {}", rerun.attempt);
            assert!(changed.is_empty(), "a task that runs again has an answer");
        }
        Recovered { position, rerun: None, answered } => {
            assert_eq!(position, committed);
            let slot = SLOTS + ((committed - 1) & geometry.mask()) as usize * WORDS;
            assert_eq!(cq.load(slot + COMMIT), committed, "neither answered nor run again");
            assert!(changed.iter().all(|at| (slot..slot + WORDS).contains(at)), "{changed:?} outside slot {slot}");
            match answered {
                None => assert!(changed.is_empty(), "an answer was changed"),
                Some(status) => {
                    assert!(changed.contains(&(slot + COMMIT)), "an answer was changed");
                    let record = CompletionRecord { words: cq.load_record(slot) };
                    let told = record.status().map(|status| (status.code(), status.detail()));
                    assert_eq!((told, record.length()), (Some((status.code(), status.detail())), 0));
                    let is_of_kind = status.ran() == Ran::No || matches!(status, Status::Interrupted(_));
                    assert!(is_of_kind, "{status}: nobody knows that");
                    assert!(
                        status != Status::Interrupted(Interrupted::HandlerChanged) || circumstances.handler_changed
                    );
                }
            }
        }
        other => panic!("{other:?} with {committed} committed"),
    }
    let again = recover(journal, lines, cq, geometry, look);
    let expected = match first.answered {
        None => first,
        Some(_) => Recovered { answered: None, ..first },
    };
    assert_eq!(again, expected, "a second recovery judges otherwise");
    assert!((0..cq.len()).all(|at| cq.load(at) == cq_before[at] || changed.contains(&at)), "a second answer");
}
