//! Starts: many at once, on what killed ones left, on files of another boot, and with the names taken away.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use executor_client::{Client, Status, TaskDescriptor, Ticket};
use executor_shm::clean::{CleanOptions, clean};
use executor_shm::inspect::Inspector;
use executor_shm::layout::{journal, status};
use executor_tests::handlers::{ECHO, Sum};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process, sidecar_command};
use executor_tests::{FAIL_SAFE, until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const STARTER: &str = env!("CARGO_BIN_EXE_starter");
const KILLER: &str = env!("CARGO_BIN_EXE_killer");

const SMALL: [&str; 4] = ["--capacity", "8", "--lanes", "3"];

fn serves(instance: &TestInstance) {
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
}

/// Starts a sidecar on whatever is there; it must serve its owner alone, and leave nothing.
fn start_and_stop(instance: &TestInstance, what: &str) {
    start_and_stop_for(instance, what, |_| 0o600);
}

/// The same, with the mode that a file of this name must have.
fn start_and_stop_for(instance: &TestInstance, what: &str, mode: fn(&str) -> u32) {
    let sidecar = process::sidecar(SIDECAR, instance, &SMALL);
    serves(instance);
    instance.wait_until_deserted();
    for name in instance.files() {
        // A spare lane may be made anew in this moment.
        let found = fs::metadata(Path::new("/dev/shm").join(&name)).map_or(mode(&name), |stat| stat.mode() & 0o777);
        assert_eq!(found, mode(&name), "{what}: the mode of {name}");
    }
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines[0].starts_with("ended Removed"), "{what}: {lines:?}");
    assert_eq!(instance.files(), [""; 0], "{what}");
}

fn refusal(instance: &TestInstance, options: &[&str]) -> String {
    let (lines, status) = Process::start(&mut sidecar_command(SIDECAR, instance, options)).rest();
    assert_eq!(status.code(), Some(3), "{lines:?}");
    lines[0].strip_prefix("refused ").unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

#[test]
fn of_sixty_four_starters_at_once_no_two_are_ever_master() {
    const STARTERS: usize = 64;
    let instance = TestInstance::new("starters");
    let ledger = instance.folder().join("ledger");
    File::create(&ledger).unwrap();
    let ending = |number: usize| match number {
        0..3 => "remove", // it takes a second each to notice
        _ => ["stop", "kill", "kept"][number % 3],
    };
    let start = |number| {
        let arguments = [instance.name().as_str(), ledger.to_str().unwrap(), ending(number), &STARTERS.to_string()];
        Process::start(Command::new(STARTER).args(arguments))
    };
    let starters: Vec<Process> = (0..STARTERS).map(start).collect();
    for (number, starter) in starters.into_iter().enumerate() {
        let (_, status) = starter.rest();
        assert_eq!(status.success(), ending(number) != "kill", "starter {number}, to {}: {status:?}", ending(number));
    }
    let ledger = fs::read_to_string(&ledger).unwrap();
    let (mut master, mut masters, mut refused) = (None, Vec::new(), 0);
    for line in ledger.lines() {
        match (line.split_once(' '), master) {
            (None, _) => refused += 1,
            (Some(("enter", id)), None) => master = Some(id),
            (Some(("leave", id)), Some(holder)) if id == holder => masters.push(master.take()),
            (Some(("ended", _)), _) => {}
            _ => panic!("{line} while {master:?} is master:\n{ledger}"),
        }
    }
    println!("{} were master one after another, {refused} times one was refused", masters.len());
    assert_eq!(masters.len(), STARTERS, "each was master once");
    assert!(refused > STARTERS, "hardly any two ever met: {refused}");
    start_and_stop(&instance, "after all of them");
}

/// Has a sidecar killed before the file operation number `point` of a phase; which one that was, or `None` if it came
/// through. `Err`: it cannot be done here, and why.
fn kill_at(instance: &TestInstance, phase: &str, point: usize, options: &[&str]) -> Result<Option<String>, String> {
    let mut command = Command::new(KILLER);
    command.args([SIDECAR, phase, &point.to_string(), instance.name().as_str()]).arg(instance.folder()).args(options);
    let (lines, status) = Process::start(&mut command).rest();
    assert!(status.success(), "{lines:?}");
    match lines[0].split_once(' ') {
        Some(("killed", operation)) => Ok(Some(operation.to_owned())),
        None if lines[0] == "through" => Ok(None),
        _ => Err(lines[0].clone()),
    }
}

/// Kills at every point of a phase until it comes through; `between` is called after each kill. The operations killed at.
fn kill_at_each(
    instance: &TestInstance,
    phase: &str,
    options: &[&str],
    mut between: impl FnMut(&str),
) -> Option<Vec<String>> {
    let mut operations = Vec::new();
    loop {
        match kill_at(instance, phase, operations.len(), options) {
            Ok(Some(operation)) => operations.push(operation),
            Ok(None) => return Some(operations),
            Err(skipped) => {
                println!("{skipped}");
                return None;
            }
        }
        between(&format!("killed in its {phase} before operation {}", operations.len()));
    }
}

fn assert_all_kinds(operations: &[String], expected: &[&str]) {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    operations.iter().for_each(|operation| *counts.entry(operation).or_default() += 1);
    println!("{counts:?}");
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), expected);
}

