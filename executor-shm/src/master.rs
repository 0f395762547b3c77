//! Who owns an instance's files: the master lock on `journal`, the life lock on `status`, and what a start may do to
//! what it finds.
//!
//! It starts no thread and serves no lane. When [`Master::acquire`] returns, this process alone may write `journal` and
//! `status`, both are still the inodes their names lead to, and nothing of a living instance was touched.

use std::collections::HashSet;
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::boot::Boot;
use crate::draft::Draft;
use crate::files::{self, FileError, Header, InstanceName};
use crate::group::Group;
use crate::layout::{Geometry, GeometryError, Kind, geometry as geometry_words, header, journal, status};
use crate::leftovers::{self, Cleared};
use crate::lock::LockFile;
use crate::mapped::{SharedWords, WriteWords};
use crate::mutant::Mutant;
use crate::rehearsal::{self, Instant};
use crate::round::{Round, rival, take};
use crate::state::{InstanceState, LaneState, LaneWord};
use crate::status as table;
use crate::wanted::{self, Wanted};
use crate::warm::Warm;
use crate::words::{Words, WordsMut};
use executor_core::clock::{Calibration, ClockSource};

/// Times a start begins again because a rival moved under it.
const ROUNDS: u32 = 1000;
/// How long a holder of some of the locks may take to die.
const DYING: Duration = Duration::from_secs(if cfg!(shuttle) { 3600 } else { 1 });
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(1);

/// Why an instance's files could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterError {
    /// Another sidecar serves the instance. Stop it, or choose another name.
    #[error("instance {instance} is already running; stop it or choose another name")]
    AlreadyRunning {
        /// The instance.
        instance: InstanceName,
    },
    /// Files without a journal are still in use. End the processes that hold them.
    #[error("/dev/shm/{name} has no journal beside it and is still in use; end the processes that hold it")]
    InUse {
        /// The file.
        name: String,
    },
    /// Somebody holds a read lock, which no executor takes. End the process that holds it.
    #[error("/dev/shm/{name} is read-locked by a process that is no executor; end it (lslocks names it)")]
    ReadLocked {
        /// The file.
        name: String,
    },
    /// A size is out of bounds.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The files were made with another size. Use theirs, or give the instance up first.
    #[error("instance {instance} was made with {option} {found}, not {asked}; start it so, or remove its files first")]
    Differs {
        /// The instance.
        instance: InstanceName,
        /// The option.
        option: &'static str,
        /// What was asked for.
        asked: u64,
        /// What the files have.
        found: u64,
    },
    /// The files let in another group, or none. Use theirs, or give the instance up first.
    #[error(
        "instance {instance} was made for {}, not for {}; start it so, or remove its files first",
        group_text(*found), group_text(Some(*asked))
    )]
    OtherGroup {
        /// The instance.
        instance: InstanceName,
        /// What was asked for.
        asked: Group,
        /// What the files have.
        found: Option<Group>,
    },
    /// The files are from another boot of the machine, of which nothing can be known for certain. Give them up.
    #[error(
        "the files of instance {instance} are from another boot of the machine, and what they say of their tasks is not \
         certain; give them up with: executord clean --discard {instance}"
    )]
    OtherBoot {
        /// The instance.
        instance: InstanceName,
    },
    /// The machine's clock is no longer the one the files' stamps were made with.
    #[error("instance {instance} was stamped with clock {found}, this machine now has {asked}; remove its files first")]
    Clock {
        /// The instance.
        instance: InstanceName,
        /// This machine's clock.
        asked: &'static str,
        /// The files' clock.
        found: &'static str,
    },
    /// A file could not be made, opened or believed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody removed the files while they were being taken. Nothing of what is there now was touched.
    #[error("the files of instance {instance} were removed while it started; start it again")]
    NamesLost {
        /// The instance.
        instance: InstanceName,
    },
    /// Rivals kept moving the files.
    #[error("instance {instance} is being started and stopped by others all the time; try again")]
    Restless {
        /// The instance.
        instance: InstanceName,
    },
}

fn group_text(group: Option<Group>) -> String {
    group.map_or_else(|| "its owner alone".to_owned(), |group| format!("group {group}"))
}

