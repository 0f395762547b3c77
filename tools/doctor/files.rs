//! Checks of `/dev/shm`: its size, the files of the instance, and what others left there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use executor_core::histogram::BUCKETS;
use executor_core::meter::MeterLayout;
use executor_core::recorder::{self, RECORDER_WORDS, SLOW_WORDS, SLOWEST};
use executor_shm::InstanceName;
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::{InspectError, Inspection};
use executor_shm::layout::{ABI_VERSION, Geometry, LAYOUT_HASH, MAGIC, header};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;

use super::machine::Machine;
use super::{Case, Finding};
use crate::dump_json::unanswered;
use crate::exit::one_line;
use crate::units::{bytes, count, counted};

/// What the names of all files of all instances begin with.
const PREFIX: &str = "executor.";
/// Lanes without an owner that a sidecar keeps made.
const SPARE_LANES: u32 = 2;

/// A name in `/dev/shm` that is an instance's.
#[derive(Debug)]
pub(crate) struct Name {
    /// The file's name.
    pub(crate) name: String,
    /// The instance's.
    pub(crate) instance: String,
    uid: u32,
    /// What it is, if it is no plain file with one name.
    oddity: Option<&'static str>,
    bytes: u64,
}

/// All names of all instances, sorted.
pub(crate) fn names(machine: &Machine) -> Vec<Name> {
    let found = machine.names(DIRECTORY).into_iter().filter_map(|name| {
        let instance = name.strip_prefix(PREFIX)?.split_once('.')?.0;
        let instance = InstanceName::new(instance).ok()?.to_string();
        let facts = machine.path(&format!("{DIRECTORY}/{name}")).symlink_metadata().ok()?;
        let kind = facts.file_type();
        let oddity = match () {
            () if kind.is_symlink() => Some("a symbolic link"),
            () if kind.is_dir() => Some("a directory"),
            () if kind.is_fifo() => Some("a pipe"),
            () if kind.is_socket() => Some("a socket"),
            () if !kind.is_file() => Some("a device"),
            () if facts.nlink() > 1 => Some("a file with a second name, a hard link"),
            () => None,
        };
        Some(Name { name, instance, uid: facts.uid(), oddity, bytes: facts.blocks() * 512 })
    });
    found.collect()
}

/// Opens a file for looks at it alone; a pipe must keep nobody waiting.
fn open(machine: &Machine, name: &str) -> Option<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file =
        File::options().read(true).custom_flags(flags).open(machine.path(&format!("{DIRECTORY}/{name}"))).ok()?;
    file.metadata().is_ok_and(|facts| facts.is_file()).then_some(file)
}

/// The lock on a file that would conflict with one of this kind, `F_UNLCK` for none; asking takes none. `None` if it cannot
/// be told.
fn conflict(machine: &Machine, name: &str, kind: libc::c_int) -> Option<libc::c_int> {
    let file = open(machine, name)?;
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    Some(i32::from(lock.l_type))
}

/// Whether somebody holds the write lock on a file; `None` if it cannot be told.
fn is_held(machine: &Machine, name: &str) -> Option<bool> {
    conflict(machine, name, libc::F_RDLCK).map(|kind| kind != libc::F_UNLCK)
}

/// Whether a sidecar serves an instance; `None` if it cannot be told.
pub(crate) fn is_alive(machine: &Machine, instance: &str) -> Option<bool> {
    let name = format!("{PREFIX}{instance}.status");
    if machine.has(&format!("{DIRECTORY}/{name}")) { is_held(machine, &name) } else { Some(false) }
}

