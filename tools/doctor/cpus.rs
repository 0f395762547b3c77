//! Checks of the CPUs: which there are for workers, who else may use them, how fast they are and how deep they sleep.

use executor_core::cpu::cpu_list;
use executor_core::idle::IdleStrategy;

use super::machine::Machine;
use super::{Case, Finding};
use crate::units::{count, counted};

const CPU: &str = "/sys/devices/system/cpu";
/// Longer than this, the way back from sleep shows beside a wake-up.
const DEEP_US: u64 = 10;

/// Whether the workers' CPUs are there and may be used.
pub(crate) fn cpus(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let Some(allowed) = machine.allowed_cpus() else {
        return Finding::unknown("/proc/self/status does not say which CPUs this process may use");
    };
    let online = machine.cpus(&format!("{CPU}/online")).unwrap_or_else(|| allowed.clone());
    let asked = &case.settings.cpus;
    let finding = judge_cpus(case, &allowed, &online, asked);
    finding.with("asked", asked.clone()).with("allowed", allowed).with("online", online)
}

fn judge_cpus(case: &Case<'_>, allowed: &[u32], online: &[u32], asked: &[u32]) -> Finding {
    let allowed_text = counted_cpus(allowed);
    if let Some(cpu) = asked.iter().find(|cpu| !online.contains(cpu)) {
        return Finding::error(
            format!("CPU {cpu} is not there or offline; online are {}", cpu_list(online)),
            format!("choose --cpu from {}", cpu_list(allowed)),
        );
    }
    if let Some(cpu) = asked.iter().find(|cpu| !allowed.contains(cpu)) {
        let in_cpuset = cpuset(case.machine).filter(|set| set.contains(cpu));
        let by = match in_cpuset {
            Some(_) => "by the affinity this process was started with",
            None => "by its cpuset or affinity",
        };
        return Finding::error(
            format!("CPU {cpu} is not allowed to this process, {by}; allowed are {}", cpu_list(allowed)),
            format!(
                "choose --cpu from {}, or start it with that CPU (AllowedCPUs=, CPUAffinity=, taskset -c)",
                cpu_list(allowed)
            ),
        );
    }
    if let Some(cpu) = asked.iter().enumerate().find(|(at, cpu)| asked.iter().take(*at).any(|other| other == *cpu)) {
        return Finding::error(format!("CPU {} is asked for twice", cpu.1), "give each worker a CPU of its own");
    }
    let pinned = case.settings.pinned != Some(false);
    let workers = asked.len().max(1);
    let real_time = case.settings.real_time.is_some();
    if allowed.len() <= workers && pinned {
        let fact = format!(
            "{allowed_text} for {}: none is left for housekeeping and producers",
            counted(workers as u64, "worker")
        );
        let cure = "give it one CPU more than workers, or let workers sleep (--idle sleep --unpinned)";
        return if real_time {
            Finding::error(format!("{fact}, which --real-time needs"), cure)
        } else {
            Finding::warning(fact, cure)
        };
    }
    if let Some(cpu) = asked.iter().find(|cpu| case.taken.contains(cpu)) {
        let cure = "give each instance CPUs of its own; shm-dump list and show tell who has which";
        return Finding::warning(format!("a worker of another instance is pinned to CPU {cpu} too"), cure);
    }
    match case.cpus() {
        _ if !pinned => Finding::ok(format!("workers are not pinned; {allowed_text} allowed")),
        cpus if cpus.is_empty() => Finding::ok(format!("{allowed_text} allowed")),
        cpus => Finding::ok(format!("worker on CPU {}; {allowed_text} allowed", cpu_list(&cpus))),
    }
}

fn counted_cpus(cpus: &[u32]) -> String {
    format!("{} ({})", counted(cpus.len() as u64, "CPU"), cpu_list(cpus))
}

/// The CPUs of this process's control group, where it says.
fn cpuset(machine: &Machine) -> Option<Vec<u32>> {
    let folders = groups(machine, "cpuset");
    folders.iter().find_map(|folder| {
        ["cpuset.cpus.effective", "cpuset.effective_cpus"]
            .iter()
            .find_map(|file| machine.cpus(&format!("{folder}/{file}")))
    })
}

