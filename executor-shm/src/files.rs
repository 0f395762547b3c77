//! The files of an instance: their headers, how they are opened and how they are removed.
//!
//! It believes no name: links and special files are refused, and a mapping made by name is proven by the header's nonce.
//! `status` and `journal` are unlinked only while they are the inodes held; lane files have names with a nonce, which
//! nobody else can hold. Making files is the work of module `draft`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode};

use crate::group::GroupError;
use crate::layout::{ABI_VERSION, Kind, LAYOUT_HASH, MAGIC, header};
use crate::lock::{LockFile, same_inode};
use crate::mapped::{ReadWords, WriteWords};
use crate::mapping::{MapError, ReadMapping, WriteMapping};
use crate::name::PREFIX;
use crate::rehearsal::step;
use crate::words::{Words, WordsMut};

pub use crate::name::{InstanceName, InstanceNameError};

/// Where the files are.
pub const DIRECTORY: &str = "/dev/shm";

/// The instances that have a `status` or a `journal`, by name.
///
/// # Errors
///
/// The directory cannot be read.
pub fn instances() -> std::io::Result<Vec<InstanceName>> {
    instances_in(Path::new(DIRECTORY))
}

/// The same for copies in another folder.
///
/// # Errors
///
/// The folder cannot be read.
pub(crate) fn instances_in(directory: &Path) -> std::io::Result<Vec<InstanceName>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?.file_name();
        let name = entry.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let name = name.and_then(|rest| rest.strip_suffix(".status").or_else(|| rest.strip_suffix(".journal")));
        names.extend(name.and_then(|name| InstanceName::new(name).ok()));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// All file names of an instance, temporary ones included.
pub(crate) fn list(instance: &InstanceName) -> std::io::Result<Vec<String>> {
    step();
    let prefix = instance.prefix();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(DIRECTORY)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(&prefix)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Where a file is by its name; the name of a copy elsewhere is its absolute path, which stays as it is.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// What messages call a file: its name in `/dev/shm`, its absolute path elsewhere.
pub(crate) fn name_in(directory: &Path, name: &str) -> String {
    if directory == Path::new(DIRECTORY) {
        return name.to_owned();
    }
    let path = directory.join(name);
    std::path::absolute(&path).unwrap_or(path).display().to_string()
}

/// Why a file could not be made, opened or believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Make room: remove instances nobody needs, or enlarge the file system.
    #[error(
        "/dev/shm is full: {needed} bytes are needed for {name} and {free} are free; \
         lower --lanes or --capacity, or enlarge it (mount -o remount,size=…, docker run --shm-size=…)"
    )]
    Full {
        /// The file.
        name: String,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The kernel refused.
    #[error("cannot {verb} {}", path(name).display())]
    Refused {
        /// What was tried.
        verb: &'static str,
        /// The file.
        name: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// This process's user is not let in. Run it as one that is, or have the sidecar started with a group.
    #[error("cannot open {}: uid {uid} is not let in, it {}; {cure}", path(name).display(), owned(*owner, *group))]
    Denied {
        /// The file.
        name: String,
        /// Its owner.
        owner: u32,
        /// The group whose members are let in; `None` for none.
        group: Option<u32>,
        /// Who asked.
        uid: u32,
        /// What to do.
        cure: &'static str,
    },
    /// Files cannot be given to the group that is to be let in.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The file could not be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The file is not what its name says.
    #[error("{} is not a file of this executor: {what}", path(name).display())]
    Foreign {
        /// The file.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The name is taken by something that cannot be the executor's. It was not touched. Remove it, or choose another name.
    #[error("{} is not a file of this executor: {what}", path(name).display())]
    Squatted {
        /// The name.
        name: String,
        /// What has it, and what to do.
        what: String,
    },
    /// The two builds cannot talk. Restart the older side, or give the instance up.
    #[error(
        "{} speaks ABI {found} and has {lanes} lanes, this build speaks {expected}; \
         restart the older side, or give what it holds up with: executord clean --discard",
        path(name).display()
    )]
    AbiMismatch {
        /// The file.
        name: String,
        /// Most lanes of its instance.
        lanes: u32,
        /// The file's ABI.
        found: u32,
        /// This build's ABI.
        expected: u32,
    },
}

