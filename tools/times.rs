//! How long tasks took, counted by a producer, sent over a pipe, added up by the demo.

use executor_core::histogram::{BUCKETS, HistogramSnapshot, bucket_of};
use serde::{Deserialize, Serialize};

/// Durations in one unit, for the demo nanoseconds, counted in the executor's histogram buckets (3 % wide), the longest kept exactly.
///
/// On the pipe: the longest, then each bucket that is not empty with its count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, Vec<(usize, u64)>)", from = "(u64, Vec<(usize, u64)>)")]
pub(crate) struct Samples {
    /// By bucket, as far as the last one that is not empty.
    counts: Vec<u64>,
    max: u64,
}

impl From<Samples> for (u64, Vec<(usize, u64)>) {
    fn from(samples: Samples) -> Self {
        (samples.max, samples.counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect())
    }
}

impl From<(u64, Vec<(usize, u64)>)> for Samples {
    fn from((max, counts): (u64, Vec<(usize, u64)>)) -> Self {
        let mut this = Self { max, ..Self::default() };
        counts.into_iter().for_each(|(bucket, count)| this.add(bucket, count));
        this
    }
}

impl Samples {
    /// Counts one duration.
    pub(crate) fn record(&mut self, ns: u64) {
        self.add(bucket_of(ns), 1);
        self.max = self.max.max(ns);
    }

    fn add(&mut self, bucket: usize, count: u64) {
        let bucket = bucket.min(BUCKETS - 1);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(sum) = self.counts.get_mut(bucket) {
            *sum += count;
        }
    }

    /// Adds another producer's.
    pub(crate) fn merge(&mut self, other: &Self) {
        other.counts.iter().enumerate().for_each(|(bucket, &count)| self.add(bucket, count));
        self.max = self.max.max(other.max);
    }

    /// Whether nothing was counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The duration that this share of all do not exceed; for 1.0 the longest exactly; 0 if nothing was counted.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        if share >= 1.0 {
            return self.max;
        }
        HistogramSnapshot::from_buckets(self.counts.iter().copied()).quantile(share).unwrap_or(0).min(self.max)
    }

    /// The percentiles; all 0 if nothing was counted.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |share| self.quantile(share);
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
