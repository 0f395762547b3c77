//! What a worker did in the last while, in private: so that the wait of a slow task can be told by what the worker did
//! meanwhile.
//!
//! A *spell* is a time that the worker spent on one thing: tasks of one lane and one handler right behind each other, a
//! sleep, a gap in which it looked at nothing. Spells follow each other and never overlap, so the part of a wait that a
//! spell took is the overlap of the two, exactly.

use super::slow::{Behind, SlowTask};

/// Spells that are kept.
const SPELLS: usize = 256;

/// What a spell was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Tasks = 1,
    Asleep = 2,
    /// It looked at nothing, and the kernel had not interfered.
    Stalled = 3,
    /// It looked at nothing, and the kernel had.
    Taken = 4,
}

/// 32 bytes, written once a task.
#[derive(Clone, Copy, Debug, Default)]
struct Spell {
    begin: u64,
    end: u64,
    /// Kind, lane and handler.
    what: u64,
    /// Tasks; of a gap the ticks for which it was ready and had no CPU.
    amount: u64,
}

impl Spell {
    /// How many of its tasks so many of its ticks are, if all took as long; at least one of any.
    fn share(&self, ticks: u64) -> u16 {
        let length = u128::from(self.end.saturating_sub(self.begin).max(1));
        let tasks = (u128::from(self.amount) * u128::from(ticks)).div_ceil(length);
        u16::try_from(tasks).unwrap_or(u16::MAX)
    }
}

fn what(kind: Kind, lane: u32, handler_id: u32) -> u64 {
    u64::from(handler_id) | u64::from(lane) << 32 | (kind as u64) << 56
}

/// The last spells of a worker.
#[derive(Debug)]
pub(crate) struct History {
    spells: Box<[Spell; SPELLS]>,
    /// Where the last one is.
    last: usize,
    /// The last moment at which it had looked at all its lanes and found nothing.
    pub(crate) looked_at: u64,
    /// A shorter time between two looks is none, in ticks.
    pub(crate) stall: u64,
}

impl History {
    pub(crate) fn new(stall: u64) -> Self {
        Self { spells: Box::new([Spell::default(); SPELLS]), last: 0, looked_at: 0, stall }
    }

    /// The end of the last spell, or the last look after it.
    #[inline(always)]
    pub(crate) fn rested_since(&self) -> u64 {
        self.spells.get(self.last % SPELLS).map_or(0, |spell| spell.end).max(self.looked_at)
    }

    /// It served a task.
    #[inline(always)]
    pub(crate) fn task(&mut self, begin: u64, end: u64, lane: u32, handler_id: u32) {
        let what = what(Kind::Tasks, lane, handler_id);
        let Some(spell) = self.spells.get_mut(self.last % SPELLS) else { return };
        if spell.end == begin && spell.what == what {
            spell.end = end;
            spell.amount += 1;
        } else {
            self.push(Spell { begin, end, what, amount: 1 });
        }
    }

    /// It slept.
    pub(crate) fn slept(&mut self, begin: u64, end: u64) {
        self.push(Spell { begin, end, what: what(Kind::Asleep, 0, 0), amount: 0 });
    }

    /// It looked at nothing, because the kernel ran something else for so many ticks; `None` if the kernel did not interfere.
    pub(crate) fn gap(&mut self, begin: u64, end: u64, preempted: Option<u64>) {
        let kind = if preempted.is_some() { Kind::Taken } else { Kind::Stalled };
        self.push(Spell { begin, end, what: what(kind, 0, 0), amount: preempted.unwrap_or(0) });
    }

    #[inline(always)]
    fn push(&mut self, spell: Spell) {
        self.last = self.last.wrapping_add(1);
        if let Some(into) = self.spells.get_mut(self.last % SPELLS) {
            *into = spell;
        }
    }

    /// Says what `task`, whose stamps and lane are set, waited for. `served_since` is when the worker got its lane;
    /// `preempted` what the kernel took of the CPU since the worker last served or looked, `None` if it did not interfere.
    pub(crate) fn explain(&self, task: &mut SlowTask, served_since: u64, preempted: Option<u64>) {
        let (begin, end) = (task.submitted_at, task.started_at);
        if end <= begin {
            task.known.history = true;
            return;
        }
        // Whatever the worker did before it last looked into this lane and found nothing: the task was not there yet.
        if self.looked_at > served_since {
            task.late = self.looked_at.clamp(begin, end) - begin;
        }
        let begin = begin + task.late;
        let served_since = served_since.clamp(begin, end);
        // Before it had the lane it may have had other things to do.
        task.unserved = served_since - begin;
        let mut most = [0, 0];
        // What is not in any spell, from the newest back: `after` is where the spells looked at so far begin.
        let (mut after, mut complete) = (end, false);
        for back in 0..SPELLS {
            let Some(spell) = self.spells.get(self.last.wrapping_sub(back) % SPELLS) else { break };
            if spell.end == 0 || spell.end > after {
                // Nothing was before it, or the clock went back.
                complete = spell.end == 0;
                break;
            }
            let overlap = spell.end.min(end).saturating_sub(spell.begin.max(begin));
            let unserved = spell.end.min(served_since).saturating_sub(spell.begin.max(begin));
            task.unserved = task.unserved.saturating_sub(unserved);
            if after == end {
                self.last_gap(task, end - spell.end.clamp(served_since, end), preempted);
            }
            after = spell.begin.max(begin);
            if spell.end <= begin {
                complete = true;
                break;
            }
            let (lane, handler_id) = ((spell.what >> 32) as u32 & 0xffff, spell.what as u32);
            if spell.what >> 56 == Kind::Tasks as u64 {
                let own = lane == task.lane;
                let behind = if own { &mut task.behind_lane } else { &mut task.behind_others };
                let most = if own { &mut most[0] } else { &mut most[1] };
                behind.ticks += overlap;
                behind.tasks = behind.tasks.saturating_add(spell.share(overlap));
                if overlap > *most {
                    *most = overlap;
                    *behind = Behind { handler_id, lane, ..*behind };
                }
            } else if spell.what >> 56 == Kind::Asleep as u64 {
                task.asleep += overlap;
            } else if spell.what >> 56 == Kind::Stalled as u64 {
                task.wait_stalled += overlap;
            } else {
                task.wait_preempted += spell.amount.min(overlap);
            }
            if spell.begin <= begin {
                complete = true;
                break;
            }
        }
        if after == end && complete {
            self.last_gap(task, end - served_since, preempted); // there was no spell in its wait
        }
        task.known.history = complete;
        task.hold();
    }

