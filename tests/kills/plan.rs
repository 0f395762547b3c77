//! Who submitted what in a scenario, and how each task must end, told from an image by the protocol's own words.

use std::ops::RangeInclusive;

use executor_shm::core::Status;
use executor_shm::core::record::COMMIT;
use executor_shm::core::status::Interrupted;
use executor_shm::layout::journal::k;
use executor_shm::state::LaneState;

use crate::image::{GEOMETRY, Image};
use crate::tasks::{Build, Task};

/// Most times a task is run.
const ATTEMPTS_MAX: u64 = 2;

/// A lane whose producer was attached before the kill.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) number: u32,
    pub(crate) nonce: u64,
    /// By position; the last ones may not have been accepted yet.
    pub(crate) tasks: Vec<Task>,
    /// Its producer outlives the kill and goes on.
    pub(crate) survivor: bool,
    /// Its tasks are stamped with their tags, not with the time.
    pub(crate) tagged: bool,
}

/// A scenario's lanes, and the build that the next start is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) build: Build,
}

/// What follows the instance in the name of a lane's file.
pub(crate) fn lane_file(number: u32, nonce: u64, kind: &str) -> String {
    format!("lane-{number}-{nonce:014x}.{kind}")
}

/// What must become of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was never accepted, so nothing may be heard of it.
    Unknown,
    /// Its completion is there and stays.
    Answered,
    /// One of these statuses, with so many effects in all.
    Ends { status: Status, effects: RangeInclusive<usize> },
}

impl Lane {
    pub(crate) fn sq(&self) -> String {
        lane_file(self.number, self.nonce, "sq")
    }

    pub(crate) fn cq(&self) -> String {
        lane_file(self.number, self.nonce, "cq")
    }

    /// Tasks that `image` says were accepted: commit words only grow, so the last one found speaks for those before.
    pub(crate) fn accepted(&self, image: &Image) -> usize {
        let committed = |&position: &usize| image.commit(&self.sq(), position as u64) == position as u64 + 1;
        (0..self.tasks.len()).rev().find(committed).map_or(0, |last| last + 1)
    }

    /// What must become of the task at `position` after a kill that left `image`, if `build` starts next.
    pub(crate) fn fate(&self, image: &Image, position: usize, build: Build) -> Fate {
        let task = self.tasks[position];
        if position >= self.accepted(image) {
            return Fate::Unknown;
        }
        let place = position as u64;
        let answered = image.commit(&self.cq(), place);
        if answered > place {
            return Fate::Answered;
        }
        let lines = GEOMETRY.journal_lane(self.number);
        let journal = |word: usize| image.word("journal", lines + word);
        let ours = image.lane_word(self.number).nonce() == self.nonce;
        let started = ours && journal(COMMIT) == place + 1;
        // A FREE lane attaches under the build that notices it.
        let is_free = image.lane_word(self.number).state() == Some(LaneState::Free);
        let build = if is_free { Build::First } else { build };
        if !started {
            return match task.kind.verdict(build) {
                Some(status) => Fate::Ends { status, effects: 0..=0 },
                None => Fate::Ends { status: task.kind.end(), effects: 1..=1 },
            };
        }
        // A task that could not run must say so whatever the journal holds; a verdict of the journal must be one of those
        // that some build gives.
        let verdict = match journal(k::VERDICT) {
            0 => task.kind.verdict(Build::First),
            word => Status::from_wire(word as u8, (word >> 8) as u8, 0)
                .filter(|&status| [Build::First, Build::Changed].iter().any(|&b| task.kind.verdict(b) == Some(status)))
                .or_else(|| task.kind.verdict(Build::First)),
        };
        if let Some(status) = verdict {
            return Fate::Ends { status, effects: 0..=0 };
        }
        let attempts = match journal(k::ATTEMPTS) {
            word if word >> 8 == place => word & 0xff,
            _ => 1,
        };
        let reason = if attempts >= ATTEMPTS_MAX {
            Interrupted::Attempts
        } else if build == Build::Changed {
            Interrupted::HandlerChanged
        } else if task.kind.is_idempotent() {
            return Fate::Ends { status: task.kind.end(), effects: 1..=ATTEMPTS_MAX as usize };
        } else {
            Interrupted::Killed
        };
        let most = if task.kind.is_idempotent() { ATTEMPTS_MAX as usize } else { 1 };
        Fate::Ends { status: Status::Interrupted(reason), effects: 0..=most }
    }
}
