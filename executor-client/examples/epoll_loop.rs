//! An epoll loop: completions come beside whatever else the program waits for, here its own requests on a socket. With
//! `executord run` in another terminal:
//!
//! ```sh
//! cargo run --release -p executor-client --example epoll_loop -- default 100000
//! ```

#![deny(unsafe_code)]

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Instant;

use executor_client::{AsyncClient, InstanceName, TaskDescriptor};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// The id of `echo` in the stock sidecar.
const ECHO: u32 = 1;
/// What the loop knows its descriptors by.
const REQUESTS: u64 = 1;
const COMPLETIONS: u64 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epoll_loop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let instance: InstanceName = arguments.next().as_deref().unwrap_or("default").parse()?;
    let requests = arguments.next().as_deref().unwrap_or("100000").parse()?;
    let begun = Instant::now();
    // Somebody who asks, a number at a time.
    let (ours, mut theirs) = UnixStream::pair()?;
    let asking = std::thread::spawn(move || (0..requests).try_for_each(|i: u64| theirs.write_all(&i.to_le_bytes())));
    let answered = serve(&instance, ours)?;
    asking.join().map_err(|_| "the asking thread panicked")??;
    println!("{answered} requests, {:.0} a second", answered as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

/// Serves what comes from the socket until its other end is closed; returns how many requests were answered.
fn serve(instance: &InstanceName, mut socket: UnixStream) -> Result<u64, Box<dyn Error>> {
    let client = AsyncClient::connect(instance)?;
    let completions = client.completion_fd()?;
    socket.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, REQUESTS))?;
    epoll.add(&completions, EpollEvent::new(EpollFlags::EPOLLIN, COMPLETIONS))?;

    let (mut submitted, mut answered, mut is_open) = (0, 0, true);
    let mut hears = true; // of the socket: not while the lane is full, since then requests wait in there
    let (mut request, mut filled) = ([0; 8], 0);
    while is_open || answered < submitted {
        let has_room = submitted - answered < client.capacity() as u64;
        if is_open && hears != has_room {
            hears = has_room;
            // Taken out, and not only without a flag: the end of the other side would be told all the same.
            if hears {
                epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, REQUESTS))?;
            } else {
                epoll.delete(&socket)?;
            }
        }
        let mut events = [EpollEvent::empty(); 4];
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        for event in events.iter().take(count) {
            match event.data() {
                // Until `None`, and only then back to the wait.
                COMPLETIONS => {
                    while let Some(completion) = completions.try_collect()? {
                        if completion.read() != Some(answered) {
                            return Err(
                                format!("task {} ended as {}", completion.task_id(), completion.status()).into()
                            );
                        }
                        answered += 1;
                    }
                }
                _ => match socket.read(&mut request[filled..]) {
                    Ok(0) => {
                        is_open = false;
                        epoll.delete(&socket)?;
                    }
                    Ok(length) => {
                        filled = (filled + length) % request.len();
                        if filled == 0 {
                            client.try_submit_plain(&TaskDescriptor::new(ECHO), &request)?;
                            submitted += 1;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_shm::{Sidecar, core::Registry};

    #[test]
    fn a_loop_answers_more_requests_than_a_lane_holds_in_order() -> Result<(), Box<dyn Error>> {
        let instance: InstanceName = format!("epoll-loop-{}", std::process::id()).parse()?;
        let mut registry = Registry::builder();
        registry.handler(ECHO, "echo", |_, request, response| {
            response.write(request);
            Ok(())
        });
        let sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build()?).pinned(false);
        let _sidecar = sidecar.capacity(64).start()?;
        let (ours, mut theirs) = UnixStream::pair()?;
        let asking = std::thread::spawn(move || {
            (0..10_000).try_for_each(|request: u64| theirs.write_all(&request.to_le_bytes()))
        });
        assert_eq!(serve(&instance, ours)?, 10_000);
        asking.join().map_err(|_| "the asking thread panicked")??;
        Ok(())
    }
}