/// The files of an instance in the hands of their only writer. Dropping it frees both locks.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) instance: InstanceName,
    pub(crate) nonce: u64,
    pub(crate) geometry: Geometry,
    /// Whose members may attach.
    pub(crate) group: Option<Group>,
    pub(crate) journal: SharedWords,
    pub(crate) status: SharedWords,
    pub(crate) timed: bool,
    pub(crate) status_lock: LockFile,
    pub(crate) journal_lock: LockFile,
}

impl Drop for Master {
    /// A start that failed before it served anything leaves no files: nobody can be attached to an instance that never
    /// was RUNNING.
    fn drop(&mut self) {
        if self.is_new() {
            for lane in 0..self.geometry.lanes {
                let word = self.lane_word(lane);
                if word.nonce() != 0 {
                    let _ = files::unlink(&self.instance.sq(lane, word.nonce()));
                    let _ = files::unlink(&self.instance.cq(lane, word.nonce()));
                }
            }
            let _ = files::unlink_own(&self.instance.status(), &self.status_lock);
            let _ = files::unlink_own(&self.instance.journal(), &self.journal_lock);
        }
    }
}

impl Master {
    /// Takes the files of an instance, or makes them. `clock` is what this machine stamps with; `None` for whoever
    /// serves no task.
    pub(crate) fn acquire(
        instance: &InstanceName,
        wanted: &Wanted,
        clock: Option<ClockSource>,
    ) -> Result<Self, MasterError> {
        Self::take_over(instance, wanted, clock, &mut Warm::default())
    }

    /// As [`acquire`](Self::acquire), with what was mapped and locked ahead.
    pub(crate) fn take_over(
        instance: &InstanceName,
        wanted: &Wanted,
        clock: Option<ClockSource>,
        warm: &mut Warm,
    ) -> Result<Self, MasterError> {
        if let Some(group) = wanted.group {
            group.probe().map_err(FileError::from)?; // before anything is made
        }
        let begun = Instant::now();
        let mut rounds = 0;
        while rounds < ROUNDS {
            match Self::round(instance, wanted, clock, warm) {
                Ok(master) => return Ok(master),
                Err(Round::Again) => {
                    rehearsal::pause();
                    rounds += 1;
                }
                Err(Round::Held(_)) if begun.elapsed() < DYING => rehearsal::sleep(LOOK),
                Err(Round::Held(error)) => return Err(error),
                Err(Round::Fail(error)) => return Err(error),
            }
        }
        Err(MasterError::Restless { instance: instance.clone() })
    }

    fn round(
        instance: &InstanceName,
        wanted: &Wanted,
        clock: Option<ClockSource>,
        warm: &mut Warm,
    ) -> Result<Self, Round> {
        let name = instance.journal();
        let (granted, life) = warm.granted.take().map_or((None, None), |locks| (Some(locks.journal), locks.status));
        let (journal, journal_lock) = match granted.map_or_else(|| files::open(&name, OFlag::O_RDWR), Ok) {
            Ok(lock) => Self::adopt_journal(instance, lock, warm)?,
            Err(error) if error.is_missing() => Self::create_journal(instance, wanted)?,
            Err(error) => return Err(error.into()),
        };
        let (head, geometry, state) = wanted::read_journal(instance, &journal)?;
        let group = wanted::read_group(instance, &journal)?;
        match state {
            InstanceState::New => {
                let is_adopted = Mutant::NewJournalAdopts.is_on();
                let cleared = if is_adopted { Ok(Cleared::All) } else { leftovers::clear(instance, &journal_lock) };
                if !matches!(cleared, Ok(Cleared::All)) {
                    files::unlink_own(&name, &journal_lock)?;
                }
                match cleared? {
                    Cleared::All => {}
                    Cleared::InUse(name) => return Err(Round::Held(MasterError::InUse { name })),
                    Cleared::NotOurs => return Err(Round::Again),
                }
                // The sizes of a journal left by a creator that died are as free as those of none.
                if wanted.check(instance, &geometry, None).is_err() || wanted.group != group {
                    files::unlink_own(&name, &journal_lock)?;
                    return Err(Round::Again);
                }
            }
            InstanceState::Discarded => {
                leftovers::finish_discard(instance, &journal, &geometry, &journal_lock)?;
                return Err(Round::Again);
            }
            _ => wanted.check_settled(instance, clock, &journal, &geometry)?,
        }
        let fresh = state == InstanceState::New;
        let timed = if fresh { wanted.timing.unwrap_or(true) } else { table::is_timed(&journal) };
        let (status, status_lock) =
            Self::take_status(instance, &geometry, (head.nonce, group), life, warm).or_else(|error| {
                if fresh && !matches!(error, Round::Again) {
                    files::unlink_own(&name, &journal_lock)?; // the journal of no instance goes with the start that failed
                }
                Err(error)
            })?;
        // After both locks are held: are the names still ours? A stop may have removed them in between.
        let still = files::is_still(&name, &journal_lock)? && files::is_still(&instance.status(), &status_lock)?;
        if !still && !Mutant::NamesNotLookedAtAgain.is_on() {
            return Err(Round::Again);
        }
        let (journal, status) = (journal.share(), status.share());
        if fresh {
            journal.store(geometry_words::CLOCK, clock.map_or(0, ClockSource::code));
            table::store_timed(&journal, timed);
        }
        table::store_timed(&status, timed);
        let this = Self {
            instance: instance.clone(),
            nonce: head.nonce,
            geometry,
            group,
            journal,
            status,
            timed,
            status_lock,
            journal_lock,
        };
        Ok(this)
    }

