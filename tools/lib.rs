//! The programs around the executor: the stock sidecar with its handlers, the demo, the inspector.
//!
//! Give handlers of your own every flag of the stock sidecar with [`main`].

#![deny(unsafe_code)]

mod arguments;
mod clean;
mod cli;
mod colour;
mod config;
mod config_file;
mod config_view;
mod demo;
mod diff;
mod doctor;
mod dump;
mod dump_json;
mod dump_records;
mod dump_text;
mod exit;
mod files;
pub mod floor;
pub mod handlers;
mod hash;
mod hashing;
mod holds;
mod lines;
mod load;
mod manual;
mod metrics;
mod moments;
mod notify;
mod out_file;
mod page;
mod plan;
mod processes;
mod producer;
mod report;
mod respawn;
mod run;
mod sample;
mod save;
mod served;
mod settings;
pub mod sha256_block;
mod standby;
mod stock;
mod sums;
mod times;
mod top;
pub mod units;
mod verdict;
mod watch;

#[cfg(fuzzing)]
pub use dump::every_view;
pub use dump::shm_dump;
pub use stock::{main, stock};
