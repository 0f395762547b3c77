//! Removing an instance that nobody serves: what a crashed or forgotten sidecar left behind.
//!
//! It becomes master first, so nothing that lives is touched. An instance with an attached producer or an unanswered
//! task stays, unless it is to be discarded: then its producers are told before its files go.

use nix::fcntl::OFlag;

use crate::draft;
use crate::files::{self, FileError, InstanceName};
use crate::layout::{Kind, header};
use crate::lock::LockFile;
use crate::mapped::WriteWords;
use crate::mapping::WriteMapping;
use crate::master::{Master, MasterError};
use crate::mutant::Mutant;
use crate::recovery;
use crate::state::{InstanceState, LaneState};
use crate::wanted::Wanted;
use crate::words::{Words, WordsMut};

/// What a clean may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Give up accepted tasks and attached producers, and files of another ABI.
    pub discard: bool,
}

/// What a clean found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The instance.
    pub instance: InstanceName,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Lanes with an owner.
    pub attached: u32,
    /// Lanes with tasks that are accepted and not answered.
    pub unanswered: u32,
    /// Whether the files are gone; in a dry run, whether they would be.
    pub removed: bool,
}

/// Cleans one instance. No files at all is no error: zero of them are removed.
///
/// # Errors
///
/// [`MasterError::AlreadyRunning`] for an instance that is served; everything else that [`MasterError`] names.
pub fn clean(instance: &InstanceName, options: CleanOptions) -> Result<Cleaned, MasterError> {
    let io = |source| FileError::Refused { verb: "list", name: String::new(), source };
    let names = files::list(instance).map_err(io)?;
    let mut cleaned = Cleaned {
        instance: instance.clone(),
        files: 0,
        bytes: 0,
        attached: 0,
        unanswered: 0,
        removed: !names.is_empty(),
    };
    for name in &names {
        if files::is_own(name)? {
            cleaned.files += 1;
            cleaned.bytes += files::stat(name)?.map_or(0, |stat| stat.st_blocks as u64 * 512);
        }
    }
    if names.is_empty() {
        return Ok(cleaned);
    }
    if options.dry_run && !has_settled_journal(instance) {
        return Ok(cleaned); // becoming master would already remove them
    }
    // Without a journal, or with one that is still new, becoming master removes what is not in use.
    let master = match Master::acquire(instance, &Wanted::default(), None) {
        Ok(master) => master,
        Err(MasterError::File(FileError::AbiMismatch { .. })) if options.discard => {
            if !options.dry_run {
                discard_foreign(instance, &names)?;
            }
            return Ok(cleaned);
        }
        Err(error) => return Err(error),
    };
    if master.is_new() {
        return Ok(cleaned); // dropping it removes what it made to become master
    }
    let mut locks = Vec::new();
    for lane in 0..master.geometry.lanes {
        let word = master.lane_word(lane);
        if word.state() == Some(LaneState::Absent) {
            continue;
        }
        let lock = match files::open(&instance.sq(lane, word.nonce()), OFlag::O_RDWR) {
            Ok(lock) => lock,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        if lock.try_lock().is_err() {
            cleaned.attached += 1;
        }
        locks.push(lock);
        let files = match draft::open_lane(instance, &master.geometry, master.nonce, lane, word.nonce()) {
            Ok(files) => files,
            Err(error) if error.is_missing() || error.is_damage() => continue, // a start would answer nothing either
            Err(error) => return Err(error.into()),
        };
        let at = master.geometry.journal_lane(lane);
        let open = recovery::is_unanswered(&master.journal, at, &files.sq, Some(&files.cq), &master.geometry);
        cleaned.unanswered += u32::from(open && !Mutant::CleanIgnoresTasks.is_on());
    }
    cleaned.removed = options.discard || (cleaned.attached == 0 && cleaned.unanswered == 0);
    if cleaned.removed && !options.dry_run {
        master.sweep()?; // drafts of a creator that was killed have no name in the journal
        if options.discard {
            // Producers look at these words when they find nobody alive; the next start finishes what is left undone.
            master.set_state(InstanceState::Discarded);
        }
        master.retire()?;
    }
    Ok(cleaned)
}

/// Whether there is a journal that ever belonged to a running instance.
fn has_settled_journal(instance: &InstanceName) -> bool {
    let journal = files::map_path(&files::path(&instance.journal()));
    journal
        .is_ok_and(|journal| journal.len() > header::STATE && journal.load(header::STATE) != InstanceState::New as u64)
}

/// Gives up files of another ABI. Only their first line is known: it never moves.
fn discard_foreign(instance: &InstanceName, names: &[String]) -> Result<(), MasterError> {
    let mut locks: Vec<LockFile> = Vec::new();
    for (name, kind) in [(instance.journal(), Kind::Journal), (instance.status(), Kind::Status)] {
        let lock = match files::open(&name, OFlag::O_RDWR) {
            Ok(lock) => lock,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        files::check_own(&name, &lock)?;
        if lock.try_lock().is_err() {
            return Err(MasterError::AlreadyRunning { instance: instance.clone() });
        }
        let view = files::map_for_reading(&lock, &name)?;
        if view.load(header::ABI_KIND) >> 32 == kind as u64 {
            let bytes = view.len() * 8;
            let words = WriteWords::new(WriteMapping::open(&name, bytes, bytes).map_err(FileError::from)?);
            words.commit(header::STATE, InstanceState::Discarded as u64);
        }
        locks.push(lock);
    }
    let journal = instance.journal();
    for name in names.iter().filter(|name| **name != journal) {
        files::unlink(name)?;
    }
    files::unlink(&journal)?;
    Ok(())
}
