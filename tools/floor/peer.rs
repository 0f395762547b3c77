//! A second process for a measurement: forked, pinned, sharing a few lines of memory.
//!
//! It measures nothing, leaves no process and no changed CPU mask behind, and puts no name anywhere.
//!
//! # Invariants
//! - F1: the shared pages hold atomics alone, and both processes touch them through references to those alone.
//! - F2: the peer is a forked child that runs its loop and leaves by `_exit`: it allocates nothing, takes no lock and
//!   returns to no caller, so forking a process with several threads is sound.
//! - F3: the peer dies with the thread that forked it (`PR_SET_PDEATHSIG`), and the drop of [`Peer`] kills and reaps it;
//!   a wait for a peer that died ends with [`FloorError::PeerDied`].
//! - F4: position `s` uses slot `s & (CAPACITY - 1)` of its ring, and its commit word says `s + 1`, as in the protocol.
//!
//! # Memory ordering
//! | pair | `Release` store           | `Acquire` load            | otherwise                                   |
//! |------|---------------------------|---------------------------|---------------------------------------------|
//! | P0   | `ready`, the peer         | `ready`, [`with_peer`]    | the first trips would time the peer's start |

#![allow(unsafe_code, reason = "maps memory that two processes share, and forks the second of them")]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::CAPACITY;

/// Misses in a row before a wait looks whether the peer is still there: some milliseconds, spinning and yielding.
const SPINS_PER_LOOK: u32 = 1 << 22;
const YIELDS_PER_LOOK: u32 = 1 << 10;

/// Why a floor could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorError {
    /// Choose CPUs that this process may run on.
    #[error("cannot run on CPU {cpu}")]
    Pin {
        /// The CPU that was asked for.
        cpu: u32,
        /// What the system said.
        source: Errno,
    },
    /// The system gives no more memory or processes; the source says why.
    #[error("cannot {act}")]
    System {
        /// What was tried.
        act: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// The socket between the two processes failed. Measure again.
    #[error("the socket between the two processes failed")]
    Socket(#[from] std::io::Error),
    /// Somebody killed the other process of the measurement. Measure again.
    #[error("the other process of the measurement died")]
    PeerDied,
}

/// The first two CPUs the calling thread may run on; the same one twice if there is but one.
///
/// # Errors
///
/// The system does not say.
pub fn two_cpus() -> Result<(u32, u32), FloorError> {
    let allowed = allowed_cpus()?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).map(|cpu| cpu as u32);
    let first = cpus.next().ok_or(FloorError::System { act: "find an allowed CPU", source: Errno::ENODEV })?;
    Ok((first, cpus.next().unwrap_or(first)))
}

