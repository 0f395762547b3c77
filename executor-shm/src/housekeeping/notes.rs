//! What housekeeping writes into the flight recorder: the life of lanes, starts and stops, and a clock that cannot be
//! trusted.

use std::time::Instant;

use executor_core::clock::ClockSource;
use executor_core::meter::{self, WorkerWord};
use executor_core::recorder::{Event, EventKind, EventPen};
use executor_core::{Clock, Status};

use super::Housekeeping;
use crate::layout::status;
use crate::mapped::MeterWords;
use crate::master::Master;
use crate::state::{LaneState, LaneWord};
use crate::status::Placement;
use crate::words::Words;

/// The clocks may go apart by so many nanoseconds between two looks, and by a thousandth of the time.
const CLOCKS_APART_NS: u64 = 1_000_000;

/// The pen of housekeeping, and when it last looked at the clocks.
#[derive(Debug)]
pub(crate) struct Notes {
    pen: EventPen<MeterWords>,
    clock: Clock,
    looked: (u64, Instant),
    /// Tasks that recovery answered, until the start is told.
    answered: Vec<Event>,
}

/// Whom recovery answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) lane: u32,
    pub(super) position: u64,
    pub(super) handler_id: u32,
    /// Its row in the registry, if it has one.
    pub(super) row: Option<usize>,
    pub(super) status: Status,
}

impl Notes {
    pub(super) fn new(master: &Master, clock: Clock) -> Self {
        let layout = master.geometry.meter_layout();
        let meter = master.status.meter(master.geometry.meter(), layout.words());
        let pen = EventPen::new(meter, &layout, layout.workers);
        Self { pen, clock, looked: (clock.now(), Instant::now()), answered: Vec::new() }
    }

    fn event(&self, kind: EventKind) -> Event {
        Event::new(kind, self.clock.now())
    }

    /// Records an event, if anything is to be recorded.
    fn write(&self, master: &Master, event: &Event) {
        if master.status.load(status::SLOW_AFTER) != 0 {
            self.pen.write(event);
        }
    }

    pub(super) fn started(&self, master: &Master, lanes: u32) {
        let (epoch, pid) = (master.status.load(status::EPOCH), master.status.load(status::PID));
        self.write(master, &self.event(EventKind::Started).values(&[epoch, pid, u64::from(lanes)]));
        for event in &self.answered {
            self.write(master, &Event { at: self.clock.now(), ..*event });
        }
    }

    /// Counts a task that recovery answered as one of worker 0, which does not count yet.
    pub(super) fn answered(&mut self, master: &Master, task: &Answered) {
        let (layout, code) = (master.geometry.meter_layout(), usize::from(task.status.code()));
        let meter = master.status.meter(master.geometry.meter(), layout.words());
        meter::add(&meter, layout.worker(0) + WorkerWord::Tasks as usize, 1);
        meter::add(&meter, layout.lane(task.lane as usize) + code, 1);
        if let Some(row) = task.row {
            meter::add(&meter, layout.handler(0, row) + code, 1);
        }
        let values = [task.position, code as u64, u64::from(task.status.detail())];
        let event = self.event(EventKind::Answered).lane(task.lane).handler(task.handler_id);
        self.answered.push(event.values(&values));
    }

    pub(super) fn stopping(&self, master: &Master) {
        self.write(master, &self.event(EventKind::Stopping));
    }

    /// A lane is what `word` says from now on.
    pub(super) fn lane(&self, master: &Master, lane: u32, word: LaneWord) {
        let gate = master.geometry.gate(lane);
        match word.state() {
            Some(LaneState::Active) => {
                let placement = Placement::from_word(master.status.load(gate + status::LANE_PLACEMENT));
                let owner = master.status.load(gate + status::LANE_OWNER);
                let event = self.event(EventKind::LaneTaken).lane(lane).worker(placement.worker);
                self.write(master, &event.values(&[word.nonce(), owner, placement.priority as u64]));
            }
            Some(LaneState::Draining) => self.write(master, &self.event(EventKind::LaneLeft).lane(lane)),
            Some(LaneState::Poisoned) => {
                let event = self.event(EventKind::LanePoisoned).lane(lane);
                self.write(master, &event.values(&[u64::from(word.reason())]));
            }
            // Not of one that is made for the first time.
            Some(LaneState::Free) if master.status.load(gate + status::LANE_RESETS) != 0 => {
                self.write(master, &self.event(EventKind::LaneReset).lane(lane).values(&[word.nonce()]));
            }
            _ => {}
        }
    }

    /// Compares the clock of the stamps with CLOCK_MONOTONIC: a machine that was suspended or moved, or a counter that is not
    /// what it was when it was calibrated.
    pub(super) fn look_at_clocks(&mut self, master: &Master) {
        let (ticks, monotonic) = (self.clock.now(), Instant::now());
        let (ticks_before, monotonic_before) = std::mem::replace(&mut self.looked, (ticks, monotonic));
        if self.clock.source() == ClockSource::Monotonic {
            return;
        }
        let by_stamps = self.clock.ticks_to_ns(ticks.saturating_sub(ticks_before));
        let by_kernel = monotonic.saturating_duration_since(monotonic_before).as_nanos() as u64;
        if are_apart(by_stamps, by_kernel) {
            self.write(master, &self.event(EventKind::ClockApart).values(&[by_stamps, by_kernel]));
        }
    }
}

fn are_apart(by_stamps: u64, by_kernel: u64) -> bool {
    by_stamps.abs_diff(by_kernel) > CLOCKS_APART_NS + by_kernel / 1000
}

impl Housekeeping {
    /// Writes a start into the flight recorder; lanes that are poisoned by it as well.
    pub(crate) fn note_start(&self, lanes: u32) {
        self.notes.started(&self.master, lanes);
        for (lane, keep) in (0..).zip(&self.lanes) {
            if keep.word.state() == Some(LaneState::Poisoned) {
                self.notes.lane(&self.master, lane, keep.word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_apart_only_by_more_than_two_looks_take_to_make() {
        let second = 1_000_000_000;
        assert!(!are_apart(second, second) && !are_apart(second + 1_900_000, second));
        assert!(are_apart(second + 2_100_000, second) && are_apart(second - 2_100_000, second));
        assert!(are_apart(0, 60 * second), "stamps that stood still while the machine was suspended");
    }
}
