//! A `/dev/shm` of this run's own: what broken programs leave behind is gone with it, and harms nobody.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Gives this process, which has one thread, and its children an empty `/dev/shm`, if the kernel lets it.
pub(crate) fn settle() {
    let none: Option<&str> = None;
    let settled = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| mount(Some("none"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some("mode=1777")));
    if let Err(errno) = settled {
        eprintln!("mutants: no /dev/shm of its own ({errno}); what broken programs leave there stays");
    }
}
