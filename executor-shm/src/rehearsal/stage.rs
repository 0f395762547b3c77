//! Processes as threads of a test: `shuttle` decides at each step who goes on, and a process may be killed at any.
//!
//! A killed process unwinds, and nothing that it would do meanwhile happens. Then its descriptors are closed one by one,
//! as the kernel does it, with others acting in between. Nothing of this is part of the product.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shuttle::rand::Rng;

/// A process of the test. Clones are the same process.
#[derive(Clone, Debug)]
pub struct Process(Arc<State>);

#[derive(Debug)]
struct State {
    name: String,
    dead: AtomicBool,
    /// Steps that it still does.
    steps: AtomicU64,
    /// Those that have not ended, by name.
    threads: Mutex<Vec<String>>,
}

shuttle::thread_local! {
    static CURRENT: RefCell<Option<Process>> = RefCell::new(None);
    /// Descriptors of the dead process that are still open.
    static LEFT: RefCell<Vec<OwnedFd>> = RefCell::new(Vec::new());
}

/// What a killed process unwinds with.
struct Killed;

impl Process {
    /// Starts a process that does `body`; it is killed after so many steps, if it is not through by then.
    pub fn start(name: &str, steps: Option<u64>, body: impl FnOnce() + Send + 'static) -> Self {
        let steps = AtomicU64::new(steps.unwrap_or(u64::MAX));
        let (dead, threads) = (AtomicBool::new(false), Mutex::default());
        let process = Self(Arc::new(State { name: name.to_owned(), dead, steps, threads }));
        process.spawn("main", body);
        process
    }

    /// The process of the calling thread, if it is one of a process.
    pub fn current() -> Option<Self> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Kills it, wherever it is.
    pub fn kill(&self) {
        self.0.dead.store(true, Relaxed);
    }

    /// Whether it was killed. What it holds may still be there.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Relaxed)
    }

    /// Whether nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.threads().is_empty()
    }

    fn spawn<T: Send + 'static>(&self, name: &str, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let _ = executor_core::idle::YIELD.set(pause);
        let handle = JoinHandle { finished: Arc::default(), result: Arc::default() };
        let (finished, result) = (Arc::clone(&handle.finished), Arc::clone(&handle.result));
        let process = self.clone();
        self.threads().push(name.to_owned());
        let name = name.to_owned();
        let thread = shuttle::thread::Builder::new().name(format!("{} {name}", self.0.name));
        let spawned = thread.spawn(move || {
            CURRENT.with(|current| *current.borrow_mut() = Some(process.clone()));
            match catch_unwind(AssertUnwindSafe(body)) {
                Ok(value) => *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value),
                Err(killed) if killed.is::<Killed>() => {}
                Err(failure) => resume_unwind(failure),
            }
            let mut left = LEFT.with(RefCell::take);
            while !left.is_empty() {
                switch();
                drop(left.swap_remove(shuttle::rand::thread_rng().gen_range(0..left.len())));
            }
            finished.store(true, Relaxed);
            process.threads().retain(|thread| *thread != name);
        });
        drop(spawned);
        handle
    }

    fn threads(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step more or the end.
    fn count(&self) {
        let left = self.0.steps.load(Relaxed);
        if left == 0 {
            self.kill();
        } else if left != u64::MAX {
            self.0.steps.store(left - 1, Relaxed);
        }
    }
}

/// Others may act here.
fn switch() {
    shuttle::thread::sleep(Duration::ZERO);
}

/// Something that others can see is about to happen. `false`: this process is dead and is being unwound.
pub(crate) fn step() -> bool {
    let lives = last_step();
    if !lives && !std::thread::panicking() {
        resume_unwind(Box::new(Killed));
    }
    lives
}

/// The same in a destructor, which goes on to its end.
pub(crate) fn last_step() -> bool {
    let Some(process) = Process::current() else { return true };
    if !process.is_dead() && !std::thread::panicking() {
        process.count();
    }
    if !process.is_dead() && !std::thread::panicking() {
        switch();
    }
    !process.is_dead()
}

/// Lets others go on first; the time goes on too.
pub fn pause() {
    NOW.set(NOW.get() + 20);
    let Some(process) = Process::current() else { return shuttle::thread::yield_now() };
    if std::thread::panicking() {
        return;
    }
    if !process.is_dead() {
        shuttle::thread::yield_now();
    }
    if process.is_dead() {
        resume_unwind(Box::new(Killed));
    }
}

/// Closes a descriptor; one of a dead process when the kernel comes to it.
pub(crate) fn close(descriptor: OwnedFd) {
    match Process::current() {
        Some(process) if process.is_dead() => LEFT.with(|left| left.borrow_mut().push(descriptor)),
        _ => drop(descriptor),
    }
}

std::thread_local! {
    /// Milliseconds of a clock that goes on when somebody waits.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// A moment of that clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(Duration::from_millis(NOW.get()))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Waits until that clock has gone on so far.
pub(crate) fn sleep(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        pause();
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

/// A thread of a process.
#[derive(Debug)]
pub(crate) struct JoinHandle<T> {
    finished: Arc<AtomicBool>,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Relaxed)
    }

    pub(crate) fn join(self) -> Result<T, ()> {
        while !self.is_finished() {
            pause();
        }
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(())
    }
}

/// A thread of the calling process.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let process = Process::current().ok_or_else(|| std::io::Error::other("a thread of no process"))?;
    Ok(process.spawn(name, body))
}

/// Waits for what another thread of the calling process sends.
pub(crate) fn receive<T>(from: &Receiver<T>) -> Result<T, RecvError> {
    loop {
        match from.try_recv() {
            Ok(value) => return Ok(value),
            Err(TryRecvError::Disconnected) => return Err(RecvError),
            Err(TryRecvError::Empty) => pause(),
        }
    }
}

/// A number below `end`, chosen by the scheduler.
pub fn random(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end.max(1))
}
