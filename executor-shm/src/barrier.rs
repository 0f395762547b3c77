#![allow(unsafe_code, reason = "membarrier has no safe wrapper")]
//! One side's barrier for two: a fence in every thread of every registered process, raised by whoever falls asleep, so that
//! whoever works on needs none.
//!
//! Two threads each store a word and then look at the other's: a worker says that it sleeps and looks for tasks, a producer
//! commits a task and looks for sleepers. If both looks come before both stores, the task waits for a worker that sleeps.
//! Only a full barrier between store and look on *both* sides excludes that. `membarrier` has the kernel put one into each
//! thread that is running at that moment (0.4 us and more, by the count of CPUs), which is cheap for a side that sleeps now
//! and then and would be dear for one that submits ten million tasks a second. A thread that is not running then passes one
//! when it is put on a CPU again.
//!
//! A process gets such barriers once it is [registered](is_registered); where the kernel or a filter of system calls refuses
//! that, it says so in shared memory, and the other side does not rely on it.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::compiler_fence;

#[cfg(loom)]
use loom::sync::atomic::fence;
#[cfg(not(loom))]
use std::sync::atomic::fence;

/// From `linux/membarrier.h`.
#[cfg(not(loom))]
mod command {
    pub(super) const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
    pub(super) const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;
}

#[cfg(not(loom))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes three numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Whether this process is registered for the kernel's barriers, and can raise them. The first call registers it, which
/// takes some milliseconds in a process of several threads.
#[cfg(not(loom))]
pub fn is_registered() -> bool {
    use std::sync::OnceLock;
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(command::REGISTER_GLOBAL_EXPEDITED) && membarrier(command::GLOBAL_EXPEDITED))
}

/// A model has no kernel: both sides use fences of their own.
#[cfg(loom)]
pub fn is_registered() -> bool {
    false
}

/// The barrier of whoever is about to sleep, between saying so and its last look. `false`: others rely on the kernel's, and
/// it refuses now, so that a sleep must be short.
pub fn raise() -> bool {
    // SeqCst: the sleeper's own half, for those who do not rely on the kernel's: its store of the sleeping word comes before
    // its look at the commit word, as theirs of the commit word comes before their look at the sleeping word.
    fence(SeqCst);
    #[cfg(not(loom))]
    return !is_registered() || membarrier(command::GLOBAL_EXPEDITED);
    #[cfg(loom)]
    true
}

/// The other side's half, between its commit and its look for sleepers, which is what it returns: the first of the pair of
/// words that `look` loads, if the second says that the sleeper raises the kernel's barrier and this process is
/// `registered` for it. Then there is nothing but an order for the compiler; or else a fence, and another look.
#[inline(always)]
pub fn pass(registered: bool, look: impl Fn() -> [u64; 2]) -> u64 {
    // SeqCst: only the compiler is held back; the processor is by the sleeper's `raise`.
    compiler_fence(SeqCst);
    let [sleeping, raises] = look();
    if registered && raises == 1 {
        return sleeping;
    }
    // SeqCst: this side's commit comes before its look at the sleeping word, whatever the other side can do.
    fence(SeqCst);
    look()[0]
}
