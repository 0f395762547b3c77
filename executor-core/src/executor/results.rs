//! What became of each task, by its id: from when it is accepted until `limit` newer results came.
//!
//! It runs nothing and blocks nobody. The ids in it are as good as consecutive, so an id's slot is found by its lowest bits
//! and, where that one is taken, among the next ones.
//!
//! # Invariants
//! - V1: a slot's words belong to one thread at a time: to the submitter from `RESERVED` to `ACCEPTED`, to the worker from
//!   `ACCEPTED` to an end, to one reader from `READING` to `READ`. Each of these begins with a compare-and-swap of `state` or
//!   is handed over with the task.
//! - V2: a slot that holds an ended task is given to another one only once the task's result expired, which is when `limit`
//!   results are newer, and nobody waits for it (`pins` is 0). Who waits before it expires gets the result, however late.
//! - V3: a generation passes through a slot once, so a compare-and-swap never takes one task's state for another's.
//! - V4: there are more than `2 * limit` slots, so there is one for every accepted task but for slots that are pinned.
//!
//! # Memory ordering
//! | pair | `Release` side                  | `Acquire` side             | otherwise                                |
//! |------|---------------------------------|----------------------------|------------------------------------------|
//! | V1   | `state`, [`Results::complete`]  | `state`, [`Results::read`] | a reader gets half a result              |
//! | V2   | `state`, end of `read`          | `state`, `reserve`         | a submitter's id is overwritten          |
//! | V3   | `id`, `reserve`                 | `id`, `find`               | an id is told the state of a former one  |
//! | V5   | `farthest`, `reserve`           | `farthest`, `find`         | an accepted task is said to be unknown   |

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard};

/// Where a task is in its slot's life, in the lowest byte of `state`.
mod phase {
    pub(super) const FREE: u64 = 0;
    pub(super) const RESERVED: u64 = 1;
    pub(super) const ACCEPTED: u64 = 2;
    pub(super) const DONE: u64 = 3;
    pub(super) const FAILED: u64 = 4;
    pub(super) const READING: u64 = 5;
    pub(super) const READ: u64 = 6;
}
const PHASE: u64 = 0xff;
/// Somebody sleeps until the task ends.
const SLEEPER: u64 = 1 << 8;
/// One who waits; there can be 65,535.
const PIN: u64 = 1 << 16;
const PINS: u64 = 0xffff << 16;
const GENERATION: u64 = 1 << 32;

/// One task. A line for itself: two threads write it, and nobody else should notice.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(bytemuck::Zeroable))]
#[repr(C, align(64))]
struct Slot {
    /// Generation (32 bits), pins (16), a sleeper's bit, phase.
    state: AtomicU64,
    id: AtomicU64,
    /// Its place among all results, from 1.
    sequence: AtomicU64,
    /// In ticks, as the next two.
    submitted_at: AtomicU64,
    started_at: AtomicU64,
    completed_at: AtomicU64,
    /// Changes when sleepers are to look again.
    wakes: AtomicU32,
}

/// Free slots, which are all zeros. `None` if there is no room for them.
#[cfg(not(loom))]
fn slots(count: usize) -> Option<Box<[Slot]>> {
    bytemuck::allocation::try_zeroed_slice_box(count).ok()
}

#[cfg(loom)]
fn slots(count: usize) -> Option<Box<[Slot]>> {
    let slot = |_| Slot {
        state: AtomicU64::new(phase::FREE),
        id: AtomicU64::new(0),
        sequence: AtomicU64::new(0),
        submitted_at: AtomicU64::new(0),
        started_at: AtomicU64::new(0),
        completed_at: AtomicU64::new(0),
        wakes: AtomicU32::new(0),
    };
    Some((0..count).map(slot).collect())
}

/// Parts of the table of texts, so that workers whose tasks fail seldom wait for each other.
const SHARDS: usize = if cfg!(loom) { 1 } else { 64 };

const _: () = assert!(cfg!(loom) || size_of::<Slot>() == 64);

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) submitted_at: u64,
    pub(crate) started_at: u64,
    pub(crate) completed_at: u64,
    pub(crate) error: Option<Box<str>>,
}

/// A slot, and the generation in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    index: u32,
    generation: u64,
}

