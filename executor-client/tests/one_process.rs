//! Client and sidecar in one process, as users' own tests have them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use executor_client::{Client, InstanceName, Status, TaskDescriptor};
use executor_shm::core::{Handler, Registry};
use executor_shm::{Ending, Sidecar, SidecarHandle};

fn name(of: &str) -> InstanceName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let text = format!("{of}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
    InstanceName::new(&text).unwrap()
}

fn start(instance: &InstanceName) -> SidecarHandle {
    let mut registry = Registry::builder();
    registry.handler(1, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    });
    registry.add(Handler::new(2, "panics", |_, _, _| panic!("no such luck")));
    Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap()).pinned(false).start().unwrap()
}

#[test]
fn a_payload_of_any_length_comes_back_whole() {
    let instance = name("echo");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    let payload: Vec<u8> = (0..=255).collect();
    for length in [0, 1, 24, 25, 32, 33, 63, 64, 255, 256] {
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), &payload[..length]).unwrap();
        let completion = client.wait(&mut ticket).unwrap();
        assert_eq!(completion.status(), Status::Done);
        assert_eq!(completion.response().to_vec(), payload[..length], "length {length}");
    }
    drop(client);
    sidecar.stop();
    let report = sidecar.join().unwrap();
    assert_eq!(report.stats.tasks, 10);
    assert_eq!(report.ending, Ending::Removed);
}
