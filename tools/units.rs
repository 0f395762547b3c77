//! Quantities as people write and read them: sizes, times and counts.

use std::time::Duration;

/// Reads a size in bytes: `4096`, `64KiB`, `256MiB`, `1GB`. `KB` is 1,000 bytes, `KiB` and a bare `K` are 1,024.
///
/// # Errors
///
/// One clause that says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1u64 << 40,
        _ => return Err("not a size; write for example 65536, 64KiB, 256MiB or 1GB".to_owned()),
    };
    let number: u64 = match number.parse() {
        Ok(number) => number,
        Err(_) if number.is_empty() => return Err("no number; write for example 256MiB".to_owned()),
        Err(_) => return Err("past 16 EiB; write for example 256MiB".to_owned()),
    };
    number.checked_mul(scale).ok_or_else(|| "past 16 EiB; write for example 256MiB".to_owned())
}

/// Reads a time: `500ms`, `5s`, `2m`; a bare number is seconds.
///
/// # Errors
///
/// One clause that says what was expected.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim_start() {
        "us" => 1,
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        _ => return Err("not a time; write for example 250us, 500ms, 5s or 2m".to_owned()),
    };
    let us = number.parse().ok().and_then(|number: u64| number.checked_mul(scale));
    us.map(Duration::from_micros).ok_or_else(|| "not a time; write for example 250us, 500ms, 5s or 2m".to_owned())
}

/// A size to three figures: `4 KiB`, `1.25 MiB`.
pub fn bytes(bytes: u64) -> String {
    let exact = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in exact {
        if bytes.is_multiple_of(unit) && (1..1024).contains(&(bytes / unit)) {
            return format!("{} {name}", bytes / unit);
        }
    }
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A time to three figures: `117 ns`, `4.31 us`.
pub fn nanoseconds(ns: u64) -> String {
    match ns {
        60_000_000_000.. => format!("{}m{:02}s", ns / 60_000_000_000, ns / 1_000_000_000 % 60),
        _ => scaled(ns, 1000.0, &["ns", "us", "ms", "s"]),
    }
}

/// A count with its thousands apart: `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 file`, `3 files`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Events in a time as a rate a second, 0 for no time at all.
pub fn per_second(events: u64, ns: u64) -> f64 {
    if ns == 0 { 0.0 } else { events as f64 * 1e9 / ns as f64 }
}

fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    let mut number = value as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    let mut whole = true;
    // 999.5 would be rounded to four figures: the next unit takes it.
    while number >= step.min(999.5) {
        let Some(next) = units.next() else { break };
        (number, unit, whole) = (number / step, next, false);
    }
    let decimals = match number {
        _ if whole => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_with_every_unit() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("1K", 1024),
            ("1GB", 1_000_000_000),
            ("256MiB", 256 << 20),
            ("2t", 2 << 40),
            ("7B", 7),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "MiB", "-1", "1.5GiB", "64 bananas", "99999999999999999999", "18446744073709551615K"] {
            let why = parse_bytes(text).unwrap_err();
            assert!(why.contains("256MiB"), "{text}: {why}");
        }
    }

    #[test]
    fn a_time_is_read_with_its_unit_and_a_bare_number_is_seconds() {
        for (text, ms) in [("500ms", 500), ("5s", 5_000), ("5", 5_000), ("2m", 120_000), ("0", 0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "5h", "99999999999999999999m"] {
            assert!(parse_time(text).unwrap_err().contains("5s"), "{text}");
        }
    }

    #[test]
    fn quantities_have_three_figures_and_the_unit_that_fits() {
        let sizes =
            [(0, "0 B"), (1023, "1.00 KiB"), (999, "999 B"), (1024, "1 KiB"), (1300, "1.27 KiB"), (655_360, "640 KiB")];
        for (value, text) in sizes {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        let times = [(0, "0 ns"), (117, "117 ns"), (999, "999 ns"), (4_312, "4.31 us"), (999_600, "1.00 ms")];
        for (value, text) in times {
            assert_eq!(nanoseconds(value), text);
        }
        assert_eq!(nanoseconds(59_900_000_000), "59.9 s");
        assert_eq!(nanoseconds(61_000_000_000), "1m01s");
    }

    #[test]
    fn counts_have_their_thousands_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!((counted(1, "file").as_str(), counted(1_000, "file").as_str()), ("1 file", "1,000 files"));
    }

    #[test]
    fn a_rate_over_no_time_is_none() {
        assert_eq!(per_second(5, 0), 0.0);
        assert_eq!(per_second(5, 500_000_000), 10.0);
    }
}
