//! What the sidecar and its producers agree on. Both depend on this crate; it depends on neither.
//!
//! A number once given to a task stays its own. Whoever changes a type here raises that task's `SCHEMA`: a producer that
//! was built before is then refused at its first call instead of being misunderstood.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};
use executor_core::{SliceSpec, TaskSpec};

/// Which way an order goes. Bytes that are neither are refused before the handler is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern)]
#[repr(u32)]
pub enum Side {
    /// Money out.
    Buy = 1,
    /// Money in.
    Sell = 2,
}

/// One order. `#[repr(C)]` and no padding: the bytes are the contract.
#[derive(Clone, Copy, Debug, NoUninit, CheckedBitPattern)]
#[repr(C)]
pub struct Order {
    /// Price of one piece, in cents.
    pub price: u64,
    /// Pieces.
    pub quantity: u32,
    /// Which way.
    pub side: Side,
}

/// What an order moves, in cents: negative for a purchase. Fails past the account's limit.
#[derive(Debug)]
pub struct Check;

impl TaskSpec for Check {
    const ID: u32 = 1;
    const NAME: &'static str = "check";
    const SCHEMA: u32 = 1;
    type Args = Order;
    type Output = i64;
}

/// The code of [`Check`]'s error for an order past the limit.
pub const PAST_LIMIT: u8 = 1;

/// One trade of a day.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Trade {
    /// Price of one piece, in cents.
    pub price: u64,
    /// Pieces.
    pub quantity: u64,
}

/// The average price by volume, in cents, of any number of trades; those of less than so many pieces do not count.
#[derive(Debug)]
pub struct Average;

impl SliceSpec for Average {
    const ID: u32 = 2;
    const NAME: &'static str = "average";
    const SCHEMA: u32 = 1;
    type Header = u64;
    type Item = Trade;
    type Output = f64;
}
