#![allow(unsafe_code, reason = "forks: an exec for each of some thousand children would take most of the time")]
//! Children of the tracer: forked, so that each has the program, the effects page and the plan of its parent.
//!
//! The tracer has one thread and takes no lock of an instance, so a child may do whatever a fresh process may. A child
//! says what it found through a pipe and ends with its closure; it does not outlive the tracer.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};

/// A forked child and the pipes to it. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// What the child says.
    from: File,
    /// What the child is told.
    to: File,
    reaped: bool,
}

/// The child's ends of its pipes.
#[derive(Debug)]
pub(crate) struct Line {
    from: File,
    to: File,
}

impl Line {
    /// Says `text`, which holds no zero byte.
    pub(crate) fn say(&mut self, text: &str) {
        self.to.write_all(text.as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
    }

    /// Waits for the parent's word.
    pub(crate) fn wait(&mut self) {
        self.from.read_exact(&mut [0]).unwrap();
    }
}

impl Child {
    /// Forks a child that runs `body`. It begins at once.
    pub(crate) fn fork(body: impl FnOnce(&mut Line)) -> Self {
        let (child_reads, parent_writes) = pipe().unwrap();
        let (parent_reads, child_writes) = pipe().unwrap();
        // SAFETY: the tracer has one thread (`main` sees to that before it forks for the first time), so no lock of
        // another thread is held in the child for ever and the child may allocate, start threads and exit as it likes.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => {
                Self { pid: child, from: parent_reads.into(), to: parent_writes.into(), reaped: false }
            }
            ForkResult::Child => {
                drop((parent_reads, parent_writes));
                set_pdeathsig(Signal::SIGKILL).unwrap();
                let mut line = Line { from: child_reads.into(), to: child_writes.into() };
                let code = match catch_unwind(AssertUnwindSafe(|| body(&mut line))) {
                    Ok(()) => 0,
                    Err(_) => 101,
                };
                std::process::exit(code);
            }
        }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Gives it its word.
    pub(crate) fn tell(&mut self) {
        self.to.write_all(&[1]).unwrap();
    }

    /// The next thing it says; `None` if it ended, or said nothing for `patience`.
    pub(crate) fn hear(&mut self, patience: Duration) -> Option<String> {
        let until = Instant::now() + patience;
        let mut text = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => panic!("poll: {errno}"),
            }
            let mut byte = [0];
            match self.from.read(&mut byte).unwrap() {
                0 => return None,
                _ if byte[0] == 0 => return Some(String::from_utf8_lossy(&text).into_owned()),
                _ => text.push(byte[0]),
            }
        }
    }

    /// Kills it; somebody else waits for its end.
    pub(crate) fn signal_kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// Kills it and reaps it.
    pub(crate) fn kill(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            self.reap();
        }
    }

    /// Waits for its end.
    pub(crate) fn reap(&mut self) {
        if !self.reaped {
            self.reaped = true;
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
        }
    }

    /// Somebody else waited for its end.
    pub(crate) fn was_reaped(&mut self) {
        self.reaped = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
