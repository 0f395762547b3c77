//! Writing events.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use super::{EVENT_WORDS, EVENTS, Event, EventKind, HEAD_WORDS, HeadWord, SLEEPS, SLEEPS_AT, count, next, write};
use crate::meter::MeterLayout;

/// Writes the events of one recorder, for the only thread that does.
#[derive(Debug)]
pub struct EventPen<M> {
    meter: M,
    /// Where the recorder begins.
    at: usize,
}

impl<M: Deref<Target = [AtomicU64]>> EventPen<M> {
    /// The pen of recorder `recorder`: the number of a worker, or the number of workers for whoever looks after the lanes.
    pub fn new(meter: M, layout: &MeterLayout, recorder: usize) -> Self {
        let at = layout.recorder(recorder);
        super::renumber(&meter, at);
        Self { meter, at }
    }

    /// Records an event; the number is given.
    pub fn write(&self, event: &Event) {
        write_event(&self.meter, self.at, event);
    }
}

pub(crate) fn write_event(meter: &[AtomicU64], recorder: usize, event: &Event) {
    let (word, begin, rows) = match event.kind {
        EventKind::Slept => (HeadWord::Sleeps, SLEEPS_AT, SLEEPS),
        _ => (HeadWord::Events, HEAD_WORDS, EVENTS),
    };
    let number = next(meter, recorder, word);
    let row = (number % rows as u64) as usize;
    write(meter, recorder + begin + row * EVENT_WORDS, number, &event.words());
    count(meter, recorder, word, number); // G2
}
