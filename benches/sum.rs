//! The task that round trips and rates are measured with: a sum of four numbers, all of it inline, its answer checked.

use std::error::Error;

use executor_client::{CallError, Client};
use executor_core::TaskSpec;

/// The sum of its arguments.
pub(crate) struct Sum;

impl TaskSpec for Sum {
    const ID: u32 = 1;
    const NAME: &'static str = "sum";
    const SCHEMA: u32 = 1;
    type Args = [u64; 4];
    type Output = u64;
}

/// What its handler does.
pub(crate) fn sum(numbers: &[u64; 4]) -> u64 {
    numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number))
}

/// One task there and back, its answer checked.
#[inline(always)]
pub(crate) fn call(client: &mut Client, number: u64) -> Result<(), Wrong> {
    let sum = client.call::<Sum>(&[number, 1, 2, 3])?;
    if sum == number + 6 { Ok(()) } else { Err(Wrong::Sum { number }) }
}

/// What must not happen while measuring.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// A call that has no output.
    Call(CallError),
    /// An output that is not the sum.
    Sum {
        /// The task's number.
        number: u64,
    },
}

impl From<CallError> for Wrong {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(_) => f.write_str("a call failed"),
            Self::Sum { number } => write!(f, "task {number} came back with a wrong answer"),
        }
    }
}

impl Error for Wrong {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Call(error) => Some(error),
            Self::Sum { .. } => None,
        }
    }
}
