//! The words both sides of a task share: its identity, its priority, its failure, and what a handler is told.

use std::borrow::Cow;

use crate::clock::Clock;
use crate::record::DescriptorRecord;

/// The lowest and the highest id a handler can have.
pub const HANDLER_IDS: std::ops::RangeInclusive<u32> = 1..=4095;

/// Bits of a [`TaskId`] below the lane number.
const SEQUENCE_BITS: u32 = 54;

/// A task's number, unique in its instance for the instance's whole life: lane in the upper ten bits, the lane's count
/// of tasks ever accepted below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(u64);

impl TaskId {
    /// The id of the `sequence`-th task (from 0) of lane `lane`.
    #[inline(always)]
    pub const fn new(lane: u32, sequence: u64) -> Self {
        Self((lane as u64) << SEQUENCE_BITS | (sequence & ((1 << SEQUENCE_BITS) - 1)))
    }

    /// The id as one number, as tools print it.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id that prints as this number.
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// The lane the task went through.
    pub const fn lane(self) -> u32 {
        (self.0 >> SEQUENCE_BITS) as u32
    }

    /// The lane's count of tasks before this one, over all its owners.
    pub const fn sequence(self) -> u64 {
        self.0 & ((1 << SEQUENCE_BITS) - 1)
    }
}

impl std::fmt::Debug for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskId({self})")
    }
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.lane(), self.sequence())
    }
}

/// A task's number in the world: what a handler may use as an idempotency key in a database or a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// The random number of the instance.
    pub instance_nonce: u64,
    /// The task in that instance.
    pub task_id: TaskId,
}

/// How urgent a lane is. Priority belongs to lanes; inside one lane order never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// Served when nothing else waits, and never passed over for long: see [`worker`](crate::worker).
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Before Normal.
    High = 2,
    /// Before everything; waits for at most the task that is running.
    Critical = 3,
}

impl Priority {
    /// How many priorities there are.
    pub const COUNT: usize = 4;
    /// All of them, the least urgent first.
    pub const ALL: [Self; Self::COUNT] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The priority for its number on the wire. Only the lowest two bits count, so any input is legal.
    pub const fn from_bits(bits: u64) -> Self {
        Self::ALL[(bits & 3) as usize]
    }

    /// The name tools print and read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl std::str::FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.name() == text)
            .ok_or_else(|| format!("no priority is called {text:?}; choose low, normal, high or critical"))
    }
}

/// Why a handler failed: a code of its own choosing and a text. It becomes the completion's status and response.
///
/// Anything that is a `std::error::Error` converts with `?`, so a handler reads like any other function. (For that very
/// reason `TaskError` is not a `std::error::Error` itself.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    code: u8,
    message: Cow<'static, str>,
}

impl TaskError {
    /// A failure with code 0. The text is cut to the response limit on its way out.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 0, message: message.into() }
    }

    /// A failure with a code that the producer can match on.
    pub fn with_code(code: u8, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// The handler's code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The handler's text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl std::fmt::Display for TaskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(text)
    }
}

/// What a lane is, as far as its tasks are told.
#[derive(Clone, Copy, Debug)]
pub struct LaneFacts {
    /// The lane's number.
    pub lane: u32,
    /// Added to a position to make the sequence of a [`TaskId`].
    pub base: u64,
    /// The instance's random number.
    pub instance_nonce: u64,
    /// The registry generation the lane attached under.
    pub generation: u32,
    /// How urgent it is.
    pub priority: Priority,
    /// A moment before it was attached, in ticks: producer stamps before it are not believed.
    pub attached_at: u64,
    /// Offset of its counters in the meter, in words.
    pub meter: usize,
}

/// What a handler is told about the task it runs.
#[derive(Debug)]
pub struct TaskContext<'a> {
    pub(crate) record: &'a DescriptorRecord,
    pub(crate) lane: &'a LaneFacts,
    pub(crate) clock: &'a Clock,
    pub(crate) position: u64,
    pub(crate) own_id: Option<TaskId>,
    pub(crate) started_at: u64,
    pub(crate) attempt: u16,
    pub(crate) worker: u32,
}

impl TaskContext<'_> {
    /// The task's number in this instance.
    pub fn task_id(&self) -> TaskId {
        self.own_id.unwrap_or_else(|| TaskId::new(self.lane.lane, self.lane.base.wrapping_add(self.position)))
    }

    /// The task's number in the world, stable over attempts: an idempotency key.
    pub fn key(&self) -> TaskKey {
        TaskKey { instance_nonce: self.lane.instance_nonce, task_id: self.task_id() }
    }

    /// The id the task asked for.
    pub fn handler_id(&self) -> u32 {
        self.record.handler_id()
    }

    /// Which run of this task this is, from 1. Only an idempotent handler ever sees 2.
    pub fn attempt(&self) -> u16 {
        self.attempt
    }

    /// The lane it came through.
    pub fn lane(&self) -> u32 {
        self.lane.lane
    }

    /// That lane's priority.
    pub fn priority(&self) -> Priority {
        self.lane.priority
    }

    /// The worker that runs it.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// The producer's stamp in ticks of [`TaskContext::clock`], `None` with timing off. It is the producer's word.
    pub fn submitted_at(&self) -> Option<u64> {
        Some(self.record.submitted_at()).filter(|&ticks| ticks != 0)
    }

    /// When the worker began, in ticks of [`TaskContext::clock`], `None` with timing off.
    pub fn started_at(&self) -> Option<u64> {
        Some(self.started_at).filter(|&ticks| ticks != 0)
    }

    /// The tick after which the answer is of no use to the producer, if it named one.
    pub fn deadline(&self) -> Option<u64> {
        Some(self.record.deadline()).filter(|&ticks| ticks != 0)
    }

    /// The clock these ticks belong to.
    pub fn clock(&self) -> &Clock {
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_keeps_lane_and_sequence_apart() {
        let id = TaskId::new(1023, (1 << 54) - 1);
        assert_eq!((id.lane(), id.sequence()), (1023, (1 << 54) - 1));
        assert_eq!(TaskId::new(3, 1 << 54).sequence(), 0, "a sequence that ran over must not spill into the lane");
        assert_eq!(format!("{:?} {}", TaskId::new(2, 9), TaskId::new(2, 9)), "TaskId(2/9) 2/9");
    }

    #[test]
    fn an_error_of_any_kind_becomes_a_task_error_with_its_causes() {
        fn parse() -> Result<u32, TaskError> {
            Ok("x".parse::<u32>()?)
        }
        let error = parse().unwrap_err();
        assert_eq!((error.code(), error.message()), (0, "invalid digit found in string"));
    }
}
