//! How long things took: a fixed table of counts whose buckets widen with the value, so one adds with a shift and a
//! load and store.
//!
//! An H2 histogram (<https://h2histogram.org>, also the Rust crate `histogram`) of grouping power 5: values below 64
//! have a bucket each, and every octave from there on is cut into 32 buckets of equal width. So a bucket is never wider
//! than 1/32 of its least value, an error of 3.1 % at most. 1,024 buckets reach to 2^36 - 1 ticks, some 20 seconds of a
//! 3 GHz counter; the last bucket also takes everything longer.
//!
//! ```text
//!   value    0 .. 63          64, 66 .. 126     128, 132 .. 252         2^35, 2^35 + 2^30 ..
//!   bucket   0 .. 63          64 .. 95          96 .. 127         ...   992 .. 1023
//!   width    1                2                 4                       2^30
//! ```

/// log2 of the buckets in an octave.
const GROUPING_POWER: u32 = 5;
/// Buckets of every histogram.
pub const BUCKETS: usize = 1024;

/// The bucket that counts `value`; the last one for values past the table's end.
#[inline(always)]
pub fn bucket_of(value: u64) -> usize {
    // Setting the bit makes small values fall into octave 0, whose shift is 0: no branch for them.
    let octave = (value | 1 << GROUPING_POWER).ilog2() - GROUPING_POWER;
    let bucket = ((octave as usize) << GROUPING_POWER) + (value >> octave) as usize;
    bucket.min(BUCKETS - 1)
}

/// The least value `bucket` counts; buckets past the last are taken for the last.
pub const fn bucket_low(bucket: usize) -> u64 {
    let bucket = if bucket < BUCKETS { bucket as u64 } else { BUCKETS as u64 - 1 };
    let group = bucket >> GROUPING_POWER;
    if group == 0 {
        return bucket;
    }
    let within = bucket & ((1 << GROUPING_POWER) - 1);
    (within | 1 << GROUPING_POWER) << (group - 1)
}

/// The greatest value `bucket` counts: [`u64::MAX`] for the last.
pub const fn bucket_high(bucket: usize) -> u64 {
    if bucket >= BUCKETS - 1 { u64::MAX } else { bucket_low(bucket + 1) - 1 }
}

/// A copy of a histogram's counts, in ticks.
///
/// A count of values is exact, a value is known to its bucket only. What comes from the last bucket is reported as
/// [`u64::MAX`], "longer than the table", save in [`HistogramSnapshot::min`] and [`HistogramSnapshot::mean`], which
/// take its lower edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]) }
    }
}

impl HistogramSnapshot {
    /// A histogram with these counts, the first bucket first; missing ones are 0, those past the last are left out.
    pub fn from_buckets(buckets: impl Iterator<Item = u64>) -> Self {
        let mut this = Self::default();
        for (mine, count) in this.buckets.iter_mut().zip(buckets) {
            *mine = count;
        }
        this
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// What was counted after `earlier`, a snapshot of the same histogram. Never negative: a bucket that counts less
    /// than before, because the histogram was cleared in between, becomes 0.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self::from_buckets(self.buckets.iter().zip(earlier.buckets.iter()).map(|(now, then)| now.saturating_sub(*then)))
    }

