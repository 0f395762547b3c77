//! A producer that calls the sidecar's handlers by contract. With the example's sidecar running:
//!
//! ```sh
//! cargo run --release -p example-producer -- orders
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use example_contract::{Average, Check, Order, PAST_LIMIT, Side, Trade};
use executor_client::{CallError, Client, Failure, InstanceName, Status};

fn main() -> ExitCode {
    let instance = std::env::args().nth(1).unwrap_or_else(|| "default".to_owned());
    match instance.parse().map_err(Box::from).and_then(|instance| trade(&instance)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("example-producer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trade(instance: &InstanceName) -> Result<(), Box<dyn Error>> {
    // Waits for the sidecar, should it start a moment later than its producers.
    let mut client = Client::connect_timeout(instance, Duration::from_secs(5))?;

    let moved = client.call::<Check>(&Order { price: 1_999, quantity: 50, side: Side::Buy })?;
    println!("the order moves {moved} cents");

    // An error of the handler comes with the code that it chose, to be matched on, and a text for people.
    match client.call::<Check>(&Order { price: 1_999, quantity: 50_000, side: Side::Sell }) {
        Err(CallError::Failed(Failure { status: Status::Failed { code: PAST_LIMIT }, text, .. })) => {
            println!("the larger one is refused: {text}");
        }
        Err(error) => return Err(error.into()),
        Ok(moved) => return Err(format!("an order that moves {moved} cents is past the limit").into()),
    }

    let day: Vec<Trade> = (1..=10).map(|hour| Trade { price: 1_990 + hour, quantity: hour }).collect();
    println!("average price {:.2} cents", client.call_slice::<Average>(&2, &day)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_shm::{Sidecar, core::Registry};

    #[test]
    fn the_producer_gets_every_answer_from_the_examples_own_sidecar() {
        let instance: InstanceName = format!("example-{}", std::process::id()).parse().unwrap();
        let mut registry = Registry::builder();
        example_sidecar::register(&mut registry);
        let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap()).pinned(false);
        let sidecar = builder.start().unwrap();
        trade(&instance).unwrap();
        assert_eq!(sidecar.stats().tasks, 3);
    }
}
