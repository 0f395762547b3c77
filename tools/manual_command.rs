//! `executord completions` and `executord man` as their users meet them: a shell that completes, a manual that is read.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::process::{Command, Output};

use support::{Folder, assert_refused, executord};

fn run(arguments: &[&str]) -> Output {
    executord().args(arguments).output().unwrap()
}

/// What bash offers for the last word of a line.
fn offered(program: &str, function: &str, words: &[&str]) -> Vec<String> {
    let output = run(&["completions", "bash", program]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let folder = Folder::new("bash");
    let script = folder.0.join("script");
    fs::write(&script, &output.stdout).unwrap();
    let last = words.len();
    let line = format!(
        "source {}; COMP_WORDS=({program} {}); COMP_CWORD={last}; {function} {program} '{}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.last().unwrap(),
    );
    let shell = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
    assert!(shell.stderr.is_empty(), "{}", String::from_utf8_lossy(&shell.stderr));
    String::from_utf8(shell.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn bash_completes_subcommands_and_options_of_both_programs() {
    if !has("bash") {
        return println!("skipped: no bash");
    }
    assert_eq!(offered("executord", "_executord", &["doc"]), ["doctor"]);
    assert_eq!(offered("executord", "_executord", &["doctor", "--lan"]), ["--lanes"]);
    assert_eq!(offered("executord", "_executord", &["pro"]), [""; 1], "what is hidden is not offered");
    assert_eq!(offered("executord", "_executord", &["run", "--ti"]), [""; 1]);
    assert_eq!(offered("shm-dump", "_shm__dump", &["rec"]), ["records"]);
    assert_eq!(offered("shm-dump", "_shm__dump", &["records", "--la"]), ["--last", "--lane"]);
}

#[test]
fn the_manual_is_read_without_a_warning_and_tables_keep_their_lines() {
    let folder = Folder::new("man");
    let into = folder.0.join("new/man1");
    let output = run(&["man", into.to_str().unwrap()]);
    let told = String::from_utf8(output.stdout).unwrap();
    let pages = fs::read_dir(&into).unwrap().count();
    assert!(told.starts_with(&format!("{pages} pages written to ")) && pages >= 14, "{told}");
    assert_eq!(run(&["man", into.to_str().unwrap()]).status.code(), Some(0), "pages are replaced");
    if !has("groff") {
        return println!("skipped: no groff");
    }
    for page in fs::read_dir(&into).unwrap() {
        let page = page.unwrap().path();
        let read = Command::new("groff").args(["-man", "-Tascii", "-ww", "-P-cbou"]).arg(&page).output().unwrap();
        let text = String::from_utf8_lossy(&read.stdout);
        let complaints = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
        assert!(text.contains("NOTES"), "{text}");
        if page.ends_with("executord-doctor.1") {
            let row = "abi            whether another build made the files\n";
            assert!(text.contains(row), "{text}\n does not have {row}");
            assert!(text.contains("executord doctor orders --config orders.toml       what a start of `orders` will"));
        }
    }
}

#[test]
fn what_cannot_be_made_is_refused_in_one_line() {
    assert_refused(&run(&["completions"]), 2, "<SHELL>");
    assert_refused(&run(&["completions", "bsh"]), 2, "bash, elvish, fish");
    assert_refused(&run(&["completions", "bash", "shmdump"]), 2, "executord, shm-dump");
    assert_refused(&run(&["man"]), 2, "<DIR>");
    let folder = Folder::new("taken");
    folder.write("file", 1);
    let path = folder.0.join("file");
    assert_refused(&run(&["man", path.to_str().unwrap()]), 1, "cannot write");
}
