//! SHA-256 as a chain of tasks: each takes a midstate and the next chunk and answers the midstate after it.
//!
//! Nothing is kept in the sidecar between two tasks, and a task that is run twice answers the same: so a file of any
//! size is hashed with requests of a few KiB, over a restart of the sidecar too.
//!
//! ```text
//! request                                              response
//!   0  state     8 x u32  midstate before this chunk     0  state   8 x u32  midstate after this chunk
//!  32  length    u64      bytes before this chunk       32  length  u64      bytes after this chunk
//!  40  flags     u32      bit 0: this is the last one   40
//!  44  reserved  5 x u32  zero
//!  64  chunk     whole 64-byte blocks, unless it is the last, which may also be empty
//! ```
//!
//! All numbers are little-endian. The state of a first chunk is [`INITIAL`], its length 0. The state after the last
//! chunk is the digest: its words in big-endian order are the 32 bytes that `sha256sum` prints.

use bytemuck::{Pod, Zeroable};
use sha2::block_api::Sha256VarCore;
use sha2::digest::Output;
use sha2::digest::array::Array;
use sha2::digest::block_api::{Buffer, UpdateCore, VariableOutputCore};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

/// Bytes of a block; chunks but the last are whole blocks.
pub const BLOCK_BYTES: usize = 64;
/// Flag: the chunk is the last one, to be padded and finished.
pub const LAST: u32 = 1;
/// The state before the first byte: FIPS 180-4, section 5.3.3.
pub const INITIAL: Midstate = Midstate {
    state: [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19],
    length: 0,
};

/// What a request begins with; the chunk follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// The midstate before this chunk.
    pub state: [u32; 8],
    /// Bytes hashed before this chunk.
    pub length: u64,
    /// [`LAST`] or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: [u32; 5],
}

/// The whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Midstate {
    /// The state after the bytes so far.
    pub state: [u32; 8],
    /// How many bytes those are.
    pub length: u64,
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<Midstate>() == 40);

/// Why a request is no link of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Begin with whole blocks.
    #[error("{0} bytes before this chunk are no whole 64-byte blocks; only the last chunk may be partial")]
    PartialBefore(u64),
    /// Send whole blocks, or set the flag.
    #[error("a chunk of {0} bytes is no whole 64-byte blocks and is not flagged as the last")]
    PartialChunk(usize),
    /// Send zeros there.
    #[error("flags {0:#x} or reserved words are set that this handler does not know")]
    UnknownFlags(u32),
    /// SHA-256 ends at 2^61 bytes.
    #[error("{0} bytes before this chunk leave no room in a 64-bit count of bits")]
    TooLong(u64),
}

/// Runs one link: what the handler does.
///
/// # Errors
///
/// The request breaks a rule of the wire format.
pub fn advance(header: &Header, chunk: &[u8]) -> Result<Midstate, BlockError> {
    let last = header.flags == LAST;
    if header.flags & !LAST != 0 || header.reserved != [0; 5] {
        return Err(BlockError::UnknownFlags(header.flags));
    }
    if !header.length.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(BlockError::PartialBefore(header.length));
    }
    let length = header.length.checked_add(chunk.len() as u64).filter(|length| length >> 61 == 0);
    let length = length.ok_or(BlockError::TooLong(header.length))?;
    let (blocks, tail) = Array::slice_as_chunks(chunk);
    if !last && !tail.is_empty() {
        return Err(BlockError::PartialChunk(chunk.len()));
    }
    let mut core = core_at(header);
    core.update_blocks(blocks);
    if last {
        let mut digest = Output::<Sha256VarCore>::default();
        core.finalize_variable_core(&mut Buffer::<Sha256VarCore>::new(tail), &mut digest);
        let (words, _) = digest.as_chunks();
        return Ok(Midstate {
            state: std::array::from_fn(|i| words.get(i).map_or(0, |w| u32::from_be_bytes(*w))),
            length,
        });
    }
    let serialized = core.serialize();
    let (words, _) = serialized.as_chunks();
    Ok(Midstate { state: std::array::from_fn(|i| words.get(i).map_or(0, |w| u32::from_le_bytes(*w))), length })
}

/// The crate's hasher as it stood before the chunk: its serialized form is the state and the count of blocks.
fn core_at(header: &Header) -> Sha256VarCore {
    let mut serialized = SerializedState::<Sha256VarCore>::default();
    let (state, blocks) = serialized.split_at_mut(32);
    state.copy_from_slice(bytemuck::cast_slice(&header.state));
    blocks.copy_from_slice(&(header.length / BLOCK_BYTES as u64).to_le_bytes());
    match Sha256VarCore::deserialize(&serialized) {
        Ok(core) => core,
        Err(_) => unreachable!("every state and count is legal to the crate"),
    }
}

