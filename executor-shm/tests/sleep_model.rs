//! Who sleeps and who wakes, as `sleep.rs` tells it, on a machine whose stores wait in a buffer: every interleaving of a
//! sleeper and a waker with the kernel's barrier, which the memory model of the language does not have.
//!
//! The machine is that of x86-64, as the total store order describes it: each side's stores pass through a queue of its own
//! into memory, at any later moment and in order, and a side's loads see its own queue first. A fence empties the queue of
//! its side; the kernel's barrier that of both, the other side's at some moment while it lasts. The kernel's compare and the
//! falling asleep are one step, as they are under its lock. A wake-up empties the queue of its side first, which the kernel
//! promises (`hb_waiters_pending` in its `futex.h`); that falling asleep does too is not made use of. Wake-ups that come for no reason and sleeps that end in their time are left out: each would hide a wake-up that
//! is lost, which is a state that nothing leads out of.
//!
//! This is a model of the protocol and not the code: the code itself, with fences on both sides, runs in `loom.rs`. Each
//! weakened protocol must be seen to lose a wake-up, or the model proves nothing.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeSet, VecDeque};

/// Things that are submitted, or completed, one after another.
const TASKS: usize = 3;
/// Places in memory: a commit word for each, then the word that says who sleeps.
const FLAG: usize = TASKS;

/// How the waker names what it found in the flag.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flag {
    /// The position that is waited for, plus one.
    Position,
    /// The number of the sleep: the waker ends each once.
    Number,
    /// That somebody sleeps, and the waker wakes after every commit.
    Alone,
}

/// What each side does between its store and its look.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fence {
    None,
    /// For the side that sleeps: a fence of its own and the kernel's barrier in the other.
    Kernel,
    Own,
}

/// The protocol, or one with something left out.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    flag: Flag,
    sleeper: Fence,
    waker: Fence,
    /// The look comes before the flag.
    looks_first: bool,
    /// The sleeper does not compare what it saw with what it waits for.
    skips_look: bool,
}

/// What both sides are when they work as they should, registered for the kernel's barrier or not.
const REGISTERED: Protocol = Protocol {
    flag: Flag::Position,
    sleeper: Fence::Kernel,
    waker: Fence::None,
    looks_first: false,
    skips_look: false,
};
const FENCED: Protocol = Protocol { sleeper: Fence::Own, waker: Fence::Own, ..REGISTERED };

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Side {
    /// Stores on their way to memory.
    queue: VecDeque<(usize, u8)>,
    step: u8,
    /// The position it is at.
    at: u8,
    /// What it looked at last.
    seen: u8,
}

/// A moment of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    memory: [u8; TASKS + 1],
    sleeper: Side,
    waker: Side,
    /// The sleeper's sleeps so far, and the last that the waker ended.
    sleeps: u8,
    woken: u8,
    is_asleep: bool,
    /// Whether it ever slept.
    has_slept: bool,
}

impl Side {
    fn load(&self, memory: &[u8], at: usize) -> u8 {
        self.queue.iter().rev().find(|(place, _)| *place == at).map_or(memory[at], |(_, value)| *value)
    }
}

fn drain(side: &mut Side, memory: &mut [u8]) {
    for (at, value) in side.queue.drain(..) {
        memory[at] = value;
    }
}

/// Where a sleeper is.
mod sleeper {
    pub(super) const LOOK: u8 = 0;
    pub(super) const SAY: u8 = 1;
    pub(super) const FENCE: u8 = 2;
    pub(super) const BARRIER: u8 = 3;
    pub(super) const LOOK_AGAIN: u8 = 4;
    pub(super) const SLEEP: u8 = 5;
    pub(super) const UNSAY: u8 = 6;
    pub(super) const DONE: u8 = 7;
}

/// Where a waker is.
mod waker {
    pub(super) const COMMIT: u8 = 0;
    pub(super) const FENCE: u8 = 1;
    pub(super) const LOOK: u8 = 2;
    pub(super) const DONE: u8 = 4;
}

impl Moment {
    /// All moments that may come next.
    fn next(&self, protocol: &Protocol) -> Vec<Self> {
        let mut next = Vec::new();
        // A store of either side comes to memory.
        let mut stored = self.clone();
        if let Some((at, value)) = stored.sleeper.queue.pop_front() {
            stored.memory[at] = value;
            next.push(stored);
        }
        let mut stored = self.clone();
        if let Some((at, value)) = stored.waker.queue.pop_front() {
            stored.memory[at] = value;
            next.push(stored);
        }
        if self.sleeper.step != sleeper::DONE && !self.is_asleep {
            let mut moment = self.clone();
            moment.sleeper(protocol);
            next.push(moment);
        }
        if self.waker.step != waker::DONE {
            let mut moment = self.clone();
            moment.waker(protocol);
            next.push(moment);
        }
        next
    }

