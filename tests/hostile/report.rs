//! What the attacks came to, as text and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::board::{Board, Count};

/// One attack.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) role: String,
    pub(crate) acts: u64,
    pub(crate) attached: u64,
    pub(crate) refused: u64,
    pub(crate) poisoned: u64,
    pub(crate) lanes_reset: u64,
    pub(crate) attacker_deaths: u64,
    pub(crate) sidecar_deaths: u64,
    pub(crate) victim_sessions: u64,
    pub(crate) victim_accepted: u64,
    pub(crate) victim_completed: u64,
    /// What must come and did not.
    pub(crate) stuck: u64,
    /// What honest processes complained of.
    pub(crate) complaints: u64,
    pub(crate) leaked_files: u64,
    pub(crate) told: Vec<String>,
}

impl Outcome {
    /// Takes over what the board counted.
    pub(crate) fn take(&mut self, board: &Board) {
        self.acts = board.load(Count::Acts);
        self.attached = board.load(Count::Attached);
        self.refused = board.load(Count::Refused);
        self.poisoned = board.load(Count::Poisoned);
        self.victim_sessions = board.load(Count::Sessions);
        self.victim_accepted = board.load(Count::Accepted);
        self.victim_completed = board.load(Count::Completed);
    }

    /// Whether nobody but the attackers was harmed.
    pub(crate) fn is_clean(&self) -> bool {
        [self.sidecar_deaths, self.stuck, self.complaints, self.leaked_files] == [0; 4]
            && self.victim_accepted == self.victim_completed
            && self.victim_accepted > 0
            && self.acts > 0
    }

    fn json(&self) -> Value {
        json!({
            "role": self.role,
            "acts": self.acts,
            "lanes_attached": self.attached,
            "attaches_refused": self.refused,
            "lanes_poisoned": self.poisoned,
            "lanes_reset": self.lanes_reset,
            "attacker_deaths": self.attacker_deaths,
            "sidecar_deaths": self.sidecar_deaths,
            "victim_sessions": self.victim_sessions,
            "victim_accepted": self.victim_accepted,
            "victim_completed": self.victim_completed,
            "stuck": self.stuck,
            "complaints": self.complaints,
            "leaked_files": self.leaked_files,
            "findings": self.told,
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{:<14} {} acts on {} lanes, {} refused, {} poisoned, {} resets, {} attackers died\n{:14} sidecar deaths {}, \
             victim {} of {} completed on {} lanes, {} stuck, {} complaints, {} files leaked\n",
            self.role,
            self.acts,
            self.attached,
            self.refused,
            self.poisoned,
            self.lanes_reset,
            self.attacker_deaths,
            "",
            self.sidecar_deaths,
            self.victim_completed,
            self.victim_accepted,
            self.victim_sessions,
            self.stuck,
            self.complaints,
            self.leaked_files
        );
        for told in &self.told {
            let _ = writeln!(text, "- {told}");
        }
        text
    }
}

/// All attacks as one object.
pub(crate) fn json(seconds: u64, seed: u64, outcomes: &[Outcome]) -> Value {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    json!({
        "seconds_each": seconds,
        "seed": seed,
        "sidecar_deaths": sum(|outcome| outcome.sidecar_deaths),
        "victim_accepted": sum(|outcome| outcome.victim_accepted),
        "victim_completed": sum(|outcome| outcome.victim_completed),
        "lanes_poisoned": sum(|outcome| outcome.poisoned),
        "lanes_reset": sum(|outcome| outcome.lanes_reset),
        "attaches_refused": sum(|outcome| outcome.refused),
        "leaked_files": sum(|outcome| outcome.leaked_files),
        "roles": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
    })
}

/// All attacks for people.
pub(crate) fn text(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(Outcome::text).collect()
}
