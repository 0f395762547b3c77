//! Where a handler writes its answer.
//!
//! Up to 24 bytes travel inside the completion record; a longer answer is written straight into the slot's response
//! buffer, which nobody else writes. Nothing is allocated and nothing is copied twice.

use bytemuck::NoUninit;

use crate::record::INLINE_RESPONSE;

/// The answer of one task while its handler runs.
///
/// Writing never fails: what does not fit is counted, and the task then ends as
/// [`Status::ResponseTooLong`](crate::Status::ResponseTooLong) with the length that was wanted.
#[derive(Debug)]
pub struct Response<'a> {
    buffer: &'a mut [u8],
    inline: [u64; 3],
    length: usize,
    wanted: usize,
}

/// What became of a [`Response`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The inline words; meaningless when the length is past [`INLINE_RESPONSE`].
    pub inline: [u64; 3],
    /// Bytes the handler wanted to write.
    pub wanted: usize,
    /// Whether they all fit.
    pub fits: bool,
}

impl Written {
    /// The empty answer of a task that did not run.
    pub const NOTHING: Self = Self { inline: [0; 3], wanted: 0, fits: true };
}

impl<'a> Response<'a> {
    /// An empty answer; `buffer` takes it once it is longer than 24 bytes.
    #[inline(always)]
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, inline: [0; 3], length: 0, wanted: 0 }
    }

    /// The longest answer that fits, in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buffer.len().max(INLINE_RESPONSE)
    }

    /// Bytes written so far that fit.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was written yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends `bytes`.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(room) = self.reserve(bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    /// Appends the bytes of a plain value.
    #[inline]
    pub fn write_value<T: NoUninit>(&mut self, value: &T) {
        self.write(bytemuck::bytes_of(value));
    }

    /// Appends `length` bytes for the caller to fill, or `None` if they do not fit. Their old content is arbitrary.
    #[inline]
    pub fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        self.wanted = self.wanted.saturating_add(length);
        if self.wanted > self.capacity() {
            return None;
        }
        let (start, end) = (self.length, self.wanted);
        self.length = end;
        if end <= INLINE_RESPONSE {
            return bytemuck::bytes_of_mut(&mut self.inline).get_mut(start..end);
        }
        if start <= INLINE_RESPONSE {
            let written = bytemuck::bytes_of(&self.inline).get(..start)?;
            self.buffer.get_mut(..start)?.copy_from_slice(written);
        }
        self.buffer.get_mut(start..end)
    }

    /// Forgets everything written so far, overflow included.
    pub fn clear(&mut self) {
        self.length = 0;
        self.wanted = 0;
    }

    /// Replaces the answer by as much of `text` as fits, cut at a character.
    pub fn set_text(&mut self, text: &str) {
        self.clear();
        let mut end = text.len().min(self.capacity());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.write(text.get(..end).unwrap_or_default().as_bytes());
    }

    /// Ends the writing.
    #[inline(always)]
    pub fn finish(self) -> Written {
        Written { inline: self.inline, wanted: self.wanted, fits: self.wanted == self.length }
    }
}

/// Writing through `std::io` never fails either; what does not fit is counted as above.
impl std::io::Write for Response<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Response::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sequence_of_writes_ends_as_their_concatenation(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            capacity in prop::sample::select(vec![0usize, 64, 128]),
        ) {
            let mut buffer = vec![0xee; capacity];
            let whole: Vec<u8> = pieces.concat();
            let mut response = Response::new(&mut buffer);
            for piece in &pieces {
                response.write(piece);
            }
            let written = response.finish();
            prop_assert_eq!(written.wanted, whole.len());
            prop_assert_eq!(written.fits, whole.len() <= capacity.max(24));
            if written.fits && whole.len() <= 24 {
                prop_assert_eq!(&bytemuck::bytes_of(&written.inline)[..whole.len()], &whole[..]);
            } else if written.fits {
                prop_assert_eq!(&buffer[..whole.len()], &whole[..]);
            }
        }
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        let mut buffer = [];
        let mut response = Response::new(&mut buffer);
        response.write(&[1; 99]);
        response.set_text("twenty-three bytes text\u{00e9}\u{00e9}");
        let written = response.finish();
        assert!(written.fits);
        assert_eq!(written.wanted, 23);
    }
}