/// The folders of this process's control group and of those around it, the innermost first, as far as they can be seen.
fn groups(machine: &Machine, controller: &str) -> Vec<String> {
    let text = machine.text("/proc/self/cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let mounts = match controllers {
            "" => vec!["/sys/fs/cgroup".to_owned(), "/sys/fs/cgroup/unified".to_owned()],
            named if named.split(',').any(|name| name == controller) => {
                vec![format!("/sys/fs/cgroup/{named}"), format!("/sys/fs/cgroup/{controller}")]
            }
            _ => continue,
        };
        // A path that leads out of what is mounted here says nothing; the mount itself still does.
        let path = if path.contains("/..") { "" } else { path.trim_matches('/') };
        for mount in mounts {
            let mut inner: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            loop {
                folders.push([&[mount.as_str()], inner.as_slice()].concat().join("/"));
                if inner.pop().is_none() {
                    break;
                }
            }
        }
    }
    folders.retain(|folder| machine.has(folder));
    folders
}

/// A share of the CPUs' time: microseconds of each period.
struct Quota {
    us: u64,
    period_us: u64,
    folder: String,
}

impl Quota {
    fn cpus(&self) -> f64 {
        self.us as f64 / self.period_us.max(1) as f64
    }
}

/// Whether a control group limits the time of the CPUs.
pub(crate) fn cpu_quota(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let folders = groups(machine, "cpu");
    if folders.is_empty() {
        return Finding::unknown("no control group of this process can be seen in /sys/fs/cgroup");
    }
    let quota = |folder: &String| {
        let (us, period_us) = match machine.text(&format!("{folder}/cpu.max")) {
            Some(text) => {
                let (us, period) = text.split_once(' ')?;
                (us.parse().ok()?, period.parse().ok()?) // `max` is no number and no limit
            }
            None => {
                let us = machine.number(&format!("{folder}/cpu.cfs_quota_us"))?; // -1 neither
                (us, machine.number(&format!("{folder}/cpu.cfs_period_us"))?)
            }
        };
        Some(Quota { us, period_us, folder: folder.clone() })
    };
    let tightest = folders.iter().filter_map(quota).min_by(|a, b| a.cpus().total_cmp(&b.cpus()));
    let Some(quota) = tightest else { return Finding::ok("no control group limits its CPU time") };
    let stat = machine.text(&format!("{}/cpu.stat", quota.folder)).unwrap_or_default();
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.trim().parse::<u64>().ok());
    let told = throttled.map_or(String::new(), |times| format!(", which stopped it {} times", count(times)));
    let workers = case.settings.cpus.len().max(1);
    let fact = format!(
        "a control group gives it {:.2} CPUs of time in each {} ms{told}",
        quota.cpus(),
        quota.period_us / 1000
    );
    let cure = "give it whole CPUs by a cpuset and no quota, or let workers sleep (--idle sleep --unpinned)";
    // A worker that spins takes a whole one, and somebody else must run too.
    let finding = if quota.cpus() <= workers as f64 && spins(case) {
        Finding::warning(format!("{fact}: workers that spin are stopped for the rest of it"), cure)
    } else {
        Finding::note(fact, cure)
    };
    finding.with("quota_us", quota.us).with("period_us", quota.period_us).with("throttled", throttled)
}

/// Whether workers spin at all; a worker of the default strategy does for a moment.
fn spins(case: &Case<'_>) -> bool {
    case.settings.idle != Some(IdleStrategy::Sleep)
}

