//! `executord config`, and `executord run` with a config file and an environment.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Sidecar, assert_refused, executord, files_with, instance, json_of};

/// A config file of a test's own.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{}.toml", instance("config")));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The settings that `executord config` shows.
fn config(arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let mut command = executord();
    command.args(["config", "--json"]).args(arguments).envs(environment.iter().copied());
    json_of(&command.output().unwrap())
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let name = instance("precedence");
    let file = ConfigFile::new("\nlanes = 4\n");
    let at_file = format!("{}:2", file.path());
    let (variable, flag) = ([("EXECUTOR_LANES", "5")], [name.as_str(), "--config", file.path(), "--lanes", "6"]);
    for (arguments, environment, value, source, at) in [
        (&flag[..1], &[][..], 16, "default", Value::Null),
        (&flag[..3], &[][..], 4, "file", json!(at_file)),
        (&flag[..3], &variable[..], 5, "environment", json!("EXECUTOR_LANES")),
        (&flag[..], &variable[..], 6, "flag", json!("--lanes")),
    ] {
        let lanes = &config(arguments, environment)["settings"]["lanes"];
        assert_eq!((&lanes["value"], &lanes["source"], &lanes["at"]), (&json!(value), &json!(source), &at));
        // And so it is served. A small lane is made faster.
        let mut command = executord();
        command.arg("run").args(arguments).args(["--json", "--unpinned", "--capacity", "2"]);
        let sidecar = Sidecar::spawn(&name, {
            command.envs(environment.iter().copied());
            command
        });
        let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
        assert_eq!(started["lanes"], value, "{source}");
    }
    assert_eq!(files_with(name.as_str()), [""; 0]);
}

#[test]
fn a_file_that_the_environment_names_sets_everything() {
    let name = instance("everything");
    let gid = nix::unistd::getegid().as_raw();
    let text = format!(
        "instance = \"{name}\"\nlanes = 3\ncapacity = 8\nrequest-bytes = \"1KiB\"\nresponse-bytes = 128\n\
         group = \"{gid}\"\ncpu = [0, 1]\nidle = \"yield\"\ntiming = false\nrecording = true\nslow-after = \"2ms\"\nquantum = 2\npinned = false\n\
         drain = \"1500ms\"\ncpu-latency = 50\nreal-time = \"rr:1\"\nlock-memory = true\n\
         metrics = \"127.0.0.1:0\"\nrespawn = false\nstandby = true\njson = true\n"
    );
    let file = ConfigFile::new(&text);
    let environment = [("EXECUTOR_CONFIG", file.path())];
    let shown = config(&[], &environment);
    assert_eq!(shown["config"], file.path());
    let settings = shown["settings"].as_object().unwrap();
    for (line, (key, setting)) in settings.iter().enumerate() {
        assert_eq!(setting["source"], "file", "{key}");
        assert_eq!(setting["at"], format!("{}:{}", file.path(), line + 1), "{key}");
    }
    let values: Vec<Value> = settings.values().map(|setting| setting["value"].clone()).collect();
    let group = gid.to_string();
    let before =
        json!([name.as_str(), 3, 8, 1024, 128, group, [0, 1], "yield", false, true, "2ms", 2, false, "1500ms"]);
    let holds_and_switches = json!([50, "rr:1", true, "127.0.0.1:0", false, true, true]);
    let expected = [before, holds_and_switches].map(|values| values.as_array().unwrap().clone());
    assert_eq!(Value::from(values), Value::from(expected.concat()));

    // Real time for as many workers as there may be CPUs would be refused.
    std::fs::write(file.path(), text.replace("real-time", "# real-time")).unwrap();
    let mut command = executord();
    command.arg("run").envs(environment);
    let mut sidecar = Sidecar::spawn(&name, command);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    let served =
        ["instance", "lanes", "capacity", "request_bytes", "response_bytes", "group", "cpus", "idle", "timing"];
    let served: Vec<Value> = served.iter().map(|&key| started[key].clone()).collect();
    assert_eq!(Value::from(served), json!([name.as_str(), 3, 8, 1024, 128, gid, [], "yield", false]));
    assert_eq!(
        (&started["holds"]["cpu_latency"]["asked"], &started["holds"]["memory"]["asked"]),
        (&"50".into(), &"true".into())
    );
    let page = started["metrics"].as_str().unwrap();
    assert!(page.starts_with("127.0.0.1:") && !page.ends_with(":0"), "{page}");
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
    assert_eq!(files_with(name.as_str()), [""; 0]);
}

#[test]
fn a_variable_undoes_what_the_file_switches_off() {
    let file = ConfigFile::new("pinned = false\ntiming = false");
    let environment = [("EXECUTOR_PINNED", "true"), ("EXECUTOR_TIMING", "true"), ("EXECUTOR_CONFIG", file.path())];
    let shown = config(&[], &environment);
    assert_eq!(shown["settings"]["pinned"]["value"], true);
    assert_eq!(shown["settings"]["timing"]["value"], true);
}

