//! A worker's control: lanes go in, lanes come back, and the worker notices after the task in its hands.
//!
//! It decides nothing; whoever keeps the lanes tells, and [`worker`](crate::worker) obeys.
//!
//! # Invariants
//! - T1: every command is followed by `called`, and the worker takes that word back before it reads commands: a command
//!   is read after at most one task and the sweeps over lanes that have none.
//!
//! # Memory ordering
//! | pair | `Release` store          | `Acquire` swap          | otherwise                                     |
//! |------|--------------------------|-------------------------|-----------------------------------------------|
//! | T1   | `called`, [`Control`]    | `called`, `is_called`   | a command waits for the next look by itself   |
//!
//! The lanes themselves travel through `rtrb` rings, which order what lies in them.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::dispatch::Served;

/// Commands that can wait for a worker, and lanes that can wait to be taken back.
const CONTROL_SLOTS: usize = 2 * 128;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command<L> {
    Adopt(Box<Served<L>>),
    Drain(u32),
    Close,
}

/// Words beside the rings. They have their lines for themselves: the worker reads one of them after every task.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Signals {
    /// A whole futex, because a worker that sleeps sleeps on it.
    called: AtomicU32,
    hurry: AtomicBool,
    /// Lanes are dropped, not handed back.
    keeps_lanes: AtomicBool,
}

/// The other end of a worker's control rings, in the hands of the housekeeping thread.
#[derive(Debug)]
pub struct Control<L> {
    commands: rtrb::Producer<Command<L>>,
    returned: rtrb::Consumer<Box<Served<L>>>,
    signals: Arc<Signals>,
}

/// The worker has more commands to read than its ring holds; try again later.
#[derive(Debug, thiserror::Error)]
#[error("the worker's control ring is full")]
pub struct ControlFull<T>(pub T);

impl<L> Control<L> {
    /// Gives the worker a lane to serve. Not after [`Control::close`]: a worker that has ended drops what it is given.
    ///
    /// # Errors
    ///
    /// Hands the lane back if the worker does not read its commands now.
    pub fn adopt(&mut self, served: Box<Served<L>>) -> Result<(), ControlFull<Box<Served<L>>>> {
        self.tell(Command::Adopt(served)).map_err(|command| match command {
            Command::Adopt(served) => ControlFull(served),
            _ => unreachable!("the ring hands back what was pushed"),
        })
    }

    /// Asks for lane `lane` back once it is empty, or has been served its capacity once more.
    ///
    /// # Errors
    ///
    /// The worker does not read its commands now.
    pub fn drain(&mut self, lane: u32) -> Result<(), ControlFull<()>> {
        self.tell(Command::Drain(lane)).map_err(|_| ControlFull(()))
    }

    /// Tells the worker to serve what is there, at most a capacity a lane, hand all lanes back and end.
    ///
    /// # Errors
    ///
    /// The worker does not read its commands now.
    pub fn close(&mut self) -> Result<(), ControlFull<()>> {
        self.tell(Command::Close).map_err(|_| ControlFull(()))
    }

    /// The same for who wants no lane back: the worker drops them, as many as there are.
    ///
    /// # Errors
    ///
    /// The worker does not read its commands now.
    pub fn dismiss(&mut self) -> Result<(), ControlFull<()>> {
        self.signals.keeps_lanes.store(true, Relaxed); // seen by who reads the command that follows
        self.close()
    }

    /// Tells a worker that drains or closes, now or later, to do so after the task in its hands.
    pub fn hurry(&self) {
        self.signals.hurry.store(true, Relaxed);
        self.signals.called.store(1, Release);
    }

    /// The word that is 1 from a command until the worker reads its commands. A worker that sleeps sleeps on it: whoever
    /// keeps workers that do wakes it after each command.
    pub fn call(&self) -> &AtomicU32 {
        &self.signals.called
    }

    /// Has the worker look at its commands and lanes, as a command does.
    pub fn rouse(&self) {
        self.signals.called.store(1, Release); // T1
    }

    /// A lane that came back.
    pub fn take_returned(&mut self) -> Option<Box<Served<L>>> {
        self.returned.pop().ok()
    }

    fn tell(&mut self, command: Command<L>) -> Result<(), Command<L>> {
        self.commands.push(command).map_err(|rtrb::PushError::Full(command)| command)?;
        self.signals.called.store(1, Release); // T1
        Ok(())
    }
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Orders<L> {
    commands: rtrb::Consumer<Command<L>>,
    returned: rtrb::Producer<Box<Served<L>>>,
    signals: Arc<Signals>,
}

/// Both ends of a worker's control.
pub(crate) fn control<L>() -> (Control<L>, Orders<L>) {
    let (command_writer, command_reader) = rtrb::RingBuffer::new(CONTROL_SLOTS);
    let (returned_writer, returned_reader) = rtrb::RingBuffer::new(CONTROL_SLOTS);
    let signals = Arc::new(Signals::default());
    let control = Control { commands: command_writer, returned: returned_reader, signals: Arc::clone(&signals) };
    (control, Orders { commands: command_reader, returned: returned_writer, signals })
}

impl<L> Orders<L> {
    /// Whether there is something to look at. Costs a load of a line that nobody writes while there is not.
    #[inline(always)]
    pub(crate) fn is_called(&self) -> bool {
        self.signals.called.load(Relaxed) != 0
    }

    /// Says that the worker looks now. Call it before [`Orders::next`].
    pub(crate) fn answer(&self) {
        if self.is_called() {
            self.signals.called.swap(0, Acquire); // T1
        }
    }

    /// The word to sleep on; 0 while nobody calls.
    pub(crate) fn call(&self) -> &AtomicU32 {
        &self.signals.called
    }

    pub(crate) fn next(&mut self) -> Option<Command<L>> {
        self.commands.pop().ok()
    }

    pub(crate) fn hurry(&self) -> bool {
        self.signals.hurry.load(Relaxed)
    }

    pub(crate) fn can_return(&self) -> bool {
        self.keeps_lanes() || !self.returned.is_full()
    }

    fn keeps_lanes(&self) -> bool {
        self.signals.keeps_lanes.load(Relaxed)
    }

    /// Hands a lane back, or drops it where nobody wants it; [`Orders::can_return`] said yes.
    pub(crate) fn give_back(&mut self, served: Box<Served<L>>) {
        if self.keeps_lanes() {
            return;
        }
        if self.returned.push(served).is_err() {
            unreachable!("the ring was not full and has one writer");
        }
    }
}
