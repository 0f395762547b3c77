//! Every way a task can end, seen by its submitter.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scripted;

use std::cell::Cell;
use std::io::Write;
use std::panic::{panic_any, resume_unwind};
use std::thread::JoinHandle;

use executor_core::bytemuck::{self, CheckedBitPattern, NoUninit, Pod, Zeroable};
use executor_core::dispatch::Served;
use executor_core::idle::IdleStrategy;
use executor_core::local::{self, LocalCompletion, LocalLane, LocalProducer};
use executor_core::meter::{self, MeterLayout};
use executor_core::record::DescriptorRecord;
use executor_core::recorder::Recording;
use executor_core::registry::Since;
use executor_core::status::{HandlerChange, Interrupted, Malformed, Poison};
use executor_core::task::LaneFacts;
use executor_core::worker::{Control, QUANTUM, Worker, WorkerOptions};
use executor_core::{Handler, Priority, Registry, Status, TaskContext, TaskError, TaskId, TaskSpec};

use scripted::{Script, Setup, Task, monotonic};

const REQUEST_MAX: usize = 256;
const RESPONSE_MAX: usize = 128;

/// A worker on a thread of its own, with one lane to it.
struct Running {
    lane: LocalProducer,
    control: Control<LocalLane>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(registry: &Registry) -> Self {
        Self::start_worker(registry, 0)
    }

    fn start_worker(registry: &Registry, worker: u32) -> Self {
        let layout = MeterLayout { workers: worker as usize + 1, handlers: registry.handlers().len(), lanes: 1 };
        let (worker, mut control) = Worker::new(WorkerOptions {
            recording: Recording::default(),
            worker,
            clock: monotonic(),
            timed: true,
            idle: IdleStrategy::SpinThenYield,
            quantum: QUANTUM,
            request_bytes: 0, // less than the lane takes: the worker makes room for the lane
            meter: meter::heap(&layout),
            layout,
        });
        let (producer, lane) = local::lane(8, REQUEST_MAX, RESPONSE_MAX);
        let facts = LaneFacts {
            lane: 5,
            base: 100,
            instance_nonce: 77,
            generation: 0,
            priority: Priority::High,
            attached_at: 1,
            meter: layout.lane(0),
        };
        control.adopt(Box::new(Served::new(lane, facts))).unwrap();
        let registry = registry.clone();
        let thread = std::thread::spawn(move || worker.serve(&registry, &[], |_| {}).unwrap());
        Self { lane: producer, control, thread }
    }

    fn collect(&mut self) -> LocalCompletion {
        loop {
            if let Some(completion) = self.lane.try_collect() {
                return completion;
            }
            assert!(!self.thread.is_finished(), "the worker is gone");
            std::thread::yield_now();
        }
    }

    fn call(&mut self, handler_id: u32, payload: &[u8]) -> LocalCompletion {
        self.lane.try_submit(handler_id, payload, 0, 0).unwrap();
        self.collect()
    }

    fn status(&mut self, handler_id: u32, payload: &[u8]) -> Status {
        self.call(handler_id, payload).record.status().unwrap()
    }

    fn stop(mut self) {
        self.control.close().unwrap();
        self.thread.join().unwrap();
        assert!(self.control.take_returned().is_some());
    }
}

fn registry(handlers: Vec<Handler>) -> Registry {
    let mut builder = Registry::builder();
    for handler in handlers {
        builder.add(handler);
    }
    builder.build().unwrap()
}

/// Answers with as many bytes as its payload asks for, then with the payload's length.
fn sized() -> Handler {
    Handler::new(1, "sized", |_, request, response| {
        let wanted = u32::from_le_bytes(*request.first_chunk().ok_or(TaskError::new("four bytes name the size"))?);
        for i in 0..wanted {
            response.write(&[i as u8]);
        }
        Ok(())
    })
}

