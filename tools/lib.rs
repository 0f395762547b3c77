//! The programs around the executor: the stock sidecar with its handlers, the demo, the inspector.

#![deny(unsafe_code)]

pub mod floor;
pub mod handlers;
pub mod sha256_block;
pub mod units;
