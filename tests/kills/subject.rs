//! A process whose threads run only when the tracer says so, one instruction at a time if it likes.
//!
//! Threads are numbered in the order they were started: of a sidecar 0 is the program's own, 1 the worker, 2 the keeper.
//! A thread that was just started stands still. While one thread is stepped the others stand still too, save while it
//! is in a system call that may wait for them.

use std::fmt;

use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::child::Child;
use crate::instruction::{Effect, Instructions};

/// The program's own thread.
pub(crate) const LEADER: usize = 0;
/// The worker of a sidecar.
pub(crate) const WORKER: usize = 1;
/// Housekeeping of a sidecar.
pub(crate) const KEEPER: usize = 2;

/// The instruction that stops for a tracer.
const BREAKPOINT: libc::c_long = 0xcc;
/// What a system call returns on its entry, before it has a result.
const ENTERED: u64 = (-(libc::ENOSYS as i64)) as u64;

/// A traced child.
#[derive(Debug)]
pub(crate) struct Subject {
    child: Child,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    tid: Pid,
    state: State,
    /// Stands before a `sched_yield`, whose entry the kernel has told already.
    yields: bool,
    /// In company it runs up to its next `sched_yield` only.
    until_idle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    Stands,
    Ended,
}

/// Why a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// After a step, or after a breakpoint.
    Trap,
    /// On the way into or out of a system call.
    Call,
    /// It has started another thread.
    Cloned,
    /// It was told to, or has just been started.
    Told,
    /// A signal is about to be delivered.
    Signal(Signal),
    Ended,
}

/// Threads that may run while the stepped one waits in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// None.
    Nobody,
    /// The worker, up to its first idle look.
    WorkerUntilIdle,
    /// The worker.
    Worker,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The instruction has run.
    Ran,
    /// The thread ended with it.
    Ended,
}

impl Subject {
    /// Forks a subject that runs `body` until its first marker.
    pub(crate) fn start(body: impl FnOnce()) -> Self {
        let child = Child::fork(|line| {
            line.wait();
            body();
        });
        Self::seize(child)
    }

    fn seize(mut child: Child) -> Self {
        let options = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        ptrace::seize(child.pid(), options).unwrap();
        let leader = Thread { tid: child.pid(), state: State::Runs, yields: false, until_idle: false };
        child.tell();
        let mut this = Self { child, threads: vec![leader] };
        this.run_to_marker(LEADER, Company::WorkerUntilIdle);
        this
    }

    /// The registers of a thread that stands.
    pub(crate) fn registers(&self, thread: usize) -> user_regs_struct {
        ptrace::getregs(self.threads[thread].tid).unwrap()
    }

    /// Whether the thread stands in a system call that it is about to make.
    fn is_in_call(&self, thread: usize) -> bool {
        self.threads[thread].yields
    }

    /// Whether the thread has ended.
    pub(crate) fn has_ended(&self, thread: usize) -> bool {
        self.threads[thread].state == State::Ended
    }

    /// Lets a thread that stands after a marker hear `told` there.
    pub(crate) fn tell(&self, thread: usize, told: u64) {
        let mut registers = self.registers(thread);
        registers.rax = told;
        ptrace::setregs(self.threads[thread].tid, registers).unwrap();
    }

    /// Runs one instruction of `thread`, whose effect is `effect`; `company` may run while it waits in the kernel.
    pub(crate) fn step(&mut self, thread: usize, effect: Effect, rax: u64, company: Company) -> Step {
        let waits = effect == Effect::Call && may_wait(rax) && company != Company::Nobody;
        if waits {
            self.release(company);
        }
        self.go(thread, ptrace::step);
        let step = loop {
            match self.wait_for(thread) {
                Stop::Trap => break Step::Ran,
                Stop::Cloned | Stop::Told | Stop::Call => self.go(thread, ptrace::step),
                Stop::Signal(signal) => panic!("{self}: thread {thread} gets {signal}"),
                Stop::Ended => break Step::Ended,
            }
        };
        if waits {
            self.freeze();
        }
        step
    }

    /// Lets `thread` run until it has passed a marker, or has ended; `company` runs beside it.
    pub(crate) fn run_to_marker(&mut self, thread: usize, company: Company) -> Step {
        self.release(company);
        if self.threads[thread].state == State::Stands {
            self.go(thread, ptrace::cont);
        }
        let step = loop {
            match self.wait_for(thread) {
                Stop::Trap => break Step::Ran,
                Stop::Cloned => {
                    self.release(company);
                    self.go(thread, ptrace::cont);
                }
                Stop::Told | Stop::Call => self.go(thread, ptrace::cont),
                Stop::Signal(signal) => panic!("{self}: thread {thread} gets {signal}"),
                Stop::Ended => break Step::Ended,
            }
        };
        self.freeze();
        step
    }