#[test]
fn responses_arrive_whole_up_to_the_limit_and_past_it_say_what_they_wanted() {
    let mut running = Running::start(&registry(vec![sized()]));
    for wanted in [0, 1, 23, 24, 25, 64, RESPONSE_MAX as u32] {
        let completion = running.call(1, &wanted.to_le_bytes());
        assert_eq!(completion.record.status(), Some(Status::Done), "{wanted} bytes");
        assert_eq!(completion.response(), (0..wanted).map(|i| i as u8).collect::<Vec<_>>());
    }
    for wanted in [RESPONSE_MAX as u32 + 1, 100_000] {
        let completion = running.call(1, &wanted.to_le_bytes());
        assert_eq!(completion.record.status(), Some(Status::ResponseTooLong { wanted }));
        assert_eq!((completion.response(), completion.record.attempt()), (&[][..], 1));
    }
    assert_eq!(running.status(1, &3u32.to_le_bytes()), Status::Done, "the worker serves on");
    running.stop();
}

#[test]
fn a_response_longer_than_four_gigabytes_wants_the_longest_length_there_is() {
    let greedy = Handler::new(1, "greedy", |_, _, response| {
        assert!(response.reserve(1 << 32).is_none());
        Ok(())
    });
    let mut running = Running::start(&registry(vec![greedy]));
    assert_eq!(running.status(1, &[]), Status::ResponseTooLong { wanted: u32::MAX });
    running.stop();
}

#[test]
fn payloads_arrive_whole_up_to_the_limit_and_past_it_are_malformed() {
    let echo = Handler::new(1, "echo", |_, request, response| {
        assert_eq!(request.as_ptr() as usize % 32, 0, "payloads are aligned");
        let sum: u32 = request.iter().map(|&byte| u32::from(byte)).sum();
        response.write_value(&[request.len() as u32, sum]);
        Ok(())
    });
    let mut running = Running::start(&registry(vec![echo]));
    for length in [0, 1, 31, 32, 33, 64, 255, REQUEST_MAX] {
        let payload: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        let sum: u32 = payload.iter().map(|&byte| u32::from(byte)).sum();
        let completion = running.call(1, &payload);
        assert_eq!(completion.record.status(), Some(Status::Done), "{length} bytes");
        assert_eq!(completion.response(), bytemuck::bytes_of(&[length as u32, sum]));
    }
    for length in [REQUEST_MAX + 1, 1 << 20, (1 << 24) - 1, 1 << 24, (1 << 24) + 5] {
        let completion = running.call(1, &vec![1; length]);
        assert_eq!(completion.record.status(), Some(Status::Malformed(Malformed::TooLong)), "{length} bytes");
        assert_eq!((completion.response(), completion.record.attempt()), (&[][..], 0));
    }
    running.stop();
}

#[test]
fn a_failure_carries_its_code_and_its_text() {
    let fail = Handler::new(1, "fail", |_, request, response| {
        response.write(&[1; 500]); // forgotten, as the task fails
        let text = std::str::from_utf8(request)?;
        if text.is_empty() {
            Err(TaskError::new("nothing asked"))
        } else {
            Err(TaskError::with_code(9, text.to_owned()))
        }
    });
    let mut running = Running::start(&registry(vec![fail]));
    let long = "x".repeat(RESPONSE_MAX + 1);
    for (request, code, text) in [
        ("", 0, "nothing asked"),
        ("short", 9, "short"),
        ("a text that does not lie inline any more", 9, "a text that does not lie inline any more"),
        (&long, 9, &long[..RESPONSE_MAX]),
    ] {
        let completion = running.call(1, request.as_bytes());
        assert_eq!(completion.record.status(), Some(Status::Failed { code }));
        assert_eq!(completion.response(), text.as_bytes());
        assert_eq!(completion.record.attempt(), 1);
    }
    let completion = running.call(1, &[0xff]);
    assert_eq!(completion.record.status(), Some(Status::Failed { code: 0 }));
    assert!(completion.response().starts_with(b"invalid utf-8 sequence"));
    running.stop();
}

/// A panic's payload that does not go quietly.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new(Bomb)); // and the next one neither
    }
}

