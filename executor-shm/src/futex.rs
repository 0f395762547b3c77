#![allow(unsafe_code, reason = "libc has no safe wrapper for futex on words in shared mappings")]
//! Napping on a word and waking who naps on it, across processes. Waking works through a read-only mapping.
//!
//! Only the control plane naps here; no path of a task does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The low half of a word, where the futex looks: the first four bytes on a little-endian machine.
fn low_half(word: &AtomicU64) -> *const u32 {
    std::ptr::from_ref(word).cast()
}

/// Who naps on a word that several do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Who {
    /// The sidecar's housekeeping.
    Keeper = 1,
    /// Producers that wait for a lane.
    Producers = 2,
}

/// Naps as `who` until woken, or until `timeout`, unless the low half of `word` is no longer that of `seen`. Says whether
/// it was cut short.
pub(crate) fn nap(word: &AtomicU64, seen: u64, timeout: Duration, who: Who) -> bool {
    if word.load(Relaxed) as u32 != seen as u32 {
        return true;
    }
    if cfg!(shuttle) {
        crate::rehearsal::pause();
        return false;
    }
    // A wait for some of those who nap takes the moment at which it ends, by CLOCK_MONOTONIC.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let end = now.saturating_add(timeout);
    let end = libc::timespec { tv_sec: end.as_secs() as i64, tv_nsec: i64::from(end.subsec_nanos()) };
    // SAFETY: the word is mapped and aligned while the reference lives; the kernel only reads it and the timespec.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            low_half(word),
            libc::FUTEX_WAIT_BITSET,
            seen as u32,
            &raw const end,
            std::ptr::null::<u32>(),
            who as u32,
        )
    };
    woken == 0
}

/// Wakes those who nap on `word` as `who`, at most so many.
pub(crate) fn wake(word: &AtomicU64, who: Who, most: i32) {
    // SAFETY: the word is mapped and aligned while the reference lives; the kernel uses its address only.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_futex,
            low_half(word),
            libc::FUTEX_WAKE_BITSET,
            most,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            who as u32,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_nap_ends_at_its_end_or_at_once_where_the_word_is_another_already() {
        let word = AtomicU64::new(7);
        assert!(!nap(&word, 7, Duration::from_millis(1), Who::Keeper), "nobody woke it");
        assert!(nap(&word, 8, LONG, Who::Keeper));
    }

    #[test]
    fn a_wake_reaches_those_who_are_meant_and_nobody_else() {
        let (word, keeper_is_up) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(nap(&word, 0, LONG, Who::Keeper));
                keeper_is_up.store(true, Relaxed);
            });
            let producer = scope.spawn(|| nap(&word, 0, LONG, Who::Producers));
            while !producer.is_finished() {
                wake(&word, Who::Producers, 1);
                std::thread::yield_now();
            }
            assert!(producer.join().unwrap());
            assert!(!keeper_is_up.load(Relaxed), "a wake of producers woke housekeeping");
            while !keeper_is_up.load(Relaxed) {
                wake(&word, Who::Keeper, i32::MAX);
                std::thread::yield_now();
            }
        });
    }
}