#[test]
fn what_a_creator_leaves_that_is_killed_at_any_file_operation_stops_no_start_and_is_gone_after_it() {
    let instance = TestInstance::new("creator");
    let gid = nix::unistd::getegid().to_string();
    let options = [&SMALL[..], &["--group", &gid]].concat();
    // Each on a clean table…
    let Some(operations) = kill_at_each(&instance, "start", &options, |what| start_and_stop(&instance, what)) else {
        return;
    };
    assert_all_kinds(&operations, &["create", "fallocate", "fchmod", "fchown", "lock", "rename"]);
    // Whoever was let in stays so, as a settled instance keeps its geometry.
    start_and_stop_for(&instance, "after one that came through and was killed", |name| match name.rsplit_once('.') {
        Some((_, "journal")) => 0o600,
        Some((_, "sq")) => 0o660,
        _ => 0o640,
    });
    // …and each on what the ones before it left.
    kill_at_each(&instance, "start", &SMALL, |_| {}).unwrap();
    start_and_stop(&instance, "after all of them");
}

fn accept(client: &mut Client, payload: &[u8]) -> Ticket {
    client.submit_ticket(&TaskDescriptor::new(ECHO), payload).unwrap()
}

fn ended(client: &mut Client, ticket: &mut Ticket, payload: &[u8]) {
    let completion = client.wait_timeout(ticket, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.response().to_vec()), (Status::Done, payload.to_vec()));
}

#[test]
fn a_restart_killed_at_any_file_operation_loses_no_accepted_task_and_no_attached_client() {
    let instance = TestInstance::new("restart");
    let sidecar = process::sidecar(SIDECAR, &instance, &SMALL);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    serves(&instance); // so that every lane was made
    sidecar.kill();
    // Something to sweep and something to make: a draft, and a lane whose files are gone.
    let prepare = || {
        fs::write(instance.path("tmp-0123456789abcdef"), "left").unwrap();
        for name in instance.files().iter().filter(|name| name.contains(".lane-2-")) {
            fs::remove_file(Path::new("/dev/shm").join(name)).unwrap();
        }
    };
    prepare();
    let mut before = accept(&mut client, b"accepted before it");
    let operations = kill_at_each(&instance, "start", &[], |what| {
        let mut after = accept(&mut client, b"accepted after it");
        let sidecar = process::sidecar(SIDECAR, &instance, &[]);
        ended(&mut client, &mut before, b"accepted before it");
        ended(&mut client, &mut after, b"accepted after it");
        let mut other = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut of_other = accept(&mut other, what.as_bytes());
        ended(&mut other, &mut of_other, what.as_bytes());
        sidecar.kill();
        before = accept(&mut client, b"accepted before it");
        prepare();
    });
    let Some(operations) = operations else { return };
    assert_all_kinds(&operations, &["create", "fallocate", "fchmod", "lock", "rename", "unlink"]);
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    ended(&mut client, &mut before, b"accepted before it");
}

