#![allow(
    unsafe_code,
    reason = "signal handlers: installed, called by the kernel, and handed on to whoever was there before"
)]
//! Fatal signals in the sidecar's process: a worker's is noted in the journal, one over a lane's truncated file is mended,
//! and every other goes where it would have gone without us.
//!
//! It ends nothing and hides nothing: the exit status, the core dump and the handlers that a program or its libraries
//! installed before are those of a process without this module.
//!
//! # Invariants
//! - F1: a handler uses only atomics, `clock_gettime`, `mmap`, `sigaction` and `raise`: no lock, no allocation.
//! - F2: a crash is noted only by the thread that crashed, and only for the task that this thread has started and not
//!   completed. A signal that another process sent charges no lane.
//! - F3: the note's position is stored last: a process that is killed in the middle of a note has left none.
//!
//! # Order of a signal
//! The note, then the handler that was there before; if that one gave the signal back to the default action, as the
//! standard library's does for a fault that is no stack overflow, the signal is raised again where it would not come by
//! itself.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Once, OnceLock};

use executor_core::record::COMMIT;

use crate::layout::journal::crash;
use crate::mapped::SharedWords;
use crate::sigbus;
use crate::words::{Words, WordsMut};

/// Signals that end a process by something its own code did.
const FATAL: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// The lane whose task a worker is running, told with one store a task. On a line of its own: its worker stores to it for
/// every task.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Running {
    /// Where the lane's lines begin in the journal; 0 while no task is running.
    lines: AtomicUsize,
    /// The last task that was noted, as lines and position: one crash may raise two signals.
    noted: (AtomicUsize, AtomicU64),
}

impl Running {
    /// A task of the lane whose lines begin at `lines` is started.
    #[inline(always)]
    pub(crate) fn begin(&self, lines: usize) {
        self.lines.store(lines, Relaxed);
    }

    /// It is completed.
    #[inline(always)]
    pub(crate) fn end(&self) {
        self.lines.store(0, Relaxed);
    }
}

/// What a worker's thread leaves for its signal handler to find.
#[derive(Debug)]
pub(crate) struct Witness {
    journal: SharedWords,
    running: Arc<Running>,
    worker: u32,
}

thread_local! {
    static WITNESS: Cell<*const Witness> = const { Cell::new(ptr::null()) };
}

impl Witness {
    /// A witness for worker number `worker`.
    pub(crate) fn new(journal: SharedWords, running: Arc<Running>, worker: u32) -> Self {
        Self { journal, running, worker }
    }

    /// Runs `body`, the whole life of a worker's thread, with this thread's fatal signals noted.
    pub(crate) fn watch<R>(&self, body: impl FnOnce() -> R) -> R {
        struct Forget;
        impl Drop for Forget {
            fn drop(&mut self) {
                WITNESS.set(ptr::null());
            }
        }
        let _forget = Forget; // before `self` can go, also by a panic
        WITNESS.set(self);
        body()
    }

    /// Notes that the task in flight raised `signal`.
    fn note(&self, signal: c_int) {
        let lines = self.running.lines.load(Relaxed);
        if lines == 0 {
            return;
        }
        let position = self.journal.load(lines + COMMIT);
        if (self.running.noted.0.swap(lines, Relaxed), self.running.noted.1.swap(position, Relaxed))
            == (lines, position)
        {
            return; // the second signal of one crash
        }
        self.journal.store(lines + crash::POSITION, 0); // F3
        self.journal.commit(lines + crash::AT, boot_ns());
        self.journal.commit(lines + crash::CAUSE, signal as u64 | u64::from(self.worker) << 8);
        self.journal.commit(lines + crash::POSITION, position);
    }
}

