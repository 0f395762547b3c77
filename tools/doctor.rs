//! `executord doctor`: what of this machine and of the instance's files is in the way of a sidecar, and what to do about it.
//!
//! It only reads: it takes no lock and listens nowhere, so it hinders no start, and opens nothing for writing. Each check is a function from a
//! [`Case`] to a [`Finding`]; keys are stable.

mod cpus;
mod files;
mod finding;
mod kernel;
mod logind;
mod machine;
mod rights;

use executor_core::{Registry, RegistryBuilder};
use executor_shm::InstanceName;
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::{InspectError, Inspection, Inspector, cpus_in_use_beside};
use executor_shm::layout::Geometry;
use nix::unistd::{User, geteuid};
use serde_json::{Map, Value, json};

use self::files::Name;
use self::finding::{Finding, State};
use self::kernel::Calls;
use self::machine::Machine;
use crate::run::{RunError, sidecar};
use crate::settings::Settings;
use crate::units::counted;

/// A check's key, what it looks at, and itself.
type Check = (&'static str, &'static str, fn(&Case<'_>) -> Finding);

/// Every check, in the order in which they are printed.
const CHECKS: [Check; 23] = [
    ("instance", "whether a sidecar serves the instance, or may", files::instance),
    ("abi", "whether another build made the files", files::abi),
    ("owner", "whether names of the instance are somebody else's, or no files", files::owner),
    ("sizes", "whether the files were made as they are asked for", files::sizes),
    ("leftovers", "files that nobody serves", files::leftovers),
    ("shm_size", "room in /dev/shm for all lanes", files::shm_size),
    ("recording", "what times, slow tasks, events and errors take of /dev/shm", files::recording),
    ("shm_mode", "whether others can remove files from /dev/shm", files::shm_mode),
    ("remove_ipc", "whether systemd-logind removes the files at logout", logind::remove_ipc),
    ("cpus", "whether the workers' CPUs are there, allowed and free", cpus::cpus),
    ("cpu_quota", "whether a control group limits CPU time", cpus::cpu_quota),
    ("isolated_cpus", "whether anything else runs on the workers' CPUs", cpus::isolated_cpus),
    ("governor", "what sets the CPUs' clock rate", cpus::governor),
    ("c_states", "how long a CPU takes to leave its deepest sleep", cpus::c_states),
    ("cpu_latency", "whether --cpu-latency may be held", rights::cpu_latency),
    ("rtprio", "which real-time priority may be had", rights::rtprio),
    ("memlock", "how much memory may be locked", rights::memlock),
    ("metrics", "whether the address for --metrics can be had", rights::metrics),
    ("clock", "what tasks are stamped with", kernel::clock),
    ("futex_waitv", "whether a worker can sleep on many lanes", kernel::futex_waitv),
    ("membarrier", "whether submits are spared a fence", kernel::membarrier),
    ("rseq", "whether the kernel has restartable sequences", kernel::rseq),
    ("pid_namespace", "whether pids are the host's", kernel::pid_namespace),
];

/// All that checks go by.
struct Case<'a> {
    machine: &'a Machine,
    settings: &'a Settings,
    instance: InstanceName,
    /// Sizes of the files that a start would make.
    geometry: Geometry,
    /// The instance's files, if there are any.
    view: Result<Inspection, InspectError>,
    /// What there is of all instances.
    names: &'a [Name],
    /// CPUs of workers of other living instances.
    taken: Vec<u32>,
    calls: Calls,
    uid: u32,
    user: Option<String>,
}

impl<'a> Case<'a> {
    fn new(machine: &'a Machine, settings: &'a Settings, geometry: Geometry, names: &'a [Name]) -> Self {
        let instance = settings.instance.clone().unwrap_or_default();
        let uid = geteuid();
        let (view, taken) = if machine.is_this() {
            (Inspector::open(&instance), cpus_in_use_beside(Some(&instance)))
        } else {
            (Inspector::open_copy(&instance, &machine.path(DIRECTORY)), Vec::new())
        };
        Self {
            machine,
            settings,
            geometry,
            view: view.map(|inspector| inspector.look()),
            names,
            taken,
            calls: Calls::ask(),
            uid: uid.as_raw(),
            user: User::from_uid(uid).ok().flatten().map(|user| user.name),
            instance,
        }
    }

    /// The workers' CPUs: those of the sidecar that serves, or those that a start would take; none where nothing is pinned.
    fn cpus(&self) -> Vec<u32> {
        if let Ok(view) = &self.view
            && files::is_alive(self.machine, self.instance.as_str()) == Some(true)
        {
            return view.workers.iter().filter_map(|worker| worker.cpu).collect();
        }
        match (self.settings.pinned, self.settings.cpus.as_slice()) {
            (Some(false), _) => Vec::new(),
            (_, []) => {
                let allowed = self.machine.allowed_cpus().unwrap_or_default();
                let free = allowed.iter().rev().find(|cpu| !self.taken.contains(cpu));
                free.or(allowed.last()).copied().into_iter().collect()
            }
            (_, asked) => asked.to_vec(),
        }
    }

    fn diagnosis(&self) -> Diagnosis {
        let findings = CHECKS.iter().map(|(key, _, check)| (*key, check(self))).collect();
        Diagnosis { instance: self.instance.clone(), findings }
    }
}

/// What all checks found.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    instance: InstanceName,
    findings: Vec<(&'static str, Finding)>,
}

impl Diagnosis {
    fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|(_, finding)| finding.state == state).count()
    }

    /// Whether nothing is refused.
    pub(crate) fn is_sound(&self) -> bool {
        self.count(State::Error) == 0
    }

    /// A line for each check, and one that sums up.
    pub(crate) fn text(&self) -> String {
        let lines: String = self.findings.iter().map(|(key, finding)| finding.text(key) + "\n").collect();
        let counts = State::ALL.map(|state| (state, self.count(state) as u64));
        let counted =
            counts.iter().filter(|(state, number)| *number > 0 || *state == State::Error).map(|(state, number)| {
                match state {
                    State::Ok | State::Unknown => format!("{number} {}", state.name()),
                    _ => counted(*number, state.name()),
                }
            });
        let counts: Vec<String> = counted.collect();
        format!("{lines}instance {}: {}\n", self.instance, counts.join(", "))
    }

    /// Everything for programs.
    pub(crate) fn json(&self) -> String {
        let counts: Map<String, Value> =
            State::ALL.iter().map(|state| (state.name().to_owned(), self.count(*state).into())).collect();
        let checks: Vec<Value> = self.findings.iter().map(|(key, finding)| finding.json(key)).collect();
        format!("{:#}\n", json!({"instance": self.instance.as_str(), "counts": counts, "checks": checks}))
    }
}

