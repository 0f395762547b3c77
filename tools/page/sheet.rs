//! What all sections of the page are made from, and how they write figures and names.

use std::time::{Duration, UNIX_EPOCH};

use executor_core::histogram::HistogramSnapshot;
use executor_shm::inspect::{Inspection, Recorded};
use maud::{Markup, html};

use crate::dump_json::{handler_name, quantile_ns};
use crate::units::{count, nanoseconds};

/// When and from where the files were read.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Nanoseconds since 1970; `None` for a copy that was made by other means than `shm-dump save`.
    pub(crate) at_ns: Option<u64>,
    /// The folder of a copy.
    pub(crate) folder: Option<String>,
}

/// An instance, and what was recorded of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sheet<'a> {
    pub(crate) view: &'a Inspection,
    pub(crate) recorded: &'a Recorded,
    pub(crate) taken: &'a Taken,
}

/// What stands where nothing is known.
pub(crate) const NONE: &str = "-";

impl Sheet<'_> {
    /// A length of time for people, with nanoseconds for programs; without a clock in ticks.
    pub(crate) fn time(&self, ticks: u64) -> Markup {
        let ns = self.view.clock.map(|clock| clock.ticks_to_ns(ticks));
        match ns {
            Some(ns) => figure(ns, &nanoseconds(ns)),
            None => html! { (self.length(ticks)) },
        }
    }

    /// The same as a text.
    pub(crate) fn length(&self, ticks: u64) -> String {
        match self.view.clock {
            Some(clock) => nanoseconds(clock.ticks_to_ns(ticks)),
            None => format!("{} ticks", count(ticks)),
        }
    }

    /// A quantile of a histogram of ticks, for 1.0 the longest.
    pub(crate) fn quantile(&self, histogram: &HistogramSnapshot, q: f64) -> Markup {
        match quantile_ns(self.view, histogram, q) {
            Some(ns) => figure(ns, &longest(ns)),
            None => html! { (NONE) },
        }
    }

    /// A handler by its name.
    pub(crate) fn handler(&self, id: u32) -> String {
        handler_name(self.view, id).map_or_else(|| format!("unknown handler {id}"), plain)
    }

    /// When a tick was, in nanoseconds since 1970.
    pub(crate) fn realtime_ns(&self, ticks: u64) -> Option<u64> {
        self.view.clock.filter(|_| ticks != 0).map(|clock| clock.realtime_ns_at(ticks))
    }

    /// What a command has to be told to look at the same files.
    pub(crate) fn place(&self) -> String {
        match &self.taken.folder {
            Some(folder) => format!("{} --from {}", self.view.instance, plain(folder)),
            None => self.view.instance.to_string(),
        }
    }
}

/// A figure for people, and the number for programs.
pub(crate) fn figure(number: u64, text: &str) -> Markup {
    html! { data value=(number) { (text) } }
}

/// A count for both.
pub(crate) fn counted(number: u64) -> Markup {
    figure(number, &count(number))
}

/// A time, or what the last bucket says of times longer than the histogram reaches.
pub(crate) fn longest(ns: u64) -> String {
    if ns > 1_000_000_000_000 { "> 20 s".to_owned() } else { nanoseconds(ns) }
}

/// How much of `whole` `part` is, from 0 to 1.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

/// A share in percent, for people.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.1 {
        "< 0.1 %".to_owned()
    } else if percent < 10.0 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// A place or a width across a picture.
pub(crate) fn across(share: f64) -> String {
    format!("{:.3}%", share.clamp(0.0, 1.0) * 100.0)
}

/// A date and a time of day, UTC.
pub(crate) fn date(ns: u64) -> String {
    let text = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(ns)).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// A time of day, UTC.
pub(crate) fn time_of_day(ns: u64) -> String {
    let text = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(ns)).to_string();
    text.split_once('T').map_or_else(String::new, |(_, time)| time.trim_end_matches('Z').to_owned())
}

/// A text without what moves or hides the text beside it: control characters and those that turn the direction of writing
/// are written as numbers.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        let turns =
            matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        let is_none =
            matches!(u32::from(letter) & 0xffff, 0xfffe | 0xffff) || ('\u{fdd0}'..='\u{fdef}').contains(&letter);
        if letter.is_control() || turns || is_none {
            plain.extend(letter.escape_unicode());
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_keeps_its_letters_and_shows_what_would_hide_them() {
        assert_eq!(plain("Auftrag 7: größer als 4 KiB <b>"), "Auftrag 7: größer als 4 KiB <b>");
        assert_eq!(plain("a\u{0}b\nc\u{202e}d\u{fffe}e"), "a\\u{0}b\\u{a}c\\u{202e}d\\u{fffe}e");
    }

    #[test]
    fn dates_are_told_for_any_number_of_nanoseconds() {
        assert_eq!(date(1_709_210_096_789_000_000), "2024-02-29 12:34:56.789 UTC");
        assert_eq!(time_of_day(1_709_210_096_789_999_999), "12:34:56.789");
        assert_eq!(date(0), "1970-01-01 00:00:00.000 UTC");
        assert!(date(u64::MAX).starts_with("2554-"), "{}", date(u64::MAX));
    }

    #[test]
    fn shares_stay_between_none_and_all() {
        assert_eq!((share(1, 0), share(3, 2), share(1, 4)), (0.0, 1.0, 0.25));
        assert_eq!([0.0, 0.0004, 0.051, 0.5, 1.0].map(percent), ["0.0 %", "< 0.1 %", "5.1 %", "50 %", "100 %"]);
        assert_eq!((across(0.5).as_str(), across(7.0).as_str()), ("50.000%", "100.000%"));
    }
}
