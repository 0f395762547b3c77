#![allow(unsafe_code, reason = "reading the time stamp counter has no safe intrinsic")]
//! The clock of all stamps: ticks that cost some nanoseconds to read, and what they mean in seconds.
//!
//! It never steps back on one machine, it is not set by anybody, and a tick means nothing on another machine or after a
//! reboot. It promises no order between a stamp and the memory accesses around it: the counter is read without a fence.
//!
//! # Invariants
//! - C1: [`Clock::now`] is never 0, so 0 can stand for "no stamp" on the wire.
//! - C2: no calibration makes a conversion panic: they saturate, and a rate of 0 counts as 10^9.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// Tries for one calibration point; the tightest counts.
const BRACKETS: u32 = 64;
/// Between the two points of [`Calibration::measure`]: 50 ns of doubt at either end are 5 ppm of it.
const BASELINE: Duration = Duration::from_millis(if cfg!(shuttle) { 0 } else { 20 });

/// What ticks are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClockSource {
    /// The processor's time stamp counter.
    Tsc,
    /// `CLOCK_MONOTONIC`: a tick is a nanosecond.
    Monotonic,
}

impl ClockSource {
    /// The cheapest source that is right on this machine: the counter where CPUID calls it invariant and the kernel,
    /// which compares it between processors all the time, uses it itself; `CLOCK_MONOTONIC` elsewhere.
    pub fn detect() -> Self {
        let kernel = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        if tsc_is_invariant() && kernel.is_ok_and(|name| name.trim() == "tsc") { Self::Tsc } else { Self::Monotonic }
    }

    /// The source's number on the wire.
    pub const fn code(self) -> u64 {
        match self {
            Self::Tsc => 1,
            Self::Monotonic => 2,
        }
    }

    /// The source for its number on the wire.
    pub const fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Tsc),
            2 => Some(Self::Monotonic),
            _ => None,
        }
    }

    /// The name tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tsc => "tsc",
            Self::Monotonic => "monotonic",
        }
    }

    #[inline(always)]
    fn read(self) -> u64 {
        match self {
            Self::Tsc => tsc(),
            Self::Monotonic => monotonic_ns(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn tsc() -> u64 {
    // SAFETY: RDTSC is part of every x86-64 processor and touches no memory. Linux leaves CR4.TSD clear, so user mode
    // may execute it; a thread that asked for PR_TSC_SIGSEGV gets the signal it asked for, not undefined behaviour.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn tsc() -> u64 {
    monotonic_ns()
}

/// Intel SDM volume 3, 19.17.1 "Invariant TSC", and AMD's APM alike: CPUID 8000_0007h, bit 8 of EDX.
#[cfg(target_arch = "x86_64")]
fn tsc_is_invariant() -> bool {
    use std::arch::x86_64::__cpuid;

    const POWER_MANAGEMENT: u32 = 0x8000_0007;
    __cpuid(0x8000_0000).eax >= POWER_MANAGEMENT && __cpuid(POWER_MANAGEMENT).edx & 1 << 8 != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc_is_invariant() -> bool {
    false
}

fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// Both clocks exist on every Linux, so the error is unreachable; 0 is the stamp that means "none".
fn read_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX) // the year 2554
    })
}

/// One moment in ticks and in both of the kernel's clocks, and how fast ticks pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// The moment, in ticks.
    pub ticks: u64,
    /// The moment in nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// The moment in nanoseconds since 1970, as the machine's wall clock then stood.
    pub realtime_ns: u64,
    /// Ticks a second.
    pub ticks_per_second: u64,
}

impl Calibration {
    /// Measures the source against `CLOCK_MONOTONIC`. Takes 20 ms for [`ClockSource::Tsc`], whose rate is then known
    /// to some 10 ppm; `CLOCK_MONOTONIC` itself needs no time and is exact.
    pub fn measure(source: ClockSource) -> Self {
        let first = Self::point(source);
        if source == ClockSource::Monotonic {
            return first;
        }
        std::thread::sleep(BASELINE);
        Self { ticks_per_second: first.rate_until(&Self::point(source)).unwrap_or(NS_PER_SECOND), ..first }
    }

