//! Files that stand where a new instance is to be made: whose they are, and what may become of them.

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::files::{self, FileError, InstanceName};
use crate::layout::{Geometry, journal};
use crate::lock::LockFile;
use crate::mapped::WriteWords;
use crate::state::{LaneState, LaneWord};
use crate::words::Words;

/// Removes everything beside a journal in state NEW: nothing there can be the new instance's. The name of a file that is
/// in use comes back; nothing at all is removed then.
pub(crate) fn clear(instance: &InstanceName) -> Result<Option<String>, FileError> {
    let io = |source| FileError::Refused { verb: "list", name: String::new(), source };
    let (journal, status) = (instance.journal(), instance.status());
    let mut names = files::list(instance).map_err(io)?;
    names.retain(|name| *name != journal);
    // The life lock first: a living sidecar would take our probes of its free lanes for attachers.
    names.sort_by_key(|name| *name != status);
    let mut unused = Vec::new();
    for name in names {
        let is_sq = name.ends_with(".sq");
        let lock = match files::open(&name, if is_sq { OFlag::O_RDWR } else { OFlag::O_RDONLY }) {
            Ok(lock) => lock,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error),
        };
        let used = if name == status {
            lock.is_write_locked()
        } else if is_sq {
            // Taken and kept until the file is gone: nobody can attach to it any more.
            lock.try_lock().map(|()| false).or_else(|e| if e == Errno::EAGAIN { Ok(true) } else { Err(e) })
        } else {
            Ok(false)
        };
        if used.map_err(|errno| FileError::refused("probe", &name, errno))? {
            return Ok(Some(name));
        }
        unused.push((name, lock));
    }
    for (name, lock) in &unused {
        files::unlink_own(name, lock)?;
    }
    Ok(None)
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
    files::unlink(&instance.status())?;
    files::unlink_own(&instance.journal(), journal_lock)
}
