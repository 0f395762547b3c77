//! Whoever asks too much of housekeeping does not keep the others from being served. That it is held back, and that this is
//! told, is tested where the limit can be set: in `executor-shm`.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use executor_client::{Client, ConnectError};
use executor_shm::attach::{Instance, Wish};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::{Ending, Sidecar, SidecarHandle};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{self, Others, Sum};
use executor_tests::instance::TestInstance;

/// Lanes that cost something to make, and few enough of them that they must be made anew all the time.
fn start(instance: &TestInstance) -> SidecarHandle {
    let registry = handlers::registry(instance.folder().to_owned(), |_| {}, Others::default()).unwrap();
    let builder = Sidecar::builder().instance(instance.name().clone()).registry(registry);
    let builder = builder.capacity(1024).request_bytes(2048).response_bytes(2048).lanes(4);
    builder.pinned(false).idle(IdleStrategy::Yield).start().unwrap()
}

fn call(client: &mut Client) {
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
}

/// Floods with `flood` while one client goes on, and others come and go.
fn serves_others(instance: &TestInstance, flood: impl Fn(&Instance) + Sync) {
    let opened = Instance::open(instance.name(), None).unwrap();
    let mut attached = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    call(&mut attached);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flooders: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0u64;
                    while !stop.load(Relaxed) {
                        flood(&opened);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..30 {
            call(&mut attached);
            let comer = Client::connect_timeout(instance.name(), FAIL_SAFE);
            let answer = comer.map(|mut comer| comer.call_timeout::<Sum>(&[1, 2], FAIL_SAFE));
            if !matches!(answer, Ok(Ok(3))) {
                stop.store(true, Relaxed);
                panic!("{answer:?}");
            }
        }
        stop.store(true, Relaxed);
        let floods: u64 = flooders.into_iter().map(|flooder| flooder.join().unwrap()).sum();
        assert!(floods > 30, "that was no flood: {floods}");
    });
    call(&mut attached);
}

fn ends_well(instance: &TestInstance, sidecar: SidecarHandle) {
    instance.wait_until_deserted();
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn producers_that_attach_and_drop_without_end_keep_nobody_from_attaching_and_working() {
    let instance = TestInstance::new("attaches");
    let sidecar = start(&instance);
    serves_others(&instance, |_| match Client::connect(instance.name()) {
        Ok(client) => drop(client),
        Err(ConnectError::NoFreeLane { .. }) => {}
        Err(error) => panic!("{error}"),
    });
    ends_well(&instance, sidecar);
}

#[test]
fn producers_that_die_between_their_wish_and_their_first_task_keep_nobody_from_it_either() {
    let instance = TestInstance::new("wishes");
    let sidecar = start(&instance);
    // The lock goes free before housekeeping sees it: what is left is a lane that is free and no longer pristine.
    serves_others(&instance, |opened| drop(opened.claim(Wish::default()).unwrap()));
    ends_well(&instance, sidecar);
}

#[test]
fn a_process_that_wakes_housekeeping_without_end_keeps_nobody_from_attaching_and_working() {
    let instance = TestInstance::new("wakes");
    let sidecar = start(&instance);
    serves_others(&instance, Instance::wake_housekeeping);
    ends_well(&instance, sidecar);
}
