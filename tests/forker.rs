#![allow(unsafe_code, reason = "forks, to see what a child may do with its parent's client")]
//! A producer that forks with a client in its hands: `forker INSTANCE use`, `forker INSTANCE orphan`, which have one thread;
//! `forker INSTANCE futures`, whose other threads hold locks as they fork.

#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use executor_client::{
    AsyncClient, Client, CollectError, InstanceName, LaneStatus, Status, SubmitError, TaskDescriptor, TaskFuture,
    WaitError,
};
use executor_tests::FAIL_SAFE;
use executor_tests::block_on::block_on;
use executor_tests::handlers::{ECHO, Sum, tell};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let instance = InstanceName::new(&arguments.next().unwrap()).unwrap();
    if std::env::args().next_back().unwrap() == "futures" {
        return fork_futures(&instance);
    }
    let mut client = Client::connect_timeout(&instance, FAIL_SAFE).unwrap();
    let echo = TaskDescriptor::new(ECHO);
    let mut ticket = client.submit_ticket(&echo, b"before").unwrap();
    let orphan = arguments.next().unwrap() == "orphan";

    // SAFETY: the process has this one thread, so the child may do whatever its parent might.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            assert_eq!(client.state(), LaneStatus::Lost);
            assert!(!client.is_executor_alive());
            assert_eq!(client.try_submit(&echo, b"x").unwrap_err(), SubmitError::Forked(echo));
            assert_eq!(client.request(&echo, 8).unwrap_err(), SubmitError::Forked(echo));
            assert_eq!(client.try_collect().unwrap_err(), CollectError::Forked);
            assert_eq!(client.wait(&mut ticket).unwrap_err(), WaitError::Collect(CollectError::Forked));
            drop(ticket);
            tell(format_args!("child refused"));
            if orphan {
                until_told();
            }
            drop(client);
            // A client of the child's own is as good as any.
            if !orphan {
                let mut own = Client::connect_timeout(&instance, FAIL_SAFE).unwrap();
                serve(&mut own, b"child");
                tell(format_args!("child served"));
            }
            return;
        }
        ForkResult::Parent { child } => child,
    };
    if orphan {
        tell(format_args!("parent waits"));
        until_told();
        return;
    }
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    assert_eq!(client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().response().to_vec(), b"before");
    serve(&mut client, b"after");
    tell(format_args!("parent served {}", client.lane_number()));
    until_told();
    serve(&mut client, b"much later");
    tell(format_args!("parent served again"));
}

/// Forks while other threads submit and await.
fn fork_futures(instance: &InstanceName) {
    let (client, echo) = (AsyncClient::connect_timeout(instance, FAIL_SAFE).unwrap(), TaskDescriptor::new(ECHO));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            while !stop.load(Relaxed) {
                assert!(block_on(block_on(client.submit(&echo, b"busy")).unwrap()).unwrap().is_done());
            }
        });
        for round in 0..50 {
            let mut future = block_on(client.submit(&echo, b"before")).unwrap();
            // SAFETY: the child uses of its parent's locks only those that the C library and this one keep whole over a
            // fork, which is what is tested here; if it hangs, the test says so.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => {
                    refuse(&client, &mut future);
                    drop((client.clone(), future));
                    let own = AsyncClient::connect_timeout(instance, FAIL_SAFE).unwrap();
                    let answer = block_on(block_on(own.submit(&echo, b"child")).unwrap()).unwrap();
                    assert_eq!(answer.response(), b"child");
                    drop(own);
                    // Nothing of the parent's threads is ended in here.
                    // SAFETY: it ends the process and returns to nobody.
                    unsafe { nix::libc::_exit(0) }
                }
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "child {round}");
                    assert_eq!(block_on(future).unwrap().response(), b"before");
                }
            }
        }
        tell(format_args!("child refused\nchild served"));
        stop.store(true, Relaxed);
        busy.join().unwrap();
    });
    assert!(block_on(client.try_submit(&echo, b"after").unwrap()).unwrap().is_done());
    tell(format_args!("parent served"));
}

/// Everything that a client of the parent's may be asked for.
fn refuse(client: &AsyncClient, future: &mut TaskFuture) {
    let echo = TaskDescriptor::new(ECHO);
    assert_eq!(block_on(future).unwrap_err(), WaitError::Collect(CollectError::Forked));
    assert_eq!(client.try_submit(&echo, b"x").unwrap_err(), SubmitError::Forked(echo));
    assert_eq!(client.try_submit_plain(&echo, b"x").unwrap_err(), SubmitError::Forked(echo));
    assert_eq!(block_on(client.submit(&echo, b"x")).unwrap_err(), SubmitError::Forked(echo));
    assert_eq!(block_on(client.submit_plain(&echo, b"x")).unwrap_err(), SubmitError::Forked(echo));
    assert_eq!(client.try_collect().unwrap_err(), WaitError::Collect(CollectError::Forked));
    assert!(client.completion_fd().is_err() && block_on(client.call::<Sum>(&[1, 2])).is_err());
    assert_eq!((client.state(), client.is_executor_alive()), (LaneStatus::Lost, false));
}

fn serve(client: &mut Client, payload: &[u8]) {
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), payload).unwrap();
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.response().to_vec()), (Status::Done, payload.to_vec()));
}

/// Waits until the test closes the pipe, which it also does by ending.
fn until_told() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
