//! How much of a core a kind of work may take, whoever asks for it and how often.
//!
//! A bucket of time that fills at a share of the time that passes. Work may begin while there is any in it, and what it
//! cost is taken out afterwards, be it more than there was: then as much must pass as that is worth. So over any stretch
//! the work takes at most its share of it, the burst, and one piece. Time is told to it, so that tests can.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::rehearsal::Instant;

/// A share of a core in thousandths, and a burst beyond it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) share: u32,
    pub(crate) burst: Duration,
}

/// What housekeeping may take for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Looks that somebody woke it for.
    pub(crate) looks: Limit,
    /// Lanes made, and made anew.
    pub(crate) renewals: Limit,
}

impl Default for Limits {
    /// A tenth of a core for looks, some microseconds each; past that it looks in its own time. A quarter of one for lanes,
    /// after a thousand of them of the default size.
    fn default() -> Self {
        Self {
            looks: Limit { share: 100, burst: Duration::from_millis(100) },
            renewals: Limit { share: 250, burst: Duration::from_secs(1) },
        }
    }
}

#[derive(Debug)]
pub(super) struct Pace {
    /// Of a thousand.
    share: u32,
    burst_ns: i64,
    /// Below 0 it is a debt.
    credit_ns: i64,
    filled_at: Instant,
}

impl Pace {
    /// The burst is there from the beginning.
    pub(super) fn new(limit: Limit, now: Instant) -> Self {
        let burst_ns = nanoseconds(limit.burst);
        Self { share: limit.share.max(1), burst_ns, credit_ns: burst_ns, filled_at: now }
    }

