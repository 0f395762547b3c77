//! Completions of plain tasks come in order, each once, as a stream and as an event that is never down while one is there.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use executor_client::{AsyncClient, CompletionFd, OwnedCompletion, Status, TaskDescriptor, TokioCompletions};
use executor_tests::block_on::{block_on, poll_once};
use executor_tests::handlers::ECHO;
use executor_tests::instance::TestInstance;
use executor_tests::process;
use executor_tests::{FAIL_SAFE, until};
use futures_core::Stream;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const ECHOED: TaskDescriptor = TaskDescriptor::new(ECHO);
const TASKS: u64 = 10_000;

fn connect(instance: &TestInstance) -> AsyncClient {
    AsyncClient::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn next<S: Stream + Unpin>(stream: &mut S) -> impl Future<Output = Option<S::Item>> + Unpin + '_ {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context))
}

/// Submits a numbered plain task, waiting for room.
async fn submit(client: &AsyncClient, number: u64) {
    client.submit_plain(&ECHOED.user_data(number), number.to_le_bytes()).await.unwrap();
}

#[track_caller]
fn assert_number(completion: &OwnedCompletion, number: u64) {
    assert_eq!((completion.status(), completion.user_data()), (Status::Done, number));
    assert_eq!(completion.read(), Some(number));
}

/// Whether a descriptor is readable now, or within a time.
fn is_readable(fd: &CompletionFd, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
}

fn fail_safe() -> u16 {
    FAIL_SAFE.as_millis() as u16
}

#[test]
fn a_stream_hands_over_each_completion_once_and_in_order_however_often_it_is_dropped() {
    let instance = TestInstance::new("stream-dropped");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "8"]);
    let client = connect(&instance);
    let (mut submitted, mut collected) = (0, 0);
    while collected < 3000 {
        let mut ticket = None;
        while submitted < 3000
            && client.try_submit_plain(&ECHOED.user_data(submitted), &submitted.to_le_bytes()).is_ok()
        {
            submitted += 1;
            if submitted % 5 == 0 {
                ticket = client.try_submit(&ECHOED, b"a ticket in between").ok();
            }
        }
        let mut stream = client.completions();
        for _ in 0..1 + collected % 3 {
            if collected < submitted {
                assert_number(&block_on(next(&mut stream)).unwrap().unwrap(), collected);
                collected += 1;
            }
        }
        if let std::task::Poll::Ready(completion) = poll_once(&mut next(&mut stream)) {
            assert_number(&completion.unwrap().unwrap(), collected);
            collected += 1;
        }
        drop(stream);
        if let Some(ticket) = ticket {
            assert_eq!(block_on(ticket).unwrap().response(), b"a ticket in between");
        }
    }
    assert_eq!(client.try_collect().unwrap().map(|completion| completion.task_id()), None);
}

#[test]
fn a_stream_makes_room_for_those_who_submit_beside_it() {
    let instance = TestInstance::new("stream-room");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "8"]);
    let client = connect(&instance);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut stream = client.completions();
    let submitting = runtime.spawn(async move {
        for number in 0..TASKS {
            submit(&client, number).await;
        }
    });
    let collecting = runtime.spawn(async move {
        for number in 0..TASKS {
            assert_number(&next(&mut stream).await.unwrap().unwrap(), number);
        }
    });
    runtime.block_on(submitting).unwrap();
    runtime.block_on(collecting).unwrap();
    assert_eq!(executor_client::overslept(), 0, "a wake-up was lost");
}

/// What a loop does between two looks at its descriptor.
fn race(of: &str, mut wait: impl FnMut(&CompletionFd)) {
    let instance = TestInstance::new(of);
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "64"]);
    let client = connect(&instance);
    let fd = client.completion_fd().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let collected = Arc::clone(&seen);
    let submitting = std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(7);
        let mut number = 0;
        while number < TASKS {
            for _ in 0..random.u64(1..4).min(TASKS - number) {
                block_on(submit(&client, number));
                number += 1;
            }
            // No later completion makes good for one that was not told of.
            until("all collected", || collected.load(Acquire) == number);
            // From while the collector is about to find nothing to so late that all sides sleep.
            let most = 1 << random.u32(0..14);
            (0..random.u32(0..most)).for_each(|_| std::hint::spin_loop());
        }
    });
    while seen.load(Acquire) < TASKS {
        wait(&fd);
        while let Some(completion) = fd.try_collect().unwrap() {
            assert_number(&completion, seen.fetch_add(1, Release));
        }
    }
    submitting.join().unwrap();
    assert!(!is_readable(&fd, PollTimeout::ZERO), "nothing is there");
    assert_eq!(executor_client::overslept(), 0, "a wake-up was lost");
}

