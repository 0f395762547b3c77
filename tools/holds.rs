//! What a sidecar was to hold, for people and for programs: each hold, and of one that the system refused the reason and
//! the cure.

use executor_shm::{Hold, HoldView};
use serde_json::{Map, Value, json};

/// Tells on standard error what is not held whole. It is no error: the sidecar serves without it.
pub(crate) fn complain(holds: &[HoldView]) {
    for complaint in holds.iter().filter_map(HoldView::complaint) {
        eprintln!("executord: {complaint}");
    }
}

/// One line for people.
pub(crate) fn held(hold: &HoldView) -> String {
    hold.complaint().unwrap_or_else(|| match hold.hold {
        Hold::CpuLatency(us) => format!("holds the CPUs' latency at {us} us"),
        Hold::RealTime(_, real_time) => format!("real-time scheduling {real_time}"),
        Hold::Memory => "holds its memory locked".to_owned(),
        _ => format!("holds {}", hold.asked()),
    })
}

/// Everything of one hold.
pub(crate) fn hold_json(hold: &HoldView) -> Value {
    json!({
        "asked": hold.asked(),
        "held": hold.errno.is_none(),
        "errno": hold.errno,
        "throttled": hold.throttled,
        "reason": hold.reason(),
        "cure": hold.cure(),
    })
}

/// Holds by their name; workers have the same scheduling, so the first that was refused stands for all.
pub(crate) fn holds_json(holds: &[HoldView]) -> Value {
    let mut named = Map::new();
    for hold in holds {
        let name = match hold.hold {
            Hold::CpuLatency(_) => "cpu_latency",
            Hold::RealTime(..) => "real_time",
            Hold::Memory => "memory",
            _ => "other",
        };
        let is_told = named.get(name).is_some_and(|told: &Value| !told["reason"].is_null());
        if !is_told {
            named.insert(name.to_owned(), hold_json(hold));
        }
    }
    named.into()
}
