#![allow(unsafe_code, reason = "the kernel's per-thread rseq area is reached through the thread pointer")]
//! Whether the kernel took the CPU away between two points of a thread, for a store and a load.
//!
//! The kernel looks at the `rseq_cs` word of a thread's restartable-sequences area whenever it preempts or migrates the
//! thread or delivers a signal to it, and clears the word if the thread is not inside the sequence that it names. So a
//! sequence that nobody is ever inside is a sentinel: armed before some code, it is still there after it if and only if
//! none of that happened. (`rseq(2)`, `linux/rseq.h`: "the kernel sets it to NULL when it preempts or delivers a signal on top
//! of any range of code outside of a critical section".) glibc 2.35 and later register the area of each thread.
//!
//! Code in between that runs restartable sequences of its own, as some allocators do, ends as if it were preempted.

use std::ptr::NonNull;
use std::sync::OnceLock;

/// What precedes the abort handler of a sequence on x86-64 and is checked by the kernel.
const SIGNATURE: u32 = 0x5305_3053;
/// Where in the area the word is.
const RSEQ_CS: usize = 8;

/// From `linux/rseq.h`.
#[derive(Debug)]
#[repr(C, align(32))]
struct Sequence {
    version: u32,
    flags: u32,
    start_ip: u64,
    post_commit_offset: u64,
    abort_ip: u64,
    /// Before what would be the abort handler; no part of the kernel's structure.
    signature: u32,
    handler: u32,
}

/// The sequence nobody is inside: it is data.
fn sequence() -> u64 {
    static SEQUENCE: OnceLock<&'static Sequence> = OnceLock::new();
    let sequence = SEQUENCE.get_or_init(|| {
        let mut made = Box::new(Sequence {
            version: 0,
            flags: 0,
            start_ip: 0,
            post_commit_offset: 1,
            abort_ip: 0,
            signature: SIGNATURE,
            handler: 0,
        });
        made.start_ip = std::ptr::from_ref(&made.version).addr() as u64;
        made.abort_ip = std::ptr::from_ref(&made.handler).addr() as u64;
        Box::leak(made)
    });
    std::ptr::from_ref::<Sequence>(sequence).addr() as u64
}

/// The calling thread's sentinel. It belongs to that thread and cannot be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sentinel {
    word: Option<NonNull<u64>>,
    sequence: u64,
}

impl Sentinel {
    /// The calling thread's, which tells nothing where the system has none: see [`is_there`](Self::is_there).
    pub fn of_this_thread() -> Self {
        match area() {
            Some(area) => Self { word: NonNull::new(area.wrapping_byte_add(RSEQ_CS)), sequence: sequence() },
            None => Self::default(),
        }
    }

    /// Whether it tells anything: the processor is an x86-64, and the C library has registered the thread.
    pub fn is_there(&self) -> bool {
        self.word.is_some()
    }

    /// From here on.
    #[inline(always)]
    pub fn arm(&self) {
        if let Some(word) = self.word {
            // SAFETY: the word is the aligned `rseq_cs` of this thread's area, which glibc keeps for as long as the thread
            // lives, and the sentinel cannot leave the thread. Only the thread and the kernel, on its behalf, access it. The
            // sequence is leaked, so what the kernel finds by it is there for ever, and has a signature before its handler.
            unsafe { word.write_volatile(self.sequence) };
        }
    }

    /// Whether it is as [`arm`](Self::arm) left it; always where nothing can be told.
    #[inline(always)]
    pub fn is_untouched(&self) -> bool {
        let Some(word) = self.word else { return true };
        // SAFETY: as in `arm`.
        let found = unsafe { word.read_volatile() };
        found == self.sequence
    }

    /// Whether code of somebody else's on this thread has put a sequence of its own in its place.
    pub fn is_replaced(&self) -> bool {
        let Some(word) = self.word else { return false };
        // SAFETY: as in `arm`.
        let found = unsafe { word.read_volatile() };
        found != 0 && found != self.sequence
    }

    /// Up to here: whether the kernel has interfered since [`arm`](Self::arm); `None` where that cannot be told.
    #[inline(always)]
    pub fn disarm(&self) -> Option<bool> {
        let word = self.word?;
        // SAFETY: as in `arm`.
        let found = unsafe { word.read_volatile() };
        // SAFETY: as in `arm`; 0 is what the kernel stores itself.
        unsafe { word.write_volatile(0) };
        Some(found != self.sequence)
    }
}

#[cfg(target_arch = "x86_64")]
fn area() -> Option<*mut u64> {
    // SAFETY: the name is a C string; the call only looks it up.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    // SAFETY: as above.
    let size = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
    if offset.is_null() || size.is_null() {
        return None; // an older C library, or another one
    }
    // SAFETY: glibc defines it as `const ptrdiff_t`, so it is valid, aligned and never written.
    let offset = unsafe { offset.cast::<isize>().read() };
    // SAFETY: glibc defines it as `const unsigned int`, likewise.
    let size = unsafe { size.cast::<u32>().read() };
    if size == 0 {
        return None; // not registered: switched off by a tunable, or refused by the kernel
    }
    let pointer: *mut u64;
    // SAFETY: the x86-64 ABI keeps the thread pointer at `fs:0` (System V ABI, thread-local storage), where it is read.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly)) };
    Some(pointer.wrapping_byte_offset(offset))
}

#[cfg(not(target_arch = "x86_64"))]
fn area() -> Option<*mut u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::{UsageWho, getrusage};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    fn switches() -> i64 {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        usage.involuntary_context_switches() + usage.voluntary_context_switches()
    }

    #[test]
    fn a_thread_that_gives_its_cpu_away_finds_its_sentinel_gone() {
        let sentinel = Sentinel::of_this_thread();
        if !sentinel.is_there() {
            println!("skipped: the C library has registered no rseq area");
            return;
        }
        sentinel.arm();
        let before = switches();
        while switches() == before {
            std::thread::sleep(std::time::Duration::from_micros(50)); // gives it away
        }
        assert_eq!(sentinel.disarm(), Some(true));
    }

    #[test]
    fn a_sentinel_is_gone_whenever_the_kernel_counts_a_switch_and_seldom_else() {
        let sentinel = Sentinel::of_this_thread();
        if !sentinel.is_there() {
            println!("skipped: the C library has registered no rseq area");
            return;
        }
        // Beside another thread on the same CPU there are switches to be seen.
        let cpu = crate::cpu::allowed_cpus().unwrap()[0];
        let over = AtomicBool::new(false);
        let (mut seen, mut quiet) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                crate::cpu::pin_current_thread(cpu).unwrap();
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let watcher = scope.spawn(|| {
                crate::cpu::pin_current_thread(cpu).unwrap();
                let sentinel = Sentinel::of_this_thread();
                while seen < 20 || quiet < 1000 {
                    let before = switches();
                    sentinel.arm();
                    for _ in 0..1000 {
                        std::hint::spin_loop();
                    }
                    let gone = sentinel.disarm();
                    let switched = switches() != before;
                    // A switch may fall between a count and the sentinel, and a signal is no switch: both are seldom.
                    seen += usize::from(switched && gone == Some(true));
                    quiet += usize::from(!switched && gone == Some(false));
                }
                over.store(true, Relaxed);
            });
            watcher.join().unwrap();
        });
        assert!(seen >= 20 && quiet >= 1000);
    }
}
