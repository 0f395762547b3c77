//! Which CPUs a thread may run on, and how to keep it on one of them.
//!
//! Every number is checked before the kernel or `core_affinity` sees it, so a refusal names the CPU, the reason and the
//! CPUs that would do. Ids are those of the kernel, below 1,024: the mask of glibc ends there.
//!
//! A thread that pinned itself has narrowed its own mask, and threads it starts inherit that: ask for
//! [`allowed_cpus`] before anything is pinned.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// Ids from here on do not fit a mask.
pub const CPU_LIMIT: u32 = 1024;
/// The highest id [`parse_cpu_list`] takes: eight times what the kernel can be built for.
const LISTED_MAX: u32 = 65_535;

/// Why a thread cannot be kept on a CPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// Choose an id below 1,024.
    #[error("cpu {cpu} is out of range; ids are 0 to 1023")]
    TooHigh {
        /// The CPU asked for.
        cpu: u32,
    },
    /// Choose one of the CPUs that are online.
    #[error("cpu {cpu} is not there or offline; online are {online}")]
    Absent {
        /// The CPU asked for.
        cpu: u32,
        /// The CPUs that are online, as a list.
        online: String,
    },
    /// Choose one of the allowed CPUs, or widen the cpuset or the affinity this process was started with.
    #[error("cpu {cpu} is online but not allowed to this thread, by its cpuset or affinity; allowed are {allowed}")]
    Forbidden {
        /// The CPU asked for.
        cpu: u32,
        /// The CPUs that are allowed, as a list.
        allowed: String,
    },
    /// The CPU went offline or the cpuset changed just now; check again.
    #[error("the kernel refused to keep this thread on cpu {cpu}")]
    Refused {
        /// The CPU asked for.
        cpu: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has more than 1,024 CPUs or forbids the question; run without pinning.
    #[error("the cpus this thread may run on cannot be read")]
    Unreadable {
        /// What the kernel said.
        source: io::Error,
    },
}

/// The CPUs the calling thread may run on, in ascending order. Isolated ones are among them if they were given to the
/// thread; ids of 1,024 and up are not.
///
/// # Errors
///
/// [`CpuError::Unreadable`].
pub fn allowed_cpus() -> Result<Vec<u32>, CpuError> {
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| CpuError::Unreadable { source: errno.into() })?;
    Ok((0..CPU_LIMIT).filter(|&cpu| set.is_set(cpu as usize).unwrap_or(false)).collect())
}

/// The CPUs that are online as the kernel lists them, or those that could be if it does not say.
fn online_cpus() -> Option<Vec<u32>> {
    ["online", "possible"].into_iter().find_map(|file| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{file}")).ok()?;
        parse_cpu_list(&text).ok()
    })
}

/// Whether the calling thread may be kept on `cpu`.
///
/// # Errors
///
/// Every variant of [`CpuError`] but `Refused`.
pub fn check(cpu: u32) -> Result<(), CpuError> {
    if cpu >= CPU_LIMIT {
        return Err(CpuError::TooHigh { cpu });
    }
    let allowed = allowed_cpus()?;
    if allowed.contains(&cpu) { Ok(()) } else { Err(missing(cpu, &allowed, online_cpus().as_deref())) }
}

fn missing(cpu: u32, allowed: &[u32], online: Option<&[u32]>) -> CpuError {
    match online {
        Some(online) if !online.contains(&cpu) => CpuError::Absent { cpu, online: cpu_list(online) },
        _ => CpuError::Forbidden { cpu, allowed: cpu_list(allowed) },
    }
}

/// Keeps the calling thread on `cpu` and makes sure that it is so. From then on [`allowed_cpus`] of this thread and of
/// those it starts is that CPU alone, so it can be pinned to no other one.
///
/// # Errors
///
/// What [`check`] says of the CPU, or [`CpuError::Refused`].
pub fn pin_current_thread(cpu: u32) -> Result<(), CpuError> {
    check(cpu)?;
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu as usize }) {
        return Err(CpuError::Refused { cpu, source: io::Error::last_os_error() });
    }
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| CpuError::Refused { cpu, source: errno.into() })?;
    let mut wanted = CpuSet::new();
    wanted.set(cpu as usize).map_err(|_| CpuError::TooHigh { cpu })?;
    if set != wanted {
        let source = io::Error::other(format!("the mask is {} afterwards", cpu_list(&allowed_cpus()?)));
        return Err(CpuError::Refused { cpu, source });
    }
    Ok(())
}

/// The CPU for a thread nobody chose one for: the last allowed one that is not in `taken`, or the last allowed one if
/// all are taken. The last, because interrupts and unpinned programs gather on the first. `None` if the allowed CPUs
/// cannot be read.
pub fn default_cpu(taken: &[u32]) -> Option<u32> {
    choose(&allowed_cpus().ok()?, taken)
}

fn choose(allowed: &[u32], taken: &[u32]) -> Option<u32> {
    allowed.iter().rev().find(|cpu| !taken.contains(cpu)).or(allowed.last()).copied()
}

/// Writes CPUs as the kernel does, ranges joined: `0-3,8`. They may come in any order; `none` if there are none.
pub fn cpu_list(cpus: &[u32]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let ranges: Vec<String> = sorted
        .chunk_by(|a, b| a + 1 == *b)
        .filter_map(|run| match run {
            [] => None,
            [only] => Some(only.to_string()),
            [first, .., last] => Some(format!("{first}-{last}")),
        })
        .collect();
    if ranges.is_empty() { "none".to_owned() } else { ranges.join(",") }
}

