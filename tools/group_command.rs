//! `--group` and `--owner` as users see them that are not the sidecar's: a member of its group, and a stranger.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use support::{Folder, Sidecar, assert_refused, executord, instance, json_of, shm_dump};

const OWNER: u32 = 61_011;
const MEMBER: u32 = 61_012;
const STRANGER: u32 = 61_013;
const GROUP: u32 = 61_110;

/// Whether this process may start programs as other users, and they can reach the programs; else the reason is told.
fn can_become_others() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become other users");
        return false;
    }
    let version = executord().arg("--version").uid(STRANGER).gid(STRANGER).output();
    let reaches = version.as_ref().is_ok_and(|output| output.status.success());
    if !reaches {
        println!("skipped: other users cannot run {}: {version:?}", env!("CARGO_BIN_EXE_executord"));
    }
    reaches
}

fn run(mut command: Command, uid: u32, arguments: &[&str]) -> Output {
    let gid = if uid == STRANGER { STRANGER } else { GROUP };
    command.args(arguments).uid(uid).gid(gid).output().unwrap()
}

#[test]
fn a_member_loads_hashes_and_looks_where_it_names_the_owner_and_a_stranger_is_told_why_not() {
    if !can_become_others() {
        return;
    }
    let instance = instance("group");
    let name = instance.as_str();
    let mut command = executord();
    command.args(["run", name, "--unpinned", "--json", "--group", "61110"]).uid(OWNER).gid(GROUP);
    let sidecar = Sidecar::spawn(&instance, command);
    assert!(sidecar.first_line.contains("\"group\":61110"), "{}", sidecar.first_line);

    let load = ["load", name, "--seconds", "0.05", "--json"];
    let owner = ["--owner", "61011"];
    let output = run(executord(), MEMBER, &[&load[..], &owner].concat());
    assert!(json_of(&output)["tasks"].as_u64().unwrap() > 0, "{output:?}");
    let unnamed = "belongs to uid 61011, not to root, to this user, or to one named as its owner";
    assert_refused(&run(executord(), MEMBER, &load), 1, unnamed);
    let folder = Folder::new("group");
    folder.write("file", 1000);
    let file = folder.0.join("file").display().to_string();
    let output = run(executord(), MEMBER, &[&["hash", "--instance", name, &file][..], &owner].concat());
    assert!(output.status.success(), "{output:?}");

    let view = json_of(&run(shm_dump(), MEMBER, &["show", name, "--json"]));
    assert_eq!((&view["group"], &view["alive"]), (&61_110.into(), &true.into()));
    assert_eq!(view["lanes"][0]["state"].as_str().map(str::is_empty), Some(false), "states are for everybody");
    let why = view["lanes"][0]["unreadable"].as_str().unwrap();
    assert!(
        why.contains(".journal: uid 61012 is not let in, it belongs to uid 61011 alone; run as that user"),
        "{why}"
    );
    let text = String::from_utf8(run(shm_dump(), MEMBER, &["show", name]).stdout).unwrap();
    assert!(text.contains("; open to group 61110") && text.contains("'-' for positions of lane"), "{text}");
    let records = run(shm_dump(), MEMBER, &["records", name]);
    assert!(records.status.success(), "requests and responses are for members: {records:?}");

    let why = "uid 61013 is not let in, it belongs to uid 61011 and is open to members of group 61110; run as that user, or \
               as a member of that group";
    assert_refused(&run(executord(), STRANGER, &[&load[..], &owner].concat()), 1, why);
    assert_refused(&run(shm_dump(), STRANGER, &["show", name]), 1, why);
    let list = run(shm_dump(), STRANGER, &["list"]);
    assert!(list.status.success() && String::from_utf8_lossy(&list.stdout).contains(why), "{list:?}");
    let clean = run(executord(), MEMBER, &["clean", name]);
    assert_refused(&clean, 1, ".journal: uid 61012 is not let in, it belongs to uid 61011 alone; run as that user");
}

#[test]
fn a_group_that_there_is_not_is_a_wrong_argument_in_a_flag_a_variable_and_a_file() {
    let cure = "groupadd --system no-such-group";
    assert_refused(&executord().args(["run", "--group", "no-such-group"]).output().unwrap(), 2, cure);
    let output = executord().arg("config").env("EXECUTOR_GROUP", "no-such-group").output().unwrap();
    assert_refused(&output, 2, cure);
    let folder = Folder::new("group-file");
    let file = folder.0.join("a.toml");
    std::fs::write(&file, "group = \"no-such-group\"\n").unwrap();
    let output = executord().args(["config", "--config"]).arg(&file).output().unwrap();
    assert_refused(&output, 2, "a.toml:1: group = \"no-such-group\": there is no group");
}
