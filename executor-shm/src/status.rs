//! The `status` file: what the sidecar tells everybody, and how everybody reads it.
//!
//! Writing is split by words, not by locks: workers count in their own meter blocks, housekeeping writes everything
//! else. Reading believes nothing: counts are bounded by the geometry, names by their row, and a sequence that never
//! comes to rest ends in an error.

use executor_core::clock::{Calibration, Clock, ClockSource};
use executor_core::recorder::Recording;
use executor_core::registry::{NAME_MAX, Registry, Since};
use executor_core::task::Priority;

use crate::layout::{Geometry, geometry, header, status};
use crate::state::{InstanceState, LaneWord};
use crate::words::{Words, WordsMut};

/// Looks at the calibration before a reader gives up: its writer needs some nanoseconds.
const SEQUENCE_LOOKS: u32 = 10_000;
/// Bit of [`geometry::FLAGS`]: tasks are stamped.
const TIMED: u64 = 1;
const IDEMPOTENT: u64 = 1 << 32;
const GONE: u64 = 1 << 33;

/// One row of the registry table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerRow {
    /// The handler's id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its contract.
    pub fingerprint: u64,
    /// The registry generation in which it last changed or vanished.
    pub since: u32,
    /// Whether a task may be run twice.
    pub idempotent: bool,
    /// Whether no handler serves the id any more.
    pub gone: bool,
    /// Payload sizes it takes, in bytes.
    pub request_bytes: (u32, u32),
}

/// What the lane table says of a lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneFactsRow {
    /// State, reason and nonce.
    pub word: LaneWord,
    /// Added to positions to make task ids.
    pub base: u64,
    /// Priority and worker.
    pub placement: Placement,
    /// When housekeeping saw the producer, in ticks.
    pub attached_at: u64,
    /// How often the lane was reset.
    pub resets: u64,
    /// The owner's pid as it told it.
    pub owner: u64,
}

/// A lane's priority and worker in one word: priority | worker << 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// How urgent.
    pub priority: Priority,
    /// Who serves it.
    pub worker: u32,
}

impl Placement {
    /// As a file holds it.
    pub const fn word(self) -> u64 {
        self.priority as u64 | (self.worker as u64) << 8
    }

    /// From a file; any word is legal.
    pub const fn from_word(word: u64) -> Self {
        Self { priority: Priority::from_bits(word), worker: (word >> 8) as u32 & 0xff }
    }
}

/// The calibration never came to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock calibration in status is never at rest; the file is damaged or its sidecar died writing it")]
pub struct ClockUnreadable;

pub(crate) fn store_clock(words: &impl WordsMut, source: ClockSource, calibration: &Calibration) {
    let sequence = u64::from(words.load(status::CLOCK_SEQUENCE) as u32) | 1; // never 0 once it is even again
    words.commit(status::CLOCK_SEQUENCE, sequence);
    // A reader that saw the odd number before must not see new words with it; on x86-64 stores keep their order, and
    // elsewhere each word is committed on its own.
    words.commit(status::CLOCK_TICKS, calibration.ticks);
    words.commit(status::CLOCK_MONOTONIC, calibration.monotonic_ns);
    words.commit(status::CLOCK_REALTIME, calibration.realtime_ns);
    words.commit(status::CLOCK_RATE, calibration.ticks_per_second);
    words.store(geometry::CLOCK, source.code());
    words.commit(status::CLOCK_SEQUENCE, sequence + 1);
}

/// The instance's clock, as all its processes read it.
///
/// # Errors
///
/// The calibration never came to rest, or the clock source is none this build knows.
pub fn load_clock(words: &impl Words) -> Result<Clock, ClockUnreadable> {
    for _ in 0..SEQUENCE_LOOKS {
        let before = words.load_commit(status::CLOCK_SEQUENCE);
        if before == 0 {
            return Err(ClockUnreadable); // never written: whoever waits for it waits for a start of the instance
        }
        let calibration = Calibration {
            ticks: words.load_commit(status::CLOCK_TICKS),
            monotonic_ns: words.load_commit(status::CLOCK_MONOTONIC),
            realtime_ns: words.load_commit(status::CLOCK_REALTIME),
            ticks_per_second: words.load_commit(status::CLOCK_RATE),
        };
        if before.is_multiple_of(2) && words.load_commit(status::CLOCK_SEQUENCE) == before {
            let source = ClockSource::from_code(words.load(geometry::CLOCK)).ok_or(ClockUnreadable)?;
            return Ok(Clock::new(source, calibration));
        }
        std::hint::spin_loop();
    }
    Err(ClockUnreadable)
}

/// Whether tasks are stamped.
pub fn is_timed(words: &impl Words) -> bool {
    words.load(geometry::FLAGS) & TIMED != 0
}

pub(crate) fn store_timed(words: &impl WordsMut, timed: bool) {
    words.store(geometry::FLAGS, if timed { TIMED } else { 0 });
}