    /// Between its last spell and the start the worker looked for work, and should have found it. Between earlier spells it
    /// found tasks of others; what it did not do then is not known.
    fn last_gap(&self, task: &mut SlowTask, gap: u64, preempted: Option<u64>) {
        match preempted {
            Some(taken) => task.wait_preempted += taken.min(gap),
            None if gap > self.stall => task.wait_stalled += gap,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task of lane 1, submitted at 1000 and started at 2000.
    fn waited(history: &History, served_since: u64, preempted: Option<u64>) -> SlowTask {
        let (submitted_at, started_at, completed_at) = (1000, 2000, 2100);
        let mut task = SlowTask { lane: 1, submitted_at, started_at, completed_at, ..SlowTask::default() };
        history.explain(&mut task, served_since, preempted);
        task
    }

    #[test]
    fn a_wait_is_split_by_what_the_worker_did_in_it() {
        let mut history = History::new(10);
        history.task(500, 900, 1, 7); // before it was there
        history.task(900, 1100, 1, 7); // the last 100 of it
        history.task(1100, 1300, 2, 8);
        history.slept(1300, 1400);
        history.gap(1400, 1500, None);
        history.gap(1500, 1700, Some(150));
        history.task(1700, 1750, 1, 9);
        let task = waited(&history, 0, None);
        assert_eq!(
            task.behind_lane,
            Behind { ticks: 150, handler_id: 7, lane: 1, tasks: 2 },
            "one of before is no part of it"
        );
        assert_eq!(task.behind_others, Behind { ticks: 200, handler_id: 8, lane: 2, tasks: 1 });
        assert_eq!((task.asleep, task.wait_preempted), (100, 150));
        assert_eq!(task.wait_stalled, 100 + 250, "from the end of the last spell to the start as well");
        assert_eq!(task.wait_unexplained(), 50);
        assert!(task.known.history);
    }

    #[test]
    fn tasks_right_behind_each_other_are_one_spell_and_others_are_not() {
        let mut history = History::new(10);
        for begin in (1000..2000).step_by(10) {
            history.task(begin, begin + 10, 2, 7);
        }
        let task = waited(&history, 0, None);
        assert_eq!(task.behind_others, Behind { ticks: 1000, handler_id: 7, lane: 2, tasks: 100 });
        assert!(task.known.history);
        let mut history = History::new(10);
        for begin in (0..2000).step_by(2) {
            history.task(begin, begin + 2, 2, (begin / 2 % 2) as u32);
        }
        let task = waited(&history, 0, None);
        assert_eq!(task.behind_others.ticks, 2 * SPELLS as u64, "more than that is past");
        assert_eq!(task.wait_unexplained(), 1000 - 2 * SPELLS as u64);
        assert!(!task.known.history);
    }

    #[test]
    fn what_was_before_a_look_that_found_nothing_is_its_producers_doing() {
        let mut history = History::new(10);
        history.task(1100, 1200, 2, 7);
        history.looked_at = 1600;
        let task = waited(&history, 0, Some(300));
        assert_eq!((task.late, task.behind_others.ticks, task.wait_preempted), (600, 0, 300));
        assert_eq!(task.wait_unexplained(), 100);
        let task = waited(&history, 1700, None);
        assert_eq!(task.late, 0, "it did not look into this lane then");
    }

    #[test]
    fn before_the_worker_had_the_lane_it_is_unserved_but_for_what_the_worker_did() {
        let mut history = History::new(10);
        history.task(1100, 1400, 2, 7);
        let task = waited(&history, 1500, None);
        assert_eq!((task.unserved, task.behind_others.ticks, task.wait_stalled), (200, 300, 500));
        let task = waited(&History::new(10), 1500, None);
        assert_eq!((task.unserved, task.wait_stalled, task.known.history), (500, 500, true));
        let task = waited(&History::new(1000), 0, None);
        assert_eq!((task.wait_stalled, task.wait_unexplained()), (0, 1000), "shorter than a stall");
    }
}
