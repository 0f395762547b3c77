//! Where a kill hit, as the files tell it before anybody starts again: the journal, the lanes, the status.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use executor_shm::core::record::COMMIT;
use executor_shm::layout::{Geometry, header, journal::k, status};
use executor_shm::state::{InstanceState, LaneState, LaneWord};
use executor_shm::words::Words;
use executor_tests::shared::KeptFile;

use crate::auditor::Auditor;
use crate::ledger::{Doing, Life};
use crate::setting::Setting;

/// A named file as it was mapped last.
#[derive(Debug, Default)]
struct Named(Option<(u64, KeptFile)>);

impl Named {
    fn open(path: &Path) -> Option<(u64, KeptFile)> {
        let file = File::open(path).ok()?;
        let inode = file.metadata().ok()?.ino();
        Some((inode, KeptFile::map(&file).ok()?))
    }

    /// The file that the name leads to now.
    fn refresh(&mut self, setting: &Setting, part: &str) -> Option<&KeptFile> {
        let path = setting.path(part);
        let inode = fs::symlink_metadata(&path).ok().map(|facts| facts.ino());
        if self.0.as_ref().map(|(inode, _)| *inode) != inode {
            self.0 = Self::open(&path);
        }
        self.0.as_ref().map(|(_, file)| file)
    }
}

/// The two files of an instance that have fixed names.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    journal: Named,
    status: Named,
}

/// One lane as it stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneSight {
    pub(crate) word: LaneWord,
    /// A task is started and not completed.
    pub(crate) in_flight: bool,
    /// That task had its verdict.
    verdict: bool,
    /// That task was running for the second time.
    second: bool,
    /// A task is accepted and not started.
    accepted: bool,
}

/// An instance as it stood.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) state: Option<InstanceState>,
    pid: u64,
    pub(crate) lanes: Vec<LaneSight>,
}

impl Watch {
    /// Everything as it stands now; `None` without a journal or a status that are whole.
    pub(crate) fn look(&mut self, setting: &Setting, auditor: &Auditor) -> Option<Sight> {
        let journal = self.journal.refresh(setting, "journal")?;
        let status = self.status.refresh(setting, "status")?;
        let geometry = Geometry::load(journal);
        let whole = geometry.check().is_ok()
            && geometry.journal_bytes() / 8 <= journal.len()
            && geometry.status_bytes() / 8 <= status.len();
        if !whole {
            return None;
        }
        let lanes = (0..geometry.lanes).map(|lane| {
            let at = geometry.journal_lane(lane);
            let word = LaneWord::from_word(journal.load_commit(at + k::STATE));
            let mut sight = LaneSight { word, in_flight: false, verdict: false, second: false, accepted: false };
            let served = !matches!(word.state(), None | Some(LaneState::Absent | LaneState::Resetting));
            if let Some(kept) = auditor.of_lane(lane, word.nonce()).filter(|_| served) {
                let started = journal.load_commit(at + COMMIT);
                if let Some(position) = started.checked_sub(1) {
                    let attempts = journal.load(at + k::ATTEMPTS);
                    sight.in_flight = kept.completed(position) != started;
                    sight.verdict = sight.in_flight && journal.load(at + k::VERDICT) != 0;
                    sight.second = sight.in_flight && attempts >> 8 == position && attempts & 0xff >= 2;
                }
                sight.accepted = kept.submitted(started) == started + 1;
            }
            sight
        });
        Some(Sight {
            state: InstanceState::from_word(journal.load(header::STATE)),
            pid: status.load(status::PID),
            lanes: lanes.collect(),
        })
    }

    /// Whether the lane word in force is of this life; without files it is not.
    pub(crate) fn is_current(&self, life: &Life) -> bool {
        let Some((_, status)) = &self.status.0 else { return false };
        let geometry = Geometry::load(status);
        let at = geometry.gate(life.lane) + status::GATE_STATE;
        geometry.check().is_ok() && at < status.len() && LaneWord::from_word(status.load(at)).nonce() == life.nonce
    }
}

impl Sight {
    /// Whether a task was started and not completed.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.lanes.iter().any(|lane| lane.in_flight)
    }

    /// Whether every lane is as nobody ever had it. A FREE one may have been had by somebody whom nobody noticed yet.
    pub(crate) fn is_deserted(&self) -> bool {
        let is_fresh = |lane: &LaneSight| {
            let rests = matches!(lane.word.state(), Some(LaneState::Absent | LaneState::Free));
            rests && !lane.accepted && !lane.in_flight
        };
        self.lanes.iter().all(is_fresh)
    }

    fn is_resetting(&self) -> bool {
        self.lanes.iter().any(|lane| lane.word.state() == Some(LaneState::Resetting))
    }
}

/// The window that the kill of a sidecar hit, the most telling one first.
pub(crate) fn of_sidecar(sight: Option<&Sight>, pid: i32, doing: Doing) -> &'static str {
    let Some(sight) = sight else {
        return if doing == Doing::Serving { "retired" } else { "before_files" };
    };
    match sight.state {
        Some(InstanceState::New) => return "first_start",
        Some(InstanceState::Closing) if sight.pid == pid as u64 => {
            return match (sight.is_in_flight(), sight.is_resetting()) {
                (_, true) => "stopping_reset",
                (true, _) => "stopping_started",
                _ => "stopping",
            };
        }
        Some(InstanceState::Stopped) if doing == Doing::Serving => return "stopped",
        _ => {}
    }
    if doing == Doing::Waiting {
        return if sight.pid == pid as u64 { "takeover" } else { "standby_waiting" };
    }
    if doing != Doing::Serving {
        return match (sight.pid == pid as u64, sight.is_in_flight()) {
            (false, _) => "before_recovery",
            (true, true) => "recovery_in_flight",
            (true, false) => "recovery",
        };
    }
    let any = |of: fn(&LaneSight) -> bool| sight.lanes.iter().any(of);
    if any(|lane| lane.second) {
        "rerun"
    } else if any(|lane| lane.verdict) {
        "verdict"
    } else if sight.is_resetting() {
        "reset"
    } else if any(|lane| lane.in_flight) {
        "started"
    } else if any(|lane| lane.accepted) {
        "accepted"
    } else {
        "idle"
    }
}

/// The window that the kill of a producer hit. `commits` says whether a task is in its lane that it had not yet taken for
/// accepted.
pub(crate) fn of_producer(doing: Doing, commits: bool) -> &'static str {
    match (doing, commits) {
        (Doing::Connecting, _) => "producer_connecting",
        (Doing::Claimed, _) => "producer_claimed",
        (Doing::Submitting, true) => "producer_committed",
        (Doing::Submitting, false) => "producer_submitting",
        (Doing::Collecting, _) => "producer_collecting",
        (Doing::Leaving, _) => "producer_leaving",
        _ => "producer_begun",
    }
}