#[test]
fn a_stop_killed_at_any_file_operation_leaves_what_the_next_start_serves_and_removes() {
    let instance = TestInstance::new("stopped");
    let operations = kill_at_each(&instance, "stop", &SMALL, |what| {
        let files = instance.files();
        let is_journal = |name: &String| name.ends_with(".journal");
        assert!(files.is_empty() || files.iter().any(is_journal), "{what}: the journal goes last: {files:?}");
        start_and_stop(&instance, what);
    });
    let Some(operations) = operations else { return };
    assert_all_kinds(&operations, &["lock", "unlink"]);
    assert_eq!(instance.files(), [""; 0], "the last one came through");
}

/// What the files are and hold.
fn facts(instance: &TestInstance) -> Vec<(String, u64, u64, Vec<u8>)> {
    let fact = |name: String| {
        let path = Path::new("/dev/shm").join(&name);
        let stat = fs::metadata(&path).unwrap();
        // The words of a living instance change; of its files only the first line is compared.
        let mut line = fs::read(&path).unwrap();
        line.truncate(64);
        (name, stat.ino(), stat.size(), line)
    };
    instance.files().into_iter().map(fact).collect()
}

#[test]
fn a_master_whose_names_are_taken_away_ends_and_touches_nothing_of_what_is_there_by_then() {
    for (taken, is_served) in [
        (&["status"][..], false),
        (&["journal"], false),
        (&["status", "journal"], false),
        (&["status", "journal"], true),
    ] {
        let instance = TestInstance::new("names");
        let sidecar = process::sidecar(SIDECAR, &instance, &SMALL);
        serves(&instance);
        instance.wait_until_deserted();
        let next = if is_served {
            for name in instance.files() {
                fs::remove_file(Path::new("/dev/shm").join(name)).unwrap();
            }
            let next = process::sidecar(SIDECAR, &instance, &SMALL);
            serves(&instance);
            instance.wait_until_deserted();
            Some(next)
        } else {
            for kind in taken {
                // Not through its description, so that even the length of what was there stays.
                fs::remove_file(instance.path(kind)).unwrap();
                fs::write(instance.path(kind), "somebody else's").unwrap();
            }
            None
        };
        let is_taken = |name: &str| taken.iter().any(|kind| name.ends_with(kind));
        let others = || facts(&instance).into_iter().filter(|(name, ..)| is_served || is_taken(name));
        let before: Vec<_> = others().collect();
        let (lines, status) = sidecar.rest();
        assert!(status.success() && lines[0].starts_with("ended NamesLost"), "{taken:?}: {lines:?}");
        if let Some(next) = next {
            serves(&instance);
            instance.wait_until_deserted();
            // A lane that served has new files by now; all others are the ones from before.
            let after: Vec<_> = others().filter(|fact| before.contains(fact)).collect();
            assert!(after.len() >= before.len() - 2, "{before:?} {after:?}");
            next.terminate();
            let (lines, _) = next.rest();
            assert!(lines[0].starts_with("ended Removed after 2 tasks"), "{lines:?}");
            assert_eq!(instance.files(), [""; 0], "neither left anything");
        } else {
            assert_eq!(others().collect::<Vec<_>>(), before, "{taken:?}");
        }
    }
}

