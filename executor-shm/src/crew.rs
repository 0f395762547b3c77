//! The threads of the workers, pinned and with their handlers made, before they have anything to serve.
//!
//! A start that fails, and a standby that is given up, let them go: they end without having served.

use std::sync::mpsc::{self, Receiver, Sender};

use executor_core::cpu;
use executor_core::registry::{Registry, Since, Table};
use executor_core::worker::Worker;

use crate::fault::Witness;
use crate::hold::{HoldWord, take_real_time};
use crate::housekeeping::ShmLane;
use crate::lock::fork_generation;
use crate::mapped::MeterWords;
use crate::rehearsal::{JoinHandle, last_step, receive};
use crate::sidecar::{StartError, spawn};
use crate::slice::ShortSlice;

/// What a thread waits for.
pub(crate) struct Engagement {
    pub(crate) worker: Worker<ShmLane, MeterWords>,
    /// Who notes its crashes.
    pub(crate) witness: Witness,
    /// The past of its handlers.
    pub(crate) since: Vec<Since>,
}

/// Threads that wait for their workers. Dropped, they end.
#[derive(Debug)]
pub(crate) struct Crew {
    hands: Vec<Hand>,
    /// Of those that have not said yet that they are ready.
    answers: Vec<Receiver<Result<HoldWord, StartError>>>,
    generation: u64,
}

#[derive(Debug)]
struct Hand {
    /// Dropped before the thread is joined: that ends its wait.
    go: Sender<Engagement>,
    thread: JoinHandle<bool>,
    /// How it is scheduled.
    real_time: HoldWord,
}

impl Crew {
    /// Starts one thread for each of `cpus`; each pins itself there, unless it is `None`, makes the handlers of its worker,
    /// and then is scheduled as `real_time` says, if it may.
    ///
    /// # Errors
    ///
    /// A thread could not be started.
    pub(crate) fn call(
        registry: &Registry,
        cpus: &[Option<u32>],
        real_time: Option<executor_core::real_time::RealTime>,
    ) -> Result<Self, StartError> {
        let mut crew = Self { hands: Vec::new(), answers: Vec::new(), generation: fork_generation() };
        for (number, &cpu) in (0u32..).zip(cpus) {
            let (go, wait) = mpsc::channel::<Engagement>();
            let (tell, told) = mpsc::channel::<Result<HoldWord, StartError>>();
            let registry = registry.clone();
            let thread = spawn(&format!("executor-work-{number}"), move || {
                let pinned = cpu.map_or(Ok(()), cpu::pin_current_thread).map_err(StartError::from);
                let table = pinned.and_then(|()| Ok(Table::new(&registry, number)?));
                let taken = || real_time.map_or(HoldWord::NOT_ASKED, take_real_time);
                let (table, answer) = table.map_or_else(|error| (None, Err(error)), |table| (Some(table), Ok(taken())));
                let _ = tell.send(answer);
                let short = ShortSlice::take(); // the handlers have been made: what they started has slices of its own
                let (Some(table), Ok(engagement)) = (table, receive(&wait)) else { return false };
                drop(short);
                let Engagement { worker, witness, since } = engagement;
                witness.watch(|| worker.serve_with(table.dated(&since)));
                true
            })?;
            crew.hands.push(Hand { go, thread, real_time: HoldWord::NOT_ASKED });
            crew.answers.push(told);
        }
        Ok(crew)
    }

    /// Waits until all are ready.
    ///
    /// # Errors
    ///
    /// A thread could not be pinned, or a handler's own state could not be made.
    pub(crate) fn muster(&mut self) -> Result<(), StartError> {
        for (hand, answer) in self.hands.iter_mut().zip(self.answers.drain(..)) {
            let died = || StartError::Thread(std::io::Error::other("a worker ended before it was ready"));
            hand.real_time = receive(&answer).unwrap_or_else(|_| Err(died()))?;
        }
        Ok(())
    }

    /// How each thread is scheduled, once all are [ready](Self::muster).
    pub(crate) fn real_time(&self) -> Vec<HoldWord> {
        self.hands.iter().map(|hand| hand.real_time).collect()
    }

    /// Gives each thread its worker; they serve from now on.
    pub(crate) fn engage(mut self, engagements: Vec<Engagement>) -> Vec<JoinHandle<bool>> {
        let engage = |(hand, engagement): (Hand, Engagement)| {
            let _ = hand.go.send(engagement); // a thread that died is found by housekeeping
            hand.thread
        };
        std::mem::take(&mut self.hands).into_iter().zip(engagements).map(engage).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let threads: Vec<JoinHandle<bool>> = self.hands.drain(..).map(|hand| hand.thread).collect();
        if self.generation != fork_generation() || !last_step() {
            return; // a forked child has none of them
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}