/// What `status` says of the recording.
pub(crate) fn slow_after_word(recording: Recording) -> u64 {
    match recording {
        Recording::Off => 0,
        Recording::SlowAfter(time) => u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_add(1),
    }
}

/// The state in a header.
pub fn load_state(words: &impl Words) -> Option<InstanceState> {
    InstanceState::from_word(words.load_commit(header::STATE))
}

pub(crate) fn store_state(words: &impl WordsMut, state: InstanceState) {
    words.commit(header::STATE, state as u64);
}

/// The lane table's row of `lane`, which must be below the geometry's lanes.
pub fn load_lane(words: &impl Words, geometry: &Geometry, lane: u32) -> LaneFactsRow {
    let at = geometry.gate(lane);
    LaneFactsRow {
        word: LaneWord::from_word(words.load_commit(at + status::GATE_STATE)),
        base: words.load(at + status::LANE_BASE),
        placement: Placement::from_word(words.load(at + status::LANE_PLACEMENT)),
        attached_at: words.load(at + status::LANE_ATTACHED_AT),
        resets: words.load(at + status::LANE_RESETS),
        owner: words.load(at + status::LANE_OWNER),
    }
}

/// The registry table, at most as many rows as there is room for.
pub fn load_registry(words: &impl Words, geometry: &Geometry) -> Vec<HandlerRow> {
    let used = words.load_commit(status::HANDLERS_USED).min(u64::from(geometry.handlers)) as u32;
    (0..used).map(|row| load_row(words, geometry.row(row))).collect()
}

fn load_row(words: &impl Words, at: usize) -> HandlerRow {
    let id = words.load(at + status::ROW_ID);
    let sizes = words.load(at + status::ROW_SIZES);
    let mut name = [0; NAME_MAX + 1];
    words.copy_out(at + status::ROW_NAME, &mut name);
    let length = (words.load(at + status::ROW_NAME_BYTES) as usize).min(NAME_MAX);
    let name = name.get(..length).unwrap_or_default();
    HandlerRow {
        id: id as u32,
        name: name.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '?' }).collect(),
        fingerprint: words.load(at + status::ROW_FINGERPRINT),
        since: words.load(at + status::ROW_SINCE) as u32,
        idempotent: id & IDEMPOTENT != 0,
        gone: id & GONE != 0,
        request_bytes: (sizes as u32, (sizes >> 32) as u32),
    }
}

fn store_row(words: &impl WordsMut, at: usize, row: &HandlerRow) {
    let flags = if row.idempotent { IDEMPOTENT } else { 0 } | if row.gone { GONE } else { 0 };
    // First of all since when: a start killed in the middle of a row must not leave a new contract with an old date,
    // which the next start would take for unchanged.
    words.commit(at + status::ROW_SINCE, u64::from(row.since));
    words.commit(at + status::ROW_ID, u64::from(row.id) | flags);
    words.store(at + status::ROW_FINGERPRINT, row.fingerprint);
    words.store(at + status::ROW_SIZES, u64::from(row.request_bytes.0) | u64::from(row.request_bytes.1) << 32);
    words.store(at + status::ROW_NAME_BYTES, row.name.len() as u64);
    let mut bytes = [0; NAME_MAX + 1];
    for (into, byte) in bytes.iter_mut().zip(row.name.bytes()) {
        *into = byte;
    }
    for (i, chunk) in bytes.chunks_exact(8).enumerate() {
        words.store(at + status::ROW_NAME + i, u64::from_le_bytes(std::array::from_fn(|b| chunk[b])));
    }
}

/// The registry table after a start with `registry`, given the rows of the last start; `None` if there is no room.
/// Rows keep their places, so that counters stay with their handlers; ids that vanished stay as tombstones.
pub(crate) fn merge_registry(
    old: &[HandlerRow],
    registry: &Registry,
    generation: u32,
    room: u32,
) -> Option<(Vec<HandlerRow>, u32)> {
    // Rows are stored before their generation: a start that was killed between them left rows of a later one.
    let generation = old.iter().map(|row| row.since).max().unwrap_or(0).max(generation);
    let next = generation.saturating_add(1); // a damaged one stays the latest: the safe side for lanes that attached
    let mut changed = false;
    let mut rows = old.to_vec();
    for row in &mut rows {
        if registry.get(row.id).is_none() && !row.gone {
            row.gone = true;
            row.since = next;
            changed = true;
        }
    }
    for handler in registry.handlers() {
        let limits = handler.request_limits();
        let mut fresh = HandlerRow {
            id: handler.id(),
            name: handler.name().to_owned(),
            fingerprint: handler.contract(),
            since: next,
            idempotent: handler.is_idempotent(),
            gone: false,
            request_bytes: (*limits.start(), *limits.end()),
        };
        match rows.iter_mut().find(|row| row.id == fresh.id) {
            Some(row) => {
                // Same name, same contract: the same handler, whatever its limits and its idempotence are now.
                if !row.gone && row.fingerprint == fresh.fingerprint && row.name == fresh.name {
                    fresh.since = row.since;
                } else {
                    changed = true;
                }
                *row = fresh;
            }
            None => {
                rows.push(fresh);
                changed = true;
            }
        }
    }
    (rows.len() <= room as usize).then_some((rows, if changed { next } else { generation }))
}

