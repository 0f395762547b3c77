//! Another user than the one that runs the tests. Numbers only: no user needs an entry anywhere.

use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// A user and its groups: as text `UID:GID`, or `UID:GID:GROUP,GROUP…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

impl User {
    /// Makes this process the user's, for good. Only root can.
    ///
    /// # Errors
    ///
    /// The process is not root, or root may not.
    pub fn become_it(&self) -> Result<(), Errno> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(self.gid))?;
        setuid(Uid::from_raw(self.uid))?;
        set_pdeathsig(Signal::SIGKILL) // a change of user undoes it
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        write!(f, "{}:{}:{}", self.uid, self.gid, groups.join(","))
    }
}

impl FromStr for User {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (uid, gid) = (next().parse()?, next().parse()?);
        let groups = next().split(',').filter(|group| !group.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { uid, gid, groups })
    }
}