    /// The same moment with the rate measured from it until now: the doubt at both ends is divided by all the time
    /// between, so a second after [`Calibration::measure`] the rate is known to 0.1 ppm. The rate stays what it was if
    /// this one is off by more than a thousandth: then the machine slept, or the moment is from before a reboot.
    #[must_use]
    pub fn refine(&self, source: ClockSource) -> Self {
        if source == ClockSource::Monotonic {
            return *self;
        }
        let old = self.ticks_per_second;
        match self.rate_until(&Self::point(source)) {
            Some(rate) if old == 0 || rate.abs_diff(old) <= old / 1000 => Self { ticks_per_second: rate, ..*self },
            _ => *self,
        }
    }

    /// The moment now, at a rate of 10^9: the tightest of several readings of the kernel's clock between two of ticks.
    fn point(source: ClockSource) -> Self {
        let read = || {
            let before = source.read();
            let monotonic_ns = monotonic_ns();
            let after = source.read();
            let realtime_ns = read_ns(ClockId::CLOCK_REALTIME);
            let width = source.read().saturating_sub(before);
            let ticks = before + after.saturating_sub(before) / 2;
            (width, Self { ticks, monotonic_ns, realtime_ns, ticks_per_second: NS_PER_SECOND })
        };
        let (mut tightest, mut point) = read();
        for _ in 1..BRACKETS {
            let (width, candidate) = read();
            if width < tightest {
                (tightest, point) = (width, candidate);
            }
        }
        if source == ClockSource::Monotonic {
            point.ticks = point.monotonic_ns;
        }
        point
    }

    fn rate_until(&self, later: &Self) -> Option<u64> {
        let ticks = later.ticks.checked_sub(self.ticks)?;
        let ns = later.monotonic_ns.checked_sub(self.monotonic_ns)?;
        if ns == 0 {
            return None;
        }
        Some(scale(ticks, NS_PER_SECOND, ns)).filter(|&rate| rate != 0)
    }

    /// The rate to divide by (C2).
    fn rate(&self) -> u64 {
        if self.ticks_per_second == 0 { NS_PER_SECOND } else { self.ticks_per_second }
    }
}

/// `value * by / over`, saturating; `over` is not 0.
fn scale(value: u64, by: u64, over: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(over)).unwrap_or(u64::MAX)
}

/// A source of ticks with its calibration. Clocks of one source tick alike in all processes of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: ClockSource,
    calibration: Calibration,
}

impl Clock {
    /// A clock that was calibrated before, perhaps by another process. Any calibration is accepted (C2).
    pub const fn new(source: ClockSource, calibration: Calibration) -> Self {
        Self { source, calibration }
    }

    /// This machine's best clock, measured now; see [`Calibration::measure`] for the time that takes.
    pub fn detect() -> Self {
        let source = ClockSource::detect();
        Self::new(source, Calibration::measure(source))
    }

    /// What it counts by.
    pub const fn source(&self) -> ClockSource {
        self.source
    }

