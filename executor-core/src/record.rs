//! The two 64-byte records of a lane: what a producer asks and what the executor answers.
//!
//! ```text
//!        descriptor (SQ slot)                          completion (CQ slot)
//!   w0   commit: position + 1, stored last             commit: position + 1, stored last
//!   w1   handler u32 | flags u8 << 32 | length << 40   status u8 | detail u8 << 8 | attempt u16 << 16 | length << 32
//!   w2   submitted_at, ticks                           submitted_at, echoed raw
//!   w3   deadline, ticks; 0 none                       started_at, ticks
//!   w4   inline payload                                completed_at, ticks
//!   w5   inline payload                                inline response
//!   w6   inline payload                                inline response
//!   w7   inline payload                                inline response
//! ```
//!
//! A record is eight aligned little-endian words and every bit pattern is legal: these types only give the words names.
//! They never touch memory that another process can write; that is the word module of `executor-shm`.

use crate::status::Status;

/// Words in a record.
pub const WORDS: usize = 8;
/// Bytes of payload that lie in the descriptor itself.
pub const INLINE_PAYLOAD: usize = 32;
/// Bytes of response that lie in the completion itself.
pub const INLINE_RESPONSE: usize = 24;
/// The longest payload or response any lane can be made for, in bytes.
pub const LENGTH_MAX: usize = (1 << 24) - 64;

/// Index of the commit word in either record.
pub const COMMIT: usize = 0;

/// What a producer asks: one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub struct DescriptorRecord {
    /// The eight words as the picture above has them.
    pub words: [u64; WORDS],
}

/// What the executor answers: one task's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub struct CompletionRecord {
    /// The eight words as the picture above has them.
    pub words: [u64; WORDS],
}

const _: () = assert!(size_of::<DescriptorRecord>() == 64);
const _: () = assert!(size_of::<CompletionRecord>() == 64);
const _: () = assert!(align_of::<DescriptorRecord>() == 64);
const _: () = assert!(align_of::<CompletionRecord>() == 64);

impl DescriptorRecord {
    /// A descriptor without its payload and with commit word 0. `length` must be below 2^24.
    #[inline(always)]
    pub fn new(handler_id: u32, length: u32, submitted_at: u64, deadline: u64) -> Self {
        let mut words = [0; WORDS];
        words[1] = Self::pack(handler_id, 0, length);
        words[2] = submitted_at;
        words[3] = deadline;
        Self { words }
    }

    /// Word 1 from its parts; bits of `length` past the 24th are lost.
    #[inline(always)]
    pub const fn pack(handler_id: u32, flags: u8, length: u32) -> u64 {
        handler_id as u64 | (flags as u64) << 32 | (length as u64) << 40
    }

    /// The handler asked for; any value, also ones that no registry can hold.
    #[inline(always)]
    pub const fn handler_id(&self) -> u32 {
        self.words[1] as u32
    }

    /// Flag bits; none is defined today.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        (self.words[1] >> 32) as u8
    }

    /// Payload length in bytes, below 2^24.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        (self.words[1] >> 40) as u32
    }

    /// When the producer says it submitted, in ticks; 0 with timing off.
    #[inline(always)]
    pub const fn submitted_at(&self) -> u64 {
        self.words[2]
    }

    /// The tick after which the task must not start any more; 0 for none.
    #[inline(always)]
    pub const fn deadline(&self) -> u64 {
        self.words[3]
    }

    /// The 32 payload bytes inside the descriptor, aligned to 32.
    #[inline(always)]
    pub fn inline_payload(&self) -> &[u8; INLINE_PAYLOAD] {
        bytemuck::cast_ref::<[u64; 4], [u8; INLINE_PAYLOAD]>(payload_words(&self.words))
    }

    /// The 32 payload bytes inside the descriptor, to be filled.
    #[inline(always)]
    pub fn inline_payload_mut(&mut self) -> &mut [u8; INLINE_PAYLOAD] {
        let [_, _, _, _, a @ ..] = &mut self.words;
        bytemuck::cast_mut::<[u64; 4], [u8; INLINE_PAYLOAD]>(a)
    }
}

#[inline(always)]
fn payload_words(words: &[u64; WORDS]) -> &[u64; 4] {
    let [_, _, _, _, tail @ ..] = words;
    tail
}

