//! What submitters, workers and waiters of one executor share.

use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};
use std::sync::atomic::{Ordering::SeqCst, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::account::Account;
use super::beds::Beds;
use super::depth::{Apart, Depth, Refusal};
use super::lane::{self, Job, Shared, Writer};
use super::node::Nodes;
use super::refusal::Error;
use super::results::{Place, Results};
use super::seat;
use super::server::Server;
use super::target::LatencyGoal;
use super::time::{TimeSource, global_time_source};
use super::work::Task;
use crate::dispatch::Served;
use crate::idle::IdleStrategy;
use crate::meter::{self, MeterLayout};
use crate::real_time::RealTime;
use crate::task::{LaneFacts, Priority};
use crate::worker::Control;

/// A worker's control.
pub(crate) type Reins = Control<Server>;

/// What does not change once an executor runs.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) workers: usize,
    pub(crate) depth: usize,
    pub(crate) target_ns: u64,
    pub(crate) timed: bool,
    pub(crate) idle: IdleStrategy,
    pub(crate) goal: LatencyGoal,
    pub(crate) response_bytes: usize,
    pub(crate) stuck_after: Duration,
    pub(crate) real_time: Option<RealTime>,
}

pub(crate) struct Engine {
    /// Unlike that of any other executor of this process.
    pub(crate) number: u64,
    pub(crate) terms: Terms,
    pub(crate) depth: Depth,
    pub(crate) results: Results,
    pub(crate) beds: Beds,
    pub(crate) accounts: Box<[Account]>,
    pub(crate) layout: MeterLayout,
    /// Where the dispatch loop counts.
    pub(crate) meter: Arc<[AtomicU64]>,
    /// The CPU each worker is pinned to.
    pub(crate) cores: Vec<Option<u32>>,
    pub(crate) nodes: Nodes,
    /// What the system refused that is not needed to run.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// Workers in whose task somebody waits.
    pub(crate) waiting: AtomicUsize,
    pool: Mutex<Pool>,
    /// Where the steward sleeps and others wait for the end.
    news: Mutex<News>,
    changed: Condvar,
    /// The steward sleeps until somebody is busy.
    pub(crate) steward_rests: Apart<AtomicBool>,
}

