//! The handlers, apart from the program, so that tests can have them too.

use example_contract::{Average, Check, Order, PAST_LIMIT, Side, Trade};
use executor_core::{Handler, RegistryBuilder, TaskContext, TaskError};

/// The most that one order may move, in cents.
const LIMIT: u64 = 10_000_000;

/// Everything this sidecar serves.
pub fn register(registry: &mut RegistryBuilder) {
    // Both only compute, so running one a second time after a crash does no harm: `idempotent` says so.
    registry.add(Handler::typed::<Check>(check).idempotent());
    registry.add(Handler::slice::<Average>(average).idempotent());
}

fn check(_: &TaskContext<'_>, order: &Order) -> Result<i64, TaskError> {
    let amount = order.price.checked_mul(order.quantity.into()).filter(|&amount| amount <= LIMIT);
    let amount = amount.ok_or_else(|| TaskError::with_code(PAST_LIMIT, "past the limit of 100,000.00"))? as i64;
    Ok(match order.side {
        Side::Buy => -amount,
        Side::Sell => amount,
    })
}

fn average(_: &TaskContext<'_>, least: &u64, trades: &[Trade]) -> Result<f64, TaskError> {
    let counted = trades.iter().filter(|trade| trade.quantity >= *least);
    let (volume, amount) = counted.fold((0.0, 0.0), |(volume, amount), trade| {
        (volume + trade.quantity as f64, amount + trade.price as f64 * trade.quantity as f64)
    });
    if volume == 0.0 { Err(TaskError::new("no trade counts")) } else { Ok(amount / volume) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_core::{Registry, Status};

    #[test]
    fn an_order_past_the_limit_is_refused_with_its_code() {
        let mut registry = Registry::builder();
        register(&mut registry);
        let registry = registry.build().unwrap();
        let order = |quantity, side| Order { price: 100, quantity, side };
        assert_eq!(registry.try_call::<Check>(&order(3, Side::Sell)), Ok(300));
        assert_eq!(registry.try_call::<Check>(&order(3, Side::Buy)), Ok(-300));
        let refused = registry.try_call::<Check>(&order(100_001, Side::Buy)).unwrap_err();
        assert_eq!(refused.status(), Status::Failed { code: PAST_LIMIT });
        let day = [Trade { price: 10, quantity: 1 }, Trade { price: 20, quantity: 3 }];
        assert_eq!(registry.try_call_slice::<Average>(&0, &day), Ok(17.5));
        assert_eq!(registry.try_call_slice::<Average>(&2, &day), Ok(20.0));
        assert_eq!(registry.try_call_slice::<Average>(&9, &day).unwrap_err().text(), "no trade counts");
    }
}
