//! What a thread does when it looked and found nothing: spin, yield, or sleep.
//!
//! It sleeps for nobody: it says when it is time to, and whoever waits knows what to sleep on.

#[cfg(not(shuttle))]
use std::thread::yield_now;
use std::time::{Duration, Instant};

/// How a model lets other threads go on.
#[cfg(shuttle)]
pub static YIELD: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();

#[cfg(shuttle)]
fn yield_now() {
    YIELD.get().copied().unwrap_or(std::thread::yield_now)();
}

/// How to wait between two looks at words that another thread or process will change. The same for the workers of a
/// sidecar, for a client's waits and inside one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Look again at once. The least latency and a whole core burnt: for a thread that owns its core.
    Spin = 0,
    /// Look again at once for some ten microseconds, then let other threads run between looks. Costs a core too, but
    /// nothing starves beside it; with nobody else to run a look costs a fraction of a microsecond more.
    SpinThenYield = 1,
    /// Let other threads run between any two looks.
    Yield = 2,
    /// Spin for as long as the last gaps between tasks make it likely that one comes, [`SPIN_MAX`] at most, then sleep. Where
    /// tasks come more often than that, it answers as [`Spin`](Self::Spin) does and costs as much; where they come seldom,
    /// it costs some microseconds a task, and a task waits for a wake-up.
    #[default]
    Adaptive = 3,
    /// Sleep at once. Costs least and answers last; for a machine with a single CPU.
    Sleep = 4,
}

impl IdleStrategy {
    const ALL: [Self; 5] = [Self::Spin, Self::SpinThenYield, Self::Yield, Self::Adaptive, Self::Sleep];

    /// The default for a sidecar that may run on so many CPUs: with a single one [`Sleep`](Self::Sleep), because whom it
    /// waits for could not run while it spins; or else [`Adaptive`](Self::Adaptive).
    pub fn default_on(cpus: usize) -> Self {
        if cpus == 1 { Self::Sleep } else { Self::default() }
    }

    /// Whether who waits so may sleep, and must be woken.
    pub const fn may_sleep(self) -> bool {
        matches!(self, Self::Adaptive | Self::Sleep)
    }

    /// The name tools print and read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::SpinThenYield => "spin-then-yield",
            Self::Yield => "yield",
            Self::Adaptive => "adaptive",
            Self::Sleep => "sleep",
        }
    }

    /// The strategy with this number, as `status` tells it.
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|&strategy| strategy as u64 == code)
    }
}

impl std::str::FromStr for IdleStrategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == text).ok_or_else(|| {
            format!("no idle strategy is called {text:?}; choose adaptive, spin, spin-then-yield, yield or sleep")
        })
    }
}

/// Longest that [`IdleStrategy::Adaptive`] spins for one task: some times what a sleep and a wake-up cost.
pub const SPIN_MAX: Duration = Duration::from_micros(100);
/// What it spins where the last gaps were longer than [`SPIN_MAX`]: a look now and then at whether they still are.
const SPIN_MIN: Duration = Duration::from_micros(2);
/// Misses in a row before [`IdleStrategy::SpinThenYield`] begins to yield: some 10 to 50 microseconds.
const SPINS: u32 = 4096;
/// Misses in a row without a pause instruction. A pause costs 40 to 140 cycles, which a short wait would pay in full.
const EAGER: u32 = 512;
/// Misses before [`IdleStrategy::Sleep`] sleeps: a task that comes right behind another needs no wake-up.
const DROWSY: u32 = 64;
/// Misses between two looks at the time.
const MISSES: u32 = 32;

/// What to do after a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Look again.
    Again,
    /// Look again; others were let run meanwhile.
    Yielded,
    /// Sleep, if there is something to sleep on, then call [`Idle::slept`] and look again.
    Sleep,
}

/// The misses in a row of one waiting thread, and what it has learnt of the gaps between tasks.
#[derive(Debug)]
pub struct Idle {
    strategy: IdleStrategy,
    eager: u32,
    misses: u32,
    gaps: Gaps,
}

