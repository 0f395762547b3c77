//! What a bench prints: figures of rounds, their ratios to a floor, the goals, and where they were measured.
//!
//! It measures nothing.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// The ratio is a price.
    AtMost(f64),
    /// The ratio is an achievement.
    AtLeast(f64),
    /// The ratio is only told.
    None,
}

impl Goal {
    /// Whether `ratio` reaches it; `None` if there is nothing to reach.
    pub(crate) fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(ratio <= limit),
            Self::AtLeast(limit) => Some(ratio >= limit),
            Self::None => None,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit:.2}"),
            Self::AtLeast(limit) => write!(f, ">= {limit:.2}"),
            Self::None => f.write_str("-"),
        }
    }
}

/// Which of the two things a round measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What the machine allows.
    Floor,
    /// What the executor does.
    Ours,
}

/// One figure of both sides, round by round.
#[derive(Debug)]
pub(crate) struct Figure {
    name: &'static str,
    goal: Goal,
    /// The floor's figure of each round.
    pub(crate) floor: Vec<f64>,
    /// Our figure of each round.
    pub(crate) ours: Vec<f64>,
}

impl Figure {
    /// A figure without rounds.
    pub(crate) fn new(name: &'static str, goal: Goal) -> Self {
        Self { name, goal, floor: Vec::new(), ours: Vec::new() }
    }

    /// Adds what one side of one round showed.
    pub(crate) fn push(&mut self, side: Side, value: f64) {
        match side {
            Side::Floor => self.floor.push(value),
            Side::Ours => self.ours.push(value),
        }
    }

    /// Our figure by the floor's, round by round.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.floor).map(|(ours, floor)| ours / floor).collect()
    }

    /// The median of [`Figure::ratios`].
    pub(crate) fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    /// The least and the greatest ratio of a round.
    pub(crate) fn spread(&self) -> Value {
        let ratios = self.ratios();
        let [min, max] = [ratios.iter().copied().reduce(f64::min), ratios.iter().copied().reduce(f64::max)];
        json!({ "min": min.map(rounded), "max": max.map(rounded) })
    }

    /// The goal and whether it was met.
    pub(crate) fn verdict(&self) -> Value {
        json!({ "goal": self.goal.to_string(), "ratio": rounded(self.ratio()), "met": self.goal.is_met(self.ratio()) })
    }

    /// What each round showed.
    pub(crate) fn per_round(&self) -> Value {
        let list = |values: &[f64]| values.iter().copied().map(rounded).collect::<Vec<_>>();
        json!({ "floor": list(&self.floor), "ours": list(&self.ours), "ratio": list(&self.ratios()) })
    }

    fn row(&self) -> String {
        let (floor, ours) = (median(&self.floor), median(&self.ours));
        let mut row = format!("{:<40} {:>12} {:>12}", self.name, magnitude(floor), magnitude(ours));
        let ratios = self.ratios();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(0.0, f64::max);
        let met = match self.goal.is_met(self.ratio()) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let goal = self.goal.to_string();
        let _ = write!(row, " {:>7.3} {least:>7.3} {greatest:>7.3}  {goal:<8} {met}", self.ratio());
        row
    }
}

/// A readable table of figures.
pub(crate) fn table(figures: &[&Figure]) -> String {
    let mut table = format!(
        "{:<40} {:>12} {:>12} {:>7} {:>7} {:>7}  {:<8} {}\n",
        "median of rounds", "floor", "executor", "ratio", "least", "most", "goal", "met"
    );
    for figure in figures {
        let _ = writeln!(table, "{}", figure.row());
    }
    table
}

/// The middle value, or the mean of the two middle ones; NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2));
    match (low, high) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

/// Four significant decimals are more than any figure here deserves.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn magnitude(value: f64) -> String {
    if value >= 1e6 { format!("{:.2} M", value / 1e6) } else { format!("{value:.1}") }
}

/// Machine, kernel, compiler, command and date: what a published number carries.
pub(crate) fn circumstances(bench: &str) -> Map<String, Value> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let command = format!("cargo bench -p executor-benches --bench {bench} -- {}", arguments.join(" "));
    let kernel = nix::sys::utsname::uname().map_or_else(
        |_| "unknown".to_owned(),
        |name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
    );
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = std::process::Command::new(compiler).arg("--version").output();
    let rustc = rustc.map_or_else(|_| "unknown".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().into());
    let first_line_after = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .find(|line| line.starts_with(key))
            .and_then(|line| line.split(':').nth(1))
            .map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse::<f64>().ok());
    let mut map = Map::new();
    map.insert("machine".to_owned(), first_line_after("/proc/cpuinfo", "model name").into());
    map.insert("kernel".to_owned(), kernel.into());
    map.insert("rustc".to_owned(), rustc.into());
    map.insert("command".to_owned(), command.trim_end_matches([' ', '-']).into());
    map.insert("date".to_owned(), today().into());
    map.insert("load_before".to_owned(), load.into());
    map
}

/// The date in UTC, `year-month-day`.
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(now.as_secs() / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// The Gregorian date of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days that are not negative.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}
