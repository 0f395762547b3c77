#![allow(unsafe_code, reason = "forks, to see what a child may do with its parent's client")]
//! A producer that forks with a client in its hands: `forker INSTANCE use`, `forker INSTANCE orphan`. It has one thread.

#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::io::Read;

use executor_client::{Client, CollectError, InstanceName, LaneStatus, Status, SubmitError, TaskDescriptor, WaitError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{ECHO, tell};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let instance = InstanceName::new(&arguments.next().unwrap()).unwrap();
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

fn serve(client: &mut Client, payload: &[u8]) {
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), payload).unwrap();
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.response().to_vec()), (Status::Done, payload.to_vec()));
}

/// Waits until the test closes the pipe, which it also does by ending.
fn until_told() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
