//! A sidecar that waits, warm, for the end of the one that serves.
//!
//! It stores nothing before the kernel has granted it the lock of a dead or stopped sidecar, and then goes the way of
//! every start: what it has mapped by then is looked at again (`warm.rs`), nothing is left out. Any number may
//! wait for one instance; one of them is granted the lock, and the others wait for the end of that one.
//!
//! The locks are waited for on a thread of their own. If the standby is given up first, that thread drops what it is
//! granted later, and a process that ends drops it at once.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::FileStat;

use crate::crew::Crew;
use crate::files::{self, FileError, InstanceName};
use crate::handle::SidecarHandle;
use crate::hold::HoldView;
use crate::layout::{header, status};
use crate::lock::{LockFile, fork_generation, same_inode};
use crate::mapped::WriteWords;
use crate::master::{Master, MasterError};
use crate::rehearsal::receive;
use crate::sidecar::{Plan, StartError, spawn};
use crate::signals::{StopSignals, Waited, wait};
use crate::slice::ShortSlice;
use crate::status as table;
use crate::wanted::read_journal;
use crate::warm::{Granted, Warm};
use crate::words::Words;

/// How long a standby may not have noticed yet that a lane has new files. Its cold lanes cost a take-over some time and
/// nothing else.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(20);

/// A sidecar that is ready and waits. Dropped, it waits no more, and nothing was changed.
#[derive(Debug)]
pub struct Standby {
    plan: Plan,
    crew: Crew,
    warm: Warm,
    /// Nobody served the instance.
    master: Option<Master>,
    /// Of the thread that made it.
    short: Option<ShortSlice>,
    generation: u64,
}

impl Standby {
    pub(crate) fn new(mut plan: Plan) -> Result<Self, StartError> {
        let mut warm = Warm::default();
        let master = own(&plan, &mut warm)?;
        if master.is_none() {
            warm.follow(&plan.instance, |journal, status| may_serve(&plan, journal, status))?;
        }
        // Once it is known that they may be needed: they are the program's code.
        let mut crew = Crew::call(&plan.registry, &plan.cpus, plan.holds.real_time)?;
        crew.muster()?;
        plan.take_holds(); // now, so that who waits hears what is refused before it is needed
        // From before anybody is told that it stands by; its workers have been started and inherit nothing.
        let short = ShortSlice::take();
        Ok(Self { plan, crew, warm, master, short: Some(short), generation: fork_generation() })
    }

    /// The instance it waits for.
    pub fn instance(&self) -> &InstanceName {
        &self.plan.instance
    }

    /// The CPUs its workers are pinned to.
    pub fn cpus(&self) -> Vec<u32> {
        self.plan.cpus.iter().copied().flatten().collect()
    }

    /// What of the process is held while it waits, and will be while it serves, or was refused.
    pub fn holds(&self) -> Vec<HoldView> {
        self.plan.holds(&self.crew)
    }

    /// Whether another sidecar served the instance when this was last asked of the kernel; else [`take_over`](Self::take_over)
    /// serves at once.
    pub fn is_waiting(&self) -> bool {
        self.master.is_none()
    }

    /// Lanes of the instance that are mapped and present.
    pub fn warm_lanes(&self) -> usize {
        self.warm.lanes()
    }

    /// Waits until nobody else serves the instance, then recovers what is left and serves.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. What happens to the instance meanwhile can make it one that this sidecar cannot serve.
    pub fn take_over(self) -> Result<SidecarHandle, StartError> {
        let handle = self.wait_and_serve(None, None, |_| {})?;
        handle.ok_or_else(|| StartError::Thread(Errno::EINTR.into()))
    }

    /// As [`take_over`](Self::take_over), given up at one of the signals: then there is no sidecar, and all is as it was.
    ///
    /// # Errors
    ///
    /// As [`take_over`](Self::take_over).
    pub fn take_over_unless(self, signals: &StopSignals) -> Result<Option<SidecarHandle>, StartError> {
        self.wait_and_serve(Some(signals), None, |_| {})
    }

    /// As [`take_over_unless`](Self::take_over_unless), and calls the program while it waits, some `interval` apart. The
    /// closure runs on this thread: while it runs, nothing is taken over.
    ///
    /// # Errors
    ///
    /// As [`take_over`](Self::take_over).
    pub fn take_over_ticking(
        self,
        signals: &StopSignals,
        interval: Duration,
        called: impl FnMut(&Self),
    ) -> Result<Option<SidecarHandle>, StartError> {
        self.wait_and_serve(Some(signals), Some(interval), called)
    }

