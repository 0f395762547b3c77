//! `shm-dump watch`: a line for each interval, for as long as somebody reads.

use std::io::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use executor_shm::InstanceName;
use executor_shm::inspect::{InspectError, Inspector};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::diff::{TITLES, change_json, change_line};
use crate::exit::{PrintError, is_read, one_line};
use crate::sample::{Change, Sample};

/// Why nothing more is watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    Print(#[from] PrintError),
}

/// The instance as it stands.
pub(crate) fn sample(instance: &InstanceName) -> Result<Sample, InspectError> {
    static CLOCK: LazyLock<Option<SteadyClock>> = LazyLock::new(SteadyClock::new);
    let view = Inspector::open(instance)?.look();
    let at_ns = CLOCK.as_ref().and_then(SteadyClock::now_ns);
    Ok(Sample { view, at_ns })
}

/// The wall clock of the first look, carried on by a clock that nobody can set: what lies between two looks stays right, and
/// positive, where somebody sets the wall clock in between. It counts the time for which the machine was suspended.
#[derive(Debug)]
struct SteadyClock {
    wall_ns: u64,
    boot_ns: u64,
}

impl SteadyClock {
    fn new() -> Option<Self> {
        let wall_ns = std::time::UNIX_EPOCH.elapsed().ok()?.as_nanos() as u64;
        Some(Self { wall_ns, boot_ns: boot_ns()? })
    }

    /// In nanoseconds since 1970.
    fn now_ns(&self) -> Option<u64> {
        Some(self.wall_ns.saturating_add(boot_ns()?.saturating_sub(self.boot_ns)))
    }
}

fn boot_ns() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Duration::from(now).as_nanos() as u64)
}

/// Prints `count` lines, or lines without end; ends when nobody reads any more. An instance that goes meanwhile may come
/// again, so that is told and watched on.
///
/// # Errors
///
/// The instance is not there at the beginning, or a line cannot be written.
pub(crate) fn watch(
    instance: &InstanceName,
    interval: Duration,
    count: Option<u64>,
    as_json: bool,
) -> Result<(), WatchError> {
    let mut before = Some(sample(instance)?);
    let began = Instant::now();
    if !as_json && !say(TITLES)? {
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
        if !say(&line)? {
            break;
        }
        before = after.ok();
    }
    Ok(())
}

/// Says a line at once; whether anybody reads.
fn say(line: &str) -> Result<bool, PrintError> {
    let mut out = std::io::stdout().lock();
    is_read(out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_back_or_forth_between_two_looks_changes_nothing_between_them() {
        // As if the wall clock had been set from 1970 to this year since the first look.
        let clock = SteadyClock { wall_ns: 5, boot_ns: boot_ns().unwrap() };
        let (one, two) = (clock.now_ns().unwrap(), clock.now_ns().unwrap());
        assert!(5 <= one && one <= two, "{one} {two}");
        let year = 365 * 24 * 3_600 * 1_000_000_000;
        assert!(two < year, "{two}: it asks the wall clock again");
        assert!(SteadyClock::new().unwrap().now_ns().unwrap() > year, "it is the wall clock to begin with");
    }
}
