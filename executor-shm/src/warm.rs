//! Files of an instance, mapped while another sidecar serves it, for the moment that one is gone.
//!
//! It stores nothing in them, and what it holds proves nothing: the files may have been replaced since they were mapped.
//! So each mapping is given away only after another look, by whoever holds the master lock, and is as good as a new one
//! then. A start of its own has nothing warm and maps everything.
//!
//! # Invariants
//! - V1: nobody gets a [`WriteWords`] out of here but by a `take` method or [`Warm::open_lane`], which the master alone
//!   calls.
//! - V2: what is given away is the inode that its name leads to now, with the length it was mapped with, and its header
//!   says what the journal says.

use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use crate::draft::{self, LaneFiles};
use crate::files::{self, FileError, InstanceName};
use crate::layout::{Geometry, Kind, header, status};
use crate::lock::{LockFile, same_inode};
use crate::mapped::WriteWords;
use crate::mutant::Mutant;
use crate::state::{InstanceState, LaneState, LaneWord};
use crate::status as table;
use crate::words::Words;

/// The locks of an instance as a standby was granted them.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) journal: LockFile,
    /// `None` if there was no such file.
    pub(crate) status: Option<LockFile>,
}

/// Mappings made ahead; none in the beginning.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    pub(crate) granted: Option<Granted>,
    journal: Option<WarmFile>,
    status: Option<WarmFile>,
    /// Whether both were found to be such that they can be served.
    is_judged: bool,
    /// By number.
    lanes: Vec<Option<WarmLane>>,
}

#[derive(Debug)]
struct WarmFile {
    words: WriteWords,
    stat: FileStat,
}

#[derive(Debug)]
struct WarmLane {
    nonce: u64,
    files: LaneFiles,
    cq_stat: FileStat,
}

/// Whether a name still leads to the file of `then`, at its length.
fn is_same(then: &FileStat, now: &FileStat) -> bool {
    (same_inode(then, now) && then.st_size == now.st_size) || Mutant::WarmFileBelieved.is_on()
}

impl WarmFile {
    /// Maps the file that `name` leads to; `None` if it leads elsewhere by the time it is mapped.
    fn map(name: &str, kind: Kind) -> Result<Option<Self>, FileError> {
        let file = files::open(name, OFlag::O_RDWR)?;
        let stat = file.stat().map_err(|errno| FileError::refused("look at", name, errno))?;
        let (words, _) = files::map_held_for_writing(&file, name, kind)?;
        // Mapped by its name, which led to this inode before and after; mapped, its number is given to no other.
        Ok(files::is_still(name, &file)?.then_some(Self { words, stat }))
    }

    fn is_still(&self, name: &str) -> Result<bool, FileError> {
        Ok(files::stat(name)?.is_some_and(|now| is_same(&self.stat, &now)))
    }
}

impl Warm {
    /// Maps what is new and lets go of what was replaced. `may_serve` is asked about the journal and, once it is there,
    /// `status` of each instance that has settled. What cannot be mapped now is left for another time.
    ///
    /// # Errors
    ///
    /// The journal or `status` is there and is none that this build can serve, or `may_serve` says no.
    pub(crate) fn follow<E: From<FileError>>(
        &mut self,
        instance: &InstanceName,
        may_serve: impl FnOnce(&WriteWords, Option<&WriteWords>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.follow_named(instance) {
            Err(error) if error.is_missing() => return Ok(()), // it is being made, or removed
            result => result?,
        }
        let Some(journal) = &self.journal else { return Ok(()) };
        if table::load_state(&journal.words) == Some(InstanceState::New) {
            return Ok(()); // its sizes are free until its creator has settled them
        }
        if !self.is_judged {
            may_serve(&journal.words, self.status.as_ref().map(|file| &file.words))?;
            self.is_judged = self.status.is_some();
        }
        self.follow_lanes(instance);
        Ok(())
    }

    fn follow_named(&mut self, instance: &InstanceName) -> Result<(), FileError> {
        let (journal, status) = (instance.journal(), instance.status());
        if !is_there(self.journal.as_ref(), &journal)? {
            *self = Self::default();
            self.journal = WarmFile::map(&journal, Kind::Journal)?;
        }
        if !is_there(self.status.as_ref(), &status)? {
            (self.status, self.is_judged) = (None, false);
            self.lanes.clear();
            self.status = WarmFile::map(&status, Kind::Status)?;
        }
        Ok(())
    }

    /// Only the mirrors are read: the journal is its master's. The sizes were checked by `may_serve`.
    fn follow_lanes(&mut self, instance: &InstanceName) {
        let (Some(journal), Some(status)) = (&self.journal, &self.status) else { return };
        let geometry = Geometry::load(&status.words);
        if geometry != Geometry::load(&journal.words) || geometry.status_bytes() != status.words.len() * 8 {
            return; // of another life of the name
        }
        let nonce = status.words.load(header::NONCE);
        self.lanes.resize_with(geometry.lanes as usize, || None);
        for (lane, warm) in (0..).zip(&mut self.lanes) {
            let word = LaneWord::from_word(status.words.load_commit(geometry.gate(lane) + status::GATE_STATE));
            if warm.as_ref().is_some_and(|warm| warm.nonce != word.nonce()) {
                *warm = None;
            }
            if warm.is_none() && word.nonce() != 0 && word.state() != Some(LaneState::Absent) {
                *warm = WarmLane::open(instance, &geometry, nonce, lane, word.nonce()).ok();
            }
        }
    }

    /// Lanes that are mapped.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.iter().flatten().count()
    }

