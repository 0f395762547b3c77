//! The thread that wakes futures is there while somebody needs it, alone for all clients, and makes do with what the
//! kernel has. One test, since it counts the threads of its process.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;

use executor_client::{AsyncClient, TaskDescriptor, TaskFuture};
use executor_tests::block_on::{block_on, poll_once};
use executor_tests::handlers::{ECHO, SLOW};
use executor_tests::instance::{Latch, TestInstance};
use executor_tests::process::{self, Process};
use executor_tests::{FAIL_SAFE, sandbox, until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

/// The statuses of the watchers of this process, as the kernel tells them.
fn watchers() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("status"));
    let statuses = tasks.filter_map(|path| fs::read_to_string(path).ok()); // one may end meanwhile
    statuses.filter(|status| status.starts_with("Name:\texecutor-watch")).collect()
}

fn connect(instance: &TestInstance) -> AsyncClient {
    AsyncClient::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

/// A future that has to wait, and the end of that.
fn wait_for(client: &AsyncClient, sidecar: &mut Process, latch: &Latch) {
    let mut future: TaskFuture = client.try_submit(&TaskDescriptor::new(SLOW), b"held").unwrap();
    assert_eq!(sidecar.line(), "entered held 1");
    assert!(poll_once(&mut future).is_pending());
    until("a watcher", || {
        let count = watchers().len(); // a thread gets its name a moment after its start
        assert!(count <= 1, "{count} watchers");
        count == 1
    });
    latch.open();
    block_on(future).unwrap();
}

#[test]
fn one_watcher_is_there_from_the_first_wait_until_the_last_client_is_gone() {
    let instance = TestInstance::new("watcher");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
    for round in 0..5 {
        let clients: Vec<_> = (0..4).map(|_| connect(&instance)).collect();
        if round == 0 {
            let futures = clients.iter().map(|client| client.try_submit(&TaskDescriptor::new(ECHO), b"").unwrap());
            drop(futures.collect::<Vec<_>>());
            assert_eq!(watchers(), [""; 0], "nobody has had to wait");
        }
        for client in &clients {
            wait_for(client, &mut sidecar, &latch);
        }
        for status in watchers() {
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap().to_owned();
            assert_ne!(u64::from_str_radix(&blocked, 16).unwrap() & 1 << 14, 0, "SIGTERM is not for it: {status}");
        }
        let last = clients[3].clone();
        drop(clients);
        wait_for(&last, &mut sidecar, &latch);
        // A future is an owner as well.
        let future = last.try_submit(&TaskDescriptor::new(ECHO), b"").unwrap();
        drop(last);
        assert_eq!(watchers().len(), 1);
        block_on(future).unwrap();
        until("no watcher", || watchers().is_empty());
    }
    assert_eq!(executor_client::overslept(), 0, "a wake-up was lost");

    // The kernel refuses what a sleep on several words takes, then the barrier as well: it naps instead.
    for calls in ["futex_waitv", "membarrier"] {
        sandbox::deny(calls);
        let clients: Vec<_> = (0..3).map(|_| connect(&instance)).collect();
        for _ in 0..20 {
            clients.iter().for_each(|client| wait_for(client, &mut sidecar, &latch));
        }
        drop(clients);
        until("no watcher", || watchers().is_empty());
    }
}
