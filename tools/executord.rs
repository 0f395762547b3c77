//! The stock sidecar and its demo.

#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    executord::stock()
}
