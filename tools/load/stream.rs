//! One producer's stream of tasks: sent on time or as answers come, timed, counted.
//!
//! A closed loop keeps a window of tasks in flight, so it slows down with the sidecar and a stall costs it a window of
//! slow tasks. An open loop has a schedule: a task counts from the moment it was *due*, sent or not, so a stall costs it
//! every task that was due meanwhile, as it would cost clients that do not wait for each other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use executor_client::{Client, LaneStatus, SubmitError, TaskDescriptor};
use executor_core::idle::{Idle, IdleStrategy};
use executor_core::{Clock, Status};

use crate::exit::one_line;
use crate::times::Samples;

/// Misses between two looks at the time.
const MISSES: u32 = 256;
/// Between two probes of the sidecar's life.
const PROBE_NS: u64 = 1_000_000;
/// How long after the end an open loop may still send what was due before it: scheduling is no overload.
const GRACE_NS: u64 = 100_000_000;
/// How long an interrupted stream waits for answers.
const LAST_CALL_NS: u64 = 1_000_000_000;

/// When tasks are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many in flight at any time.
    Closed {
        /// Tasks in flight.
        window: u64,
    },
    /// So many a second over all streams, whatever comes back.
    Open {
        /// Tasks a second of all streams.
        rate: u64,
        /// Streams.
        streams: u64,
        /// This one, from 0.
        stream: u64,
    },
}

/// A task in between that takes long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    /// The handler that takes as long as its request says, in nanoseconds.
    pub(crate) handler: u32,
    /// Tasks to one of these, itself included.
    pub(crate) every: u64,
    /// How long it takes.
    pub(crate) time: Duration,
}

/// From when to when tasks count, in ticks; from the start to `from` is the warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) from: u64,
    pub(crate) end: u64,
}

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The time was up and everything was answered.
    Time,
    /// Somebody wanted it to end.
    Interrupted,
    /// There is no sidecar any more; what is unanswered stays accepted.
    Down,
    /// It cannot go on, for the reason told; what is unanswered stays so.
    Failed(String),
}

/// What one stream saw, or several together. Times in ticks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Tasks of the span that were answered, by status byte.
    pub(crate) by_status: [u64; Status::CODES],
    /// Tasks that did not end as done, the warm-up's too.
    pub(crate) not_done: u64,
    /// How the first of them ended.
    pub(crate) first_failure: Option<String>,
    /// From when a task was due, in a closed loop from its submit, until its answer was read.
    pub(crate) total: Samples,
    /// From when a task was due until it was submitted.
    pub(crate) late: Samples,
    /// From submit to start.
    pub(crate) queue: Samples,
    /// From start to end of the handler.
    pub(crate) run: Samples,
    /// From there until it was read.
    pub(crate) back: Samples,
    /// Tasks that found the lane full when they were due.
    pub(crate) rejected: u64,
    /// Tasks that were due before the end and never sent.
    pub(crate) unsent: u64,
    /// How long the oldest of them had been due.
    pub(crate) behind: u64,
    /// Tasks accepted and not answered.
    pub(crate) unanswered: u64,
    /// When the last answer was read, or the stream ended.
    pub(crate) ended_at: u64,
}

impl Seen {
    /// Tasks of the span that were answered.
    pub(crate) fn tasks(&self) -> u64 {
        self.by_status.iter().sum()
    }

    /// Adds another stream's.
    pub(crate) fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.by_status.iter_mut().zip(other.by_status) {
            *mine += theirs;
        }
        self.not_done += other.not_done;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        let mine = [&mut self.total, &mut self.late, &mut self.queue, &mut self.run, &mut self.back];
        for (mine, theirs) in mine.into_iter().zip([other.total, other.late, other.queue, other.run, other.back]) {
            mine.merge(&theirs);
        }
        self.rejected += other.rejected;
        self.unsent += other.unsent;
        self.behind = self.behind.max(other.behind);
        self.unanswered += other.unanswered;
        self.ended_at = self.ended_at.max(other.ended_at);
    }
}

