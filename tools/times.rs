//! How long tasks took, counted by a producer, sent over a pipe, added up by the demo.

use std::collections::BTreeMap;

use executor_core::histogram::{BUCKETS, HistogramSnapshot, bucket_of};
use serde::{Deserialize, Serialize};

/// Durations in nanoseconds, counted in the executor's histogram buckets (3 % wide), the longest kept exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Samples {
    counts: BTreeMap<usize, u64>,
    max: u64,
}

impl Samples {
    /// Counts one duration.
    pub(crate) fn record(&mut self, ns: u64) {
        *self.counts.entry(bucket_of(ns)).or_default() += 1;
        self.max = self.max.max(ns);
    }

    /// Adds another producer's.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (&bucket, count) in &other.counts {
            *self.counts.entry(bucket).or_default() += count;
        }
        self.max = self.max.max(other.max);
    }

    /// The percentiles; all 0 if nothing was counted.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let snapshot =
            HistogramSnapshot::from_buckets((0..BUCKETS).map(|bucket| self.counts.get(&bucket).copied().unwrap_or(0)));
        let at = |share| snapshot.quantile(share).unwrap_or(0).min(self.max);
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: self.max }
    }
}

/// Percentiles of durations, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// A task's way from submit to completion, whole and in its three parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Submit to start.
    pub(crate) queue: Samples,
    /// Start to end of the handler.
    pub(crate) run: Samples,
    /// End of the handler to collect.
    #[serde(rename = "return")]
    pub(crate) back: Samples,
    /// All of it.
    pub(crate) total: Samples,
}

impl Times {
    /// Counts one task.
    pub(crate) fn record(&mut self, queue_ns: u64, run_ns: u64, return_ns: u64, total_ns: u64) {
        self.queue.record(queue_ns);
        self.run.record(run_ns);
        self.back.record(return_ns);
        self.total.record(total_ns);
    }

    /// Adds another producer's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.queue.merge(&other.queue);
        self.run.merge(&other.run);
        self.back.merge(&other.back);
        self.total.merge(&other.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_two_producers_survive_the_pipe_and_add_up() {
        let (mut one, mut other) = (Samples::default(), Samples::default());
        (0..900).for_each(|_| one.record(100));
        (0..100).for_each(|_| other.record(10_000));
        other.record(123_456_789);
        let sent = serde_json::to_string(&other).unwrap();
        one.merge(&serde_json::from_str(&sent).unwrap());
        let found = one.percentiles();
        assert_eq!(found.max, 123_456_789);
        assert!((97..=103).contains(&found.p50), "{found:?}");
        assert!((9_700..=10_300).contains(&found.p99), "{found:?}");
    }

    #[test]
    fn no_percentile_is_past_the_longest_sample() {
        let mut samples = Samples::default();
        samples.record(1_000_001);
        let Percentiles { p50, p999, max, .. } = samples.percentiles();
        assert!(p50 <= max && p999 <= max);
        assert_eq!(Samples::default().percentiles(), Percentiles::default());
    }
}
