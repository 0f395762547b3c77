//! `executord run --standby`: what is said while another sidecar serves, and when it is over.

use std::time::{Duration, Instant};

use executor_shm::{SidecarBuilder, SidecarHandle, Standby, StartError, StopSignals};
use serde_json::{Value, json};

use crate::holds::{complain, holds_json};
use crate::notify::Notifier;
use crate::run::say;
use crate::units::{counted, nanoseconds};

/// Waits for its turn to serve; `None` if a signal came first.
pub(crate) fn stand_by(
    sidecar: SidecarBuilder,
    signals: &StopSignals,
    mut notifier: Option<&mut Notifier>,
    handlers: &[String],
    as_json: bool,
) -> Result<Option<SidecarHandle>, StartError> {
    let standby = sidecar.stand_by()?;
    complain(&standby.holds());
    if !standby.is_waiting() {
        return standby.take_over_unless(signals);
    }
    let (begun, instance) = (Instant::now(), standby.instance().to_string());
    if let Some(notifier) = &mut notifier {
        // It does what it was started for: whoever waits for that may go on.
        notifier.ready(&format!("standing by for instance {instance}"), Vec::new());
    }
    say(as_json, || standing_by_json(&standby, handlers), || standing_by_text(&standby, handlers));
    let handle = match notifier {
        None => standby.take_over_unless(signals)?,
        Some(notifier) => {
            let interval = notifier.interval().unwrap_or(Duration::MAX);
            standby.take_over_ticking(signals, interval, |_| notifier.look(Vec::new()))?
        }
    };
    if handle.is_none() {
        let waited_ns = begun.elapsed().as_nanos() as u64;
        say(
            as_json,
            || json!({ "event": "dismissed", "instance": instance, "waited_ns": waited_ns }),
            || format!("instance {instance}: stood by for {} and was not needed", nanoseconds(waited_ns)),
        );
    }
    Ok(handle)
}

fn standing_by_json(standby: &Standby, handlers: &[String]) -> Value {
    json!({
        "event": "standing_by",
        "instance": standby.instance().as_str(),
        "pid": std::process::id(),
        "cpus": standby.cpus(),
        "handlers": handlers,
        "warm_lanes": standby.warm_lanes(),
        "holds": holds_json(&standby.holds()),
    })
}

fn standing_by_text(standby: &Standby, handlers: &[String]) -> String {
    let instance = standby.instance();
    format!(
        "instance {instance} is served; this one is ready to serve {} as soon as that ends, {} mapped; \
         look: shm-dump show {instance}; stop: Ctrl-C or kill {}",
        handlers.join(", "),
        counted(standby.warm_lanes() as u64, "lane"),
        std::process::id(),
    )
}