#[test]
fn a_mistake_in_a_file_or_a_variable_is_refused_in_one_line_that_names_its_place() {
    let name = instance("mistaken");
    let refused = |environment: (&str, &str), says: &str| {
        for subcommand in ["run", "config"] {
            let mut command = executord();
            command.args([subcommand, name.as_str(), "--unpinned"]).env(environment.0, environment.1);
            assert_refused(&command.output().unwrap(), 2, says);
        }
    };
    for (text, says) in [
        ("\nlane = 16", ":2: unknown key \"lane\"; the nearest is \"lanes\""),
        ("[sizes]\nlanes = 1", ":1: unknown key \"sizes\"; known are instance, lanes, capacity, request-bytes,"),
        ("lanes = 0", ":1: lanes = 0: not a number from 1 to 1024"),
        ("capacity = 1000", ":1: capacity = 1000: not a power of two from 2 to 65536"),
        ("request-bytes = \"64 bananas\"", ":1: request-bytes = \"64 bananas\": not a size; write for example 65536"),
        ("drain = \"soon\"", ":1: drain = \"soon\": not a time; write for example 250us, 500ms, 5s or 2m"),
        ("timing = 0", ":1: timing = 0: not true or false"),
        ("cpu = [1, 2000]", ":1: cpu = [1, 2000]: not a number from 0 to 1023"),
        ("json = yes", ":1: "),
    ] {
        let file = ConfigFile::new(text);
        refused(("EXECUTOR_CONFIG", file.path()), &format!("{}{says}", file.path()));
    }
    for (variable, value, says) in [
        ("EXECUTOR_CONFIG", "/nowhere/orders.toml", "cannot read the config file /nowhere/orders.toml: No such file"),
        ("EXECUTOR_CONFIG", "/dev", "cannot read the config file /dev: Is a directory"),
        ("EXECUTOR_REQUEST_BYTES", "100", "EXECUTOR_REQUEST_BYTES=100: not a multiple of 64"),
        ("EXECUTOR_CPU", "1;2", "EXECUTOR_CPU=1;2: not a number from 0 to 1023; write a CPU, or several such as 2,3"),
        ("EXECUTOR_PINNED", "no", "EXECUTOR_PINNED=no: neither true nor false"),
    ] {
        refused((variable, value), says);
    }
    let missing = executord().args(["run", "--config", "/nowhere/orders.toml"]).output().unwrap();
    assert_refused(&missing, 2, "/nowhere/orders.toml");
    assert_eq!(files_with(name.as_str()), [""; 0]);
}

#[test]
fn a_foreign_variable_is_shown_and_not_read() {
    let shown = config(&[], &[("EXECUTOR_NUMBER", "7"), ("EXECUTOR_LANES", "7")]);
    assert_eq!(shown["ignored_variables"], json!(["EXECUTOR_NUMBER"]));
    assert_eq!(shown["settings"]["lanes"]["value"], 7);
    let text = executord().arg("config").env("EXECUTOR_NUMBER", "7").output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("set and not read: EXECUTOR_NUMBER"), "{text}");
}

#[test]
fn a_look_at_the_settings_makes_no_file_and_tells_the_sizes_of_files_that_are_there() {
    let name = instance("look");
    assert_eq!(config(&[name.as_str()], &[])["settings"]["capacity"]["source"], "default");
    assert_eq!(files_with(name.as_str()), [""; 0]);

    let mut sidecar = Sidecar::start(&name, &["--lanes", "3", "--no-timing"]);
    sidecar.crash();
    let contents = || -> Vec<(String, Vec<u8>)> {
        let mut files = files_with(name.as_str());
        files.sort();
        files.into_iter().map(|file| (file.clone(), std::fs::read(Path::new("/dev/shm").join(file)).unwrap())).collect()
    };
    let before = contents();
    let settings = &config(&[name.as_str()], &[])["settings"];
    assert_eq!((&settings["lanes"]["value"], &settings["lanes"]["source"]), (&json!(3), &json!("instance")));
    assert_eq!((&settings["timing"]["value"], &settings["timing"]["source"]), (&json!(false), &json!("instance")));
    assert_eq!(settings["idle"]["source"], "default");
    assert!(contents() == before, "a look changed a file");
}

#[test]
fn a_tied_sidecar_listens_to_its_flags_alone() {
    let name = instance("tied");
    let mut command = executord();
    command.args(["run", name.as_str(), "--tied", "--json", "--unpinned"]).env("EXECUTOR_LANES", "many");
    command.env("EXECUTOR_CONFIG", "/nowhere/orders.toml").stdin(std::process::Stdio::piped());
    let sidecar = Sidecar::spawn(&name, command);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    assert_eq!(started["lanes"], 16);
}
