//! The processes of a round: who lives, who is missing, who ended.
//!
//! Words of the ledger: sidecars have the first ones, producers the next.

use std::sync::Arc;

use executor_tests::role;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::dice::{Stream, dice};
use crate::ledger::Doing;
use crate::plan::{Mode, Plan};
use crate::setting::Setting;
use crate::sidecar::Start;
use crate::{producer, sidecar};

/// Most sidecars at once: one that serves, and one that stands by.
const SIDECARS: usize = 2;

/// A process that was taken off the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// A sidecar of a build, which was asked to stop or not.
    Sidecar {
        build: u32,
        asked: bool,
    },
    Producer {
        number: usize,
    },
}

#[derive(Debug)]
struct Sidecar {
    pid: Pid,
    build: u32,
    asked: bool,
}

/// All processes of a round. Dropped, it leaves none.
#[derive(Debug)]
pub(crate) struct Company {
    setting: Arc<Setting>,
    sidecars: [Option<Sidecar>; SIDECARS],
    producers: Vec<Option<Pid>>,
    /// Processes begun so far: each draws its own choices.
    begun: u64,
}

impl Drop for Company {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

impl Company {
    pub(crate) fn new(setting: &Arc<Setting>) -> Self {
        let producers = vec![None; setting.plan.producers];
        Self { setting: Arc::clone(setting), sidecars: [const { None }; SIDECARS], producers, begun: 0 }
    }

    /// Begins every process that is missing.
    pub(crate) fn fill(&mut self) -> Result<(), Errno> {
        for index in 0..self.wanted_sidecars() {
            if self.sidecars[index].is_none() {
                self.begin_sidecar(index)?;
            }
        }
        for number in 0..self.producers.len() {
            if self.producers[number].is_none() {
                self.begun += 1;
                let (setting, begun, role) = (&self.setting, self.begun, SIDECARS + number);
                setting.ledger.set_doing(role, Doing::Nothing, 0);
                self.producers[number] = Some(role::spawn(|| producer::produce(setting, role, begun))?);
            }
        }
        Ok(())
    }

    /// Begins a sidecar if there is none.
    pub(crate) fn fill_sidecar(&mut self) -> Result<(), Errno> {
        if self.sidecars.iter().all(Option::is_none) { self.begin_sidecar(0) } else { Ok(()) }
    }

    fn wanted_sidecars(&self) -> usize {
        if self.setting.plan.mode == Mode::Standby { SIDECARS } else { 1 }
    }

    fn begin_sidecar(&mut self, index: usize) -> Result<(), Errno> {
        let Plan { seed, round, mode, .. } = self.setting.plan;
        let mut dice = dice(seed, Stream::Start, round, self.begun);
        let build = if mode == Mode::Upgrade && dice.u32(0..3) == 0 { 2 } else { 1 };
        let start = Start { role: index, build, workers: dice.usize(1..=sidecar::WORKERS_MAX) };
        self.begun += 1;
        let setting = &self.setting;
        setting.ledger.set_doing(index, Doing::Nothing, 0);
        let pid = role::spawn(|| sidecar::serve(setting, start))?;
        self.sidecars[index] = Some(Sidecar { pid, build, asked: false });
        Ok(())
    }

    pub(crate) fn sidecar(&self, index: usize) -> Option<Pid> {
        self.sidecars[index].as_ref().map(|sidecar| sidecar.pid)
    }

    pub(crate) fn producer(&self, number: usize) -> Option<Pid> {
        self.producers[number]
    }

    /// What a sidecar was doing last.
    pub(crate) fn sidecar_doing(&self, index: usize) -> Doing {
        self.setting.ledger.doing(index).0
    }

    /// What a producer was doing last, and on which of its lanes.
    pub(crate) fn producer_doing(&self, number: usize) -> (Doing, u64) {
        self.setting.ledger.doing(SIDECARS + number)
    }

    /// The sidecar that serves, or is the only one; whether it was asked to stop.
    pub(crate) fn server(&self) -> Option<(usize, bool)> {
        let living = || (0..SIDECARS).filter(|&index| self.sidecars[index].is_some());
        let serving = living().find(|&index| self.sidecar_doing(index) == Doing::Serving);
        let index = serving.or_else(|| living().next())?;
        Some((index, self.sidecars[index].as_ref().is_some_and(|sidecar| sidecar.asked)))
    }

    /// Whether a sidecar serves that was not asked to stop.
    pub(crate) fn is_served(&self) -> bool {
        self.server().is_some_and(|(index, asked)| !asked && self.sidecar_doing(index) == Doing::Serving)
    }

    /// The sidecar that is not `server`.
    pub(crate) fn other_than(&self, server: usize) -> Option<usize> {
        (0..SIDECARS).find(|&index| index != server && self.sidecars[index].is_some())
    }

    /// Asks a sidecar to stop, once: a second signal would end it without manners.
    pub(crate) fn ask(&mut self, index: usize) -> Result<(), Errno> {
        let Some(sidecar) = self.sidecars[index].as_mut().filter(|sidecar| !sidecar.asked) else { return Ok(()) };
        sidecar.asked = true;
        kill(sidecar.pid, Signal::SIGTERM)
    }

    /// Takes a process that ended off the list.
    pub(crate) fn remove(&mut self, pid: Pid) -> Option<Member> {
        for sidecar in &mut self.sidecars {
            if let Some(Sidecar { build, asked, .. }) = sidecar.take_if(|sidecar| sidecar.pid == pid) {
                return Some(Member::Sidecar { build, asked });
            }
        }
        let number = self.producers.iter().position(|producer| *producer == Some(pid))?;
        self.producers[number] = None;
        Some(Member::Producer { number })
    }

    pub(crate) fn has_producers(&self) -> bool {
        self.producers.iter().any(Option::is_some)
    }

    fn pids(&self) -> impl Iterator<Item = Pid> {
        let sidecars = self.sidecars.iter().flatten().map(|sidecar| sidecar.pid);
        sidecars.chain(self.producers.iter().flatten().copied())
    }
}
