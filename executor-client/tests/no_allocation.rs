#![allow(unsafe_code, reason = "a global allocator that counts is the only way to see an allocation")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
//! The path of a task through shared memory allocates nothing, neither in the producer nor in the sidecar's worker.
//!
//! Both sides run in this process, so one allocator sees both. The housekeeping thread is not watched: it serves no task.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use executor_client::{Client, InstanceName, SliceSpec, Status, TaskDescriptor, TaskSpec};
use executor_shm::core::{Handler, Registry};
use executor_shm::{Sidecar, SidecarHandle};

thread_local! {
    /// Whether this thread is watched. Constant and without a destructor, so looking at it allocates nothing.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Calls to the allocator by watched threads, giving back included.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Watched workers that have said so.
static WORKERS: AtomicU32 = AtomicU32::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if WATCHED.get() {
        CALLS.fetch_add(1, Relaxed);
    }
}

// SAFETY: every call is passed on to `System` as it came, and counting touches no allocated memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System` by `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Sum;

impl TaskSpec for Sum {
    const ID: u32 = 2;
    const NAME: &'static str = "sum";
    const SCHEMA: u32 = 1;
    type Args = [u64; 2];
    type Output = u64;
}

struct Wide;

impl TaskSpec for Wide {
    const ID: u32 = 3;
    const NAME: &'static str = "wide";
    const SCHEMA: u32 = 1;
    type Args = [u64; 16];
    type Output = [u64; 16];
}

struct Total;

impl SliceSpec for Total {
    const ID: u32 = 5;
    const NAME: &'static str = "total";
    const SCHEMA: u32 = 1;
    type Header = u64;
    type Item = u64;
    type Output = u64;
}

const PEEK: TaskDescriptor = TaskDescriptor::new(4);
const ECHO: TaskDescriptor = TaskDescriptor::new(1);
const UNKNOWN: TaskDescriptor = TaskDescriptor::new(4000);
const PATIENCE: Duration = Duration::from_secs(60);

fn start(instance: &InstanceName) -> SidecarHandle {
    let mut registry = Registry::builder();
    // Its state is made on the worker's thread, which is watched from then on.
    registry.add(Handler::per_worker(1, "echo", |_| {
        WATCHED.set(true);
        WORKERS.fetch_add(1, Relaxed);
        |_, request, response| {
            response.write(request);
            Ok(())
        }
    }));
    registry.typed::<Sum>(|_, [a, b]| Ok(a.wrapping_add(*b)));
    registry.typed::<Wide>(|_, words| Ok(words.map(|word| word + 1)));
    registry.add(Handler::in_place(4, "peek", |_, request, response| {
        assert!(request.is_shared());
        response.write_value(&request.fold_words(0, u64::wrapping_add));
        Ok(())
    }));
    registry.slice::<Total>(|_, header, items| Ok(items.iter().sum::<u64>() + header));
    let builder = Sidecar::builder().instance(instance.clone()).capacity(16).pinned(false);
    builder.registry(registry.build().unwrap()).start().unwrap()
}

/// Tasks in flight at once, more than the lane takes; each answer is compared.
fn pipeline(client: &mut Client, tasks: u64, payload: &mut [u8], answer: &mut [u8]) {
    let (mut submitted, mut collected) = (0, 0);
    while collected < tasks {
        while submitted < tasks {
            payload[..8].copy_from_slice(&submitted.to_le_bytes());
            match client.try_submit(&ECHO.user_data(submitted), payload) {
                Ok(_) => submitted += 1,
                Err(error) => {
                    assert!(error.is_full());
                    break;
                }
            }
        }
        while let Some(completion) = client.try_collect().unwrap() {
            assert_eq!(completion.response().copy_to(answer), payload.len());
            assert_eq!(completion.user_data(), collected);
            assert_eq!(answer[..8], collected.to_le_bytes());
            collected += 1;
        }
        std::hint::spin_loop();
    }
}

/// Everything a producer does with tasks, with payloads and answers that lie inline and that do not.
fn use_it(client: &mut Client, rounds: u64) {
    let mut answer = [0; 256];
    for round in 0..rounds {
        assert_eq!(client.call::<Sum>(&[round, 1]), Ok(round + 1));

        let mut ticket = client.submit_ticket(&ECHO, &[1; 24]).unwrap();
        let mut second = client.submit_ticket(&ECHO, &[2; 200]).unwrap();
        drop(client.submit_ticket(&ECHO, &[3; 200]).unwrap());
        assert_eq!(client.wait_timeout(&mut second, PATIENCE).unwrap().response().copy_to(&mut answer), 200);
        assert_eq!(client.wait(&mut ticket).unwrap().status(), Status::Done);
        let mut unknown = client.submit_ticket(&UNKNOWN, &[]).unwrap();
        assert!(!client.wait(&mut unknown).unwrap().is_done());

        let mut peek = client.submit_ticket(&PEEK, &[1; 64]).unwrap();
        assert_eq!(client.wait(&mut peek).unwrap().response().read::<u64>(), Some(0x0808_0808_0808_0808));

        let mut loan = client.request(&ECHO, 100).unwrap();
        loan.bytes_mut().fill(4);
        let mut lent = loan.submit_ticket();
        assert_eq!(client.wait(&mut lent).unwrap().response().copy_to(&mut answer), 100);
        assert!(client.try_submit(&ECHO, &[0; 257]).is_err(), "longer than a request buffer");
    }
    pipeline(client, 100 * rounds, &mut [5; 24], &mut answer);
    pipeline(client, 100 * rounds, &mut [6; 256], &mut answer);
}

/// A contract with buffers. Contracts are compared with the sidecar's table whenever they change, which allocates.
fn call_wide(client: &mut Client, rounds: u64) {
    for round in 0..rounds {
        assert_eq!(client.call_timeout::<Wide>(&[round; 16], PATIENCE), Ok([round + 1; 16]));
    }
}

/// The same with items.
fn call_items(client: &mut Client, rounds: u64) {
    for round in 0..rounds {
        assert_eq!(client.call_slice::<Total>(&round, &[1; 31]), Ok(round + 31));
        assert_eq!(client.call_slice_timeout::<Total>(&round, &[2], PATIENCE), Ok(round + 2));
    }
}

/// Calls to the allocator while `tasks` runs, once what is made once is made.
fn calls(client: &mut Client, tasks: fn(&mut Client, u64)) -> u64 {
    tasks(client, 3);
    WATCHED.set(true);
    let before = CALLS.load(Relaxed);
    tasks(client, 200);
    let calls = CALLS.load(Relaxed) - before;
    drop(Box::new(7));
    let control = CALLS.load(Relaxed) - before - calls;
    WATCHED.set(false);
    assert_eq!(control, 2, "an allocation is not seen");
    calls
}

#[test]
fn a_task_allocates_nothing_on_its_way_through_shared_memory() {
    let instance = InstanceName::new(&format!("still-{}", std::process::id())).unwrap();
    let sidecar = start(&instance);
    let mut client = Client::connect_timeout(&instance, PATIENCE).unwrap();
    let counts = [use_it, call_wide, call_items].map(|tasks| calls(&mut client, tasks));
    drop(client);
    drop(sidecar);
    assert_eq!(WORKERS.load(Relaxed), 1, "the worker was not watched");
    assert_eq!(counts, [0; 3], "calls to the allocator");
}