impl Idle {
    /// A waiter that has missed nothing yet.
    pub const fn new(strategy: IdleStrategy) -> Self {
        let eager = match strategy {
            IdleStrategy::Spin | IdleStrategy::SpinThenYield | IdleStrategy::Adaptive => EAGER,
            IdleStrategy::Sleep => DROWSY,
            IdleStrategy::Yield => 0,
        };
        Self { strategy, eager, misses: 0, gaps: Gaps::new() }
    }

    /// As [`new`](Self::new), having [learnt](Self::learnt) this before.
    pub const fn knowing(strategy: IdleStrategy, learnt: Learnt) -> Self {
        let mut this = Self::new(strategy);
        this.gaps.mean = learnt.0;
        this
    }

    /// What it knows of the gaps, for another waiter in its place.
    pub const fn learnt(&self) -> Learnt {
        Learnt(self.gaps.mean)
    }

    /// The strategy in force.
    pub const fn strategy(&self) -> IdleStrategy {
        self.strategy
    }

    /// Found work.
    #[inline(always)]
    pub fn hit(&mut self) {
        if self.misses > self.eager {
            self.end_gap();
        }
        self.misses = 0;
    }

    /// Found nothing.
    #[inline(always)]
    pub fn miss(&mut self) -> Rest {
        self.misses = self.misses.saturating_add(1);
        if self.misses > self.eager { self.rest() } else { Rest::Again }
    }

    /// Slept, whatever ended it. The gap goes on.
    pub fn slept(&mut self) {
        self.misses = self.eager + 1; // past it, so that the next hit ends the gap
    }

    #[cold]
    fn end_gap(&mut self) {
        if self.strategy == IdleStrategy::Adaptive {
            self.gaps.end(Instant::now);
        }
    }

    #[inline(never)]
    fn rest(&mut self) -> Rest {
        match self.strategy {
            IdleStrategy::Spin => std::hint::spin_loop(),
            IdleStrategy::SpinThenYield if self.misses <= SPINS => std::hint::spin_loop(),
            IdleStrategy::SpinThenYield | IdleStrategy::Yield => {
                yield_now();
                return Rest::Yielded;
            }
            IdleStrategy::Adaptive
                if self.misses.is_multiple_of(MISSES) && self.gaps.is_over_budget(Instant::now()) =>
            {
                return Rest::Sleep;
            }
            IdleStrategy::Adaptive => std::hint::spin_loop(),
            IdleStrategy::Sleep => return Rest::Sleep,
        }
        Rest::Again
    }
}

/// What an [`Idle`] knows of the gaps between tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learnt(u64);

impl Default for Learnt {
    fn default() -> Self {
        Self(Gaps::new().mean)
    }
}

/// The gaps between tasks, as far as they were long enough to be timed.
#[derive(Debug)]
struct Gaps {
    /// When the gap that lasts began; `None` before the first look at the time in it.
    since: Option<Instant>,
    /// A mean of the last gaps in nanoseconds, each taken for [`Self::LONG`] at most, that forgets an eighth at each.
    mean: u64,
}

impl Gaps {
    /// Longer ones count as this: a few short ones then suffice to spin again.
    const LONG: u64 = 4 * SPIN_MAX.as_nanos() as u64;

    const fn new() -> Self {
        Self { since: None, mean: SPIN_MAX.as_nanos() as u64 / 2 }
    }

    /// Twice the mean, so that most gaps end within it; next to nothing where the mean gap is too long to spin for.
    fn budget(&self) -> Duration {
        let mean = Duration::from_nanos(self.mean);
        if mean > SPIN_MAX { SPIN_MIN } else { (2 * mean).clamp(SPIN_MIN, SPIN_MAX) }
    }

    fn is_over_budget(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(*self.since.get_or_insert(now)) >= self.budget()
    }

