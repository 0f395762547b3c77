//! The producer's role: the client library as anybody would use it, by one who writes everything down.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use executor_client::{
    Client, Completion, ConnectOptions, ContractError, Priority, SubmitError, TaskDescriptor, TaskId, Ticket, WaitError,
};
use executor_tests::FAIL_SAFE;
use executor_tests::ownership::Ownership;
use fastrand::Rng;
use nix::sys::signal::SigSet;

use crate::dice::{Stream, dice};
use crate::ledger::{Doing, End, Life, Mark};
use crate::plan::{Habit, Mode, Pace, one_of};
use crate::setting::{LANE, Setting};
use crate::sidecar::{Marked, WORKERS_MAX};
use crate::task::{Kind, Task};

/// Works until the round is over, or killed. `role` is its word in the ledger, `life` counts its processes.
pub(crate) fn produce(setting: &Setting, role: usize, life: u64) -> i32 {
    // A terminal's and a supervisor's signals are for the killer, who ends this process.
    if SigSet::empty().thread_set_mask().is_err() {
        return 1;
    }
    let mut dice = dice(setting.plan.seed, Stream::Producer, setting.plan.round << 8 | role as u64, life);
    while !setting.ledger.is_finishing() && !setting.ledger.is_full() {
        let Some(mut owner) = Owner::connect(setting, role, &mut dice) else { break };
        match owner.live(&mut dice) {
            Ok(()) => owner.leave(&mut dice),
            Err(text) => {
                owner.complain(&text);
                break; // its tasks are looked for all the same
            }
        }
    }
    0
}

/// A producer with a lane.
struct Owner<'a> {
    setting: &'a Setting,
    role: usize,
    /// `None` once it is closed.
    client: Option<Client>,
    life: u64,
    facts: Life,
    position: u64,
    stays: bool,
    /// Plain tasks that were not collected: position, entry and task.
    plain: VecDeque<(u64, u64, Task)>,
    tickets: Vec<(Ticket, u64, Task)>,
    /// An entry that was taken and not used up.
    free: std::ops::Range<u64>,
    payload: Vec<u8>,
    ended_at: Instant,
}

impl<'a> Owner<'a> {
    fn connect(setting: &'a Setting, role: usize, dice: &mut Rng) -> Option<Self> {
        let ledger = &setting.ledger;
        ledger.set_doing(role, Doing::Connecting, 0);
        let options = ConnectOptions::new().timeout(FAIL_SAFE);
        let options = options.priority(one_of(dice, &[Priority::Low, Priority::Normal, Priority::Critical]));
        // Number 2 is one that there never is, and means any.
        let options = options.worker(dice.u32(0..=WORKERS_MAX as u32));
        let begun = Instant::now();
        let client = match options.connect(&setting.instance) {
            Ok(client) => client,
            Err(error) => {
                let (after, error) = (begun.elapsed(), chain(&error));
                setting.complain(&format!("producer {role} did not connect within {after:?}: {error}"));
                return None;
            }
        };
        ledger.set_doing(role, Doing::Claimed, 0);
        let mut owner = match Self::announce(setting, role, client) {
            Ok(owner) => owner?,
            Err(text) => {
                setting.complain(&text);
                return None;
            }
        };
        owner.stays = match setting.plan.habit {
            Habit::Stay => true,
            Habit::Visit => false,
            Habit::Both => dice.bool(),
        };
        if setting.plan.mode == Mode::Upgrade
            && owner.stays
            && let Err(text) = owner.agree()
        {
            owner.complain(&text);
            return None;
        }
        Some(owner)
    }

    /// Hands the lane's files to the auditor, before the first task.
    fn announce(setting: &'a Setting, role: usize, client: Client) -> Result<Option<Self>, String> {
        let lane = client.lane_number();
        let told = |error: std::io::Error| format!("the owner of lane {lane} cannot open its files: {error}");
        let Ownership { nonce, base, sq, cq, .. } = Ownership::of(&setting.instance, lane).map_err(told)?;
        let (sq, cq) = (File::open(sq).map_err(told)?, File::open(cq).map_err(told)?);
        let facts = Life { producer: role as u64, lane, nonce, base, build: 0, instance: client.instance_nonce() };
        let Some(life) = setting.ledger.begin_life(&facts) else { return Ok(None) };
        let letter: Vec<u8> = [LANE].into_iter().chain(life.to_le_bytes()).collect();
        setting.mailbox.send(&letter, &[sq.as_fd(), cq.as_fd()]).map_err(|errno| format!("no letter: {errno}"))?;
        setting.ledger.set_doing(role, Doing::Collecting, life);
        Ok(Some(Self {
            setting,
            role,
            client: Some(client),
            life,
            facts,
            position: 0,
            stays: false,
            plain: VecDeque::new(),
            tickets: Vec::new(),
            free: 0..0,
            payload: Vec::new(),
            ended_at: Instant::now(),
        }))
    }