#[test]
fn a_panic_carries_its_text_and_the_worker_serves_on() {
    let panics = Handler::new(1, "panics", |_, request, response| {
        response.write(&[1; 500]); // forgotten, as the task panics
        match request {
            [1] => resume_unwind(Box::new("a text")),
            [2] => resume_unwind(Box::new("a text that does not lie inline".to_owned())),
            [3] => resume_unwind(Box::new(17u32)),
            [4] => resume_unwind(Box::new(Bomb)),
            [5] => resume_unwind(Box::new("y".repeat(RESPONSE_MAX + 1))),
            [6] => {
                let nothing: [u8; 0] = [];
                response.write(&nothing[request.len()..]); // the runtime's own panic
                Ok(())
            }
            [7] => panic_any(Bomb),
            _ => {
                response.clear();
                Ok(())
            }
        }
    });
    let mut running = Running::start(&registry(vec![panics]));
    for (which, text) in [
        (1, "a text"),
        (2, "a text that does not lie inline"),
        (3, "a panic without a text"),
        (4, "a panic without a text"),
        (5, &"y".repeat(RESPONSE_MAX)),
        (6, "range start index 1 out of range for slice of length 0"),
        (7, "a panic without a text"),
    ] {
        let completion = running.call(1, &[which]);
        assert_eq!(completion.record.status(), Some(Status::Panicked), "panic {which}");
        assert_eq!(std::str::from_utf8(completion.response()), Ok(text));
        assert_eq!(completion.record.attempt(), 1);
        assert_eq!(running.status(1, &[0]), Status::Done);
    }
    running.stop();
}

#[test]
fn a_handler_that_panics_while_its_worker_closes_still_ends_its_task() {
    let panics = Handler::new(1, "panics", |_, _, _| resume_unwind(Box::new(Bomb)));
    let mut running = Running::start(&registry(vec![panics]));
    for _ in 0..8 {
        running.lane.try_submit(1, &[], 0, 0).unwrap();
    }
    running.control.close().unwrap();
    running.thread.join().unwrap();
    let statuses: Vec<_> = std::iter::from_fn(|| running.lane.try_collect()).map(|c| c.record.status()).collect();
    assert_eq!(statuses, [Some(Status::Panicked); 8]);
    assert!(running.control.take_returned().is_some());
}

/// What a handler of [`Flag`] gets: a type with illegal values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, NoUninit, CheckedBitPattern)]
#[repr(u8)]
enum Switch {
    Off = 0,
    On = 1,
}

struct Flag;
impl TaskSpec for Flag {
    const ID: u32 = 1;
    const NAME: &'static str = "flag";
    const SCHEMA: u32 = 1;
    type Args = Switch;
    type Output = Switch;
}

/// Aligned to more than an inline payload is.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Wide([u8; 64]);

struct Widest;
impl TaskSpec for Widest {
    const ID: u32 = 2;
    const NAME: &'static str = "widest";
    const SCHEMA: u32 = 1;
    type Args = Wide;
    type Output = Wide;
}

/// No bytes at all, but aligned to more than the place where an inline payload lies.
struct Empty;
impl TaskSpec for Empty {
    const ID: u32 = 3;
    const NAME: &'static str = "empty";
    const SCHEMA: u32 = 1;
    type Args = [Wide; 0];
    type Output = ();
}

#[test]
fn typed_handlers_never_see_a_payload_that_is_no_value_of_their_arguments() {
    let mut builder = Registry::builder();
    builder.typed::<Flag>(|_, flag| Ok(if *flag == Switch::Off { Switch::On } else { Switch::Off }));
    builder.typed::<Widest>(|_, wide| Ok(*wide));
    builder.typed::<Empty>(|_, []| Err(TaskError::with_code(3, "empty")));
    let mut running = Running::start(&builder.build().unwrap());
    assert_eq!(running.call(1, &[0]).response(), [1]);
    assert_eq!(running.call(1, &[1]).response(), [0]);
    for value in [2, 255] {
        let completion = running.call(1, &[value]);
        assert_eq!(completion.record.status(), Some(Status::Malformed(Malformed::BadValue)));
        assert_eq!((completion.response(), completion.record.attempt()), (&[][..], 0), "it never ran");
    }
    for length in [0, 2, 32, 33] {
        assert_eq!(running.status(1, &vec![0; length]), Status::Malformed(Malformed::WrongSize));
    }
    let wide: Vec<u8> = (0..64).collect();
    assert_eq!(running.call(2, &wide).response(), wide);
    assert_eq!(running.status(2, &wide[1..]), Status::Malformed(Malformed::WrongSize));
    assert_eq!(running.status(3, &[]), Status::Failed { code: 3 });
    assert_eq!(running.status(3, &[0]), Status::Malformed(Malformed::WrongSize));
    running.stop();
}