/// Whether `/dev/shm` has room for all lanes.
pub(crate) fn shm_size(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let Ok(facts) = statvfs(&machine.path(DIRECTORY)) else {
        return Finding::error(
            format!("there is no {DIRECTORY}"),
            "mount -t tmpfs tmpfs /dev/shm, or give the container one (--shm-size=256m)",
        );
    };
    let (size, free) = (facts.blocks() * facts.fragment_size(), facts.blocks_available() * facts.fragment_size());
    let geometry = case.view.as_ref().map_or(case.geometry, |view| view.geometry);
    let (base, lane) = (base_bytes(&geometry), geometry.lane_bytes() as u64);
    let lanes = u64::from(geometry.lanes);
    let all = base.saturating_add(lane.saturating_mul(lanes));
    let is_own = |name: &&Name| name.instance == case.instance.as_str();
    let has: u64 = case.names.iter().filter(is_own).map(|name| name.bytes).sum();
    let room = free.saturating_add(has);
    let fit = room.saturating_sub(base).checked_div(lane).unwrap_or(0).min(lanes);
    let fact = format!(
        "{} of {DIRECTORY}'s {} are free; {} of {} each and {} besides need {}{}",
        bytes(free),
        bytes(size),
        counted(lanes, "lane"),
        bytes(lane),
        bytes(base),
        bytes(all),
        if has > 0 { format!(", of which {} are there", bytes(has)) } else { String::new() },
    );
    let cure = format!(
        "mount -o remount,size={}M {DIRECTORY} (docker run --shm-size={0}m), or lower --lanes, --capacity or the sizes of requests and responses",
        all.saturating_add(size.saturating_sub(room)).div_ceil(1 << 20),
    );
    let finding = if room < base.saturating_add(lane.saturating_mul(lanes.min(SPARE_LANES.into()))) {
        Finding::error(format!("{fact}: a start will be refused"), cure)
    } else if room < all {
        Finding::warning(
            format!("{fact}: only {} will be made, and producers beyond that refused", counted(fit, "lane")),
            cure,
        )
    } else {
        Finding::ok(fact)
    };
    finding
        .with("size_bytes", size)
        .with("free_bytes", free)
        .with("there_bytes", has)
        .with("base_bytes", base)
        .with("lane_bytes", lane)
        .with("lanes", lanes)
        .with("need_bytes", all)
        .with("lanes_fit", fit)
}

/// What recording takes of `status`; the formula is that of [`recorder::bytes`].
pub(crate) fn recording(case: &Case<'_>) -> Finding {
    let geometry = case.view.as_ref().map_or(case.geometry, |view| view.geometry);
    let layout = geometry.meter_layout();
    let (recorded, all) = (recorder::bytes(&layout) as u64, geometry.status_bytes() as u64);
    let MeterLayout { workers, handlers, lanes } = layout;
    let fact = format!(
        "histograms and recorders take {} of status's {}: 8 * ({workers} * {handlers} * (2 * {BUCKETS} + {SLOWEST} * {SLOW_WORDS}) + \
         {lanes} * {BUCKETS} + ({workers} + 1) * {RECORDER_WORDS}) bytes, with room for {}, {} and {}",
        bytes(recorded),
        bytes(all),
        counted(workers as u64, "worker"),
        counted(handlers as u64, "handler"),
        counted(lanes as u64, "lane"),
    );
    Finding::ok(fact).with("recording_bytes", recorded).with("status_bytes", all)
}

/// What an instance takes besides its lanes.
fn base_bytes(geometry: &Geometry) -> u64 {
    (geometry.status_bytes() + geometry.journal_bytes()) as u64
}

/// Whether the folder is one that others cannot take names out of.
pub(crate) fn shm_mode(case: &Case<'_>) -> Finding {
    let Ok(facts) = case.machine.path(DIRECTORY).metadata() else {
        return Finding::unknown(format!("{DIRECTORY} cannot be looked at"));
    };
    let mode = facts.mode() & 0o7777;
    let finding = match mode {
        mode if mode & 0o022 != 0 && mode & 0o1000 == 0 => Finding::warning(
            format!("the mode of {DIRECTORY} is {mode:04o}: whoever may write it can remove the files of others"),
            "chmod 1777 /dev/shm, or run all who use it as one user",
        ),
        _ if mode & 0o002 == 0 && facts.uid() != case.uid && case.uid != 0 => Finding::error(
            format!(
                "the mode of {DIRECTORY} is {mode:04o} and it belongs to uid {}: uid {} may make no file there",
                facts.uid(),
                case.uid
            ),
            "chmod 1777 /dev/shm",
        ),
        _ => Finding::ok(format!("the mode of {DIRECTORY} is {mode:04o}")),
    };
    finding.with("mode", format!("{mode:04o}"))
}

