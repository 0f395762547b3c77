//! Looks into the shared memory of an executor, alive or dead.

#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    executord::shm_dump()
}
