//! How to test a handler: on the spot, and with a whole round trip in one process.
//!
//! ```sh
//! cargo test -p executor-client --example unit_test
//! ```

#![deny(unsafe_code)]

use executor_client::TaskSpec;
use executor_shm::core::{Registry, RegistryBuilder, TaskError};

/// Dividend and divisor in, quotient out.
struct Divide;

impl TaskSpec for Divide {
    const ID: u32 = 1;
    const NAME: &'static str = "divide";
    const SCHEMA: u32 = 1;
    type Args = [i64; 2];
    type Output = i64;
}

/// Registering apart from starting is what makes handlers testable.
fn register(registry: &mut RegistryBuilder) {
    registry.typed::<Divide>(|_, &[dividend, divisor]| {
        dividend.checked_div(divisor).ok_or_else(|| TaskError::new("division by zero"))
    });
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut registry = Registry::builder();
    register(&mut registry);
    // The same call that the first test makes.
    let quotient = registry.build()?.try_call::<Divide>(&[84, 2]).map_err(|trial| trial.text())?;
    println!("84 / 2 = {quotient}; for the tests: cargo test -p executor-client --example unit_test");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use executor_client::{CallError, Client, InstanceName, Status};
    use executor_shm::Sidecar;

    use super::*;

    /// The handler alone: no files, no threads, some microseconds.
    #[test]
    fn a_division_by_zero_is_an_error_and_no_panic() -> Result<(), Box<dyn Error>> {
        let mut registry = Registry::builder();
        register(&mut registry);
        let registry = registry.build()?;
        assert_eq!(registry.try_call::<Divide>(&[7, 2]), Ok(3));
        for args in [[7, 0], [i64::MIN, -1]] {
            let trial = registry.try_call::<Divide>(&args).unwrap_err();
            assert_eq!((trial.status(), trial.text().as_str()), (Status::Failed { code: 0 }, "division by zero"));
        }
        Ok(())
    }

    /// Everything: real lanes in `/dev/shm` under a name of the test's own, sidecar and producer in this process.
    #[test]
    fn the_quotient_comes_back_through_shared_memory() -> Result<(), Box<dyn Error>> {
        let instance: InstanceName = format!("unit-test-{}", std::process::id()).parse()?;
        let mut registry = Registry::builder();
        register(&mut registry);
        // Unpinned: tests run beside each other. Dropped at the end of the test, it stops and removes its files.
        let _sidecar =
            Sidecar::builder().instance(instance.clone()).registry(registry.build()?).pinned(false).start()?;
        let mut client = Client::connect(&instance)?;
        assert_eq!(client.call::<Divide>(&[84, 2])?, 42);
        let error = client.call::<Divide>(&[1, 0]).unwrap_err();
        assert!(matches!(error, CallError::Failed(failure) if failure.text == "division by zero"));
        Ok(())
    }
}