/// Whose a file is that lets somebody not in.
fn owned(owner: u32, group: Option<u32>) -> String {
    match group {
        Some(group) => format!("belongs to uid {owner} and is open to members of group {group}"),
        None => format!("belongs to uid {owner} alone"),
    }
}

impl FileError {
    pub(crate) fn refused(verb: &'static str, name: &str, errno: Errno) -> Self {
        Self::Refused { verb, name: name.to_owned(), source: errno.into() }
    }

    /// Whether the name is taken by something that cannot be the executor's.
    pub fn is_squatted(&self) -> bool {
        matches!(self, Self::Squatted { .. })
    }

    /// Whether the file is there and holds not what it should: its own fault, not the system's.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::AbiMismatch { .. } | Self::Map(MapError::Size { .. }))
    }

    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { source, .. } | Self::Map(MapError::Refused { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// The facts of a header, checked against nothing yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) nonce: u64,
    pub(crate) state: u64,
    pub(crate) lanes: u32,
    pub(crate) lane: u32,
    pub(crate) bytes: usize,
}

impl Header {
    pub(crate) fn store(&self, words: &impl WordsMut) {
        words.store(header::MAGIC, MAGIC);
        words.store(header::ABI_KIND, u64::from(ABI_VERSION) | (self.kind as u64) << 32);
        words.store(header::NONCE, self.nonce);
        words.store(header::STATE, self.state);
        words.store(header::COUNTS, u64::from(self.lanes) | u64::from(self.lane) << 32);
        words.store(header::LAYOUT, LAYOUT_HASH);
        words.store(header::BYTES, self.bytes as u64);
        words.store(header::CREATED_AT, realtime_ns());
    }

    /// Checks that `words` begin with the header of a `kind` file of this ABI; says what the file says of itself.
    pub(crate) fn load(words: &impl Words, name: &str, kind: Kind) -> Result<Self, FileError> {
        let foreign = |what: &str| FileError::Foreign { name: name.to_owned(), what: what.to_owned() };
        if words.len() < 4096 / 8 || words.load(header::MAGIC) != MAGIC {
            return Err(foreign("it does not begin with the executor's header"));
        }
        let abi_kind = words.load(header::ABI_KIND);
        let abi = abi_kind as u32;
        if abi != ABI_VERSION {
            let (name, lanes) = (name.to_owned(), words.load(header::COUNTS) as u32);
            return Err(FileError::AbiMismatch { name, lanes, found: abi, expected: ABI_VERSION });
        }
        if abi_kind >> 32 != kind as u64 {
            return Err(foreign("its header names another kind of file"));
        }
        if words.load(header::LAYOUT) != LAYOUT_HASH {
            return Err(foreign("it was laid out by a build with other offsets under the same ABI version"));
        }
        let counts = words.load(header::COUNTS);
        let bytes = words.load(header::BYTES) as usize;
        if bytes.div_ceil(8) > words.len() {
            return Err(foreign("it is shorter than its header says"));
        }
        Ok(Self {
            kind,
            nonce: words.load(header::NONCE),
            state: words.load(header::STATE),
            lanes: counts as u32,
            lane: (counts >> 32) as u32,
            bytes,
        })
    }
}

pub(crate) fn realtime_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A random number that is not 0.
pub(crate) fn random() -> u64 {
    loop {
        // A kernel that gives no randomness at all is one that this program cannot run on.
        let nonce = getrandom::u64().unwrap_or_else(|_| realtime_ns().rotate_left(17) ^ u64::from(std::process::id()));
        if nonce != 0 {
            return nonce;
        }
    }
}

/// Bytes that `/dev/shm` has room for; 0 if nobody can say.
pub(crate) fn free_bytes() -> u64 {
    nix::sys::statvfs::statvfs(DIRECTORY).map_or(0, |fs| fs.blocks_available() * fs.fragment_size())
}

/// Opens an existing file of an instance without following links. What is no plain file is not even opened: a pipe or a
/// device would notice.
pub(crate) fn open(name: &str, access: OFlag) -> Result<LockFile, FileError> {
    let missing = || FileError::refused("open", name, Errno::ENOENT);
    let found = stat(name)?.ok_or_else(missing)?;
    check_plain(name, &found)?;
    let flags = access | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = LockFile::open(|| nix::fcntl::open(&path(name), flags, Mode::empty()));
    let file = file.map_err(|errno| match errno {
        Errno::EACCES => denied(name, &found, access),
        errno => FileError::refused("open", name, errno),
    })?;
    // Once more: the name may have changed hands between the two.
    check_plain(name, &file.stat().map_err(|errno| FileError::refused("look at", name, errno))?)?;
    Ok(file)
}

/// Refuses what is no regular file with a single name, and says what it is.
fn check_plain(name: &str, stat: &FileStat) -> Result<(), FileError> {
    let what = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG if stat.st_nlink <= 1 => return Ok(()),
        libc::S_IFREG => {
            "it has a second name, a hard link; remove that one (find /dev/shm -samefile tells it) or this"
        }
        libc::S_IFLNK => "it is a symbolic link; remove it or choose another name",
        libc::S_IFDIR => "it is a directory; remove it or choose another name",
        libc::S_IFIFO => "it is a pipe; remove it or choose another name",
        libc::S_IFSOCK => "it is a socket; remove it or choose another name",
        _ => "it is a device; remove it or choose another name",
    };
    Err(FileError::Squatted { name: name.to_owned(), what: what.to_owned() })
}

