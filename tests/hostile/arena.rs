//! One attack: a sidecar, a victim and the attackers beside it, from the first start to the clean end.
//!
//! This process has one thread and uses nothing of the library but layouts and names, so that its children may use all.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use executor_shm::InstanceName;
use executor_shm::layout::{Geometry, journal::k};
use executor_shm::state::{LaneState, LaneWord};
use executor_shm::words::Words;
use executor_tests::mail::{Letter, Mailbox};
use executor_tests::ownership;
use executor_tests::shared::{KeptFile, SharedTable};
use executor_tests::{FAIL_SAFE, role};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::attack::{Attack, attack};
use crate::board::{Board, Count};
use crate::report::Outcome;
use crate::sidecar::{REMOVED, serve};
use crate::victim::endure;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Attackers at once.
const ATTACKERS: u64 = 2;
/// Most complaints that are told.
const TOLD_MAX: usize = 10;

/// An attack while it runs. Dropped, it leaves no process and no file.
#[derive(Debug)]
pub(crate) struct Arena<'a> {
    instance: InstanceName,
    attack: Attack,
    seed: u64,
    board: Board,
    signals: &'a SignalFd,
    outcome: Outcome,
    sidecar: Option<Pid>,
    victim: Option<Pid>,
    attackers: Vec<(u64, Pid)>,
    begun: u64,
    is_ending: bool,
    is_interrupted: bool,
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        self.end_attackers();
        for pid in [self.victim, self.sidecar].into_iter().flatten() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        for file in ownership::files(&self.instance) {
            let _ = fs::remove_file(file);
        }
    }
}

impl<'a> Arena<'a> {
    pub(crate) fn new(attack: Attack, seed: u64, signals: &'a SignalFd) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            instance: InstanceName::new(&format!("hostile-{}-{}", std::process::id(), attack.name()))?,
            attack,
            seed,
            board: Board { table: SharedTable::new(Count::WORDS)?, mailbox: Mailbox::new()? },
            signals,
            outcome: Outcome::default(),
            sidecar: None,
            victim: None,
            attackers: Vec::new(),
            begun: 0,
            is_ending: false,
            is_interrupted: false,
        })
    }

    /// Lets the attack go on for `time`; `None` if a signal came.
    pub(crate) fn run(mut self, time: Duration) -> Result<Option<Outcome>, Box<dyn Error>> {
        self.outcome.role = self.attack.name();
        self.serve()?;
        let (instance, board) = (&self.instance, &self.board);
        self.victim = Some(role::spawn(|| endure(instance, board))?);
        self.wait("the victim to be served", |arena| arena.board.load(Count::VictimReady) != 0)?;
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_interrupted {
            for number in 0..ATTACKERS {
                if self.attackers.iter().all(|(other, _)| *other != number) {
                    self.begun += 1;
                    let (instance, board, what) = (&self.instance, &self.board, self.attack);
                    let (seed, begun) = (self.seed, self.begun);
                    let pid = role::spawn(|| attack(what, instance, board, number, seed ^ begun << 32))?;
                    self.attackers.push((number, pid));
                }
            }
            self.look()?;
            self.serve()?;
        }
        self.is_ending = true;
        self.board.store(Count::Finish, 1);
        self.end_attackers();
        self.wait("the victim to end", |arena| arena.victim.is_none())?;
        self.wait("the lanes to come back", |arena| arena.lanes_are_back())?;
        if let Some(pid) = self.sidecar {
            kill(pid, Signal::SIGTERM)?;
        }
        self.wait("the sidecar to end", |arena| arena.sidecar.is_none())?;
        if self.is_interrupted {
            return Ok(None);
        }
        let left = ownership::files(&self.instance);
        self.outcome.leaked_files = left.len() as u64;
        if !left.is_empty() {
            self.tell(format!("left: {left:?}"));
        }
        self.outcome.take(&self.board);
        Ok(Some(std::mem::take(&mut self.outcome)))
    }

    /// Begins a sidecar, if there is none.
    fn serve(&mut self) -> Result<(), Errno> {
        if self.sidecar.is_none() {
            let (instance, board) = (&self.instance, &self.board);
            self.sidecar = Some(role::spawn(|| serve(instance, board))?);
        }
        Ok(())
    }

    /// Waits for what must come; what does not is a failure of the lanes.
    fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) -> Result<(), Box<dyn Error>> {
        let until = Instant::now() + FAIL_SAFE;
        while !self.is_interrupted && !holds(self) {
            if Instant::now() > until {
                self.outcome.stuck += 1;
                self.tell(format!("waited for {what} in vain"));
                return Ok(());
            }
            self.look()?;
        }
        Ok(())
    }

    /// Waits a moment and hears who died and what is told.
    fn look(&mut self) -> Result<(), Box<dyn Error>> {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.board.mailbox.bell(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(LOOK_AGAIN)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(signal) = self.signals.read_signal()? {
            self.is_interrupted |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        while let Some(Letter { text, .. }) = self.board.mailbox.receive()? {
            self.outcome.complaints += 1;
            self.tell(String::from_utf8_lossy(&text).into_owned());
        }
        while let Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) =
            waitpid(None, Some(WaitPidFlag::WNOHANG))
        {
            self.died(status);
        }
        Ok(())
    }

    fn died(&mut self, status: WaitStatus) {
        let pid = status.pid();
        if self.sidecar == pid {
            self.sidecar = None;
            if !self.is_ending || !matches!(status, WaitStatus::Exited(_, REMOVED)) {
                self.outcome.sidecar_deaths += 1;
                self.tell(format!("the sidecar died: {status:?}"));
            }
        } else if self.victim == pid {
            self.victim = None;
            if !self.is_ending || !matches!(status, WaitStatus::Exited(_, 0)) {
                self.outcome.complaints += 1;
                self.tell(format!("the victim died: {status:?}"));
            }
        } else {
            self.attackers.retain(|(_, attacker)| Some(*attacker) != pid);
            self.outcome.attacker_deaths += 1;
        }
    }

    fn end_attackers(&mut self) {
        for (_, pid) in self.attackers.drain(..) {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }

    /// Whether every lane is as nobody ever had it; counts the resets.
    fn lanes_are_back(&mut self) -> bool {
        let file = File::open(ownership::file(&self.instance, "journal"));
        let Ok(journal) = file.and_then(|file| KeptFile::map(&file)) else { return false };
        let geometry = Geometry::load(&journal);
        let word = |lane, at| journal.load(geometry.journal_lane(lane) + at);
        self.outcome.lanes_reset = (0..geometry.lanes).map(|lane| word(lane, k::RESETS)).sum();
        (0..geometry.lanes).all(|lane| {
            let state = LaneWord::from_word(word(lane, k::STATE)).state();
            matches!(state, Some(LaneState::Absent | LaneState::Free))
        })
    }

    fn tell(&mut self, text: String) {
        if self.outcome.told.len() < TOLD_MAX {
            self.outcome.told.push(text);
        }
    }
}
