//! One lane in the hands of many tasks: the client behind a mutex, and who waits for what.
//!
//! The lock is held for as long as a submit or a copy of a response takes and never over a wait, a system call that
//! sleeps, or code of the caller: wakers are called, and dropped, after it is let go, since either may come back here.
//!
//! # Invariants
//! - S1: nothing here is locked in a forked child, where another thread may have held the lock for ever: the fork
//!   generation is compared first (N3).
//! - S2: every position below `ended` has ended, and whoever waits for one was woken after that. `ended` grows under the
//!   lock alone, and a task's waker is left under the lock after a look that found it pending, so `ended` is not past it.
//! - S3: while the lane has room, somebody in the queue for it has been woken and has neither submitted nor given up; each
//!   of these wakes the next. A future that is forgotten breaks the chain until the watcher's next round.
//! - S4: while the next plain completion is there and was seen by the watcher, the event is raised: it is cleared under
//!   the lock alone, after a look that found nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use executor_shm::InstanceName;
use executor_shm::lock::fork_generation;
use executor_shm::lookout::Lookout;
use nix::sys::eventfd::EventFd;

use crate::client::{Client, CollectError, LaneStatus, Note};
use crate::completion::{Completion, OwnedCompletion};
use crate::descriptor::TaskDescriptor;
use crate::submit::SubmitError;
use crate::ticket::{Abandoned, Ticket};
use crate::typed::{Contract, ContractError, NOTICE};
use crate::wait::WaitError;
use crate::watcher;

/// Time between two looks at what no word tells of: whether the sidecar has taken a lane.
pub(crate) const NOTICE_NAP: Duration = Duration::from_millis(1);

/// The lane of an [`AsyncClient`](crate::AsyncClient) and of the futures it made. Dropped, it is detached.
#[derive(Debug)]
pub(crate) struct SharedLane {
    generation: u64,
    abandoned: Arc<Abandoned>,
    pub(crate) facts: Facts,
    inner: Mutex<Inner>,
}

/// What never changes.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) instance: InstanceName,
    pub(crate) number: u32,
    pub(crate) capacity: usize,
    pub(crate) request_limit: usize,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Client,
    /// Whoever waits for the task in a slot.
    tasks: Box<[Option<Waker>]>,
    ended: u64,
    /// Submits that wait for room, oldest first.
    room: BTreeMap<u64, Waker>,
    streams: BTreeMap<u64, Waker>,
    /// Calls that wait until the sidecar takes the lane.
    notices: Vec<Waker>,
    noticed_at: Instant,
    /// Numbers for both queues.
    next: u64,
    event: Weak<EventFd>,
    is_raised: bool,
    is_discarded: bool,
    /// Whether a poller was told that the lane serves no more.
    is_end_told: bool,
    /// Whether the watcher knows the lane.
    is_watched: bool,
}

/// Wakers on their way out of the lock.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    woken: Vec<Waker>,
    /// Of nobody any more. Dropping one may run a future's destructor.
    stale: Vec<Waker>,
}

impl Wakers {
    /// Wakes them all. The lock must be free.
    pub(crate) fn wake(self) {
        self.woken.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn into_woken(self) -> Vec<Waker> {
        self.woken
    }
}

/// A place in the queue for room, which whoever waits keeps until it has submitted.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

impl Place {
    pub(crate) fn is_queued(&self) -> bool {
        self.0.is_some()
    }
}

impl SharedLane {
    pub(crate) fn new(mut client: Client) -> Arc<Self> {
        client.tells = false;
        let inner = Inner {
            tasks: (0..client.capacity()).map(|_| None).collect(),
            ended: client.lane.credited(),
            room: BTreeMap::new(),
            streams: BTreeMap::new(),
            notices: Vec::new(),
            noticed_at: Instant::now(),
            next: 0,
            event: Weak::new(),
            is_raised: false,
            is_discarded: false,
            is_end_told: false,
            is_watched: false,
            client,
        };
        let (generation, abandoned) = (inner.client.generation, Arc::clone(&inner.client.abandoned));
        let client = &inner.client;
        let facts = Facts {
            instance: client.instance().clone(),
            number: client.lane_number(),
            capacity: client.capacity(),
            request_limit: client.request_limit(),
        };
        Arc::new(Self { generation, abandoned, facts, inner: Mutex::new(inner) })
    }

