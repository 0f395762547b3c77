//! Random numbers that depend on the seed and on what they are for, and on nothing else.

use fastrand::Rng;

/// What a stream of choices is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Stream {
    /// What a round is like.
    Round = 1,
    /// When the killer strikes, and whom.
    Killer,
    /// What a producer does in one process.
    Producer,
    /// Which build a sidecar is of, and with how many workers it starts.
    Start,
}

/// The choices of `stream`, number `a`, life `b`, under `seed`.
pub(crate) fn dice(seed: u64, stream: Stream, a: u64, b: u64) -> Rng {
    Rng::with_seed([stream as u64, a, b].into_iter().fold(mix(seed), |mixed, word| mix(mixed ^ word)))
}

/// A word that looks random and depends on every bit of another: the last step of SplitMix64.
pub(crate) const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