    fn sleeper(&mut self, protocol: &Protocol) {
        let at = usize::from(self.sleeper.at);
        let after = |step| match step {
            // Which of the steps comes after the first look, and after each other.
            sleeper::LOOK if protocol.looks_first => sleeper::FENCE,
            sleeper::LOOK => sleeper::SAY,
            sleeper::SAY if protocol.looks_first => sleeper::SLEEP,
            sleeper::LOOK_AGAIN if protocol.looks_first => sleeper::SAY,
            step => step + 1,
        };
        match self.sleeper.step {
            sleeper::LOOK => {
                if self.sleeper.load(&self.memory, at) != 0 {
                    self.sleeper.at += 1;
                    if usize::from(self.sleeper.at) == TASKS {
                        self.sleeper.step = sleeper::DONE;
                    }
                    return;
                }
            }
            sleeper::SAY => {
                self.sleeps += 1;
                let value = match protocol.flag {
                    Flag::Number => self.sleeps,
                    Flag::Alone => 1,
                    Flag::Position => self.sleeper.at + 1,
                };
                self.sleeper.queue.push_back((FLAG, value));
            }
            sleeper::FENCE => {
                if protocol.sleeper != Fence::None {
                    drain(&mut self.sleeper, &mut self.memory);
                }
            }
            sleeper::BARRIER => {
                if protocol.sleeper == Fence::Kernel {
                    drain(&mut self.waker, &mut self.memory);
                }
            }
            sleeper::LOOK_AGAIN => {
                self.sleeper.seen = self.sleeper.load(&self.memory, at);
                if self.sleeper.seen != 0 && !protocol.skips_look {
                    self.sleeper.step = sleeper::UNSAY;
                    return;
                }
            }
            sleeper::SLEEP => {
                if self.memory[at] == self.sleeper.seen {
                    (self.is_asleep, self.has_slept) = (true, true);
                }
            }
            _ => {
                self.sleeper.queue.push_back((FLAG, 0));
                self.sleeper.step = sleeper::LOOK;
                return;
            }
        }
        self.sleeper.step = after(self.sleeper.step);
    }

    fn waker(&mut self, protocol: &Protocol) {
        let at = usize::from(self.waker.at);
        match self.waker.step {
            waker::COMMIT => self.waker.queue.push_back((at, 1)),
            waker::FENCE => {
                if protocol.waker == Fence::Own {
                    drain(&mut self.waker, &mut self.memory);
                }
            }
            waker::LOOK => {
                let flag = self.waker.load(&self.memory, FLAG);
                let wakes = match protocol.flag {
                    Flag::Number => flag != 0 && flag != self.woken,
                    Flag::Position => flag == self.waker.at + 1,
                    Flag::Alone => flag != 0,
                };
                if !wakes {
                    return self.commit_next();
                }
                self.woken = flag;
            }
            _ => {
                drain(&mut self.waker, &mut self.memory);
                if self.is_asleep && self.sleeper.at == self.waker.at {
                    self.is_asleep = false;
                }
                return self.commit_next();
            }
        }
        self.waker.step += 1;
    }

    fn commit_next(&mut self) {
        self.waker.at += 1;
        self.waker.step = if usize::from(self.waker.at) == TASKS { waker::DONE } else { waker::COMMIT };
    }
}

/// What all interleavings came to.
#[derive(Debug, Default)]
struct Found {
    moments: usize,
    /// The sleeper sleeps for ever over something that is there.
    lost: usize,
    /// It came to its end without having slept, and after sleeps.
    awake: usize,
    slept: usize,
}

fn explore(protocol: &Protocol) -> Found {
    /// Sleeps that are looked at: with more the number only grows.
    const SLEEPS: u8 = 5;
    let (mut seen, mut open) = (BTreeSet::new(), vec![Moment::default()]);
    let mut found = Found::default();
    while let Some(moment) = open.pop() {
        if moment.sleeps > SLEEPS || !seen.insert(moment.clone()) {
            continue;
        }
        let next = moment.next(protocol);
        if next.is_empty() {
            let is_done = moment.sleeper.step == sleeper::DONE;
            found.lost += usize::from(!is_done);
            found.awake += usize::from(is_done && !moment.has_slept);
            found.slept += usize::from(is_done && moment.has_slept);
        }
        open.extend(next);
    }
    found.moments = seen.len();
    found
}

#[test]
fn no_interleaving_loses_a_wake_up_whatever_either_side_is_registered_for() {
    for flag in [Flag::Position, Flag::Alone] {
        // A waker that is not registered uses a fence whatever the sleeper does, one that is only if the sleeper is not.
        for (sleeper, waker) in [(Fence::Kernel, Fence::None), (Fence::Kernel, Fence::Own), (Fence::Own, Fence::Own)] {
            let found = explore(&Protocol { flag, sleeper, waker, ..REGISTERED });
            println!("{flag:?}, {sleeper:?}, {waker:?}: {found:?}");
            assert_eq!(found.lost, 0, "{flag:?}, {sleeper:?}, {waker:?}");
            assert!(found.awake > 0 && found.slept > 0, "both ends are seen");
        }
    }
}

#[test]
fn a_protocol_with_anything_left_out_loses_a_wake_up() {
    for whole in [REGISTERED, FENCED] {
        let weakened = [
            ("the sleeper's barrier", Protocol { sleeper: Fence::None, ..whole }),
            ("the second look", Protocol { skips_look: true, ..whole }),
            ("the look after the flag", Protocol { looks_first: true, ..whole }),
            ("the position in the flag", Protocol { flag: Flag::Number, ..whole }),
        ];
        for (what, protocol) in weakened {
            assert!(explore(&protocol).lost > 0, "{protocol:?}: nothing is lost without {what}");
        }
    }
    let light = Protocol { sleeper: Fence::Own, ..REGISTERED };
    assert!(explore(&light).lost > 0, "nothing is lost where the waker relies on a barrier that nobody raises");
}
