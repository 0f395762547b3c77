//! Making files: complete before they have a name.
//!
//! A file is made under a temporary name with `O_EXCL`, its pages allocated, its header written, and only then renamed,
//! replacing nothing: nobody ever sees half a file, and a full `/dev/shm` is an error here and not a SIGBUS later. Until
//! just before it gets its name it is its owner's alone.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags};
use nix::sys::stat::Mode;

use crate::files::{
    FileError, Header, InstanceName, check_own, free_bytes, map_beginning_for_reading, open, path, random, unlink,
};
use crate::group::{Group, mode_of};
use crate::layout::{Geometry, Kind};
use crate::lock::LockFile;
use crate::mapped::{ReadWords, WriteWords};
use crate::mapping::WriteMapping;
use crate::rehearsal::step;
use crate::words::Words;

/// A file that was made and is not named yet. Dropped, it is gone.
pub(crate) struct Draft {
    pub(crate) words: WriteWords,
    pub(crate) lock: LockFile,
    temporary: Temporary,
    kind: Kind,
    group: Option<Group>,
}

struct Temporary(String);

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let _ = unlink(&self.0); // the name is random: nobody else's file can have it
        }
    }
}

impl Draft {
    /// Makes a file of `bytes` zeros under a temporary name, every page allocated, those of the first `present` bytes
    /// present in the mapping. Named, it lets in members of `group` as far as one of its kind does.
    pub(crate) fn create(
        instance: &InstanceName,
        bytes: usize,
        present: usize,
        kind: Kind,
        group: Option<Group>,
    ) -> Result<Self, FileError> {
        let name = format!("{}tmp-{:016x}", instance.prefix(), random());
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = mode_of(kind, None);
        let lock = LockFile::open(|| nix::fcntl::open(&path(&name), flags, mode))
            .map_err(|errno| FileError::refused("create", &name, errno))?;
        let temporary = Temporary(name);
        // The mode given at creation went through the caller's umask, which may have left nothing to open it by.
        lock.set_mode(mode).map_err(|errno| FileError::refused("set the mode of", &temporary.0, errno))?;
        let words = Self::fill(&temporary.0, bytes, present)?;
        Ok(Self { words, lock, temporary, kind, group })
    }

    fn fill(name: &str, bytes: usize, present: usize) -> Result<WriteWords, FileError> {
        step();
        let refused = |verb| move |errno| FileError::refused(verb, name, errno);
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file: OwnedFd = nix::fcntl::open(&path(name), flags, Mode::empty()).map_err(refused("open"))?;
        nix::fcntl::posix_fallocate(&file, 0, bytes as i64).map_err(|errno| match errno {
            Errno::ENOSPC => FileError::Full { name: name.to_owned(), needed: bytes as u64, free: free_bytes() },
            errno => FileError::refused("allocate", name, errno),
        })?;
        Ok(WriteWords::new(WriteMapping::open(name, bytes, present)?))
    }

    /// Gives the finished file its name, replacing nothing. `EEXIST` (the name is taken) and `ENOENT` (a sweeper took
    /// the draft) come back as [`FileError::Refused`].
    pub(crate) fn publish(mut self, name: &str) -> Result<(WriteWords, LockFile), FileError> {
        if let Some(group) = self.group {
            // The group first: the mode lets nobody in whom it does not mean.
            self.lock.set_group(group.gid()).map_err(|errno| group.refused(errno))?;
            let refused = |errno| FileError::refused("set the mode of", &self.temporary.0, errno);
            self.lock.set_mode(mode_of(self.kind, self.group)).map_err(refused)?;
        }
        step();
        nix::fcntl::renameat2(AT_FDCWD, &path(&self.temporary.0), AT_FDCWD, &path(name), RenameFlags::RENAME_NOREPLACE)
            .map_err(|errno| FileError::refused("name", name, errno))?;
        self.temporary.0.clear();
        Ok((self.words, self.lock))
    }
}

/// Makes the pair of files of a lane and names them, `sq` last: whoever sees `sq` sees both.
pub(crate) fn create_lane(
    instance: &InstanceName,
    geometry: &Geometry,
    instance_nonce: u64,
    group: Option<Group>,
    lane: u32,
    lane_nonce: u64,
) -> Result<LaneFiles, FileError> {
    let draft = |kind, bytes, present| -> Result<Draft, FileError> {
        let draft = Draft::create(instance, bytes, present, kind, group)?;
        Header { kind, nonce: instance_nonce, state: lane_nonce, lanes: geometry.lanes, lane, bytes }
            .store(&draft.words);
        geometry.store(&draft.words);
        Ok(draft)
    };
    let cq = draft(Kind::Cq, geometry.cq_bytes(), present(geometry))?;
    let sq = draft(Kind::Sq, geometry.sq_bytes(), 0)?; // mapped for its header alone
    let (cq_name, sq_name) = (instance.cq(lane, lane_nonce), instance.sq(lane, lane_nonce));
    let poison = Arc::default();
    cq.words.guard(&poison);
    let (cq, _) = cq.publish(&cq_name)?;
    // Mapped for reading before anybody can write to it: from its naming on the producer is its only writer.
    let read = map_beginning_for_reading(&sq.lock, &sq_name, present(geometry))?;
    read.guard(&poison);
    let (_, sq_lock) = sq.publish(&sq_name)?;
    Ok(LaneFiles { sq: read, cq, sq_lock, poison })
}

