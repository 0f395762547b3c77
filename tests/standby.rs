//! A sidecar that waits, warm, for the end of another one, and what it finds then.
//!
//! Each standby is a process of its own; what it has mapped is read from the kernel.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use executor_client::{Client, Status, TaskDescriptor, Ticket};
use executor_shm::core::Registry;
use executor_shm::core::status::{HandlerChange, Interrupted};
use executor_shm::inspect::{Inspection, Inspector};
use executor_shm::state::LaneState;
use executor_shm::{Sidecar, SidecarBuilder, StartError};
use executor_tests::handlers::{COUNT, ECHO, SLOW, SLOW_IDEMPOTENT, Sum};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process, sidecar_command};
use executor_tests::{FAIL_SAFE, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");

const SMALL: [&str; 6] = ["--capacity", "8", "--request-bytes", "64", "--response-bytes", "64"];

/// Starts a standby and waits until it stands by.
#[track_caller]
fn stand_by(instance: &TestInstance, options: &[&str]) -> Process {
    let mut standby = Process::start(&mut sidecar_command(SIDECAR, instance, &[&["--standby", "1"], options].concat()));
    let line = standby.line();
    assert!(line.starts_with("warm "), "{line}");
    standby
}

fn connect(instance: &TestInstance) -> Client {
    Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn submit(client: &mut Client, handler: u32, payload: &[u8]) -> Ticket {
    client.submit_ticket(&TaskDescriptor::new(handler), payload).unwrap()
}

/// The end of a task, whoever dies meanwhile.
fn end(client: &mut Client, ticket: &mut Ticket) -> (Status, u16) {
    let begun = Instant::now();
    loop {
        if let Some(completion) = client.try_wait(ticket).unwrap() {
            return (completion.status(), completion.attempt());
        }
        assert!(begun.elapsed() < FAIL_SAFE, "the task does not end");
        std::thread::yield_now();
    }
}

fn look(instance: &TestInstance) -> Inspection {
    Inspector::open(instance.name()).unwrap().look()
}

/// What a process has mapped of an instance: where each file begins, and its inode. A file that has no name any more has
/// another name here.
fn mapped(process: &Process, instance: &TestInstance) -> BTreeMap<String, Vec<(String, u64)>> {
    let prefix = format!("/dev/shm/executor.{}.", instance.name());
    let mut files = BTreeMap::<String, Vec<(String, u64)>>::new();
    for line in fs::read_to_string(format!("/proc/{}/maps", process.pid())).unwrap().lines() {
        let Some((facts, name)) = line.split_once(&prefix) else { continue };
        let mut facts = facts.split_whitespace();
        let (begin, inode) = (facts.next().unwrap().to_owned(), facts.nth(3).unwrap().parse().unwrap());
        files.entry(name.to_owned()).or_default().push((begin, inode));
    }
    files
}

/// Whether a process has mapped just the files that have names, each the inode that its name leads to.
fn has_mapped_all(process: &Process, instance: &TestInstance) -> bool {
    let prefix = format!("executor.{}.", instance.name());
    let mut names = instance.files();
    names.retain(|name| !name.contains(".tmp-"));
    let named: BTreeMap<String, u64> =
        names.iter().filter_map(|name| Some((name.strip_prefix(&prefix)?.to_owned(), inode(name)?))).collect();
    let mapped = mapped(process, instance);
    mapped.len() == named.len()
        && mapped.iter().all(|(name, places)| places.iter().all(|(_, inode)| named.get(name) == Some(inode)))
}

fn inode(name: &str) -> Option<u64> {
    Some(fs::metadata(Path::new("/dev/shm").join(name)).ok()?.ino())
}

fn signal(process: &Process, signal: Signal) {
    kill(Pid::from_raw(process.pid() as i32), signal).unwrap();
}

/// Stops a process, and returns once it is stopped.
fn freeze(process: &Process) {
    signal(process, Signal::SIGSTOP);
    until("the stop", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    });
}

#[test]
fn standbys_that_follow_each_other_through_kills_under_load_serve_every_task_once_on_the_same_lanes() {
    const TASKS: u64 = 50_000;
    let instance = TestInstance::new("relay");
    let options = ["--capacity", "64", "--request-bytes", "128", "--response-bytes", "128"];
    let mut sidecar = process::sidecar(SIDECAR, &instance, &options);
    let mut producers: Vec<Process> = (0..2).map(|_| process::producer(PRODUCER, &instance)).collect();
    for (seed, producer) in producers.iter_mut().enumerate() {
        producer.ask("connect", "lane");
        producer.tell(&format!("survive {TASKS} {seed}"));
    }
    let (mut ends, mut kills) = (Vec::new(), 0u64);
    while ends.len() < 2 {
        let mut standby = stand_by(&instance, &[]);
        let said = producers.iter_mut().flat_map(|producer| std::iter::from_fn(|| producer.try_line()));
        ends.extend(said.filter(|line| line.starts_with("survived")));
        if ends.is_empty() {
            // Wherever the streams are by then: in the middle of a submit, a task, a completion.
            let line = producers[kills as usize % 2].line();
            ends.extend(Some(line).filter(|line| line.starts_with("survived")));
            sidecar.kill();
            kills += 1;
            standby.expect("ready");
            sidecar = standby;
            assert_eq!(look(&instance).epoch, kills + 1, "each take-over is a start");
        } else {
            standby.terminate();
            std::thread::yield_now();
        }
    }
    assert!(kills > 1, "the streams ended before anything was killed");
    for end in ends {
        let interrupted = end.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        println!("{interrupted} of {TASKS} tasks interrupted by {kills} kills");
        assert!(interrupted <= kills, "a kill interrupts at most one task of a lane");
    }
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines.last().unwrap().starts_with("ended Removed"), "{lines:?}");
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn a_task_in_flight_at_a_kill_is_interrupted_or_run_again_by_the_standby_as_by_any_start() {
    for (handler, expected) in
        [(SLOW, (Status::Interrupted(Interrupted::Killed), 1)), (SLOW_IDEMPOTENT, (Status::Done, 2))]
    {
        let instance = TestInstance::new("in-flight");
        let latch = instance.latch("held");
        let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
        let mut client = connect(&instance);
        let mut held = submit(&mut client, handler, b"held");
        let mut behind = submit(&mut client, COUNT, b"");
        assert_eq!(sidecar.line(), "entered held 1");
        let mut standby = stand_by(&instance, &[]);
        sidecar.kill();
        if handler == SLOW_IDEMPOTENT {
            standby.expect("entered held 2"); // its worker may say so before its main thread is ready
            latch.open();
        }
        assert_eq!(end(&mut client, &mut held), expected);
        assert_eq!(end(&mut client, &mut behind), (Status::Done, 1));
    }
}

#[test]
fn a_stop_with_attached_producers_hands_them_over_to_the_standby() {
    let instance = TestInstance::new("handed-over");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    let mut before = submit(&mut client, ECHO, b"before");
    assert_eq!(end(&mut client, &mut before), (Status::Done, 1));
    let mut standby = stand_by(&instance, &[]);
    let nonce = look(&instance).nonce;
    sidecar.terminate();
    let mut meanwhile: Vec<Ticket> = (0..30).map(|_| submit(&mut client, ECHO, b"meanwhile")).collect();
    let (lines, status) = sidecar.rest();
    assert!(lines[0].starts_with("ended Kept { attached: 1") && status.success(), "{lines:?}");
    standby.expect("ready");
    for ticket in &mut meanwhile {
        assert_eq!(end(&mut client, ticket), (Status::Done, 1));
    }
    assert_eq!((look(&instance).nonce, look(&instance).epoch), (nonce, 2));
    drop(client);
    instance.wait_until_deserted();
    standby.terminate();
    assert_eq!(standby.rest().0.last().unwrap(), "ended Removed after 31 tasks");
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn a_stop_that_removes_its_files_leaves_a_standby_that_makes_the_instance_anew() {
    let instance = TestInstance::new("anew");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "64"]);
    let mut nonces = vec![look(&instance).nonce];
    for _ in 0..3 {
        let mut standby = stand_by(&instance, &[]);
        sidecar.terminate();
        assert_eq!(sidecar.rest().0.last().unwrap(), "ended Removed after 0 tasks");
        standby.expect("ready");
        let view = look(&instance);
        assert_eq!((view.epoch, view.geometry.capacity), (1, 1024), "sizes of files that are gone bind nobody");
        assert!(!nonces.contains(&view.nonce), "it is the old instance");
        nonces.push(view.nonce);
        sidecar = standby;
        // The next standby is told no sizes either, so it must take those of its own kind.
        let mut client = connect(&instance);
        assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
        drop(client);
        instance.wait_until_deserted();
        let standby = stand_by(&instance, &[]);
        sidecar.terminate();
        assert_eq!(sidecar.rest().0.last().unwrap(), "ended Removed after 1 tasks");
        sidecar = standby;
        sidecar.expect("ready");
        nonces.push(look(&instance).nonce);
    }
    sidecar.terminate();
    assert!(sidecar.rest().1.success());
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn of_several_standbys_one_serves_and_the_others_wait_for_the_end_of_that_one() {
    let instance = TestInstance::new("several");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    let mut standbys: Vec<Process> = (0..4).map(|_| stand_by(&instance, &[])).collect();
    let mut epoch = 1;
    while !standbys.is_empty() {
        if standbys.len().is_multiple_of(2) {
            sidecar.kill();
        } else {
            sidecar.terminate();
            assert!(sidecar.rest().1.success());
        }
        let mut ready = Vec::new();
        let mut look_for_ready = |ready: &mut Vec<usize>| {
            for (number, standby) in standbys.iter_mut().enumerate() {
                let said = std::iter::from_fn(|| standby.try_line());
                ready.extend(said.filter(|line| line == "ready").map(|_| number));
            }
        };
        until("a successor", || {
            look_for_ready(&mut ready);
            !ready.is_empty()
        });
        let mut ticket = submit(&mut client, ECHO, b"whoever you are");
        assert_eq!(end(&mut client, &mut ticket), (Status::Done, 1));
        look_for_ready(&mut ready);
        assert_eq!(ready.len(), 1, "two of them serve");
        epoch += 1;
        assert_eq!(look(&instance).epoch, epoch);
        sidecar = standbys.remove(ready[0]);
    }
    drop(client);
}

/// Starts a standby that must refuse at once; what it says.
#[track_caller]
fn refusal(instance: &TestInstance, options: &[&str]) -> String {
    let options = [&["--standby", "1"], options].concat();
    let (lines, status) = Process::start(&mut sidecar_command(SIDECAR, instance, &options)).rest();
    assert_eq!(status.code(), Some(3), "{lines:?}");
    lines[0].strip_prefix("refused ").unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

#[test]
fn a_standby_that_could_never_serve_the_files_refuses_at_once_and_says_why() {
    let instance = TestInstance::new("unfit");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--build", "1"]);
    let mut client = connect(&instance);
    for (options, reason) in [
        (&["--build", "1", "--capacity", "64"][..], "was made with capacity 1024, not 64"),
        (&["--build", "1", "--lanes", "3"], "was made with lanes 16, not 3"),
        (&["--build", "1", "--request-bytes", "64"], "was made with request-bytes 256, not 64"),
        (&["--build", "1", "--timing", "0"], "was made with timing 1, not 0"),
        (&["--build", "1", "--workers", "3"], "was made with room for workers 2, not 3"),
        (&[], "was made with room for handlers 8, not "),
    ] {
        let text = refusal(&instance, options);
        assert!(text.contains(reason), "{options:?}: {text}");
    }
    for kind in ["journal", "status"] {
        let file = File::options().read(true).write(true).open(instance.path(kind)).unwrap();
        let mut abi = [0; 4];
        file.read_exact_at(&mut abi, 8).unwrap();
        file.write_all_at(&77u32.to_le_bytes(), 8).unwrap();
        let text = refusal(&instance, &["--build", "1"]);
        assert!(text.contains(&format!("{kind} speaks ABI 77 and has 16 lanes")), "{text}");
        assert!(text.contains("executord clean --discard"), "{text}");
        file.write_all_at(&abi, 8).unwrap();
    }
    let mut ticket = submit(&mut client, executor_tests::builds::STEADY, b"unharmed");
    assert_eq!(end(&mut client, &mut ticket), (Status::Done, 1));
}

fn few_handlers(instance: &TestInstance, ids: std::ops::Range<u32>) -> SidecarBuilder {
    let mut registry = Registry::builder();
    for id in ids {
        registry.handler(id, &format!("handler-{id}"), |_, _, _| Ok(()));
    }
    Sidecar::builder().instance(instance.name().clone()).registry(registry.build().unwrap()).pinned(false)
}

#[test]
fn a_standby_whose_handlers_find_no_room_beside_the_retired_ones_refuses_at_once() {
    let instance = TestInstance::new("no-room");
    let sidecar = few_handlers(&instance, 1..4).start().unwrap();
    let error = few_handlers(&instance, 11..17).stand_by().unwrap_err();
    assert!(matches!(error, StartError::NoRoom { room: 8, .. }), "{error}");
    let standby = few_handlers(&instance, 11..16).stand_by().unwrap();
    assert!(standby.is_waiting());
    drop(standby);
    drop(sidecar);
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn a_standby_that_finds_nobody_serving_serves_and_one_beside_dead_files_recovers_them() {
    let instance = TestInstance::new("alone");
    let mut client = None;
    for round in 0..2u64 {
        let sidecar = process::sidecar(SIDECAR, &instance, &["--standby", "1"]);
        let client = client.get_or_insert_with(|| connect(&instance));
        assert_eq!(client.call_timeout::<Sum>(&[round, 2], FAIL_SAFE), Ok(round + 2));
        assert_eq!(look(&instance).epoch, round + 1);
        sidecar.kill();
    }
}

#[test]
fn a_standby_that_is_asked_to_end_while_it_waits_does_so_and_changes_nothing() {
    let instance = TestInstance::new("dismissed");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
    let standby = stand_by(&instance, &[]);
    until("rest", || has_mapped_all(&standby, &instance));
    let (files, epoch) = (instance.files(), look(&instance).epoch);
    standby.terminate();
    let (lines, status) = standby.rest();
    assert_eq!((lines.last().map(String::as_str), status.code()), (Some("dismissed"), Some(0)));
    assert_eq!((instance.files(), look(&instance).epoch), (files, epoch));
    assert_eq!(client.call_timeout::<Sum>(&[2, 2], FAIL_SAFE), Ok(4));
    // It holds no lock that the next start would need.
    sidecar.kill();
    let _next = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(client.call_timeout::<Sum>(&[3, 2], FAIL_SAFE), Ok(5));
}

#[test]
fn lanes_that_are_reset_while_a_standby_waits_are_followed_and_served_where_they_were_mapped() {
    let instance = TestInstance::new("followed");
    let sidecar = process::sidecar(SIDECAR, &instance, &[&SMALL[..], &["--lanes", "3"]].concat());
    let mut standby = stand_by(&instance, &[]);
    for turn in 0..30 {
        let mut client = connect(&instance);
        assert_eq!(client.call_timeout::<Sum>(&[turn, 1], FAIL_SAFE), Ok(turn + 1));
    }
    assert!(look(&instance).lanes.iter().map(|lane| lane.resets).sum::<u64>() >= 27, "nothing was reset");
    let mut clients: Vec<Client> = (0..3).map(|_| connect(&instance)).collect();
    for client in &mut clients {
        assert_eq!(client.call_timeout::<Sum>(&[1, 1], FAIL_SAFE), Ok(2));
    }
    until("all lanes", || has_mapped_all(&standby, &instance));
    let warm = mapped(&standby, &instance);
    assert_eq!(warm.len(), 2 + 2 * 3, "{warm:?}");
    let threads = fs::read_dir(format!("/proc/{}/task", standby.pid())).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
    assert!(names.into_iter().any(|name| name.trim() == "executor-work-0"), "its worker is not ready");
    sidecar.kill();
    let mut tickets: Vec<Ticket> = clients.iter_mut().map(|client| submit(client, ECHO, b"still here")).collect();
    standby.expect("ready");
    for (client, ticket) in clients.iter_mut().zip(&mut tickets) {
        assert_eq!(end(client, ticket), (Status::Done, 1));
    }
    let places = |files: &BTreeMap<String, Vec<(String, u64)>>| {
        files.iter().flat_map(|(name, places)| places.iter().map(move |place| (name.clone(), place.clone()))).collect()
    };
    let (warm, serving): (Vec<_>, Vec<_>) = (places(&warm), places(&mapped(&standby, &instance)));
    assert!(warm.iter().all(|place| serving.contains(place)), "{warm:?} was not used: {serving:?}");
}

#[test]
fn files_that_were_replaced_under_their_names_are_not_served_where_they_were_mapped() {
    for kind in ["journal", "status", ".sq", ".cq"] {
        let instance = TestInstance::new("replaced");
        let sidecar = process::sidecar(SIDECAR, &instance, &[&SMALL[..], &["--lanes", "2"]].concat());
        until("two lanes", || {
            look(&instance).lanes.iter().filter(|lane| lane.state == Some(LaneState::Free)).count() == 2
        });
        let mut standby = stand_by(&instance, &[]);
        until("all lanes", || has_mapped_all(&standby, &instance));
        let warm = mapped(&standby, &instance);
        assert_eq!(warm.len(), 2 + 2 * 2, "{warm:?}");
        freeze(&standby);
        sidecar.kill();
        let shm = Path::new("/dev/shm");
        for name in instance.files().iter().filter(|name| name.ends_with(kind)) {
            let beside = shm.join(format!("copy-of-{name}"));
            fs::copy(shm.join(name), &beside).unwrap();
            fs::rename(&beside, shm.join(name)).unwrap();
        }
        signal(&standby, Signal::SIGCONT);
        standby.expect("ready");
        // Whoever comes finds its files by name, so only a sidecar on those very files can answer.
        let mut clients: Vec<Client> = (0..2).map(|_| connect(&instance)).collect();
        for client in &mut clients {
            assert_eq!(client.call_timeout::<Sum>(&[20, 3], FAIL_SAFE), Ok(23));
        }
        assert!(has_mapped_all(&standby, &instance), "{kind}: {:?}", mapped(&standby, &instance));
        let replaced = warm.iter().filter(|(name, _)| name.ends_with(kind));
        let now = mapped(&standby, &instance);
        assert!(replaced.clone().count() > 0, "{warm:?}");
        for (name, places) in replaced {
            assert!(now.get(name).is_some_and(|now| now != places), "{name}: {now:?}");
        }
    }
}

#[test]
fn a_standby_that_is_stopped_or_killed_keeps_nobody_from_serving_or_starting() {
    let instance = TestInstance::new("frozen");
    let sidecar = process::sidecar(SIDECAR, &instance, &[&SMALL[..], &["--lanes", "2"]].concat());
    let mut client = connect(&instance);
    let mut frozen = stand_by(&instance, &[]);
    let killed = stand_by(&instance, &[]);
    freeze(&frozen);
    killed.kill();
    for turn in 0..10 {
        let mut passing = connect(&instance);
        assert_eq!(passing.call_timeout::<Sum>(&[turn, 1], FAIL_SAFE), Ok(turn + 1));
    }
    // It was first in the queue for the lock, and must not keep it from who comes after.
    sidecar.kill();
    let next = process::sidecar(SIDECAR, &instance, &[]);
    let mut ticket = submit(&mut client, ECHO, b"not frozen");
    assert_eq!(end(&mut client, &mut ticket), (Status::Done, 1));
    signal(&frozen, Signal::SIGCONT);
    until("the thaw", || has_mapped_all(&frozen, &instance));
    assert_eq!(look(&instance).epoch, 2, "it took what is served");
    next.kill();
    frozen.expect("ready");
    let mut ticket = submit(&mut client, ECHO, b"thawed");
    assert_eq!(end(&mut client, &mut ticket), (Status::Done, 1));
    assert_eq!(look(&instance).epoch, 3);
}

#[test]
fn a_standby_waits_for_whoever_has_the_name_and_not_for_a_stopped_owner_of_files_that_are_gone() {
    let instance = TestInstance::new("renamed");
    let stopped = process::sidecar(SIDECAR, &instance, &[]);
    let mut standby = stand_by(&instance, &[]);
    freeze(&stopped);
    freeze(&standby);
    for name in instance.files() {
        fs::remove_file(Path::new("/dev/shm").join(name)).unwrap();
    }
    let next = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = connect(&instance);
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
    signal(&standby, Signal::SIGCONT);
    until("the files of the next one", || has_mapped_all(&standby, &instance));
    next.kill();
    standby.expect("ready");
    assert_eq!(client.call_timeout::<Sum>(&[2, 2], FAIL_SAFE), Ok(4));
    drop(stopped); // it has lived until now, with the lock on what it made
}

#[test]
fn an_upgrade_by_a_standby_of_another_build_tells_earlier_lanes_of_what_changed() {
    let instance = TestInstance::new("upgrade");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut early = connect(&instance);
    assert_eq!(early.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
    let (echo, count) = (ECHO.to_string(), COUNT.to_string());
    let mut standby = stand_by(&instance, &["--changed", &echo, "--without", &count]);
    sidecar.terminate();
    standby.expect("ready");
    for (handler, expected) in [
        (ECHO, Status::HandlerChanged(HandlerChange::Changed)),
        (COUNT, Status::HandlerChanged(HandlerChange::Missing)),
    ] {
        let mut ticket = submit(&mut early, handler, b"");
        assert_eq!(end(&mut early, &mut ticket).0, expected, "handler {handler}");
    }
    assert_eq!(early.call_timeout::<Sum>(&[2, 2], FAIL_SAFE), Ok(4));
    let mut late = connect(&instance);
    let mut ticket = submit(&mut late, ECHO, b"");
    assert_eq!(end(&mut late, &mut ticket), (Status::Done, 1));
}