/// A text is no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} is neither a cpu nor a range of cpus up to {LISTED_MAX}; write a list such as 0-3,8")]
pub struct CpuListError {
    part: String,
}

/// Reads a list such as `0-3,8`, as the kernel and [`cpu_list`] write it, into ascending order. An empty text and
/// `none` are the empty list.
///
/// # Errors
///
/// A part of the list is no number, no ascending range, or past 65,535.
pub fn parse_cpu_list(text: &str) -> Result<Vec<u32>, CpuListError> {
    let text = text.trim();
    let mut cpus = Vec::new();
    if text.is_empty() || text == "none" {
        return Ok(cpus);
    }
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (parse_cpu(first), parse_cpu(last)) {
            (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
            _ => return Err(CpuListError { part: part.to_owned() }),
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

fn parse_cpu(digits: &str) -> Option<u32> {
    // `parse` alone would take "+1".
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|&cpu| cpu <= LISTED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pinned_thread_runs_on_its_cpu_alone_and_leaves_others_as_they_were() {
        let before = allowed_cpus().unwrap();
        for &cpu in &before {
            let after = std::thread::spawn(move || {
                pin_current_thread(cpu).unwrap();
                pin_current_thread(cpu).unwrap();
                (allowed_cpus().unwrap(), nix::sched::sched_getcpu().unwrap())
            });
            assert_eq!(after.join().unwrap(), (vec![cpu], cpu as usize));
        }
        assert_eq!(allowed_cpus().unwrap(), before);
    }

    #[test]
    fn a_cpu_that_a_mask_cannot_name_is_refused_before_anybody_aborts() {
        for cpu in [1024, 1025, u32::MAX] {
            assert!(matches!(pin_current_thread(cpu), Err(CpuError::TooHigh { cpu: named }) if named == cpu));
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_told_from_one_that_is_forbidden() {
        let absent = missing(9, &[2], Some(&[0, 1, 2, 3, 8]));
        assert_eq!(absent.to_string(), "cpu 9 is not there or offline; online are 0-3,8");
        let text = "cpu 3 is online but not allowed to this thread, by its cpuset or affinity; allowed are 0-1,8";
        assert_eq!(missing(3, &[8, 0, 1], Some(&[0, 1, 3, 8])).to_string(), text);
        assert_eq!(missing(3, &[8, 0, 1], None).to_string(), text, "nothing said to be absent without knowing");
    }

    #[test]
    fn a_cpu_outside_this_machine_is_absent() {
        let online = online_cpus().unwrap();
        if let Some(cpu) = (0..CPU_LIMIT).rev().find(|cpu| !online.contains(cpu)) {
            let error = pin_current_thread(cpu).unwrap_err();
            assert!(
                matches!(&error, CpuError::Absent { online: listed, .. } if *listed == cpu_list(&online)),
                "{error}"
            );
        }
    }

    #[test]
    fn a_pinned_thread_is_forbidden_the_other_cpus() {
        if let [first, .., last] = *allowed_cpus().unwrap() {
            let error = std::thread::spawn(move || {
                pin_current_thread(last).unwrap();
                pin_current_thread(first).unwrap_err()
            });
            let error = error.join().unwrap();
            assert!(
                matches!(&error, CpuError::Forbidden { cpu, allowed } if *cpu == first && *allowed == last.to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn the_default_cpu_is_the_last_allowed_one_that_is_free() {
        assert_eq!(choose(&[0, 1, 5], &[]), Some(5));
        assert_eq!(choose(&[0, 1, 5], &[5, 7]), Some(1));
        assert_eq!(choose(&[0, 1, 5], &[0, 1, 5]), Some(5), "all taken");
        assert_eq!(choose(&[], &[]), None);
        assert_eq!(default_cpu(&[]), allowed_cpus().unwrap().last().copied());
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_part_that_is_wrong() {
        for (text, part) in [
            ("0,x", "x"),
            ("3-1", "3-1"),
            ("1--2", "1--2"),
            ("+1", "+1"),
            ("0,,1", ""),
            ("0-4294967295", "0-4294967295"),
        ] {
            assert_eq!(parse_cpu_list(text), Err(CpuListError { part: part.into() }), "{text}");
        }
        assert_eq!(parse_cpu_list(" 8, 0-2\n"), Ok(vec![0, 1, 2, 8]));
        assert_eq!([parse_cpu_list("\n"), parse_cpu_list("none")], [Ok(vec![]), Ok(vec![])]);
    }

    proptest! {
        #[test]
        fn a_list_reads_back_as_it_was_written(cpus in prop::collection::btree_set(0..200u32, 0..60)) {
            let mut shuffled: Vec<u32> = cpus.iter().copied().collect();
            shuffled.reverse();
            prop_assert_eq!(parse_cpu_list(&cpu_list(&shuffled)), Ok(cpus.into_iter().collect()));
        }

        #[test]
        fn any_text_is_a_list_or_an_error(text in "[0-9,+ x-]{0,12}") {
            let _ = parse_cpu_list(&text);
        }
    }
}