    /// How long until work may begin; `None` if it may.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = nanoseconds(now.saturating_duration_since(self.filled_at));
        let filled = passed.saturating_mul(i64::from(self.share)) / 1000;
        // What is too little to count stays in the time that has passed.
        if filled > 0 {
            self.credit_ns = self.credit_ns.saturating_add(filled).min(self.burst_ns);
            self.filled_at = now;
        }
        let debt = u64::try_from(1 - self.credit_ns).ok().filter(|debt| *debt > 0)?;
        Some(Duration::from_nanos(debt.saturating_mul(1000).div_ceil(u64::from(self.share))))
    }

    /// Takes out what a piece of work cost.
    pub(super) fn spend(&mut self, cost: Duration) {
        self.credit_ns = self.credit_ns.saturating_sub(nanoseconds(cost));
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// What the calling thread has run so far: a wait for a CPU is nobody's cost.
pub(super) fn run_time() -> Duration {
    if cfg!(shuttle) {
        return Duration::ZERO; // a thread there is not one of the kernel's
    }
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use executor_core::Registry;
    use executor_core::idle::IdleStrategy;
    use executor_core::record::DescriptorRecord;

    use crate::attach::{Instance, Wish};
    use crate::inspect::Inspector;
    use crate::lane::{LaneShape, Look, ProducerHalf};
    use crate::{Ending, InstanceName, Sidecar, SidecarHandle};

    /// For what must happen.
    const FAIL_SAFE: Duration = Duration::from_secs(60);
    const MS: Duration = Duration::from_millis(1);

    /// Work that is always there, in pieces, until `time` has passed: how much of it was done.
    fn flood(pace: &mut Pace, begin: Instant, time: Duration, piece: Duration) -> Duration {
        let (mut now, mut done) = (begin, Duration::ZERO);
        while now < begin + time {
            match pace.wait(now) {
                Some(wait) => now += wait,
                None => {
                    pace.spend(piece);
                    done += piece;
                    now += piece; // it runs for as long as it costs
                }
            }
        }
        done
    }

    #[test]
    fn work_that_never_ends_takes_its_burst_and_then_its_share_and_no_more() {
        for (share, piece) in [(500, MS), (500, 20 * MS), (50, MS / 100), (1, 3 * MS)] {
            let begin = Instant::now();
            let mut pace = Pace::new(Limit { share, burst: 100 * MS }, begin);
            let hour = Duration::from_secs(3600);
            let done = flood(&mut pace, begin, hour, piece);
            let most = 100 * MS + hour * share / 1000 + piece;
            assert!(
                done <= most && done + 2 * piece + hour / 1_000_000 >= hour * share / 1000,
                "{share}: {done:?} of {most:?}"
            );
        }
    }

    #[test]
    fn work_within_its_share_never_waits_and_a_rest_restores_no_more_than_the_burst() {
        let begin = Instant::now();
        let mut pace = Pace::new(Limit { share: 500, burst: 10 * MS }, begin);
        let mut now = begin;
        for _ in 0..100_000 {
            assert_eq!(pace.wait(now), None);
            pace.spend(MS);
            now += 2 * MS;
        }
        now += Duration::from_secs(86_400);
        assert_eq!(pace.wait(now), None);
        pace.spend(10 * MS);
        assert!(pace.wait(now).is_some(), "a day's rest is worth a burst");
    }

    #[test]
    fn a_debt_is_waited_for_as_long_as_it_is_worth() {
        let begin = Instant::now();
        let mut pace = Pace::new(Limit { share: 250, burst: MS }, begin);
        pace.spend(3 * MS);
        let wait = pace.wait(begin).unwrap();
        assert!(wait >= 8 * MS && wait < 9 * MS, "{wait:?}");
        assert!(pace.wait(begin + wait / 2).is_some());
        assert_eq!(pace.wait(begin + wait + MS / 100), None);
        // However often it is asked, and by a clock that stands.
        for _ in 0..1000 {
            assert_eq!(pace.wait(begin), None);
        }
    }

    #[test]
    fn times_beyond_all_measure_neither_wrap_nor_panic() {
        let begin = Instant::now();
        let mut pace = Pace::new(Limit { share: 0, burst: Duration::MAX }, begin);
        pace.spend(Duration::MAX);
        pace.spend(Duration::MAX);
        assert!(pace.wait(begin + Duration::from_secs(1 << 40)).is_some());
    }

    #[test]
    fn the_time_a_thread_ran_grows_only_while_it_runs() {
        let before = run_time();
        let mut sum = 0u64;
        while run_time() < before + MS {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(sum > 0);
    }

    /// A sidecar that may hardly do anything for others.
    fn start(name: &str) -> SidecarHandle {
        let instance = InstanceName::new(&format!("{name}-{}", std::process::id())).unwrap();
        let limit = Limit { share: 10, burst: MS };
        let mut builder = Sidecar::builder().instance(instance).registry(Registry::builder().build().unwrap());
        builder.limits = Limits { looks: limit, renewals: limit };
        builder.capacity(8).lanes(3).pinned(false).idle(IdleStrategy::Yield).start().unwrap()
    }

    /// Attaches, has a task answered, and detaches.
    fn come(instance: &InstanceName) {
        let (opened, begun) = (Instance::open(instance, None).unwrap(), Instant::now());
        let claim = loop {
            match opened.claim(Wish::default()).unwrap() {
                Some(claim) => break claim,
                None => opened.nap(MS),
            }
            assert!(begun.elapsed() < FAIL_SAFE, "no lane becomes free");
        };
        let mut producer = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(opened.geometry()));
        producer.submit(&DescriptorRecord::new(1, 0, 1, 0));
        while producer.look(0) == Look::Pending {
            assert!(begun.elapsed() < FAIL_SAFE, "the task is not answered");
            std::thread::yield_now();
        }
    }

    /// Floods until housekeeping says that it is held back; then others still come, and a stop is a stop.
    fn is_held_back(name: &str, flood: impl Fn(&Instance) + Sync) {
        let sidecar = start(name);
        let instance = sidecar.instance().clone();
        let inspector = Inspector::open(&instance).unwrap();
        assert_eq!((inspector.look().held_back, sidecar.problem()), (0, None));
        let (opened, stop) = (Instance::open(&instance, None).unwrap(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let flooder = scope.spawn(|| {
                let begun = Instant::now();
                while !stop.load(Relaxed) && begun.elapsed() < 2 * FAIL_SAFE {
                    flood(&opened);
                }
            });
            let begun = Instant::now();
            while inspector.look().held_back == 0 {
                assert!(begun.elapsed() < FAIL_SAFE, "nothing holds it back");
                std::thread::yield_now();
            }
            (0..3).for_each(|_| come(&instance));
            stop.store(true, Relaxed);
            flooder.join().unwrap();
        });
        let problem = sidecar.problem().unwrap();
        assert!(problem.contains("faster than it may serve them"), "{problem}");
        drop(opened);
        sidecar.stop();
        assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
    }

    #[test]
    fn an_attach_flood_is_held_back_and_told_and_others_still_come() {
        is_held_back("pace-attaches", |opened| drop(opened.claim(Wish::default()).unwrap()));
    }

    #[test]
    fn a_wake_flood_is_held_back_and_told_and_others_still_come() {
        is_held_back("pace-wakes", Instance::wake_housekeeping);
    }
}
