//! Views of lanes and handlers, colours, and what is refused, as users of `shm-dump` see it.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod specimens;
mod support;

use std::process::Output;

use serde_json::Value;
use specimens::{CAPACITY, Specimen};
use support::{Folder, assert_refused, instance, shm_dump};

const ESCAPE: char = '\u{1b}';

fn text(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn told(shown: &Value, list: &str, key: &str) -> Vec<Value> {
    shown[list].as_array().unwrap().iter().map(|one| one[key].clone()).collect()
}

#[test]
fn lanes_are_sorted_by_what_is_asked_and_one_can_be_picked() {
    let specimen = Specimen::saturated();
    let lanes = |arguments: &[&str]| specimen.look(&[&["lanes"], arguments].concat());
    assert_eq!(told(&lanes(&[]), "lanes", "lane"), [0, 1]);
    for key in ["depth", "started", "in-flight"] {
        assert_eq!(told(&lanes(&["--sort", key]), "lanes", "lane"), [0, 1], "{key}");
    }
    assert_eq!(told(&lanes(&["--lane", "1"]), "lanes", "state"), ["free"]);
    assert_eq!(lanes(&[])["capacity"], CAPACITY);
    let producer = &lanes(&[])["lanes"][0]["producer"];
    assert_eq!((&producer["submitted"], &producer["collected"]), (&CAPACITY.into(), &0.into()));
    assert_eq!(producer["rejected"], 1, "the ninth found it full");
    let shown = text(&specimen.run(&["lanes"]));
    for part in ["8 of 8  ########", "0: spin for ", "active, held", "0 of 8  ........"] {
        assert!(shown.contains(part), "{shown}\n does not say {part}");
    }
}

#[test]
fn handlers_are_sorted_by_what_is_asked_and_one_can_be_picked_by_name_or_id() {
    let specimen = Specimen::live();
    let names = |arguments: &[&str]| told(&specimen.look(&[&["handlers"], arguments].concat()), "handlers", "name");
    assert_eq!(names(&[]), ["echo", "sum", "crc32c", "sha256", "sha256-block", "spin"]);
    assert_eq!(names(&["--sort", "name"]), ["crc32c", "echo", "sha256", "sha256-block", "spin", "sum"]);
    assert_eq!(names(&["--sort", "tasks"])[..2], ["echo", "sum"]);
    assert_eq!(names(&["--sort", "not-done"])[..2], ["sum", "echo"], "one of its tasks failed");
    assert_eq!(names(&["--handler", "sum"]), ["sum"]);
    assert_eq!(names(&["--handler", "4"]), ["sha256"]);
    let shown = text(&specimen.run(&["handlers"]));
    for part in ["sum, not done: 1 failed", "any size"] {
        assert!(shown.contains(part), "{shown}\n does not say {part}");
    }
}

#[test]
fn colours_are_where_they_are_asked_for_and_never_in_a_pipe_or_in_json() {
    let specimen = Specimen::crashed();
    for view in ["list", "show", "lanes", "handlers", "records", "diff"] {
        for plain in [&[view][..], &[view, "--color", "never"], &[view, "--json", "--color", "always"]] {
            assert!(!text(&specimen.run(plain)).contains(ESCAPE), "{plain:?}");
        }
        let coloured = text(&specimen.run(&[view, "--color", "always"]));
        assert!(coloured.contains(ESCAPE), "{view}: {coloured}");
        let is_red =
            coloured.contains("\u{1b}[31m") || coloured.contains("\u{1b}[1m\u{1b}[31m") || coloured.contains("38;5;9m");
        assert!(is_red, "{view} of a dead instance: {coloured:?}");
    }
    let forced = shm_dump().args(["list", "--color", "always"]).env("NO_COLOR", "1").output().unwrap();
    assert!(text(&forced).contains(ESCAPE), "who says always means it");
}

#[test]
fn wrong_arguments_are_refused_in_one_line_with_the_cure() {
    let refused = |arguments: &[&str]| shm_dump().args(arguments).output().unwrap();
    let none = instance("none");
    for view in ["lanes", "handlers", "list"] {
        assert_refused(&refused(&[view, none.as_str()]), 1, "shm-dump list shows which there are");
        assert_refused(&refused(&[view, "a.b"]), 2, "letters, digits");
        assert_refused(&refused(&[view, "--from", "/nowhere/at/all"]), 1, "cannot list /nowhere/at/all");
        assert_refused(&refused(&[view, "--color", "sometimes"]), 2, "possible values: auto, always, never");
    }
    assert_refused(&refused(&["lanes", "--sort", "size"]), 2, "possible values: lane, depth");
    assert_refused(&refused(&["lanes", "--lane", "one"]), 2, "--lane");
    assert_refused(&refused(&["lanes", "--handler", "echo"]), 2, "unexpected argument '--handler'");
    assert_refused(&refused(&["handlers", "--sort", "size"]), 2, "possible values: id, name");
    assert_refused(&refused(&["handlers", "--lane", "1"]), 2, "unexpected argument '--lane'");
    assert_refused(&refused(&["lanse"]), 2, "the views are list, show, lanes, handlers, ");
    let empty = Folder::new("empty");
    let from = empty.0.to_str().unwrap();
    for view in ["show", "lanes", "handlers", "records"] {
        assert_refused(&refused(&[view, "--from", from]), 1, "copy one with: shm-dump save");
    }
    let specimen = Specimen::idle();
    let name = specimen.sidecar.instance.as_str();
    assert_refused(&refused(&["lanes", name, "--lane", "2"]), 1, &format!("shm-dump lanes {name} lists its lanes"));
    let cure = format!("shm-dump handlers {name} lists its handlers");
    assert_refused(&refused(&["handlers", name, "--handler", "ecco"]), 1, &cure);
    let copy = Specimen::corrupt();
    let cured =
        |output: &Output, what: &str| assert_refused(output, 1, &format!("--from {} lists its {what}", copy.folder()));
    cured(&copy.run(&["lanes", "--lane", "2"]), "lanes");
    cured(&copy.run(&["records", "--lane", "2"]), "lanes");
    cured(&copy.run(&["handlers", "--handler", "ecco"]), "handlers");
}
