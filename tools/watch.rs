//! `shm-dump watch`: a line for each interval, for as long as somebody reads.

use std::io::Write;
use std::time::{Duration, Instant};

use executor_shm::InstanceName;
use executor_shm::inspect::{InspectError, Inspector};
use serde_json::json;

use crate::diff::{TITLES, change_json, change_line};
use crate::exit::one_line;
use crate::sample::{Change, Sample};

/// The instance as it stands.
pub(crate) fn sample(instance: &InstanceName) -> Result<Sample, InspectError> {
    let view = Inspector::open(instance)?.look();
    let at_ns = std::time::UNIX_EPOCH.elapsed().ok().map(|since| since.as_nanos() as u64);
    Ok(Sample { view, at_ns })
}

/// Prints `count` lines, or lines without end; ends when nobody reads any more. An instance that goes meanwhile may come
/// again, so that is told and watched on.
///
/// # Errors
///
/// The instance is not there at the beginning.
pub(crate) fn watch(
    instance: &InstanceName,
    interval: Duration,
    count: Option<u64>,
    as_json: bool,
) -> Result<(), InspectError> {
    let mut before = Some(sample(instance)?);
    let began = Instant::now();
    if !as_json && !say(TITLES) {
        return Ok(());
    }
    for number in 1..=count.unwrap_or(u64::MAX) {
        // By the clock and not one behind the other: what a look takes adds up to nothing.
        let due = interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let after = sample(instance);
        let line = match (&before, &after) {
            (Some(before), Ok(after)) => Change::new(before, after)
                .map(|change| match as_json {
                    true => change_json(&change, after.at_ns).to_string(),
                    false => change_line(&change, began.elapsed().as_nanos() as u64),
                })
                .map_err(|error| one_line(&error)),
            (None, Ok(_)) => Err(format!("instance {instance} is there again")),
            (_, Err(error)) => Err(one_line(error)),
        };
        let line = line.unwrap_or_else(|why| match as_json {
            true => json!({"instance": instance.as_str(), "error": why}).to_string(),
            false => why,
        });
        if !say(&line) {
            break;
        }
        before = after.ok();
    }
    Ok(())
}

/// Says a line at once; whether anybody reads.
fn say(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_ok()
}
