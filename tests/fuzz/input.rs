//! Bytes that are read as numbers; past their end everything is 0.

#![allow(dead_code, reason = "each target reads its part")]

use executor_shm::words::{HeapWords, WordsMut};

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `count` bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.bytes(N);
        std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.number())
    }

    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.number())
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Stores `image` from word `at` on, as far as the block goes.
pub fn lay(words: &HeapWords, at: usize, image: &[u8]) {
    use executor_shm::words::Words;
    let mut image = Input(image);
    for word in at..words.len() {
        if image.is_empty() {
            return;
        }
        words.store(word, image.word());
    }
}
