//! Times round trips: all of them by two clock reads, or each by a fenced pair.
//!
//! It knows no process and no memory but its own samples; whatever is timed with it is timed alike.

#![allow(unsafe_code, reason = "the time stamp counter and its fence are intrinsics of the processor")]

use std::hint::black_box;
use std::time::Instant;

/// The distribution of single round trips, each timed by a fenced clock read on both ends.
///
/// Clocks advance in steps ([`TripTimes::step_ns`], 10 ns on many AMD processors), so a sample is a step more or less
/// than the truth, by chance. A percentile is therefore interpolated inside its step, as the median of grouped data is;
/// without that, two medians 1 ns apart may read alike or a whole step apart.
#[derive(Clone, Copy, Debug)]
pub struct TripTimes {
    /// Median, in nanoseconds.
    pub p50_ns: f64,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: f64,
    /// 99.9th percentile, in nanoseconds.
    pub p999_ns: f64,
    /// The longest, in nanoseconds.
    pub max_ns: f64,
    /// All samples added up, by trips: what the samples say the mean is.
    pub mean_ns: f64,
    /// Elapsed time of the whole loop by trips: it holds the clock reads between two samples too.
    pub elapsed_ns: f64,
    /// What a sample of nothing shows, the least seen: part of every sample.
    pub empty_ns: f64,
    /// The step of the clock, in nanoseconds.
    pub step_ns: f64,
}

impl TripTimes {
    /// What the samples leave out of the elapsed time, by trips. It should be about [`TripTimes::empty_ns`], which the
    /// clock reads between two samples cost; far more means that the samples do not tell the whole story.
    pub fn unsampled_ns(&self) -> f64 {
        self.elapsed_ns - self.mean_ns
    }

    /// Whether the sum of samples agrees with the elapsed time: they differ by what reading the clock costs, give or
    /// take 5 %.
    pub fn agrees(&self) -> bool {
        let tolerance = self.elapsed_ns * 0.05;
        (-tolerance..=2.0 * self.empty_ns + tolerance).contains(&self.unsampled_ns())
    }
}

/// Makes `round_trips` trips and returns elapsed time by trips, in nanoseconds: two clock reads in all. `trip` gets the
/// trip's number.
///
/// # Errors
///
/// The first error of `trip`.
#[inline(always)]
pub fn time_trips<E>(round_trips: u64, mut trip: impl FnMut(u64) -> Result<(), E>) -> Result<f64, E> {
    let start = Instant::now();
    for number in 0..round_trips {
        trip(number)?;
    }
    Ok(start.elapsed().as_nanos() as f64 / round_trips.max(1) as f64)
}

/// Makes `round_trips` trips (at least one) and times each, with clock reads closed by `lfence` on both ends: an
/// unfenced one runs ahead of the load that ends the trip and shows trips faster than light. The samples go to memory
/// that was allocated and touched before. `trip` gets the trip's number.
///
/// # Errors
///
/// The first error of `trip`.
#[inline(always)]
pub fn sample_trips<E>(round_trips: u64, mut trip: impl FnMut(u64) -> Result<(), E>) -> Result<TripTimes, E> {
    let mut samples = vec![u32::MAX; round_trips.max(1) as usize];
    black_box(samples.as_mut_slice());
    let mut empty = u64::MAX;
    for _ in 0..1000 {
        let begin = fenced_ticks();
        empty = empty.min(fenced_ticks() - begin);
    }
    let start = Instant::now();
    let first = fenced_ticks();
    for (number, sample) in samples.iter_mut().enumerate() {
        let begin = fenced_ticks();
        trip(number as u64)?;
        *sample = u32::try_from(fenced_ticks() - begin).unwrap_or(u32::MAX);
    }
    let ticks = fenced_ticks() - first;
    let elapsed_ns = start.elapsed().as_nanos() as f64;
    Ok(summary(&mut samples, empty, elapsed_ns, elapsed_ns / ticks.max(1) as f64))
}

fn summary(samples: &mut [u32], empty: u64, elapsed_ns: f64, ns: f64) -> TripTimes {
    samples.sort_unstable();
    let trips = samples.len() as f64;
    let sum: u64 = samples.iter().map(|&sample| u64::from(sample)).sum();
    let step = samples.windows(2).map(|pair| pair[1] - pair[0]).filter(|&step| step > 0).min().unwrap_or(1);
    let at = |q| percentile(samples, step, q) * ns;
    TripTimes {
        p50_ns: at(0.5),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: samples.last().map_or(0.0, |&sample| f64::from(sample) * ns),
        mean_ns: sum as f64 * ns / trips,
        elapsed_ns: elapsed_ns / trips,
        empty_ns: empty as f64 * ns,
        step_ns: f64::from(step) * ns,
    }
}

/// Percentile `q` of sorted samples that were rounded to multiples of `step`: equal samples are taken as spread evenly
/// over one step around their value.
fn percentile(sorted: &[u32], step: u32, q: f64) -> f64 {
    let rank = q * sorted.len() as f64;
    let Some(&value) = sorted.get((rank as usize).min(sorted.len().saturating_sub(1))) else { return 0.0 };
    let below = sorted.partition_point(|&sample| sample < value);
    let equal = sorted.partition_point(|&sample| sample <= value) - below;
    f64::from(value) + f64::from(step) * ((rank - below as f64) / equal as f64 - 0.5)
}

/// The counter as the executor reads it, unfenced, in ticks; nanoseconds where there is none.
#[inline(always)]
pub(super) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: `rdtsc` has no precondition on x86-64; were it made privileged, it would trap and touch nothing.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        super::monotonic_ns()
    }
}

/// The clock after every load before it and before every instruction behind it.
#[inline(always)]
fn fenced_ticks() -> u64 {
    load_fence();
    let now = ticks();
    load_fence();
    now
}

#[inline(always)]
fn load_fence() {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: needs SSE2, which every x86-64 has.
        unsafe { std::arch::x86_64::_mm_lfence() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_inside_the_step_of_its_sample() {
        // 70 of 100 trips took 12 steps, 30 took 13: the truth is nearer to 12.
        let samples: Vec<u32> = [vec![120; 70], vec![130; 30]].concat();
        let median = percentile(&samples, 10, 0.5);
        assert!((median - (115.0 + 10.0 * 50.0 / 70.0)).abs() < 1e-9, "{median}");
        let high = percentile(&samples, 10, 0.99);
        assert!((high - (125.0 + 10.0 * 29.0 / 30.0)).abs() < 1e-9, "{high}");
        assert!(percentile(&[7], 1, 0.999) > 6.5);
    }

    #[test]
    fn samples_of_a_slow_trip_add_up_to_the_elapsed_time() {
        let times = sample_trips(200, |_| {
            let start = Instant::now();
            while start.elapsed().as_micros() < 50 {}
            Ok::<(), ()>(())
        })
        .unwrap();
        assert!(times.agrees(), "{times:?}");
        assert!(times.p50_ns >= 49_000.0 && times.p50_ns <= times.p99_ns && times.p99_ns <= times.max_ns, "{times:?}");
    }

    #[test]
    fn a_failing_trip_ends_the_measurement_with_its_error() {
        let fail = |number| if number == 3 { Err(number) } else { Ok(()) };
        assert_eq!(time_trips(10, fail).unwrap_err(), 3);
        assert_eq!(sample_trips(10, fail).map(|_| ()).unwrap_err(), 3);
    }
}
