//! What a run counted, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::reckoning::{TOLD_MAX, Tally};

/// Counts over all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) rounds: u64,
    pub(crate) lives: u64,
    pub(crate) kills: u64,
    pub(crate) kills_in_flight: u64,
    pub(crate) kills_by_window: BTreeMap<&'static str, u64>,
    pub(crate) stops_removed: u64,
    pub(crate) stops_kept: u64,
    pub(crate) leaked_files: u64,
    pub(crate) tally: Tally,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) seed: u64,
    pub(crate) mode: String,
    pub(crate) seconds: u64,
}

impl Totals {
    /// Counts a kill.
    pub(crate) fn kill(&mut self, window: &'static str, in_flight: bool) {
        self.kills += 1;
        self.kills_in_flight += u64::from(in_flight);
        *self.kills_by_window.entry(window).or_default() += 1;
    }

    /// Whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        let Tally { lost, duplicated, contradicted, .. } = self.tally;
        [lost, duplicated, contradicted, self.leaked_files] == [0; 4]
    }

    /// One object with everything.
    pub(crate) fn json(&self, asked: &Asked, elapsed: Duration) -> Value {
        let tally = &self.tally;
        json!({
            "mode": asked.mode,
            "seed": asked.seed,
            "seconds": asked.seconds,
            "elapsed_seconds": (elapsed.as_secs_f64() * 10.0).round() / 10.0,
            "rounds": self.rounds,
            "kills": self.kills,
            "kills_in_flight": self.kills_in_flight,
            "kills_by_window": self.kills_by_window,
            "kills_per_second": (self.rate(elapsed) * 10.0).round() / 10.0,
            "stops_removed": self.stops_removed,
            "stops_kept": self.stops_kept,
            "lanes_owned": self.lives,
            "accepted": tally.accepted,
            "completed": tally.completed,
            "completed_by_status": tally.by_status,
            "lost": tally.lost,
            "duplicated": tally.duplicated,
            "contradicted": tally.contradicted,
            "leaked_files": self.leaked_files,
            "findings": tally.told,
        })
    }

    /// The same for people.
    pub(crate) fn text(&self, asked: &Asked, elapsed: Duration) -> String {
        let tally = &self.tally;
        let mut text = String::new();
        let list = |counts: Vec<(&str, u64)>| {
            let parts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
            if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
        };
        let windows = list(self.kills_by_window.iter().map(|(name, count)| (*name, *count)).collect());
        let statuses = list(tally.by_status.iter().map(|(name, count)| (name.as_str(), *count)).collect());
        let _ = writeln!(text, "mode {}, seed {}, {} rounds in {elapsed:.1?}", asked.mode, asked.seed, self.rounds);
        let _ = writeln!(
            text,
            "kills       {} ({:.1} a second), {} of them with a task in flight",
            self.kills,
            self.rate(elapsed),
            self.kills_in_flight
        );
        let _ = writeln!(text, "  where     {windows}");
        let _ = writeln!(text, "stops       {} removed the files, {} kept them", self.stops_removed, self.stops_kept);
        let _ = writeln!(
            text,
            "tasks       {} accepted over {} lanes, {} completed",
            tally.accepted, self.lives, tally.completed
        );
        let _ = writeln!(text, "  how       {statuses}");
        let _ = writeln!(
            text,
            "broken      {} lost, {} duplicated, {} contradicted, {} files leaked",
            tally.lost, tally.duplicated, tally.contradicted, self.leaked_files
        );
        for finding in &tally.told {
            let _ = writeln!(text, "- {finding}");
        }
        if !tally.told.is_empty() {
            let _ = writeln!(text, "(of each kind no more than {TOLD_MAX} are told)");
        }
        text
    }

    fn rate(&self, elapsed: Duration) -> f64 {
        self.kills as f64 / elapsed.as_secs_f64().max(0.001)
    }
}
