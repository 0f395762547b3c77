//! What a round is like: sizes, paces and habits, drawn from the seed.

use std::time::Duration;

use clap::ValueEnum;
use executor_shm::core::idle::IdleStrategy;
use fastrand::Rng;

use crate::dice::{Stream, dice, mix};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Sidecars.
    Executor,
    /// Producers.
    Producer,
    /// Sidecars and producers, now and then both at once.
    Both,
    /// Sidecars that were told to stop, while they do; producers come and go.
    Stop,
    /// Sidecars with a hot standby behind them.
    Standby,
    /// Sidecars of two builds with other handlers, in turn on the same files.
    Upgrade,
    /// Every round another of the modes, by the seed.
    Mixed,
}

impl Mode {
    /// The modes that a mixed run draws from.
    const MIXED: [Self; 6] = [Self::Executor, Self::Producer, Self::Both, Self::Stop, Self::Standby, Self::Upgrade];

    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// How long handlers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Not at all: kills hit the engine around them.
    Hot,
    /// From nothing to some hundred microseconds.
    Brisk,
    /// Up to some milliseconds: kills hit the handlers.
    Slow,
}

/// Which tasks there are most of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Diet {
    /// Some of each kind, mostly such as run once.
    Mixed,
    /// Tasks that never run: kills hit between a verdict and its completion.
    Refused,
    /// Idempotent ones, which run again.
    Again,
}

/// What producers do with their lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// They keep a lane as long as they live.
    Stay,
    /// They come, submit a few tasks and go, mostly without waiting for them.
    Visit,
    /// Every lane another.
    Both,
}

/// One round: an instance of its own, from its first start to its clean end.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) round: u64,
    pub(crate) seed: u64,
    /// What the keys of this round's tasks depend on.
    pub(crate) task_seed: u64,
    /// Never [`Mode::Mixed`].
    pub(crate) mode: Mode,
    pub(crate) time: Duration,
    pub(crate) capacity: u32,
    pub(crate) request_bytes: u32,
    pub(crate) response_bytes: u32,
    pub(crate) lanes: u32,
    pub(crate) timing: bool,
    pub(crate) idle: IdleStrategy,
    pub(crate) quantum: u32,
    pub(crate) drain_time: Duration,
    pub(crate) producers: usize,
    pub(crate) pace: Pace,
    pub(crate) diet: Diet,
    pub(crate) habit: Habit,
}

impl Plan {
    /// Round `round` of a run with this seed.
    pub(crate) fn draw(seed: u64, round: u64, mode: Mode) -> Self {
        let mut dice = dice(seed, Stream::Round, round, 0);
        let drawn = one_of(&mut dice, &Mode::MIXED);
        let mode = if mode == Mode::Mixed { drawn } else { mode };
        let producers = dice.usize(1..=4);
        let pace = one_of(&mut dice, &[Pace::Hot, Pace::Hot, Pace::Brisk, Pace::Slow]);
        let habit = match (mode, dice.u32(0..4)) {
            (Mode::Stop, 0 | 1) | (_, 0) => Habit::Visit,
            (_, 1) => Habit::Both,
            _ => Habit::Stay,
        };
        Self {
            round,
            seed,
            task_seed: mix(seed ^ mix(round)),
            mode,
            time: Duration::from_millis(dice.u64(1500..5000)),
            // In a hot round a start finds so much to do that it is killed in the middle of that.
            capacity: match pace {
                Pace::Hot => one_of(&mut dice, &[64, 1024, 1024, 4096]),
                _ => one_of(&mut dice, &[4, 16, 64, 256]),
            },
            request_bytes: if pace == Pace::Hot { 64 } else { one_of(&mut dice, &[64, 128, 256]) },
            response_bytes: if pace == Pace::Hot { 64 } else { one_of(&mut dice, &[64, 128, 256]) },
            // Now and then as few lanes as there are producers, so that some have to wait for one.
            lanes: one_of(&mut dice, &[producers as u32, 8, 16]),
            timing: dice.u32(0..4) != 0,
            idle: one_of(
                &mut dice,
                &[IdleStrategy::Yield, IdleStrategy::SpinThenYield, IdleStrategy::Adaptive, IdleStrategy::Sleep],
            ),
            quantum: one_of(&mut dice, &[1, 8, 64]),
            drain_time: one_of(&mut dice, &[Duration::ZERO, Duration::from_millis(1), Duration::from_secs(5)]),
            producers,
            pace,
            diet: one_of(&mut dice, &[Diet::Mixed, Diet::Mixed, Diet::Refused, Diet::Again]),
            habit,
        }
    }
}

/// One of several values, all as likely.
pub(crate) fn one_of<T: Copy>(dice: &mut Rng, values: &[T]) -> T {
    values[dice.usize(..values.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_rounds_and_another_seed_others() {
        let draw =
            |seed| (0..20).map(|round| format!("{:?}", Plan::draw(seed, round, Mode::Mixed))).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_mixed_run_draws_every_mode_that_it_may() {
        let drawn: Vec<Mode> = (0..100).map(|round| Plan::draw(1, round, Mode::Mixed).mode).collect();
        assert!(Mode::MIXED.iter().all(|mode| drawn.contains(mode)), "{drawn:?}");
        assert!((0..100).all(|round| Plan::draw(1, round, Mode::Stop).mode == Mode::Stop));
    }
}