/// When an open loop's tasks are due: equally far apart, without drift.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    next: u64,
    step: u64,
    rest: u64,
    owed: u64,
    rate: u64,
}

impl Schedule {
    fn new(start: u64, ticks_per_second: u64, rate: u64, streams: u64, stream: u64) -> Self {
        let wide = u128::from(ticks_per_second);
        let offset = wide * u128::from(stream) / u128::from(rate);
        let step = wide * u128::from(streams);
        let (step, rest) = (step / u128::from(rate), step % u128::from(rate));
        Self { next: start + offset as u64, step: step as u64, rest: rest as u64, owed: 0, rate }
    }

    fn advance(&mut self) {
        self.next += self.step;
        self.owed += self.rest;
        if self.owed >= self.rate {
            self.owed -= self.rate;
            self.next += 1;
        }
    }

    /// Tasks due before `end` from the next one on.
    fn due_before(&self, end: u64) -> u64 {
        let per_task = self.step as f64 + self.rest as f64 / self.rate as f64;
        (end.saturating_sub(self.next) as f64 / per_task.max(f64::MIN_POSITIVE)).ceil() as u64
    }
}

/// A lane and what is sent through it.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    client: Client,
    task: TaskDescriptor,
    payload: &'a [u8],
    clock: Clock,
    span: Span,
    /// Whether user data says when a task was due; its own stamp does otherwise.
    carries_due: bool,
    /// The long task, its request, and to how many tasks there is one.
    spin: Option<(TaskDescriptor, [u8; 8], u64)>,
    /// Answers are left where they are until then, in ticks.
    collect_from: u64,
    sent: u64,
    stop: &'a AtomicBool,
    idle: Idle,
    misses: u32,
    probe_at: u64,
    in_flight: u64,
    seen: Seen,
}

impl<'a> Stream<'a> {
    /// Nothing is sent yet.
    pub(crate) fn new(
        client: Client,
        handler: u32,
        payload: &'a [u8],
        idle: IdleStrategy,
        span: Span,
        stop: &'a AtomicBool,
    ) -> Self {
        let clock = *client.clock();
        Self {
            client,
            task: TaskDescriptor::new(handler),
            payload,
            clock,
            span,
            carries_due: true,
            spin: None,
            collect_from: 0,
            sent: 0,
            stop,
            idle: Idle::new(idle),
            misses: 0,
            probe_at: span.start,
            in_flight: 0,
            seen: Seen::default(),
        }
    }

    /// The same with long tasks in between.
    pub(crate) fn spinning(mut self, spin: Option<Spin>) -> Self {
        self.spin = spin.map(|spin| {
            let ns = u64::try_from(spin.time.as_nanos()).unwrap_or(u64::MAX);
            (TaskDescriptor::new(spin.handler), ns.to_le_bytes(), spin.every)
        });
        self
    }

    /// The same, collecting nothing for so long after the start.
    pub(crate) fn collecting_after(mut self, time: Option<Duration>) -> Self {
        let ns = time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.collect_from = self.span.start.saturating_add(self.clock.ns_to_ticks(ns));
        self
    }

    /// Sends and collects until the end.
    pub(crate) fn run(mut self, pace: Pace) -> (Seen, StreamEnd) {
        let sent = match pace {
            Pace::Closed { window } => self.closed(window),
            Pace::Open { rate, streams, stream } => {
                let second = self.clock.ns_to_ticks(1_000_000_000);
                let from = |start| Schedule::new(start, second, rate, streams, stream);
                self.open(from(self.span.start), from(self.span.from))
            }
        };
        let end = sent.and_then(|()| self.drain()).err().unwrap_or(StreamEnd::Time);
        self.seen.unanswered = self.in_flight;
        self.seen.ended_at = self.seen.ended_at.max(self.clock.now().min(self.span.end));
        (self.seen, end)
    }

