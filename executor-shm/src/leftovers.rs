//! Files that stand where a new instance is to be made: whose they are, and what may become of them.

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::files::{self, FileError, InstanceName};
use crate::layout::{Geometry, journal};
use crate::lock::LockFile;
use crate::mapped::WriteWords;
use crate::mutant::Mutant;
use crate::state::{LaneState, LaneWord};
use crate::words::Words;

/// What became of the files beside a new journal.
pub(crate) enum Cleared {
    /// They are gone.
    All,
    /// This one is in use, so nothing was removed.
    InUse(String),
    /// The journal lost its name, so they may be somebody's by now. Nothing was removed.
    NotOurs,
}

/// Removes everything of this user beside a journal in state NEW: nothing there can be the new instance's.
pub(crate) fn clear(instance: &InstanceName, journal_lock: &LockFile) -> Result<Cleared, FileError> {
    let io = |source| FileError::Refused { verb: "list", name: String::new(), source };
    let (journal, status) = (instance.journal(), instance.status());
    let mut names = files::list(instance).map_err(io)?;
    names.retain(|name| *name != journal);
    // After the list: while the name was ours nobody else could have made what is on it, but for drafts of rivals.
    if !files::is_still(&journal, journal_lock)? {
        return Ok(Cleared::NotOurs);
    }
    // The life lock first: a living sidecar would take our probes of its free lanes for attachers.
    names.sort_by_key(|name| *name != status);
    let mut unused = Vec::new();
    for name in names {
        if !files::is_own(&name)? {
            continue; // somebody else's; whether it is in the way of a name that is needed shows when that is made
        }
        let is_sq = name.ends_with(".sq");
        let lock = match files::open(&name, if is_sq { OFlag::O_RDWR } else { OFlag::O_RDONLY }) {
            Ok(lock) => lock,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error),
        };
        let used = if name == status && !Mutant::LifeBesideNewIgnored.is_on() {
            lock.is_write_locked()
        } else if is_sq && !Mutant::OwnerBesideNewIgnored.is_on() {
            // Taken and kept until the file is gone: nobody can attach to it any more.
            lock.try_lock().map(|()| false).or_else(|e| if e == Errno::EAGAIN { Ok(true) } else { Err(e) })
        } else {
            Ok(false)
        };
        if used.map_err(|errno| FileError::refused("probe", &name, errno))? {
            return Ok(Cleared::InUse(name));
        }
        unused.push((name, lock));
    }
    for (name, lock) in &unused {
        files::unlink_own(name, lock)?;
    }
    Ok(Cleared::All)
}

/// Completes a discard that was killed: the journal says so, so everything may go.
pub(crate) fn finish_discard(
    instance: &InstanceName,
    journal: &WriteWords,
    geometry: &Geometry,
    journal_lock: &LockFile,
) -> Result<(), FileError> {
    for lane in 0..geometry.lanes {
        let word = LaneWord::from_word(journal.load(geometry.journal_lane(lane) + journal::k::STATE));
        if word.state() != Some(LaneState::Absent) {
            files::unlink(&instance.sq(lane, word.nonce()))?;
            files::unlink(&instance.cq(lane, word.nonce()))?;
        }
    }
    match files::open(&instance.status(), OFlag::O_RDONLY) {
        // A sidecar that lives there is another instance's.
        Ok(status) if status.is_write_locked() != Ok(false) => {}
        Ok(status) => files::unlink_own(&instance.status(), &status)?,
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error),
    }
    files::unlink_own(&instance.journal(), journal_lock)
}
