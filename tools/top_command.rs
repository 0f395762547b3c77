//! `shm-dump top` as its users see it: on a real terminal, with real keys and signals.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod pseudo_terminal;
mod specimens;
mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use executor_client::TaskDescriptor;
use executord::handlers::ECHO;
use nix::sys::signal::Signal;
use pseudo_terminal::PseudoTerminal;
use specimens::Specimen;
use support::{Sidecar, assert_refused, eventually, instance, json_of, shm_dump};

fn top(name: &str) -> Command {
    let mut command = shm_dump();
    command.args(["top", name, "--interval", "20ms"]);
    command
}

#[test]
fn keys_lead_through_the_screens_and_the_end_leaves_the_terminal_as_it_was() {
    let mut specimen = Specimen::live();
    let name = specimen.sidecar.instance.to_string();
    let mut terminal = PseudoTerminal::start(&top(&name), 80, 24);
    terminal.wait_for("workers", |text| text.contains("asleep") && text.contains("time") && text.contains("alive"));
    assert!(terminal.is_taken() && terminal.text().contains("q quit"), "{}", terminal.text());
    terminal.press("\t");
    terminal.wait_for("handlers", |text| text.contains("sha256-block") && text.contains("run p99"));
    let client = specimen.client.as_mut().unwrap();
    terminal.wait_for("a rate of a handler", |text| {
        client.try_submit(&TaskDescriptor::new(ECHO), &[0; 8]).unwrap();
        while client.try_collect().unwrap().is_none() {}
        let rate = text.lines().find(|line| line.starts_with("echo")).and_then(|line| line.split_whitespace().nth(1));
        rate.is_some_and(|rate| rate != "0.0" && rate != "-") && text.contains('█')
    });
    let first =
        |text: &str| text.lines().nth(3).unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned();
    terminal.wait_for("the alphabet", |text| first(text) == "crc32c");
    terminal.press("r");
    terminal.wait_for("the alphabet backwards", |text| first(text) == "sum");
    terminal.press("rsssss");
    terminal
        .wait_for("the handler with a failure first", |text| first(text) == "sum" && text.contains("sort: not done"));
    terminal.press("3");
    terminal.wait_for("lanes", |text| text.contains("unanswered") && text.contains("active"));
    terminal.press(" ");
    terminal.wait_for("a pause", |text| text.contains("paused") && text.contains("go on"));
    terminal.press(" ?");
    terminal.wait_for("help", |text| text.contains("reverse the order") && !text.contains("paused"));
    terminal.press("?");
    terminal.wait_for("no help", |text| !text.contains("reverse the order"));
    terminal.press("q");
    assert!(terminal.wait().success());
    terminal.assert_restored();
    for key in ["\u{3}", "\u{1b}"] {
        let mut terminal = PseudoTerminal::start(&top(&name), 80, 24);
        terminal.wait_for("workers", |text| text.contains("asleep"));
        terminal.press(key);
        assert!(terminal.wait().success(), "{key:?}");
        terminal.assert_restored();
    }
}

#[test]
fn a_signal_ends_it_as_it_ends_everybody_and_leaves_the_terminal_as_it_was() {
    let specimen = Specimen::idle();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // An interval that nobody waits for: the signal alone ends it.
        let mut command = shm_dump();
        command.args(["top", specimen.sidecar.instance.as_str(), "--interval", "1000m"]);
        let mut terminal = PseudoTerminal::start(&command, 80, 24);
        terminal.wait_for("workers", |text| text.contains("asleep"));
        assert!(terminal.is_taken());
        terminal.signal(signal);
        // Whoever runs this test may ignore the signal, which children inherit.
        let status = terminal.wait();
        let ended_by = status.signal().or(status.code().map(|code| code - 128));
        assert_eq!(ended_by, Some(signal as i32), "{status}");
        terminal.assert_restored();
    }
}