#[test]
fn a_poller_is_told_of_each_completion() {
    race("event-level", |fd| assert!(is_readable(fd, fail_safe().into()), "down while a completion is there"));
}

#[test]
fn a_poller_that_is_told_of_edges_hears_of_each_completion() {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let mut is_added = false;
    race("event-edge", |fd| {
        if !std::mem::replace(&mut is_added, true) {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 1)).unwrap();
        }
        let count = epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(fail_safe())).unwrap();
        assert_eq!(count, 1, "no edge while a completion is there");
    });
}

#[test]
fn a_reader_of_the_event_may_clear_it_before_it_collects() {
    race("event-read", |fd| {
        assert!(is_readable(fd, fail_safe().into()), "down while a completion is there");
        assert_eq!(nix::unistd::read(fd, &mut [0; 8]).unwrap(), 8);
    });
}

#[test]
fn tokio_waits_for_the_event_beside_its_own() {
    let instance = TestInstance::new("event-tokio");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "8"]);
    let client = connect(&instance);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let collecting = {
        let fd = client.completion_fd().unwrap();
        runtime.spawn(async move {
            let completions = TokioCompletions::new(fd).unwrap();
            for number in 0..TASKS {
                if number % 100 == 0 {
                    completions.ready().await.unwrap();
                    let early = tokio::time::timeout(std::time::Duration::ZERO, completions.next()).await;
                    if let Ok(completion) = early {
                        assert_number(&completion.unwrap().unwrap(), number);
                        continue;
                    }
                }
                assert_number(&completions.next().await.unwrap().unwrap(), number);
            }
        })
    };
    let submitting = runtime.spawn(async move {
        for number in 0..TASKS {
            submit(&client, number).await;
        }
    });
    runtime.block_on(async {
        let all = async {
            submitting.await.unwrap();
            collecting.await.unwrap();
        };
        tokio::time::timeout(FAIL_SAFE, all).await.expect("a completion was not told of");
    });
}

#[test]
fn an_event_is_up_from_the_first_completion_until_somebody_sees_that_there_is_none() {
    let instance = TestInstance::new("event-rules");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
    let client = connect(&instance);
    // The watcher has seen these before anybody asks for the event.
    (0..3).for_each(|number| block_on(submit(&client, number)));
    block_on(client.try_submit(&ECHOED, b"").unwrap()).unwrap();
    let fd = client.completion_fd().unwrap();
    for number in 0..3 {
        assert!(is_readable(&fd, PollTimeout::ZERO), "number {number} is there");
        assert_number(&fd.try_collect().unwrap().unwrap(), number);
    }
    assert!(fd.try_collect().unwrap().is_none());
    assert!(!is_readable(&fd, PollTimeout::ZERO), "somebody saw that there is none");

    // Whoever else collects has the same event.
    let other = client.completion_fd().unwrap();
    block_on(submit(&client, 3));
    assert!(is_readable(&fd, fail_safe().into()) && is_readable(&other, PollTimeout::ZERO));
    assert_number(&client.try_collect().unwrap().unwrap(), 3);
    assert!(client.try_collect().unwrap().is_none());
    assert!(!is_readable(&fd, PollTimeout::ZERO) && !is_readable(&other, PollTimeout::ZERO));

    // Who is told of edges hears of each completion, also if the ones before are still there.
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 1)).unwrap();
    for number in 10..13 {
        block_on(submit(&client, number));
        assert_eq!(epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(fail_safe())).unwrap(), 1);
    }
    for number in 10..13 {
        assert_number(&fd.try_collect().unwrap().unwrap(), number);
    }
    drop(epoll);

    // Descriptors that are gone cost nothing, and later ones begin anew.
    drop((fd, other));
    block_on(submit(&client, 4));
    until("the completion", || client.try_collect().unwrap().is_some_and(|completion| completion.user_data() == 4));
    let fd = client.completion_fd().unwrap();
    block_on(submit(&client, 5));
    until("the completion", || {
        assert!(is_readable(&fd, fail_safe().into()));
        fd.try_collect().unwrap().is_some_and(|completion| completion.user_data() == 5)
    });
}
