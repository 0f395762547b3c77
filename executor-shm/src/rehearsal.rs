//! The steps of a process: what it does that another process can see, where it waits, and so the moments at which others
//! may act or it may be killed.
//!
//! In the product a step is nothing and the rest is the standard library's. Under `--cfg shuttle`, for the model in
//! `tests/shuttle.rs`, the same code runs as threads of one test, over real files and real locks: each step asks the
//! [`stage`] who goes on, and whether this process dies here. A dead process does nothing more.

#[cfg(shuttle)]
pub mod stage;

#[cfg(not(shuttle))]
pub(crate) use ordinary::{Instant, JoinHandle, close, last_step, pause, receive, sleep, spawn, step};
#[cfg(shuttle)]
pub(crate) use stage::{Instant, JoinHandle, close, last_step, pause, receive, sleep, spawn, step};

#[cfg(not(shuttle))]
mod ordinary {
    pub(crate) use std::mem::drop as close;
    use std::sync::mpsc::{Receiver, RecvError};
    pub(crate) use std::thread::{JoinHandle, sleep, yield_now as pause};
    pub(crate) use std::time::Instant;

    /// Something that others can see is about to happen. `false`: this process is dead, and it must not.
    #[inline(always)]
    pub(crate) const fn step() -> bool {
        true
    }

    /// The same in a destructor.
    #[inline(always)]
    pub(crate) const fn last_step() -> bool {
        true
    }

    /// A thread of this process.
    pub(crate) fn spawn<T: Send + 'static>(
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<JoinHandle<T>> {
        std::thread::Builder::new().name(name.to_owned()).spawn(body)
    }

    /// Waits for what another thread of this process sends.
    pub(crate) fn receive<T>(from: &Receiver<T>) -> Result<T, RecvError> {
        from.recv()
    }
}
