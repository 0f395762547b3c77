//! What producers, handlers and the killer write down while it happens, in memory that outlives all of them.
//!
//! ```text
//! head    NEXT_ENTRY NEXT_LIFE FINISH … | STAMP … | one word a role: what it is doing
//! life    state | producer | nonce of the lane | lane | base | build | last entry + 1 | instance : one lane of one producer
//! entry   mark | spec | end | starts | effects | first stamp | last stamp | task id that the handler saw: one task
//! ```
//!
//! Each word has one writer at a time: the producer marks and ends its entries, the handlers count. A producer that is
//! killed between its submit and its mark leaves `About`: whether that task was accepted, the lane's file says.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use executor_client::Status;
use executor_tests::shared::SharedTable;

/// Entries of a round; producers stop when all are taken.
const ENTRIES: usize = 1 << 20;
/// Lives of a round.
const LIVES: usize = 1 << 13;
/// Entries a producer takes at once.
const BLOCK: u64 = 32;
const LINE: usize = 8;

const NEXT_ENTRY: usize = 0;
const NEXT_LIFE: usize = 1;
const FINISH: usize = 2;
const STAMP: usize = LINE;
const ROLES: usize = 2 * LINE;
/// Roles that have a word.
pub(crate) const ROLES_MAX: usize = 16;
const LIFE_AT: usize = ROLES + ROLES_MAX;
const LIFE_WORDS: usize = LINE;
const ENTRY_AT: usize = LIFE_AT + LIVES * LIFE_WORDS;
const ENTRY_WORDS: usize = LINE;

/// How far a task came in its producer's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nobody took the entry.
    Unused,
    /// Its producer was about to submit it, or is killed in the middle of that.
    About,
    /// The submit returned: it is accepted.
    Accepted,
    /// The lane was full: it is not.
    Refused,
}

/// How a task ended, in one word: bit 63 seen, bit 62 its ticket was dropped, then attempt, detail, code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: u8,
    pub(crate) detail: u8,
    pub(crate) attempt: u16,
}

impl End {
    pub(crate) fn status(self) -> Option<Status> {
        Status::from_wire(self.code, self.detail, 0)
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({}) on attempt {}", Status::name_of(self.code), self.detail, self.attempt)
    }
}

const SEEN: u64 = 1 << 63;
const DROPPED: u64 = 1 << 62;

/// What a role is doing, for telling where a kill hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Doing {
    /// Forked, and nothing yet.
    Nothing = 0,
    /// A sidecar is starting: taking files, making or recovering lanes.
    Starting,
    /// A sidecar serves.
    Serving,
    /// A producer looks for a lane.
    Connecting,
    /// A producer has a lane and has not told about it.
    Claimed,
    /// A producer is in a submit.
    Submitting,
    /// A producer collects, or pauses.
    Collecting,
    /// A producer lets go of its lane.
    Leaving,
    /// A sidecar stands by.
    Waiting,
}

impl Doing {
    /// Whether a producer has a lane that the auditor knows.
    pub(crate) fn has_lane(self) -> bool {
        matches!(self, Self::Submitting | Self::Collecting | Self::Leaving)
    }

    fn from_word(word: u64) -> Self {
        match word as u8 {
            1 => Self::Starting,
            2 => Self::Serving,
            3 => Self::Connecting,
            4 => Self::Claimed,
            5 => Self::Submitting,
            6 => Self::Collecting,
            7 => Self::Leaving,
            8 => Self::Waiting,
            _ => Self::Nothing,
        }
    }
}

/// One lane in the hands of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) producer: u64,
    pub(crate) lane: u32,
    pub(crate) nonce: u64,
    pub(crate) base: u64,
    /// The build whose contracts it knows; 0 none.
    pub(crate) build: u64,
    /// The instance's own nonce.
    pub(crate) instance: u64,
}

/// One task as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) mark: Mark,
    pub(crate) life: u64,
    pub(crate) position: u64,
    pub(crate) spec: u64,
    /// As its producer saw it.
    pub(crate) end: Option<End>,
    /// Its producer dropped the ticket.
    pub(crate) dropped: bool,
    /// Runs that began, by build 1 and 2.
    pub(crate) starts: [u32; 2],
    /// Runs that had their effect.
    pub(crate) effects: [u32; 2],
    /// When the first and the last effect was, in effects of the round; 0 never.
    pub(crate) stamps: [u64; 2],
    /// The task id that the handler was told.
    pub(crate) told: u64,
}