#[test]
fn free_lanes_whose_files_were_removed_are_made_anew_and_taken_ones_stay() {
    for kind in [".sq", ".cq"] {
        let instance = TestInstance::new("lane-files");
        let sidecar = process::sidecar(SIDECAR, &instance, &SMALL);
        let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
        // Journal, status, and three lanes: no further one can be made.
        until("every lane is made", || instance.files().len() == 8);
        for file in instance.files().iter().filter(|name| name.ends_with(kind)) {
            fs::remove_file(Path::new("/dev/shm").join(file)).unwrap();
        }
        serves(&instance);
        let mut ticket = accept(&mut client, b"before");
        ended(&mut client, &mut ticket, b"before");
        drop(client);
        instance.wait_until_deserted();
        sidecar.terminate();
        let (lines, _) = sidecar.rest();
        assert!(lines[0].starts_with("ended Removed after 2 tasks"), "{kind}: {lines:?}");
        assert_eq!(instance.files(), [""; 0], "{kind}");
    }
}

/// Makes the files those of another boot.
fn age(instance: &TestInstance) {
    for (kind, at) in [("journal", journal::BOOT), ("status", status::BOOT)] {
        let file = File::options().read(true).write(true).open(instance.path(kind)).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at as u64 * 8).unwrap();
        assert_ne!(word, [0; 8], "{kind} knows its boot");
        word[0] ^= 1;
        file.write_all_at(&word, at as u64 * 8).unwrap();
    }
}

#[test]
fn files_of_another_boot_are_served_by_nobody_and_given_up_only_on_request() {
    let instance = TestInstance::new("boot");
    let cure = format!(
        "are from another boot of the machine, and what they say of their tasks is not certain; give them up \
                        with: executord clean --discard {}",
        instance.name()
    );
    let sidecar = process::sidecar(SIDECAR, &instance, &SMALL);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    let mut ticket = accept(&mut client, b"before");
    ended(&mut client, &mut ticket, b"before");
    sidecar.kill();
    drop(accept(&mut client, b"accepted"));
    drop(client); // nobody lives over a boot
    assert!(!Inspector::open(instance.name()).unwrap().look().other_boot);
    age(&instance);
    let (files, before) = (instance.files(), fs::read(instance.path("journal")).unwrap());
    for _ in 0..2 {
        let text = refusal(&instance, &[]);
        assert!(text.contains("OtherBoot") && text.contains(&cure), "{text}");
        assert_eq!(instance.files(), files);
        assert!(fs::read(instance.path("journal")).unwrap() == before, "the journal was changed");
    }
    assert!(Client::connect(instance.name()).unwrap_err().is_not_running());
    assert!(Inspector::open(instance.name()).unwrap().look().other_boot);
    let cleaned = clean(instance.name(), CleanOptions::default()).unwrap();
    assert_eq!((cleaned.removed, cleaned.unanswered), (false, 1));
    assert!(clean(instance.name(), CleanOptions { discard: true, dry_run: false }).unwrap().removed);
    start_and_stop(&instance, "after they were given up");
}

#[test]
fn a_machine_that_was_booted_again_knows_the_files_of_before() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give a process another boot");
        return;
    }
    let instance = TestInstance::new("booted");
    let boot = instance.folder().join("boot_id");
    fs::write(&boot, "12345678-9abc-def0-1234-56789abcdef0\n").unwrap();
    let options = [&["--boot-id", boot.to_str().unwrap()], &SMALL[..]].concat();
    let mut sidecar = Process::start(&mut sidecar_command(SIDECAR, &instance, &options));
    let line = sidecar.line();
    if line.starts_with("skipped") {
        println!("{line}");
        return;
    }
    assert_eq!(line, "ready");
    // Alive is who holds the lock, whatever boot its files are from: a process may have been carried over one.
    assert!(refusal(&instance, &[]).contains("AlreadyRunning"));
    serves(&instance);
    sidecar.kill();
    assert!(refusal(&instance, &[]).contains("OtherBoot"));
    let mut again = Process::start(&mut sidecar_command(SIDECAR, &instance, &options));
    assert_eq!(again.line(), "ready", "in its own boot they are served");
    serves(&instance);
}
