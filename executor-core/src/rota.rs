//! Whose turn it is: a worker's lanes by priority.
//!
//! It runs no task and knows no clock: it calls `serve` for a lane and counts whether that found a task. A call that
//! unwinds is made good by [`Rota::panicked`].
//!
//! # Order
//! - W1 to W4 as in [`worker`](crate::worker).
//! - W5: a panic costs the lane the rest of its turn and counts as a task served, so W2 and W4 hold for handlers that
//!   always panic.

use crate::dispatch::Served;
use crate::task::Priority;
use crate::worker::PASS_OVER_LIMIT;

/// Where a lane stands among a worker's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) class: usize,
    pub(crate) index: usize,
}

/// A worker's lanes, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Rota<L> {
    classes: [Class<L>; Priority::COUNT],
    quantum: u32,
    /// Where the next sweep begins.
    resume: usize,
}

/// The lanes of one priority.
#[derive(Debug)]
struct Class<L> {
    lanes: Vec<Served<L>>,
    /// Whose turn it is.
    cursor: usize,
    /// Tasks that lane was served in its turn; [`TURN_OVER`] once it had none.
    taken: u32,
    /// Tasks of higher classes served since the last one of this class.
    passed_over: u32,
}

const TURN_OVER: u32 = u32::MAX;

impl<L> Default for Class<L> {
    fn default() -> Self {
        Self { lanes: Vec::new(), cursor: 0, taken: 0, passed_over: 0 }
    }
}

impl<L> Rota<L> {
    /// No lanes. A quantum of 0 is taken for 1.
    pub(crate) fn new(quantum: u32) -> Self {
        Self { classes: Default::default(), quantum: quantum.clamp(1, TURN_OVER - 1), resume: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.classes.iter().map(|class| class.lanes.len()).sum()
    }

    pub(crate) fn push(&mut self, served: Served<L>) {
        if let Some(class) = self.classes.get_mut(served.facts.priority as usize) {
            class.lanes.push(served);
        }
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Served<L>> {
        self.classes.get_mut(place.class)?.lanes.get_mut(place.index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Served<L>> {
        self.classes.iter().flat_map(|class| &class.lanes)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Served<L>> {
        self.classes.iter_mut().flat_map(|class| &mut class.lanes)
    }

    /// Takes out the first lane that `done` is true for.
    pub(crate) fn take(&mut self, done: impl Fn(&Served<L>) -> bool) -> Option<Served<L>> {
        self.classes.iter_mut().find_map(|class| {
            let at = class.lanes.iter().position(&done)?;
            Some(class.lanes.swap_remove(at))
        })
    }

    /// The only class that has lanes, if there is but one: then [`Rota::sweep`] may be used.
    pub(crate) fn only_class(&self) -> Option<usize> {
        let mut used = self.classes.iter().enumerate().filter(|(_, class)| !class.lanes.is_empty());
        match (used.next(), used.next()) {
            (Some((class, _)), None) => Some(class),
            _ => None,
        }
    }
}

impl<L: crate::dispatch::Lane> Rota<L> {
    /// A turn for each lane of the only class (W2), or for the lanes until `stop` is true after a task. Says whether
    /// there was a task.
    #[inline(always)]
    pub(crate) fn sweep(
        &mut self,
        class: usize,
        mut serve: impl FnMut(&mut Served<L>, Place) -> bool,
        stop: impl Fn() -> bool,
    ) -> bool {
        let Some(Class { lanes, .. }) = self.classes.get_mut(class) else { return false };
        let mut worked = false;
        let mut begin = 0;
        if self.resume != 0 {
            begin = std::mem::take(&mut self.resume);
            begin = if begin < lanes.len() { begin } else { 0 };
        }
        for (index, served) in lanes.iter_mut().enumerate().skip(begin) {
            let quota = served.left().map_or(self.quantum, |left| left.min(u64::from(self.quantum)) as u32);
            let mut taken = 0;
            while taken < quota && serve(served, Place { class, index }) {
                taken += 1;
                worked = true;
                if stop() {
                    self.resume = index + 1;
                    return true;
                }
            }
        }
        worked
    }

    /// One task of the class whose turn it is (W3, W4), and in it of the lane whose turn it is (W2). Says whether there
    /// was one.
    #[inline]
    pub(crate) fn next(&mut self, mut serve: impl FnMut(&mut Served<L>, Place) -> bool) -> bool {
        for class in 0..Priority::COUNT - 1 {
            let due = self.classes.get(class).is_some_and(|class| class.passed_over >= PASS_OVER_LIMIT);
            if due && self.serve_class(class, &mut serve) {
                return true;
            }
        }
        (0..Priority::COUNT).rev().any(|class| self.serve_class(class, &mut serve))
    }

    #[inline(always)]
    fn serve_class(&mut self, number: usize, serve: &mut impl FnMut(&mut Served<L>, Place) -> bool) -> bool {
        let Some(class) = self.classes.get_mut(number) else { return false };
        // A class that was passed over goes on with its next lane: else each lull between urgent tasks would go to the
        // same lane, up to its quantum, and a lane would wait for a quantum of lulls and not for one.
        let quantum = if class.passed_over > 0 { 1 } else { self.quantum };
        for _ in 0..class.lanes.len() {
            if class.cursor >= class.lanes.len() || class.taken >= quantum {
                class.cursor = if class.cursor + 1 >= class.lanes.len() { 0 } else { class.cursor + 1 };
                class.taken = 0;
            }
            let place = Place { class: number, index: class.cursor };
            let Some(served) = class.lanes.get_mut(class.cursor) else { return false };
            if served.left() != Some(0) && serve(served, place) {
                self.count(number);
                return true;
            }
            class.taken = TURN_OVER;
        }
        class.passed_over = 0; // nothing waits there, so nothing was passed over
        false
    }

    /// Counts a task of `number` for W2 and W4.
    #[inline(always)]
    fn count(&mut self, number: usize) {
        for (lower, class) in self.classes.iter_mut().enumerate().take(number + 1) {
            if lower < number {
                class.passed_over = class.passed_over.saturating_add(1);
            } else {
                class.passed_over = 0;
                class.taken = class.taken.saturating_add(1);
            }
        }
    }

    /// Counts a task whose handler unwound out of `serve` (W5).
    #[cold]
    pub(crate) fn panicked(&mut self, place: Place) {
        self.resume = place.index + 1;
        self.count(place.class);
        if let Some(class) = self.classes.get_mut(place.class) {
            class.taken = TURN_OVER;
        }
    }
}
