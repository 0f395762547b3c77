//! Axes: powers of ten up a picture, and time across it.

/// A logarithmic axis over whole powers of ten of nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decades {
    low: u32,
    high: u32,
}

impl Decades {
    /// The powers of ten around all these values; `None` if there are none.
    pub(crate) fn around(values: impl Iterator<Item = u64>) -> Option<Self> {
        let (low, high) = values.map(|value| value.max(1)).fold(None, |range, value| match range {
            None => Some((value, value)),
            Some((low, high)) => Some((value.min(low), value.max(high))),
        })?;
        let (low, top) = (low.ilog10(), high.ilog10());
        let high = if 10u64.checked_pow(top) == Some(high) && top > low { top } else { top + 1 };
        Some(Self { low, high })
    }

    /// Where a value is, from 0 at the bottom to 1 at the top.
    pub(crate) fn place(&self, value: u64) -> f64 {
        let place = ((value.max(1) as f64).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        place.clamp(0.0, 1.0)
    }

    /// The powers of ten, the least first.
    pub(crate) fn powers(&self) -> impl Iterator<Item = u64> {
        (self.low..=self.high).map(|power| 10u64.saturating_pow(power))
    }
}

/// A power of ten of nanoseconds: `10 us`.
pub(crate) fn power(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

/// A span of time across a picture, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Span {
    /// Where a moment is, from 0 at its beginning to 1 at its end.
    pub(crate) fn place(&self, ns: u64) -> f64 {
        let length = self.to.saturating_sub(self.from);
        if length == 0 { 1.0 } else { (ns.saturating_sub(self.from) as f64 / length as f64).min(1.0) }
    }

    pub(crate) fn holds(&self, ns: u64) -> bool {
        (self.from..=self.to).contains(&ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_hold_all_values_between_powers_of_ten() {
        let decades = Decades::around([2_000, 90_000].into_iter()).unwrap();
        assert_eq!(decades.powers().collect::<Vec<_>>(), [1_000, 10_000, 100_000]);
        assert_eq!([1_000, 10_000, 100_000, 5].map(|value| decades.place(value)), [0.0, 0.5, 1.0, 0.0]);
        assert_eq!(Decades::around([100, 1_000].into_iter()).unwrap().powers().count(), 2);
        assert_eq!(Decades::around([7].into_iter()).unwrap().powers().collect::<Vec<_>>(), [1, 10]);
        assert_eq!(Decades::around([0, u64::MAX].into_iter()).unwrap().powers().last(), Some(u64::MAX));
        assert_eq!(Decades::around(std::iter::empty()), None);
    }

    #[test]
    fn a_moment_has_its_place_in_a_span_of_any_length() {
        let span = Span { from: 100, to: 200 };
        assert_eq!([100, 150, 200, 500, 0].map(|ns| span.place(ns)), [0.0, 0.5, 1.0, 1.0, 0.0]);
        assert_eq!(Span { from: 5, to: 5 }.place(5), 1.0);
        assert_eq!(Span { from: 9, to: 5 }.place(7), 1.0);
    }
}