#[test]
fn any_size_of_a_terminal_is_drawn_on_and_a_change_of_it_followed() {
    let specimen = Specimen::saturated();
    let mut terminal = PseudoTerminal::start(&top(specimen.sidecar.instance.as_str()), 80, 24);
    terminal.wait_for("workers", |text| text.contains("asleep"));
    for (columns, rows) in [(40, 10), (20, 4), (7, 2), (1, 1), (200, 60)] {
        terminal.resize(columns, rows);
        terminal.press("123?? \t");
    }
    terminal.press(" 3");
    terminal.wait_for("all columns of the lanes", |text| text.contains("owner") && text.contains("0: spin for"));
    assert!(terminal.text().contains("█████████"), "{}", terminal.text());
    terminal.press("q");
    assert!(terminal.wait().success());
    terminal.assert_restored();
}

#[test]
fn an_instance_that_ends_and_comes_again_is_told_and_followed() {
    let name = instance("followed");
    let mut sidecar = Sidecar::start(&name, &[]);
    let client = sidecar.connect();
    let mut terminal = PseudoTerminal::start(&top(name.as_str()), 120, 24);
    terminal.wait_for("its life", |text| text.contains("alive"));
    sidecar.crash();
    terminal
        .wait_for("its death", |text| text.contains("is dead; waiting for the next one") && !text.contains("alive"));
    let mut again = Sidecar::start(&name, &[]);
    terminal.wait_for("its next life", |text| text.contains("was started again") && text.contains("alive"));
    drop(client);
    // A process that another test starts has the client's lock too, until it executes.
    let look = || json_of(&shm_dump().args(["list", name.as_str(), "--json"]).output().unwrap());
    eventually("nobody is attached", || look()[0]["lanes_attached"] == 0);
    assert!(again.stop(Signal::SIGTERM).0.success());
    terminal.wait_for("its end", |text| text.contains("there is no instance"));
    let _anew = Sidecar::start(&name, &[]);
    terminal.wait_for("another one of its name", |text| text.contains("was made anew") && text.contains("alive"));
    terminal.press("q");
    assert!(terminal.wait().success());
    terminal.assert_restored();
}

#[test]
fn a_terminal_has_colours_unless_they_are_not_wanted() {
    let specimen = Specimen::crashed();
    let name = specimen.sidecar.instance.as_str();
    for (color, variable, has_colours) in
        [("auto", None, true), ("auto", Some("1"), false), ("never", None, false), ("always", Some("1"), true)]
    {
        for arguments in [&["top", name, "--color", color][..], &["show", name, "--color", color]] {
            let mut command = shm_dump();
            command.args(arguments);
            if let Some(value) = variable {
                command.env("NO_COLOR", value);
            }
            let mut terminal = PseudoTerminal::start(&command, 160, 40);
            terminal.wait_for("what is dead", |text| text.contains("dead"));
            assert_eq!(terminal.has_colours(), has_colours, "{arguments:?}, NO_COLOR {variable:?}");
            if arguments[0] == "top" {
                terminal.press("q");
            }
            assert!(terminal.wait().success());
            terminal.assert_restored();
        }
    }
}

#[test]
fn what_is_no_terminal_or_not_live_is_refused_with_the_cure() {
    let specimen = Specimen::idle();
    let name = specimen.sidecar.instance.as_str();
    let run = |arguments: &[&str]| shm_dump().args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_refused(&run(&["top", name]), 2, "for lines in a pipe or a file: shm-dump watch");
    assert_refused(&run(&["top", name, "--json"]), 2, "shm-dump watch --json");
    assert_refused(&run(&["top", name, "--from", "/tmp"]), 2, "shm-dump show --from DIR");
    assert_refused(&run(&["top", name, "--interval", "9ms"]), 2, "10ms or more");
    assert_refused(&run(&["top", "a.b"]), 2, "letters, digits");
    // On a terminal an instance that is not there is refused before the screen is taken.
    let mut terminal = PseudoTerminal::start(&top(instance("none").as_str()), 160, 24);
    assert_eq!(terminal.wait().code(), Some(1));
    terminal.wait_for("the refusal", |text| text.contains("there is no instance") && text.contains("shm-dump list"));
    terminal.assert_restored();
    assert!(!terminal.written().contains("\u{1b}[?1049h"), "the screen was never taken");
}