    fn closed(&mut self, window: u64) -> Result<(), StreamEnd> {
        self.carries_due = !self.client.is_timed();
        let mut now = self.clock.now();
        while now < self.span.end && !self.stop.load(Relaxed) {
            while self.in_flight < window {
                let due = if self.carries_due { self.clock.now() } else { 0 };
                self.submit(due)?; // never full: the window is no larger than the lane
            }
            now = match self.collect()? {
                Some(read_at) => read_at,
                None => self.miss()?.unwrap_or(now),
            };
        }
        Ok(())
    }

    /// `measured` takes over from `schedule` when the warm-up ends, whatever that has left undone.
    fn open(&mut self, mut schedule: Schedule, measured: Schedule) -> Result<(), StreamEnd> {
        let mut is_warm_up = true;
        let last_call = self.span.end + self.clock.ns_to_ticks(GRACE_NS);
        let mut is_blocked = false; // the next task was refused, and nothing was collected since
        let mut was_refused = false; // the next task was refused before
        loop {
            let mut now = self.clock.now();
            let is_over = now >= last_call || self.stop.load(Relaxed);
            if schedule.next >= self.span.end || is_over {
                let until = now.min(self.span.end);
                self.seen.unsent = if is_warm_up { 0 } else { schedule.due_before(until) };
                self.seen.behind = if self.seen.unsent > 0 { now.saturating_sub(schedule.next) } else { 0 };
                return Ok(());
            }
            if is_warm_up && now >= self.span.from {
                (is_warm_up, is_blocked, was_refused) = (false, false, false);
                schedule = measured;
            }
            let mut is_idle = true;
            let limit = if is_warm_up { self.span.from } else { self.span.end };
            while !is_blocked && schedule.next <= now && schedule.next < limit {
                match self.submit(schedule.next)? {
                    true => {
                        now = self.clock.now();
                        if !is_warm_up {
                            self.seen.late.record(now.saturating_sub(schedule.next));
                        }
                        schedule.advance();
                        (is_idle, was_refused) = (false, false);
                    }
                    false => {
                        self.seen.rejected += u64::from(!was_refused && !is_warm_up);
                        (is_blocked, was_refused) = (true, true);
                    }
                }
                // Answers are read between two tasks that are late: what waits to be read is not yet late.
                is_blocked &= self.collect()?.is_none();
            }
            while self.collect()?.is_some() {
                (is_blocked, is_idle) = (false, false);
            }
            if is_idle {
                self.miss()?;
            }
        }
    }

    /// Collects what was accepted.
    fn drain(&mut self) -> Result<(), StreamEnd> {
        let mut last_call = None;
        while self.in_flight > 0 {
            if self.collect()?.is_none()
                && let Some(now) = self.miss()?
                && self.stop.load(Relaxed)
                && now > *last_call.get_or_insert(now + self.clock.ns_to_ticks(LAST_CALL_NS))
            {
                break;
            }
        }
        if self.stop.load(Relaxed) { Err(StreamEnd::Interrupted) } else { Ok(()) }
    }

    /// Submits a task; `false` if the lane is full.
    #[inline(always)]
    fn submit(&mut self, due: u64) -> Result<bool, StreamEnd> {
        let (task, payload) = match &self.spin {
            Some((task, request, every)) if (self.sent + 1).is_multiple_of(*every) => (*task, &request[..]),
            _ => (self.task, self.payload),
        };
        match self.client.try_submit(&task.user_data(due), payload) {
            Ok(_) => {
                self.sent += 1;
                self.in_flight += 1;
                Ok(true)
            }
            Err(SubmitError::Full(_)) => Ok(false),
            Err(SubmitError::Poisoned(_)) if self.client.is_damaged() => Err(self.damaged()?),
            Err(error) => Err(StreamEnd::Failed(one_line(&error))),
        }
    }