    /// What its ticks mean.
    pub const fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// Now, in ticks; never 0 (C1). Some 10 ns from the counter, some 25 ns from the kernel's clock, which is read
    /// without entering the kernel.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        self.source.read().max(1)
    }

    /// A length of time in nanoseconds, rounded down, [`u64::MAX`] if it is longer than that (584 years).
    pub fn ticks_to_ns(&self, ticks: u64) -> u64 {
        scale(ticks, NS_PER_SECOND, self.calibration.rate())
    }

    /// A length of time in ticks, rounded down, [`u64::MAX`] if it is longer than that.
    pub fn ns_to_ticks(&self, ns: u64) -> u64 {
        scale(ns, self.calibration.rate(), NS_PER_SECOND)
    }

    /// The moment `ticks` in nanoseconds of `CLOCK_MONOTONIC`, held between 0 and [`u64::MAX`].
    pub fn monotonic_ns_at(&self, ticks: u64) -> u64 {
        self.moment(ticks, self.calibration.monotonic_ns)
    }

    /// The moment `ticks` in nanoseconds since 1970, held between 0 and [`u64::MAX`]. It goes by the wall clock as it
    /// stood at the calibration: a wall clock that was set since then does not move it.
    pub fn realtime_ns_at(&self, ticks: u64) -> u64 {
        self.moment(ticks, self.calibration.realtime_ns)
    }

    fn moment(&self, ticks: u64, origin_ns: u64) -> u64 {
        match ticks.checked_sub(self.calibration.ticks) {
            Some(later) => origin_ns.saturating_add(self.ticks_to_ns(later)),
            None => origin_ns.saturating_sub(self.ticks_to_ns(self.calibration.ticks - ticks)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clock(ticks_per_second: u64) -> Clock {
        let calibration = Calibration { ticks: 1_000, monotonic_ns: 50, realtime_ns: 7_000, ticks_per_second };
        Clock::new(ClockSource::Monotonic, calibration)
    }

    #[test]
    fn a_source_survives_the_wire() {
        for source in [ClockSource::Tsc, ClockSource::Monotonic] {
            assert_eq!(ClockSource::from_code(source.code()), Some(source));
        }
        for code in [0, 3, 257, u64::MAX] {
            assert_eq!(ClockSource::from_code(code), None);
        }
        assert_eq!([ClockSource::Tsc.code(), ClockSource::Monotonic.code()], [1, 2]);
    }

    #[test]
    fn moments_lie_on_both_sides_of_the_calibration() {
        let clock = clock(2_000_000_000);
        assert_eq!([clock.ticks_to_ns(3), clock.ns_to_ticks(3)], [1, 6]);
        assert_eq!([clock.monotonic_ns_at(1_000), clock.realtime_ns_at(1_000)], [50, 7_000]);
        assert_eq!([clock.monotonic_ns_at(1_020), clock.monotonic_ns_at(980)], [60, 40]);
        assert_eq!([clock.monotonic_ns_at(0), clock.realtime_ns_at(0)], [0, 6_500], "held at 0, not wrapped");
    }

    #[test]
    fn a_rate_of_zero_counts_as_nanoseconds() {
        let clock = clock(0);
        assert_eq!([clock.ticks_to_ns(7), clock.ns_to_ticks(7), clock.monotonic_ns_at(1_007)], [7, 7, 57]);
    }

    #[test]
    fn now_never_runs_backwards_and_is_never_zero() {
        let clock = Clock::detect();
        let mut last = 1;
        for _ in 0..100_000 {
            let now = clock.now();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    }

    #[test]
    fn converted_stamps_agree_with_the_clock_of_the_kernel() {
        for clock in [Clock::detect(), Clock::new(ClockSource::Monotonic, Calibration::measure(ClockSource::Monotonic))]
        {
            // The stamp lies between two readings of the kernel's clock; the rate may be off by a thousandth of the
            // time since the calibration, far more than it is.
            let before = monotonic_ns();
            let stamp = clock.monotonic_ns_at(clock.now());
            let after = monotonic_ns();
            let doubt = (after - clock.calibration().monotonic_ns) / 1000 + 1000;
            assert!(before.saturating_sub(doubt) <= stamp && stamp <= after + doubt, "{before} {stamp} {after}");
        }
    }

    #[test]
    fn refining_keeps_the_moment_and_refuses_another_rate() {
        let source = ClockSource::detect();
        let measured = Calibration::measure(source);
        let refined = measured.refine(source);
        assert_eq!(Calibration { ticks_per_second: measured.ticks_per_second, ..refined }, measured);
        assert!(refined.ticks_per_second.abs_diff(measured.ticks_per_second) <= measured.ticks_per_second / 1000);
        for ticks_per_second in [1, measured.ticks_per_second * 2, u64::MAX] {
            let foreign = Calibration { ticks_per_second, ..measured };
            assert_eq!(foreign.refine(source), foreign);
        }
        let future = Calibration { ticks: u64::MAX, ..measured };
        assert_eq!(future.refine(source), future);
    }

    proptest! {
        #[test]
        fn no_calibration_makes_a_conversion_panic(
            numbers in any::<[u64; 4]>(),
            extreme in any::<[Option<bool>; 4]>(),
            value in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)],
        ) {
            let pick = |i: usize| extreme[i].map_or(numbers[i], |top| if top { u64::MAX } else { 0 });
            let clock = Clock::new(
                ClockSource::Monotonic,
                Calibration { ticks: pick(0), monotonic_ns: pick(1), realtime_ns: pick(2), ticks_per_second: pick(3) },
            );
            let rate = u128::from(if pick(3) == 0 { NS_PER_SECOND } else { pick(3) });
            let exact = u128::from(value) * 1_000_000_000 / rate;
            prop_assert_eq!(u128::from(clock.ticks_to_ns(value)), exact.min(u128::from(u64::MAX)));
            clock.ns_to_ticks(value);
            let floor = if value >= pick(0) { pick(1) } else { 0 };
            prop_assert!(clock.monotonic_ns_at(value) >= floor);
            clock.realtime_ns_at(value);
            let _ = clock.calibration().refine(ClockSource::Monotonic);
            let _ = clock.calibration().refine(ClockSource::Tsc);
        }
    }
}
