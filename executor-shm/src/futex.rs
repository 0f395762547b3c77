#![allow(unsafe_code, reason = "libc has no safe wrapper for futex on words in shared mappings")]
//! Napping on a word and waking who naps on it, across processes. Waking works through a read-only mapping.
//!
//! Only the control plane naps here; no path of a task does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The low half of a word, where the futex looks: the first four bytes on a little-endian machine.
fn low_half(word: &AtomicU64) -> *const u32 {
    std::ptr::from_ref(word).cast()
}

/// Naps until woken, or until `timeout`, unless the low half of `word` is no longer that of `seen`.
pub(crate) fn nap(word: &AtomicU64, seen: u64, timeout: Duration) {
    if word.load(Relaxed) as u32 != seen as u32 {
        return;
    }
    let timeout = libc::timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    // SAFETY: the word is mapped and aligned while the reference lives; the kernel only reads it and the timespec.
    let _ = unsafe {
        libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAIT, seen as u32, &raw const timeout, 0, 0)
    };
}

/// Wakes everybody who naps on `word`.
pub(crate) fn wake(word: &AtomicU64) {
    // SAFETY: the word is mapped and aligned while the reference lives; the kernel uses its address only.
    let _ = unsafe { libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}
