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
    Gap = 3,
}

/// 32 bytes, written once a task.
#[derive(Clone, Copy, Debug, Default)]
struct Spell {
    begin: u64,
    end: u64,
    /// Kind, lane and handler.
    what: u64,
    /// Tasks; of a gap the ticks without the CPU.
    amount: u64,
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
    stall: u64,
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

    /// It looked at nothing, `preempted` ticks of that because the kernel ran something else.
    pub(crate) fn gap(&mut self, begin: u64, end: u64, preempted: u64) {
        self.push(Spell { begin, end, what: what(Kind::Gap, 0, 0), amount: preempted });
    }

    #[inline(always)]
    fn push(&mut self, spell: Spell) {
        self.last = self.last.wrapping_add(1);
        if let Some(into) = self.spells.get_mut(self.last % SPELLS) {
            *into = spell;
        }
    }

    /// Says what `task`, whose stamps and lane are set, waited for. `served_since` is when the worker got its lane;
    /// `preempted` what the kernel took of the CPU since the worker last served or looked.
    pub(crate) fn explain(&self, task: &mut SlowTask, served_since: u64, preempted: u64) {
        let (begin, end) = (task.submitted_at, task.started_at);
        if end <= begin {
            task.known.history = true;
            return;
        }
        task.unserved = served_since.clamp(begin, end) - begin;
        let begin = begin + task.unserved;
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
            self.between(task, spell.end.max(begin), after, preempted);
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
                behind.tasks = behind.tasks.saturating_add(u16::try_from(spell.amount).unwrap_or(u16::MAX));
                if overlap > *most {
                    *most = overlap;
                    *behind = Behind { handler_id, lane, ..*behind };
                }
            } else if spell.what >> 56 == Kind::Asleep as u64 {
                task.asleep += overlap;
            } else {
                let taken = spell.amount.min(overlap);
                task.wait_preempted += taken;
                task.wait_stalled += overlap - taken;
            }
            if spell.begin <= begin {
                complete = true;
                break;
            }
        }
        if complete && after > begin {
            self.between(task, begin, after, preempted); // before the first spell there is
        }
        task.known.history = complete;
        task.hold();
    }

    /// Between two spells the worker looked for work, as far as it noted when it last did.
    fn between(&self, task: &mut SlowTask, begin: u64, end: u64, preempted: u64) {
        if end <= begin {
            return;
        }
        if end < task.started_at {
            // It found tasks of others before this one: this one was not there yet, or it was not its turn.
            return;
        }
        let looked_at = self.looked_at.clamp(begin, end);
        task.late += looked_at - begin;
        let gap = end - looked_at;
        let taken = preempted.min(gap);
        task.wait_preempted += taken;
        if gap - taken > self.stall {
            task.wait_stalled += gap - taken;
        }
    }
}