    fn wait_and_serve(
        mut self,
        signals: Option<&StopSignals>,
        interval: Option<Duration>,
        mut called: impl FnMut(&Self),
    ) -> Result<Option<SidecarHandle>, StartError> {
        if self.generation != fork_generation() {
            return Err(StartError::Forked);
        }
        let short = self.short.take().filter(ShortSlice::is_of_this_thread);
        let _short = short.unwrap_or_else(ShortSlice::take);
        let after = || interval.and_then(|interval| Instant::now().checked_add(interval));
        let mut tick = after();
        loop {
            if let Some(master) = self.master.take() {
                return self.plan.serve(master, self.crew, self.warm).map(Some);
            }
            let Some(waiter) = Waiter::start(&self.plan.instance)? else {
                self.master = own(&self.plan, &mut self.warm)?; // it has just been removed
                continue;
            };
            let is_granted = loop {
                let follow = Instant::now() + FOLLOW_INTERVAL;
                let until = tick.map_or(follow, |tick| tick.min(follow));
                match wait(signals, waiter.bell.as_fd(), Some(until)).map_err(StartError::Thread)? {
                    Waited::Signal => return Ok(None),
                    Waited::Other => break true,
                    Waited::Timeout => {}
                }
                self.warm.follow(&self.plan.instance, |journal, status| may_serve(&self.plan, journal, status))?;
                if tick.is_some_and(|tick| tick <= Instant::now()) {
                    called(&self);
                    tick = after();
                }
                // Its owner may never end: stopped, and its files removed. Whoever made them anew is the one to wait for.
                if !waiter.is_for(&self.plan.instance)? {
                    break false;
                }
            };
            if is_granted {
                self.warm.granted = Some(waiter.granted()?);
            }
            self.master = own(&self.plan, &mut self.warm)?;
        }
    }
}

/// Takes the instance if nobody serves it.
fn own(plan: &Plan, warm: &mut Warm) -> Result<Option<Master>, StartError> {
    match Master::take_over(&plan.instance, &plan.wanted, Some(plan.source), warm) {
        Ok(master) => Ok(Some(master)),
        Err(MasterError::AlreadyRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses what this sidecar could not serve, whoever ends: the checks of a start, ahead of it.
fn may_serve(plan: &Plan, journal: &WriteWords, status: Option<&WriteWords>) -> Result<(), StartError> {
    let (_, geometry, _) = read_journal(&plan.instance, journal)?;
    plan.wanted.check_settled(&plan.instance, Some(plan.source), journal, &geometry)?;
    let ours = |status: &&WriteWords| {
        let is_of_journal = status.load(header::NONCE) == journal.load(header::NONCE);
        is_of_journal && status.len() * 8 == geometry.status_bytes()
    };
    if let Some(status) = status.filter(ours) {
        let rows = table::load_registry(status, &geometry);
        plan.merge_registry(&rows, status.load(status::GENERATION) as u32, geometry.handlers)?;
    }
    Ok(())
}

/// A thread that waits for the locks of an instance.
struct Waiter {
    journal: FileStat,
    bell: Arc<EventFd>,
    told: Receiver<Result<Granted, FileError>>,
}

impl Waiter {
    /// `None` if there is no journal to wait for.
    fn start(instance: &InstanceName) -> Result<Option<Self>, StartError> {
        let journal = match files::open(&instance.journal(), OFlag::O_RDWR) {
            Ok(journal) => journal,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = journal.stat().map_err(|errno| FileError::refused("look at", &instance.journal(), errno))?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|errno| StartError::Thread(errno.into()))?;
        let bell = Arc::new(bell);
        let (tell, told) = mpsc::channel();
        let (instance, rope) = (instance.clone(), Arc::clone(&bell));
        spawn("executor-waiter", move || {
            let _short = ShortSlice::take();
            // Given up meanwhile, there is nobody to tell: the locks go with what was not taken.
            if tell.send(wait_for_locks(&instance, journal)).is_ok() {
                let _ = rope.write(1);
            }
        })?;
        Ok(Some(Self { journal: stat, bell, told }))
    }

    /// Whether the journal it waits for still has its name. It keeps the file open, so no other has its number.
    fn is_for(&self, instance: &InstanceName) -> Result<bool, FileError> {
        Ok(files::stat(&instance.journal())?.is_some_and(|now| same_inode(&now, &self.journal)))
    }

    /// What the bell was rung for.
    fn granted(self) -> Result<Granted, StartError> {
        let died = || StartError::Thread(std::io::Error::other("the thread that waits for the locks died"));
        Ok(receive(&self.told).map_err(|_| died())??)
    }
}

/// A dying process frees its locks one by one, in any order, so each is waited for. The second one belongs to whoever
/// had the first only while the first still is what its name leads to.
fn wait_for_locks(instance: &InstanceName, journal: LockFile) -> Result<Granted, FileError> {
    let (journal_name, name) = (instance.journal(), instance.status());
    journal.lock().map_err(|errno| FileError::refused("lock", &journal_name, errno))?;
    if !files::is_still(&journal_name, &journal)? {
        return Ok(Granted { journal, status: None });
    }
    let status = match files::open(&name, OFlag::O_RDWR) {
        Ok(status) => Some(status),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error),
    };
    if let Some(status) = &status {
        status.lock().map_err(|errno| FileError::refused("lock", &name, errno))?;
    }
    Ok(Granted { journal, status })
}