/// Looks at this machine for what `run` with these settings and handlers needs.
///
/// # Errors
///
/// The handlers are none that can be served.
pub(crate) fn diagnose(
    settings: &Settings,
    register: impl FnOnce(&mut RegistryBuilder),
) -> Result<Diagnosis, RunError> {
    let mut registry = Registry::builder();
    register(&mut registry);
    let geometry = sidecar(settings, registry.build()?).new_geometry();
    let machine = Machine::this();
    let names = files::names(&machine);
    Ok(Case::new(&machine, settings, geometry, &names).diagnosis())
}

/// The keys and what they look at, for `--help`.
pub(crate) fn keys() -> String {
    CHECKS.iter().map(|(key, what, _)| format!("  {key:14} {what}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use executor_core::idle::IdleStrategy;
    use executor_shm::layout::{ABI_VERSION, LAYOUT_HASH, MAGIC};
    use rustix::io::Errno;

    use super::*;

    /// A machine of files that has all a sidecar can wish for.
    struct Tree(PathBuf);

    impl Tree {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let unique = format!("executord-doctor-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
            let tree = Self(std::env::temp_dir().join(unique));
            let cpu = "sys/devices/system/cpu";
            let clock = "sys/devices/system/clocksource/clocksource0";
            let auxv: Vec<u8> = [6u64, 4096, 27, 28, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
            for (path, text) in [
                ("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-3\n"),
                (
                    "proc/self/limits",
                    "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         unlimited  unlimited  bytes\n\
                     Max realtime priority     99         99\n",
                ),
                ("proc/self/cgroup", "0::/system.slice/executord.service\n"),
                ("proc/sys/kernel/osrelease", "6.18.44-test\n"),
                ("proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
                ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc\n"),
                ("sys/fs/cgroup/system.slice/executord.service/cpu.max", "max 100000\n"),
                (&format!("{cpu}/online"), "0-3\n"),
                (&format!("{cpu}/isolated"), "3\n"),
                (&format!("{cpu}/nohz_full"), "3\n"),
                (&format!("{cpu}/cpu3/cpufreq/scaling_governor"), "performance\n"),
                (&format!("{cpu}/cpu3/cpuidle/state0/latency"), "0\n"),
                (&format!("{cpu}/cpu3/cpuidle/state0/name"), "POLL\n"),
                (&format!("{cpu}/cpu3/cpuidle/state1/latency"), "2\n"),
                (&format!("{cpu}/cpu3/cpuidle/state1/name"), "C1\n"),
                (&format!("{clock}/current_clocksource"), "tsc\n"),
                (&format!("{clock}/available_clocksource"), "tsc hpet acpi_pm\n"),
                ("etc/systemd/logind.conf", "[Login]\nRemoveIPC=no\n"),
                ("run/systemd/system/x", ""),
                ("dev/cpu_dma_latency", ""),
                ("dev/shm/other", ""),
            ] {
                tree.write(path, text);
            }
            fs::write(tree.0.join("proc/self/auxv"), auxv).unwrap();
            fs::create_dir_all(tree.0.join("proc/self/ns")).unwrap();
            symlink("pid:[4026531836]", tree.0.join("proc/self/ns/pid")).unwrap();
            tree.mode("dev/shm", 0o1777);
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn replace(&self, path: &str, from: &str, to: &str) {
            let text = fs::read_to_string(self.0.join(path)).unwrap();
            assert!(text.contains(from), "{path}: {text}");
            self.write(path, &text.replace(from, to));
        }

        fn remove(&self, path: &str) {
            let path = self.0.join(path);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }

        /// A file of an instance that begins with this header.
        fn file(&self, name: &str, magic: u64, abi: u32, layout: u64) {
            let head = [magic, u64::from(abi) | 2 << 32, 7, 2, 16, layout, 4096, 0];
            let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(4096, 0);
            fs::write(self.0.join("dev/shm").join(name), bytes).unwrap();
        }

        /// What the checks find, for a person, with the settings and after a last change.
        fn look(&self, settings: &Settings, change: impl FnOnce(&mut Case<'_>)) -> Diagnosis {
            let machine = Machine::at(&self.0);
            let names = files::names(&machine);
            let mut registry = Registry::builder();
            crate::handlers::builtin(&mut registry);
            let geometry = sidecar(settings, registry.build().unwrap()).new_geometry();
            let mut case = Case::new(&machine, settings, geometry, &names);
            case.calls = Calls { waitv: Errno::INVAL, membarrier: 6 };
            case.user = Some("alice".to_owned());
            change(&mut case);
            case.diagnosis()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Changes a good machine, and asserts what one check then says and that all others still find nothing, but for those
    /// that `also` names.
    #[track_caller]
    fn expect(
        key: &str,
        state: State,
        parts: &[&str],
        also: &[&str],
        settings: &Settings,
        spoil: impl FnOnce(&Tree),
        change: impl FnOnce(&mut Case<'_>),
    ) {
        let tree = Tree::new();
        spoil(&tree);
        let diagnosis = tree.look(settings, change);
        for (other, finding) in &diagnosis.findings {
            if *other == key {
                let text = finding.text(key);
                assert_eq!(finding.state, state, "{text}");
                assert!(parts.iter().all(|part| text.contains(part)), "{text}\n does not say {parts:?}");
                assert!(!text.contains('\n'), "{text}");
                assert_eq!(finding.cure.is_some(), text.contains("; cure: "), "{text}");
                assert!(state < State::Warning || finding.cure.is_some(), "{text}");
            } else {
                let is_meant = also.contains(other) || finding.state == State::Ok;
                assert!(is_meant, "{}", finding.text(other));
            }
        }
        assert_eq!(diagnosis.is_sound(), diagnosis.count(State::Error) == 0);
    }

    #[track_caller]
    fn expect_of_tree(key: &str, state: State, parts: &[&str], spoil: impl FnOnce(&Tree)) {
        expect(key, state, parts, &[], &Settings::default(), spoil, |_| {});
    }

    const NOTHING: fn(&Tree) = |_| {};

    #[test]
    fn a_machine_that_has_everything_is_told_to_be_sound() {
        let tree = Tree::new();
        let diagnosis = tree.look(&Settings::default(), |_| {});
        assert_eq!(diagnosis.count(State::Ok), CHECKS.len(), "{}", diagnosis.text());
        assert!(diagnosis.is_sound());
        assert!(diagnosis.text().ends_with("\ninstance default: 0 errors, 23 ok\n"), "{}", diagnosis.text());
        let json: Value = serde_json::from_str(&diagnosis.json()).unwrap();
        let keys: Vec<&str> =
            json["checks"].as_array().unwrap().iter().map(|check| check["key"].as_str().unwrap()).collect();
        assert_eq!(keys, CHECKS.map(|(key, ..)| key), "keys are stable, and every check is there");
        assert_eq!((&json["counts"]["ok"], &json["counts"]["error"]), (&23.into(), &0.into()));
    }

    #[test]
    fn every_key_is_in_the_help() {
        assert!(CHECKS.iter().all(|(key, what, _)| keys().contains(&format!("  {key:14} {what}\n"))));
        assert!(CHECKS.iter().all(|(key, ..)| key.len() <= 14), "columns stand below each other");
    }

    #[test]
    fn a_machine_that_tells_nothing_is_unknown_and_no_reason_to_panic() {
        let tree = Tree::new();
        for folder in ["proc", "sys", "etc", "run", "dev"] {
            tree.remove(folder);
        }
        let diagnosis = tree.look(&Settings::default(), |_| {});
        let state = |key: &str| diagnosis.findings.iter().find(|(other, _)| *other == key).unwrap().1.state;
        for key in
            ["cpus", "cpu_quota", "isolated_cpus", "rtprio", "memlock", "clock", "rseq", "pid_namespace", "shm_mode"]
        {
            assert_eq!(state(key), State::Unknown, "{key}");
        }
        assert_eq!((state("shm_size"), diagnosis.is_sound()), (State::Error, false));
    }

    #[test]
    fn a_cpu_that_is_missing_forbidden_doubled_or_taken_is_told() {
        let asked = |cpus: &[u32]| Settings { cpus: cpus.to_vec(), ..Settings::default() };
        let others = ["isolated_cpus"];
        expect("cpus", State::Error, &["CPU 9 is not there", "online are 0-3"], &others, &asked(&[9]), NOTHING, |_| {});
        let narrow = |tree: &Tree| tree.replace("proc/self/status", "0-3", "0-1");
        expect(
            "cpus",
            State::Error,
            &["CPU 3 is not allowed", "cpuset or affinity", "taskset"],
            &[],
            &asked(&[3]),
            narrow,
            |_| {},
        );
        let wide = |tree: &Tree| {
            narrow(tree);
            tree.write("sys/fs/cgroup/system.slice/executord.service/cpuset.cpus.effective", "0-3");
        };
        expect(
            "cpus",
            State::Error,
            &["by the affinity this process was started with"],
            &[],
            &asked(&[3]),
            wide,
            |_| {},
        );
        expect("cpus", State::Error, &["CPU 3 is asked for twice"], &[], &asked(&[3, 3]), NOTHING, |_| {});
        let taken = |case: &mut Case<'_>| case.taken = vec![3];
        expect("cpus", State::Warning, &["another instance is pinned to CPU 3"], &[], &asked(&[3]), NOTHING, taken);
        expect("cpus", State::Ok, &["worker on CPU 2"], &others, &Settings::default(), NOTHING, taken);
    }

    #[test]
    fn workers_that_leave_no_cpu_are_told_and_with_real_time_refused() {
        let one = |tree: &Tree| tree.replace("proc/self/status", "0-3", "3");
        expect_of_tree("cpus", State::Warning, &["1 CPU (3) for 1 worker", "--idle sleep --unpinned"], one);
        let settings = Settings { real_time: Some("fifo:10".parse().unwrap()), ..Settings::default() };
        expect("cpus", State::Error, &["which --real-time needs"], &[], &settings, one, |_| {});
        let unpinned = Settings { pinned: Some(false), ..Settings::default() };
        expect("cpus", State::Ok, &["not pinned"], &["isolated_cpus"], &unpinned, one, |_| {});
    }

    #[test]
    fn a_quota_on_cpu_time_is_found_wherever_it_is_set() {
        let group = "sys/fs/cgroup/system.slice/executord.service";
        let quota = |path: &'static str, text: &'static str| move |tree: &Tree| tree.write(path, text);
        let file = "sys/fs/cgroup/system.slice/executord.service/cpu.max";
        expect_of_tree(
            "cpu_quota",
            State::Warning,
            &["0.50 CPUs of time in each 100 ms", "stopped"],
            quota(file, "50000 100000\n"),
        );
        expect_of_tree(
            "cpu_quota",
            State::Warning,
            &["1.00 CPUs"],
            quota("sys/fs/cgroup/system.slice/cpu.max", "100000 100000\n"),
        );
        expect_of_tree("cpu_quota", State::Note, &["2.50 CPUs"], quota(file, "250000 100000\n"));
        let asleep = Settings { idle: Some(IdleStrategy::Sleep), ..Settings::default() };
        expect("cpu_quota", State::Note, &["0.50 CPUs"], &[], &asleep, quota(file, "50000 100000\n"), |_| {});
        expect_of_tree("cpu_quota", State::Warning, &["which stopped it 1,234 times"], |tree| {
            tree.write(file, "50000 100000\n");
            tree.write(&format!("{group}/cpu.stat"), "usage_usec 5\nnr_periods 9\nnr_throttled 1234\n");
        });
        // The first version of control groups, and a container that sees but the mount.
        let old = |quota: &'static str| {
            move |tree: &Tree| {
                tree.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/0123\n0::/../..\n");
                tree.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota);
                tree.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n");
            }
        };
        expect_of_tree("cpu_quota", State::Warning, &["0.50 CPUs of time in each 50 ms"], old("25000\n"));
        expect_of_tree("cpu_quota", State::Ok, &[], old("-1\n"));
    }

    #[test]
    fn cpus_that_are_shared_slow_or_deep_asleep_are_told() {
        let cpu = "sys/devices/system/cpu";
        expect_of_tree("isolated_cpus", State::Note, &["no CPU is isolated", "isolcpus="], |tree| {
            tree.write(&format!("{cpu}/isolated"), "\n");
        });
        expect_of_tree(
            "isolated_cpus",
            State::Note,
            &["CPU 3 is not isolated; isolated are 1-2", "--cpu 1-2"],
            |tree| tree.write(&format!("{cpu}/isolated"), "1-2\n"),
        );
        expect_of_tree("governor", State::Note, &["CPU 3 is powersave", "cpupower"], |tree| {
            tree.write(&format!("{cpu}/cpu3/cpufreq/scaling_governor"), "powersave\n");
        });
        expect_of_tree("governor", State::Ok, &["virtual machine"], |tree| tree.remove(&format!("{cpu}/cpu3/cpufreq")));
        let deep = |tree: &Tree| {
            tree.write(&format!("{cpu}/cpu3/cpuidle/state2/latency"), "133\n");
            tree.write(&format!("{cpu}/cpu3/cpuidle/state2/name"), "C6\n");
        };
        expect_of_tree("c_states", State::Note, &["C6: 133 us", "--cpu-latency 10"], deep);
        let held = Settings { cpu_latency: Some(5), ..Settings::default() };
        expect("c_states", State::Ok, &["--cpu-latency 5"], &[], &held, deep, |_| {});
        let loose = Settings { cpu_latency: Some(500), ..Settings::default() };
        expect("c_states", State::Note, &["C6: 133 us"], &[], &loose, deep, |_| {});
        expect_of_tree("c_states", State::Ok, &["C1"], |tree| {
            deep(tree);
            tree.write(&format!("{cpu}/cpu3/cpuidle/state2/disable"), "1\n");
        });
    }

    #[test]
    fn rights_that_are_missing_are_a_warning_only_where_they_are_asked_for() {
        let latency = Settings { cpu_latency: Some(0), ..Settings::default() };
        let no_file = |tree: &Tree| tree.remove("dev/cpu_dma_latency");
        expect(
            "cpu_latency",
            State::Warning,
            &["is not there: --cpu-latency 0 will be refused"],
            &[],
            &latency,
            no_file,
            |_| {},
        );
        expect_of_tree("cpu_latency", State::Note, &["which only --cpu-latency needs"], no_file);
        let real_time = Settings { real_time: Some("fifo:50".parse().unwrap()), ..Settings::default() };
        let low = |tree: &Tree| tree.replace("proc/self/limits", "99 ", "49 ");
        expect(
            "rtprio",
            State::Warning,
            &["is 49: --real-time fifo:50", "LimitRTPRIO=50"],
            &[],
            &real_time,
            low,
            |_| {},
        );
        let capable = |tree: &Tree| {
            low(tree);
            tree.replace("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000800000");
        };
        expect("rtprio", State::Ok, &["up to 99"], &[], &real_time, capable, |_| {});
        expect_of_tree("rtprio", State::Note, &["only --real-time needs"], |tree| {
            tree.replace("proc/self/limits", "99 ", "0 ");
        });
        let spinning = Settings { idle: Some(IdleStrategy::Spin), ..real_time.clone() };
        expect(
            "rtprio",
            State::Warning,
            &["for a share of each second", "sched_rt_runtime_us"],
            &[],
            &spinning,
            NOTHING,
            |_| {},
        );
        let unthrottled = |tree: &Tree| tree.write("proc/sys/kernel/sched_rt_runtime_us", "-1\n");
        expect("rtprio", State::Ok, &[], &[], &spinning, unthrottled, |_| {});
        let lock = Settings { lock_memory: Some(true), ..Settings::default() };
        let little =
            |tree: &Tree| tree.replace("proc/self/limits", "unlimited  unlimited  bytes", "65536  65536  bytes");
        expect("memlock", State::Warning, &["64 KiB", "LimitMEMLOCK=infinity"], &[], &lock, little, |_| {});
        expect_of_tree("memlock", State::Note, &["64 KiB"], little);
        let privileged = |tree: &Tree| {
            little(tree);
            tree.replace("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000004000");
        };
        expect("memlock", State::Ok, &["CAP_IPC_LOCK"], &[], &lock, privileged, |_| {});
    }

    #[test]
    fn a_clock_that_costs_is_told_with_what_it_costs() {
        let file = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        expect_of_tree("clock", State::Warning, &["hpet", "system call", "--no-timing"], |tree| {
            tree.write(file, "hpet\n");
        });
        expect_of_tree("clock", State::Note, &["kvm-clock though it has tsc"], |tree| tree.write(file, "kvm-clock\n"));
        expect_of_tree("clock", State::Note, &["no invariant tsc"], |tree| {
            tree.replace("proc/cpuinfo", "nonstop_tsc", "");
        });
    }

    #[test]
    fn calls_that_the_kernel_lacks_or_a_filter_refuses_are_told_apart() {
        let settings = Settings::default();
        let waitv = |errno| move |case: &mut Case<'_>| case.calls.waitv = errno;
        expect("futex_waitv", State::Note, &["does not have", "5.16"], &[], &settings, NOTHING, waitv(Errno::NOSYS));
        expect(
            "futex_waitv",
            State::Note,
            &["filter of system calls", "seccomp"],
            &[],
            &settings,
            NOTHING,
            waitv(Errno::PERM),
        );
        for commands in [0, 2, 4] {
            let change = |case: &mut Case<'_>| case.calls.membarrier = commands;
            expect("membarrier", State::Note, &["each submit takes a fence"], &[], &settings, NOTHING, change);
        }
        let no_auxv = |tree: &Tree| tree.remove("proc/self/auxv");
        expect_of_tree("rseq", State::Note, &["built without"], no_auxv);
        expect_of_tree("rseq", State::Unknown, &["Linux 5.15 does not say"], |tree| {
            no_auxv(tree);
            tree.write("proc/sys/kernel/osrelease", "5.15.0-91-generic\n");
        });
        expect_of_tree("rseq", State::Note, &["Linux 4.15 has no"], |tree| {
            no_auxv(tree);
            tree.write("proc/sys/kernel/osrelease", "4.15.0\n");
        });
        expect_of_tree("pid_namespace", State::Note, &["a container's own"], |tree| {
            tree.remove("proc/self/ns/pid");
            symlink("pid:[4026532999]", tree.0.join("proc/self/ns/pid")).unwrap();
        });
    }

    #[test]
    fn a_logout_that_takes_the_files_away_is_told_to_people_alone() {
        let person = |case: &mut Case<'_>| case.uid = 1000;
        let also = ["owner"];
        let said = |state, parts: &[&str], spoil: fn(&Tree), change: fn(&mut Case<'_>)| {
            expect("remove_ipc", state, parts, &also, &Settings::default(), spoil, change);
        };
        let yes: fn(&Tree) = |tree| tree.write("etc/systemd/logind.conf", "[Login]\nRemoveIPC=yes\n");
        said(State::Warning, &["by /etc/systemd/logind.conf", "uid 1000", "enable-linger alice"], yes, person);
        said(State::Ok, &["spares system users"], yes, |case| case.uid = 999);
        said(
            State::Warning,
            &["systemd's default"],
            |tree| tree.write("etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n"),
            person,
        );
        said(
            State::Warning,
            &["systemd's default"],
            |tree| tree.write("etc/systemd/logind.conf", "[Other]\nRemoveIPC=no\n"),
            person,
        );
        said(
            State::Ok,
            &["no systemd"],
            |tree| {
                tree.write("etc/systemd/logind.conf", "");
                tree.remove("run/systemd/system");
            },
            person,
        );
        said(
            State::Ok,
            &["it lingers"],
            |tree| {
                tree.write("etc/systemd/logind.conf", "");
                tree.write("var/lib/systemd/linger/alice", "");
            },
            person,
        );
        // A drop-in over the main file; one in /etc hides one of its name in /usr/lib.
        said(
            State::Warning,
            &["/usr/lib/systemd/logind.conf.d/50.conf"],
            |tree| {
                tree.write("usr/lib/systemd/logind.conf.d/50.conf", "[Login]\nRemoveIPC=yes\n");
            },
            person,
        );
        said(
            State::Ok,
            &["/etc/systemd/logind.conf.d/50.conf"],
            |tree| {
                tree.write("usr/lib/systemd/logind.conf.d/50.conf", "[Login]\nRemoveIPC=yes\n");
                tree.write("etc/systemd/logind.conf.d/50.conf", "[Login]\nRemoveIPC=no\n");
            },
            person,
        );
    }

    #[test]
    fn files_of_another_build_are_told_by_what_they_say_of_themselves() {
        let also = ["instance", "leftovers", "sizes"];
        let said = |state, parts: &[&str], spoil: fn(&Tree)| {
            expect("abi", state, parts, &also, &Settings::default(), spoil, |_| {});
        };
        said(State::Error, &["status speaks ABI 99 and has 16 lanes", "clean --discard default"], |tree| {
            tree.file("executor.default.status", MAGIC, 99, LAYOUT_HASH);
        });
        said(State::Error, &["journal speaks ABI 2"], |tree| {
            tree.file("executor.default.journal", MAGIC, 2, LAYOUT_HASH);
        });
        said(State::Error, &["other offsets"], |tree| tree.file("executor.default.journal", MAGIC, ABI_VERSION, 5));
        said(State::Error, &["does not begin with"], |tree| {
            tree.file("executor.default.journal", 5, ABI_VERSION, LAYOUT_HASH);
        });
        said(State::Ok, &["as this build does"], |tree| {
            tree.file("executor.default.journal", MAGIC, ABI_VERSION, LAYOUT_HASH);
        });
    }

    #[test]
    fn names_that_are_somebody_elses_or_no_files_are_told() {
        let also = ["instance", "leftovers", "remove_ipc", "abi"];
        let said = |state, parts: &[&str], name: &str, change: fn(&mut Case<'_>)| {
            let spoil = |tree: &Tree| tree.write(&format!("dev/shm/{name}"), "");
            expect("owner", state, parts, &also, &Settings::default(), spoil, change);
        };
        let stranger = |case: &mut Case<'_>| case.uid += 1;
        said(
            State::Error,
            &["executor.default.journal belongs to uid", "choose another name"],
            "executor.default.journal",
            stranger,
        );
        said(State::Warning, &["passed over"], "executor.default.lane-0-00000000000001.sq", stranger);
        said(State::Ok, &["none of its names"], "executor.other.journal", stranger);
        let squatted = |make: fn(&Tree), part: &str| {
            expect("owner", State::Error, &[part], &also, &Settings::default(), make, |_| {});
        };
        squatted(
            |tree| symlink("/etc/passwd", tree.0.join("dev/shm/executor.default.status")).unwrap(),
            "a symbolic link",
        );
        squatted(|tree| fs::create_dir(tree.0.join("dev/shm/executor.default.status")).unwrap(), "a directory");
        squatted(
            |tree| {
                tree.write("dev/shm/executor.default.status", "");
                fs::hard_link(tree.0.join("dev/shm/executor.default.status"), tree.0.join("dev/shm/x")).unwrap();
            },
            "a hard link",
        );
        squatted(
            |tree| {
                nix::unistd::mkfifo(&tree.0.join("dev/shm/executor.default.status"), nix::sys::stat::Mode::S_IRWXU)
                    .unwrap();
            },
            "a pipe",
        );
    }

    #[test]
    fn files_that_nobody_serves_are_listed_with_their_instances() {
        expect_of_tree(
            "leftovers",
            State::Note,
            &["nobody serves one (2 files, ", "two (1 file, ", "executord clean --all --dry-run"],
            |tree| {
                tree.file("executor.one.status", MAGIC, ABI_VERSION, LAYOUT_HASH);
                tree.file("executor.one.tmp-0123456789abcdef", MAGIC, ABI_VERSION, LAYOUT_HASH);
                tree.file("executor.two.lane-0-00000000000001.cq", MAGIC, ABI_VERSION, LAYOUT_HASH);
            },
        );
        let also = ["leftovers"];
        let lane =
            |tree: &Tree| tree.file("executor.default.lane-0-00000000000001.sq", MAGIC, ABI_VERSION, LAYOUT_HASH);
        expect(
            "instance",
            State::Note,
            &["lane files and no status", "executord clean default"],
            &also,
            &Settings::default(),
            lane,
            |_| {},
        );
    }

    #[test]
    fn a_folder_that_is_too_small_or_open_to_others_is_told() {
        // 2^51 bytes of buffers: more than any disk has.
        let vast = Settings {
            lanes: Some(1024),
            capacity: Some(65_536),
            request_bytes: Some(16_777_152),
            response_bytes: Some(16_777_152),
            ..Settings::default()
        };
        expect(
            "shm_size",
            State::Error,
            &["1,024 lanes of", "a start will be refused", "remount,size="],
            &[],
            &vast,
            NOTHING,
            |_| {},
        );
        expect_of_tree("shm_mode", State::Warning, &["0777", "chmod 1777"], |tree| tree.mode("dev/shm", 0o777));
        let stranger = |case: &mut Case<'_>| case.uid = 61_111;
        let also = ["remove_ipc"];
        expect(
            "shm_mode",
            State::Error,
            &["0755", "uid 61111 may make no file"],
            &also,
            &Settings::default(),
            |tree| tree.mode("dev/shm", 0o755),
            stranger,
        );
    }
}