    /// Lets the worker run until it is about to look again because it found nothing.
    pub(crate) fn run_worker_to_idle(&mut self) {
        while !self.threads[WORKER].yields {
            self.go(WORKER, ptrace::syscall);
            match self.wait_for(WORKER) {
                Stop::Call | Stop::Told => {}
                stop => panic!("{self}: the worker stands for {stop:?}"),
            }
        }
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.threads[WORKER].tid)).unwrap();
        assert_eq!(
            name.trim_end(),
            "executor-work-0",
            "a sidecar starts its threads in another order than the harness says"
        );
    }

    /// Lets `thread` run until it has left its `count`th system call from here; `company` may run beside it.
    pub(crate) fn run_through_calls(&mut self, thread: usize, count: u64, company: Company) {
        for _ in 0..count {
            assert!(self.run_through_call(thread, company), "{self} makes fewer system calls than before");
        }
    }

    /// Lets `thread` run until it has left its next system call; `false` if it came to a marker or to its end instead.
    pub(crate) fn run_through_call(&mut self, thread: usize, company: Company) -> bool {
        let stops = if self.is_in_call(thread) { 1 } else { 2 };
        for _ in 0..stops {
            loop {
                self.release(company);
                self.go(thread, ptrace::syscall);
                let stop = self.wait_for(thread);
                self.freeze();
                match stop {
                    Stop::Call => break,
                    Stop::Told | Stop::Cloned => {}
                    Stop::Trap | Stop::Ended => return false,
                    Stop::Signal(signal) => panic!("{self}: thread {thread} gets {signal}"),
                }
            }
        }
        true
    }

    /// Lets `thread` run until it is about to run the instruction at `address` for the `nth` time from here; it may stand
    /// there already for the first time. Says whether it comes there before its next system call and its next marker.
    ///
    /// Everybody else stands: a breakpoint is for all threads of a process, and none of the others is to meet it.
    pub(crate) fn run_to(&mut self, thread: usize, address: u64, nth: u64) -> bool {
        let mut seen = u64::from(!self.is_in_call(thread) && self.registers(thread).rip == address);
        while seen < nth {
            // Off the instruction first: a breakpoint under it would be met at once.
            self.step(thread, Effect::None, 0, Company::Nobody);
            if self.registers(thread).rip != address && !self.run_to_breakpoint(thread, address) {
                return false;
            }
            seen += 1;
        }
        true
    }

    fn run_to_breakpoint(&mut self, thread: usize, address: u64) -> bool {
        let tid = self.threads[thread].tid;
        let place = address as usize as *mut std::ffi::c_void;
        let code = ptrace::read(tid, place).unwrap();
        ptrace::write(tid, place, code & !0xff | BREAKPOINT).unwrap();
        let stop = loop {
            self.go(thread, ptrace::syscall);
            match self.wait_for(thread) {
                Stop::Told => {}
                stop => break stop,
            }
        };
        ptrace::write(tid, place, code).unwrap();
        let mut registers = self.registers(thread);
        match stop {
            Stop::Trap if registers.rip - 1 == address => {
                registers.rip = address;
                ptrace::setregs(tid, registers).unwrap();
                true
            }
            Stop::Trap | Stop::Call => false,
            stop => panic!("{self}: thread {thread} stands for {stop:?} before {address:#x}"),
        }
    }

    /// Whether an instruction that fills memory through `rdi` fills memory that other processes see.
    fn fills_shared(&self, thread: usize) -> bool {
        let to = self.registers(thread).rdi;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.pid())).unwrap();
        maps.lines().any(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let Some((from, until)) = range else { return false };
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            (number(from)..number(until)).contains(&to)
                && ["/dev/shm/", "memfd:"].iter().any(|part| line.contains(part))
        })
    }

    /// Kills the whole process, wherever its threads are, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.signal_kill();
        for thread in self.threads.iter().rev() {
            loop {
                match waitpid(thread.tid, Some(WaitPidFlag::__WALL)) {
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(nix::errno::Errno::ECHILD) => break,
                    Ok(_) => {}
                    Err(errno) => panic!("waitpid: {errno}"),
                }
            }
        }
        self.child.was_reaped();
    }

    fn go(&mut self, thread: usize, how: impl FnOnce(Pid, Option<Signal>) -> nix::Result<()>) {
        let thread = &mut self.threads[thread];
        assert_eq!(thread.state, State::Stands, "thread {} is to go on", thread.tid);
        how(thread.tid, None).unwrap();
        thread.state = State::Runs;
        thread.yields = false;
    }

    fn release(&mut self, company: Company) {
        let threads: &[(usize, bool)] = match company {
            Company::Nobody => &[],
            Company::WorkerUntilIdle => &[(WORKER, true)],
            Company::Worker => &[(WORKER, false)],
        };
        for &(thread, until_idle) in threads {
            let Some(found) = self.threads.get(thread) else { continue };
            if found.state != State::Stands || (until_idle && found.yields) {
                continue;
            }
            self.threads[thread].until_idle = until_idle;
            self.go_in_company(thread);
        }
    }

    fn go_in_company(&mut self, thread: usize) {
        if self.threads[thread].until_idle {
            self.go(thread, ptrace::syscall);
        } else {
            self.go(thread, ptrace::cont);
        }
    }

    /// Makes every thread that runs stand.
    fn freeze(&mut self) {
        for thread in 0..self.threads.len() {
            if self.threads[thread].state == State::Runs {
                // A thread that has ended meanwhile cannot be interrupted; its end is waited for below all the same.
                let _ = ptrace::interrupt(self.threads[thread].tid);
                self.wait_for(thread);
            }
        }
    }

    /// Waits until `thread` stands or has ended. What other threads do meanwhile is noted and answered.
    fn wait_for(&mut self, thread: usize) -> Stop {
        loop {
            let alone = self.threads.iter().filter(|thread| thread.state == State::Runs).count() == 1;
            let whom = alone.then_some(self.threads[thread].tid);
            let (found, stop) = self.note(waitpid(whom, Some(WaitPidFlag::__WALL)).unwrap());
            if found == Some(thread) {
                return stop;
            }
            assert_ne!(stop, Stop::Trap, "{self}: thread {found:?} meets a breakpoint that is for thread {thread}");
            // Another one, in company: on with it, unless it has come to where it was to come. That it was told to stand may
            // be news of long ago: what it did first was heard instead.
            if let Some(other) = found
                && self.threads[other].state == State::Stands
                && !self.threads[other].yields
                && matches!(stop, Stop::Call | Stop::Cloned | Stop::Told)
            {
                self.go_in_company(other);
            }
        }
    }

    /// Takes in what the kernel says.
    fn note(&mut self, status: WaitStatus) -> (Option<usize>, Stop) {
        let Some(tid) = status.pid() else { return (None, Stop::Told) };
        let known = self.threads.iter().position(|thread| thread.tid == tid);
        let stop = match status {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_CLONE) => Stop::Cloned,
            WaitStatus::PtraceEvent(..) => Stop::Told,
            WaitStatus::PtraceSyscall(_) => Stop::Call,
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Stop::Trap,
            WaitStatus::Stopped(_, signal) => Stop::Signal(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Stop::Ended,
            status => panic!("{self}: {status:?}"),
        };
        let Some(thread) = known else {
            if stop == Stop::Told {
                self.threads.push(Thread { tid, state: State::Stands, yields: false, until_idle: false });
            }
            return (None, stop); // the end of another child, or a thread that has just begun
        };
        self.threads[thread].state = if stop == Stop::Ended { State::Ended } else { State::Stands };
        if stop == Stop::Cloned {
            let born = Pid::from_raw(ptrace::getevent(tid).unwrap() as i32);
            if !self.threads.iter().any(|thread| thread.tid == born) {
                waitpid(born, Some(WaitPidFlag::__WALL)).unwrap();
                self.threads.push(Thread { tid: born, state: State::Stands, yields: false, until_idle: false });
            }
        }
        if stop == Stop::Call {
            let registers = self.registers(thread);
            self.threads[thread].yields =
                registers.rax == ENTERED && registers.orig_rax == libc::SYS_sched_yield as u64;
        }
        (Some(thread), stop)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subject {}", self.child.pid())
    }
}

