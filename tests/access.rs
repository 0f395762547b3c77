//! Who may do what: every file of an instance, and the instance as a whole, tried by its owner, a member of its group, a
//! stranger and root.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use executor_client::{Client, ConnectOptions};
use executor_shm::inspect::{Inspector, LaneView};
use executor_shm::state::LaneState;
use executor_shm::{Group, GroupError, Sidecar, StartError};
use executor_tests::handlers::Sum;
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process, sidecar_command};
use executor_tests::user::User;
use executor_tests::{FAIL_SAFE, until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const VISITOR: &str = env!("CARGO_BIN_EXE_visitor");

const OWNER: u32 = 61_001;
const MEMBER: u32 = 61_002;
const STRANGER: u32 = 61_003;
const GROUP: u32 = 61_100;

/// What each may do: `+` it may, `=` it may but somebody else has it, `~` in part, `-` it is refused.
const TABLE: &str = "
                          |  its owner alone    |  open to a group
                          |  owner  stranger    |  owner  stranger
                          |      member root    |      member root
status: open to read      |    +   -   -   +    |    +   +   -   +
status: open to write     |    +   -   -   +    |    +   -   -   +
status: truncate          |    +   -   -   +    |    +   -   -   +
status: read-lock         |    =   -   -   =    |    =   =   -   =
status: write-lock        |    =   -   -   =    |    =   -   -   =
status: unlink            |    +   -   -   +    |    +   -   -   +
status: replace           |    +   -   -   +    |    +   -   -   +
journal: open to read     |    +   -   -   +    |    +   -   -   +
journal: open to write    |    +   -   -   +    |    +   -   -   +
journal: truncate         |    +   -   -   +    |    +   -   -   +
journal: read-lock        |    =   -   -   =    |    =   -   -   =
journal: write-lock       |    =   -   -   =    |    =   -   -   =
journal: unlink           |    +   -   -   +    |    +   -   -   +
journal: replace          |    +   -   -   +    |    +   -   -   +
sq: open to read          |    +   -   -   +    |    +   +   -   +
sq: open to write         |    +   -   -   +    |    +   +   -   +
sq: truncate              |    +   -   -   +    |    +   +   -   +
sq: read-lock             |    +   -   -   +    |    +   +   -   +
sq: write-lock            |    +   -   -   +    |    +   +   -   +
sq: unlink                |    +   -   -   +    |    +   -   -   +
sq: replace               |    +   -   -   +    |    +   -   -   +
cq: open to read          |    +   -   -   +    |    +   +   -   +
cq: open to write         |    +   -   -   +    |    +   -   -   +
cq: truncate              |    +   -   -   +    |    +   -   -   +
cq: read-lock             |    +   -   -   +    |    +   +   -   +
cq: write-lock            |    +   -   -   +    |    +   -   -   +
cq: unlink                |    +   -   -   +    |    +   -   -   +
cq: replace               |    +   -   -   +    |    +   -   -   +
names: a new one beside   |    +   +   +   +    |    +   +   +   +
alive: connect            |    +   -   -   -    |    +   -   -   -
alive: and name the owner |    +   -   -   +    |    +   +   -   +
alive: inspect            |    +   -   -   +    |    +   ~   -   +
alive: clean              |    =   -   -   -    |    =   -   -   -
alive: start              |    =   -   -   -    |    =   -   -   -
dead: status: read-lock   |    +   -   -   +    |    +   +   -   +
dead: status: write-lock  |    +   -   -   +    |    +   -   -   +
dead: journal: read-lock  |    +   -   -   +    |    +   -   -   +
dead: journal: write-lock |    +   -   -   +    |    +   -   -   +
dead: connect             |    -   -   -   -    |    -   -   -   -
dead: inspect             |    +   -   -   +    |    +   ~   -   +
dead: clean               |    +   -   -   -    |    +   -   -   -
dead: start               |    +   -   -   -    |    +   -   -   -
";

fn user(uid: u32) -> User {
    let groups = if uid == OWNER || uid == MEMBER { vec![GROUP] } else { Vec::new() };
    User { uid, gid: uid, groups }
}

/// A process of that user; `None`, and the reason is told, if this one cannot make any.
fn visitor(uid: u32) -> Option<Process> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become other users");
        return None;
    }
    let mut visitor = Process::start(Command::new(VISITOR).arg(user(uid).to_string()));
    let line = visitor.line();
    if line != "ready" {
        println!("{line}");
        return None;
    }
    Some(visitor)
}

