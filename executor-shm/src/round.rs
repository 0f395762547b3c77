//! One attempt of a start to take the files of an instance: what makes it begin again, and what makes it give up.

use nix::errno::Errno;

use crate::files::FileError;
use crate::layout::GeometryError;
use crate::lock::{LockFile, Rival};
use crate::master::MasterError;

/// A reason to begin again, or to give up.
pub(crate) enum Round {
    Again,
    /// Somebody holds a lock who may be dying: a dying process frees its locks one by one, in any order. Begin again for
    /// a moment, then give up.
    Held(MasterError),
    Fail(MasterError),
}

impl From<MasterError> for Round {
    fn from(error: MasterError) -> Self {
        Self::Fail(error)
    }
}

impl From<FileError> for Round {
    fn from(error: FileError) -> Self {
        Self::Fail(error.into())
    }
}

impl From<GeometryError> for Round {
    fn from(error: GeometryError) -> Self {
        Self::Fail(error.into())
    }
}

/// `EEXIST` and `ENOENT` at a rename, or a name that vanished before it could be opened: a rival was there.
pub(crate) fn rival(error: FileError) -> Round {
    match &error {
        FileError::Refused { source, .. }
            if matches!(source.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound) =>
        {
            Round::Again
        }
        _ if error.is_missing() => Round::Again,
        _ => Round::Fail(error.into()),
    }
}

/// Takes the write lock of a file, or says who has one.
pub(crate) fn take(lock: &LockFile, name: &str, held: impl FnOnce() -> MasterError) -> Result<(), Round> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            Err(match lock.rival().map_err(|errno| FileError::refused("probe", name, errno))? {
                Some(Rival::Writer) => Round::Fail(held()),
                Some(Rival::Reader) => Round::Fail(MasterError::ReadLocked { name: name.to_owned() }),
                None => Round::Again, // it let go meanwhile
            })
        }
        Err(errno) => Err(FileError::refused("lock", name, errno).into()),
    }
}