impl Place {
    pub(crate) fn index(self) -> u32 {
        self.index
    }
}

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It has not ended; the slot is pinned if that was asked for.
    Pending(Place),
    Ended(Outcome),
    AlreadyRead,
    /// It was never accepted, or its result expired.
    Unknown,
    /// 65,535 threads wait for it already.
    Crowded,
}

#[derive(Debug)]
pub(crate) struct Results {
    limit: u64,
    slots: Box<[Slot]>,
    /// Texts of tasks that failed, by slot; each is its task's as the slot is.
    errors: [Mutex<HashMap<u32, Box<str>>>; SHARDS],
    /// The most steps from its own slot that a task was ever put.
    farthest: AtomicU32,
}

impl Results {
    /// For `limit` results beside as many tasks that have not ended: three to six slots for each, of 64 bytes. `None` if there
    /// is no room for them.
    pub(crate) fn new(limit: u64, smallest: usize) -> Option<Self> {
        let count = usize::try_from(limit).ok()?.checked_mul(3)?.max(smallest).checked_next_power_of_two()?;
        let errors = std::array::from_fn(|_| Mutex::new(HashMap::new()));
        Some(Self { limit, slots: slots(count)?, errors, farthest: AtomicU32::new(0) })
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    fn is_expired(&self, sequence: u64, finished: u64) -> bool {
        finished >= sequence.saturating_add(self.limit)
    }

    /// Gives a slot to a task that was accepted, pinned if its submitter is going to wait for it. `seen` and `fresh` tell
    /// how many tasks have finished, cheaply and exactly. `None` if there is none: V4.
    #[inline]
    pub(crate) fn reserve(
        &self,
        id: u64,
        submitted_at: u64,
        pinned: bool,
        seen: impl Fn() -> u64,
        fresh: impl Fn() -> u64,
    ) -> Option<Place> {
        let mask = self.mask();
        for step in 0..self.slots.len() {
            let index = (id as usize).wrapping_add(step) & mask;
            let slot = self.slots.get(index)?;
            let state = slot.state.load(Acquire); // V2
            let phase = state & PHASE;
            let ended = matches!(phase, phase::DONE | phase::FAILED | phase::READ) && state & PINS == 0;
            let sequence = slot.sequence.load(Relaxed);
            let expired = || self.is_expired(sequence, seen()) || self.is_expired(sequence, fresh());
            if phase != phase::FREE && !(ended && expired()) {
                continue;
            }
            let generation = (state & !(GENERATION - 1)).wrapping_add(GENERATION);
            if slot.state.compare_exchange(state, generation | phase::RESERVED, Acquire, Relaxed).is_err() {
                continue; // another submitter's now, or a reader came
            }
            if phase == phase::FAILED {
                self.take_error(index as u32); // nobody read it
            }
            slot.id.store(id, Release); // V3
            slot.submitted_at.store(submitted_at, Relaxed);
            if step > self.farthest.load(Relaxed) as usize {
                self.farthest.fetch_max(step as u32, Release); // V5
            }
            let pin = if pinned { PIN } else { 0 };
            slot.state.store(generation | pin | phase::ACCEPTED, Release);
            return Some(Place { index: index as u32, generation });
        }
        None
    }

    /// Publishes how the task in slot `index` ended. The word to wake sleepers on, if somebody sleeps.
    #[inline]
    pub(crate) fn complete(
        &self,
        index: u32,
        sequence: u64,
        [started_at, completed_at]: [u64; 2],
        error: Option<Box<str>>,
    ) -> Option<&AtomicU32> {
        let slot = self.slots.get(index as usize)?;
        let mut end = phase::DONE;
        if let Some(text) = error {
            end = phase::FAILED;
            self.errors(index).insert(index, text);
        }
        slot.sequence.store(sequence, Relaxed);
        slot.started_at.store(started_at, Relaxed);
        slot.completed_at.store(completed_at, Relaxed);
        // An addition, because those who wait come and go in the same word.
        let before = slot.state.fetch_add(end - phase::ACCEPTED, Release); // V1
        if before & SLEEPER == 0 {
            return None;
        }
        slot.wakes.fetch_add(1, Release);
        Some(&slot.wakes)
    }

    /// What is known of `id`. An end is handed out once. With `pin` a task that has not ended is pinned.
    pub(crate) fn find(&self, id: u64, pin: bool, finished: impl Fn() -> u64) -> Found {
        let farthest = self.farthest.load(Acquire) as usize; // V5
        for step in 0..=farthest {
            let index = (id as usize).wrapping_add(step) & self.mask();
            let Some(slot) = self.slots.get(index) else { break };
            loop {
                let state = slot.state.load(Acquire); // V1
                if state & PHASE <= phase::RESERVED || slot.id.load(Acquire) != id {
                    // V3 otherwise: whoever sees an id sees that its slot is reserved for it
                    break;
                }
                // The id is this generation's if the state is still the same; else look again.
                let place = Place { index: index as u32, generation: state & !(GENERATION - 1) };
                match state & PHASE {
                    phase::ACCEPTED if !pin => {
                        if slot.state.load(Acquire) & !(GENERATION - 1) == place.generation {
                            return Found::Pending(place);
                        }
                    }
                    phase::ACCEPTED => {
                        if state & PINS == PINS {
                            return Found::Crowded;
                        }
                        if slot.state.compare_exchange(state, state + PIN, Acquire, Relaxed).is_ok() {
                            return Found::Pending(place);
                        }
                    }
                    _ if self.is_expired(slot.sequence.load(Relaxed), finished()) => {
                        if slot.state.load(Acquire) == state {
                            return Found::Unknown;
                        }
                    }
                    phase::DONE | phase::FAILED => {
                        if let Some(outcome) = self.take(slot, index, state, 0) {
                            return Found::Ended(outcome);
                        }
                    }
                    _ => {
                        if slot.state.load(Acquire) & !(GENERATION - 1) == place.generation {
                            return Found::AlreadyRead;
                        }
                    }
                }
            }
        }
        Found::Unknown
    }

    /// Whether the task in a pinned slot has ended.
    #[inline(always)]
    pub(crate) fn has_ended(&self, place: Place) -> bool {
        self.slots.get(place.index as usize).is_none_or(|slot| slot.state.load(Relaxed) & PHASE > phase::ACCEPTED)
    }

    /// Says that somebody is about to sleep until the task in a pinned slot ends. The word to sleep on and its value, or
    /// `None` if it has ended.
    pub(crate) fn doze(&self, place: Place) -> Option<(&AtomicU32, u32)> {
        let slot = self.slots.get(place.index as usize)?;
        let wakes = slot.wakes.load(Acquire);
        let before = slot.state.fetch_or(SLEEPER, AcqRel);
        (before & PHASE == phase::ACCEPTED).then_some((&slot.wakes, wakes))
    }

    /// Gives up waiting in a pinned slot.
    pub(crate) fn unpin(&self, place: Place) {
        if let Some(slot) = self.slots.get(place.index as usize) {
            slot.state.fetch_sub(PIN, Release);
        }
    }

    /// Takes the result out of a pinned slot whose task has ended, and gives up the pin.
    #[inline]
    pub(crate) fn read(&self, place: Place) -> Found {
        let Some(slot) = self.slots.get(place.index as usize) else { return Found::Unknown };
        loop {
            let state = slot.state.load(Acquire); // V1
            match state & PHASE {
                phase::DONE | phase::FAILED => {
                    if let Some(outcome) = self.take(slot, place.index as usize, state, PIN) {
                        return Found::Ended(outcome);
                    }
                }
                phase::ACCEPTED => return Found::Pending(place),
                _ => {
                    self.unpin(place);
                    return Found::AlreadyRead;
                }
            }
        }
    }

    /// Takes the result of a slot in `state`, unless that has changed; `unpin` is taken from it as well.
    #[inline]
    fn take(&self, slot: &Slot, index: usize, state: u64, unpin: u64) -> Option<Outcome> {
        let reading = state & !PHASE | phase::READING;
        slot.state.compare_exchange(state, reading, Acquire, Relaxed).ok()?;
        let outcome = Outcome {
            submitted_at: slot.submitted_at.load(Relaxed),
            started_at: slot.started_at.load(Relaxed),
            completed_at: slot.completed_at.load(Relaxed),
            error: if state & PHASE == phase::FAILED { self.take_error(index as u32) } else { None },
        };
        slot.state.fetch_sub(unpin.wrapping_sub(phase::READ - phase::READING), Release); // V2
        Some(outcome)
    }

    #[cold]
    fn take_error(&self, index: u32) -> Option<Box<str>> {
        self.errors(index).remove(&index)
    }

    fn errors(&self, index: u32) -> MutexGuard<'_, HashMap<u32, Box<str>>> {
        let [first, ..] = &self.errors;
        self.errors.get(index as usize % SHARDS).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }
}
