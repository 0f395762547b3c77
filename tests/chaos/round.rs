//! One round: an instance is born, its roles are killed and begun anew, it comes to a clean end and is judged.
//!
//! The killer is this process, and it has one thread. It uses nothing of the library but layouts and names, so that its
//! children may use all of it.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_shm::InstanceName;
use executor_tests::FAIL_SAFE;
use executor_tests::mail::{Letter, Mailbox};
use fastrand::Rng;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::auditor::{Auditor, KeptLane};
use crate::company::{Company, Member};
use crate::dice::{Stream, dice};
use crate::ledger::{Entry, Ledger, Mark};
use crate::plan::{Mode, Plan};
use crate::reckoning::{Case, Charge, LaneImage, reckon_ids, reckon_unused};
use crate::report::Totals;
use crate::setting::{COMPLAINT, LANE, Setting};
use crate::sidecar;
use crate::window::{self, Watch};

/// Between two looks at the lanes while the round comes to its end.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Between two looks whether a sidecar serves.
const GLANCE: Duration = Duration::from_micros(100);
/// How long a stop is put off for a sidecar that does not serve yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Judged.
    Whole,
    /// A signal came; nothing was judged.
    Interrupted,
}

/// What the killer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    Sidecar,
    Producer(usize),
    Both(usize),
    /// The sidecar that stands by.
    Standby,
    /// The one that serves, then the other while it takes over.
    Pair(Duration),
    /// Asks the sidecar to stop.
    Ask,
}

/// When the killer begins to count the time to its next strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Now,
    /// Once a sidecar serves.
    Serving,
}

/// A round while it runs. Dropped, it leaves no process and no file: the company is dropped first.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    company: Company,
    _files: Files,
    setting: Arc<Setting>,
    auditor: Auditor,
    watch: Watch,
    dice: Rng,
    signals: &'a SignalFd,
    totals: &'a mut Totals,
    is_interrupted: bool,
    is_over: bool,
}

/// Removes what is left of the instance.
#[derive(Debug)]
struct Files(Arc<Setting>);

impl Drop for Files {
    fn drop(&mut self) {
        for file in self.0.files() {
            let _ = fs::remove_file(file);
        }
    }
}

impl<'a> Round<'a> {
    pub(crate) fn new(plan: Plan, signals: &'a SignalFd, totals: &'a mut Totals) -> Result<Self, Box<dyn Error>> {
        let instance = InstanceName::new(&format!("chaos-{}-{}", std::process::id(), plan.round))?;
        let dice = dice(plan.seed, Stream::Killer, plan.round, 0);
        let setting = Arc::new(Setting { plan, instance, ledger: Ledger::new()?, mailbox: Mailbox::new()? });
        Ok(Self {
            company: Company::new(&setting),
            _files: Files(Arc::clone(&setting)),
            setting,
            auditor: Auditor::default(),
            watch: Watch::default(),
            dice,
            signals,
            totals,
            is_interrupted: false,
            is_over: false,
        })
    }

    /// Runs it for `time` at most, and judges it.
    pub(crate) fn run(mut self, time: Duration) -> Result<Ending, Box<dyn Error>> {
        let over = Instant::now() + time.min(self.setting.plan.time);
        self.fill()?;
        while !self.is_interrupted && Instant::now() < over && !self.setting.ledger.is_full() {
            let (strike, after, delay) = self.draw();
            if after == After::Serving {
                self.wait_for_sidecar(over)?;
            }
            self.wait_until((Instant::now() + delay).min(over))?;
            if Instant::now() < over && !self.is_interrupted {
                self.strike(strike)?;
                self.fill()?;
            }
        }
        if !self.is_interrupted {
            self.finish()?;
        }
        if self.is_interrupted {
            return Ok(Ending::Interrupted);
        }
        self.judge();
        Ok(Ending::Whole)
    }

    /// Begins whoever is missing.
    fn fill(&mut self) -> Result<(), Errno> {
        if self.is_over { self.company.fill_sidecar() } else { self.company.fill() }
    }

