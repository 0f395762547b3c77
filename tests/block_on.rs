//! Futures without a runtime: a thread that parks until it is woken.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use crate::FAIL_SAFE;

/// Wakes a thread, and counts.
#[derive(Debug)]
pub struct Unpark {
    thread: Thread,
    count: AtomicU64,
}

impl Unpark {
    /// One for the calling thread.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { thread: std::thread::current(), count: AtomicU64::new(0) })
    }

    /// How often it was woken.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Relaxed);
        self.thread.unpark();
    }
}

/// What a future comes to.
///
/// # Panics
///
/// It stays pending.
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    let (mut future, begun) = (pin!(future), Instant::now());
    let waker = Waker::from(Unpark::new());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(FAIL_SAFE.saturating_sub(begun.elapsed()));
        assert!(begun.elapsed() < FAIL_SAFE, "a future stays pending"); // a look now would hide that nobody woke it
    }
}

/// Polls a future once, for nobody.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
