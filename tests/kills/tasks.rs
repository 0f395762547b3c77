//! The tasks of the harness: what is submitted, what the handlers do, and how each task must end.
//!
//! A payload is the task's tag, what to do, and words made from both; an answer is made from the tag as well: a handler
//! that got half a payload knows, and so does whoever reads half an answer.

use std::sync::Arc;

use executor_shm::core::record::{DescriptorRecord, INLINE_PAYLOAD};
use executor_shm::core::status::{HandlerChange, Malformed};
use executor_shm::core::{Handler, Registry, Response, Status, TaskContext, TaskError};

use crate::effects::Effects;

/// The tag of an effect of a handler that got something else than one task's payload.
pub(crate) const TORN: u64 = u64::MAX;
/// What a failing handler says.
const FAILURE: &str = "no such order";
/// What a panicking handler says.
pub(crate) const PANIC_TEXT: &str = "the handler broke";
/// What [`Kind::Failed`] fails with.
const CODE: u8 = 42;

/// Runs a task once at most.
const ONCE: u32 = 1;
/// Reads its request where it lies.
const IN_PLACE: u32 = 2;
/// May run a task twice.
const AGAIN: u32 = 3;
/// Takes payloads of 8 bytes only.
const SIZED: u32 = 4;

/// A task by what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub(crate) enum Kind {
    /// Payload and answer lie inline.
    Plain,
    /// Both lie in buffers.
    Long,
    /// The handler reads the payload where it lies.
    InPlace,
    /// As plain, idempotent.
    Again,
    /// As long, idempotent.
    AgainLong,
    /// The handler fails.
    Failed,
    /// The handler panics.
    Panicked,
    /// The answer does not fit.
    Wide,
    /// No handler has its id.
    Unknown,
    /// Its deadline has passed.
    Expired,
    /// A flag is set.
    Flagged,
    /// The handler takes no payload of its size.
    WrongSize,
    /// The payload is longer than a buffer.
    TooLong,
}

/// Which handlers a sidecar has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Those of the instance's first start.
    First,
    /// The same ids, each with another contract.
    Changed,
}

/// A task of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    pub(crate) tag: u64,
}

impl Kind {
    /// The handler's id.
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::InPlace => IN_PLACE,
            Self::Again | Self::AgainLong => AGAIN,
            Self::WrongSize => SIZED,
            Self::Unknown => 4000,
            _ => ONCE,
        }
    }

    /// Bytes of its payload.
    pub(crate) fn payload_bytes(self) -> usize {
        match self {
            Self::Long | Self::InPlace | Self::AgainLong => 64,
            _ => 24,
        }
    }

    /// Whether it may run twice.
    pub(crate) fn is_idempotent(self) -> bool {
        matches!(self, Self::Again | Self::AgainLong)
    }

    /// Whether its handler runs.
    pub(crate) fn runs(self) -> bool {
        self.verdict(Build::First).is_none()
    }

    /// How it ends without having run, on a lane that attached under the first build.
    pub(crate) fn verdict(self, build: Build) -> Option<Status> {
        match self {
            Self::Unknown => Some(Status::Malformed(Malformed::UnknownHandler)),
            _ if build == Build::Changed => Some(Status::HandlerChanged(HandlerChange::Changed)),
            Self::Expired => Some(Status::Expired),
            Self::Flagged => Some(Status::Malformed(Malformed::BadFlags)),
            Self::WrongSize => Some(Status::Malformed(Malformed::WrongSize)),
            Self::TooLong => Some(Status::Malformed(Malformed::TooLong)),
            _ => None,
        }
    }

    /// How it ends if it has run to its end.
    pub(crate) fn end(self) -> Status {
        match self {
            Self::Failed => Status::Failed { code: CODE },
            Self::Panicked => Status::Panicked,
            Self::Wide => Status::ResponseTooLong { wanted: answer_words(WIDE) as u32 * 8 },
            _ => Status::Done,
        }
    }
}