/// CLOCK_BOOTTIME: it goes on while the machine sleeps, and no step of the wall clock moves it.
pub(crate) fn boot_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists since Linux 2.6.39 and `time` is a valid place for its answer; a failure leaves it 0.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The actions that were there before ours, by place in [`FATAL`]. Written before the first handler is installed.
static BEFORE: [OnceLock<libc::sigaction>; FATAL.len()] = [const { OnceLock::new() }; FATAL.len()];

/// Installs the handlers, once a process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (signal, before) in FATAL.into_iter().zip(&BEFORE) {
            let Some(old) = action(signal, None) else { continue };
            let _ = before.set(old);
            // On the alternate stack, where a stack overflow leaves room; with the mask that was there before.
            let mut ours = old;
            ours.sa_sigaction = handle as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (old.sa_flags & libc::SA_NODEFER);
            action(signal, Some(&ours));
        }
    });
}

/// The action in force, and a new one in its place.
fn action(signal: c_int, new: Option<&libc::sigaction>) -> Option<libc::sigaction> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a valid action whose handler is a function of this library or was in force before, and
    // `old` is a valid place for the answer.
    let done = unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) };
    // SAFETY: all zeros, which it began as, is a valid action, and so is what the kernel left.
    (done == 0).then(|| unsafe { old.assume_init() })
}

/// What came with a signal.
struct Origin {
    code: c_int,
    sender: libc::pid_t,
    address: usize,
}

impl Origin {
    /// By the fault itself or by this very process, as `abort` does it.
    fn is_own(&self) -> bool {
        self.is_fault() || (self.code == libc::SI_TKILL && self.sender == std::process::id() as libc::pid_t)
    }

    /// An instruction that would fault again.
    fn is_fault(&self) -> bool {
        self.code > 0
    }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the handler is installed with SA_SIGINFO, so the kernel passes a valid `info`.
    let info_ref = unsafe { &*info };
    // SAFETY: every siginfo of a signal that was sent holds a sender at this place; for a fault it is not looked at.
    let sender = unsafe { info_ref.si_pid() };
    // SAFETY: every siginfo of a fault holds an address at this place; for a sent signal it is not looked at.
    let address = unsafe { info_ref.si_addr() } as usize;
    let origin = Origin { code: info_ref.si_code, sender, address };
    if signal == libc::SIGBUS && origin.is_fault() && sigbus::mend(origin.address) {
        return; // the instruction runs again, over zeros
    }
    if origin.is_own() {
        // SAFETY: null, or set by `watch` of this very thread, which borrows the witness until it has taken it back.
        if let Some(witness) = unsafe { WITNESS.get().as_ref() } {
            witness.note(signal);
        }
    }
    pass_on(signal, &origin, info, context);
}

/// What would have happened without us.
fn pass_on(signal: c_int, origin: &Origin, info: *mut libc::siginfo_t, context: *mut c_void) {
    let at = FATAL.iter().position(|&fatal| fatal == signal);
    let before = at.and_then(|at| BEFORE.get(at)).and_then(OnceLock::get);
    match before.map_or(libc::SIG_DFL, |before| before.sa_sigaction) {
        libc::SIG_IGN if !origin.is_fault() => return,
        // The kernel ignores no fault.
        libc::SIG_DFL | libc::SIG_IGN => take_default(signal),
        handler if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) => {
            // SAFETY: the action was installed with SA_SIGINFO, so its handler is a function of this type.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the action was installed without SA_SIGINFO, so its handler is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
    // A fault comes again by itself. What was sent does not, once its handler has returned.
    let is_default = || action(signal, None).is_some_and(|now| now.sa_sigaction == libc::SIG_DFL);
    if !origin.is_fault() && is_default() {
        // SAFETY: `raise` may be called in a handler; the signal is blocked until this one returns.
        let _ = unsafe { libc::raise(signal) };
    }
}

/// Gives the signal back to the kernel.
fn take_default(signal: c_int) {
    // SAFETY: all zeros is an action: the default one, with no flags and no mask.
    let default = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action(signal, Some(&default));
}
