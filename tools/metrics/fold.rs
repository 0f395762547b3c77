//! The 1,024 buckets of a histogram as the few that a scrape has.

use executor_core::Clock;
use executor_core::histogram::{BUCKETS, HistogramSnapshot, bucket_high, bucket_low};

/// Upper bounds, in nanoseconds: the same for every instance and every clock, so that histograms can be added up.
const BOUNDS_NS: [u64; 25] = [
    250,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
];

/// A histogram of a scrape.
#[derive(Debug)]
pub(super) struct Folded {
    /// Seconds of all values, each taken for the middle of its bucket.
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bounds in seconds, and the values above the bound before; the last bound is infinite.
    pub(super) buckets: [(f64, u64); BOUNDS_NS.len() + 1],
}

/// Folds a histogram in ticks. A value counts below a bound if the whole of its bucket lies there; buckets are 3 % wide.
pub(super) fn fold(times: &HistogramSnapshot, clock: &Clock) -> Folded {
    let bounds = BOUNDS_NS.iter().map(|&ns| (ns as f64 / 1e9, clock.ns_to_ticks(ns)));
    let bounds = bounds.chain([(f64::INFINITY, u64::MAX)]);
    let mut buckets = [(f64::INFINITY, 0); BOUNDS_NS.len() + 1];
    let mut fine = times.buckets().iter().enumerate().peekable();
    let mut below = 0u64;
    for ((bound, ticks), bucket) in bounds.zip(&mut buckets) {
        let before = below;
        while let Some((_, count)) = fine.next_if(|&(at, _)| bucket_high(at) <= ticks) {
            below = below.saturating_add(*count); // of a damaged file the sum may be more than a word holds
        }
        *bucket = (bound, below - before);
    }
    let second = clock.ns_to_ticks(1_000_000_000).max(1) as f64;
    let middle = |at: usize| match at {
        last if last == BUCKETS - 1 => bucket_low(last) as f64,
        at => (bucket_low(at) as f64 + bucket_high(at) as f64) / 2.0,
    };
    let filled = times.buckets().iter().enumerate().filter(|(_, count)| **count > 0);
    let ticks: f64 = filled.map(|(at, count)| middle(at) * *count as f64).sum();
    Folded { sum: ticks / second, count: below, buckets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_core::clock::{Calibration, ClockSource};
    use executor_core::histogram::bucket_of;

    fn clock(ticks_per_second: u64) -> Clock {
        Clock::new(ClockSource::Monotonic, Calibration { ticks: 0, monotonic_ns: 0, realtime_ns: 0, ticks_per_second })
    }

    fn of(values: &[u64]) -> HistogramSnapshot {
        let mut buckets = [0; BUCKETS];
        for &value in values {
            buckets[bucket_of(value)] += 1;
        }
        HistogramSnapshot::from_buckets(buckets.into_iter())
    }

    /// How many values lie at or below each bound.
    fn below(folded: &Folded) -> Vec<u64> {
        let add = |sum: &mut u64, count: &(f64, u64)| {
            *sum += count.1;
            Some(*sum)
        };
        folded.buckets.iter().scan(0, add).collect()
    }

    #[test]
    fn a_value_counts_below_a_bound_if_its_bucket_lies_there_and_never_if_it_is_longer() {
        for rate in [1_000_000_000, 2_445_000_000, 3_999_999_999, 24_000_000] {
            let clock = clock(rate);
            for at in 0..BUCKETS {
                for value in [bucket_low(at), bucket_high(at)] {
                    let counts = below(&fold(&of(&[value]), &clock));
                    for (ns, count) in BOUNDS_NS.iter().zip(&counts) {
                        let fits = bucket_high(at) <= clock.ns_to_ticks(*ns);
                        assert_eq!(*count, u64::from(fits), "{value} ticks at {rate} Hz below {ns} ns");
                    }
                    assert_eq!(counts.last(), Some(&1));
                }
            }
        }
    }

    #[test]
    fn bounds_grow_and_the_last_is_infinite() {
        let folded = fold(&of(&[]), &clock(1_000_000_000));
        assert!(folded.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!((folded.buckets[0].0, folded.buckets[2].0), (250e-9, 1e-6));
        assert_eq!((folded.buckets[24].0, folded.buckets[25].0), (20.0, f64::INFINITY));
        assert_eq!((folded.count, folded.sum), (0, 0.0));
    }

    #[test]
    fn the_sum_is_of_middles() {
        let folded = fold(&of(&[10, 20, 1000, 1000]), &clock(1_000_000_000));
        // 1000 lies in the bucket from 992 to 1007.
        assert_eq!((folded.count, (folded.sum * 1e9).round()), (4, 10.0 + 20.0 + 2.0 * 999.5));
    }

    #[test]
    fn counts_of_a_damaged_file_saturate() {
        let folded = fold(&HistogramSnapshot::from_buckets(std::iter::repeat(u64::MAX)), &clock(0));
        assert_eq!((folded.count, folded.buckets.iter().map(|bucket| bucket.1).max()), (u64::MAX, Some(u64::MAX)));
        assert!(folded.sum.is_finite());
    }
}
