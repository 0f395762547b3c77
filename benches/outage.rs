//! One sidecar killed under the eyes of its producers, and how long it takes until another one answers them.
//!
//! A completion counts only if the new process ran its task: one that the old process left, or that recovery wrote, says
//! nothing about who serves.

use std::error::Error;
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use executor_client::bytemuck::bytes_of;
use executor_client::{Client, Status, TaskDescriptor};
use executor_core::TaskSpec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sidecar::SidecarProcess;

/// The process that runs it.
pub(crate) struct WhoServes;

impl TaskSpec for WhoServes {
    const ID: u32 = 1;
    const NAME: &'static str = "who-serves";
    const SCHEMA: u32 = 1;
    type Args = u64;
    type Output = u64;
}

/// What comes after the sidecar that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Successor {
    /// A standby that waits for it.
    Standby,
    /// A process that its parent starts at once when it sees it dead.
    Restart,
}

/// How long producers were without a sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    /// Until the kernel told the parent of the death.
    pub(crate) dead: Duration,
    /// Until a producer saw a completion again.
    pub(crate) first: Duration,
    /// Until the producer of every lane did.
    pub(crate) all: Duration,
}

/// The longest that anything may take here.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the parent of the sidecars does.
#[derive(Debug)]
enum Job {
    /// Starts a standby, and answers once it stands by.
    StandBy,
    /// Waits for the end of this one, which is to be killed, and starts another one if that is its way.
    Await(Child, Successor),
}

/// The parent of the sidecars: a thread of its own, which is not pinned and lives as long as its children. They inherit the
/// one, and the kernel signals them at the end of the other.
#[derive(Debug)]
pub(crate) struct Parent {
    tell: Sender<Job>,
    told: Receiver<Result<Instant, String>>,
}

impl Parent {
    /// A parent for more processes of `sidecar`.
    pub(crate) fn new<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, sidecar: &'scope SidecarProcess) -> Self {
        let (tell, jobs) = channel::<Job>();
        let (answer, told) = channel();
        scope.spawn(move || {
            for job in jobs {
                let done = perform(job, sidecar).map_err(|error| error.to_string());
                if answer.send(done).is_err() {
                    return;
                }
            }
        });
        Self { tell, told }
    }
}

/// Does a job, and says when what it waited for had come.
fn perform(job: Job, sidecar: &SidecarProcess) -> Result<Instant, Box<dyn Error>> {
    match job {
        Job::StandBy => sidecar.stand_by().map(|()| Instant::now()),
        Job::Await(mut child, successor) => {
            child.wait()?;
            let died = Instant::now();
            if successor == Successor::Restart {
                sidecar.restart()?;
            }
            Ok(died)
        }
    }
}

/// Kills the sidecar and watches from lane `first` who answers.
pub(crate) fn outage(
    sidecar: &SidecarProcess,
    parent: &Parent,
    successor: Successor,
    clients: &mut [Client],
    first: usize,
) -> Result<Outage, Box<dyn Error>> {
    if successor == Successor::Standby {
        parent.tell.send(Job::StandBy)?;
        parent.told.recv()??;
    }
    let child = sidecar.take_serving()?;
    let old = u64::from(child.id());
    let pid = Pid::from_raw(child.id() as i32);
    parent.tell.send(Job::Await(child, successor))?;
    let client = clients.get_mut(first).ok_or("no such lane")?;
    if who_serves(client, 0)? != Some(old) {
        return Err("another sidecar than the one to be killed answers".into());
    }
    let killed = Instant::now();
    kill(pid, Signal::SIGKILL)?; // reaped only after it is dead, so the pid is its own
    while who_serves(client, old)?.is_none() {
        if killed.elapsed() > PATIENCE {
            return Err("nobody follows the sidecar that was killed".into());
        }
    }
    let seen = killed.elapsed();
    for client in clients.iter_mut() {
        submit(client)?;
    }
    for client in clients.iter_mut() {
        collect(client, old)?;
    }
    let all = killed.elapsed();
    let died = parent.told.recv()??;
    Ok(Outage { dead: died.saturating_duration_since(killed), first: seen, all })
}

fn submit(client: &mut Client) -> Result<(), Box<dyn Error>> {
    client.try_submit(&TaskDescriptor::new(WhoServes::ID), bytes_of(&0u64))?;
    Ok(())
}

/// The end of the task in flight: who ran it, if that was somebody else than `old`.
fn collect(client: &mut Client, old: u64) -> Result<Option<u64>, Box<dyn Error>> {
    let begun = Instant::now();
    loop {
        if let Some(completion) = client.try_collect()? {
            let who = completion.response().read::<u64>().filter(|_| completion.status() == Status::Done);
            return Ok(who.filter(|&who| who != old));
        }
        std::hint::spin_loop();
        if begun.elapsed() > PATIENCE {
            return Err("a task is not answered".into());
        }
    }
}

fn who_serves(client: &mut Client, old: u64) -> Result<Option<u64>, Box<dyn Error>> {
    submit(client)?;
    collect(client, old)
}