    /// Whom to strike next, and how long from now.
    fn draw(&mut self) -> (Strike, After, Duration) {
        let producer = self.dice.usize(..self.setting.plan.producers);
        let strike = match (self.setting.plan.mode, self.dice.u32(0..100)) {
            (Mode::Producer, _) => Strike::Producer(producer),
            (Mode::Both, 0..40) => Strike::Producer(producer),
            (Mode::Both, 40..55) => Strike::Both(producer),
            (Mode::Stop, _) if self.company.server().is_some_and(|(_, asked)| !asked) => Strike::Ask,
            // Producers die around stops too: what they had submitted must keep the files.
            (Mode::Stop, 0..30) => Strike::Producer(producer),
            (Mode::Standby, 0..15) => Strike::Standby,
            (Mode::Standby, 15..35) => Strike::Pair(Duration::from_micros(self.dice.u64(0..3000))),
            (Mode::Standby, 35..45) => Strike::Producer(producer),
            _ => Strike::Sidecar,
        };
        // From a start on, which takes a millisecond or two; mostly once it serves.
        let (after, us) = match (strike, self.dice.u32(0..100)) {
            // A stop takes a few milliseconds; now and then it is left to its end.
            (Strike::Sidecar, 0..80) if self.setting.plan.mode == Mode::Stop => (After::Now, self.dice.u64(0..4000)),
            (Strike::Sidecar, _) if self.setting.plan.mode == Mode::Stop => (After::Now, self.dice.u64(4000..50_000)),
            (_, 0..20) => (After::Now, self.dice.u64(0..3000)),
            (Strike::Producer(_), 20..90) => (After::Now, self.dice.u64(500..8000)),
            (_, 20..90) => (After::Serving, self.dice.u64(0..6000)),
            _ => (After::Serving, self.dice.u64(6000..40_000)),
        };
        (strike, after, Duration::from_micros(us))
    }

    fn strike(&mut self, strike: Strike) -> Result<(), Box<dyn Error>> {
        match strike {
            Strike::Ask => self.ask()?,
            Strike::Sidecar => {
                if let Some((server, _)) = self.company.server() {
                    self.strike_sidecar(server)?;
                }
            }
            Strike::Standby => {
                if let Some((server, _)) = self.company.server()
                    && let Some(standby) = self.company.other_than(server)
                {
                    self.strike_sidecar(standby)?;
                }
            }
            Strike::Pair(apart) => {
                if let Some((server, _)) = self.company.server() {
                    self.strike_sidecar(server)?;
                    self.pause(apart)?;
                    if let Some(standby) = self.company.other_than(server) {
                        self.strike_sidecar(standby)?;
                    }
                }
            }
            Strike::Producer(first) => {
                let number = self.choose(first);
                self.strike_producer(number)?;
            }
            Strike::Both(first) => {
                let number = self.choose(first);
                let server = self.company.server().map(|(server, _)| server);
                let pids = [self.company.producer(number), server.and_then(|server| self.company.sidecar(server))];
                for pid in pids.into_iter().flatten() {
                    kill(pid, Signal::SIGKILL)?;
                }
                self.strike_producer(number)?;
                if let Some(server) = server {
                    self.strike_sidecar(server)?;
                }
            }
        }
        Ok(())
    }

    /// Until a sidecar serves, or the time has come.
    fn wait_for_sidecar(&mut self, until: Instant) -> Result<(), Box<dyn Error>> {
        while !self.company.is_served() && Instant::now() < until && !self.is_interrupted {
            self.wait_until(Instant::now() + GLANCE)?;
        }
        Ok(())
    }

    /// Asks the sidecar to stop, mostly once it serves.
    fn ask(&mut self) -> Result<(), Box<dyn Error>> {
        let (is_patient, more) = (self.dice.u32(0..8) != 0, Duration::from_micros(self.dice.u64(0..4000)));
        if is_patient {
            self.wait_for_sidecar(Instant::now() + PATIENCE)?;
        }
        self.wait_until(Instant::now() + more)?;
        if let Some((server, _)) = self.company.server() {
            self.company.ask(server)?;
        }
        Ok(())
    }

