//! Checks of what the process may hold: locked memory, real-time priorities, the CPUs' latency, an address for metrics.

use executor_core::idle::IdleStrategy;
use nix::unistd::{AccessFlags, access};

use super::machine::Limit;
use super::{Case, Finding, files};
use crate::metrics::probe;
use crate::units::bytes;

const IPC_LOCK: u32 = 14;
const SYS_NICE: u32 = 23;
const LATENCY: &str = "/dev/cpu_dma_latency";
const THROTTLE: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// Whether memory may be locked.
pub(crate) fn memlock(case: &Case<'_>) -> Finding {
    let limit = case.machine.limit("Max locked memory");
    let Some(limit) = limit else {
        return Finding::unknown("/proc/self/limits does not say how much memory may be locked");
    };
    if case.machine.has_capability(IPC_LOCK) == Some(true) {
        return Finding::ok("any amount of memory may be locked: CAP_IPC_LOCK").with("limit_bytes", limit);
    }
    let cure = "LimitMEMLOCK=infinity (ulimit -l unlimited), or CAP_IPC_LOCK";
    let finding = match limit {
        None => Finding::ok("any amount of memory may be locked"),
        Some(limit) if case.settings.lock_memory == Some(true) => {
            Finding::warning(format!("{} of memory may be locked: --lock-memory will be refused", bytes(limit)), cure)
        }
        Some(limit) => Finding::note(
            format!("{} of memory may be locked, which is too little for --lock-memory", bytes(limit)),
            cure,
        ),
    };
    finding.with("limit_bytes", limit)
}

/// Whether workers may be scheduled before everything else.
pub(crate) fn rtprio(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let Some(limit) = machine.limit("Max realtime priority") else {
        return Finding::unknown("/proc/self/limits does not say which real-time priority may be had");
    };
    let most: Limit = match machine.has_capability(SYS_NICE) {
        Some(true) => None,
        _ => limit,
    };
    let most = most.map_or(99, |most| most.min(99));
    let text = case.settings.real_time.map(|real_time| real_time.to_string());
    let wanted: Option<u64> = text.as_deref().and_then(|text| text.split(':').nth(1)?.parse().ok());
    let runtime = machine.text(THROTTLE);
    let throttles = runtime.as_deref().is_some_and(|runtime| runtime != "-1");
    let sleeps = matches!(case.settings.idle, None | Some(IdleStrategy::Sleep | IdleStrategy::Adaptive));
    let finding = match (wanted, text.unwrap_or_default()) {
        (Some(wanted), text) if wanted > most => Finding::warning(
            format!("the highest real-time priority is {most}: --real-time {text} will be refused"),
            format!("LimitRTPRIO={wanted} (ulimit -r {wanted}), or CAP_SYS_NICE"),
        ),
        (Some(_), text) if throttles && !sleeps => Finding::warning(
            format!("workers that spin at {text} are stopped by the kernel for a share of each second"),
            "let workers sleep (--idle adaptive), or set kernel.sched_rt_runtime_us to -1",
        ),
        (None, _) if most == 0 => Finding::note(
            "no real-time priority may be had, which only --real-time needs",
            "LimitRTPRIO=10 (ulimit -r 10), or CAP_SYS_NICE",
        ),
        _ => Finding::ok(format!("real-time priorities up to {most} may be had")),
    };
    finding.with("priority_max", most).with("runtime_us", runtime.and_then(|runtime| runtime.parse::<i64>().ok()))
}

/// Whether CPUs may be kept out of deep sleep. The file is not opened: that alone would be a hold.
pub(crate) fn cpu_latency(case: &Case<'_>) -> Finding {
    let (what, cure) = if !case.machine.has(LATENCY) {
        ("is not there", "run it where that file is: this kernel has none, or the container was not given it")
    } else if access(&case.machine.path(LATENCY), AccessFlags::W_OK).is_err() {
        ("may not be written", "let the sidecar's user write that file, by a udev rule")
    } else {
        return Finding::ok(format!("{LATENCY} may be written, which --cpu-latency needs"));
    };
    match case.settings.cpu_latency {
        Some(us) => Finding::warning(format!("{LATENCY} {what}: --cpu-latency {us} will be refused"), cure),
        None => Finding::note(format!("{LATENCY} {what}, which only --cpu-latency needs"), cure),
    }
}

/// Whether the address for metrics can be had.
pub(crate) fn metrics(case: &Case<'_>) -> Finding {
    let Some(address) = case.settings.metrics else { return Finding::ok("no page of metrics is asked for") };
    let is_alive = files::is_alive(case.machine, case.instance.as_str()) == Some(true);
    let finding = match probe(address) {
        Ok(()) => Finding::ok(format!("metrics can be served on {address}")),
        Err(error) if error.is_taken() && is_alive => {
            Finding::fact(format!("{address} is taken, as it is if the sidecar that serves has its page there"))
        }
        // It serves all the same, and tries until it can.
        Err(error) if case.settings.standby == Some(true) => Finding::warning(error.fact(), error.cure()),
        Err(error) => Finding::error(error.fact(), error.cure()),
    };
    finding.with("address", address.to_string())
}
