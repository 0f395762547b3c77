//! Completions of plain tasks for whoever waits on descriptors: an eventfd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::client::CollectError;
use crate::completion::OwnedCompletion;
use crate::shared_lane::{Inner, NoWatcher, SharedLane};
use crate::wait::WaitError;

/// A descriptor, for `poll`, `epoll` and `io_uring`, that is readable while completions of plain tasks are there. Made by
/// [`AsyncClient::completion_fd`](crate::AsyncClient::completion_fd); an eventfd, not blocking and closed by an exec.
///
/// There is one rule: **once it was readable, call [`try_collect`](Self::try_collect) until it says `None`**, and only then
/// wait again. Whoever says `None` has cleared the descriptor, under the lock of the lane and after its look, so that no
/// completion can come in between unseen. So nobody has to read the descriptor.
///
/// - Level-triggered (`poll`, `epoll`): whoever stops before `None` is told again at once.
/// - Edge-triggered (`EPOLLET`): each time completions come there is an edge, also if it was readable already.
/// - `io_uring`, or anybody else who reads the 8 bytes: what is read says nothing, and clears it, so collect until `None`.
/// - It is readable as well, without a completion, when the lane can answer no more, which `try_collect` then says; and it
///   may be so at first.
///
/// All clones of a client and all descriptors made by them share one event. The library's thread raises it, at the price of
/// a system call for each time it finds that completions have come.
#[derive(Debug)]
pub struct CompletionFd {
    lane: Arc<SharedLane>,
    event: Arc<EventFd>,
}

impl CompletionFd {
    pub(crate) fn new(lane: &Arc<SharedLane>) -> std::io::Result<Self> {
        let make = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let event = lane.with(|inner, _| inner.event(make));
        let event = event.ok_or_else(|| std::io::Error::other(CollectError::Forked))??;
        lane.watch().map_err(|NoWatcher(errno)| Errno::from_raw(errno))?;
        Ok(Self { lane: Arc::clone(lane), event })
    }

    /// The next completion of a plain task, in order. `None`: none is there, and the descriptor will be readable again
    /// when one is.
    ///
    /// # Errors
    ///
    /// As [`Completions`](crate::Completions); no completion will come any more.
    pub fn try_collect(&self) -> Result<Option<OwnedCompletion>, WaitError> {
        self.lane.with(Inner::collect).ok_or(CollectError::Forked)?
    }

    /// Whether no completion will come any more, though nothing is wrong with those that came: the lane takes no tasks.
    pub fn is_over(&self) -> bool {
        self.lane.with(|inner, _| inner.is_over()).unwrap_or(true)
    }
}

impl AsFd for CompletionFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl AsRawFd for CompletionFd {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}
