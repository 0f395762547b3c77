//! Real instances in the states that a reader may find one in: live, idle, saturated, crashed and corrupt.
//!
//! Each is waited for until it is in its state and stays there, so that whoever looks at it sees the same whenever it looks;
//! only times, pids and what they lead to differ.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

use executor_client::{Client, TaskDescriptor};
use executor_shm::layout::{Geometry, header, status};
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX, SUM};
use serde_json::Value;

use crate::support::{Folder, Sidecar, eventually, files_with, instance, json_of, shm_dump};

/// Slots of a lane.
pub const CAPACITY: usize = 8;

/// An instance in a state, and what keeps it there.
pub struct Specimen {
    /// What it is.
    pub kind: &'static str,
    pub sidecar: Sidecar,
    /// Its producer, if it has one.
    pub client: Option<Client>,
    /// The folder with a copy of it, for what is looked at as a copy.
    pub copy: Option<Folder>,
}

impl Specimen {
    fn start(kind: &'static str) -> Self {
        let capacity = CAPACITY.to_string();
        let arguments = ["--lanes", "2", "--capacity", &capacity, "--idle", "adaptive"];
        let sidecar = Sidecar::start(&instance(kind), &arguments);
        Self { kind, sidecar, client: None, copy: None }
    }

    /// Ten tasks were done, one failed, and their producer is there.
    pub fn live() -> Self {
        let mut this = Self::start("live");
        this.connect_and_finish();
        this.settle(&["active", "free"]);
        this
    }

    /// Nobody is attached.
    pub fn idle() -> Self {
        let this = Self::start("idle");
        this.settle(&["free", "free"]);
        this
    }

    /// A lane without a free slot behind a task that takes a minute.
    pub fn saturated() -> Self {
        let mut this = Self::start("saturated");
        this.connect_and_spin(CAPACITY);
        let client = this.client.as_mut().unwrap();
        assert!(client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).is_err(), "a slot is free");
        this.settle(&["active", "free"]);
        this
    }

    /// Killed with a task in flight and two behind it.
    pub fn crashed() -> Self {
        let mut this = Self::start("crashed");
        this.connect_and_finish();
        this.connect_and_spin(3);
        this.settle(&["active", "free"]);
        this.sidecar.crash();
        this
    }

    /// The files of a killed one, copied and damaged: the states of the instance and of lane 0, the calibration, the name of a
    /// handler, the head of the journal.
    pub fn corrupt() -> Self {
        let mut this = Self::crashed();
        this.kind = "corrupt";
        let folder = Folder::new("corrupt");
        let name = this.sidecar.instance.clone();
        for file in files_with(&format!("executor.{name}.")) {
            fs::copy(Path::new("/dev/shm").join(&file), folder.0.join(&file)).unwrap();
        }
        let sizes = this.look(&["show"])["geometry"].clone();
        let size = |key: &str| sizes[key].as_u64().unwrap() as u32;
        let geometry = Geometry {
            capacity: size("capacity"),
            request_bytes: size("request_bytes"),
            response_bytes: size("response_bytes"),
            lanes: size("lanes"),
            handlers: size("handlers"),
            workers: size("workers"),
        };
        let damage = |kind: &str, word: usize, bytes: &[u8]| {
            let path = folder.0.join(format!("executor.{name}.{kind}"));
            fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, word as u64 * 8).unwrap();
        };
        damage("status", header::STATE, &[0xff; 8]);
        damage("status", status::CLOCK_SEQUENCE, &[1]); // odd for ever: somebody is about to change the calibration
        damage("status", geometry.gate(0) + status::GATE_STATE, &[7]);
        damage("status", geometry.row(1) + status::ROW_NAME, b"\x1b[2");
        damage("journal", header::NONCE, &[0; 8]);
        this.copy = Some(folder);
        this
    }

    /// All of them.
    pub fn all() -> [Self; 5] {
        [Self::live(), Self::idle(), Self::saturated(), Self::crashed(), Self::corrupt()]
    }

    /// Where its copy is.
    pub fn folder(&self) -> &str {
        self.copy.as_ref().and_then(|copy| copy.0.to_str()).unwrap()
    }

    /// The inspector on it: a view, then more arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = shm_dump();
        command.args(arguments).arg(self.sidecar.instance.as_str());
        if let Some(copy) = &self.copy {
            command.arg("--from").arg(&copy.0);
        }
        command.output().unwrap()
    }

    /// What a view says as JSON.
    #[track_caller]
    pub fn look(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        json_of(&output)
    }

    fn connect_and_finish(&mut self) {
        let client = self.client.get_or_insert_with(|| self.sidecar.connect());
        let tasks = [(ECHO, 8); 10].into_iter().chain([(SUM, 9)]); // 9 bytes are no number of u64s
        for (handler, length) in tasks {
            client.try_submit(&TaskDescriptor::new(handler), &vec![0; length]).unwrap();
            eventually("an answer", || client.try_collect().unwrap().is_some());
        }
    }

    fn connect_and_spin(&mut self, tasks: usize) {
        let client = self.client.get_or_insert_with(|| self.sidecar.connect());
        for _ in 0..tasks {
            client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
        }
        eventually("a task in flight", || !self.look(&["show"])["lanes"][0]["in_flight"].is_null());
    }

    /// Until the lanes are in these states, and housekeeping has looked at them.
    fn settle(&self, states: &[&str]) {
        eventually("its lanes", || {
            let shown = self.look(&["show"]);
            let lanes = shown["lanes"].as_array().unwrap().clone();
            let are = |key: &str| lanes.iter().map(|lane| lane[key].clone()).collect::<Vec<Value>>();
            let held = states.iter().map(|state| Value::from(*state == "active")).collect::<Vec<Value>>();
            let served = states.iter().filter(|state| **state == "active").count();
            are("state") == states && are("attached") == held && shown["workers"][0]["lanes"] == served
        });
    }
}
