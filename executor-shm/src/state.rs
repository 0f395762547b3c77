//! What an instance and a lane can be, as one word each.

/// The life of an instance, word `STATE` of the headers of `status` and `journal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum InstanceState {
    /// The journal was made and nothing else is certain.
    New = 1,
    /// Tasks are served, or the sidecar died: the life lock tells which.
    Running = 2,
    /// The sidecar is stopping with manners.
    Closing = 3,
    /// The sidecar stopped and left the files, because producers are attached or tasks unanswered.
    Stopped = 4,
    /// The instance was given up; its accepted tasks will never be answered.
    Discarded = 5,
}

impl InstanceState {
    /// The state for a word of a file.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            1 => Self::New,
            2 => Self::Running,
            3 => Self::Closing,
            4 => Self::Stopped,
            5 => Self::Discarded,
            _ => return None,
        })
    }

    /// The name tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Closing => "closing",
            Self::Stopped => "stopped",
            Self::Discarded => "discarded",
        }
    }
}

/// The life of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LaneState {
    /// Never made.
    Absent = 0,
    /// Its files are being replaced. Lanes are born so.
    Resetting = 1,
    /// Its files are pristine; whoever gets the lock on `sq` owns it.
    Free = 2,
    /// Served, with a living owner.
    Active = 3,
    /// Its owner is gone; what it had accepted is served.
    Draining = 4,
    /// Served no more: its tasks are answered `Poisoned`.
    Poisoned = 5,
}

impl LaneState {
    /// The state for three bits of a word.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Absent,
            1 => Self::Resetting,
            2 => Self::Free,
            3 => Self::Active,
            4 => Self::Draining,
            5 => Self::Poisoned,
            _ => return None,
        })
    }

    /// The name tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Resetting => "resetting",
            Self::Free => "free",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Poisoned => "poisoned",
        }
    }
}

/// A lane's state, the reason for it and its nonce in one word, so that no reader sees one without the other.
///
/// ```text
/// bits 0..3 state | bits 3..8 reason (poison code, 0 none) | bits 8..64 nonce (56 bits, not 0 once files exist)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneWord(u64);

impl LaneWord {
    /// The word of its parts; bits past a field's width are lost.
    #[inline]
    pub const fn new(state: LaneState, reason: u8, nonce: u64) -> Self {
        Self(state as u64 | ((reason & 31) as u64) << 3 | nonce << 8)
    }

    /// The word as a file holds it.
    #[inline]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// As a file holds it.
    #[inline]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The state; an impossible one in a damaged file reads as `None`.
    #[inline]
    pub const fn state(self) -> Option<LaneState> {
        LaneState::from_bits(self.0)
    }

    /// The poison code, 0 for none.
    #[inline]
    pub const fn reason(self) -> u8 {
        (self.0 >> 3) as u8 & 31
    }

    /// The nonce in the names of the lane's files.
    #[inline]
    pub const fn nonce(self) -> u64 {
        self.0 >> 8
    }

    /// The same lane in another state.
    #[inline]
    pub const fn with(self, state: LaneState, reason: u8) -> Self {
        Self::new(state, reason, self.nonce())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_word_keeps_its_three_parts() {
        let word = LaneWord::new(LaneState::Poisoned, 2, 0x00ab_cdef_0123_4567);
        assert_eq!((word.state(), word.reason(), word.nonce()), (Some(LaneState::Poisoned), 2, 0x00ab_cdef_0123_4567));
        assert_eq!(word.with(LaneState::Free, 0), LaneWord::new(LaneState::Free, 0, 0x00ab_cdef_0123_4567));
        assert_eq!(LaneWord::from_word(7).state(), None, "a damaged state is no state");
        assert_eq!(LaneWord::from_word(0).state(), Some(LaneState::Absent));
    }

    #[test]
    fn every_instance_state_survives_its_word() {
        for word in 0..9 {
            if let Some(state) = InstanceState::from_word(word) {
                assert_eq!(state as u64, word);
            } else {
                assert!(word == 0 || word > 5);
            }
        }
    }
}
