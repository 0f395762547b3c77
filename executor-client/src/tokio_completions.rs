#![allow(unsafe_code, reason = "tokio has its caller vouch that a descriptor stays open")]
//! Completions of plain tasks for programs on tokio: the event in its reactor.

use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::completion::OwnedCompletion;
use crate::completion_fd::CompletionFd;

/// A [`CompletionFd`] that tokio's reactor waits on, so that its completions come beside sockets and timers and wake no
/// task of another thread. Needs the feature `tokio`, and a runtime with its reactor enabled.
///
/// Without it [`Completions`](crate::Completions) does the same on any runtime: there the library's thread wakes the task
/// itself, which is the shorter way.
#[derive(Debug)]
pub struct TokioCompletions {
    fd: AsyncFd<CompletionFd>,
}

impl TokioCompletions {
    /// Gives a descriptor to the runtime this is called in.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    ///
    /// # Panics
    ///
    /// There is no runtime, or it has no reactor; as [`AsyncFd::new`].
    pub fn new(fd: CompletionFd) -> io::Result<Self> {
        // SAFETY: `CompletionFd::as_raw_fd` is the number of the one eventfd that it shares the ownership of. It is open for
        // as long as the `CompletionFd` lives, which the `AsyncFd` owns, and of which it gives out shared references alone.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd })
    }

    /// Waits until completions may be there: then call [`try_collect`](CompletionFd::try_collect) of
    /// [`get_ref`](Self::get_ref) until it says `None`. It stays ready until [`next`](Self::next) has seen that.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        self.fd.readable().await.map(drop)
    }

    /// The next completion, in order; `None` once none will come any more. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down; or what [`CompletionFd::try_collect`] says, which
    /// [`get_ref`](std::io::Error::get_ref) of the error leads to.
    pub async fn next(&self) -> io::Result<Option<OwnedCompletion>> {
        loop {
            let mut guard = self.fd.readable().await?;
            match self.fd.get_ref().try_collect() {
                Ok(None) if self.fd.get_ref().is_over() => return Ok(None),
                // An event that came after the guard was made is not cleared by it.
                Ok(None) => guard.clear_ready(),
                collected => return collected.map_err(io::Error::other),
            }
        }
    }

    /// The descriptor.
    pub fn get_ref(&self) -> &CompletionFd {
        self.fd.get_ref()
    }
}
