//! Moments as the executor's results tell them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::clock::Clock;

/// A moment of `CLOCK_MONOTONIC` in nanoseconds; 0 with timing off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NanoTime(u64);

impl NanoTime {
    /// The moment at so many nanoseconds of `CLOCK_MONOTONIC`.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`, zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment by the wall clock as it stands now, which somebody may have set in between. `None` where that is before
    /// 1970.
    pub fn to_wall_time(self) -> Option<SystemTime> {
        let now = SystemTime::now();
        let age = global_time_source().now().0.checked_sub(self.0);
        match age {
            Some(age) => now.checked_sub(Duration::from_nanos(age)),
            None => now.checked_add(self.since(global_time_source().now())),
        }
    }
}

/// The clock of all executors of this process.
#[derive(Clone, Copy, Debug)]
pub struct TimeSource {
    clock: Clock,
}

/// The clock of all executors of this process. The first call calibrates it, which takes 20 ms where it counts the
/// processor's ticks.
pub fn global_time_source() -> &'static TimeSource {
    static SOURCE: OnceLock<TimeSource> = OnceLock::new();
    SOURCE.get_or_init(|| TimeSource { clock: Clock::detect() })
}

impl TimeSource {
    /// Now. Some 25 ns.
    pub fn now(&self) -> NanoTime {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        NanoTime(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Moments in ticks of [`clock`](Self::clock), reckoned from now: what the ticks are off by grows with their age, some
    /// microseconds a second, and not with that of the process. 0 stays 0.
    pub(crate) fn moments<const N: usize>(&self, ticks: [u64; N]) -> [NanoTime; N] {
        let (ticks_now, now) = (self.clock.now(), self.now());
        ticks.map(|ticks| {
            if ticks == 0 {
                return NanoTime(0);
            }
            NanoTime(now.0.saturating_sub(self.clock.ticks_to_ns(ticks_now.saturating_sub(ticks))))
        })
    }
}