    pub(crate) fn abandoned(&self) -> Arc<Abandoned> {
        Arc::clone(&self.abandoned)
    }

    /// S1. `None`: this is a forked child.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, Inner>> {
        // A panic under the lock is a bug of ours, and everything in there is whole between two statements.
        (self.generation == fork_generation()).then(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What `body` says under the lock; then the wakers it let go are woken. `None`: this is a forked child.
    pub(crate) fn with<R>(&self, body: impl FnOnce(&mut Inner, &mut Wakers) -> R) -> Option<R> {
        let mut wakers = Wakers::default();
        let result = body(&mut *self.lock()?, &mut wakers);
        wakers.wake();
        Some(result)
    }

    /// As [`with`](Self::with), for what may have to wait: the watcher is on before that.
    pub(crate) fn poll<T, E: From<NoWatcher> + From<CollectError>>(
        self: &Arc<Self>,
        body: impl FnOnce(&mut Inner, &mut Wakers) -> Poll<Result<T, E>>,
    ) -> Poll<Result<T, E>> {
        let polled = self.with(|inner, wakers| (body(inner, wakers), inner.is_watched && !inner.is_noticing()));
        let Some((polled, is_watched)) = polled else { return Poll::Ready(Err(CollectError::Forked.into())) };
        if polled.is_pending() && !is_watched {
            self.watch()?;
        }
        polled
    }

    /// Has the watcher look after the lane, from now on.
    pub(crate) fn watch(self: &Arc<Self>) -> Result<(), NoWatcher> {
        watcher::attend(self)?;
        self.with(|inner, _| inner.is_watched = true);
        Ok(())
    }
}

impl Drop for SharedLane {
    fn drop(&mut self) {
        if self.generation == fork_generation() {
            watcher::dismiss(self);
        }
    }
}

/// The thread that wakes futures could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoWatcher(pub(crate) i32);

impl Inner {
    /// A number that no other queued one has.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn forget_task(&mut self, position: u64, wakers: &mut Wakers) {
        let slot = self.client.slot(position);
        wakers.stale.extend(self.tasks.get_mut(slot).and_then(Option::take));
    }

    /// The end of the ticket's task, or whether it will ever come.
    pub(crate) fn poll_task(
        &mut self,
        ticket: &mut Ticket,
        context: &Context<'_>,
        wakers: &mut Wakers,
    ) -> Poll<Result<OwnedCompletion, WaitError>> {
        let position = ticket.position;
        let outcome = match self.client.try_wait(ticket).map(|ended| ended.map(Completion::into_owned)) {
            Err(WaitError::AlreadyTaken) => return Poll::Ready(Err(WaitError::AlreadyTaken)),
            Ok(Some(completion)) => Ok(completion),
            Err(error) => Err(error),
            Ok(None) => match self.prospects(position) {
                Err(error) => Err(error),
                Ok(()) => {
                    let slot = self.client.slot(position);
                    if let Some(place) = self.tasks.get_mut(slot)
                        && !place.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
                    {
                        wakers.stale.extend(place.replace(context.waker().clone())); // S2
                    }
                    return Poll::Pending;
                }
            },
        };
        self.forget_task(position, wakers);
        self.make_room(wakers);
        Poll::Ready(outcome)
    }

    /// Nobody will ask for the ticket's completion: its slot comes back once the task has ended.
    pub(crate) fn abandon(&mut self, ticket: &mut Ticket, wakers: &mut Wakers) {
        if !ticket.taken {
            ticket.taken = true;
            self.client.abandoned.set(ticket.position);
            self.forget_task(ticket.position, wakers);
            self.make_room(wakers);
        }
    }

    fn prospects(&self, position: u64) -> Result<(), WaitError> {
        if self.is_discarded && self.client.look(position)?.is_none() {
            return Err(WaitError::Discarded);
        }
        self.client.prospects(position)
    }

