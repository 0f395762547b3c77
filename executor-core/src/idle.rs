//! What a thread does when it looked and found nothing: spin, or spin and then yield.

#[cfg(not(shuttle))]
use std::thread::yield_now;

/// How a model lets other threads go on.
#[cfg(shuttle)]
pub static YIELD: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();

#[cfg(shuttle)]
fn yield_now() {
    YIELD.get().copied().unwrap_or(std::thread::yield_now)();
}

/// How to wait between two looks at words that another thread or process will change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Look again at once. The least latency and a whole core burnt: for a thread that owns its core.
    Spin,
    /// Look again at once for some ten microseconds, then let other threads run between looks. Costs a core too, but
    /// nothing starves beside it; with nobody else to run a look costs a fraction of a microsecond more.
    #[default]
    SpinThenYield,
    /// Let other threads run between any two looks: for a machine with a single CPU.
    Yield,
}

impl IdleStrategy {
    /// The default for a sidecar that may run on so many CPUs: [`Yield`](Self::Yield) with a single one, or else
    /// [`SpinThenYield`](Self::SpinThenYield).
    pub fn default_on(cpus: usize) -> Self {
        if cpus == 1 { Self::Yield } else { Self::default() }
    }

    /// The name tools print and read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::SpinThenYield => "spin-then-yield",
            Self::Yield => "yield",
        }
    }
}

impl std::str::FromStr for IdleStrategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Spin, Self::SpinThenYield, Self::Yield]
            .into_iter()
            .find(|strategy| strategy.name() == text)
            .ok_or_else(|| format!("no idle strategy is called {text:?}; choose spin, spin-then-yield or yield"))
    }
}

/// Misses in a row before [`IdleStrategy::SpinThenYield`] begins to yield: some 10 to 50 microseconds.
const SPINS: u32 = 4096;
/// Misses in a row without a pause instruction. A pause costs 40 to 140 cycles, which a short wait would pay in full.
const EAGER: u32 = 512;

/// The misses in a row of one waiting thread.
#[derive(Debug)]
pub struct Idle {
    strategy: IdleStrategy,
    eager: u32,
    misses: u32,
}

impl Idle {
    /// A waiter that has missed nothing yet.
    pub const fn new(strategy: IdleStrategy) -> Self {
        let eager = match strategy {
            IdleStrategy::Spin | IdleStrategy::SpinThenYield => EAGER,
            IdleStrategy::Yield => 0,
        };
        Self { strategy, eager, misses: 0 }
    }

    /// Found work.
    #[inline(always)]
    pub fn hit(&mut self) {
        self.misses = 0;
    }

    /// Found nothing.
    #[inline(always)]
    pub fn miss(&mut self) {
        self.misses = self.misses.saturating_add(1);
        if self.misses > self.eager {
            self.rest();
        }
    }

    #[inline(never)]
    fn rest(&self) {
        match self.strategy {
            IdleStrategy::Spin => std::hint::spin_loop(),
            IdleStrategy::SpinThenYield if self.misses <= SPINS => std::hint::spin_loop(),
            IdleStrategy::SpinThenYield | IdleStrategy::Yield => yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_reads_back_by_its_name() {
        for strategy in [IdleStrategy::Spin, IdleStrategy::SpinThenYield, IdleStrategy::Yield] {
            assert_eq!(strategy.name().parse(), Ok(strategy));
        }
        let error = "sleep".parse::<IdleStrategy>().unwrap_err();
        assert_eq!(error, "no idle strategy is called \"sleep\"; choose spin, spin-then-yield or yield");
    }

    #[test]
    fn a_waiter_on_a_single_cpu_is_never_eager() {
        assert_eq!(Idle::new(IdleStrategy::Yield).eager, 0, "the first miss lets others run");
        let mut idle = Idle::new(IdleStrategy::SpinThenYield);
        (0..2 * EAGER).for_each(|_| idle.miss());
        assert!(idle.misses > idle.eager);
        idle.hit();
        assert_eq!(idle.misses, 0);
    }
}
