//! Words of a process that is killed between two of its stores: the ones before it happened, the others do not.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use executor_core::record::WORDS;
use executor_shm::words::{Words, WordsMut};

/// A life without an end.
pub(crate) const FOREVER: u64 = u64::MAX;

/// What a process still does before it is killed, and what it did in this life.
#[derive(Clone, Debug)]
pub(crate) struct Life(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    left: u64,
    landed: Vec<(&'static str, usize, u64)>,
}

impl Life {
    /// A life that ends after so many stores.
    pub(crate) fn new(stores: u64) -> Self {
        Self(Arc::new(Mutex::new(State { left: stores, landed: Vec::new() })))
    }

    /// Begins another life, in which nothing has landed yet.
    pub(crate) fn begin(&self, stores: u64) {
        *self.0.lock().unwrap() = State { left: stores, landed: Vec::new() };
    }

    /// Whether nothing happens any more.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().unwrap().left == 0
    }

    /// Does one more thing, if it lives: a store of `value` to word `at` of `file`, or something else that counts.
    pub(crate) fn lands(&self, file: &'static str, at: usize, value: u64) -> bool {
        let mut state = self.0.lock().unwrap();
        if state.left == 0 {
            return false;
        }
        if state.left != FOREVER {
            state.left -= 1;
        }
        state.landed.push((file, at, value));
        true
    }

    /// Whether that happened in this life.
    pub(crate) fn has_landed(&self, file: &'static str, at: usize, value: u64) -> bool {
        self.0.lock().unwrap().landed.contains(&(file, at, value))
    }
}

/// Words that one mortal process writes, buffers included. Bytes of a buffer are stored before the commit that follows
/// them, whether or not that one still happens.
#[derive(Clone, Debug)]
pub(crate) struct Mortal<W> {
    file: &'static str,
    words: W,
    life: Life,
    staged: RefCell<(usize, Vec<u8>)>,
}

impl<W: WordsMut + Clone> Mortal<W> {
    /// The words of `file` in the hands of a process with this life.
    pub(crate) fn new(file: &'static str, words: &W, life: &Life) -> Self {
        Self { file, words: words.clone(), life: life.clone(), staged: RefCell::default() }
    }
}

impl<W: Words> Words for Mortal<W> {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.words.load(at)
    }

    fn load_commit(&self, at: usize) -> u64 {
        self.words.load_commit(at)
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        self.words.load_record(at)
    }
}

impl<W: WordsMut> WordsMut for Mortal<W> {
    fn store(&self, at: usize, value: u64) {
        if self.life.lands(self.file, at, value) {
            self.words.store(at, value);
        }
    }

    fn commit(&self, at: usize, value: u64) {
        let (from, bytes) = self.staged.take();
        for (word, chunk) in (from..).zip(bytes.chunks(8)) {
            self.words.store(word, u64::from_le_bytes(chunk.try_into().unwrap()));
        }
        if self.life.lands(self.file, at, value) {
            self.words.commit(at, value);
        }
    }

    fn store_record(&self, at: usize, record: &[u64; WORDS]) {
        for (place, word) in record.iter().enumerate().skip(1) {
            self.store(at + place, *word);
        }
    }

    fn buffer(&mut self, at: usize, length: usize) -> &mut [u8] {
        let mut bytes = vec![0; length.next_multiple_of(8)];
        self.words.copy_out(at, &mut bytes);
        let staged = self.staged.get_mut();
        *staged = (at, bytes);
        &mut staged.1[..length]
    }
}