/// A sidecar of user OWNER.
fn serve(instance: &TestInstance, is_open: bool) -> Process {
    let (owner, group) = (user(OWNER).to_string(), GROUP.to_string());
    let mut options = vec!["--user", &owner, "--capacity", "8"];
    options.extend(if is_open { vec!["--group", &group] } else { vec![] });
    process::sidecar(SIDECAR, instance, &options)
}

/// The names of its four kinds of files: of the lanes, one of a FREE one.
fn objects(instance: &TestInstance) -> [(&'static str, String); 4] {
    let files = instance.files();
    let of = |end: &str| files.iter().find(|name| name.ends_with(end)).unwrap().clone();
    ["status", "journal", "sq", "cq"].map(|kind| (kind, of(&format!(".{kind}"))))
}

/// What was found: the mark in the table's row and column.
#[derive(Default)]
struct Found(HashMap<(String, usize), char>);

impl Found {
    /// Has the visitor try something; refusals must be about rights, each in words that say so.
    fn attempt(&mut self, row: &str, column: usize, visitor: &mut Process, line: &str) {
        visitor.tell(line);
        let answer = visitor.line();
        let mark = match answer.as_str() {
            "may" => '+',
            "held" => '=',
            "partly" => '~',
            refused => {
                let reasons = [
                    "EACCES: Permission denied",
                    "EPERM: Operation not permitted",
                    "Operation not permitted (os error 1)",
                    "is not let in, it belongs to uid 61001",
                    "belongs to uid 61001, not to root, to this user, or to one named as its owner",
                    "it belongs to uid 61001, this process runs as uid ",
                    "no executor is running instance ",
                ];
                assert!(reasons.iter().any(|reason| refused.contains(reason)), "{row}: {refused}");
                '-'
            }
        };
        self.0.insert((row.to_owned(), column), mark);
    }

    /// The table with what was found in place of what is expected.
    fn table(&self) -> String {
        let mut table = String::new();
        for line in TABLE.lines() {
            match line.split_once('|') {
                Some((row, _)) if !row.trim().is_empty() => {
                    let mark = |column| self.0.get(&(row.trim().to_owned(), column)).copied().unwrap_or('?');
                    let four =
                        |from: usize| (from..from + 4).fold(String::new(), |all, c| all + &format!("   {}", mark(c)));
                    writeln!(table, "{row}| {}    | {}", four(0), four(4)).unwrap();
                }
                _ => writeln!(table, "{line}").unwrap(),
            }
        }
        table
    }
}

#[test]
fn every_user_may_do_with_every_object_what_the_table_says_and_no_more() {
    let mode = fs::metadata("/dev/shm").unwrap().mode();
    if mode & 0o7777 != 0o1777 {
        println!(
            "skipped: /dev/shm has mode {:o}, so anybody may remove names, or only some may make them",
            mode & 0o7777
        );
        return;
    }
    let mut found = Found::default();
    for is_open in [false, true] {
        for (place, uid) in [OWNER, MEMBER, STRANGER, 0].into_iter().enumerate() {
            let Some(mut visitor) = visitor(uid) else { return };
            let column = place + if is_open { 4 } else { 0 };
            let instance = TestInstance::new("matrix");
            let name = instance.name().to_string();
            let mut attempt = |row: &str, line: &str| found.attempt(row, column, &mut visitor, line);

            let sidecar = serve(&instance, is_open);
            let files = instance.files();
            for (kind, file) in objects(&instance) {
                attempt(&format!("{kind}: open to read"), &format!("read {file}"));
                attempt(&format!("{kind}: open to write"), &format!("write {file}"));
                for what in ["truncate", "read-lock", "write-lock"] {
                    attempt(&format!("{kind}: {what}"), &format!("{what} {file}"));
                }
            }
            attempt("names: a new one beside", &format!("create executor.{name}.beside"));
            attempt("alive: clean", &format!("clean {name}"));
            attempt("alive: start", &format!("start {name}"));
            attempt("alive: inspect", &format!("inspect {name}"));
            assert_eq!(instance.files(), files, "nothing of a living instance was touched");
            attempt("alive: connect", &format!("connect {name}"));
            attempt("alive: and name the owner", &format!("connect {name} {OWNER}"));
            serves(&instance);
            // Killed while it makes the lane anew, it would leave one that has files no more.
            let settled = |lane: &LaneView| matches!(lane.state, Some(LaneState::Free | LaneState::Absent));
            until("the lane is made anew", || {
                Inspector::open(instance.name()).unwrap().look().lanes.iter().all(settled)
            });
            sidecar.kill();
            let files = instance.files();
            for kind in ["status", "journal"] {
                for what in ["read-lock", "write-lock"] {
                    attempt(&format!("dead: {kind}: {what}"), &format!("{what} executor.{name}.{kind}"));
                }
            }
            attempt("dead: connect", &format!("connect {name} {OWNER}"));
            attempt("dead: inspect", &format!("inspect {name}"));
            attempt("dead: start", &format!("start {name}"));
            assert_eq!(instance.files().is_empty(), uid == OWNER, "only its owner served it, and left nothing");
            if uid != OWNER {
                assert_eq!(instance.files(), files);
            }

            for (row, what) in [("dead: clean", "clean"), ("unlink", "unlink"), ("replace", "replace")] {
                let instance = TestInstance::new("matrix");
                serve(&instance, is_open).kill();
                if what == "clean" {
                    attempt(row, &format!("clean {}", instance.name()));
                    assert_eq!(instance.files().is_empty(), uid == OWNER, "only its owner removed it");
                    continue;
                }
                for (kind, file) in objects(&instance) {
                    attempt(&format!("{kind}: {row}"), &format!("{what} {file}"));
                }
            }
        }
    }
    let table = found.table();
    assert!(table == TABLE, "found\n{table}\nexpected\n{TABLE}");
}

/// A task of root's runs, if root names the owner.
fn serves(instance: &TestInstance) {
    let options = ConnectOptions::new().owner(OWNER).timeout(FAIL_SAFE);
    let mut client = options.connect(instance.name()).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
}

/// Modes and group of its files by kind; each file of a kind must have the same.
fn modes(instance: &TestInstance) -> [(&'static str, u32, u32); 4] {
    ["status", "journal", "sq", "cq"].map(|kind| {
        let files = instance.files();
        let files = files.iter().filter(|name| name.ends_with(&format!(".{kind}")));
        let mut facts: Vec<(u32, u32)> = files
            .filter_map(|name| fs::metadata(Path::new("/dev/shm").join(name)).ok()) // a lane's files may just be replaced
            .map(|file| (file.mode() & 0o7777, file.gid()))
            .collect();
        facts.dedup();
        assert_eq!(facts.len(), 1, "{kind}: {facts:?}");
        (kind, facts[0].0, facts[0].1)
    })
}

#[test]
fn a_group_of_ones_own_is_let_in_as_far_as_a_producer_needs_and_for_the_life_of_the_files() {
    let gid = nix::unistd::getegid().as_raw();
    let expected = [("status", 0o640, gid), ("journal", 0o600, gid), ("sq", 0o660, gid), ("cq", 0o640, gid)];
    let instance = TestInstance::new("group");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--group", &gid.to_string(), "--capacity", "8"]);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    for life in 0..3 {
        assert_eq!(client.call_timeout::<Sum>(&[life, 1], FAIL_SAFE), Ok(life + 1));
        assert_eq!(modes(&instance), expected, "life {life}");
        sidecar.kill();
        if life == 1 {
            fs::remove_file(instance.path("status")).unwrap(); // made anew for the same group
            drop(client);
        }
        sidecar = process::sidecar(SIDECAR, &instance, &[]);
        client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    }
    sidecar.kill();
    let refusal = |options: &[&str]| {
        let (lines, status) = Process::start(&mut sidecar_command(SIDECAR, &instance, options)).rest();
        assert_eq!(status.code(), Some(3), "{lines:?}");
        lines[0].clone()
    };
    if nix::unistd::geteuid().is_root() {
        let text = refusal(&["--group", "4242"]);
        assert!(text.contains(&format!("was made for group {gid}, not for group 4242; start it so")), "{text}");
    } else {
        println!("skipped: only root may name a group that it is no member of, to be told of the other");
    }
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--group", &gid.to_string()]);
}

#[test]
fn files_of_their_owner_alone_are_not_opened_to_a_group_by_a_later_start() {
    let gid = nix::unistd::getegid().as_raw();
    let instance = TestInstance::new("alone");
    process::sidecar(SIDECAR, &instance, &["--capacity", "8"]).kill();
    let before = modes(&instance);
    assert!(before.iter().all(|(_, mode, _)| *mode == 0o600), "{before:?}");
    let command = &mut sidecar_command(SIDECAR, &instance, &["--group", &gid.to_string()]);
    let (lines, _) = Process::start(command).rest();
    let text = format!("was made for its owner alone, not for group {gid}; start it so, or remove its files first");
    assert!(lines[0].starts_with("refused ") && lines[0].contains(&text), "{lines:?}");
    assert_eq!(modes(&instance), before);
}

#[test]
fn a_group_that_files_cannot_be_given_to_is_refused_before_anything_is_made() {
    let Some(_) = visitor(STRANGER) else { return };
    let instance = TestInstance::new("no-member");
    let (stranger, group) = (user(STRANGER).to_string(), GROUP.to_string());
    let start = |options: &[&str]| {
        let command = &mut sidecar_command(SIDECAR, &instance, options);
        Process::start(command).rest().0[0].clone()
    };
    let text = start(&["--user", &stranger, "--group", &group]);
    let cure = "uid 61003 may not give files to group 61100, of which it is no member; make its user a member";
    assert!(text.starts_with("refused ") && text.contains(cure), "{text}");
    assert_eq!(instance.files(), [""; 0]);
    // A restart by its owner that was put out of the group meanwhile.
    serve(&instance, true).kill();
    let files = instance.files();
    let text = start(&["--user", &format!("{OWNER}:{OWNER}")]);
    assert!(text.starts_with("refused ") && text.contains("uid 61001 may not give files to group 61100"), "{text}");
    assert_eq!(instance.files(), files);
    let _sidecar = serve(&instance, false);
    serves(&instance);
}

#[test]
fn a_group_of_no_name_is_refused_with_the_cure_and_a_user_without_privileges_may_not_name_a_foreign_one() {
    let error = "no-such-group".parse::<Group>().unwrap_err();
    assert_eq!(error, GroupError::Unknown { name: "no-such-group".to_owned() });
    assert!(error.to_string().contains("groupadd --system no-such-group, or name another"), "{error}");
    if nix::unistd::geteuid().is_root() {
        println!("skipped: root may give files to any group");
        return;
    }
    let instance = TestInstance::new("foreign-group");
    let builder = Sidecar::builder().instance(instance.name().clone()).group(Group::from_gid(0).unwrap());
    let error = builder.pinned(false).start().unwrap_err();
    assert!(matches!(error, StartError::Master(_)) && error.to_string().contains("no member"), "{error}");
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn a_member_keeps_its_lane_over_a_restart_of_anothers_sidecar_and_strangers_get_none() {
    let Some(mut member) = visitor(MEMBER) else { return };
    let instance = TestInstance::new("members");
    let sidecar = serve(&instance, true);
    let attach = format!("attach {} {OWNER}", instance.name());
    member.ask(&attach, "may");
    member.ask("call", "may");
    // It is counted after it is answered.
    let counted =
        || Inspector::open(instance.name()).unwrap().look().workers.iter().map(|worker| worker.tasks).sum::<u64>();
    until("the task is counted", || counted() == 1);
    sidecar.kill();
    let sidecar = serve(&instance, false); // as the files say
    member.ask("call", "may");
    let mut another = visitor(MEMBER).unwrap();
    another.ask(&attach, "may");
    another.ask("call", "may");
    let refused = visitor(STRANGER).unwrap().ask(&attach, "refused");
    let who = "is not let in, it belongs to uid 61001 and is open to members of group 61100; run as";
    assert!(refused.contains("uid 61003") && refused.contains(who), "{refused}");
    drop((member, another));
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 3 tasks"]);
    assert_eq!(instance.files(), [""; 0]);
}