/// The calling thread runs on one CPU until this is dropped.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Pins the calling thread to `cpu`.
    ///
    /// # Errors
    ///
    /// This process may not run there.
    pub fn to(cpu: u32) -> Result<Self, FloorError> {
        let before = allowed_cpus()?;
        pin(cpu)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Fails only if those CPUs were taken from the process meanwhile; then the kernel has chosen others already.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

fn allowed_cpus() -> Result<CpuSet, FloorError> {
    sched_getaffinity(Pid::from_raw(0)).map_err(system("read the allowed CPUs"))
}

fn pin(cpu: u32) -> Result<(), FloorError> {
    let refused = |source| FloorError::Pin { cpu, source };
    let mut set = CpuSet::new();
    set.set(cpu as usize).map_err(refused)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(refused)
}

fn system(act: &'static str) -> impl Fn(Errno) -> FloorError {
    move |source| FloorError::System { act, source }
}

/// One cache line of shared words (F1).
#[repr(C, align(64))]
pub(super) struct Line {
    pub(super) words: [AtomicU64; 8],
}

/// Most words a peer sleeps on at a time, by the kernel.
pub(super) const NAP_WORDS: usize = 128;

/// One cache line with a word to sleep on (F1).
#[repr(C, align(64))]
struct NapLine(AtomicU32);

/// Everything the two processes share. Zeroed pages are a legal value of it.
#[repr(C)]
pub(super) struct Shared {
    ready: Line,
    pub(super) single: Line,
    submissions: [Line; CAPACITY as usize],
    completions: [Line; CAPACITY as usize],
    pub(super) journal: [Line; 3],
    naps: [NapLine; NAP_WORDS + 1],
}

impl Shared {
    /// The submission slot of a position (F4); the mask keeps the index inside.
    #[inline(always)]
    pub(super) fn submission(&self, position: u64) -> &[AtomicU64; 8] {
        &self.submissions[(position & (CAPACITY - 1)) as usize].words
    }

    /// A word to sleep on; the last one for a place past them.
    #[inline(always)]
    pub(super) fn nap(&self, place: usize) -> &AtomicU32 {
        &self.naps[place.min(NAP_WORDS)].0
    }

    /// The completion slot of a position (F4).
    #[inline(always)]
    pub(super) fn completion(&self, position: u64) -> &[AtomicU64; 8] {
        &self.completions[(position & (CAPACITY - 1)) as usize].words
    }
}

const _: () = assert!(size_of::<Line>() == 64);
const _: () = assert!(CAPACITY.is_power_of_two());

const PAGE: usize = 4096;
const LENGTH: NonZeroUsize = match NonZeroUsize::new(size_of::<Shared>().next_multiple_of(PAGE)) {
    Some(length) => length,
    None => unreachable!(),
};

/// The shared pages: anonymous, small, present.
struct Mapping {
    at: NonNull<Shared>,
}

impl Mapping {
    fn new() -> Result<Self, FloorError> {
        let (prot, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping where the kernel likes; no memory in use is replaced, for `MAP_FIXED` is not set.
        let at = unsafe { mmap_anonymous(None, LENGTH, prot, flags) }.map_err(system("map shared memory"))?;
        let this = Self { at: at.cast() };
        // SAFETY: the range is exactly the mapping just made, and this advice changes no content.
        // A kernel without huge pages refuses the advice and needs none.
        let _ = unsafe { madvise(at, LENGTH.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        this.touch();
        Ok(this)
    }

    fn shared(&self) -> &Shared {
        // SAFETY: page-aligned, hence 64-aligned; `LENGTH` covers `Shared`, which is atomics alone (F1), for which the
        // zeroed pages are a value; mapped until `self` drops, and the reference lives no longer.
        unsafe { self.at.as_ref() }
    }

    /// Makes every page present and writable in the calling process.
    fn touch(&self) {
        let shared = self.shared();
        let rings = shared.submissions.iter().chain(&shared.completions).chain(&shared.journal);
        for word in rings.chain([&shared.ready, &shared.single]).flat_map(|line| &line.words) {
            word.fetch_add(0, Relaxed);
        }
        for NapLine(word) in &shared.naps {
            word.fetch_add(0, Relaxed);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the very range `new` mapped; no reference outlives `self`, and a peer has a mapping of its own.
        let unmapped = unsafe { munmap(self.at.cast(), LENGTH.get()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The forked other side (F2, F3).
#[derive(Debug)]
pub(super) struct Peer {
    pid: Pid,
}

/// Ends the process when dropped, so that a child never returns into its parent's frames, not even by a panic.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        // SAFETY: `_exit` ends the process at once, runs no handler and has no precondition.
        unsafe { nix::libc::_exit(0) }
    }
}

impl Peer {
    /// Forks a child that pins itself to `cpu` and runs `body`, which must keep F2.
    pub(super) fn start(cpu: u32, body: impl FnOnce()) -> Result<Self, FloorError> {
        let parent = getpid();
        // SAFETY: from here to `_exit` the child makes system calls and touches shared atomics; it allocates nothing and
        // takes no lock (F2), which is all that is allowed after a fork of a process with threads.
        match unsafe { fork() }.map_err(system("fork"))? {
            ForkResult::Parent { child } => Ok(Self { pid: child }),
            ForkResult::Child => {
                let exit = Exit;
                let tied = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
                // The parent may have died before the line above.
                if tied && getppid() == parent && pin(cpu).is_ok() {
                    body();
                }
                drop(exit);
                unreachable!("the process has ended")
            }
        }
    }

    /// Whether the peer is still there (F3).
    #[cold]
    pub(super) fn check(&self) -> Result<(), FloorError> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Ok(()),
            _ => Err(FloorError::PeerDied),
        }
    }

    /// Waits for a word to become `value`.
    #[inline(always)]
    pub(super) fn wait_for<const YIELD: bool>(&self, word: &AtomicU64, value: u64) -> Result<(), FloorError> {
        let mut misses = 0;
        while word.load(Acquire) != value {
            self.missed::<YIELD>(&mut misses)?;
        }
        Ok(())
    }

    /// One look that found nothing.
    #[inline(always)]
    pub(super) fn missed<const YIELD: bool>(&self, misses: &mut u32) -> Result<(), FloorError> {
        *misses = misses.wrapping_add(1);
        if YIELD {
            std::thread::yield_now();
        }
        if misses.is_multiple_of(if YIELD { YIELDS_PER_LOOK } else { SPINS_PER_LOOK }) { self.check() } else { Ok(()) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Our own child and not reaped: the pid can belong to nobody else.
        if self.check().is_ok() && kill(self.pid, Signal::SIGKILL).is_ok() {
            while waitpid(self.pid, None) == Err(Errno::EINTR) {}
        }
    }
}

/// The peer's own wait: it never gives up, for it dies with its parent (F3).
#[inline(always)]
pub(super) fn await_word<const YIELD: bool>(word: &AtomicU64, value: u64) {
    while word.load(Acquire) != value {
        if YIELD {
            std::thread::yield_now();
        }
    }
}

/// Starts a peer on `cpus.1` that runs `there`, pins the caller to `cpus.0` and, once the peer is ready, runs `here`.
pub(super) fn with_peer<T>(
    cpus: (u32, u32),
    there: impl Fn(&Shared),
    here: impl FnOnce(&Shared, &Peer) -> Result<T, FloorError>,
) -> Result<T, FloorError> {
    let mapping = Mapping::new()?;
    let _pinned = Pinned::to(cpus.0)?;
    let peer = Peer::start(cpus.1, || {
        mapping.touch();
        mapping.shared().ready.words[0].store(1, Release); // P0
        there(mapping.shared());
    })?;
    peer.wait_for::<true>(&mapping.shared().ready.words[0], 1)?; // P0
    here(mapping.shared(), &peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_for_a_peer_that_left_ends_with_an_error() {
        let cpus = two_cpus().unwrap();
        let left = with_peer(cpus, |_| (), |shared, peer| peer.wait_for::<true>(&shared.single.words[0], 1));
        assert!(matches!(left, Err(FloorError::PeerDied)), "{left:?}");
    }

    #[test]
    fn a_peer_that_panics_never_returns_to_its_parents_code() {
        let cpus = two_cpus().unwrap();
        let parent = getpid();
        let left = with_peer(
            cpus,
            |_| std::panic::resume_unwind(Box::new(())),
            |shared, peer| peer.wait_for::<true>(&shared.single.words[0], 1),
        );
        assert!(matches!(left, Err(FloorError::PeerDied)), "{left:?}");
        assert_eq!(getpid(), parent);
    }

    #[test]
    fn the_cpu_mask_is_as_before_once_the_pin_is_dropped() {
        let before = allowed_cpus().unwrap();
        let (first, _) = two_cpus().unwrap();
        let pinned = Pinned::to(first).unwrap();
        assert_eq!(two_cpus().unwrap(), (first, first));
        drop(pinned);
        assert!(allowed_cpus().unwrap() == before);
        assert!(matches!(Pinned::to(CpuSet::count() as u32), Err(FloorError::Pin { .. })));
    }
}
