//! The watcher: one thread a process, which wakes the futures, streams and pollers of all its asynchronous clients.
//!
//! It is started when the first of them has to wait and ends when the last client is gone. It sleeps on the word that
//! each lane's next completion will change, by the protocol of [`Lookout`], and owns the `waiting` word of those lanes. It
//! runs nothing of the program but wakers, outside of all locks, and outlives their panics. It blocks all signals that
//! another process can send.
//!
//! # Invariants
//! - V1: a lane is on the list, and the thread running, from before its first future is pending; both change under one
//!   lock, so a watcher that finds the list empty ends before the next one is started.
//! - V2: whoever changes the list calls afterwards; the watcher takes note of the count of calls before it reads the list.
//! - V3: between saying on which positions it sleeps and sleeping it raises the barrier and looks at every lane once more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use executor_shm::lock::fork_generation;
use executor_shm::lookout::{Call, Lookout, NAP};
use nix::sys::signal::{SigSet, Signal};

use crate::shared_lane::{NOTICE_NAP, NoWatcher, SharedLane, Wakers};

/// Longest nap beside a lane that nothing may be said in: as often as the sidecar looks after damage.
const DAMAGE_NAP: Duration = Duration::from_millis(20);
/// A task that ended this shortly before a nap ended in its time may not have come to its wake-up yet.
const JUST_NOW: Duration = Duration::from_millis(20);

/// The watcher of one process. A forked child has the memory of its parent's, locked or not, and none of its threads: it
/// gets another.
#[derive(Debug)]
struct Era {
    post: Mutex<Post>,
    call: Call,
}

#[derive(Debug)]
struct Post {
    lanes: Vec<Weak<SharedLane>>,
    is_manned: bool,
    thread: Option<JoinHandle<()>>,
}

/// As many as forks may be nested in each other.
static ERAS: [Era; 64] =
    [const { Era { post: Mutex::new(Post { lanes: Vec::new(), is_manned: false, thread: None }), call: Call::new() } };
        64];

/// Naps that lasted to their end over a completion.
static OVERSLEPT: AtomicU64 = AtomicU64::new(0);

/// How often the watcher of this process slept to the end of its time though a completion had come: a wake-up was lost, or
/// stolen. For tests.
#[doc(hidden)]
pub fn overslept() -> u64 {
    OVERSLEPT.load(Relaxed)
}

fn era() -> Option<&'static Era> {
    ERAS.get(usize::try_from(fork_generation()).ok()?)
}

impl Era {
    fn lock(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a lane on the list, once, and a watcher to it (V1).
pub(crate) fn attend(lane: &Arc<SharedLane>) -> Result<(), NoWatcher> {
    let era = era().ok_or(NoWatcher(nix::libc::EAGAIN))?;
    let mut post = era.lock();
    if !post.is_manned {
        if let Some(last) = post.thread.take() {
            let _ = last.join(); // it has ended but for its last instructions, and they lock nothing
        }
        let thread = std::thread::Builder::new().name("executor-watch".to_owned()).spawn(move || watch(era));
        post.thread = Some(thread.map_err(|error| NoWatcher(error.raw_os_error().unwrap_or_default()))?);
        post.is_manned = true;
    }
    if !post.lanes.iter().any(|known| known.as_ptr() == Arc::as_ptr(lane)) {
        post.lanes.push(Arc::downgrade(lane));
    }
    drop(post);
    era.call.call(); // V2
    Ok(())
}

/// Takes a lane off the list. It is about to be dropped, in this process.
pub(crate) fn dismiss(lane: &SharedLane) {
    let Some(era) = era() else { return };
    let mut post = era.lock();
    let before = post.lanes.len();
    post.lanes.retain(|known| !std::ptr::eq(known.as_ptr(), lane));
    let has_changed = post.lanes.len() < before;
    drop(post);
    if has_changed {
        era.call.call(); // V2
    }
}

/// The thread's body.
fn watch(era: &Era) {
    block_signals();
    let mut lookout = Lookout::default();
    let mut lanes = Vec::new();
    let mut probed_at = Instant::now();
    loop {
        lookout.begin(&era.call);
        {
            let mut post = era.lock();
            if post.lanes.is_empty() {
                post.is_manned = false; // V1
                return;
            }
            lanes.clone_from(&post.lanes);
        }
        let is_due = probed_at.elapsed() >= NAP;
        if is_due {
            probed_at = Instant::now();
        }
        let mut most = NAP;
        each(&lanes, |lane| most = most.min(round(lane, is_due)));
        lookout.raise(); // V3
        let mut is_idle = true;
        each(&lanes, |lane| is_idle &= lane.lock().is_none_or(|inner| inner.expect(&mut lookout)));
        if !is_idle {
            continue;
        }
        let due = Instant::now();
        if lookout.nap(&era.call, most) && most == NAP && due.elapsed() >= NAP {
            each(&lanes, |lane| {
                if lane.lock().is_some_and(|inner| inner.has_ended_before(JUST_NOW)) {
                    OVERSLEPT.fetch_add(1, Relaxed);
                }
            });
        }
    }
}

/// The lanes that are still there. One whose last owner goes meanwhile is dropped here, with no lock held.
fn each(lanes: &[Weak<SharedLane>], body: impl FnMut(&SharedLane)) {
    let mut body = body;
    for lane in lanes {
        if let Some(lane) = lane.upgrade() {
            body(&lane);
        }
    }
}

/// Wakes whoever waits for what has ended on a lane, and says on which position the watcher will sleep. How long it may
/// sleep at most.
fn round(lane: &SharedLane, is_due: bool) -> Duration {
    let mut wakers = Wakers::default();
    let Some(mut inner) = lane.lock() else { return NAP };
    inner.advance(&mut wakers);
    if is_due {
        inner.probe(&mut wakers);
    }
    let is_told = inner.say();
    drop(inner);
    for waker in wakers.into_woken() {
        // Whose panic this is has nothing to do with the others.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
    match lane.lock() {
        Some(inner) if inner.is_noticing() => NOTICE_NAP,
        _ if !is_told => DAMAGE_NAP,
        _ => NAP,
    }
}

/// Signals from outside are for the program's own threads. What this thread does itself stays deadly.
fn block_signals() {
    let mut set = SigSet::all();
    let own = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP];
    own.into_iter().chain([Signal::SIGSYS]).for_each(|signal| set.remove(signal));
    let _ = set.thread_block();
}
