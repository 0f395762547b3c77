//! Looks into the shared memory of an executor, alive or dead.

fn main() {}