    fn adopt_journal(
        instance: &InstanceName,
        lock: LockFile,
        warm: &mut Warm,
    ) -> Result<(WriteWords, LockFile), Round> {
        let name = instance.journal();
        files::check_own(&name, &lock)?;
        take(&lock, &name, || MasterError::AlreadyRunning { instance: instance.clone() })?;
        if !files::is_still(&name, &lock)? && !Mutant::NamesNotLookedAtAgain.is_on() {
            return Err(Round::Again);
        }
        let words = match warm.take_journal(&lock) {
            Some(words) => words,
            None => match files::map_held_for_writing(&lock, &name, Kind::Journal) {
                Ok((words, _)) => words,
                Err(_) if !files::is_still(&name, &lock)? => return Err(Round::Again), // it changed hands once more
                Err(error) => return Err(rival(error)),
            },
        };
        Ok((words, lock))
    }

    fn create_journal(instance: &InstanceName, wanted: &Wanted) -> Result<(WriteWords, LockFile), Round> {
        let geometry = wanted.geometry();
        geometry.check()?;
        let bytes = geometry.journal_bytes();
        let draft = Draft::create(instance, bytes, bytes, Kind::Journal, wanted.group).map_err(rival)?;
        let state = InstanceState::New as u64;
        let nonce = files::random();
        Header { kind: Kind::Journal, nonce, state, lanes: geometry.lanes, lane: 0, bytes }.store(&draft.words);
        geometry.store(&draft.words);
        draft.words.store(journal::GROUP, Group::word(wanted.group));
        Boot::now().store(&draft.words, journal::BOOT);
        // Locked before anybody can find it.
        if !Mutant::NewJournalUnlocked.is_on() {
            take(&draft.lock, "the new journal", || MasterError::AlreadyRunning { instance: instance.clone() })?;
        }
        draft.publish(&instance.journal()).map_err(rival)
    }

