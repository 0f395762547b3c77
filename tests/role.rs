#![allow(unsafe_code, reason = "forks processes that go on in this very program")]
//! Processes that are forked and go on in this program: some 150 can be ended and begun anew every second.
//!
//! Whoever forks must have one thread and must never have used the library's locks: then a child may use all of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, setpgid};

/// Exit code of a role that panicked.
pub const PANICKED: i32 = 101;

/// Forks a child that runs `role`, exits with the code it returns, and dies with its parent. What
/// signals are blocked it inherits: a role that waits for them misses none that comes before it is ready.
///
/// # Errors
///
/// The system gives no process.
pub fn spawn(role: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    let parent = getpid();
    assert_eq!(executor_shm::lock::fork_generation(), 0, "only the first process may fork");
    // SAFETY: the caller has one thread, so no lock of the process is held by a thread that the child lacks.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            // A group of its own: what a terminal sends is for the parent, who ends its children.
            let own = set_pdeathsig(Signal::SIGKILL).and_then(|()| setpgid(Pid::this(), Pid::from_raw(0)));
            // A parent that was gone before the request would never end us.
            let code = if own.is_ok() && getppid() == parent {
                catch_unwind(AssertUnwindSafe(role)).unwrap_or(PANICKED)
            } else {
                PANICKED
            };
            std::process::exit(code)
        }
    }
}