/// Lanes and who serves them.
struct Pool {
    reins: Vec<Reins>,
    /// Lanes that a worker's control had no room for, by worker.
    owed: Vec<(usize, Box<Served<Server>>)>,
    /// Lanes whose thread has ended.
    spare: Vec<Writer>,
    /// For threads that have no storage of their own any more.
    common: Vec<Writer>,
    lanes: u32,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// Nothing that was accepted is left to run.
    pub(crate) drained: bool,
    /// All threads have ended.
    pub(crate) ended: bool,
    /// Somebody is busy.
    pub(crate) stirred: bool,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Engine {
    pub(crate) fn new(terms: Terms, layout: MeterLayout, cores: Vec<Option<u32>>, nodes: Nodes) -> Result<Self, Error> {
        let clock = global_time_source().clock();
        let ticks = |time: Duration| clock.ns_to_ticks(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let target = clock.ns_to_ticks(terms.target_ns);
        let recent = || super::target::Recent::new(target, ticks(terms.goal.window));
        let results = Results::new(terms.depth as u64, 1024).ok_or_else(|| Error::Runtime {
            what: "there is no memory for as many results as max_queue_depth keeps",
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        Ok(Self {
            number: NUMBERS.fetch_add(1, Relaxed),
            depth: Depth::new(terms.depth as u64),
            results,
            beds: Beds::new(terms.workers),
            accounts: (0..terms.workers).map(|_| Account::new(recent())).collect(),
            layout,
            meter: meter::heap_of_counts(&layout),
            cores,
            nodes,
            warnings: Mutex::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            pool: Mutex::new(Pool {
                reins: Vec::new(),
                owed: Vec::new(),
                spare: Vec::new(),
                common: Vec::new(),
                lanes: 0,
            }),
            news: Mutex::new(News::default()),
            changed: Condvar::new(),
            steward_rests: Apart(AtomicBool::new(false)),
            terms,
        })
    }

    pub(crate) fn time(&self) -> &'static TimeSource {
        global_time_source()
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stamp, 0 with timing off.
    #[inline(always)]
    pub(crate) fn stamp(&self) -> u64 {
        if self.terms.timed { self.time().clock().now() } else { 0 }
    }

    /// Accepts a task, or hands it back. With `pinned` its slot waits for a reader.
    #[inline]
    pub(crate) fn submit(self: &Arc<Self>, task: Task, pinned: bool) -> Result<Place, Error> {
        match self.depth.admit(1) {
            Ok(_) => {}
            Err(Refusal::Full) => return Err(Error::QueueFull { task, depth: self.terms.depth }),
            Err(Refusal::Closed) => return Err(Error::ShutDown { task: Some(task) }),
        }
        let place = self.enqueue(task, pinned, self.stamp())?;
        self.wake_for(1);
        Ok(place)
    }

    /// Wakes workers for so many tasks that were pushed.
    #[inline]
    pub(crate) fn wake_for(&self, pushed: u64) {
        let cpu = std::cell::LazyCell::new(|| nix::sched::sched_getcpu().map_or(u32::MAX, |cpu| cpu as u32));
        let is_near = |worker: usize| {
            !self.nodes.are_several() || self.nodes.is_near(worker, self.cores.get(worker).copied().flatten(), *cpu)
        };
        self.beds.pushed(pushed, &self.depth, is_near);
    }

    /// The same without waking anybody.
    pub(crate) fn accept(self: &Arc<Self>, task: Task) -> Result<(), Error> {
        match self.depth.admit(1) {
            Ok(_) => self.enqueue(task, false, self.stamp()).map(|_| ()),
            Err(Refusal::Full) => Err(Error::QueueFull { task, depth: self.terms.depth }),
            Err(Refusal::Closed) => Err(Error::ShutDown { task: Some(task) }),
        }
    }

    /// Puts a task into its thread's lane that was admitted already.
    #[inline]
    fn enqueue(self: &Arc<Self>, task: Task, pinned: bool, submitted_at: u64) -> Result<Place, Error> {
        let id = task.id.as_u64();
        let (seen, fresh) = (|| self.depth.seen(), || self.depth.fresh());
        let Some(place) = self.results.reserve(id, submitted_at, pinned, seen, fresh) else {
            return Err(self.crowded(task));
        };
        let Task { name, priority, body, .. } = task;
        seat::push(self, priority, Job { body, name, id, submitted_at, slot: place.index() });
        Ok(place)
    }

    /// More results wait for a reader that has been woken than there are slots: as good as full.
    #[cold]
    fn crowded(&self, task: Task) -> Error {
        if self.depth.withdraw(1) {
            self.tell(|news| news.drained = true);
        }
        Error::QueueFull { task, depth: self.terms.depth }
    }

    /// A lane for the calling thread: one that another thread has left, or a new one.
    #[cold]
    pub(crate) fn lane(self: &Arc<Self>, priority: Priority) -> Writer {
        let mut pool = self.pool();
        let fits = |writer: &Writer| writer.shared().priority == priority;
        // An empty one first, so that nobody starts behind what another thread has left while there is a better place.
        let empty = pool.spare.iter().position(|writer| fits(writer) && !writer.shared().has_task());
        if let Some(index) = empty.or_else(|| pool.spare.iter().position(fits)) {
            return pool.spare.swap_remove(index);
        }
        self.open(&mut pool, priority)
    }

    fn open(self: &Arc<Self>, pool: &mut Pool, priority: Priority) -> Writer {
        let writer = lane::lane(priority);
        let lane = pool.lanes % 1024;
        pool.lanes = pool.lanes.wrapping_add(1);
        for worker in 0..pool.reins.len() {
            let served = self.serve(writer.shared(), lane, worker);
            pool.owed.push((worker, served));
        }
        Self::pay(pool);
        writer
    }

    fn serve(self: &Arc<Self>, shared: &Arc<Shared>, lane: u32, worker: usize) -> Box<Served<Server>> {
        let facts = LaneFacts {
            lane,
            base: 0,
            instance_nonce: self.number,
            generation: 0,
            priority: shared.priority,
            attached_at: 0,
            meter: self.layout.lane(worker),
        };
        Box::new(Served::new(Server::new(Arc::clone(self), Arc::clone(shared), worker), facts))
    }

    /// Hands out lanes that workers had no room for.
    fn pay(pool: &mut Pool) {
        let Pool { reins, owed, .. } = pool;
        for (worker, served) in std::mem::take(owed) {
            let Some(control) = reins.get_mut(worker) else { continue };
            if let Err(crate::worker::ControlFull(served)) = control.adopt(served) {
                owed.push((worker, served));
            }
        }
    }

    /// The same, now and then.
    pub(crate) fn pay_debts(&self) {
        let mut pool = self.pool();
        if !pool.owed.is_empty() {
            Self::pay(&mut pool);
        }
    }

    /// Pushes for a thread that has no storage of its own any more.
    #[cold]
    pub(crate) fn push_in_common(self: &Arc<Self>, priority: Priority, job: Job) {
        let mut pool = self.pool();
        let index = match pool.common.iter().position(|writer| writer.shared().priority == priority) {
            Some(index) => index,
            None => {
                let writer = self.open(&mut pool, priority);
                pool.common.push(writer);
                pool.common.len() - 1
            }
        };
        if let Some(writer) = pool.common.get_mut(index) {
            writer.push(job);
        }
    }

    /// Takes back the lanes of a thread that ends.
    pub(crate) fn take_back(&self, writers: impl Iterator<Item = Writer>) {
        self.pool().spare.extend(writers);
    }

    pub(crate) fn employ(&self, reins: Vec<Reins>) {
        self.pool().reins = reins;
    }

    /// Tells all workers to end once their lanes are empty. Nothing is accepted any more, so they are.
    pub(crate) fn dismiss(&self) {
        let mut pool = self.pool();
        for control in &mut pool.reins {
            // Its ring holds nothing but lanes that are still to be read, and is never full of them for long.
            while control.dismiss().is_err() {
                std::thread::yield_now();
            }
        }
        drop(pool);
        (0..self.terms.workers).for_each(|worker| {
            self.beds.wake(worker);
        });
    }

    /// Lets go of everything that holds on to this engine.
    pub(crate) fn bury(&self) {
        let mut pool = self.pool();
        let pool = &mut *pool;
        let (reins, owed) = (std::mem::take(&mut pool.reins), std::mem::take(&mut pool.owed));
        (pool.spare, pool.common) = (Vec::new(), Vec::new());
        drop((reins, owed));
    }

    pub(crate) fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until `is_so`, for so long at most; what is so then.
    pub(crate) fn wait_for_news(&self, timeout: Option<Duration>, is_so: impl Fn(&News) -> bool) -> News {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match timeout {
            Some(timeout) => self
                .changed
                .wait_timeout_while(news, timeout, |news| !is_so(news))
                .map_or_else(|poisoned| poisoned.into_inner().0, |(news, _)| news),
            None => self.changed.wait_while(news, |news| !is_so(news)).unwrap_or_else(PoisonError::into_inner),
        };
        *news
    }

    /// Somebody has begun to work: the steward looks around again.
    #[inline]
    pub(crate) fn stir(&self) {
        // SeqCst: the worker is out of its bed before this look, as in `Steward::run` the word comes before the look at the beds.
        fence(SeqCst);
        if self.steward_rests.0.load(Relaxed) && self.steward_rests.0.swap(false, AcqRel) {
            self.tell(|news| news.stirred = true);
        }
    }

    /// Accepts nothing more.
    pub(crate) fn close(&self) {
        if self.depth.close() {
            self.tell(|news| news.drained = true);
        }
        self.stir();
    }
}
