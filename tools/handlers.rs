//! The handlers that the stock sidecar serves, with what they take and answer.
//!
//! | id | name           | request                                    | response                          |
//! |----|----------------|--------------------------------------------|-----------------------------------|
//! | 1  | `echo`         | any bytes                                  | the same bytes                    |
//! | 2  | `sum`          | any number of u64                          | their sum as u64, wrapping        |
//! | 3  | `crc32c`       | any bytes                                  | their CRC-32C as u32              |
//! | 4  | `sha256`       | any bytes                                  | their digest, 32 bytes            |
//! | 5  | `sha256-block` | midstate and chunk, see [`sha256_block`]   | the midstate after the chunk      |
//! | 6  | `spin`         | nanoseconds as u64, at most [`SPIN_NS_MAX`]| the nanoseconds it took as u64    |
//!
//! Numbers are little-endian. All of them are pure and idempotent: a task that a crash interrupted is simply run again.

use std::time::{Duration, Instant};

use executor_core::{Handler, RegistryBuilder, Response, TaskContext, TaskError, TaskSpec};
use sha2::{Digest, Sha256};

use crate::sha256_block::{self, Header};

/// Answers the request.
pub const ECHO: u32 = 1;
/// Adds up u64s.
pub const SUM: u32 = 2;
/// CRC-32C of the request.
pub const CRC32C: u32 = 3;
/// SHA-256 of the request.
pub const SHA256: u32 = 4;
/// One link of a chain of SHA-256 tasks.
pub const SHA256_BLOCK: u32 = 5;
/// Keeps a worker busy.
pub const SPIN: u32 = 6;

/// The longest spin, in nanoseconds: a minute. A worker serves nobody else meanwhile.
pub const SPIN_NS_MAX: u64 = 60_000_000_000;

/// The contract of [`SPIN`].
#[derive(Debug)]
pub enum Spin {}

impl TaskSpec for Spin {
    const ID: u32 = SPIN;
    const NAME: &'static str = "spin";
    const SCHEMA: u32 = 1;
    type Args = u64;
    type Output = u64;
}

/// Adds them all.
pub fn builtin(registry: &mut RegistryBuilder) {
    let header_bytes = size_of::<Header>() as u32;
    registry
        .add(Handler::new(ECHO, "echo", echo).idempotent())
        .add(Handler::new(SUM, "sum", sum).idempotent())
        .add(Handler::new(CRC32C, "crc32c", crc32c).idempotent())
        .add(Handler::new(SHA256, "sha256", sha256).idempotent())
        .add(Handler::new(SHA256_BLOCK, "sha256-block", block).request_bytes(header_bytes..=u32::MAX).idempotent())
        .add(Handler::typed::<Spin>(spin).idempotent());
}

fn echo(_: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>) -> Result<(), TaskError> {
    response.write(request);
    Ok(())
}

fn sum(_: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>) -> Result<(), TaskError> {
    response.write_value(&sum_of(request)?);
    Ok(())
}

fn sum_of(request: &[u8]) -> Result<u64, TaskError> {
    let (numbers, rest) = request.as_chunks();
    if !rest.is_empty() {
        return Err(TaskError::new(format!("{} bytes are no whole u64s; send 8 bytes a number", request.len())));
    }
    Ok(numbers.iter().fold(0, |sum, number| sum.wrapping_add(u64::from_le_bytes(*number))))
}

fn crc32c(_: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>) -> Result<(), TaskError> {
    response.write_value(&crc32c::crc32c(request));
    Ok(())
}

fn sha256(_: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>) -> Result<(), TaskError> {
    response.write(&Sha256::digest(request));
    Ok(())
}

fn block(_: &TaskContext<'_>, request: &[u8], response: &mut Response<'_>) -> Result<(), TaskError> {
    let Some((header, chunk)) = request.split_at_checked(size_of::<Header>()) else {
        return Err(TaskError::new("the request is shorter than its header"));
    };
    let header = bytemuck::pod_read_unaligned(header);
    response.write_value(&sha256_block::advance(&header, chunk)?);
    Ok(())
}

fn spin(_: &TaskContext<'_>, ns: &u64) -> Result<u64, TaskError> {
    let begin = Instant::now();
    if *ns > SPIN_NS_MAX {
        return Err(TaskError::new(format!("{ns} ns are past the limit of {SPIN_NS_MAX} ns")));
    }
    let time = Duration::from_nanos(*ns);
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
    Ok(begin.elapsed().as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_core::Registry;

    #[test]
    fn the_builtin_handlers_are_a_registry_of_idempotent_handlers_under_their_ids() {
        let mut builder = Registry::builder();
        builtin(&mut builder);
        let registry = builder.build().unwrap();
        let names: Vec<_> = registry.handlers().iter().map(|handler| (handler.id(), handler.name())).collect();
        let expected = [(1, "echo"), (2, "sum"), (3, "crc32c"), (4, "sha256"), (5, "sha256-block"), (6, "spin")];
        assert_eq!(names, expected);
        assert!(registry.handlers().iter().all(Handler::is_idempotent));
        assert_eq!(registry.get(SHA256_BLOCK).map(|handler| *handler.request_limits().start()), Some(64));
    }

    #[test]
    fn a_sum_wraps_and_takes_whole_numbers_only() {
        let numbers: Vec<u8> = [u64::MAX, 5, 6].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(sum_of(&numbers).unwrap(), 10);
        assert_eq!(sum_of(&[]).unwrap(), 0);
        assert!(sum_of(&numbers[..9]).unwrap_err().message().contains("9 bytes"));
    }
}
