//! Typed contracts: what a task takes and answers, known to both sides at compile time and compared by fingerprint.
//!
//! A [`TaskSpec`] has arguments of one size, a [`SliceSpec`] a header and any number of items behind it.

use bytemuck::{CheckedBitPattern, NoUninit, Pod};

use crate::task::HANDLER_IDS;

/// The typed contract of a task, shared by the producer that calls it and the sidecar that serves it.
///
/// Put it into a crate of its own that both sides depend on.
///
/// ```
/// use executor_core::TaskSpec;
/// use executor_core::bytemuck::{Pod, Zeroable};
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// pub struct Order { pub price: u64, pub quantity: u64 }
///
/// pub struct Notional;
/// impl TaskSpec for Notional {
///     const ID: u32 = 17;
///     const NAME: &'static str = "notional";
///     const SCHEMA: u32 = 1;
///     type Args = Order;
///     type Output = u64;
/// }
/// assert_ne!(Notional::FINGERPRINT, 0);
/// ```
pub trait TaskSpec {
    /// The handler's id, 1 to 4,095.
    const ID: u32;
    /// The handler's name, at most 63 bytes.
    const NAME: &'static str;
    /// Raise it whenever the meaning or the layout of `Args` or `Output` changes.
    const SCHEMA: u32;
    /// What the producer sends; alignment at most 64.
    type Args: NoUninit + CheckedBitPattern;
    /// What the handler answers; alignment at most 64.
    type Output: NoUninit + CheckedBitPattern;

    /// The contract in 64 bits: producer and sidecar compare it before the first typed call.
    const FINGERPRINT: u64 = {
        assert!(Self::ID >= *HANDLER_IDS.start() && Self::ID <= *HANDLER_IDS.end(), "TaskSpec::ID must be 1 to 4,095");
        assert!(align_of::<Self::Args>() <= 64, "TaskSpec::Args must not be aligned to more than 64");
        assert!(align_of::<Self::Output>() <= 64, "TaskSpec::Output must not be aligned to more than 64");
        fingerprint(
            Self::NAME,
            Self::SCHEMA,
            size_of::<Self::Args>() as u32,
            align_of::<Self::Args>() as u32,
            size_of::<Self::Output>() as u32,
            align_of::<Self::Output>() as u32,
        )
    };
}

/// The typed contract of a task with a request of variable size: a header, then any number of items.
///
/// On the wire the header comes first, then zeros up to the alignment of an item, then the items. How many there are
/// follows from the payload's length, so nothing else has to be believed; the request buffers of the instance bound it.
/// The output has one size. For an answer of variable size write an untyped handler ([`Handler::new`]).
///
/// [`Handler::new`]: crate::Handler::new
///
/// ```
/// use executor_core::SliceSpec;
///
/// pub struct Mean;
/// impl SliceSpec for Mean {
///     const ID: u32 = 18;
///     const NAME: &'static str = "mean";
///     const SCHEMA: u32 = 1;
///     type Header = u32; // which channel
///     type Item = f32;   // a sample
///     type Output = f64;
/// }
/// assert_eq!(Mean::payload_bytes(10), Some(44));
/// ```
pub trait SliceSpec {
    /// The handler's id, 1 to 4,095.
    const ID: u32;
    /// The handler's name, at most 63 bytes.
    const NAME: &'static str;
    /// Raise it whenever the meaning or the layout of `Header`, `Item` or `Output` changes.
    const SCHEMA: u32;
    /// What comes once; `()` for nothing. Alignment at most 64.
    type Header: NoUninit + CheckedBitPattern;
    /// What comes any number of times. Not of size 0; alignment at most 64.
    type Item: Pod;
    /// What the handler answers; alignment at most 64.
    type Output: NoUninit + CheckedBitPattern;

    /// Where the items begin in the payload, in bytes.
    const ITEMS_AT: usize = size_of::<Self::Header>().next_multiple_of(align_of::<Self::Item>());

    /// The contract in 64 bits: producer and sidecar compare it before the first typed call.
    const FINGERPRINT: u64 = {
        assert!(Self::ID >= *HANDLER_IDS.start() && Self::ID <= *HANDLER_IDS.end(), "SliceSpec::ID must be 1 to 4,095");
        assert!(align_of::<Self::Header>() <= 64, "SliceSpec::Header must not be aligned to more than 64");
        assert!(align_of::<Self::Item>() <= 64, "SliceSpec::Item must not be aligned to more than 64");
        assert!(size_of::<Self::Item>() > 0, "SliceSpec::Item must have a size");
        assert!(align_of::<Self::Output>() <= 64, "SliceSpec::Output must not be aligned to more than 64");
        slice_fingerprint(
            Self::NAME,
            Self::SCHEMA,
            [size_of::<Self::Header>() as u32, align_of::<Self::Header>() as u32],
            [size_of::<Self::Item>() as u32, align_of::<Self::Item>() as u32],
            [size_of::<Self::Output>() as u32, align_of::<Self::Output>() as u32],
        )
    };

