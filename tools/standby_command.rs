//! `executord run --standby` as its users see it.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use executor_client::InstanceName;
use executor_shm::inspect::Inspector;
use executord::handlers::Spin;
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Sidecar, assert_refused, eventually, executord, files_with, instance};

fn stand_by(name: &InstanceName, more: &[&str]) -> Sidecar {
    Sidecar::start(name, &[&["--standby"], more].concat())
}

#[test]
fn a_standby_says_that_it_waits_and_then_that_it_serves() {
    let name = instance("standby");
    let mut sidecar = Sidecar::start(&name, &["--capacity", "64"]);
    let mut client = sidecar.connect();
    client.call::<Spin>(&1000).unwrap();
    for (round, json) in [false, true].into_iter().enumerate() {
        let mut standby = stand_by(&name, if json { &["--json"] } else { &[] });
        let (first, pid) = (standby.first_line.clone(), standby.child.id());
        if json {
            let waits: Value = serde_json::from_str(&first).unwrap();
            assert_eq!(
                (&waits["event"], &waits["instance"]),
                (&"standing_by".into(), &name.as_str().into()),
                "{first}"
            );
            assert_eq!((&waits["pid"], &waits["handlers"][1]), (&pid.into(), &"sum".into()), "{first}");
            assert!(waits["warm_lanes"].as_u64().unwrap() >= 1, "{first}");
        } else {
            assert!(
                first.starts_with(&format!("instance {name} is served; this one is ready to serve echo, ")),
                "{first}"
            );
            assert!(first.contains(" mapped; ") && first.contains(&format!("kill {pid}")), "{first}");
        }
        if round == 0 {
            sidecar.crash();
        } else {
            let (status, rest) = sidecar.stop(Signal::SIGTERM);
            assert!(status.success() && rest.contains("its files stay for the next start"), "{rest}");
        }
        let started = standby.line();
        if json {
            let started: Value = serde_json::from_str(&started).unwrap();
            assert_eq!((&started["event"], &started["pid"]), (&"started".into(), &pid.into()), "{started}");
            assert_eq!((&started["capacity"], &started["recovered"]["lanes"]), (&64.into(), &1.into()), "{started}");
        } else {
            assert!(started.starts_with(&format!("instance {name} serves echo, ")), "{started}");
            assert!(started.contains("recovered 1 lane,"), "{started}");
        }
        client.call::<Spin>(&1000).unwrap();
        assert_eq!(Inspector::open(&name).unwrap().look().pid, u64::from(pid));
        sidecar = standby;
    }
    drop(client);
}

#[test]
fn a_standby_that_is_not_needed_ends_well_and_says_so() {
    let name = instance("dismissed");
    let mut sidecar = Sidecar::start(&name, &[]);
    for (signal, json) in [(Signal::SIGTERM, false), (Signal::SIGINT, true)] {
        let files = files_with(name.as_str()).len();
        let mut standby = stand_by(&name, if json { &["--json"] } else { &[] });
        let (status, rest) = standby.stop(signal);
        assert!(status.success(), "{status}");
        if json {
            let ended: Value = serde_json::from_str(&rest).unwrap();
            assert_eq!((&ended["event"], &ended["instance"]), (&"dismissed".into(), &name.as_str().into()), "{rest}");
            assert!(ended["waited_ns"].as_u64().unwrap() > 0, "{rest}");
        } else {
            assert!(rest.starts_with(&format!("instance {name}: stood by for ")), "{rest}");
            assert!(rest.ends_with("and was not needed\n"), "{rest}");
        }
        assert_eq!(files_with(name.as_str()).len(), files);
        sidecar.connect().call::<Spin>(&1000).unwrap();
    }
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
}

#[test]
fn a_standby_without_anybody_to_wait_for_is_an_ordinary_run() {
    let name = instance("nobody");
    let mut sidecar = stand_by(&name, &["--json"]);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    assert_eq!(started["event"], "started");
    sidecar.connect().call::<Spin>(&1000).unwrap();
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
}

#[test]
fn a_standby_of_other_sizes_is_refused_in_one_line_with_the_cure() {
    let name = instance("unfit");
    let _sidecar = Sidecar::start(&name, &[]);
    let output = executord().args(["run", name.as_str(), "--standby", "--unpinned", "--capacity", "64"]).output();
    assert_refused(&output.unwrap(), 1, "was made with capacity 1024, not 64; start it so, or remove its files first");
}

#[test]
fn a_standby_takes_the_cpu_of_the_one_it_follows_and_not_another() {
    let name = instance("cpu");
    let start = |more: &[&str]| {
        let mut command = executord();
        command.args(["run", name.as_str(), "--json", "--idle", "yield"]).args(more);
        Sidecar::spawn(&name, command)
    };
    let cpus = |sidecar: &Sidecar| serde_json::from_str::<Value>(&sidecar.first_line).unwrap()["cpus"].clone();
    // Instances of other tests come and go, and their CPUs are avoided; so more than one look.
    eventually("the same CPU", || {
        let sidecar = start(&[]);
        let standby = start(&["--standby"]);
        let is_same = cpus(&sidecar) == cpus(&standby);
        drop((standby, sidecar));
        is_same
    });
}