    fn end(&mut self, now: impl FnOnce() -> Instant) {
        let Some(since) = self.since.take() else { return };
        let gap = now().saturating_duration_since(since).as_nanos();
        let gap = u64::try_from(gap).unwrap_or(u64::MAX).min(Self::LONG);
        self.mean = (7 * self.mean + gap) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_reads_back_by_its_name_and_its_number() {
        for strategy in IdleStrategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(strategy));
            assert_eq!(IdleStrategy::from_code(strategy as u64), Some(strategy));
            assert_eq!(strategy.may_sleep(), matches!(strategy.name(), "adaptive" | "sleep"));
        }
        let error = "doze".parse::<IdleStrategy>().unwrap_err();
        let choices = "choose adaptive, spin, spin-then-yield, yield or sleep";
        assert_eq!(error, format!("no idle strategy is called \"doze\"; {choices}"));
        assert_eq!(IdleStrategy::from_code(5), None);
    }

    #[test]
    fn a_waiter_that_yields_is_never_eager_and_one_that_sleeps_hardly() {
        assert_eq!(Idle::new(IdleStrategy::Yield).eager, 0, "the first miss lets others run");
        let mut sleeper = Idle::new(IdleStrategy::Sleep);
        assert!((0..DROWSY).all(|_| sleeper.miss() != Rest::Sleep));
        assert_eq!(sleeper.miss(), Rest::Sleep);
        sleeper.slept();
        assert_eq!(sleeper.miss(), Rest::Sleep, "a sleep that nothing ended is followed by another");
        sleeper.hit();
        assert_eq!(sleeper.miss(), Rest::Again);
    }

    #[test]
    fn who_owns_its_core_never_sleeps() {
        for strategy in [IdleStrategy::Spin, IdleStrategy::SpinThenYield, IdleStrategy::Yield] {
            let mut idle = Idle::new(strategy);
            assert!((0..3 * SPINS).all(|_| idle.miss() != Rest::Sleep), "{strategy:?}");
        }
    }

    /// How long a waiter spins before it sleeps, after gaps of so many microseconds.
    fn budget_after(gaps: &[u64]) -> Duration {
        let (mut learnt, begun) = (Gaps::new(), Instant::now());
        for &gap in gaps {
            assert!(!learnt.is_over_budget(begun));
            learnt.end(|| begun + Duration::from_micros(gap));
        }
        learnt.budget()
    }

    #[test]
    fn the_budget_follows_the_gaps_and_is_bounded() {
        assert_eq!(budget_after(&[]), SPIN_MAX);
        assert_eq!(budget_after(&[10; 64]).as_micros(), 20, "twice the gap");
        assert_eq!(budget_after(&[100_000; 64]), SPIN_MIN, "nothing to be had by spinning");
        assert_eq!(budget_after(&[90; 64]), SPIN_MAX);
        let short = [&[100_000; 64][..], &[5; 16]].concat();
        assert!(budget_after(&short) >= Duration::from_micros(20), "a few short gaps are believed");
        assert!((0..200).all(|gap| (SPIN_MIN..=SPIN_MAX).contains(&budget_after(&[gap; 64]))));
    }

    #[test]
    fn a_sleep_that_work_ends_ends_the_gap_as_well() {
        let mut idle = Idle::new(IdleStrategy::Adaptive);
        for _ in 0..64 {
            while idle.miss() == Rest::Again {}
            idle.gaps.since = Some(Instant::now() - Duration::from_secs(1)); // as if it had slept so long
            idle.slept();
            idle.hit();
            assert_eq!(idle.gaps.since, None, "the next gap begins with the next miss");
        }
        assert_eq!(idle.gaps.budget(), SPIN_MIN, "seconds between tasks are nothing to spin for");
    }

    #[test]
    fn an_adaptive_waiter_sleeps_once_its_budget_is_spent() {
        let mut idle = Idle::new(IdleStrategy::Adaptive);
        let begun = Instant::now();
        while idle.miss() == Rest::Again {}
        assert!(begun.elapsed() >= SPIN_MAX, "not before");
    }
}
