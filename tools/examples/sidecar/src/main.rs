//! A sidecar with handlers of its own and every flag of the stock one:
//!
//! ```sh
//! cargo run --release -p example-sidecar -- run orders
//! ```

fn main() -> std::process::ExitCode {
    executord::main(example_sidecar::register)
}
