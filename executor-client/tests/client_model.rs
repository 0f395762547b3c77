//! A client over real mapped files against a model of it: random orders of submits, collects, tickets and restarts.
//!
//! The model is a queue of slots from the oldest one that is not free. It says what is accepted, what is full, which
//! completion comes next and what is in it. The sidecar runs in this process; before the model is asked whether a lane is
//! full, all that was submitted has ended, so that nothing depends on who was faster.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{
    Client, Completion, InstanceName, LaneStatus, Status, SubmitError, TaskDescriptor, Ticket, WaitError,
};
use executor_shm::core::Registry;
use executor_shm::core::idle::IdleStrategy;
use executor_shm::{Ending, Sidecar, SidecarHandle};
use proptest::prelude::*;
use proptest::sample::Index;

const CAPACITY: usize = 8;
const BUFFER: usize = 128;
const FAIL_SAFE: Duration = Duration::from_secs(60);

fn start(instance: &InstanceName) -> SidecarHandle {
    let mut registry = Registry::builder();
    registry.handler(1, "reverse", |_, request, response| {
        if let Some(room) = response.reserve(request.len()) {
            room.copy_from_slice(request);
            room.reverse();
        }
        Ok(())
    });
    let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap()).pinned(false);
    let builder = builder.capacity(CAPACITY as u32).request_bytes(BUFFER as u32).response_bytes(BUFFER as u32);
    builder.lanes(2).idle(IdleStrategy::Yield).start().unwrap()
}

/// What holds a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    /// A completion that nobody has collected.
    Plain,
    /// A ticket that somebody has.
    Ticket,
    /// Nothing any more.
    Free,
}

#[derive(Clone, Debug)]
struct Task {
    number: u64,
    payload: Vec<u8>,
    held: Held,
}

/// Dropped in this order: the client lets go of its lane, then the sidecar stops, then what is left of it goes.
struct Bench {
    client: Client,
    sidecar: Option<SidecarHandle>,
    instance: Instance,
    first_id: Option<u64>,
    submitted: u64,
    /// From the oldest slot that is not free.
    slots: VecDeque<Task>,
    tickets: Vec<(Ticket, Task)>,
}

/// A name of its own; the files of it that a failure left are removed.
struct Instance(InstanceName);