/// Stores the table: rows first, generation last.
pub(crate) fn store_registry(words: &impl WordsMut, geometry: &Geometry, rows: &[HandlerRow], generation: u32) {
    for (i, row) in rows.iter().enumerate() {
        store_row(words, geometry.row(i as u32), row);
    }
    words.commit(status::HANDLERS_USED, rows.len() as u64);
    words.commit(status::GENERATION, u64::from(generation));
}

/// What the dispatch tables need of the rows.
pub(crate) fn since(rows: &[HandlerRow]) -> Vec<Since> {
    rows.iter()
        .enumerate()
        .map(|(dense, row)| Since { id: row.id, generation: row.since, dense: dense as u32 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::HeapWords;
    use executor_core::Handler;

    fn registry(handlers: &[(u32, &str, u32)]) -> Registry {
        let mut builder = Registry::builder();
        for &(id, name, schema) in handlers {
            builder.add(Handler::new(id, name, |_, _, _| Ok(())).schema(schema));
        }
        builder.build().unwrap()
    }

    #[test]
    fn rows_keep_their_places_and_say_since_when_they_differ() {
        let (first, generation) = merge_registry(&[], &registry(&[(1, "a", 0), (2, "b", 0)]), 0, 8).unwrap();
        assert_eq!((generation, first[0].since, first[1].since), (1, 1, 1));
        let (same, generation) = merge_registry(&first, &registry(&[(1, "a", 0), (2, "b", 0)]), 1, 8).unwrap();
        assert_eq!((generation, &same), (1, &first), "a restart of the same build changes nothing");
        let (next, generation) = merge_registry(&first, &registry(&[(2, "b", 1), (3, "c", 0)]), 1, 8).unwrap();
        assert_eq!(generation, 2);
        assert_eq!(
            next.iter().map(|row| (row.id, row.since, row.gone)).collect::<Vec<_>>(),
            [(1, 2, true), (2, 2, false), (3, 2, false)]
        );
        let (back, generation) =
            merge_registry(&next, &registry(&[(1, "a", 0), (2, "b", 1), (3, "c", 0)]), 2, 8).unwrap();
        assert_eq!((generation, back[0].since, back[0].gone), (3, 3, false), "a handler that came back is another");
        assert!(merge_registry(&first, &registry(&[(1, "a", 0), (2, "b", 0), (3, "c", 0)]), 1, 2).is_none());
    }

    #[test]
    fn a_start_killed_between_rows_and_generation_dates_nothing_in_the_future() {
        let (first, generation) = merge_registry(&[], &registry(&[(1, "a", 0)]), 0, 8).unwrap();
        let (rows, next) = merge_registry(&first, &registry(&[(1, "a", 1)]), generation, 8).unwrap();
        assert_eq!((rows[0].since, next), (2, 2));
        // Killed before generation 2 was stored: the same build starts again over its own rows.
        let (again, next) = merge_registry(&rows, &registry(&[(1, "a", 1)]), generation, 8).unwrap();
        assert!(again[0].since <= next, "a lane that attaches now must not find its handler changed");
    }

    #[test]
    fn a_registry_survives_the_file_and_a_hostile_count_is_bounded() {
        let geometry = Geometry { capacity: 2, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 3, workers: 1 };
        let words = HeapWords::new(geometry.status_bytes() / 8);
        let (rows, generation) = merge_registry(&[], &registry(&[(7, "seven", 1), (4095, "last", 2)]), 0, 3).unwrap();
        store_registry(&words, &geometry, &rows, generation);
        assert_eq!(load_registry(&words, &geometry), rows);
        words.store(status::HANDLERS_USED, u64::MAX);
        words.store(geometry.row(0) + status::ROW_NAME_BYTES, u64::MAX);
        assert_eq!(load_registry(&words, &geometry).len(), 3);
    }

    #[test]
    fn a_calibration_that_is_never_at_rest_is_an_error_and_not_a_hang() {
        let geometry = Geometry { capacity: 2, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 1, workers: 1 };
        let words = HeapWords::new(geometry.status_bytes() / 8);
        assert!(load_clock(&words).is_err(), "never written");
        let calibration = Calibration { ticks: 5, monotonic_ns: 6, realtime_ns: 7, ticks_per_second: 8 };
        store_clock(&words, ClockSource::Monotonic, &calibration);
        assert_eq!(load_clock(&words).unwrap().calibration().ticks_per_second, 8);
        words.store(status::CLOCK_SEQUENCE, 3);
        assert!(load_clock(&words).is_err(), "its writer died");
        store_clock(&words, ClockSource::Monotonic, &calibration);
        assert!(load_clock(&words).is_ok(), "the next start repairs it");
    }
}