/// What of a lane's file the sidecar has present: the slots, which every task touches. A page of buffers comes with the
/// first payload in it, at the price of a fault; of thousands of pages that nobody uses, to make them present would take
/// a start tens of milliseconds, and the end of a killed sidecar too, since the kernel frees its locks after its pages.
fn present(geometry: &Geometry) -> usize {
    geometry.buffers() * 8
}

/// The files of one lane as the sidecar holds them.
#[derive(Debug)]
pub(crate) struct LaneFiles {
    pub(crate) sq: ReadWords,
    pub(crate) cq: WriteWords,
    /// For probing and, at a reset, taking the producer's lock; opened writable for that alone.
    pub(crate) sq_lock: LockFile,
    /// The lane's poison word, which a truncated file of it raises (see [`sigbus`](crate::sigbus)).
    pub(crate) poison: Arc<AtomicU32>,
}

/// Opens the files of a lane that the journal names.
pub(crate) fn open_lane(
    instance: &InstanceName,
    geometry: &Geometry,
    instance_nonce: u64,
    lane: u32,
    lane_nonce: u64,
) -> Result<LaneFiles, FileError> {
    let (cq_name, sq_name) = (instance.cq(lane, lane_nonce), instance.sq(lane, lane_nonce));
    let sq_lock = open(&sq_name, OFlag::O_RDWR)?;
    check_own(&sq_name, &sq_lock)?;
    check_own(&cq_name, &open(&cq_name, OFlag::O_RDWR)?)?;
    let poison = Arc::default();
    // Guarded before the first look into either.
    let sq = map_beginning_for_reading(&sq_lock, &sq_name, present(geometry))?;
    sq.guard(&poison);
    let cq = WriteWords::new(WriteMapping::open(&cq_name, geometry.cq_bytes(), present(geometry))?);
    cq.guard(&poison);
    let files = LaneFiles { sq, cq, sq_lock, poison };
    files.prove(instance, geometry, instance_nonce, lane, lane_nonce)?;
    Ok(files)
}

impl LaneFiles {
    /// Checks that both files say they are those of this lane.
    pub(crate) fn prove(
        &self,
        instance: &InstanceName,
        geometry: &Geometry,
        instance_nonce: u64,
        lane: u32,
        lane_nonce: u64,
    ) -> Result<(), FileError> {
        for (words, name, kind, bytes) in [
            (&self.sq as &dyn HeaderWords, instance.sq(lane, lane_nonce), Kind::Sq, geometry.sq_bytes()),
            (&self.cq, instance.cq(lane, lane_nonce), Kind::Cq, geometry.cq_bytes()),
        ] {
            let header = words.header(&name, kind)?;
            if (header.nonce, header.state, header.lane, header.bytes) != (instance_nonce, lane_nonce, lane, bytes) {
                return Err(FileError::Foreign { name, what: "its header names another lane".to_owned() });
            }
        }
        Ok(())
    }
}

/// Reading a header from either kind of mapping.
trait HeaderWords {
    fn header(&self, name: &str, kind: Kind) -> Result<Header, FileError>;
}

impl<W: Words> HeaderWords for W {
    fn header(&self, name: &str, kind: Kind) -> Result<Header, FileError> {
        Header::load(self, name, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{is_still, list, unlink_own};

    #[test]
    fn a_draft_that_is_dropped_leaves_no_file() {
        let instance = InstanceName::new(&format!("draft-{}", std::process::id())).unwrap();
        let draft = Draft::create(&instance, 8192, 8192, Kind::Status, None).unwrap();
        assert_eq!(list(&instance).unwrap().len(), 1);
        drop(draft);
        assert_eq!(list(&instance).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_draft_replaces_nothing_and_is_gone_when_its_name_is_taken() {
        let instance = InstanceName::new(&format!("taken-{}", std::process::id())).unwrap();
        let create = || Draft::create(&instance, 4096, 4096, Kind::Status, None).unwrap();
        let (_words, lock) = create().publish(&instance.status()).unwrap();
        let error = create().publish(&instance.status()).err().unwrap();
        assert!(
            matches!(error, FileError::Refused { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
        );
        assert_eq!(list(&instance).unwrap(), [instance.status()]);
        assert!(is_still(&instance.status(), &lock).unwrap());
        unlink_own(&instance.status(), &lock).unwrap();
        assert_eq!(list(&instance).unwrap(), Vec::<String>::new());
    }
}
