//! What became of the mutants, for people and for machines.

use std::fmt;
use std::time::Duration;

use executor_shm::mutant::Mutant;
use serde_json::{Value, json};

use crate::suspects::{Suspect, suspects};
use crate::trial::{End, Trial};

/// What a suspect made of a mutant, if it did not pass.
#[derive(Debug)]
pub(crate) struct Fate {
    suspect: Suspect,
    what: String,
    /// Whether it passed without the mutant right afterwards.
    is_sure: bool,
}

impl Fate {
    pub(crate) fn of(suspect: Suspect, found: &Trial, again: &Trial, own: Duration) -> Self {
        let ratio =
            |limit: &Duration| format!(", {:.0} times its own {:.1} s", limit.div_duration_f64(own), own.as_secs_f64());
        let what = match &found.end {
            End::Hang(limit) => found.what() + &ratio(limit),
            _ => found.what(),
        };
        Self { suspect, what, is_sure: again.has_passed() }
    }
}

/// One mutant.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) fates: Vec<Fate>,
    /// Times that it was shown to its suspects.
    pub(crate) looks: u32,
    pub(crate) seconds: f64,
}

impl Row {
    pub(crate) fn is_caught(&self) -> bool {
        self.fates.iter().any(|fate| fate.is_sure)
    }

    fn json(&self) -> Value {
        let told = |is_sure: bool| {
            let fates = self.fates.iter().filter(|fate| fate.is_sure == is_sure);
            fates.map(|fate| json!({ "suspect": fate.suspect.to_string(), "what": fate.what })).collect::<Vec<_>>()
        };
        json!({
            "mutant": self.name,
            "breaks": self.what,
            "caught": self.is_caught(),
            "by": told(true),
            "failed_without_it_too": told(false),
            "looks": self.looks,
            "seconds": self.seconds,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lives = if self.is_caught() { "" } else { "LIVES: " };
        write!(f, "{:24} {lives}", self.name)?;
        if self.fates.is_empty() {
            write!(f, "{}", self.what)?;
        }
        for (place, fate) in self.fates.iter().enumerate() {
            let also = if fate.is_sure { "" } else { " (and without it too)" };
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {}{also}", fate.suspect, fate.what)?;
        }
        if self.looks > 1 { write!(f, " (at look {})", self.looks) } else { Ok(()) }
    }
}

/// All mutants with what they break and who should see it.
pub(crate) fn list(chosen: &[&(Mutant, &str, &str)], as_json: bool) {
    let named = |mutant: Mutant| suspects(mutant).iter().map(Suspect::to_string).collect::<Vec<_>>();
    if as_json {
        let rows: Vec<Value> = chosen
            .iter()
            .map(|(mutant, name, what)| json!({ "mutant": name, "breaks": what.trim(), "suspects": named(*mutant) }))
            .collect();
        println!("{}", Value::from(rows));
        return;
    }
    for (mutant, name, what) in chosen {
        println!("{name:24} {} [{}]", what.trim(), named(*mutant).join(", "));
    }
}

/// The end of a run; as text, the rows were told when they were known.
pub(crate) fn print(rows: &[Row], built: Duration, whole: Duration, as_json: bool) {
    let lives: Vec<&str> = rows.iter().filter(|row| !row.is_caught()).map(|row| row.name).collect();
    if as_json {
        let report = json!({
            "mutants": rows.len(),
            "caught": rows.len() - lives.len(),
            "live": lives,
            "build_seconds": built.as_secs_f64(),
            "seconds": whole.as_secs_f64(),
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        println!("{report}");
        return;
    }
    let seconds = (whole - built).as_secs_f64();
    println!("{} mutants, {} caught, {} live; {seconds:.0} s", rows.len(), rows.len() - lives.len(), lives.len());
}