    /// The counts, the first bucket first.
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The least value that at least `q` (0 to 1, held there) of all values do not exceed, rounded up to the upper edge
    /// of its bucket: at most 3.1 % too much, never too little. `None` without values, or if `q` is not a number.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 || q.is_nan() {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count);
        let mut below = 0u64;
        let bucket = self.buckets.iter().position(|&count| {
            below = below.saturating_add(count);
            below >= rank
        })?;
        Some(bucket_high(bucket))
    }

    /// The upper edge of the highest bucket that counts a value.
    pub fn max(&self) -> Option<u64> {
        self.buckets.iter().rposition(|&count| count != 0).map(bucket_high)
    }

    /// The lower edge of the lowest bucket that counts a value.
    pub fn min(&self) -> Option<u64> {
        self.buckets.iter().position(|&count| count != 0).map(bucket_low)
    }

    /// The mean of all values, each taken for the middle of its bucket, so at most 1.6 % off.
    pub fn mean(&self) -> Option<f64> {
        let middle = |bucket: usize| match bucket {
            last if last == BUCKETS - 1 => bucket_low(last) as f64,
            bucket => (bucket_low(bucket) as f64 + bucket_high(bucket) as f64) / 2.0,
        };
        let (mut sum, mut values) = (0.0, 0.0);
        for (bucket, &count) in self.buckets.iter().enumerate() {
            sum += middle(bucket) * count as f64;
            values += count as f64;
        }
        if values > 0.0 { Some(sum / values) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    fn snapshot(values: &[u64]) -> HistogramSnapshot {
        let mut buckets = [0; BUCKETS];
        for &value in values {
            buckets[bucket_of(value)] += 1;
        }
        HistogramSnapshot::from_buckets(buckets.into_iter())
    }

    /// Any value the table covers, every octave alike.
    fn value() -> impl Strategy<Value = u64> {
        (0..36u32, any::<u64>()).prop_map(|(octave, bits)| (1 << octave) | (bits & ((1 << octave) - 1)))
    }

    #[test]
    fn buckets_tile_all_values_without_gap_or_overlap() {
        assert_eq!(bucket_low(0), 0);
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(bucket_high(bucket) + 1, bucket_low(bucket + 1), "bucket {bucket}");
            assert_eq!([bucket_of(bucket_low(bucket)), bucket_of(bucket_high(bucket))], [bucket; 2]);
        }
        assert_eq!(bucket_low(BUCKETS - 1), (1 << 36) - (1 << 30));
        assert_eq!([bucket_of(bucket_low(BUCKETS - 1)), bucket_of(u64::MAX)], [BUCKETS - 1; 2]);
        assert_eq!([bucket_high(BUCKETS - 1), bucket_high(usize::MAX)], [u64::MAX; 2]);
        assert_eq!(bucket_low(usize::MAX), bucket_low(BUCKETS - 1));
    }

    #[test]
    fn an_empty_histogram_has_no_values() {
        let empty = HistogramSnapshot::default();
        assert_eq!(
            (empty.count(), empty.quantile(0.5), empty.min(), empty.max(), empty.mean()),
            (0, None, None, None, None)
        );
    }

    #[test]
    fn values_past_the_table_are_counted_in_the_last_bucket() {
        let snapshot = snapshot(&[5, 1 << 36, u64::MAX]);
        assert_eq!((snapshot.count(), snapshot.min(), snapshot.max()), (3, Some(5), Some(u64::MAX)));
        assert_eq!(
            [snapshot.quantile(0.0), snapshot.quantile(0.33), snapshot.quantile(0.34)],
            [Some(5), Some(5), Some(u64::MAX)]
        );
        assert_eq!(
            [snapshot.quantile(-1.0), snapshot.quantile(2.0), snapshot.quantile(f64::NAN)],
            [Some(5), Some(u64::MAX), None]
        );
        assert_eq!(snapshot.mean(), Some((5.0 + 2.0 * bucket_low(BUCKETS - 1) as f64) / 3.0));
    }

    #[test]
    fn counts_that_overflow_saturate() {
        let mut full = HistogramSnapshot::from_buckets(std::iter::repeat(u64::MAX));
        full.merge(&full.clone());
        assert_eq!((full.count(), full.quantile(1.0)), (u64::MAX, Some(0)));
        assert_eq!(full.since(&full), HistogramSnapshot::default());
    }

    proptest! {
        #[test]
        fn every_value_lies_in_its_bucket(value in prop_oneof![value(), any::<u64>(), 0..200u64]) {
            let bucket = bucket_of(value);
            let (low, high) = (bucket_low(bucket), bucket_high(bucket));
            prop_assert!(low <= value && value <= high);
            if bucket < BUCKETS - 1 && low >= 32 {
                prop_assert!((high - low + 1) * 32 <= low, "bucket {} is {} wide at {}", bucket, high - low + 1, low);
            }
        }

        #[test]
        fn quantiles_agree_with_hdrhistogram_to_the_width_of_a_bucket(
            values in prop::collection::vec(value(), 1..300),
            q in prop_oneof![0.0..=1.0f64, prop::sample::select(vec![0.0, 0.5, 0.99, 0.999, 1.0])],
        ) {
            let mut exact = Histogram::<u64>::new_with_bounds(1, 1 << 37, 4).unwrap();
            for &value in &values {
                exact.record(value).unwrap();
            }
            let ours = snapshot(&values).quantile(q).unwrap();
            let theirs = exact.value_at_quantile(q);
            // By the arithmetic of theirs alone: ours is the value or more, and a thirty-second more at most.
            let least = exact.lowest_equivalent(theirs);
            // The last bucket has no upper edge.
            let most = if theirs >= (1 << 36) - (1 << 30) { u64::MAX } else { theirs + theirs / 32 };
            prop_assert!(ours >= least && ours <= most, "{} against {}..={}", ours, least, theirs);
        }

        #[test]
        fn quantiles_are_the_upper_edge_of_the_ranked_values_bucket(
            mut values in prop::collection::vec(value(), 1..300),
            q in 0.0..=1.0f64,
        ) {
            let snapshot = snapshot(&values);
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            prop_assert_eq!(snapshot.quantile(q), Some(bucket_high(bucket_of(values[rank - 1]))));
            prop_assert_eq!(snapshot.min(), Some(bucket_low(bucket_of(values[0]))));
            prop_assert_eq!(snapshot.max(), Some(bucket_high(bucket_of(values[values.len() - 1]))));
            let mean = values.iter().map(|&value| value as f64).sum::<f64>() / values.len() as f64;
            prop_assert!((snapshot.mean().unwrap() - mean).abs() <= mean / 32.0 + 1.0);
        }

        #[test]
        fn what_was_merged_is_what_came_since(
            before in prop::collection::vec(value(), 0..50),
            after in prop::collection::vec(value(), 0..50),
        ) {
            let (earlier, added) = (snapshot(&before), snapshot(&after));
            let mut whole = earlier.clone();
            whole.merge(&added);
            prop_assert_eq!(whole.count(), (before.len() + after.len()) as u64);
            prop_assert_eq!(whole.since(&earlier), added);
        }
    }
}