    /// Finds out which build's contracts the lane was attached under.
    fn agree(&mut self) -> Result<(), String> {
        let Some(client) = &mut self.client else { return Ok(()) };
        let mut known = |build, found: Result<(), ContractError>| match found {
            Ok(()) => {
                self.facts.build = build;
                Ok(())
            }
            // The other build serves, or nobody noticed the lane in time.
            Err(ContractError::Different { .. } | ContractError::NotServed) => Ok(()),
            Err(error) => Err(format!("a contract was refused: {error}")),
        };
        let first = client.check_contract::<Marked<1>>();
        let is_known = first.is_ok();
        known(1, first)?;
        if !is_known {
            known(2, client.check_contract::<Marked<2>>())?;
        }
        self.setting.ledger.set_build(self.life, self.facts.build);
        Ok(())
    }

    fn doing(&self, doing: Doing) {
        self.setting.ledger.set_doing(self.role, doing, self.life);
    }

    /// Submits and collects until it has enough.
    fn live(&mut self, dice: &mut Rng) -> Result<(), String> {
        let setting = self.setting;
        let hot = setting.plan.pace == Pace::Hot;
        let mut left = match self.stays {
            true => dice.u64(20..50_000),
            false => dice.u64(1..8),
        };
        while left > 0 && !setting.ledger.is_finishing() {
            let burst = if hot { u64::from(setting.plan.capacity) } else { dice.u64(1..=8) };
            for _ in 0..burst.min(left) {
                match self.submit(dice)? {
                    true => left -= 1,
                    false if !self.stays => return Ok(()),
                    false => break,
                }
            }
            if !self.stays {
                continue;
            }
            self.doing(Doing::Collecting);
            let ended = self.collect(dice)?;
            if ended == 0 {
                self.pass(dice, hot)?;
            }
            if self.setting.ledger.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Lets others run; looks whether the sidecars move on at all.
    fn pass(&mut self, dice: &mut Rng, hot: bool) -> Result<(), String> {
        if self.ended_at.elapsed() > FAIL_SAFE
            && self.position > 0
            && !(self.plain.is_empty() && self.tickets.is_empty())
        {
            let waiting = self.plain.len() + self.tickets.len();
            return Err(format!("no task has ended for {FAIL_SAFE:?}, {waiting} are waiting"));
        }
        match dice.u32(0..100) {
            0 if !hot => std::thread::sleep(Duration::from_micros(dice.u64(0..3000))), // the lane falls idle
            0..50 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
        Ok(())
    }

    /// Submits one task; `false` if the lane or the ledger is full.
    fn submit(&mut self, dice: &mut Rng) -> Result<bool, String> {
        let (setting, ledger) = (self.setting, &self.setting.ledger);
        let Some(client) = &mut self.client else { return Ok(false) };
        if self.free.is_empty() {
            self.free = ledger.take_block();
        }
        let Some(entry) = self.free.clone().next() else { return Ok(false) };
        let task = Task::draw(dice, &setting.plan, self.facts.build);
        task.payload(setting.plan.task_seed, entry, &mut self.payload);
        let mut descriptor = TaskDescriptor::new(task.kind.handler_id()).user_data(entry);
        if task.kind == Kind::Expires {
            descriptor = descriptor.deadline(Duration::from_nanos(1));
        }
        let by_ticket = dice.u32(0..8) == 0;
        ledger.set_doing(self.role, Doing::Submitting, self.life);
        ledger.about(entry, self.life, self.position, task.spec());
        let (ticket, submitted) = if by_ticket {
            match client.submit_ticket(&descriptor, &self.payload) {
                Ok(ticket) => (Some(ticket.task_id()), Ok(Some(ticket))),
                Err(error) => (None, Err(error)),
            }
        } else {
            match client.try_submit(&descriptor, &self.payload) {
                Ok(task_id) => (Some(task_id), Ok(None)),
                Err(error) => (None, Err(error)),
            }
        };
        match submitted {
            Ok(ticket) => {
                ledger.mark(entry, Mark::Accepted, self.life, self.position);
                match ticket {
                    Some(ticket) => self.tickets.push((ticket, entry, task)),
                    None => self.plain.push_back((self.position, entry, task)),
                }
            }
            Err(SubmitError::Full(_)) => {
                ledger.mark(entry, Mark::Refused, self.life, self.position);
                return Ok(false);
            }
            Err(error) => {
                ledger.mark(entry, Mark::Refused, self.life, self.position);
                return Err(format!("task {} was refused: {error}", self.position));
            }
        }
        let _ = self.free.next();
        let expected = TaskId::new(self.facts.lane, self.facts.base.wrapping_add(self.position));
        self.position += 1;
        if ticket != Some(expected) {
            return Err(format!("entry {entry} became {ticket:?}, not {expected}"));
        }
        Ok(true)
    }

    /// Takes what has ended; returns how much that was.
    fn collect(&mut self, dice: &mut Rng) -> Result<usize, String> {
        let mut ended = 0;
        let Some(client) = &mut self.client else { return Ok(0) };
        loop {
            match client.try_collect() {
                Ok(Some(completion)) => end_plain(self.setting, &self.facts, &mut self.plain, &completion)?,
                Ok(None) => break,
                Err(error) => return Err(format!("a completion cannot be collected: {error}")),
            }
            ended += 1;
        }
        // Any ticket of those that are held, not the oldest first; some are thrown away.
        while !self.tickets.is_empty() {
            let at = dice.usize(..self.tickets.len());
            if dice.u32(0..16) == 0 {
                let (ticket, entry, _) = self.tickets.swap_remove(at);
                drop(ticket);
                self.setting.ledger.drop_ticket(entry);
                continue;
            }
            let (ticket, entry, task) = &mut self.tickets[at];
            let patience = Duration::from_micros(dice.u64(0..200));
            match client.wait_timeout(ticket, patience) {
                Ok(completion) => end(self.setting, *entry, task, ticket.task_id(), &completion)?,
                Err(WaitError::Timeout | WaitError::ExecutorDown) => break,
                Err(error) => return Err(format!("a wait for {} ended: {error}", ticket.task_id())),
            }
            ended += 1;
            drop(self.tickets.swap_remove(at));
        }
        if ended > 0 {
            self.ended_at = Instant::now();
        }
        Ok(ended)
    }

    /// Lets go of the lane, with or without waiting for what is accepted.
    fn leave(&mut self, dice: &mut Rng) {
        self.doing(Doing::Leaving);
        let Some(mut client) = self.client.take() else { return };
        if !self.stays || dice.bool() {
            return; // dropped: its tasks run all the same, and nobody reads how they end
        }
        let begun = Instant::now();
        loop {
            let mut wrong = None;
            let closed = client.close(FAIL_SAFE, |completion| {
                if let Err(text) = end_plain(self.setting, &self.facts, &mut self.plain, &completion) {
                    wrong = Some(text);
                }
            });
            let outcome = match (wrong, closed) {
                (Some(text), _) => Err(text),
                (None, Ok(())) if self.plain.is_empty() => Ok(None),
                (None, Ok(())) => Err(format!("a close left {} tasks uncollected", self.plain.len())),
                (None, Err(error)) if error.source == WaitError::ExecutorDown && begun.elapsed() < FAIL_SAFE => {
                    Ok(Some(error.client))
                }
                (None, Err(error)) => Err(format!("a close ended: {error}")),
            };
            match outcome {
                Ok(None) => return,
                Ok(Some(again)) => client = *again,
                Err(text) => return self.complain(&text),
            }
            std::thread::sleep(Duration::from_micros(100)); // no sidecar is there
        }
    }

    fn complain(&self, text: &str) {
        let Life { lane, nonce, base, .. } = self.facts;
        self.setting.complain(&format!(
            "producer {} on lane {lane} nonce {nonce:014x} base {base}, life {}, {} tasks accepted: {text}",
            self.role, self.life, self.position
        ));
    }
}

/// A plain task ended: it must be the oldest of those.
fn end_plain(
    setting: &Setting,
    facts: &Life,
    plain: &mut VecDeque<(u64, u64, Task)>,
    completion: &Completion<'_>,
) -> Result<(), String> {
    let Some((position, entry, task)) = plain.pop_front() else {
        return Err(format!("{} ended, which was not submitted or had ended before", completion.task_id()));
    };
    if completion.user_data() != entry {
        return Err(format!(
            "{} came with user data {} in place of {entry}",
            completion.task_id(),
            completion.user_data()
        ));
    }
    end(setting, entry, &task, TaskId::new(facts.lane, facts.base.wrapping_add(position)), completion)
}

/// A task ended: writes down how, and looks at what came back.
fn end(
    setting: &Setting,
    entry: u64,
    task: &Task,
    expected: TaskId,
    completion: &Completion<'_>,
) -> Result<(), String> {
    let status = completion.status();
    let end = End { code: status.code(), detail: status.detail(), attempt: completion.attempt() };
    if !setting.ledger.end(entry, end) {
        return Err(format!("{expected} ended a second time: {end}"));
    }
    if completion.task_id() != expected {
        return Err(format!("{} ended in place of {expected}", completion.task_id()));
    }
    if completion.is_done() {
        let (found, wanted) = (completion.response().to_vec(), task.response(setting.plan.task_seed, entry));
        if found != wanted {
            return Err(format!(
                "{expected}, entry {entry}, {task:?}, {end}: answered {found:02x?}, not {wanted:02x?}"
            ));
        }
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
