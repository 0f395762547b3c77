//! One task of the chaos: what its handler is to do, how that travels in the payload, and what must come back.
//!
//! ```text
//! payload    w0 entry   w1 spec   w2 key   w3 !key   then filler, by the key
//! spec       kind u8 | effect at u8 << 8 | length, 16 ns u24 << 16 | response bytes u12 << 40 | payload bytes u12 << 52
//! response   w0 entry   w1 key   then filler, by the inverse of the key; cut to its length
//! ```
//!
//! The key depends on the round's seed, the entry and the spec: no payload but one that a producer of this round made
//! whole is taken for one, and no response of another task for this one's.

use fastrand::Rng;

use crate::dice::mix;
use crate::plan::{Diet, Mode, Pace, Plan, one_of};

/// Bytes of the payload that every task has; they lie in its descriptor.
pub(crate) const HEAD_BYTES: usize = 32;

/// What a task asks for, and what may become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// One effect, never two.
    Once = 1,
    /// As `Once`, by a handler that reads the payload where it lies.
    InPlace,
    /// Idempotent: may have its effect twice.
    Again,
    /// Has its effect and fails.
    Fails,
    /// Has its effect and panics.
    Panics,
    /// Has its effect and answers more than any lane takes.
    TooLong,
    /// Has a deadline that is past when anybody looks at it.
    Expires,
    /// Asks for a handler that there never was.
    Unknown,
    /// Asks for a handler that is another in the other build.
    Marked,
    /// Asks for a handler that only build 1 has.
    Retired,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Once,
        Self::InPlace,
        Self::Again,
        Self::Fails,
        Self::Panics,
        Self::TooLong,
        Self::Expires,
        Self::Unknown,
        Self::Marked,
        Self::Retired,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// The handler that it asks for.
    pub(crate) fn handler_id(self) -> u32 {
        match self {
            Self::Expires => Self::Once as u32,
            Self::Unknown => 4000,
            kind => kind as u32,
        }
    }
}

/// A task as its producer draws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    /// Where in its length the effect is, in 255ths.
    pub(crate) effect_at: u8,
    /// How long the handler runs, in units of 16 ns.
    pub(crate) length: u32,
    pub(crate) response_bytes: u16,
    pub(crate) payload_bytes: u16,
}

impl Task {
    /// A task as they are in this round. `build` is what the producer's lane was attached under, 0 if it does not know.
    pub(crate) fn draw(dice: &mut Rng, plan: &Plan, build: u64) -> Self {
        let usual = match plan.diet {
            Diet::Refused if dice.u32(0..4) != 0 => Some(one_of(dice, &[Kind::Expires, Kind::Unknown])),
            Diet::Again if dice.bool() => Some(Kind::Again),
            _ => None,
        };
        let kind = match dice.u32(0..100) {
            _ if usual.is_some() => usual.unwrap_or(Kind::Once),
            0..40 => Kind::Once,
            40..48 => Kind::InPlace,
            48..74 => Kind::Again,
            74..80 => Kind::Fails,
            80..83 => Kind::Panics,
            83..86 => Kind::TooLong,
            86..90 => Kind::Expires,
            90..93 => Kind::Unknown,
            _ if plan.mode != Mode::Upgrade => Kind::Once,
            93..97 if build != 0 => Kind::Marked,
            _ => Kind::Retired,
        };
        let length_ns = match (plan.pace, dice.u32(0..10)) {
            (Pace::Hot, _) => 0,
            (Pace::Brisk, 0..4) => 0,
            (Pace::Brisk, 4..9) => dice.u32(0..20_000),
            (Pace::Brisk, _) => dice.u32(0..300_000),
            (Pace::Slow, 0..3) => dice.u32(0..20_000),
            (Pace::Slow, 3..9) => dice.u32(0..500_000),
            (Pace::Slow, _) => dice.u32(0..4_000_000),
        };
        let long = if plan.pace == Pace::Hot { 32 } else { 4 };
        let mut bytes = |inline: usize, most: u32| {
            let most = most as usize;
            (if dice.u32(0..long) == 0 { dice.usize(inline..=most.max(inline)) } else { inline }) as u16
        };
        let (mut payload_bytes, mut response_bytes) =
            (bytes(HEAD_BYTES, plan.request_bytes), bytes(24, plan.response_bytes));
        if kind == Kind::Marked {
            (payload_bytes, response_bytes) = (HEAD_BYTES as u16, 16); // its contract is typed
        }
        let effect_at = one_of(dice, &[0, 128, 255]);
        Self { kind, effect_at, length: length_ns / 16, response_bytes, payload_bytes }
    }