#[test]
fn a_handler_that_reads_in_place_sees_private_bytes_where_a_lane_has_no_view() {
    let peek = Handler::in_place(1, "peek", |_, request, response| {
        assert!(!request.is_shared());
        request.chunks(&mut [0; 16], |piece| response.write(piece));
        Ok(())
    });
    let mut running = Running::start(&registry(vec![peek]));
    let payload: Vec<u8> = (0..100).collect();
    for length in [0, 32, 33, 100] {
        assert_eq!(running.call(1, &payload[..length]).response(), &payload[..length]);
    }
    running.stop();
}

#[test]
fn a_handler_takes_the_sizes_it_names_and_no_others() {
    let sizes = Handler::new(1, "sizes", |_, _, _| Ok(())).request_bytes(3..=40);
    let mut running = Running::start(&registry(vec![sizes]));
    for (length, takes) in [(0, false), (2, false), (3, true), (33, true), (40, true), (41, false)] {
        let expected = if takes { Status::Done } else { Status::Malformed(Malformed::WrongSize) };
        assert_eq!(running.status(1, &vec![0; length]), expected, "{length} bytes");
    }
    running.stop();
}

#[test]
fn a_handler_that_nobody_registered_is_unknown() {
    let mut running = Running::start(&registry(vec![sized()]));
    for id in [0, 2, 4095, 4096, 1 << 16 | 1, u32::MAX] {
        let completion = running.call(id, &[0; 4]);
        assert_eq!(completion.record.status(), Some(Status::Malformed(Malformed::UnknownHandler)), "id {id}");
        assert_eq!(completion.record.attempt(), 0);
    }
    running.stop();
}

#[test]
fn a_task_past_its_deadline_does_not_run() {
    let mut running = Running::start(&registry(vec![Handler::new(1, "nothing", |_, _, _| Ok(()))]));
    let now = monotonic().now();
    for (deadline, expected) in
        [(1, Status::Expired), (now, Status::Expired), (u64::MAX, Status::Done), (0, Status::Done)]
    {
        running.lane.try_submit(1, &[], 0, deadline).unwrap();
        let record = running.collect().record;
        assert_eq!(record.status(), Some(expected), "deadline {deadline}");
        assert_eq!(record.completed_at() == record.started_at(), expected == Status::Expired);
    }
    running.stop();
}

#[test]
fn a_deadline_holds_with_timing_off_too() {
    let script = Script::new(Setup::default());
    script.adopt(&[Priority::Normal]);
    for deadline in [1, u64::MAX] {
        let record = DescriptorRecord::new(1, 0, 0, deadline);
        script.world.push(0, Task { record, payload: Vec::new(), attempt: 1 });
    }
    let world = script.serve_total(2, &scripted::registry(), |_| {});
    let log = world.log.borrow();
    assert_eq!([log[0].status(), log[1].status()], [Status::Expired, Status::Done]);
    assert_eq!((log[0].completion.started_at(), log[1].completion.completed_at()), (0, 0));
}

#[test]
fn each_worker_has_handler_state_of_its_own() {
    let counter = Handler::per_worker(1, "counter", |worker| {
        let mut calls = 0u32;
        move |context: &TaskContext<'_>, _: &[u8], response: &mut executor_core::Response<'_>| {
            calls += 1;
            assert_eq!(context.worker(), worker);
            response.write_value(&[worker, calls]);
            Ok(())
        }
    });
    let registry = registry(vec![counter]);
    let mut workers = [Running::start_worker(&registry, 0), Running::start_worker(&registry, 1)];
    for round in 1..=3u32 {
        for (number, running) in workers.iter_mut().enumerate() {
            assert_eq!(running.call(1, &[]).response(), bytemuck::bytes_of(&[number as u32, round]));
        }
    }
    workers.into_iter().for_each(Running::stop);
}