/// The table of a round.
#[derive(Debug)]
pub(crate) struct Ledger(SharedTable);

impl Ledger {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(SharedTable::new(ENTRY_AT + ENTRIES * ENTRY_WORDS)?))
    }

    fn load(&self, at: usize) -> u64 {
        self.0.cell(at).load(Acquire)
    }

    fn store(&self, at: usize, value: u64) {
        self.0.cell(at).store(value, Release);
    }

    fn entry(&self, number: u64) -> usize {
        ENTRY_AT + number as usize * ENTRY_WORDS
    }

    /// Tells the producers to come to their end.
    pub(crate) fn finish(&self) {
        self.store(FINISH, 1);
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.load(FINISH) != 0
    }

    /// Whether there is no room for another producer or its tasks.
    pub(crate) fn is_full(&self) -> bool {
        self.load(NEXT_ENTRY) >= ENTRIES as u64 || self.load(NEXT_LIFE) >= LIVES as u64
    }

    /// Entries for one producer alone; empty when all are taken.
    pub(crate) fn take_block(&self) -> std::ops::Range<u64> {
        let first = self.0.cell(NEXT_ENTRY).fetch_add(BLOCK, AcqRel).min(ENTRIES as u64);
        first..(first + BLOCK).min(ENTRIES as u64)
    }

    /// A life for one producer alone; `None` when all are taken.
    pub(crate) fn begin_life(&self, life: &Life) -> Option<u64> {
        let number = self.0.cell(NEXT_LIFE).fetch_add(1, AcqRel);
        let at = (number < LIVES as u64).then_some(LIFE_AT + number as usize * LIFE_WORDS)?;
        for (word, value) in [life.producer, life.nonce, u64::from(life.lane), life.base].into_iter().enumerate() {
            self.store(at + 1 + word, value);
        }
        self.store(at + 7, life.instance);
        self.store(at, 1);
        Some(number)
    }

    pub(crate) fn set_build(&self, life: u64, build: u64) {
        self.store(LIFE_AT + life as usize * LIFE_WORDS + 5, build);
    }

    pub(crate) fn life(&self, number: u64) -> Option<Life> {
        let at = LIFE_AT + number as usize * LIFE_WORDS;
        if number >= LIVES as u64 || self.load(at) == 0 {
            return None;
        }
        let [producer, nonce, lane, base, build, _, instance] = std::array::from_fn(|word| self.load(at + 1 + word));
        Some(Life { producer, nonce, lane: lane as u32, base, build, instance })
    }

    pub(crate) fn set_doing(&self, role: usize, doing: Doing, life: u64) {
        self.store(ROLES + role, doing as u64 | life << 8);
    }

    /// What a role was doing last, and the life it did it in.
    pub(crate) fn doing(&self, role: usize) -> (Doing, u64) {
        let word = self.load(ROLES + role);
        (Doing::from_word(word), word >> 8)
    }

    /// Before a submit.
    pub(crate) fn about(&self, entry: u64, life: u64, position: u64, spec: u64) {
        self.store(LIFE_AT + life as usize * LIFE_WORDS + 6, entry + 1);
        self.store(self.entry(entry) + 1, spec);
        self.mark(entry, Mark::About, life, position);
    }

    pub(crate) fn mark(&self, entry: u64, mark: Mark, life: u64, position: u64) {
        self.store(self.entry(entry), mark as u64 | life << 8 | position << 32);
    }

    /// Its producer saw how a task ended; `false` if it had seen it before.
    pub(crate) fn end(&self, entry: u64, end: End) -> bool {
        let word = SEEN | u64::from(end.code) | u64::from(end.detail) << 8 | u64::from(end.attempt) << 16;
        let before = self.0.cell(self.entry(entry) + 2).fetch_or(word, AcqRel);
        before & SEEN == 0
    }

    pub(crate) fn drop_ticket(&self, entry: u64) {
        self.0.cell(self.entry(entry) + 2).fetch_or(DROPPED, AcqRel);
    }

    /// A handler begins with a task; `false` if there is no such entry.
    pub(crate) fn start(&self, entry: u64, build: u32, told: u64) -> bool {
        if entry >= ENTRIES as u64 {
            return false;
        }
        self.store(self.entry(entry) + 7, told);
        self.0.cell(self.entry(entry) + 3).fetch_add(one_of_build(build), AcqRel);
        true
    }

    /// The effect of a task. Two words tell of it, and a kill may come between them: the count is the effect.
    pub(crate) fn effect(&self, entry: u64, build: u32) {
        let at = self.entry(entry);
        let stamp = self.0.cell(STAMP).fetch_add(1, AcqRel) + 1;
        let _ = self.0.cell(at + 5).compare_exchange(0, stamp, AcqRel, Relaxed);
        self.store(at + 6, stamp);
        self.0.cell(at + 4).fetch_add(one_of_build(build), AcqRel);
    }

    pub(crate) fn read(&self, number: u64) -> Entry {
        let at = self.entry(number);
        let words: [u64; ENTRY_WORDS] = std::array::from_fn(|word| self.load(at + word));
        let [mark, spec, end, starts, effects, first, last, told] = words;
        let halves = |word: u64| [word as u32, (word >> 32) as u32];
        Entry {
            number,
            mark: match mark as u8 {
                0 => Mark::Unused,
                1 => Mark::About,
                2 => Mark::Accepted,
                _ => Mark::Refused,
            },
            life: mark >> 8 & 0xff_ffff,
            position: mark >> 32,
            spec,
            end: (end & SEEN != 0).then_some(End {
                code: end as u8,
                detail: (end >> 8) as u8,
                attempt: (end >> 16) as u16,
            }),
            dropped: end & DROPPED != 0,
            starts: halves(starts),
            effects: halves(effects),
            stamps: [first, last],
            told,
        }
    }

    /// Every entry that a producer ever took.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let taken = self.load(NEXT_ENTRY).min(ENTRIES as u64);
        (0..taken).map(|number| self.read(number))
    }

    /// The entry that a life marked last.
    pub(crate) fn last_of(&self, life: u64) -> Option<Entry> {
        let number = self.load(LIFE_AT + life as usize * LIFE_WORDS + 6).checked_sub(1)?;
        Some(self.read(number)).filter(|entry| entry.life == life)
    }

    /// How many lives there were.
    pub(crate) fn lives(&self) -> u64 {
        self.load(NEXT_LIFE).min(LIVES as u64)
    }
}

