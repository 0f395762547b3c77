//! A producer's way in: whom to believe, and how to claim a lane.
//!
//! It submits nothing; that is [`lane`](crate::lane). The claim is the write lock on the lane's `sq`, and nothing else.
//!
//! # Invariants
//! - A1: a lane is claimed only if, *after* the lock was taken, the mirror still says FREE with the nonce first read and
//!   the files are pristine: no task, no wish. Otherwise the lock is let go.
//! - A2: the wish is the last thing written; housekeeping takes a lane with an owner only once it is there, so it never
//!   reads half a wish. An attacher that dies after its wish leaves files that the next attacher refuses (A1) and
//!   housekeeping replaces.

use std::time::Duration;

use executor_core::record::COMMIT;
use executor_core::{Clock, Priority};
use nix::fcntl::OFlag;

use crate::barrier;
use crate::files::{self, FileError, Header, InstanceName};
use crate::futex::{self, Who};
use crate::layout::{Geometry, GeometryError, Kind, geometry as geometry_words, lane as sq_words, status};
use crate::lock::{LockFile, fork_generation};
use crate::mapped::{ReadWords, WriteWords};
use crate::mutant::Mutant;
use crate::state::{InstanceState, LaneState, LaneWord};
use crate::status::{self as table, ClockUnreadable};
use crate::words::{Words, WordsMut};

/// Why an instance cannot be used by this process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No sidecar holds the instance. Start one, or wait for it.
    #[error("no executor is running instance {instance}; start one with: executord run {instance}")]
    NotRunning {
        /// The instance.
        instance: InstanceName,
    },
    /// The files belong to a user that was not named as trusted.
    #[error("instance {instance} belongs to uid {owner}, not to root, to this user, or to one named as its owner")]
    WrongOwner {
        /// The instance.
        instance: InstanceName,
        /// The files' owner.
        owner: u32,
    },
    /// A file could not be opened or believed; another ABI is among the reasons.
    #[error(transparent)]
    File(#[from] FileError),
    /// A size in `status` is impossible.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The clock in `status` cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockUnreadable),
}

/// What an owner wants of its lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How urgent its tasks are.
    pub priority: Priority,
    /// The worker that shall serve it; `None` for the one with the fewest lanes.
    pub worker: Option<u32>,
}

impl Wish {
    fn word(self) -> u64 {
        let worker = self.worker.map_or(0, |worker| u64::from(worker.min(0xfffe)) + 1);
        1 | (self.priority as u64) << 8 | worker << 16
    }
}

/// A running instance as a producer sees it.
#[derive(Debug)]
pub struct Instance {
    name: InstanceName,
    status: ReadWords,
    life: LockFile,
    /// Whose files are believed besides root's and our own.
    named: Option<u32>,
    geometry: Geometry,
    nonce: u64,
    clock: Clock,
    timed: bool,
    generation: u64,
}

/// A lane that this process owns. Dropped, it is unmapped first and unlocked after.
#[derive(Debug)]
pub struct Claim {
    /// The lane's number.
    pub lane: u32,
    /// The lane's nonce.
    pub nonce: u64,
    /// Added to positions to make task ids.
    pub base: u64,
    /// Submissions, ours to write.
    pub sq: WriteWords,
    /// Completions.
    pub cq: ReadWords,
    /// Our life, as the sidecar sees it.
    pub lock: LockFile,
}

impl Drop for Instance {
    /// Lets housekeeping see at once that a lane was given back.
    fn drop(&mut self) {
        if self.generation == fork_generation() {
            self.wake_housekeeping();
        }
    }
}

/// Whether the files of this user are believed: root's, our own, and those of one that was named.
fn is_believed(owner: u32, named: Option<u32>) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw() || Some(owner) == named
}

