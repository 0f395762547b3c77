#![allow(unsafe_code, reason = "libc has no safe wrapper for the scheduling attributes of a thread")]
//! Short time slices for threads that have little to do and for whom others wait.
//!
//! The scheduler lets a thread that wakes wait for the end of the slice of whoever runs on its CPU, some milliseconds, unless
//! its own slice is the shorter one. Threads that wait for signals, for locks and for producers wake seldom and work for
//! microseconds, on machines whose other threads spin: a take-over would spend most of its time in such waits, on both sides,
//! because a process that was killed keeps its locks until each of its threads has run once more.
//!
//! A slice is no privilege: it changes when a thread runs, not how much. Kernels before 6.12 take no notice.

use std::thread::{self, ThreadId};
use std::time::Duration;

/// The shortest that the kernel grants.
const SHORT: Duration = Duration::from_micros(100);

/// This thread has a short slice, and its own one back when this is dropped, unless another thread drops it. Threads that it
/// starts meanwhile inherit it.
#[derive(Debug)]
pub(crate) struct ShortSlice {
    thread: ThreadId,
    /// In nanoseconds; `None` if there is nothing to give back.
    before: Option<u64>,
}

impl ShortSlice {
    /// Asks for it. A kernel that knows no slices, a real-time thread and a filter of system calls leave all as it was.
    pub(crate) fn take() -> Self {
        let before = get().filter(is_fair).and_then(|attributes| {
            let short = libc::sched_attr { sched_runtime: SHORT.as_nanos() as u64, ..attributes };
            set(&short).then_some(attributes.sched_runtime)
        });
        Self { thread: thread::current().id(), before }
    }

    /// Whether it was taken by the thread that asks.
    pub(crate) fn is_of_this_thread(&self) -> bool {
        self.thread == thread::current().id()
    }
}

impl Drop for ShortSlice {
    fn drop(&mut self) {
        // Asked anew: its nice value may be another by now.
        if let Some(before) = self.before.filter(|_| self.is_of_this_thread())
            && let Some(attributes) = get().filter(is_fair)
        {
            set(&libc::sched_attr { sched_runtime: before, ..attributes });
        }
    }
}

fn is_fair(attributes: &libc::sched_attr) -> bool {
    [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&(attributes.sched_policy as i32))
}

fn get() -> Option<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel fills in at most as many bytes as the size that is named, which are those of the structure.
    let got = unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size_of::<libc::sched_attr>() as u32, 0)
    };
    (got == 0).then_some(attributes)
}

/// Says whether the kernel took it.
fn set(attributes: &libc::sched_attr) -> bool {
    // SAFETY: the kernel reads the structure, by the size in it, which `get` had from the kernel.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This thread's slice; `None` where the kernel has no such thing.
    fn slice() -> Option<u64> {
        get().map(|attributes| attributes.sched_runtime).filter(|&slice| slice != 0)
    }

    #[test]
    fn a_short_slice_lasts_as_long_as_it_is_held_and_leaves_the_nice_value_alone() {
        let Some(before) = slice() else { return println!("skipped: the kernel tells no slice") };
        let nice = get().map(|attributes| attributes.sched_nice);
        let short = ShortSlice::take();
        assert_eq!(slice(), Some(SHORT.as_nanos() as u64));
        assert_eq!(get().map(|attributes| attributes.sched_nice), nice);
        drop(short);
        assert_eq!(slice(), Some(before));
    }

    #[test]
    fn a_short_slice_that_another_thread_drops_changes_nothing_there() {
        let Some(before) = slice() else { return println!("skipped: the kernel tells no slice") };
        std::thread::spawn(move || {
            let short = ShortSlice::take();
            let dropped = std::thread::spawn(move || {
                let other = ShortSlice::take();
                let during = slice();
                drop(short);
                assert_eq!(slice(), during);
                drop(other);
            });
            dropped.join().unwrap();
            assert_eq!(slice(), Some(SHORT.as_nanos() as u64));
        })
        .join()
        .unwrap();
        assert_eq!(slice(), Some(before));
    }
}