/// Refuses a file that does not belong to this process's user: it is not ours to serve, whatever our privileges.
pub(crate) fn check_own(name: &str, file: &LockFile) -> Result<(), FileError> {
    let (owner, me) = (owner_of(name, file)?, nix::unistd::geteuid().as_raw());
    let what = || format!("it belongs to uid {owner}, this process runs as uid {me}; run it as that user");
    if owner == me { Ok(()) } else { Err(FileError::Squatted { name: name.to_owned(), what: what() }) }
}

/// Whose an open file is.
pub(crate) fn owner_of(name: &str, file: &LockFile) -> Result<u32, FileError> {
    Ok(file.stat().map_err(|errno| FileError::refused("look at", name, errno))?.st_uid)
}

/// Whether there is such a name and it belongs to this process's user.
pub(crate) fn is_own(name: &str) -> Result<bool, FileError> {
    Ok(stat(name)?.is_some_and(|stat| is_ours(&stat)))
}

fn is_ours(stat: &FileStat) -> bool {
    stat.st_uid == nix::unistd::geteuid().as_raw()
}

fn denied(name: &str, stat: &FileStat, access: OFlag) -> FileError {
    let lets_in = if access == OFlag::O_RDONLY { libc::S_IRGRP } else { libc::S_IWGRP };
    let group = Some(stat.st_gid).filter(|_| stat.st_mode & lets_in != 0);
    let cure = match (access == OFlag::O_RDONLY, group) {
        (_, Some(_)) => "run as that user, or as a member of that group",
        (true, None) => "run as that user, or start its sidecar with --group",
        (false, None) => "run as that user",
    };
    let uid = nix::unistd::geteuid().as_raw();
    FileError::Denied { name: name.to_owned(), owner: stat.st_uid, group, uid, cure }
}

/// The metadata of a name, links not followed; `None` if there is no such name.
pub(crate) fn stat(name: &str) -> Result<Option<FileStat>, FileError> {
    step();
    match nix::sys::stat::lstat(&path(name)) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(FileError::refused("look at", name, errno)),
    }
}

