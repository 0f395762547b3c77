//! When something was, as people want it: before now where the files are on the machine that stamps, before the newest stamp
//! where they are a copy, which may be from any time and machine.

use executor_core::Clock;
use executor_shm::inspect::Inspection;

use crate::units::nanoseconds;

/// What ages are counted from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    clock: Option<Clock>,
    from: u64,
    word: &'static str,
}

impl Moments {
    /// Of an instance and the stamps that are shown, in ticks.
    pub(crate) fn of(view: &Inspection, stamps: impl IntoIterator<Item = u64>) -> Self {
        let newest = || stamps.into_iter().max().unwrap_or(0);
        match view.clock {
            Some(clock) if view.alive.is_some() && !view.other_boot => {
                Self { clock: Some(clock), from: clock.now(), word: "ago" }
            }
            clock => Self { clock, from: newest(), word: "before the last" },
        }
    }

    /// How long ago it was.
    pub(crate) fn age(&self, ticks: u64) -> String {
        match self.clock.filter(|_| ticks != 0) {
            Some(_) if ticks >= self.from && self.word != "ago" => "the last".to_owned(),
            Some(clock) => format!("{} {}", nanoseconds(clock.ticks_to_ns(self.from.saturating_sub(ticks))), self.word),
            None => "-".to_owned(),
        }
    }
}
