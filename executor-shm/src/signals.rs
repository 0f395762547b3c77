//! SIGTERM and SIGINT as something to wait for, by a thread that chose to.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::rehearsal;

/// SIGTERM and SIGINT, blocked in the thread that made this and in all threads it starts afterwards, so make it before
/// anything else starts a thread. Dropping it does not unblock them.
#[derive(Debug)]
pub struct StopSignals {
    fd: SignalFd,
}

impl StopSignals {
    /// Blocks both signals in the calling thread and keeps a descriptor that tells of them.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub fn block() -> std::io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd })
    }
}

/// Waits until one of `signals` came, `other` is readable or `until` has come; a signal is told first.
pub(crate) fn wait(
    signals: Option<&StopSignals>,
    other: BorrowedFd<'_>,
    until: Option<Instant>,
) -> std::io::Result<Waited> {
    loop {
        if let Some(signals) = signals
            && signals.fd.read_signal()?.is_some()
        {
            return Ok(Waited::Signal);
        }
        let timeout = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            _ if cfg!(shuttle) => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(left) if left.is_zero() => return Ok(Waited::Timeout),
            // Rounded up: a wait of less than a millisecond is not to be a busy loop.
            Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
        };
        let other = PollFd::new(other, PollFlags::POLLIN);
        let mut fds = [other.clone(), other];
        let fds = match signals {
            None => &mut fds[..1],
            Some(signals) => {
                fds[1] = PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN);
                &mut fds[..]
            }
        };
        match poll(fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        if is_ready(&fds[0]) && !fds[1..].iter().any(is_ready) {
            return Ok(Waited::Other);
        }
        if cfg!(shuttle) {
            rehearsal::pause();
            return Ok(Waited::Timeout);
        }
    }
}

/// What a wait for signals ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// One of the signals.
    Signal,
    /// The other descriptor is readable.
    Other,
    /// The time has come.
    Timeout,
}

/// Blocks in the calling thread what is sent to the process: worker and housekeeping threads leave that to the threads of
/// the program. Not what a thread does to itself: the kernel ends a process whose fault finds its signal blocked, whatever
/// handler there is.
pub(crate) fn block_sent() {
    let mut set = SigSet::all();
    for own in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
        Signal::SIGTRAP,
        Signal::SIGSYS,
    ] {
        set.remove(own);
    }
    let _ = set.thread_block();
}