    /// The journal that `lock` holds, if it is mapped.
    pub(crate) fn take_journal(&mut self, lock: &LockFile) -> Option<WriteWords> {
        take(&mut self.journal, lock)
    }

    /// The `status` that `lock` holds, if it is mapped.
    pub(crate) fn take_status(&mut self, lock: &LockFile) -> Option<WriteWords> {
        take(&mut self.status, lock)
    }

    /// The files of a lane that the journal names, mapped now unless they were.
    pub(crate) fn open_lane(
        &mut self,
        instance: &InstanceName,
        geometry: &Geometry,
        instance_nonce: u64,
        lane: u32,
        lane_nonce: u64,
    ) -> Result<LaneFiles, FileError> {
        if let Some(warm) = self.lanes.get_mut(lane as usize).and_then(Option::take)
            && warm.nonce == lane_nonce
            && warm.is_still(instance, lane)?
        {
            warm.files.prove(instance, geometry, instance_nonce, lane, lane_nonce)?;
            return Ok(warm.files);
        }
        draft::open_lane(instance, geometry, instance_nonce, lane, lane_nonce)
    }
}

impl WarmLane {
    fn open(
        instance: &InstanceName,
        geometry: &Geometry,
        instance_nonce: u64,
        lane: u32,
        nonce: u64,
    ) -> Result<Self, FileError> {
        let name = instance.cq(lane, nonce);
        let stat = || files::stat(&name)?.ok_or_else(|| FileError::refused("look at", &name, Errno::ENOENT));
        let cq_stat = stat()?;
        let files = draft::open_lane(instance, geometry, instance_nonce, lane, nonce)?;
        if !is_same(&cq_stat, &stat()?) {
            return Err(FileError::Foreign { name, what: "it was replaced meanwhile".to_owned() });
        }
        Ok(Self { nonce, files, cq_stat })
    }

    fn is_still(&self, instance: &InstanceName, lane: u32) -> Result<bool, FileError> {
        if self.files.poison.load(Relaxed) != 0 {
            return Ok(false); // it was truncated meanwhile, and zeros are mapped over it
        }
        let (sq, cq) = (instance.sq(lane, self.nonce), instance.cq(lane, self.nonce));
        let held = self.files.sq_lock.stat().map_err(|errno| FileError::refused("look at", &sq, errno))?;
        let sq_is = files::stat(&sq)?.is_some_and(|now| same_inode(&now, &held)) || Mutant::WarmFileBelieved.is_on();
        let fits = held.st_size as usize / 8 == self.files.sq.len();
        Ok(sq_is && fits && files::stat(&cq)?.is_some_and(|now| is_same(&self.cq_stat, &now)))
    }
}

fn is_there(file: Option<&WarmFile>, name: &str) -> Result<bool, FileError> {
    file.map_or(Ok(false), |file| file.is_still(name))
}

fn take(file: &mut Option<WarmFile>, lock: &LockFile) -> Option<WriteWords> {
    let file = file.take()?;
    let now = lock.stat().ok()?;
    is_same(&file.stat, &now).then_some(file.words)
}
