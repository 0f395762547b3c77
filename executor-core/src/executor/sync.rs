//! The one door to what a model replaces: atomics, and the kernel's part in sleeping.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, compiler_fence, fence},
};

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
    },
};

use std::time::Duration;

/// fence: a model's compiler reorders nothing.
#[cfg(loom)]
pub(crate) fn compiler_fence(_: std::sync::atomic::Ordering) {}

/// The standard library's cell, with the closure that loom's wants.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}

/// Sleeps while `word` is `value`, for `time` at most; says whether that was over. It may end for no reason.
#[cfg(not(loom))]
pub(crate) fn nap(word: &AtomicU32, value: u32, time: Option<Duration>) -> bool {
    use rustix::thread::futex::{Flags, Timespec, wait};

    let time = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    wait(word, Flags::PRIVATE, value, time.as_ref()) == Err(rustix::io::Errno::TIMEDOUT)
}

/// Ends the naps of everybody on `word`.
#[cfg(not(loom))]
pub(crate) fn rouse(word: &AtomicU32) {
    use rustix::thread::futex::{Flags, wake};

    let _ = wake(word, Flags::PRIVATE, i32::MAX as u32); // fails for no address of ours
}

/// A model's naps end by being roused and not in time, so that a wake-up that is lost is a thread that never ends.
#[cfg(loom)]
pub(crate) fn nap(word: &AtomicU32, value: u32, _: Option<Duration>) -> bool {
    while word.load(std::sync::atomic::Ordering::Relaxed) == value {
        loom::thread::yield_now();
    }
    false
}

#[cfg(loom)]
pub(crate) fn rouse(_: &AtomicU32) {}

/// Whether the kernel lends its barrier to this process.
#[cfg(not(loom))]
pub(crate) fn is_lent() -> bool {
    use rustix::thread::{MembarrierCommand, membarrier};

    static LENT: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *LENT.get_or_init(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() && barrier())
}

/// Has the kernel put a barrier into every thread of this process; `false` if it refuses.
#[cfg(not(loom))]
pub(crate) fn barrier() -> bool {
    use rustix::thread::{MembarrierCommand, membarrier};

    membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

/// A model has no kernel: both sides use fences of their own.
#[cfg(loom)]
pub(crate) fn is_lent() -> bool {
    false
}

#[cfg(loom)]
pub(crate) fn barrier() -> bool {
    true
}