/// Whether a system call may wait for another thread.
fn may_wait(call: u64) -> bool {
    [
        libc::SYS_futex,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_sched_yield,
    ]
    .contains(&(call as i64))
}

/// Runs `thread` up to and including its next marker, calling `after` after every instruction with its address, its
/// effect and the system call it made; `after` says whether to go on.
pub(crate) fn step_through(
    subject: &mut Subject,
    instructions: &mut Instructions,
    thread: usize,
    company: Company,
    mut after: impl FnMut(Stepped) -> bool,
) {
    let (mut count, mut expected) = (0, None);
    loop {
        // Most instructions say where the next one is, which spares a look at the registers.
        let (address, effect, number, next) = if subject.is_in_call(thread) {
            let registers = subject.registers(thread);
            (registers.rip, Effect::Call, registers.orig_rax, None)
        } else {
            let address = expected.unwrap_or_else(|| subject.registers(thread).rip);
            let known = instructions.at(address);
            let number = if known.effect == Effect::Call { subject.registers(thread).rax } else { 0 };
            (address, known.effect, number, known.next)
        };
        expected = next;
        let step = match effect {
            // Each round of it is a step; where nobody else sees them they are taken for one.
            Effect::Fill(after) if !subject.fills_shared(thread) => {
                assert!(subject.run_to(thread, after, 1), "{subject} fills memory without an end");
                Step::Ran
            }
            effect => subject.step(thread, effect, number, company),
        };
        count += 1;
        let effect = if matches!(effect, Effect::Fill(_)) { Effect::Store } else { effect };
        let call = (effect == Effect::Call).then_some(number);
        let stepped = Stepped { count, address, effect, call };
        if !after(stepped) || effect == Effect::Marker || step == Step::Ended {
            return;
        }
    }
}

/// An instruction that has run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stepped {
    /// Instructions run so far, this one included.
    pub(crate) count: usize,
    /// Where it lies.
    pub(crate) address: u64,
    pub(crate) effect: Effect,
    /// The system call it made.
    pub(crate) call: Option<u64>,
}