fn one_of_build(build: u32) -> u64 {
    1 << (32 * (build - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_what_each_of_its_writers_wrote() {
        let ledger = Ledger::new().unwrap();
        let entry = ledger.take_block().start;
        ledger.about(entry, 9, 70_000, 0xabcd);
        assert_eq!((ledger.read(entry).mark, ledger.read(entry).spec), (Mark::About, 0xabcd));
        ledger.mark(entry, Mark::Accepted, 9, 70_000);
        assert!(ledger.start(entry, 2, 5) && !ledger.start(u64::MAX, 1, 5));
        ledger.effect(entry, 2);
        ledger.effect(entry, 1);
        let end = End { code: 7, detail: 1, attempt: 1 };
        assert!(ledger.end(entry, end));
        assert!(!ledger.end(entry, end), "seen a second time");
        let read = ledger.read(entry);
        assert_eq!((read.life, read.position, read.end, read.dropped), (9, 70_000, Some(end), false));
        assert_eq!((read.starts, read.effects, read.stamps, read.told), ([0, 1], [1, 1], [1, 2], 5));
    }

    #[test]
    fn no_two_producers_share_an_entry_and_a_full_ledger_gives_none() {
        let ledger = Ledger::new().unwrap();
        let mut next = 0;
        loop {
            let block = ledger.take_block();
            assert_eq!(block.start, next);
            next = block.end;
            if block.is_empty() {
                break;
            }
        }
        assert_eq!(next, ENTRIES as u64);
        assert!(ledger.is_full() && ledger.take_block().is_empty());
    }
}