impl Instance {
    /// Opens a running instance. `owner` names a user to believe besides root and this process's own.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(name: &InstanceName, owner: Option<u32>) -> Result<Self, OpenError> {
        let not_running = || OpenError::NotRunning { instance: name.clone() };
        let file = name.status();
        let life = match files::open(&file, OFlag::O_RDONLY) {
            Ok(life) => life,
            Err(error) if error.is_missing() => return Err(not_running()),
            Err(error) => return Err(error.into()),
        };
        let found = files::owner_of(&file, &life)?;
        if !is_believed(found, owner) {
            return Err(OpenError::WrongOwner { instance: name.clone(), owner: found });
        }
        let status = files::map_for_reading(&life, &file)?;
        let head = Header::load(&status, &file, Kind::Status)?;
        let geometry = Geometry::load(&status);
        geometry.check()?;
        if geometry.status_bytes() > status.len() * 8 {
            let what = "its length does not fit its sizes".to_owned();
            return Err(FileError::Foreign { name: file, what }.into());
        }
        let alive = life.is_write_locked().map_err(|errno| FileError::refused("probe", &file, errno))?;
        if !alive || table::load_state(&status) != Some(InstanceState::Running) {
            return Err(not_running());
        }
        let clock = table::load_clock(&status)?;
        let timed = status.load(geometry_words::FLAGS) & 1 != 0;
        Ok(Self {
            name: name.clone(),
            status,
            life,
            named: owner,
            geometry,
            nonce: head.nonce,
            clock,
            timed,
            generation: fork_generation(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Its random number: task keys carry it.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Its sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The clock of all its stamps.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether its tasks carry stamps.
    pub fn is_timed(&self) -> bool {
        self.timed
    }

    /// Its `status` words.
    pub fn status(&self) -> &ReadWords {
        &self.status
    }

    /// Whether a sidecar holds the life lock now: a system call of some 0.4 us. A probe that fails counts as alive.
    pub fn is_alive(&self) -> bool {
        self.life.is_write_locked().unwrap_or(true)
    }

    /// Whether the name leads to another instance by now, or this one was given up: what it accepted and did not answer
    /// never will be.
    pub fn is_discarded(&self) -> bool {
        if table::load_state(&self.status) == Some(InstanceState::Discarded) {
            return true;
        }
        !self.is_alive() && !files::is_still(&self.name.status(), &self.life).unwrap_or(true)
    }

    /// The registry row of a handler id, as it stands now.
    pub fn handler(&self, id: u32) -> Option<table::HandlerRow> {
        table::load_registry(&self.status, &self.geometry).into_iter().find(|row| row.id == id)
    }

    /// Tries every FREE lane once. `None`: there was none to be had at this moment.
    ///
    /// # Errors
    ///
    /// The files of a FREE lane could not be opened or believed, for another reason than that they are being replaced. If
    /// they are damaged or their names taken, the other lanes are tried first. Where that is
    /// [damage](FileError::is_damage), housekeeping makes them anew.
    pub fn claim(&self, wish: Wish) -> Result<Option<Claim>, FileError> {
        let mut refused = None;
        for lane in 0..self.geometry.lanes {
            let row = table::load_lane(&self.status, &self.geometry, lane);
            if row.word.state() != Some(LaneState::Free) {
                continue;
            }
            match self.claim_lane(lane, row.word, wish) {
                Ok(Some(claim)) => {
                    self.wake_housekeeping();
                    return Ok(Some(claim));
                }
                Ok(None) => {}
                Err(error) if error.is_missing() => {} // replaced between the two looks
                Err(error) if error.is_damage() || error.is_squatted() => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        self.wake_housekeeping(); // it makes lanes faster than in its own time
        refused.map_or(Ok(None), Err)
    }

    fn claim_lane(&self, lane: u32, word: LaneWord, wish: Wish) -> Result<Option<Claim>, FileError> {
        let nonce = word.nonce();
        let (sq_name, cq_name) = (self.name.sq(lane, nonce), self.name.cq(lane, nonce));
        let lock = files::open(&sq_name, OFlag::O_RDWR)?;
        let cq_file = files::open(&cq_name, OFlag::O_RDONLY)?;
        for (name, file) in [(&sq_name, &lock), (&cq_name, &cq_file)] {
            let owner = files::owner_of(name, file)?;
            if !is_believed(owner, self.named) {
                let what =
                    format!("it belongs to uid {owner}, not to root, to this user, or to one named as its owner");
                return Err(FileError::Squatted { name: name.clone(), what });
            }
        }
        if !Mutant::LockNotTaken.is_on() && lock.try_lock().is_err() {
            return Ok(None);
        }
        let cq = files::map_for_reading(&cq_file, &cq_name)?;
        let sq = files::map_for_writing(&sq_name, self.geometry.sq_bytes(), Kind::Sq, self.nonce)?;
        let heads =
            [(Header::load(&sq, &sq_name, Kind::Sq)?, &sq_name), (Header::load(&cq, &cq_name, Kind::Cq)?, &cq_name)];
        for (head, name) in heads {
            if (head.nonce, head.state, head.lane) != (self.nonce, nonce, lane) {
                let what = "its header names another lane".to_owned();
                return Err(FileError::Foreign { name: name.clone(), what });
            }
        }
        if cq.len() * 8 < self.geometry.cq_bytes() {
            return Err(FileError::Foreign { name: cq_name, what: "it is too short".to_owned() });
        }
        // The second look (A1).
        let row = table::load_lane(&self.status, &self.geometry, lane);
        let is_untasked = sq.load_commit(sq_words::SLOTS + COMMIT) == 0 || Mutant::FirstTaskNotSeen.is_on();
        let is_unwished = sq.load(sq_words::WISH) == 0 || Mutant::WishNotSeen.is_on();
        let is_same = row.word == word || (Mutant::NonceNotCompared.is_on() && row.word.state() == word.state());
        if !(is_same || Mutant::LaneNotLookedAtAgain.is_on()) || !is_untasked || !is_unwished {
            return Ok(None);
        }
        sq.store(sq_words::OWNER, u64::from(std::process::id()));
        sq.store(sq_words::BARRIER, u64::from(barrier::is_registered()));
        sq.commit(sq_words::WISH, wish.word()); // A2
        Ok(Some(Claim { lane, nonce, base: row.base, sq, cq, lock }))
    }

    /// Lets housekeeping look at the lanes now.
    pub fn wake_housekeeping(&self) {
        futex::wake(self.status.atomic(status::NAP), Who::Keeper, i32::MAX);
    }

    /// Naps for at most `time`; a lane that becomes free cuts it short for one of those who wait.
    pub fn nap(&self, time: Duration) {
        let nap = self.status.load(status::NAP);
        futex::nap(self.status.atomic(status::NAP), nap, time, Who::Producers);
    }

    /// The first position of a lane that cannot be read any more, if it is poisoned for that.
    pub fn damaged_at(&self, lane: u32) -> Option<u64> {
        let word = self.gate(lane) + status::LANE_DAMAGED_AT;
        self.status.load(word).checked_sub(1)
    }

    /// Who holds the lanes: lane, state and the owner's pid as the owner told it.
    pub fn holders(&self) -> Vec<(u32, LaneState, u64)> {
        (0..self.geometry.lanes)
            .filter_map(|lane| {
                let row = table::load_lane(&self.status, &self.geometry, lane);
                let state = row.word.state()?;
                (!matches!(state, LaneState::Absent)).then_some((lane, state, row.owner))
            })
            .collect()
    }

    /// Why no further lane can be made, if that is so: bytes a lane needs and bytes that `/dev/shm` has left.
    pub fn shortage(&self) -> Option<(u64, u64)> {
        let is_made = |(_, state, _): &(u32, LaneState, u64)| *state != LaneState::Resetting;
        let made = self.holders().iter().filter(|holder| is_made(holder)).count();
        let (needed, free) = (self.geometry.lane_bytes() as u64, files::free_bytes());
        (made < self.geometry.lanes as usize && free < needed).then_some((needed, free))
    }

    /// Word offset of a lane's gate in `status`.
    pub fn gate(&self, lane: u32) -> usize {
        self.geometry.gate(lane) + status::GATE_STATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::{self, LaneFiles};
    use crate::master::Master;
    use crate::wanted::Wanted;
    use executor_core::clock::ClockSource;

    const NONCE: u64 = 7;

    /// A running instance with one FREE lane and without housekeeping: nothing changes but by the test.
    struct Still {
        opened: Instance,
        files: LaneFiles,
        master: Master,
    }

    impl Still {
        fn new(of: &str) -> Self {
            let instance = InstanceName::new(&format!("{of}-{}", std::process::id())).unwrap();
            let wanted = Wanted { lanes: Some(1), capacity: Some(4), ..Wanted::default() };
            let source = ClockSource::detect();
            let master = Master::acquire(&instance, &wanted, Some(source)).unwrap();
            master.settle_clock(source);
            let files = draft::create_lane(&instance, &master.geometry, master.nonce, None, 0, NONCE).unwrap();
            master.set_lane_word(0, Self::free());
            master.set_state(InstanceState::Running);
            Self { opened: Instance::open(&instance, None).unwrap(), files, master }
        }

        /// What the first look sees.
        fn free() -> LaneWord {
            LaneWord::new(LaneState::Free, 0, NONCE)
        }

        /// Whether a lane that was FREE at the first look is claimed.
        fn is_claimed(&self) -> bool {
            let claim = self.opened.claim_lane(0, Self::free(), Wish::default()).unwrap();
            let held = self.files.sq_lock.is_write_locked().unwrap();
            assert_eq!(held, claim.is_some(), "the lock is the claim: nobody has one without the other");
            claim.is_some()
        }
    }

    impl Drop for Still {
        fn drop(&mut self) {
            let _ = self.master.retire();
        }
    }

    #[test]
    fn a_lane_that_is_another_at_the_second_look_is_not_claimed() {
        let still = Still::new("second-look");
        let others = [LaneState::Active, LaneState::Draining, LaneState::Resetting, LaneState::Poisoned]
            .map(|state| Still::free().with(state, 0));
        for other in others.into_iter().chain([LaneWord::new(LaneState::Free, 0, NONCE + 1)]) {
            still.master.mirror_lane_word(0, other);
            assert!(!still.is_claimed(), "{other:?}");
        }
        still.master.mirror_lane_word(0, Still::free());
        assert!(still.is_claimed(), "FREE as before");
    }

    #[test]
    fn a_lane_with_a_task_or_a_wish_is_not_claimed_though_it_is_free() {
        let still = Still::new("pristine");
        let name = still.opened.name.sq(0, NONCE);
        let sq = files::map_for_writing(&name, still.master.geometry.sq_bytes(), Kind::Sq, still.master.nonce).unwrap();
        for (word, what) in [(sq_words::SLOTS + COMMIT, "a task"), (sq_words::WISH, "a wish")] {
            sq.commit(word, 1);
            assert!(!still.is_claimed(), "there is {what} of somebody who is gone");
            sq.commit(word, 0);
        }
        assert!(still.is_claimed(), "pristine");
    }

    #[test]
    fn a_lane_that_somebody_holds_is_not_claimed() {
        let still = Still::new("held");
        let other = files::open(&still.opened.name.sq(0, NONCE), OFlag::O_RDWR).unwrap();
        other.try_lock().unwrap();
        assert!(still.opened.claim_lane(0, Still::free(), Wish::default()).unwrap().is_none());
        drop(other);
        assert!(still.is_claimed(), "nobody holds it any more");
    }
}