/// The producer's side of one chain: which request comes next, and whether its answer fits.
#[derive(Clone, Debug)]
pub struct Chain {
    midstate: Midstate,
    finished: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Self { midstate: INITIAL, finished: false }
    }
}

impl Chain {
    /// The header of the next request.
    pub fn header(&self, last: bool) -> Header {
        let Midstate { state, length } = self.midstate;
        Header { state, length, flags: if last { LAST } else { 0 }, reserved: [0; 5] }
    }

    /// Bytes hashed so far.
    pub fn length(&self) -> u64 {
        self.midstate.length
    }

    /// Takes the answer to [`Chain::header`] with `chunk` bytes.
    ///
    /// # Errors
    ///
    /// The answer is of another length than it must be: it belongs to another request. Nothing is taken.
    pub fn advance(&mut self, answer: Midstate, chunk: usize, last: bool) -> Result<(), WrongLength> {
        let expected = self.midstate.length + chunk as u64;
        if answer.length != expected || self.finished {
            return Err(WrongLength { expected, found: answer.length });
        }
        self.midstate = answer;
        self.finished = last;
        Ok(())
    }

    /// The digest, once the last chunk is answered.
    pub fn digest(&self) -> Option<[u8; 32]> {
        if !self.finished {
            return None;
        }
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.midstate.state) {
            *bytes = word.to_be_bytes();
        }
        Some(digest)
    }
}

/// An answer that is not the one to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer stands at {found} bytes where {expected} were sent")]
pub struct WrongLength {
    /// Bytes sent so far.
    pub expected: u64,
    /// Bytes the answer speaks of.
    pub found: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 131 + i / 251) as u8).collect()
    }

    fn hash_in_chunks(data: &[u8], chunk_bytes: usize) -> [u8; 32] {
        let mut chain = Chain::default();
        let mut rest = data;
        while chain.digest().is_none() {
            let (chunk, after) = rest.split_at(rest.len().min(chunk_bytes));
            let last = chunk.len() < chunk_bytes;
            let answer = advance(&chain.header(last), chunk).unwrap();
            chain.advance(answer, chunk.len(), last).unwrap();
            rest = after;
        }
        chain.digest().unwrap()
    }

    #[test]
    fn a_chain_of_any_chunk_size_ends_in_the_digest_of_the_whole() {
        for length in [0, 1, 55, 56, 63, 64, 65, 127, 128, 4095, 4096, 4097, 10_000] {
            let data = bytes(length);
            for chunk in [64, 128, 4096, 16_384] {
                assert_eq!(hash_in_chunks(&data, chunk)[..], Sha256::digest(&data)[..], "{length} bytes by {chunk}");
            }
        }
    }

    #[test]
    fn an_empty_first_and_last_chunk_is_the_published_digest_of_nothing() {
        let answer = advance(&Chain::default().header(true), &[]).unwrap();
        assert_eq!(answer.state[0], 0xe3b0_c442);
        assert_eq!(answer.length, 0);
    }

    #[test]
    fn a_partial_chunk_that_is_not_the_last_is_refused() {
        let header = Chain::default().header(false);
        assert_eq!(advance(&header, &[0; 65]), Err(BlockError::PartialChunk(65)));
    }

    #[test]
    fn a_header_that_breaks_a_rule_is_refused() {
        let good = Chain::default().header(true);
        assert_eq!(advance(&Header { length: 65, ..good }, &[]), Err(BlockError::PartialBefore(65)));
        assert_eq!(advance(&Header { flags: 3, ..good }, &[]), Err(BlockError::UnknownFlags(3)));
        assert_eq!(advance(&Header { reserved: [0, 0, 0, 0, 1], ..good }, &[]), Err(BlockError::UnknownFlags(1)));
        let end = (1 << 61) - 64;
        assert_eq!(advance(&Header { length: end, ..good }, &[0; 64]), Err(BlockError::TooLong(end)));
        assert_eq!(
            advance(&Header { length: u64::MAX - 63, ..good }, &[0; 64]),
            Err(BlockError::TooLong(u64::MAX - 63))
        );
    }

    #[test]
    fn an_answer_to_another_request_is_not_taken() {
        let mut chain = Chain::default();
        let answer = advance(&chain.header(false), &[7; 64]).unwrap();
        assert_eq!(chain.advance(answer, 128, false), Err(WrongLength { expected: 128, found: 64 }));
        assert_eq!(chain.header(false), Chain::default().header(false));
        chain.advance(answer, 64, false).unwrap();
        assert_eq!((chain.length(), chain.digest()), (64, None));
    }
}