    /// The task in one word.
    pub(crate) fn spec(&self) -> u64 {
        self.kind as u64
            | u64::from(self.effect_at) << 8
            | u64::from(self.length & 0xff_ffff) << 16
            | u64::from(self.response_bytes & 0xfff) << 40
            | u64::from(self.payload_bytes) << 52
    }

    /// The task of a word that [`Task::spec`] made.
    pub(crate) fn from_spec(spec: u64) -> Option<Self> {
        Some(Self {
            kind: Kind::from_code(spec as u8)?,
            effect_at: (spec >> 8) as u8,
            length: (spec >> 16) as u32 & 0xff_ffff,
            response_bytes: (spec >> 40) as u16 & 0xfff,
            payload_bytes: (spec >> 52) as u16,
        })
    }

    pub(crate) fn key(&self, seed: u64, entry: u64) -> u64 {
        mix(mix(seed ^ entry) ^ self.spec())
    }

    /// The payload of entry `entry`.
    pub(crate) fn payload(&self, seed: u64, entry: u64, into: &mut Vec<u8>) {
        let key = self.key(seed, entry);
        into.clear();
        for word in [entry, self.spec(), key, !key] {
            into.extend(word.to_le_bytes());
        }
        into.extend((0..).map(|at| filler(key, at)).take(usize::from(self.payload_bytes).saturating_sub(HEAD_BYTES)));
    }

    /// The entry and the task of a payload, if a producer of this round made it and every byte of it arrived.
    pub(crate) fn read(seed: u64, payload: &[u8]) -> Option<(u64, Self)> {
        let word = |at: usize| Some(u64::from_le_bytes(payload.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        let (entry, task, key) = (word(0)?, Self::from_spec(word(1)?)?, word(2)?);
        let whole = payload.len() == usize::from(task.payload_bytes).max(HEAD_BYTES)
            && key == task.key(seed, entry)
            && word(3)? == !key
            && (0..).zip(&payload[HEAD_BYTES..]).all(|(at, &byte)| byte == filler(key, at));
        whole.then_some((entry, task))
    }

    /// What a handler answers that ends well.
    pub(crate) fn response(&self, seed: u64, entry: u64) -> Vec<u8> {
        let key = self.key(seed, entry);
        let mut bytes: Vec<u8> = entry.to_le_bytes().into_iter().chain(key.to_le_bytes()).collect();
        bytes.extend((0..).map(|at| filler(!key, at)).take(usize::from(self.response_bytes).saturating_sub(16)));
        bytes.truncate(usize::from(self.response_bytes));
        bytes
    }
}

fn filler(key: u64, at: usize) -> u8 {
    mix(key ^ (at / 8) as u64).to_le_bytes()[at % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_back_whole_or_not_at_all() {
        let mut dice = Rng::with_seed(3);
        for round in 0..200 {
            let plan = Plan::draw(5, round, Mode::Upgrade);
            let task = Task::draw(&mut dice, &plan, 1);
            assert_eq!(Task::from_spec(task.spec()), Some(task));
            let mut payload = Vec::new();
            task.payload(plan.task_seed, 77, &mut payload);
            assert_eq!(Task::read(plan.task_seed, &payload), Some((77, task)));
            assert_eq!(Task::read(plan.task_seed + 1, &payload), None, "of another run");
            let at = dice.usize(..payload.len());
            payload[at] ^= 1;
            assert_eq!(Task::read(plan.task_seed, &payload), None, "byte {at} was changed");
            payload[at] ^= 1;
            payload.pop();
            assert_eq!(Task::read(plan.task_seed, &payload), None, "cut off");
        }
    }

    #[test]
    fn no_two_tasks_answer_alike() {
        let task = Task::draw(&mut Rng::with_seed(3), &Plan::draw(5, 0, Mode::Executor), 0);
        assert_ne!(task.response(1, 5), task.response(1, 6));
        assert_ne!(task.response(1, 5), task.response(2, 5));
    }
}
