//! The group whose members may attach to an instance besides its owner, and what they may do with each file.

use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Group as Entry, fchown, geteuid};

use crate::files::DIRECTORY;
use crate::layout::Kind;

/// A group by its number; as text, by its name or its number. A number needs no entry in the group database.
///
/// ```
/// use executor_shm::Group;
///
/// assert_eq!("0".parse(), Ok(Group::from_gid(0).unwrap()));
/// assert!("no such group".parse::<Group>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    gid: u32,
}

/// Why a group cannot be given access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Make it, or name one that there is.
    #[error("there is no group {name:?}; make it with: groupadd --system {name}, or name another, or a number")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The process is neither root nor a member. Make its user one, or name a group of its own.
    #[error(
        "uid {uid} may not give files to group {gid}, of which it is no member; make its user a member and log in again, \
         or name a group of its own (id -G lists them)"
    )]
    NotMember {
        /// The group.
        gid: u32,
        /// Who is no member.
        uid: u32,
    },
    /// The group does not exist in this user namespace. Map it, or name one that is mapped.
    #[error("group {gid} is not mapped in this user namespace; map it, or name one of those in /proc/self/gid_map")]
    Unmapped {
        /// The group.
        gid: u32,
    },
    /// The kernel refused for another reason.
    #[error("cannot give a file in {DIRECTORY} to group {gid}: {}", errno.desc())]
    Refused {
        /// The group.
        gid: u32,
        /// The kernel's reason.
        errno: Errno,
    },
}

impl Group {
    /// The group with this number; `None` for the one number that means "no group" to the kernel.
    pub const fn from_gid(gid: u32) -> Option<Self> {
        if gid == u32::MAX { None } else { Some(Self { gid }) }
    }

    /// Its number.
    pub const fn gid(self) -> u32 {
        self.gid
    }

    /// As a file holds it: the number + 1, so that 0 can stand for "no group".
    pub(crate) fn word(group: Option<Self>) -> u64 {
        group.map_or(0, |group| u64::from(group.gid) + 1)
    }

    /// The group for a word of a file; the error is a word that stands for none.
    pub(crate) fn from_word(word: u64) -> Result<Option<Self>, ()> {
        let Some(gid) = word.checked_sub(1) else { return Ok(None) };
        u32::try_from(gid).ok().and_then(Self::from_gid).map(Some).ok_or(())
    }

    /// Asks the kernel whether this process may give files to the group, with a file that never has a name.
    pub(crate) fn probe(self) -> Result<(), GroupError> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        // A file system that has no nameless files, or no room at all: the first file made will tell.
        let Ok(file) = nix::fcntl::open(DIRECTORY, flags, Mode::S_IRUSR) else { return Ok(()) };
        fchown(&file, None, Some(Gid::from_raw(self.gid))).map_err(|errno| self.refused(errno))
    }

    pub(crate) fn refused(self, errno: Errno) -> GroupError {
        match errno {
            Errno::EPERM => GroupError::NotMember { gid: self.gid, uid: geteuid().as_raw() },
            Errno::EINVAL => GroupError::Unmapped { gid: self.gid },
            errno => GroupError::Refused { gid: self.gid, errno },
        }
    }
}

/// What the owner, and the members of a group that may attach, can do with a file of this kind. The least that serves a
/// producer: it reads `status` and its `cq`, and it writes its `sq` and takes the write lock on it.
pub(crate) const fn mode_of(kind: Kind, group: Option<Group>) -> Mode {
    let owner = Mode::S_IRUSR.union(Mode::S_IWUSR);
    match (kind, group) {
        (_, None) | (Kind::Journal, _) => owner,
        (Kind::Status | Kind::Cq, Some(_)) => owner.union(Mode::S_IRGRP),
        (Kind::Sq, Some(_)) => owner.union(Mode::S_IRGRP).union(Mode::S_IWGRP),
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.gid)
    }
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let unknown = || GroupError::Unknown { name: text.to_owned() };
        // A name may consist of digits, so names come first.
        if let Ok(Some(entry)) = Entry::from_name(text) {
            return Self::from_gid(entry.gid.as_raw()).ok_or_else(unknown);
        }
        text.parse().ok().and_then(Self::from_gid).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_name_and_by_its_number() {
        let own = Gid::effective();
        let group = own.to_string().parse::<Group>().unwrap();
        assert_eq!(group.gid(), own.as_raw());
        if let Ok(Some(entry)) = Entry::from_gid(own) {
            assert_eq!(entry.name.parse(), Ok(group));
        }
        for text in ["", "-1", "4294967295", "4294967296", "no such group", "a\0b"] {
            assert_eq!(text.parse::<Group>(), Err(GroupError::Unknown { name: text.to_owned() }));
        }
        assert_eq!("4294967294".parse::<Group>().unwrap().gid(), u32::MAX - 1, "a number needs no entry");
    }

    #[test]
    fn a_group_survives_its_word_and_no_other_word_is_one() {
        for group in [None, Group::from_gid(0), Group::from_gid(990), Group::from_gid(u32::MAX - 1)] {
            assert_eq!(Group::from_word(Group::word(group)), Ok(group));
        }
        for word in [u64::from(u32::MAX) + 1, u64::from(u32::MAX) + 2, u64::MAX] {
            assert_eq!(Group::from_word(word), Err(()), "{word:#x}");
        }
    }

    #[test]
    fn a_process_may_give_files_to_its_own_group_and_only_root_to_others() {
        Group::from_gid(Gid::effective().as_raw()).unwrap().probe().unwrap();
        let uid = geteuid().as_raw();
        if uid != 0 {
            let foreign = Group::from_gid(u32::MAX - 1).unwrap();
            assert_eq!(foreign.probe(), Err(GroupError::NotMember { gid: u32::MAX - 1, uid }));
        }
    }

    #[test]
    fn nobody_is_let_in_further_than_a_producer_needs() {
        let group = Group::from_gid(7);
        let modes = |group| [Kind::Status, Kind::Journal, Kind::Sq, Kind::Cq].map(|kind| mode_of(kind, group).bits());
        assert_eq!(modes(None), [0o600; 4]);
        assert_eq!(modes(group), [0o640, 0o600, 0o660, 0o640]);
    }
}