/// Whether the workers' CPUs are kept free of everything else.
pub(crate) fn isolated_cpus(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let Some(isolated) = machine.cpus(&format!("{CPU}/isolated")) else {
        return Finding::unknown("the kernel does not say which CPUs are isolated");
    };
    let tickless = machine.cpus(&format!("{CPU}/nohz_full")).unwrap_or_default();
    let cpus = case.cpus();
    let outside: Vec<u32> = cpus.iter().copied().filter(|cpu| !isolated.contains(cpu)).collect();
    let cure = "where latency counts keep others off it: AllowedCPUs= for the rest, or boot with isolcpus=, nohz_full= and rcu_nocbs=";
    let finding = match (isolated.as_slice(), cpus.as_slice()) {
        ([], _) => Finding::note("no CPU is isolated: other threads and interrupts run beside the workers", cure),
        (_, []) => Finding::note(
            format!("CPUs {} are isolated, and no worker is pinned", cpu_list(&isolated)),
            format!("pin the workers there: --cpu {}", cpu_list(&isolated)),
        ),
        _ if outside.is_empty() && cpus.iter().all(|cpu| tickless.contains(cpu)) => {
            Finding::ok(format!("CPU {} is isolated, and without ticks", cpu_list(&cpus)))
        }
        _ if outside.is_empty() => Finding::ok(format!("CPU {} is isolated", cpu_list(&cpus))),
        _ => Finding::note(
            format!("CPU {} is not isolated; isolated are {}", cpu_list(&outside), cpu_list(&isolated)),
            format!("pin the workers there: --cpu {}", cpu_list(&isolated)),
        ),
    };
    finding.with("isolated", isolated).with("nohz_full", tickless)
}

/// The CPUs whose speed and sleep matter: the workers', or all that may be theirs.
fn of_interest(case: &Case<'_>) -> Vec<u32> {
    let cpus = case.cpus();
    if cpus.is_empty() { case.machine.allowed_cpus().unwrap_or_default() } else { cpus }
}

/// What chooses the CPUs' clock rate.
pub(crate) fn governor(case: &Case<'_>) -> Finding {
    let governor = |cpu: &u32| case.machine.text(&format!("{CPU}/cpu{cpu}/cpufreq/scaling_governor"));
    let mut governors: Vec<(u32, String)> = Vec::new();
    for cpu in of_interest(case) {
        governors.extend(governor(&cpu).map(|name| (cpu, name)));
    }
    let slow: Vec<u32> = governors.iter().filter(|(_, name)| name != "performance").map(|(cpu, _)| *cpu).collect();
    let mut names: Vec<&str> =
        governors.iter().map(|(_, name)| name.as_str()).filter(|name| *name != "performance").collect();
    names.sort_unstable();
    names.dedup();
    let finding = match (governors.is_empty(), slow.is_empty()) {
        (true, _) => {
            Finding::ok("the kernel does not set the clock rate here: a virtual machine, or the firmware does")
        }
        (_, true) => Finding::ok("the governor is performance"),
        _ => Finding::note(
            format!(
                "the governor of CPU {} is {}: the first tasks after a pause may run slowly",
                cpu_list(&slow),
                names.join(", ")
            ),
            "cpupower frequency-set -g performance",
        ),
    };
    finding.with(
        "governors",
        governors.into_iter().map(|(cpu, name)| (cpu.to_string(), name.into())).collect::<serde_json::Map<_, _>>(),
    )
}

/// How long a CPU takes to come back from its deepest sleep.
pub(crate) fn c_states(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let mut deepest: Option<(u64, String, u32)> = None;
    for cpu in of_interest(case) {
        let folder = format!("{CPU}/cpu{cpu}/cpuidle");
        for state in machine.names(&folder) {
            let file = |name: &str| format!("{folder}/{state}/{name}");
            let Some(latency) = machine.number(&file("latency")) else { continue };
            let is_off = machine.number(&file("disable")).is_some_and(|off| off != 0);
            if !is_off && deepest.as_ref().is_none_or(|(most, ..)| latency > *most) {
                deepest = Some((latency, machine.text(&file("name")).unwrap_or(state), cpu));
            }
        }
    }
    let Some((latency, name, cpu)) = deepest else {
        return Finding::ok("the kernel has no sleep states here: a virtual machine, whose host decides");
    };
    let held = case.settings.cpu_latency.map(u64::from).filter(|held| *held < latency);
    let finding = match held {
        _ if latency <= DEEP_US => {
            Finding::ok(format!("the deepest sleep of CPU {cpu}, {name}, takes {latency} us to leave"))
        }
        Some(held) => Finding::ok(format!(
            "CPU {cpu} sleeps as deep as {name}, {latency} us; --cpu-latency {held} keeps it out of that"
        )),
        None => Finding::note(
            format!("CPU {cpu} sleeps as deep as {name}: {latency} us before a task after a pause begins"),
            format!("--cpu-latency {DEEP_US}, which costs power"),
        ),
    };
    finding.with("state", name).with("latency_us", latency).with("cpu", cpu)
}
