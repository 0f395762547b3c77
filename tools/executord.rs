//! The stock sidecar: serves the built-in handlers.

fn main() {}
