#![allow(unsafe_code, reason = "libc has no safe wrapper for futex on words in shared mappings")]
//! Napping on words and waking who naps on them, across processes. Waking works through a read-only mapping.
//!
//! A task's path comes here only where somebody sleeps or is asleep.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::io::Errno;
use rustix::thread::futex::{Wait, WaitFlags, WaitPtr, WaitvFlags, waitv};

/// A word to nap on: the kernel compares 32 bits of it.
pub(crate) trait Word {
    /// Where those bits are.
    fn address(&self) -> *const u32;
    /// What they are now.
    fn half(&self) -> u32;
}

impl Word for AtomicU32 {
    fn address(&self) -> *const u32 {
        self.as_ptr()
    }

    fn half(&self) -> u32 {
        self.load(Relaxed)
    }
}

/// The low half: the first four bytes on a little-endian machine.
impl Word for AtomicU64 {
    fn address(&self) -> *const u32 {
        std::ptr::from_ref(self).cast()
    }

    fn half(&self) -> u32 {
        self.load(Relaxed) as u32
    }
}

/// Who naps on a word that several do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Who {
    /// The sidecar's housekeeping.
    Keeper = 1,
    /// Producers that wait for a lane.
    Producers = 2,
    /// Whoever it is.
    Anybody = u32::MAX,
}

/// Naps as `who` until woken, or until `timeout`, unless the low half of `word` is no longer that of `seen`. Says whether
/// it was cut short.
pub(crate) fn nap(word: &impl Word, seen: u64, timeout: Duration, who: Who) -> bool {
    if word.half() != seen as u32 {
        return true;
    }
    if cfg!(shuttle) {
        crate::rehearsal::pause();
        return false;
    }
    // A wait for some of those who nap takes the moment at which it ends, by CLOCK_MONOTONIC.
    let end = now().saturating_add(timeout);
    let end = libc::timespec { tv_sec: end.as_secs() as i64, tv_nsec: i64::from(end.subsec_nanos()) };
    // SAFETY: the word is mapped and aligned while the reference lives; the kernel only reads it and the timespec.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.address(),
            libc::FUTEX_WAIT_BITSET,
            seen as u32,
            &raw const end,
            std::ptr::null::<u32>(),
            who as u32,
        )
    };
    woken == 0
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Wakes those who nap on `word` as `who`, at most so many. Says how many there were.
pub(crate) fn wake(word: &impl Word, who: Who, most: i32) -> u32 {
    // SAFETY: the word is mapped and aligned while the reference lives; the kernel uses its address only.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.address(),
            libc::FUTEX_WAKE_BITSET,
            most,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            who as u32,
        )
    };
    u32::try_from(woken).unwrap_or(0)
}

/// Wakes all who nap on `word`: one alone may be a stranger who takes what was meant for another.
pub(crate) fn wake_all(word: &impl Word) -> u32 {
    wake(word, Who::Anybody, i32::MAX)
}

/// Words to nap on together, each with what it held when it was last looked at.
#[derive(Debug)]
pub(crate) struct Watch {
    words: Vec<Wait>,
    /// Some did not fit.
    is_short: bool,
}

// SAFETY: the addresses are only handed to the kernel, which checks them.
unsafe impl Send for Watch {}

/// Why a nap on several words ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Woken, or one of the words had changed before.
    Woken,
    /// The time was up.
    InTime,
    /// A signal came.
    Interrupted,
    /// A word cannot be read by the kernel.
    Fault,
    /// The kernel knows no such call, or refuses it.
    Refused,
}

impl Watch {
    /// Most words of one nap, by the kernel.
    pub(crate) const MAX: usize = 128;

    pub(crate) fn new() -> Self {
        Self { words: Vec::with_capacity(Self::MAX), is_short: false }
    }

    pub(crate) fn clear(&mut self) {
        self.words.clear();
        self.is_short = false;
    }

    /// Adds `word`, whose low half was seen as that of `seen`. One past [`Watch::MAX`] is left out.
    pub(crate) fn add(&mut self, word: &impl Word, seen: u64) {
        if self.words.len() >= Self::MAX {
            self.is_short = true;
            return;
        }
        let mut wait = Wait::new();
        wait.val = u64::from(seen as u32);
        wait.uaddr = WaitPtr::new(word.address().cast_mut().cast());
        wait.flags = WaitFlags::SIZE_U32;
        self.words.push(wait);
    }

    /// Whether words were left out, whose changes a nap does not hear of.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Naps until somebody wakes one of the words, or one is no longer as it was seen, for at most `timeout`.
    pub(crate) fn nap(&self, timeout: Duration) -> Ended {
        if cfg!(shuttle) {
            crate::rehearsal::pause();
            return Ended::InTime;
        }
        let end = now().saturating_add(timeout);
        let end = rustix::time::Timespec { tv_sec: end.as_secs() as i64, tv_nsec: end.subsec_nanos().into() };
        match waitv(&self.words, WaitvFlags::empty(), Some(&end), rustix::time::ClockId::Monotonic) {
            Ok(_) | Err(Errno::AGAIN) => Ended::Woken,
            Err(Errno::TIMEDOUT) => Ended::InTime,
            Err(Errno::INTR) => Ended::Interrupted,
            Err(Errno::FAULT) => Ended::Fault,
            Err(_) => Ended::Refused,
        }
    }
}

/// Whether the kernel can nap on several words, and lets this process.
pub(crate) fn has_watch() -> bool {
    let (mut watch, word) = (Watch::new(), AtomicU32::new(0));
    watch.add(&word, 1);
    watch.nap(Duration::ZERO) != Ended::Refused
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

    /// As [`Watch::nap`], where the kernel can.
    fn watch(words: &[(&AtomicU64, u64)], timeout: Duration) -> Option<Ended> {
        let mut watch = Watch::new();
        words.iter().for_each(|(word, seen)| watch.add(*word, *seen));
        let ended = watch.nap(timeout);
        (ended != Ended::Refused).then_some(ended)
    }

    #[test]
    fn a_nap_on_several_words_ends_by_any_of_them_or_in_its_time() {
        let words: [AtomicU64; 3] = std::array::from_fn(|i| AtomicU64::new(i as u64 | 1 << 32));
        let seen = || words.each_ref().map(|word| (word, word.load(Relaxed)));
        let Some(ended) = watch(&seen(), Duration::from_millis(1)) else {
            assert!(!has_watch());
            return println!("skipped: no futex_waitv");
        };
        assert_eq!(ended, Ended::InTime);
        assert!(has_watch());
        let mut changed = seen();
        changed[2].1 += 1;
        assert_eq!(watch(&changed, LONG), Some(Ended::Woken), "it had changed before");
        changed[2].1 += u64::from(u32::MAX);
        assert_eq!(watch(&changed, Duration::from_millis(1)), Some(Ended::InTime), "the low half alone counts");
        for word in &words {
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| watch(&seen(), LONG));
                while !sleeper.is_finished() {
                    wake_all(word);
                    std::thread::yield_now();
                }
                assert_eq!(sleeper.join().unwrap(), Some(Ended::Woken));
            });
        }
    }

    #[test]
    fn words_past_what_the_kernel_takes_are_left_out_and_said() {
        let (word, mut watch) = (AtomicU64::new(0), Watch::new());
        (0..Watch::MAX).for_each(|_| watch.add(&word, 0));
        assert!(!watch.is_short());
        watch.add(&word, 0);
        assert!(watch.is_short());
        assert!(matches!(watch.nap(Duration::from_millis(1)), Ended::InTime | Ended::Refused));
        watch.clear();
        assert!(!watch.is_short());
    }
}