/// How the instance stands.
pub(crate) fn instance(case: &Case<'_>) -> Finding {
    let (machine, instance) = (case.machine, &case.instance);
    let view = match &case.view {
        Ok(view) => view,
        Err(InspectError::Missing { .. }) if !case.names.iter().any(|name| name.instance == instance.as_str()) => {
            return Finding::ok("it has no files; a start makes them").with("alive", false);
        }
        Err(InspectError::Missing { .. }) => {
            return Finding::note(
                "it has lane files and no status: a start was killed, or somebody removed it",
                format!("executord clean {instance}, or a start, which removes them"),
            );
        }
        Err(error) => {
            return Finding::error(one_line(error), format!("executord clean {instance}, if nobody else serves it"));
        }
    };
    let alive = is_alive(machine, instance.as_str());
    let waiting = unanswered(view);
    let files = ["journal", "status"].map(|kind| format!("{PREFIX}{instance}.{kind}"));
    let is_read_locked = |name: &&String| conflict(machine, name, libc::F_WRLCK) == Some(libc::F_RDLCK);
    let finding = match alive {
        Some(true) => Finding::ok(format!("pid {} serves it", view.pid)),
        Some(false) if let Some(name) = files.iter().find(is_read_locked) => Finding::error(
            format!("{DIRECTORY}/{name} is read-locked by a process that is no executor: a start will be refused"),
            "lslocks names it; end it",
        ),
        _ if view.other_boot => Finding::error(
            "its files are from another boot of the machine: a start will be refused",
            format!("executord clean --discard {instance}"),
        ),
        Some(false) if let Some(waiting @ 1..) = waiting => Finding::note(
            format!("nobody serves it, and {} wait", counted(waiting, "task")),
            format!("executord run {instance}"),
        ),
        Some(false) => Finding::note(
            "nobody serves it, and its files are still there",
            format!("executord run {instance}, or executord clean {instance}"),
        ),
        None => Finding::unknown("its life lock cannot be looked at"),
    };
    finding.with("alive", alive).with("pid", view.pid).with("unanswered", waiting)
}

/// Whether the files were made as they are asked for now.
pub(crate) fn sizes(case: &Case<'_>) -> Finding {
    let Ok(view) = &case.view else {
        let Geometry { lanes, capacity, request_bytes, response_bytes, .. } = case.geometry;
        return Finding::ok(format!(
            "{} of {} slots, requests to {}, responses to {}",
            counted(lanes.into(), "lane"),
            count(capacity.into()),
            bytes(request_bytes.into()),
            bytes(response_bytes.into()),
        ));
    };
    match difference(case, view) {
        Some((option, asked, found)) => Finding::error(
            format!("the files were made with {option} {found}, not {asked}: a start will be refused"),
            format!("--{option} {found}, or executord clean {} first", case.instance),
        )
        .with("option", option)
        .with("asked", asked)
        .with("found", found),
        None => Finding::ok("the files were made with the sizes that are asked for"),
    }
}

/// The first option that the files differ in, what is asked for, what they were made with.
fn difference(case: &Case<'_>, view: &Inspection) -> Option<(&'static str, u64, u64)> {
    let (asked, found) = (case.settings, &view.geometry);
    let pairs = [
        ("lanes", asked.lanes, found.lanes),
        ("capacity", asked.capacity, found.capacity),
        ("request-bytes", asked.request_bytes, found.request_bytes),
        ("response-bytes", asked.response_bytes, found.response_bytes),
        ("timing", asked.timing.map(u32::from), u32::from(view.timed)),
    ];
    let differs = pairs.into_iter().find(|(_, asked, found)| asked.is_some_and(|asked| asked != *found));
    let workers = asked.cpus.len().max(1) as u32;
    let room = (workers > found.workers).then_some(("room for workers", Some(workers), found.workers));
    let (option, asked, found) = differs.or(room)?;
    Some((option, asked?.into(), found.into()))
}

/// Whether other builds made the files.
pub(crate) fn abi(case: &Case<'_>) -> Finding {
    let mut seen = false;
    for kind in ["status", "journal"] {
        let name = format!("{PREFIX}{}.{kind}", case.instance);
        let Some(head) = head(case.machine, &name) else { continue };
        seen = true;
        let (found, lanes) = (head[header::ABI_KIND] as u32, head[header::COUNTS] as u32);
        if head[header::MAGIC] != MAGIC {
            return Finding::error(
                format!("{DIRECTORY}/{name} does not begin with the executor's header: it is damaged, or none of ours"),
                "remove it, or choose another name",
            );
        }
        if found != ABI_VERSION {
            return Finding::error(
                format!(
                    "{DIRECTORY}/{name} speaks ABI {found} and has {}, this build speaks {ABI_VERSION}",
                    counted(lanes.into(), "lane")
                ),
                format!(
                    "restart the older side, or give what it holds up with: executord clean --discard {}",
                    case.instance
                ),
            )
            .with("found", found)
            .with("expected", ABI_VERSION)
            .with("lanes", lanes);
        }
        if head[header::LAYOUT] != LAYOUT_HASH {
            return Finding::error(
                format!(
                    "{DIRECTORY}/{name} was laid out by a build with other offsets under the same ABI {ABI_VERSION}"
                ),
                format!("run the build that made it, or: executord clean --discard {}", case.instance),
            );
        }
    }
    let fact = if seen {
        format!("the files speak ABI {ABI_VERSION}, as this build does")
    } else {
        format!("this build speaks ABI {ABI_VERSION}")
    };
    Finding::ok(fact).with("expected", ABI_VERSION)
}