    /// S3: gives back what slots it can, and wakes as many of the queue as there is room for.
    fn make_room(&mut self, wakers: &mut Wakers) {
        if self.room.is_empty() {
            return;
        }
        self.client.reclaim();
        let is_served = matches!(self.client.state(), LaneStatus::Claimed | LaneStatus::Served) && !self.is_discarded;
        let free = if is_served { self.client.capacity() as u64 - self.client.in_flight() } else { u64::MAX };
        for _ in 0..free {
            let Some((_, waker)) = self.room.pop_first() else { break };
            wakers.woken.push(waker);
        }
    }

    /// Submits, or queues for room.
    pub(crate) fn poll_push(
        &mut self,
        place: &mut Place,
        task: &TaskDescriptor,
        (length, fill): (usize, impl FnOnce(&mut [u8])),
        note: Note,
        (context, wakers): (&Context<'_>, &mut Wakers),
    ) -> Poll<Result<u64, SubmitError>> {
        if place.0.is_some() || self.room.is_empty() {
            let pushed = self.client.push_with(task, length, fill, note);
            match pushed {
                Err(SubmitError::Full(task)) if self.is_discarded => {
                    self.leave(place, wakers);
                    return Poll::Ready(Err(SubmitError::Discarded(task)));
                }
                Err(SubmitError::Full(_)) => {}
                other => {
                    self.leave(place, wakers);
                    return Poll::Ready(other);
                }
            }
        }
        let number = place.0.unwrap_or_else(|| self.number());
        place.0 = Some(number);
        wakers.stale.extend(self.room.insert(number, context.waker().clone()));
        Poll::Pending
    }

    /// Gives a place in the queue up, and lets the next one on.
    pub(crate) fn leave(&mut self, place: &mut Place, wakers: &mut Wakers) {
        if let Some(number) = place.0.take() {
            wakers.stale.extend(self.room.remove(&number));
            self.make_room(wakers);
        }
    }

    /// The next plain completion if it is there.
    pub(crate) fn collect(&mut self, wakers: &mut Wakers) -> Result<Option<OwnedCompletion>, WaitError> {
        if let Some(completion) = self.client.try_collect()?.map(Completion::into_owned) {
            self.make_room(wakers);
            return Ok(Some(completion));
        }
        match self.client.next_plain() {
            Some(position) => self.prospects(position)?,
            None if self.is_discarded || self.client.state() == LaneStatus::Lost => return Err(WaitError::Discarded),
            None => {}
        }
        if self.is_raised
            && let Some(event) = self.event.upgrade()
        {
            // S4. It may have been read already.
            let _ = event.read();
            self.is_raised = false;
        }
        Ok(None)
    }

    /// Whether no plain completion will come any more: the lane takes no tasks, and those it took have ended.
    pub(crate) fn is_over(&mut self) -> bool {
        self.client.next_plain().is_none() && self.client.state() == LaneStatus::Poisoned
    }

    pub(crate) fn poll_plain(
        &mut self,
        number: u64,
        context: &Context<'_>,
        wakers: &mut Wakers,
    ) -> Poll<Result<Option<OwnedCompletion>, WaitError>> {
        let collected = self.collect(wakers);
        if matches!(collected, Ok(None)) && !self.is_over() {
            wakers.stale.extend(self.streams.insert(number, context.waker().clone()));
            return Poll::Pending;
        }
        Poll::Ready(collected)
    }

    pub(crate) fn forget_stream(&mut self, number: u64, wakers: &mut Wakers) {
        wakers.stale.extend(self.streams.remove(&number));
    }

    /// The event that tells of plain completions, made if nobody has it.
    pub(crate) fn event(&mut self, make: impl FnOnce() -> nix::Result<EventFd>) -> nix::Result<Arc<EventFd>> {
        if let Some(event) = self.event.upgrade() {
            return Ok(event);
        }
        let event = Arc::new(make()?);
        self.event = Arc::downgrade(&event);
        self.raise(); // what `ended` has passed is told by nobody else; one for nothing does no harm
        Ok(event)
    }

    /// S4. Each raise counts, so that a poller who is told of edges hears of each.
    fn raise(&mut self) {
        if let Some(event) = self.event.upgrade() {
            let _ = event.write(1); // refused at 2^64 - 2: then it is raised
            self.is_raised = true;
        }
    }

    /// Compares a contract once the sidecar has taken the lane.
    pub(crate) fn poll_agree(
        &mut self,
        contract: &Contract,
        until: &mut Option<Instant>,
        context: &Context<'_>,
    ) -> Poll<Result<(), ContractError>> {
        if self.client.has_agreed(contract) {
            return Poll::Ready(Ok(()));
        }
        if self.client.state() == LaneStatus::Claimed {
            let now = Instant::now();
            if now >= *until.get_or_insert(now + NOTICE) || !self.client.is_executor_alive() {
                return Poll::Ready(Err(ContractError::NotServed));
            }
            self.client.instance.wake_housekeeping();
            self.notices.push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(self.client.compare_now(contract))
    }
}

/// The watcher's side.
impl Inner {
    /// Takes note of what has ended since, and wakes whoever waits for it.
    pub(crate) fn advance(&mut self, wakers: &mut Wakers) {
        self.ended = self.ended.max(self.client.lane.credited());
        let mut is_plain = false;
        while self.ended < self.client.lane.submitted() && !matches!(self.client.look(self.ended), Ok(None)) {
            match self.client.note_of(self.ended) {
                Note::Plain => is_plain = true,
                Note::Ticket => {
                    let slot = self.client.slot(self.ended);
                    wakers.woken.extend(self.tasks.get_mut(slot).and_then(Option::take));
                }
                Note::Taken => {}
            }
            self.ended += 1;
        }
        if is_plain {
            wakers.woken.extend(std::mem::take(&mut self.streams).into_values());
            self.raise();
        }
        self.client.reclaim();
        self.make_room(wakers);
        if self.is_noticing() && self.noticed_at.elapsed() >= NOTICE_NAP {
            self.noticed_at = Instant::now();
            wakers.woken.append(&mut self.notices);
        }
    }

    /// The slow side: whoever waits for what will never come is woken to see that.
    pub(crate) fn probe(&mut self, wakers: &mut Wakers) {
        if self.client.is_whole() {
            self.client.lane.tell();
        }
        let instance = &self.client.instance;
        self.is_discarded = self.is_discarded || (!instance.is_alive() && instance.is_discarded());
        if self.is_discarded || !matches!(self.client.state(), LaneStatus::Claimed | LaneStatus::Served) {
            wakers.woken.extend(self.tasks.iter_mut().filter_map(Option::take));
            wakers.woken.extend(std::mem::take(&mut self.streams).into_values());
            self.make_room(wakers);
            if !self.is_end_told || self.client.next_plain().is_some() {
                self.raise();
            }
            self.is_end_told = true;
        }
    }

    /// Whether somebody waits for the sidecar to take the lane, which no word of it tells.
    pub(crate) fn is_noticing(&self) -> bool {
        !self.notices.is_empty()
    }

    /// Says where the watcher will sleep. `false`: nobody may write into the lane any more.
    pub(crate) fn say(&self) -> bool {
        let is_whole = self.client.is_whole();
        if is_whole {
            Lookout::say(&self.client.lane, self.ended);
        }
        is_whole
    }

    /// Watches for the next end; `false` if it is there.
    pub(crate) fn expect(&self, lookout: &mut Lookout) -> bool {
        lookout.expect(&self.client.lane, self.ended)
    }

    /// Whether the next completion is there, and has been for longer than that.
    pub(crate) fn has_ended_before(&self, age: Duration) -> bool {
        let (client, next) = (&self.client, self.ended.max(self.client.lane.credited()));
        let is_open = next < client.lane.submitted();
        let ended = is_open.then(|| client.look(next).ok().flatten()).flatten();
        ended.map(|(record, _)| record.completed_at()).is_some_and(|at| {
            at != 0 && client.clock.ticks_to_ns(client.clock.now().saturating_sub(at)) > age.as_nanos() as u64
        })
    }
}