    /// Bytes of a payload with `items` items; `None` if that is more than a machine can count.
    fn payload_bytes(items: usize) -> Option<usize> {
        items.checked_mul(size_of::<Self::Item>())?.checked_add(Self::ITEMS_AT)
    }
}

/// The fingerprint of a contract: FNV-1a 64 over the bytes of the name, one zero byte, and five little-endian u32:
/// schema, size and alignment of the arguments, size and alignment of the output. Untyped handlers use zeros for the
/// last four. Plain enough to be computed in C.
///
/// FNV: <http://www.isthe.com/chongo/tech/comp/fnv/>, offset basis 14695981039346656037, prime 1099511628211.
pub const fn fingerprint(
    name: &str,
    schema: u32,
    args_size: u32,
    args_align: u32,
    output_size: u32,
    output_align: u32,
) -> u64 {
    let hash = fnv(fnv_all(FNV_OFFSET, name.as_bytes()), 0);
    fnv_numbers(hash, &[schema, args_size, args_align, output_size, output_align])
}

/// The fingerprint of a contract with items: [`fingerprint`] with the header in the place of the arguments, gone on with
/// over two more little-endian u32, size and alignment of an item.
pub const fn slice_fingerprint(
    name: &str,
    schema: u32,
    [header_size, header_align]: [u32; 2],
    [item_size, item_align]: [u32; 2],
    [output_size, output_align]: [u32; 2],
) -> u64 {
    let hash = fingerprint(name, schema, header_size, header_align, output_size, output_align);
    fnv_numbers(hash, &[item_size, item_align])
}

const fn fnv_numbers(mut hash: u64, numbers: &[u32]) -> u64 {
    let mut n = 0;
    while n < numbers.len() {
        hash = fnv_all(hash, &numbers[n].to_le_bytes());
        n += 1;
    }
    hash
}

const fn fnv_all(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = fnv(hash, bytes[i]);
        i += 1;
    }
    hash
}

const FNV_OFFSET: u64 = 14_695_981_039_346_656_037;

const fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(1_099_511_628_211)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_fnv_1a_over_the_documented_bytes() {
        let mut bytes = b"sum\0".to_vec();
        for number in [1u32, 16, 8, 8, 8] {
            bytes.extend(number.to_le_bytes());
        }
        let expected = bytes.iter().fold(FNV_OFFSET, |hash, &byte| fnv(hash, byte));
        assert_eq!(fingerprint("sum", 1, 16, 8, 8, 8), expected);
        bytes.extend([4, 0, 0, 0, 2, 0, 0, 0]);
        let expected = bytes.iter().fold(FNV_OFFSET, |hash, &byte| fnv(hash, byte));
        assert_eq!(slice_fingerprint("sum", 1, [16, 8], [4, 2], [8, 8]), expected);
        // Published test vector of FNV-1a 64: the one byte "a".
        assert_eq!(fnv(FNV_OFFSET, b'a'), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn every_part_of_a_contract_moves_its_fingerprint() {
        let all = [
            fingerprint("sum", 1, 16, 8, 8, 8),
            fingerprint("sun", 1, 16, 8, 8, 8),
            fingerprint("sum", 2, 16, 8, 8, 8),
            fingerprint("sum", 1, 24, 8, 8, 8),
            fingerprint("sum", 1, 16, 4, 8, 8),
            fingerprint("sum", 1, 16, 8, 16, 8),
            fingerprint("sum", 1, 16, 8, 8, 4),
            slice_fingerprint("sum", 1, [16, 8], [8, 8], [8, 8]),
            slice_fingerprint("sum", 1, [16, 8], [4, 8], [8, 8]),
            slice_fingerprint("sum", 1, [16, 8], [8, 4], [8, 8]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn items_begin_at_their_own_alignment_behind_the_header() {
        struct Wide;
        impl SliceSpec for Wide {
            const ID: u32 = 1;
            const NAME: &'static str = "wide";
            const SCHEMA: u32 = 1;
            type Header = [u8; 5];
            type Item = u64;
            type Output = ();
        }
        assert_eq!((Wide::ITEMS_AT, Wide::payload_bytes(0), Wide::payload_bytes(3)), (8, Some(8), Some(32)));
        assert_eq!(Wide::payload_bytes(usize::MAX / 8), None);
        assert_ne!(Wide::FINGERPRINT, 0);
    }
}