    /// Takes the life lock on the instance's `status`, or makes a new one: with the journal's lock held and no `status`
    /// nobody can be attached.
    fn take_status(
        instance: &InstanceName,
        geometry: &Geometry,
        (nonce, group): (u64, Option<Group>),
        granted: Option<LockFile>,
        warm: &mut Warm,
    ) -> Result<(WriteWords, LockFile), Round> {
        let name = instance.status();
        match granted.map_or_else(|| files::open(&name, OFlag::O_RDWR), Ok) {
            Ok(lock) => {
                files::check_own(&name, &lock)?;
                let running = || MasterError::AlreadyRunning { instance: instance.clone() };
                take(&lock, &name, running).map_err(|error| match error {
                    Round::Fail(error @ MasterError::AlreadyRunning { .. }) => Round::Held(error), // without the journal's
                    error => error,
                })?;
                let warm = warm.take_status(&lock);
                let found = match &warm {
                    Some(words) => is_status_of(words, &name, geometry, nonce),
                    None => files::map_for_reading(&lock, &name)
                        .and_then(|words| is_status_of(&words, &name, geometry, nonce)),
                };
                let ours = match found {
                    Ok(ours) => ours,
                    // Another build's: not ours to judge, and so not to remove.
                    Err(error @ FileError::AbiMismatch { .. }) => return Err(error.into()),
                    Err(error) if error.is_damage() => false,
                    Err(error) => return Err(error.into()),
                };
                if !ours {
                    // Of another life of the name, or damaged; its lock is ours, so nobody serves it.
                    files::unlink_own(&name, &lock)?;
                    return Err(Round::Again);
                }
                let bytes = geometry.status_bytes();
                let words = match warm {
                    Some(words) => words,
                    None => match files::map_for_writing(&name, bytes, Kind::Status, nonce) {
                        Ok(words) => words,
                        Err(_) if !files::is_still(&name, &lock)? => return Err(Round::Again),
                        Err(error) => return Err(rival(error)),
                    },
                };
                Ok((words, lock))
            }
            Err(error) if error.is_missing() => {
                let bytes = geometry.status_bytes();
                let draft = Draft::create(instance, bytes, bytes, Kind::Status, group).map_err(rival)?;
                let state = InstanceState::New as u64;
                Header { kind: Kind::Status, nonce, state, lanes: geometry.lanes, lane: 0, bytes }.store(&draft.words);
                geometry.store(&draft.words);
                draft.words.store(status::GROUP, Group::word(group));
                Boot::now().store(&draft.words, status::BOOT);
                take(&draft.lock, &name, || MasterError::AlreadyRunning { instance: instance.clone() })?;
                draft.publish(&name).map_err(rival)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether both names still lead to our inodes.
    pub(crate) fn is_intact(&self) -> bool {
        let still = |name: String, lock: &LockFile| files::is_still(&name, lock).unwrap_or(false);
        let both =
            still(self.instance.journal(), &self.journal_lock) && still(self.instance.status(), &self.status_lock);
        both || Mutant::NamesLostUnnoticed.is_on()
    }

    /// Tells everybody, the journal's reader first, what the instance is now.
    pub(crate) fn set_state(&self, state: InstanceState) {
        table::store_state(&self.journal, state);
        table::store_state(&self.status, state);
    }

    /// Makes sure that `status` carries a calibration of the clock; the first one holds for the files' whole life.
    pub(crate) fn settle_clock(&self, source: ClockSource) -> executor_core::Clock {
        if let Ok(clock) = table::load_clock(&self.status)
            && clock.source() == source
        {
            return clock;
        }
        table::store_clock(&self.status, source, &Calibration::measure(source));
        self.status.store(geometry_words::CLOCK, source.code());
        table::load_clock(&self.status)
            .unwrap_or_else(|_| executor_core::Clock::new(source, Calibration::measure(source)))
    }

    /// Removes every file of the instance that the journal does not name, temporary ones included. Names that others made
    /// since ours were taken away are not among them: those are listed first, and then ours must still be there.
    pub(crate) fn sweep(&self) -> Result<(), MasterError> {
        let io = |source| FileError::Refused { verb: "list", name: String::new(), source };
        let mut keep = HashSet::from([self.instance.journal(), self.instance.status()]);
        for lane in (0..self.geometry.lanes).filter(|_| !Mutant::NamedFilesSwept.is_on()) {
            let word = self.lane_word(lane);
            keep.insert(self.instance.sq(lane, word.nonce()));
            keep.insert(self.instance.cq(lane, word.nonce()));
        }
        let found = files::list(&self.instance).map_err(io)?;
        if !self.is_intact() {
            return Err(MasterError::NamesLost { instance: self.instance.clone() });
        }
        for name in found {
            if !keep.contains(&name) && !Mutant::LeftoversNotSwept.is_on() {
                files::unlink_leftover(&name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn lane_word(&self, lane: u32) -> LaneWord {
        LaneWord::from_word(self.journal.load(self.geometry.journal_lane(lane) + journal::k::STATE))
    }

    /// Stores a lane's word in the journal, then in the mirror.
    pub(crate) fn set_lane_word(&self, lane: u32, word: LaneWord) {
        Mutant::MirrorBeforeJournal.then(|| self.mirror_lane_word(lane, word));
        self.journal.commit(self.geometry.journal_lane(lane) + journal::k::STATE, word.word());
        self.mirror_lane_word(lane, word);
    }

    pub(crate) fn mirror_lane_word(&self, lane: u32, word: LaneWord) {
        self.status.commit(self.geometry.gate(lane) + status::GATE_STATE, word.word());
    }

    /// Removes the instance: its lanes first, its journal last. The caller holds the `sq` lock of every lane that has
    /// files. A kill anywhere in here leaves unfinished resets for the next start.
    pub(crate) fn retire(&self) -> Result<(), FileError> {
        // The mirror first: an attacher that looks a second time must find no FREE lane any more.
        let lanes = (0..self.geometry.lanes).map(|lane| (lane, self.lane_word(lane)));
        let lanes: Vec<_> = lanes.filter(|(_, word)| word.state() != Some(LaneState::Absent)).collect();
        if Mutant::JournalRetiredFirst.is_on() {
            files::unlink_own(&self.instance.journal(), &self.journal_lock)?;
        }
        for &(lane, word) in lanes.iter().filter(|_| !Mutant::RetiredLanesStayFree.is_on()) {
            self.mirror_lane_word(lane, word.with(LaneState::Resetting, 0));
        }
        for &(lane, word) in lanes.iter().filter(|_| !Mutant::RetiredLanesStayFree.is_on()) {
            self.set_lane_word(lane, word.with(LaneState::Resetting, 0));
        }
        for (lane, word) in lanes {
            files::unlink(&self.instance.sq(lane, word.nonce()))?;
            files::unlink(&self.instance.cq(lane, word.nonce()))?;
        }
        files::unlink_own(&self.instance.status(), &self.status_lock)?;
        files::unlink_own(&self.instance.journal(), &self.journal_lock)
    }

    /// Bytes of all files that exist now.
    pub(crate) fn store_footprint(&self, lanes_made: u32) -> u64 {
        let bytes = self.geometry.status_bytes()
            + self.geometry.journal_bytes()
            + lanes_made as usize * self.geometry.lane_bytes();
        self.status.store(status::FOOTPRINT, bytes as u64);
        bytes as u64
    }

    /// Whether the instance was never RUNNING.
    pub(crate) fn is_new(&self) -> bool {
        self.journal.load(header::STATE) == InstanceState::New as u64
    }
}

/// Whether a `status` belongs to the journal with this nonce and these sizes.
fn is_status_of(status: &impl Words, name: &str, geometry: &Geometry, nonce: u64) -> Result<bool, FileError> {
    let head = Header::load(status, name, Kind::Status)?;
    let fits = status.len() * 8 == geometry.status_bytes();
    Ok(head.nonce == nonce && Geometry::load(status) == *geometry && fits)
}

pub(crate) fn foreign(name: &str, what: &str) -> FileError {
    FileError::Foreign { name: name.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::Granted;

    #[test]
    fn a_start_that_was_granted_a_lock_on_a_file_without_a_name_takes_the_one_that_has_it() {
        let instance = InstanceName::new(&format!("renamed-{}", std::process::id())).unwrap();
        let take = |warm: &mut Warm| Master::take_over(&instance, &Wanted::default(), None, warm).unwrap();
        let settle = || take(&mut Warm::default()).set_state(InstanceState::Stopped);
        let open = |name: &str| files::open(name, OFlag::O_RDWR).unwrap();
        settle();
        let nameless = open(&instance.status());
        files::unlink(&instance.status()).unwrap();
        settle();
        let mut warm = Warm::default();
        warm.granted = Some(Granted { journal: open(&instance.journal()), status: Some(nameless) });
        let master = take(&mut warm);
        assert!(master.is_intact(), "it is master of a file that nobody finds");
        master.retire().unwrap();
    }
}
