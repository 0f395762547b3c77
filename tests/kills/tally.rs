//! What was found, and how much was tried.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// A promise that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An accepted task has no completion, or none of those it may have.
    Lost,
    /// A task took effect too often, has two completions, or shares its id with another.
    Doubled,
    /// Half a task or half an answer was read.
    Torn,
    /// A start is refused, or a lane or a client is served no more.
    Stuck,
    /// Files are left.
    Leaked,
}

const KEYS: [Key; 5] = [Key::Lost, Key::Doubled, Key::Torn, Key::Stuck, Key::Leaked];

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Torn => "torn",
            Self::Stuck => "stuck",
            Self::Leaked => "leaked",
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) key: Key,
    pub(crate) text: String,
}

impl Finding {
    pub(crate) fn new(key: Key, text: impl Into<String>) -> Self {
        Self { key, text: text.into() }
    }

    /// As a judge's process says it.
    pub(crate) fn to_line(&self) -> String {
        format!("{} {}", self.key.name(), self.text)
    }

    /// Reads [`Self::to_line`] back.
    pub(crate) fn from_line(line: &str) -> Self {
        let (name, text) = line.split_once(' ').unwrap();
        let key = KEYS.into_iter().find(|key| key.name() == name).unwrap();
        Self::new(key, text)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_line())
    }
}

/// Heads of the columns of [`Tally::to_row`].
pub(crate) const HEAD: &str = "path          steps   kills  images  second    lost doubled    torn   stuck  leaked";

/// How much was tried, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Instructions that were run one at a time.
    pub(crate) steps: u64,
    /// Processes that were killed.
    pub(crate) kills: u64,
    /// Kills that were to be made where a process that is not stepped does not come.
    missed: u64,
    pub(crate) images: u64,
    pub(crate) second_level_images: u64,
    counts: BTreeMap<Key, u64>,
    /// What was found, each with the kill that shows it.
    failures: Vec<String>,
}

impl Tally {
    /// Adds what a judge found; `kill` says which kill it was.
    pub(crate) fn add(&mut self, findings: Vec<Finding>, kill: impl Fn() -> String) {
        for finding in findings {
            *self.counts.entry(finding.key).or_default() += 1;
            self.failures.push(format!("{finding}\n    {}", kill()));
        }
    }

    /// Adds what another process tried and found, as it said in JSON.
    pub(crate) fn add_json(&mut self, name: &str, json: &Value) -> Option<()> {
        let number = |key: &str| json.get(key)?.as_u64();
        self.steps += number("steps")?;
        self.kills += number("kills")?;
        self.missed += number("missed")?;
        self.images += number("images")?;
        self.second_level_images += number("second_level_images")?;
        for key in KEYS {
            *self.counts.entry(key).or_default() += number(key.name())?;
        }
        let failures = json.get("failures")?.as_array()?.iter().filter_map(Value::as_str);
        self.failures.extend(failures.map(|text| format!("{name}: {text}")));
        Some(())
    }

    /// Adds another tally.
    pub(crate) fn add_tally(&mut self, other: &Self) {
        self.steps += other.steps;
        self.kills += other.kills;
        self.missed += other.missed;
        self.images += other.images;
        self.second_level_images += other.second_level_images;
        for (&key, count) in &other.counts {
            *self.counts.entry(key).or_default() += count;
        }
        self.failures.extend(other.failures.iter().cloned());
    }

    /// Notes that a kill could not be made where it was to be, before the instruction at `address`; only code that is not
    /// the program's may be so unsteady.
    pub(crate) fn miss(&mut self, address: u64, place: impl Fn() -> String) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let inside = |line: &str| {
            let (from, until) = line.split(' ').next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(from)?..number(until)?).contains(&address))
        };
        self.missed += 1;
        if !maps.lines().any(|line| line.ends_with("[vdso]") && inside(line) == Some(true)) {
            self.break_down(format!("the subject does not run the same instructions again: {}", place()));
        }
    }

    /// Notes that the harness itself failed.
    pub(crate) fn break_down(&mut self, text: String) {
        self.failures.push(text);
    }

    /// Whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// What was found, each with the kill that shows it.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// One line of a table: the counts under [`HEAD`].
    pub(crate) fn to_row(&self, name: &str) -> String {
        let mut row =
            format!("{name:<9}{:>10}{:>8}{:>8}{:>8}", self.steps, self.kills, self.images, self.second_level_images);
        for key in KEYS {
            row += &format!("{:>8}", self.counts.get(&key).copied().unwrap_or(0));
        }
        row
    }

    /// As JSON; `failures` are left to whoever wants them.
    pub(crate) fn to_json(&self) -> Value {
        let mut object = json!({
            "steps": self.steps,
            "kills": self.kills,
            "missed": self.missed,
            "images": self.images,
            "second_level_images": self.second_level_images,
        });
        for key in KEYS {
            object[key.name()] = self.counts.get(&key).copied().unwrap_or(0).into();
        }
        object
    }
}