#[test]
fn a_worker_whose_own_state_cannot_be_made_serves_nothing_and_says_so() {
    fn make(_: u32) -> fn(&TaskContext<'_>, &[u8], &mut executor_core::Response<'_>) -> Result<(), TaskError> {
        resume_unwind(Box::new("no license"))
    }
    let layout = MeterLayout { workers: 1, handlers: 1, lanes: 1 };
    let (worker, _control) = Worker::<LocalLane, _>::new(WorkerOptions {
        recording: Recording::default(),
        worker: 0,
        clock: monotonic(),
        timed: false,
        idle: IdleStrategy::Spin,
        quantum: QUANTUM,
        request_bytes: 0,
        meter: meter::heap(&layout),
        layout,
    });
    let told = Cell::new(String::new());
    let registry = registry(vec![Handler::per_worker(1, "licensed", make)]);
    let error = worker.serve(&registry, &[], |ready| told.set(ready.unwrap_err().to_string())).unwrap_err();
    assert_eq!(error.to_string(), told.take());
    assert!(error.to_string().ends_with("no license"));
}

#[test]
fn a_handler_is_told_what_its_task_is() {
    let tells = Handler::new(1, "tells", |context, _, response| {
        writeln!(response, "{} {}", context.task_id(), context.key().instance_nonce)?;
        writeln!(response, "{} {} {}", context.handler_id(), context.attempt(), context.lane())?;
        writeln!(response, "{} {:?}", context.priority().name(), (context.submitted_at(), context.deadline()))?;
        let ordered = context.started_at().is_some_and(|at| 0 < at && at <= context.clock().now());
        write!(response, "{ordered}")?;
        Ok(())
    });
    let mut running = Running::start(&registry(vec![tells]));
    running.lane.try_submit(1, &[], 0, 0).unwrap();
    running.lane.try_submit(1, &[], 17, u64::MAX).unwrap();
    assert_eq!(running.collect().response(), b"5/100 77\n1 1 5\nhigh (None, None)\ntrue");
    let second = running.collect();
    let text = format!("5/101 77\n1 1 5\nhigh (Some(17), Some({}))\ntrue", u64::MAX);
    assert_eq!(std::str::from_utf8(second.response()), Ok(&*text));
    assert_eq!(second.record.submitted_at(), 17, "echoed");
    assert_eq!(TaskId::new(5, 101).to_string(), "5/101");
    running.stop();
}

/// Runs these tasks on one scripted lane and returns what became of them.
fn outcomes(tasks: Vec<Task>, since: &[Since], prepare: impl FnOnce(&Script)) -> Vec<(Status, u16)> {
    let script = Script::new(Setup::default());
    script.adopt(&[Priority::Normal]);
    tasks.into_iter().for_each(|task| script.world.push(0, task));
    prepare(&script);
    script.control.borrow_mut().close().unwrap();
    let world = script.serve(&scripted::registry(), since).0;
    let log = world.log.borrow();
    log.iter().map(|entry| (entry.status(), entry.completion.attempt())).collect()
}

fn again(mut task: Task) -> Task {
    task.attempt = 2;
    task
}

#[test]
fn unknown_flags_are_malformed_whatever_the_bit() {
    let tasks = (0..8)
        .map(|bit| {
            let mut task = Task::new(1);
            task.record.words[1] = DescriptorRecord::pack(1, 1 << bit, 0);
            task
        })
        .collect();
    assert_eq!(outcomes(tasks, &[], |_| {}), [(Status::Malformed(Malformed::BadFlags), 0); 8]);
}

#[test]
fn a_poisoned_lane_runs_nothing() {
    for poison in [Poison::CrashBudget, Poison::Damaged] {
        let outcomes = outcomes(vec![again(Task::new(1)), Task::new(1), Task::new(99)], &[], |script| {
            script.world.poison.set(Some(poison));
        });
        let poisoned = (Status::Poisoned(poison), 0);
        let lost = if poison == Poison::Damaged { Interrupted::PayloadLost } else { Interrupted::Attempts };
        assert_eq!(outcomes, [(Status::Interrupted(lost), 1), poisoned, poisoned]);
    }
}

