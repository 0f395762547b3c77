//! How often a worker wakes the producer of a lane that says it sleeps.
//!
//! One wake-up that finds nobody asleep is no offence: the producer falls asleep just now. One that says for ever that it
//! sleeps would cost its worker a system call a task. So past a limit of useless ones in a row the lane has one a
//! millisecond, and the others are put off and never left out: a producer that sleeps after all is woken by the next.

use std::time::{Duration, Instant};

use crate::mutant::Mutant;

/// The wake-ups of one lane's producer.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    useless_in_a_row: u32,
    /// When it may be rung again, after too many useless ones.
    next: Option<Instant>,
    /// The word whose wake-up was put off.
    owed: Option<usize>,
}

impl Bell {
    const LIMIT: u32 = 64;
    const INTERVAL: Duration = Duration::from_millis(1);

    /// Whether a wake-up now is one too many.
    pub(crate) fn is_worn(&self) -> bool {
        self.next.is_some_and(|next| Instant::now() < next) && !Mutant::WakeUpsWithoutEnd.is_on()
    }

    /// Notes a wake-up that found so many asleep; nothing is owed any more.
    pub(crate) fn rung(&mut self, woken: u32) {
        self.owed = None;
        self.useless_in_a_row = if woken == 0 { self.useless_in_a_row.saturating_add(1) } else { 0 };
        self.next = (self.useless_in_a_row >= Self::LIMIT).then(|| Instant::now() + Self::INTERVAL);
    }

    /// Notes a wake-up that is to be made good for. One before it needs none: the producer waits for later.
    pub(crate) fn put_off(&mut self, at: usize) {
        self.owed = (!Mutant::WakeUpLeftOut.is_on()).then_some(at);
    }

    /// Whether a wake-up was put off.
    #[inline(always)]
    pub(crate) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    /// The word whose wake-up was put off.
    pub(crate) fn take_owed(&mut self) -> Option<usize> {
        self.owed.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_worn_by_useless_wakes_in_a_row_alone_and_only_for_its_interval() {
        let mut bell = Bell::default();
        for _ in 0..3 {
            (1..Bell::LIMIT).for_each(|_| bell.rung(0));
            assert!(!bell.is_worn());
            bell.rung(1);
        }
        (0..Bell::LIMIT).for_each(|_| bell.rung(0));
        assert!(bell.next.is_some());
        while bell.is_worn() {
            std::thread::yield_now();
        }
        bell.rung(0);
        assert!(bell.next.is_some(), "one a millisecond");
        bell.rung(1);
        assert!(!bell.is_worn(), "somebody slept after all");
    }

    #[test]
    fn a_wake_up_that_is_put_off_stays_owed_until_one_is_made() {
        let mut bell = Bell::default();
        bell.put_off(7);
        bell.put_off(9);
        assert!(bell.is_owed());
        assert_eq!(bell.take_owed(), Some(9));
        bell.put_off(9);
        bell.rung(1);
        assert!(!bell.is_owed());
    }
}
