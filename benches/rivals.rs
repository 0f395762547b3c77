//! What others would take to run a closure on another thread, each with one worker thread.

use std::error::Error;
use std::hint::spin_loop;
use std::thread::{JoinHandle, spawn};

use crossbeam_channel::{Receiver, RecvError, Sender, TryRecvError, TrySendError, bounded};
use executor_core::cpu::{CpuError, pin_current_thread};
use executord::floor::CAPACITY;

use crate::closures::Runner;
use crate::rates::{Job, Refused, boxed_count, insist, rate};

/// A thread that takes boxed closures from a channel and answers each over another one.
pub(crate) struct Crossbeam {
    jobs: Option<Sender<Job>>,
    answers: Receiver<()>,
    spins: bool,
    worker: Option<JoinHandle<()>>,
}

impl Crossbeam {
    /// Both sides spin, or else wait as a blocking receive does.
    pub(crate) fn start(spins: bool) -> Self {
        let (jobs, there) = bounded::<Job>(CAPACITY as usize);
        let (back, answers) = bounded(CAPACITY as usize);
        let worker = spawn(move || {
            while let Ok(job) = receive(&there, spins) {
                job();
                if back.send(()).is_err() {
                    break;
                }
            }
        });
        Self { jobs: Some(jobs), answers, spins, worker: Some(worker) }
    }
}

#[inline(always)]
fn receive<T>(from: &Receiver<T>, spins: bool) -> Result<T, RecvError> {
    if !spins {
        return from.recv();
    }
    loop {
        match from.try_recv() {
            Ok(value) => return Ok(value),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Disconnected) => return Err(RecvError),
        }
    }
}

impl Runner for Crossbeam {
    #[inline(always)]
    fn run(&mut self, closure: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn Error>> {
        let jobs = self.jobs.as_ref().ok_or("the channel is closed")?;
        jobs.send(Box::new(closure)).map_err(|_| "the worker of the channel ended")?;
        Ok(receive(&self.answers, self.spins)?)
    }
}

impl Drop for Crossbeam {
    fn drop(&mut self) {
        self.jobs = None; // ends the worker
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

/// Closures a second of so many submitters, boxed, through a bounded channel with room for `depth`; its worker spins.
pub(crate) fn crossbeam_tasks_per_second(
    cpus: (u32, u32),
    submitters: usize,
    tasks: u64,
    depth: usize,
) -> Result<f64, Box<dyn Error>> {
    let (jobs, there) = bounded::<Job>(depth);
    let worker = spawn(move || -> Result<(), CpuError> {
        pin_current_thread(cpus.1)?;
        while let Ok(job) = receive(&there, true) {
            job();
        }
        Ok(())
    });
    let measured = rate(cpus.0, tasks, vec![jobs; submitters], |jobs: &mut Sender<Job>| {
        insist(boxed_count(), |job: Job| {
            jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) => Refused::Full(job),
                TrySendError::Disconnected(_) => Refused::Ended("the worker of the channel ended".to_owned()),
            })
        })
    });
    worker.join().map_err(|_| "the worker of the channel panicked")??;
    Ok(measured?.0)
}

/// A tokio runtime of the kind with many threads, which here is one: `spawn`, and `block_on` of the handle from outside.
/// It has neither of the drivers that a thread without work would have to ask: that is its fastest form.
pub(crate) struct Tokio(tokio::runtime::Runtime);

impl Tokio {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        Ok(Self(tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?))
    }
}

impl Runner for Tokio {
    #[inline(always)]
    fn run(&mut self, closure: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn Error>> {
        let handle = self.0.spawn(async move { closure() });
        Ok(self.0.block_on(handle)?)
    }
}

/// A rayon pool with one thread: `install` from outside.
pub(crate) struct Rayon(rayon::ThreadPool);

impl Rayon {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        Ok(Self(rayon::ThreadPoolBuilder::new().num_threads(1).build()?))
    }
}

impl Runner for Rayon {
    #[inline(always)]
    fn run(&mut self, closure: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn Error>> {
        self.0.install(closure);
        Ok(())
    }
}