impl Drop for Instance {
    fn drop(&mut self) {
        let prefix = format!("executor.{}.", self.0);
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("model-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let instance = Instance(InstanceName::new(&name).unwrap());
        let sidecar = start(&instance.0);
        let client = Client::connect_timeout(&instance.0, FAIL_SAFE).unwrap();
        let (slots, tickets) = (VecDeque::new(), Vec::new());
        Self { client, sidecar: Some(sidecar), instance, first_id: None, submitted: 0, slots, tickets }
    }

    /// Waits until everything submitted has ended.
    fn settle(&self) {
        let begun = Instant::now();
        while self.sidecar.as_ref().unwrap().stats().tasks < self.submitted {
            assert!(begun.elapsed() < FAIL_SAFE, "tasks do not end");
            std::thread::yield_now();
        }
    }

    fn submit(&mut self, payload: Vec<u8>, how: How) {
        self.settle();
        while self.slots.front().is_some_and(|task| task.held == Held::Free) {
            self.slots.pop_front();
        }
        let number = self.submitted;
        let descriptor = TaskDescriptor::new(1).user_data(number);
        let held = if matches!(how, How::Ticket | How::LentTicket) { Held::Ticket } else { Held::Plain };
        let task = Task { number, payload, held };
        let result = match how {
            How::Plain => self.client.try_submit(&descriptor, &task.payload).map(|id| (id, None)),
            How::Ticket => {
                self.client.submit_ticket(&descriptor, &task.payload).map(|ticket| (ticket.task_id(), Some(ticket)))
            }
            How::Batch => {
                let batch = self.client.try_submit_batch([(descriptor, &task.payload[..])]);
                assert_eq!(batch.accepted, usize::from(batch.first.is_some()));
                batch.first.map(|id| (id, None)).ok_or_else(|| batch.refused.unwrap())
            }
            How::Lent | How::LentTicket => self.client.request(&descriptor, task.payload.len()).map(|mut loan| {
                loan.bytes_mut().copy_from_slice(&task.payload);
                if held == Held::Plain {
                    (loan.submit(), None)
                } else {
                    let ticket = loan.submit_ticket();
                    (ticket.task_id(), Some(ticket))
                }
            }),
        };
        if task.payload.len() > BUFFER {
            let length = task.payload.len();
            assert_eq!(result.unwrap_err(), SubmitError::TooLong { task: descriptor, length, limit: BUFFER });
            return;
        }
        if self.slots.len() == CAPACITY {
            assert_eq!(result.unwrap_err(), SubmitError::Full(descriptor));
            return;
        }
        let (id, ticket) = result.unwrap();
        let first = *self.first_id.get_or_insert(id.as_u64());
        assert_eq!(id.as_u64(), first + number);
        self.tickets.extend(ticket.map(|ticket| (ticket, task.clone())));
        self.slots.push_back(task);
        self.submitted += 1;
        assert!(self.client.in_flight() >= self.slots.iter().filter(|task| task.held != Held::Free).count() as u64);
    }

    fn release(&mut self, number: u64) {
        self.slots.iter_mut().find(|task| task.number == number).unwrap().held = Held::Free;
    }

    fn collect(&mut self) {
        self.settle();
        let next = self.slots.iter().find(|task| task.held == Held::Plain).cloned();
        let found = self.client.try_collect().unwrap();
        match (found, next) {
            (None, None) => {}
            (Some(completion), Some(task)) => {
                compare(&completion, &task);
                self.release(task.number);
            }
            (found, next) => panic!("{found:?} where the model has {next:?}"),
        }
    }

    fn wait(&mut self, which: Index) {
        if self.tickets.is_empty() {
            return;
        }
        let (mut ticket, task) = self.tickets.swap_remove(which.index(self.tickets.len()));
        compare(&self.client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap(), &task);
        assert_eq!(self.client.try_wait(&mut ticket).unwrap_err(), WaitError::AlreadyTaken);
        self.release(task.number);
    }

    fn abandon(&mut self, which: Index) {
        if !self.tickets.is_empty() {
            let (ticket, task) = self.tickets.swap_remove(which.index(self.tickets.len()));
            drop(ticket);
            self.release(task.number);
        }
    }

    fn restart(&mut self) {
        // A stop serves what was submitted before it in the lanes that were noticed by then.
        let begun = Instant::now();
        while self.client.state() == LaneStatus::Claimed {
            assert!(begun.elapsed() < FAIL_SAFE, "the lane is not noticed");
            std::thread::yield_now();
        }
        let sidecar = self.sidecar.take().unwrap();
        sidecar.stop();
        let ending = sidecar.join().unwrap().ending;
        assert_eq!(ending, Ending::Kept { attached: 1, unanswered: 0 });
        self.sidecar = Some(start(&self.instance.0));
    }
}

fn compare(completion: &Completion<'_>, task: &Task) {
    assert_eq!((completion.status(), completion.attempt()), (Status::Done, 1));
    assert_eq!(completion.user_data(), task.number, "another task's completion");
    let mut reversed = task.payload.clone();
    reversed.reverse();
    assert_eq!(completion.response().to_vec(), reversed);
    let mut pieces = Vec::new();
    completion.response().chunks(&mut [0; 17], |piece| pieces.extend_from_slice(piece));
    assert_eq!(pieces, reversed);
}

#[derive(Clone, Copy, Debug)]
enum How {
    Plain,
    Ticket,
    Batch,
    Lent,
    LentTicket,
}

#[derive(Clone, Debug)]
enum Action {
    Submit(Vec<u8>, How),
    Collect,
    Wait(Index),
    Abandon(Index),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let how = prop::sample::select(vec![How::Plain, How::Ticket, How::Batch, How::Lent, How::LentTicket]);
    prop_oneof![
        60 => (prop::collection::vec(any::<u8>(), 0..BUFFER + 4), how).prop_map(|(payload, how)| Action::Submit(payload, how)),
        40 => Just(Action::Collect),
        15 => any::<Index>().prop_map(Action::Wait),
        10 => any::<Index>().prop_map(Action::Abandon),
        1 => Just(Action::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_answers_as_its_model_does(actions in prop::collection::vec(action(), 1..200)) {
        let mut bench = Bench::new();
        for action in actions {
            match action {
                Action::Submit(payload, how) => bench.submit(payload, how),
                Action::Collect => bench.collect(),
                Action::Wait(which) => bench.wait(which),
                Action::Abandon(which) => bench.abandon(which),
                Action::Restart => bench.restart(),
            }
        }
    }
}