impl CompletionRecord {
    /// A completion with commit word 0; `inline` is copied whether or not the response lies inline.
    #[inline(always)]
    pub fn new(
        status: Status,
        attempt: u16,
        length: u32,
        submitted_at: u64,
        started_at: u64,
        completed_at: u64,
        inline: [u64; 3],
    ) -> Self {
        let packed = Self::pack(status.code(), status.detail(), attempt, length);
        let [a, b, c] = inline;
        Self { words: [0, packed, submitted_at, started_at, completed_at, a, b, c] }
    }

    /// Word 1 from its parts.
    #[inline(always)]
    pub const fn pack(status: u8, detail: u8, attempt: u16, length: u32) -> u64 {
        status as u64 | (detail as u64) << 8 | (attempt as u64) << 16 | (length as u64) << 32
    }

    /// The typed status, or `None` if no build of this ABI writes these bytes.
    #[inline(always)]
    pub const fn status(&self) -> Option<Status> {
        Status::from_wire(self.status_code(), (self.words[1] >> 8) as u8, self.length())
    }

    /// The status byte as it stands.
    #[inline(always)]
    pub const fn status_code(&self) -> u8 {
        self.words[1] as u8
    }

    /// The last attempt at running the handler, from 1; 0 if it never ran.
    #[inline(always)]
    pub const fn attempt(&self) -> u16 {
        (self.words[1] >> 16) as u16
    }

    /// Response length in bytes; for a response that was too long, the length wanted.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        (self.words[1] >> 32) as u32
    }

    /// Bytes of response that are really there.
    #[inline(always)]
    pub const fn response_length(&self) -> u32 {
        if self.status_code() == 5 { 0 } else { self.length() }
    }

    /// The producer's own stamp, echoed, in ticks.
    #[inline(always)]
    pub const fn submitted_at(&self) -> u64 {
        self.words[2]
    }

    /// When the worker began with the task, in ticks; 0 with timing off.
    #[inline(always)]
    pub const fn started_at(&self) -> u64 {
        self.words[3]
    }

    /// When the worker was done, in ticks; equals `started_at` for a task that never ran.
    #[inline(always)]
    pub const fn completed_at(&self) -> u64 {
        self.words[4]
    }

    /// The 24 response bytes inside the completion.
    #[inline(always)]
    pub fn inline_response(&self) -> &[u8; INLINE_RESPONSE] {
        let [_, _, _, _, _, tail @ ..] = &self.words;
        bytemuck::cast_ref::<[u64; 3], [u8; INLINE_RESPONSE]>(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Malformed;

    #[test]
    fn a_descriptor_word_holds_its_three_parts() {
        let word = DescriptorRecord::pack(0xdead_beef, 0x5a, 0x00ab_cdef);
        let record = DescriptorRecord { words: [0, word, 1, 2, 3, 4, 5, 6] };
        assert_eq!(record.handler_id(), 0xdead_beef);
        assert_eq!(record.flags(), 0x5a);
        assert_eq!(record.length(), 0x00ab_cdef);
        assert_eq!((record.submitted_at(), record.deadline()), (1, 2));
        assert_eq!(record.inline_payload()[..9], [3, 0, 0, 0, 0, 0, 0, 0, 4]);
    }

    #[test]
    fn a_completion_word_holds_its_four_parts() {
        let status = Status::Malformed(Malformed::WrongSize);
        let record = CompletionRecord::new(status, 0x1234, 0x89ab_cdef, 1, 2, 3, [4, 5, 6]);
        assert_eq!(record.words, [0, 0x89ab_cdef_1234_0404, 1, 2, 3, 4, 5, 6]);
        assert_eq!(record.status(), Some(status));
        assert_eq!((record.attempt(), record.length()), (0x1234, 0x89ab_cdef));
        assert_eq!(record.inline_response()[16], 6);
    }

    #[test]
    fn a_response_that_was_too_long_has_no_bytes() {
        let record = CompletionRecord::new(Status::ResponseTooLong { wanted: 900 }, 1, 900, 0, 0, 0, [0; 3]);
        assert_eq!(record.status(), Some(Status::ResponseTooLong { wanted: 900 }));
        assert_eq!(record.response_length(), 0);
    }
}
