#![allow(unsafe_code, reason = "a signal handler of the program's own, which only a raw call installs")]
//! A program's own handler of a fatal signal is called as before, and if it lets the process live, nobody is charged.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use executor_client::{Client, LaneStatus, Status, TaskDescriptor};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::{Handler, Registry};
use executor_shm::{InstanceName, Sidecar};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

static CALLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn foreign(signal: i32) {
    assert_eq!(signal, Signal::SIGFPE as i32);
    CALLED.fetch_add(1, Relaxed);
}

#[test]
fn a_handler_of_the_program_is_called_and_a_survived_signal_is_charged_to_nobody() {
    let action = SigAction::new(SigHandler::Handler(foreign), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler is a function of this program and touches an atomic alone.
    unsafe { sigaction(Signal::SIGFPE, &action) }.unwrap();

    let name = InstanceName::new(&format!("foreign-{}", std::process::id())).unwrap();
    let mut registry = Registry::builder();
    registry.add(Handler::new(1, "signal", |_, _, _| {
        raise(Signal::SIGFPE).unwrap();
        Ok(())
    }));
    let registry = registry.build().unwrap();
    let start = || {
        let sidecar = Sidecar::builder().instance(name.clone()).pinned(false).idle(IdleStrategy::Yield).capacity(64);
        sidecar.registry(registry.clone()).start().unwrap()
    };
    let mut sidecar = start();
    let mut client = Client::connect(&name).unwrap();
    for life in 1..=2 {
        for _ in 0..5 {
            let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap();
            assert_eq!(client.wait(&mut ticket).unwrap().status(), Status::Done);
        }
        assert_eq!(CALLED.load(Relaxed), life * 5);
        drop(sidecar);
        sidecar = start();
        assert_eq!((sidecar.recovery().interrupted, client.state()), (0, LaneStatus::Served));
    }
}