    /// Takes the next answer, if there is one; returns when it was read.
    #[inline(always)]
    fn collect(&mut self) -> Result<Option<u64>, StreamEnd> {
        if self.collect_from != 0 {
            if self.clock.now() < self.collect_from {
                return Ok(None);
            }
            self.collect_from = 0;
        }
        let completion = match self.client.try_collect() {
            Ok(Some(completion)) => completion,
            Ok(None) => return Ok(None),
            Err(error) => return Err(StreamEnd::Failed(one_line(&error))),
        };
        let now = self.clock.now();
        let [submitted, started, completed] = completion.stamps();
        let due = if self.carries_due { completion.user_data() } else { submitted };
        let (seen, status) = (&mut self.seen, completion.status());
        if status != Status::Done {
            seen.not_done += 1;
            if seen.first_failure.is_none() {
                let text = completion.text();
                seen.first_failure =
                    Some(if text.is_empty() { status.to_string() } else { format!("{status}: {text}") });
            }
        }
        if due >= self.span.from {
            // A warm-up task is due before that, or was submitted before it.
            if let Some(count) = seen.by_status.get_mut(usize::from(status.code())) {
                *count += 1;
            }
            seen.total.record(now.saturating_sub(due));
            if submitted != 0 {
                seen.queue.record(started.saturating_sub(submitted));
                seen.run.record(completed.saturating_sub(started));
                seen.back.record(now.saturating_sub(completed));
            }
            seen.ended_at = now;
        }
        self.in_flight -= 1;
        self.misses = 0;
        self.idle.hit();
        Ok(Some(now))
    }

    /// After a look that found nothing; now and then it looks at the time, which it returns then.
    #[inline(always)]
    fn miss(&mut self) -> Result<Option<u64>, StreamEnd> {
        self.idle.miss();
        self.misses += 1;
        if self.misses.is_multiple_of(MISSES) { self.look_around().map(Some) } else { Ok(None) }
    }

    /// The slow side: is anybody there to answer?
    #[cold]
    #[inline(never)]
    fn look_around(&mut self) -> Result<u64, StreamEnd> {
        let now = self.clock.now();
        if now < self.probe_at {
            return Ok(now);
        }
        self.probe_at = now + self.clock.ns_to_ticks(PROBE_NS);
        if self.client.state() == LaneStatus::Lost {
            return Err(StreamEnd::Failed("the instance was discarded".to_owned()));
        }
        if self.client.is_damaged() {
            return Err(self.damaged()?);
        }
        if !self.client.is_executor_alive() {
            // What the dead one published it published before.
            while self.collect()?.is_some() {}
            return Err(StreamEnd::Down);
        }
        Ok(now)
    }

    /// What is said of a lane whose tasks cannot be read any more, once its last answers are taken.
    #[cold]
    fn damaged(&mut self) -> Result<StreamEnd, StreamEnd> {
        while self.collect()?.is_some() {}
        let lane = self.client.lane_number();
        Ok(StreamEnd::Failed(format!(
            "lane {lane} was damaged from outside: what was submitted there cannot be read any more; look at it with \
             shm-dump, and find out who wrote to its files"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        times.resize_with(count, || {
            let next = schedule.next;
            schedule.advance();
            next
        });
        times
    }

    #[test]
    fn a_schedule_keeps_its_rate_without_drift() {
        let third = times(Schedule::new(10, 1_000_000_000, 3, 1, 0), 3_001);
        assert_eq!(third[..4], [10, 333_333_343, 666_666_676, 1_000_000_010]);
        assert_eq!(third[3_000], 1_000_000_000_010);
    }

    #[test]
    fn streams_share_a_schedule_and_no_two_send_at_the_same_time() {
        let mut all: Vec<u64> =
            (0..4).flat_map(|stream| times(Schedule::new(0, 1_000_000, 1_000, 4, stream), 25)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).map(|task| task * 1_000).collect::<Vec<u64>>());
    }

    #[test]
    fn what_was_due_and_not_sent_is_counted() {
        let schedule = Schedule::new(100, 1_000_000_000, 1_000_000, 1, 0);
        assert_eq!(schedule.due_before(100), 0);
        assert_eq!([schedule.due_before(101), schedule.due_before(1_100), schedule.due_before(1_101)], [1, 1, 2]);
        assert_eq!(Schedule::new(0, 1_000, 1_000_000, 1, 0).due_before(1_000), 1_000_000, "faster than the clock");
    }
}