impl Task {
    /// Its payload.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let seed = self.kind as u64;
        let word = |i: u64| match i {
            0 => self.tag,
            1 => seed,
            i => filler(self.tag, seed, i),
        };
        (0..self.kind.payload_bytes() as u64 / 8).flat_map(|i| word(i).to_le_bytes()).collect()
    }

    /// Its answer, if it has run to its end.
    pub(crate) fn response(&self) -> Vec<u8> {
        match self.kind {
            Kind::Failed => FAILURE.as_bytes().to_vec(),
            Kind::Panicked => PANIC_TEXT.as_bytes().to_vec(),
            Kind::Wide => Vec::new(),
            kind => (0..answer_words(kind as u64)).flat_map(|i| filler(self.tag, ANSWER, i).to_le_bytes()).collect(),
        }
    }

    /// Its descriptor, with a payload that lies inline; `submitted_at` is not 0.
    pub(crate) fn record(&self, submitted_at: u64) -> DescriptorRecord {
        let payload = self.payload();
        let length = if self.kind == Kind::TooLong { 1000 } else { payload.len() as u32 };
        let deadline = u64::from(self.kind == Kind::Expired);
        let mut record = DescriptorRecord::new(self.kind.id(), length, submitted_at, deadline);
        if self.kind == Kind::Flagged {
            record.words[1] = DescriptorRecord::pack(self.kind.id(), 1, length);
        }
        if payload.len() <= INLINE_PAYLOAD {
            record.inline_payload_mut()[..payload.len()].copy_from_slice(&payload);
        }
        record
    }
}

/// Word `i` of a payload or an answer.
#[inline(always)]
fn filler(tag: u64, seed: u64, i: u64) -> u64 {
    (tag ^ seed << 56 ^ i << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What answers are made from beside the tag.
const ANSWER: u64 = 0xa5;

/// Words that a task of the kind numbered `kind` is answered with.
#[inline(always)]
fn answer_words(kind: u64) -> u64 {
    match kind {
        LONG | IN_PLACE_LONG | AGAIN_LONG => 8,
        WIDE => 100,
        _ => 2,
    }
}

const LONG: u64 = Kind::Long as u64;
const IN_PLACE_LONG: u64 = Kind::InPlace as u64;
const AGAIN_LONG: u64 = Kind::AgainLong as u64;
const WIDE: u64 = Kind::Wide as u64;
const FAILED: u64 = Kind::Failed as u64;
const PANICKED: u64 = Kind::Panicked as u64;

/// The tag of a payload, [`TORN`] if it is none, and what to do.
#[inline(always)]
fn read(words: impl Iterator<Item = u64>) -> (u64, u64) {
    let (mut tag, mut kind, mut whole) = (TORN, 0, true);
    for (i, word) in (0..).zip(words) {
        match i {
            0 => tag = word,
            1 => kind = word,
            i => whole &= word == filler(tag, kind, i),
        }
    }
    (if whole { tag } else { TORN }, kind)
}

#[inline(always)]
fn act(tag: u64, kind: u64, response: &mut Response<'_>) -> Result<(), TaskError> {
    match kind {
        FAILED => return Err(TaskError::with_code(CODE, FAILURE)),
        PANICKED => panic!("{PANIC_TEXT}"),
        _ => {}
    }
    if let Some(room) = response.reserve(answer_words(kind) as usize * 8) {
        for (i, word) in (0..).zip(room.chunks_exact_mut(8)) {
            word.copy_from_slice(&filler(tag, ANSWER, i).to_le_bytes());
        }
    }
    Ok(())
}

/// The handlers of a build.
pub(crate) fn registry(build: Build, effects: &Arc<Effects>) -> Registry {
    let schema = match build {
        Build::First => 1,
        Build::Changed => 2,
    };
    let run = |id: u32, name: &str| {
        let effects = Arc::clone(effects);
        Handler::new(id, name, move |context: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>| {
            let words = request.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
            let (tag, kind) = read(words);
            let effect = effects.enter(tag, context);
            let end = act(tag, kind, response);
            effects.leave(effect);
            end
        })
    };
    let seen = Arc::clone(effects);
    let handlers = [
        run(ONCE, "once"),
        Handler::in_place(IN_PLACE, "in-place", move |context, request, response| {
            let (tag, kind) = read((0..request.words()).filter_map(|i| request.word(i)));
            let effect = seen.enter(tag, context);
            let end = act(tag, kind, response);
            seen.leave(effect);
            end
        }),
        run(AGAIN, "again").idempotent(),
        run(SIZED, "sized").request_bytes(8..=8),
    ];
    let mut builder = Registry::builder();
    for handler in handlers {
        builder.add(handler.schema(schema));
    }
    builder.build().unwrap()
}

/// Keeps the panics that handlers are told to have from the terminal.
pub(crate) fn hush_planned_panics() {
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(PANIC_TEXT) {
            standard(info);
        }
    }));
}