    /// A producer, `first` or the next one after it that has a lane: mostly that, if any has.
    fn choose(&mut self, first: usize) -> usize {
        let is_picky = self.dice.u32(0..4) != 0;
        let has_lane = |number: &usize| self.company.producer_doing(*number).0.has_lane();
        let after = (first..self.setting.plan.producers).chain(0..first).find(has_lane);
        after.filter(|_| is_picky).unwrap_or(first)
    }

    /// Kills a process; `false` if it had ended before.
    fn kill(&mut self, pid: Pid) -> Result<bool, Box<dyn Error>> {
        kill(pid, Signal::SIGKILL)?;
        let status = waitpid(pid, None)?;
        if matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)) {
            self.company.remove(pid);
            self.read_letters()?;
            return Ok(true);
        }
        self.died(status);
        Ok(false)
    }

    fn strike_sidecar(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let Some(pid) = self.company.sidecar(index) else { return Ok(()) };
        if self.kill(pid)? {
            let sight = self.watch.look(&self.setting, &self.auditor);
            let window = window::of_sidecar(sight.as_ref(), pid.as_raw(), self.company.sidecar_doing(index));
            let in_flight = sight.is_some_and(|sight| sight.is_in_flight()) && window != "standby_waiting";
            self.totals.kill(window, in_flight);
            self.audit();
        }
        Ok(())
    }

    fn strike_producer(&mut self, number: usize) -> Result<(), Box<dyn Error>> {
        let Some(pid) = self.company.producer(number) else { return Ok(()) };
        if self.kill(pid)? {
            let sight = self.watch.look(&self.setting, &self.auditor);
            let (doing, life) = self.company.producer_doing(number);
            let lane = self.auditor.of_life(life).filter(|_| doing.has_lane());
            let is_its = |word: u64| lane.is_some_and(|kept| kept.facts.nonce == word);
            let in_flight =
                sight.is_some_and(|sight| sight.lanes.iter().any(|lane| lane.in_flight && is_its(lane.word.nonce())));
            // The task it was about to submit is the one that it has not marked.
            let commits = lane.is_some_and(|kept| self.has_unmarked(kept));
            self.totals.kill(window::of_producer(doing, commits), in_flight);
            self.audit();
        }
        Ok(())
    }

    /// Whether the last entry that names this life is committed and not marked accepted.
    fn has_unmarked(&self, kept: &KeptLane) -> bool {
        let about = self.setting.ledger.last_of(kept.life);
        about.is_some_and(|entry| entry.mark == Mark::About && kept.submitted(entry.position) == entry.position + 1)
    }

    /// Waits, and begins anew whoever ends meanwhile.
    fn wait_until(&mut self, at: Instant) -> Result<(), Box<dyn Error>> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            self.pause(left)?;
            if self.is_interrupted || Instant::now() >= at {
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// Waits for `time`, or until something is heard: who died and what is told.
    fn pause(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let setting = Arc::clone(&self.setting);
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(setting.mailbox.bell(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(time)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.read_letters()?;
        while let Some(signal) = self.signals.read_signal()? {
            self.is_interrupted |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(status) => self.died(status),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// A role ended that was not killed.
    fn died(&mut self, status: WaitStatus) {
        let Some(member) = status.pid().and_then(|pid| self.company.remove(pid)) else { return };
        let code = if let WaitStatus::Exited(_, code) = status { Some(code) } else { None };
        match (member, code) {
            (Member::Sidecar { asked: true, .. }, Some(sidecar::REMOVED)) => self.totals.stops_removed += 1,
            (Member::Sidecar { asked: true, .. }, Some(sidecar::KEPT)) => self.totals.stops_kept += 1,
            (Member::Sidecar { asked: true, .. }, Some(sidecar::STOOD_BY)) | (Member::Producer { .. }, Some(0)) => {}
            _ => self.find(&format!("{member:?} ended by itself: {status:?}")),
        }
    }

    fn read_letters(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(Letter { text, files }) = self.setting.mailbox.receive()? {
            match text.split_first() {
                Some((&LANE, rest)) => {
                    let life = rest.try_into().map_or(u64::MAX, u64::from_le_bytes);
                    let facts = self.setting.ledger.life(life).ok_or("a letter of no life")?;
                    self.auditor.keep(life, facts, &files, self.setting.plan.capacity)?;
                }
                Some((&COMPLAINT, rest)) => self.find(&String::from_utf8_lossy(rest)),
                _ => return Err("a letter that says nothing".into()),
            }
        }
        Ok(())
    }

    fn audit(&mut self) {
        let mut found = Vec::new();
        let watch = &self.watch;
        self.auditor.scan(|life| watch.is_current(life), &mut found);
        found.iter().for_each(|text| self.find(text));
    }

    fn find(&mut self, text: &str) {
        let Plan { round, mode, .. } = self.setting.plan;
        self.totals.tally.find(Charge::Contradicted, &format!("round {round} ({}): {text}", mode.name()));
    }

    /// Nobody is killed any more: the producers come to their end, then the lanes, then the sidecar.
    fn finish(&mut self) -> Result<(), Box<dyn Error>> {
        self.is_over = true;
        self.setting.ledger.finish();
        let until = Instant::now() + FAIL_SAFE + FAIL_SAFE / 2; // past the patience of the roles themselves
        while self.company.has_producers() && !self.is_interrupted {
            self.fill()?;
            self.pause(LOOK_AGAIN)?;
            if Instant::now() > until {
                self.find("producers did not come to their end");
                break;
            }
        }
        let until = Instant::now() + FAIL_SAFE;
        while !self.is_interrupted {
            self.fill()?;
            let sight = self.watch.look(&self.setting, &self.auditor);
            if self.company.is_served() && sight.as_ref().is_some_and(window::Sight::is_deserted) {
                break;
            }
            if Instant::now() > until {
                self.find(&format!("lanes did not come to their end: {sight:?}"));
                break;
            }
            self.pause(LOOK_AGAIN)?;
        }
        let removed = self.totals.stops_removed;
        let until = Instant::now() + FAIL_SAFE;
        // Whoever stands by goes first, else it would take over what the other leaves.
        while let Some((server, asked)) = self.company.server()
            && !self.is_interrupted
            && Instant::now() < until
        {
            match self.company.other_than(server) {
                Some(standby) => self.company.ask(standby)?,
                None if !asked => self.company.ask(server)?,
                None => {}
            }
            self.pause(LOOK_AGAIN)?;
        }
        if self.totals.stops_removed == removed && !self.is_interrupted {
            self.find("the last stop of a deserted instance did not remove it");
        }
        let left = if self.is_interrupted { Vec::new() } else { self.setting.files() };
        self.totals.leaked_files += left.len() as u64;
        if !left.is_empty() {
            self.totals.tally.told.push(format!("leaked: {left:?}"));
        }
        Ok(())
    }

    /// The ledger against the kept files.
    fn judge(&mut self) {
        let mut found = Vec::new();
        self.auditor.scan_all(&mut found);
        found.iter().for_each(|text| self.find(text));
        let setting = Arc::clone(&self.setting);
        let tally = &mut self.totals.tally;
        let mut of_life: HashMap<u64, Vec<Entry>> = HashMap::new();
        for entry in setting.ledger.entries() {
            match entry.mark {
                Mark::Unused => reckon_unused(&entry, tally),
                _ => of_life.entry(entry.life).or_default().push(entry),
            }
        }
        let images: HashMap<u64, LaneImage> =
            self.auditor.lanes().iter().map(|kept| (kept.life, kept.image())).collect();
        let mut owners = Vec::new();
        for life in 0..setting.ledger.lives() {
            let Some(facts) = setting.ledger.life(life) else { continue };
            let seed = setting.plan.task_seed;
            let mut entries = of_life.remove(&life).unwrap_or_default();
            let count = Case { seed, life, facts, image: images.get(&life) }.reckon(&mut entries, tally);
            owners.push((facts, count));
        }
        reckon_ids(owners, tally);
        self.totals.rounds += 1;
        self.totals.lives += setting.ledger.lives();
    }
}
