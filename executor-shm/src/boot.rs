//! Which boot of the machine a file is from: the kernel's random number for it.
//!
//! A kill leaves a prefix of a process's stores. The end of a boot does not: where `/dev/shm` outlives it (a folder of a
//! disk, a copy put back), pages come back in no order at all, and stamps are those of a clock that has begun again. So
//! nothing is served over a boot; see [`master`](crate::master).

use crate::words::{Words, WordsMut};

/// Where the kernel tells it: 32 digits of base 16 with dashes between them.
const SOURCE: &str = "/proc/sys/kernel/random/boot_id";

/// A boot, as two words of a file; 0 where nobody could say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot(u128);

impl Boot {
    /// This one. Containers see their machine's; where `/proc` does not tell it, it is unknown.
    pub(crate) fn now() -> Self {
        std::fs::read_to_string(SOURCE).map_or(Self(0), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let digits = text.trim().replace('-', "");
        Self(u128::from_str_radix(&digits, 16).unwrap_or(0))
    }

    /// Whether both are known and differ.
    pub(crate) fn is_other(self, than: Self) -> bool {
        self.0 != 0 && than.0 != 0 && self != than
    }

    pub(crate) fn store(self, words: &impl WordsMut, at: usize) {
        words.store(at, self.0 as u64);
        words.store(at + 1, (self.0 >> 64) as u64);
    }

    pub(crate) fn load(words: &impl Words, at: usize) -> Self {
        Self(u128::from(words.load(at)) | u128::from(words.load(at + 1)) << 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::HeapWords;

    #[test]
    fn a_boot_survives_its_two_words_and_is_no_other_than_itself() {
        let boot = Boot::parse("948159c4-8c90-4571-b87f-303f6d8667a8\n");
        let words = HeapWords::new(8);
        boot.store(&words, 3);
        assert_eq!((words.load(3), words.load(4)), (0xb87f_303f_6d86_67a8, 0x9481_59c4_8c90_4571));
        assert_eq!(Boot::load(&words, 3), boot);
        assert!(!boot.is_other(boot));
        assert!(boot.is_other(Boot::parse("948159c4-8c90-4571-b87f-303f6d8667a9")));
    }

    #[test]
    fn a_boot_that_nobody_knows_is_taken_for_this_one() {
        let boot = Boot::parse("948159c4-8c90-4571-b87f-303f6d8667a8");
        for text in ["", "no number", "0", "00000000-0000-0000-0000-000000000000"] {
            assert!(!Boot::parse(text).is_other(boot) && !boot.is_other(Boot::parse(text)), "{text:?}");
        }
    }
}