#[test]
fn a_payload_that_cannot_be_read_never_runs() {
    let long = || {
        let mut task = Task::new(1);
        task.record = DescriptorRecord::new(1, 40, 0, 0);
        task
    };
    let outcomes =
        outcomes(vec![again(long()), long(), Task::new(1)], &[], |script| script.world.payload_lost.set(true));
    let expected = [
        (Status::Interrupted(Interrupted::PayloadLost), 1),
        (Status::Poisoned(Poison::Damaged), 0),
        (Status::Done, 1), // what lies inline cannot be lost
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn a_task_of_a_handler_that_changed_since_its_lane_attached_does_not_run() {
    // The lane attached under generation 3.
    for (generation, fresh) in [(3, Status::Done), (4, Status::HandlerChanged(HandlerChange::Changed))] {
        let since = [Since { id: 1, generation, dense: 0 }];
        assert_eq!(outcomes(vec![Task::new(1)], &since, |_| {})[0].0, fresh);
    }
    for (generation, fresh) in
        [(3, Status::Malformed(Malformed::UnknownHandler)), (4, Status::HandlerChanged(HandlerChange::Missing))]
    {
        let since = [Since { id: 9, generation, dense: 2 }];
        let changed = (Status::Interrupted(Interrupted::HandlerChanged), 1);
        assert_eq!(outcomes(vec![again(Task::new(9)), Task::new(9)], &since, |_| {}), [changed, (fresh, 0)]);
    }
    let gone = outcomes(vec![again(Task::new(50))], &[], |_| {});
    assert_eq!(gone, [(Status::Interrupted(Interrupted::HandlerChanged), 1)]);
}

#[test]
fn a_task_that_runs_again_says_its_attempt_and_forgets_its_deadline() {
    let mut late = again(Task::new(1));
    late.record = DescriptorRecord::new(1, 0, 0, 1);
    let outcomes = outcomes(vec![late, again(Task::new(2))], &[], |_| {});
    assert_eq!(outcomes, [(Status::Done, 2), (Status::Panicked, 2)]);
}

#[test]
fn tasks_of_one_lane_end_in_the_order_of_submission_whatever_becomes_of_them() {
    let which = Handler::new(1, "which", |_, request, response| {
        response.write(request);
        match request {
            [n, ..] if n % 5 == 0 => Err(TaskError::with_code(*n, "five")),
            [n, ..] if n % 7 == 0 => resume_unwind(Box::new("seven")),
            _ => Ok(()),
        }
    });
    let mut running = Running::start(&registry(vec![which]));
    let expected = |n: u8| match n {
        n if n.is_multiple_of(3) => Status::Malformed(Malformed::UnknownHandler),
        n if n.is_multiple_of(5) => Status::Failed { code: n },
        n if n.is_multiple_of(7) => Status::Panicked,
        _ => Status::Done,
    };
    let (mut submitted, mut collected) = (0u8, 0u8);
    while collected < 240 {
        let payload = vec![submitted; 1 + usize::from(submitted) % 60];
        let handler = if submitted.is_multiple_of(3) { 3 } else { 1 };
        if submitted < 240 && running.lane.try_submit(handler, &payload, 0, 0).is_ok() {
            submitted += 1;
            continue;
        }
        let completion = running.collect();
        assert_eq!(completion.record.status(), Some(expected(collected)), "task {collected}");
        if expected(collected) == Status::Done {
            assert_eq!(completion.response(), vec![collected; 1 + usize::from(collected) % 60]);
        }
        collected += 1;
    }
    assert_eq!(running.lane.in_flight(), 0);
    running.stop();
}

#[test]
fn clones_of_a_registry_share_their_handlers() {
    let registry = registry(vec![sized()]);
    let clone = registry.clone();
    assert!(std::ptr::eq(registry.get(1).unwrap(), clone.get(1).unwrap()));
    assert!(registry.get(2).is_none());
}