/// The first line of a file, which never moves in any ABI.
fn head(machine: &Machine, name: &str) -> Option<[u64; 8]> {
    let mut bytes = [0; 64];
    open(machine, name)?.read_exact(&mut bytes).ok()?;
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}

/// Whether names of the instance are taken by somebody else, or by what is no file.
pub(crate) fn owner(case: &Case<'_>) -> Finding {
    let own: Vec<&Name> = case.names.iter().filter(|name| name.instance == case.instance.as_str()).collect();
    if let Some((name, what)) = own.iter().find_map(|name| Some((&name.name, name.oddity?))) {
        return Finding::error(
            format!("{DIRECTORY}/{name} is {what}, which the executor refuses"),
            "remove it (find /dev/shm -samefile tells its other names), or choose another name",
        )
        .with("file", name.as_str());
    }
    if own.is_empty() {
        return Finding::ok("none of its names is taken").with("uid", case.uid);
    }
    let foreign: Vec<&&Name> = own.iter().filter(|name| name.uid != case.uid).collect();
    let named = foreign.iter().find(|name| name.name.ends_with(".status") || name.name.ends_with(".journal"));
    let Some(name) = named.or(foreign.first()) else {
        return Finding::ok(format!("all its files belong to uid {}", case.uid)).with("uid", case.uid);
    };
    let fact = format!("{DIRECTORY}/{} belongs to uid {}, this process runs as uid {}", name.name, name.uid, case.uid);
    let finding = match (named, is_alive(case.machine, case.instance.as_str())) {
        (Some(_), Some(true)) => Finding::note(
            format!("{fact}: its sidecar runs as that user"),
            "for producers of this user: start it with --group, and name its owner (--owner)",
        ),
        (Some(_), _) => Finding::error(
            format!("{fact}: a start will be refused"),
            "run as that user, have it removed by that user or root, or choose another name",
        ),
        (None, _) => {
            Finding::warning(format!("{fact}: it is passed over, and stays"), "have it removed by that user or root")
        }
    };
    finding.with("file", name.name.as_str()).with("owner", name.uid).with("uid", case.uid)
}

/// What instances that nobody serves have left.
pub(crate) fn leftovers(case: &Case<'_>) -> Finding {
    let mut found: BTreeMap<&str, (u64, u64, u32)> = BTreeMap::new();
    for name in case.names {
        let entry = found.entry(&name.instance).or_insert((0, 0, name.uid));
        *entry = (entry.0 + 1, entry.1 + name.bytes, name.uid);
    }
    // A held journal is a start at work, or a standby that has its turn.
    let is_served = |instance: &str| {
        let journal = is_held(case.machine, &format!("{PREFIX}{instance}.journal")) == Some(true);
        journal || is_alive(case.machine, instance) != Some(false)
    };
    found.retain(|instance, _| !is_served(instance));
    let total: u64 = found.values().map(|(_, bytes, _)| bytes).sum();
    let listed = found.iter().map(|(instance, (files, size, uid))| {
        let whose = if *uid == case.uid { String::new() } else { format!(" of uid {uid}") };
        format!("{instance} ({}{whose}, {})", counted(*files, "file"), bytes(*size))
    });
    let listed: Vec<String> = listed.collect();
    let finding = match listed.as_slice() {
        [] => Finding::ok("nothing is left of instances that nobody serves"),
        _ => Finding::note(
            format!("nobody serves {}", listed.join(", ")),
            "executord run NAME serves what waits there; executord clean --all --dry-run shows what may go",
        ),
    };
    finding.with("instances", found.len()).with("bytes", total)
}