/// Whether `name` is still the inode that `file` has open.
pub(crate) fn is_still(name: &str, file: &LockFile) -> Result<bool, FileError> {
    let held = file.stat().map_err(|errno| FileError::refused("look at", name, errno))?;
    Ok(stat(name)?.is_some_and(|named| same_inode(&named, &held)))
}

/// Removes `name` if it is the inode that `file` has open.
pub(crate) fn unlink_own(name: &str, file: &LockFile) -> Result<(), FileError> {
    if is_still(name, file)? { unlink(name) } else { Ok(()) }
}

/// Removes `name`; a missing one is fine, and one that belongs to another user stays: it is none of ours.
pub(crate) fn unlink(name: &str) -> Result<(), FileError> {
    if !step() || !is_own(name)? {
        return Ok(());
    }
    match nix::unistd::unlink(&path(name)) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(FileError::refused("remove", name, errno)),
    }
}

/// Removes a file that an earlier life left. Another user's stays; what is no plain file is refused.
pub(crate) fn unlink_leftover(name: &str) -> Result<(), FileError> {
    match stat(name)? {
        Some(found) if is_ours(&found) => check_plain(name, &found).and_then(|()| unlink(name)),
        _ => Ok(()),
    }
}

/// Maps a file that this process will write, by its name.
pub(crate) fn map_for_writing(name: &str, bytes: usize, kind: Kind, nonce: u64) -> Result<WriteWords, FileError> {
    let words = WriteWords::new(WriteMapping::open(name, bytes, bytes)?);
    prove(&words, name, kind, nonce)?;
    Ok(words)
}

/// Maps the file that `file` has open, for reading only.
pub(crate) fn map_for_reading(file: &LockFile, name: &str) -> Result<ReadWords, FileError> {
    map_beginning_for_reading(file, name, usize::MAX)
}

/// The same with only the pages of the first `present` bytes present.
pub(crate) fn map_beginning_for_reading(file: &LockFile, name: &str, present: usize) -> Result<ReadWords, FileError> {
    let source = |source| FileError::Refused { verb: "open", name: name.to_owned(), source };
    let file = file.reopen_for_reading().map_err(source)?;
    let bytes = file.metadata().map_err(source)?.len() as usize;
    Ok(ReadWords::new(ReadMapping::open(&file, name, bytes, present)?))
}

/// Maps the file that `file` has open and its name leads to, for writing. Mapping for writing goes by name, so the inode
/// is proven by the nonce that the description reads.
pub(crate) fn map_held_for_writing(file: &LockFile, name: &str, kind: Kind) -> Result<(WriteWords, Header), FileError> {
    let view = map_for_reading(file, name)?;
    let head = Header::load(&view, name, kind)?;
    Ok((map_for_writing(name, view.len() * 8, kind, head.nonce)?, head))
}

/// Checks header, kind and nonce of a mapped file.
pub(crate) fn prove(words: &impl Words, name: &str, kind: Kind, nonce: u64) -> Result<Header, FileError> {
    let header = Header::load(words, name, kind)?;
    if header.nonce != nonce {
        return Err(FileError::Foreign { name: name.to_owned(), what: "it belongs to another instance".to_owned() });
    }
    Ok(header)
}

/// Maps a file for reading, for tools that only look; it may be a copy. Nothing but a regular file is mapped.
pub(crate) fn map_path(path: &Path) -> Result<ReadWords, FileError> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let name = name_in(directory, &path.file_name().unwrap_or_default().to_string_lossy());
    let source = |source| FileError::Refused { verb: "open", name: name.clone(), source };
    // A pipe of this name must not keep anybody waiting.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(source)?;
    let facts = file.metadata().map_err(source)?;
    if !facts.is_file() {
        return Err(FileError::Foreign { name, what: "it is no regular file".to_owned() });
    }
    if facts.len() == 0 {
        return Err(FileError::Foreign { name, what: "it is empty".to_owned() });
    }
    let bytes = facts.len() as usize;
    Ok(ReadWords::new(ReadMapping::open(&file, &name, bytes, bytes)?))
}
