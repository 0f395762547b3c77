//! What a sidecar tells the program that started it of how far its workers have come.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{Mutex, mpsc};
use std::time::Instant;

use executor_client::{Client, TaskDescriptor};
use executor_shm::core::Registry;
use executor_shm::core::idle::IdleStrategy;
use executor_shm::{Sidecar, SidecarHandle, WorkerProgress};
use executor_tests::FAIL_SAFE;
use executor_tests::instance::TestInstance;

/// Waits until the progress fulfils a condition.
fn await_progress(sidecar: &SidecarHandle, fulfilled: impl Fn(&[WorkerProgress]) -> bool) -> Vec<WorkerProgress> {
    let begun = Instant::now();
    loop {
        let progress = sidecar.progress();
        if fulfilled(&progress) {
            return progress;
        }
        assert!(begun.elapsed() < FAIL_SAFE, "{progress:?} for good");
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_in_a_handler_makes_no_progress_and_all_others_do() {
    let instance = TestInstance::new("progress");
    let (entered, entries) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (entered, released) = (Mutex::new(entered), Mutex::new(released));
    let mut registry = Registry::builder();
    registry.handler(1, "hold", move |context, _, _| {
        entered.lock().unwrap().send(context.worker()).unwrap();
        released.lock().unwrap().recv().unwrap();
        Ok(())
    });
    let sidecar = Sidecar::builder()
        .instance(instance.name().clone())
        .registry(registry.build().unwrap())
        .pinned(false)
        .cpus(&[0, 1]) // two workers
        .idle(IdleStrategy::Yield)
        .start()
        .unwrap();
    let release = release; // dropped before the sidecar, whose end waits for the handler

    let before = sidecar.progress();
    assert_eq!(before.len(), 2);
    let idle = await_progress(&sidecar, |now| (0..2).all(|worker| now[worker] != before[worker]));
    assert_eq!((idle[0].tasks, idle[1].tasks), (0, 0));

    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap();
    let held = entries.recv_timeout(FAIL_SAFE).unwrap() as usize;
    let entry = sidecar.progress();
    let others = await_progress(&sidecar, |now| now[1 - held].sweeps >= entry[1 - held].sweeps + 1600);
    assert_eq!(others[held], entry[held], "a worker in a handler");
    release.send(()).unwrap();
    client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    let after = await_progress(&sidecar, |now| now[held].sweeps > entry[held].sweeps);
    assert_eq!(after[held].tasks, 1);
}

#[test]
fn a_worker_that_sleeps_makes_progress_all_the_same() {
    let instance = TestInstance::new("progress-asleep");
    let sidecar = Sidecar::builder()
        .instance(instance.name().clone())
        .registry(Registry::builder().build().unwrap())
        .pinned(false)
        .idle(IdleStrategy::Sleep)
        .start()
        .unwrap();
    for _ in 0..3 {
        let before = sidecar.progress();
        await_progress(&sidecar, |now| now != before);
    }
}
