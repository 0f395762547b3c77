//! A request where it lies, for handlers that read it in place instead of getting a private copy.
//!
//! It hands out no slice: its producer may go on writing there, by mistake or in bad faith, so the same word may differ
//! when it is read again. Read a value once, check what was read, use that.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytemuck::{CheckedBitPattern, NoUninit, Zeroable, checked};

/// The bytes of one request, read by volatile loads of eight bytes.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    source: Source<'a>,
    length: usize,
}

#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// Up to 32 bytes came with the descriptor, and some lanes have nothing to look at: these are private bytes.
    Private(&'a [u8]),
    /// Memory of the producer.
    Shared(&'a [AtomicU64]),
}

impl<'a> RequestView<'a> {
    /// A view of private bytes.
    #[inline]
    pub fn private(bytes: &'a [u8]) -> Self {
        Self { source: Source::Private(bytes), length: bytes.len() }
    }

    /// A view of the first `length` bytes of `words`, or of fewer if there are not so many.
    #[inline]
    pub fn shared(words: &'a [AtomicU64], length: usize) -> Self {
        Self { source: Source::Shared(words), length: length.min(words.len() * 8) }
    }

    /// Its length in bytes; checked before the handler was called, it does not change.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether the bytes lie in the producer's memory; private bytes never change.
    #[inline]
    pub fn is_shared(&self) -> bool {
        matches!(self.source, Source::Shared(_))
    }

    /// How many words [`word`](Self::word) has.
    #[inline]
    pub fn words(&self) -> usize {
        self.length.div_ceil(8)
    }

    /// Eight bytes as a little-endian number, the last one filled up with zeros; `None` past the end.
    #[inline]
    pub fn word(&self, index: usize) -> Option<u64> {
        let word = match self.source {
            Source::Private(bytes) => private_word(bytes, index)?,
            Source::Shared(words) => words.get(index)?.load(Relaxed),
        };
        let left = self.length.checked_sub(index.checked_mul(8)?)?;
        match left {
            0 => None,
            1..8 => Some(word & ((1 << (left * 8)) - 1)),
            _ => Some(word),
        }
    }

    /// Goes over all words in order, each read once, the last one filled up with zeros. The fastest way through.
    #[inline]
    pub fn fold_words<B>(&self, start: B, mut fold: impl FnMut(B, u64) -> B) -> B {
        let whole = self.length / 8;
        let folded = match self.source {
            Source::Private(bytes) => {
                let (words, _) = bytes.as_chunks::<8>();
                words.iter().fold(start, |folded, bytes| fold(folded, u64::from_le_bytes(*bytes)))
            }
            Source::Shared(words) => {
                words.iter().take(whole).fold(start, |folded, word| fold(folded, word.load(Relaxed)))
            }
        };
        match self.word(whole) {
            Some(last) => fold(folded, last),
            None => folded,
        }
    }

    /// Copies what there is from byte `from` on, as much as fits; returns how many bytes.
    pub fn copy_to(&self, from: usize, into: &mut [u8]) -> usize {
        let length = self.length.saturating_sub(from).min(into.len());
        let into = into.get_mut(..length).unwrap_or_default();
        match self.source {
            Source::Private(bytes) => {
                if let Some(bytes) = bytes.get(from..from + length) {
                    into.copy_from_slice(bytes);
                }
            }
            Source::Shared(words) => {
                // The first word may be begun in its middle; from there on whole words, and a rest.
                let (head, tail) = into.split_at_mut(length.min(from.wrapping_neg() % 8));
                let mut words = words.get(from / 8..).unwrap_or_default().iter().map(|word| word.load(Relaxed));
                if !head.is_empty() {
                    let word = words.next().unwrap_or_default().to_le_bytes();
                    let at = from % 8;
                    head.copy_from_slice(word.get(at..at + head.len()).unwrap_or_default());
                }
                for (chunk, word) in tail.chunks_mut(8).zip(words) {
                    chunk.copy_from_slice(word.to_le_bytes().get(..chunk.len()).unwrap_or_default());
                }
            }
        }
        length
    }

    /// The value that begins at byte `from`; `None` if it does not lie inside or is no legal value.
    #[inline]
    pub fn read<T>(&self, from: usize) -> Option<T>
    where
        T: CheckedBitPattern,
        T::Bits: NoUninit + Zeroable,
    {
        if size_of::<T>() > self.length.checked_sub(from)? {
            return None;
        }
        let mut bits = T::Bits::zeroed();
        self.copy_to(from, bytemuck::bytes_of_mut::<T::Bits>(&mut bits));
        checked::try_cast(bits).ok()
    }

    /// Hands it over in copies that fit `buffer`, in order: for code that wants slices. A buffer without a byte gets
    /// none.
    pub fn chunks(&self, buffer: &mut [u8], mut piece: impl FnMut(&[u8])) {
        let mut at = 0;
        while at < self.length && !buffer.is_empty() {
            let copied = self.copy_to(at, buffer);
            piece(buffer.get(..copied).unwrap_or_default());
            at += copied;
        }
    }
}

fn private_word(bytes: &[u8], index: usize) -> Option<u64> {
    let bytes = bytes.get(index.checked_mul(8)?..)?;
    let mut word = [0; 8];
    let length = bytes.len().min(8);
    word.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    Some(u64::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shared(bytes: &[u8]) -> Vec<AtomicU64> {
        // What lies behind the request in its buffer must not be seen.
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(8) + 8, 0xee);
        (0..padded.len() / 8).map(|at| AtomicU64::new(private_word(&padded, at).unwrap())).collect()
    }

    proptest! {
        #[test]
        fn shared_and_private_views_show_the_bytes_that_are_there(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            from in 0usize..110,
            size in 0usize..40,
        ) {
            let words = shared(&bytes);
            for view in [RequestView::private(&bytes), RequestView::shared(&words, bytes.len())] {
                prop_assert_eq!((view.len(), view.words()), (bytes.len(), bytes.len().div_ceil(8)));
                let there = bytes.get(from..).unwrap_or_default();
                let there = &there[..there.len().min(size)];
                let mut copy = vec![0xaa; size];
                prop_assert_eq!(view.copy_to(from, &mut copy), there.len());
                prop_assert_eq!(&copy[..there.len()], there);
                prop_assert!(copy[there.len()..].iter().all(|&byte| byte == 0xaa));

                let all: Vec<u64> = (0..).map_while(|at| view.word(at)).collect();
                let folded = view.fold_words(Vec::new(), |mut all, word| { all.push(word); all });
                prop_assert_eq!(&all, &folded);
                let mut expected = bytes.clone();
                expected.resize(bytes.len().next_multiple_of(8), 0);
                prop_assert_eq!(all.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>(), expected);

                let value = bytes.get(from..).and_then(|rest| rest.first_chunk()).map(|four| u32::from_le_bytes(*four));
                prop_assert_eq!(view.read::<u32>(from), value);
                let mut pieces = Vec::new();
                view.chunks(&mut vec![0; size], |piece| pieces.extend_from_slice(piece));
                prop_assert_eq!(pieces, if size == 0 { Vec::new() } else { bytes.clone() });
            }
        }
    }

    #[test]
    fn a_value_that_is_not_legal_is_not_read() {
        let words = shared(&[1, 2]);
        let view = RequestView::shared(&words, 2);
        assert_eq!((view.read::<bool>(0), view.read::<bool>(1), view.read::<bool>(2)), (Some(true), None, None));
        assert_eq!(view.read::<u8>(usize::MAX), None);
        assert_eq!((view.word(1), view.word(usize::MAX)), (None, None));
    }
}
