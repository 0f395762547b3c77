//! What is recorded is true: each row is compared with what the producer saw of the same task, under load, after kills and
//! for everything else that can happen to an instance.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{Client, Status, TaskDescriptor};
use executor_shm::core::Priority;
use executor_shm::core::histogram::{bucket_high, bucket_of};
use executor_shm::core::recorder::{ERROR_TEXT, ERRORS, ErrorEntry, Event, EventKind, SlowTask};
use executor_shm::core::status::{Interrupted, Poison};
use executor_shm::inspect::{Inspection, Inspector, ProducerView, Recorded};
use executor_shm::layout::lane::SLOTS;
use executor_tests::handlers::{
    ECHO, FAIL, FAILURE, PANIC, PANIC_TEXT, REFUSE, SIZED, SLOW, SLOW_IDEMPOTENT, UNKNOWN, WIDE,
};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};
use executor_tests::{FAIL_SAFE, until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
/// All that is recorded of tasks.
const ALL_SLOW: [&str; 2] = ["--slow-after", "0"];

fn sidecar(instance: &TestInstance, options: &[&str]) -> Process {
    process::sidecar(SIDECAR, instance, options)
}

/// A client that submits before its lane is served: that wait is measured as well.
fn connect(instance: &TestInstance) -> Client {
    Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn inspector(instance: &TestInstance) -> Inspector {
    Inspector::open(instance.name()).unwrap()
}

/// A task whose every figure follows from its lane and its position.
struct Plan {
    handler_id: u32,
    payload: Vec<u8>,
    status: u8,
    response_bytes: u32,
}

impl Plan {
    fn of(lane: u32, position: u64) -> Self {
        let (handler_id, payload) = match position % 64 {
            63 => (PANIC, vec![0; (position % 31) as usize]),
            odd if odd % 4 == 3 => (REFUSE, refusal(lane, position).into_bytes()),
            _ => (ECHO, vec![lane as u8; (position % 97) as usize + lane as usize]),
        };
        let (status, response_bytes) = match handler_id {
            PANIC => (Status::Panicked, PANIC_TEXT.len()),
            REFUSE => (Status::Failed { code: 7 }, payload.len()),
            _ => (Status::Done, payload.len()),
        };
        Self { handler_id, payload, status: status.code(), response_bytes: response_bytes as u32 }
    }
}

/// A few texts that differ, and in each of them numbers that do not count.
fn refusal(lane: u32, position: u64) -> String {
    format!(
        "order {position} of lane {lane} is {}",
        ["late", "lost", "unknown, as far as anybody can tell"][position as usize / 4 % 3]
    )
}

/// What a producer saw of its lane.
#[derive(Default)]
struct Ledger {
    lane: u32,
    /// The id of its first task.
    first: Option<u64>,
    /// By position: stamps, and whether it ran.
    tasks: Vec<([u64; 3], bool)>,
}

impl Ledger {
    /// Submits and collects as planned until it is over.
    fn keep(client: &mut Client, over: &AtomicBool) -> Self {
        let mut ledger = Self { lane: client.lane_number(), ..Self::default() };
        ledger.go_on(client, || over.load(Relaxed));
        ledger
    }

    /// The same for a while, and no task is in flight afterwards.
    fn go_on(&mut self, client: &mut Client, mut is_over: impl FnMut() -> bool) {
        let mut submitted = self.tasks.len() as u64;
        let mut begun = Instant::now();
        loop {
            let is_over = is_over();
            let mut is_full = is_over;
            while !is_full {
                let plan = Plan::of(self.lane, submitted);
                match client.try_submit(&TaskDescriptor::new(plan.handler_id), &plan.payload) {
                    Ok(task) => {
                        self.first.get_or_insert(task.as_u64());
                        submitted += 1;
                    }
                    Err(error) if error.is_full() => is_full = true,
                    Err(error) => panic!("{error}"),
                }
            }
            while let Some(completion) = client.try_collect().unwrap() {
                let ran = completion.status().code() == Plan::of(self.lane, self.tasks.len() as u64).status;
                assert!(ran || matches!(completion.status(), Status::Interrupted(_)), "{:?}", completion.status());
                self.tasks.push((completion.stamps(), ran));
                begun = Instant::now();
            }
            if is_over && self.tasks.len() as u64 == submitted {
                return;
            }
            assert!(begun.elapsed() < FAIL_SAFE, "nothing comes back");
            std::thread::yield_now();
        }
    }

    /// A row of a slow task is what its producer saw.
    fn prove(&self, task: &SlowTask) {
        let plan = Plan::of(self.lane, task.position);
        let (stamps, ran) = self.tasks[task.position as usize];
        assert!(ran, "{task:?} never ran");
        assert_eq!([task.submitted_at, task.started_at, task.completed_at], stamps, "{task:?}");
        assert_eq!(Some(task.task_id), self.first.map(|first| first + task.position), "{task:?}");
        assert_eq!((task.handler_id, task.status, task.attempt), (plan.handler_id, plan.status, 1), "{task:?}");
        assert_eq!(task.request_bytes as usize, plan.payload.len(), "{task:?}");
        assert_eq!(task.response_bytes, plan.response_bytes, "{task:?}");
    }
}

/// What copies of an instance, one after the other, have to agree in.
#[derive(Default)]
struct Copies {
    counts: BTreeMap<String, u64>,
    slow: BTreeMap<(u32, u64), SlowTask>,
    events: BTreeMap<(Option<u32>, bool, u64), Event>,
    torn: u32,
    copies: u32,
}

impl Copies {
    /// A count that only grows.
    fn grows(&mut self, what: String, count: u64) {
        let before = self.counts.get(&what).copied().unwrap_or(0);
        assert!(count >= before, "{what} went back from {before} to {count}");
        self.counts.insert(what, count);
    }

    fn before(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    fn look(&mut self, inspector: &Inspector) {
        let (view, recorded) = (inspector.look(), inspector.recorded());
        self.counts(&view);
        self.rows(&recorded, &view);
        self.copies += 1;
    }

    fn counts(&mut self, view: &Inspection) {
        let workers = view.workers.len() as u64;
        for worker in &view.workers {
            self.grows(format!("tasks of worker {}", worker.worker), worker.tasks);
            self.grows(format!("slow tasks of worker {}", worker.worker), worker.slow_tasks);
            let time = worker.time.unwrap();
            self.grows(format!("busy ticks of worker {}", worker.worker), time.busy_ticks);
            let all = view.clock.unwrap().now() - time.serves_since;
            assert!(time.busy_ticks <= all, "{} ticks busy of {all}", time.busy_ticks);
        }
        for handler in &view.handlers {
            let name = &handler.row.name;
            let (tasks, runs) = (handler.by_status.iter().sum::<u64>(), handler.run.count());
            let (tasks_before, runs_before) =
                (self.before(&format!("tasks of {name}")), self.before(&format!("runs of {name}")));
            // A task is counted by its status, then by its times: of one a worker this may be seen in between.
            assert!(runs + workers >= tasks_before, "{name}: {runs} runs, and {tasks_before} tasks before");
            assert!(runs_before <= tasks, "{name}: {runs_before} runs before, and {tasks} tasks");
            for (what, count) in [
                ("tasks", tasks),
                ("runs", runs),
                ("queue waits", handler.queue.count()),
                ("request bytes", handler.request_bytes),
                ("response bytes", handler.response_bytes),
            ] {
                self.grows(format!("{what} of {name}"), count);
            }
        }
        for lane in &view.lanes {
            let number = lane.lane;
            let (producer, started, completed) =
                (lane.producer.unwrap(), lane.started.unwrap(), lane.completed.unwrap());
            assert!(
                producer.submitted >= started && started >= completed && completed >= producer.credited,
                "{producer:?} {started} {completed}"
            );
            assert!(producer.submitted >= producer.collected && producer.submitted >= started + lane.depth.unwrap());
            assert!(producer.submitted - producer.credited >= lane.depth.unwrap(), "{lane:?}");
            assert!(started - completed <= 1, "lane {number}: {started} started, {completed} completed");
            for (what, count) in [
                ("submitted", producer.submitted),
                ("collected", producer.collected),
                ("credited", producer.credited),
                ("rejected", producer.rejected),
                ("started", started),
                ("totals", lane.total.count()),
                ("not done", lane.by_status.iter().sum()),
                ("request bytes", lane.request_bytes),
                ("response bytes", lane.response_bytes),
            ] {
                self.grows(format!("{what} of lane {number}"), count);
            }
        }
    }

    fn rows(&mut self, recorded: &Recorded, view: &Inspection) {
        self.torn += recorded.torn;
        for task in &recorded.slow {
            let wait = [task.unserved, task.asleep, task.late, task.wait_preempted, task.wait_stalled];
            let behind = task.behind_lane.ticks + task.behind_others.ticks;
            assert_eq!(wait.iter().sum::<u64>() + behind + task.wait_unexplained(), task.wait(), "{task:?}");
            assert_eq!(task.run_preempted + task.faulting + task.run_itself(), task.run(), "{task:?}");
            let known = *self.slow.entry((task.lane, task.position)).or_insert(*task);
            assert_eq!(known, *task, "a row that is whole is as it was");
        }
        let mut last: BTreeMap<(Option<u32>, bool), u64> = BTreeMap::new();
        for event in &recorded.events {
            let of_worker =
                matches!(event.kind, EventKind::SlowTask | EventKind::Slept | EventKind::RunAgain | EventKind::Gap);
            let row = (event.worker.filter(|_| of_worker), event.kind == EventKind::Slept);
            let known = *self.events.entry((row.0, row.1, event.number)).or_insert(*event);
            assert_eq!(known, *event, "a number is given once");
            let before = last.insert(row, event.number);
            assert!(before < Some(event.number), "{event:?} comes after number {before:?}");
        }
        self.grows("events".to_owned(), recorded.events_ever);
        self.grows("errors forgotten".to_owned(), recorded.errors_forgotten);
        let mut keys: Vec<u64> = recorded.errors.iter().map(|error| error.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), recorded.errors.len(), "an error is told once");
        for error in &recorded.errors {
            prove(error);
            if recorded.torn == 0 {
                self.grows(format!("errors {:x}", error.key), error.count);
                self.grows(format!("last of error {:x}", error.key), error.last_at);
            }
        }
        let of_refuse = |error: &&ErrorEntry| error.handler_id == REFUSE;
        let errors: u64 = recorded.errors.iter().filter(of_refuse).map(|error| error.count).sum();
        let tasks_before = self.before("tasks of refuse before");
        if recorded.torn == 0 {
            let workers = view.workers.len() as u64;
            assert!(errors + workers >= tasks_before, "{errors} errors, {tasks_before} tasks before");
        }
        let refused = view.handlers.iter().find(|handler| handler.row.id == REFUSE);
        self.counts.insert("tasks of refuse before".to_owned(), refused.map_or(0, |it| it.by_status.iter().sum()));
    }

    /// Every row that was ever seen is what the producers saw.
    fn prove(&self, ledgers: &[Ledger]) {
        let of = |lane: u32| ledgers.iter().find(|ledger| ledger.lane == lane).unwrap();
        self.slow.values().for_each(|task| of(task.lane).prove(task));
        for event in self.events.values().filter(|event| event.kind == EventKind::SlowTask) {
            let [position, total, wait, run] = event.values;
            let ([submitted_at, started_at, completed_at], _) = of(event.lane.unwrap()).tasks[position as usize];
            assert_eq!((event.at, total), (completed_at, completed_at - submitted_at), "{event:?}");
            assert_eq!((wait, run), (started_at - submitted_at, completed_at - started_at), "{event:?}");
            assert_eq!(event.handler_id, Plan::of(event.lane.unwrap(), position).handler_id, "{event:?}");
        }
    }
}

/// An error says what the task it was last of said.
fn prove(error: &ErrorEntry) {
    if error.status == Status::Interrupted(Interrupted::Killed).code() {
        return;
    }
    let plan = Plan::of(error.lane, error.position);
    assert_eq!((error.handler_id, error.status), (plan.handler_id, plan.status), "{error:?}");
    let text = if error.handler_id == PANIC { PANIC_TEXT.to_owned() } else { refusal(error.lane, error.position) };
    assert_eq!((error.text.as_str(), error.is_cut), (text.as_str(), false));
    assert!(error.count > 0 && error.first_at <= error.last_at && error.first_at > 0, "{error:?}");
}

/// A copy in a folder.
fn save(inspector: &Inspector, instance: &TestInstance) -> Inspector {
    let folder = instance.folder().join("copy");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    inspector
        .save(|saved| {
            let file = File::create_new(folder.join(&saved.name))?;
            let bytes: Vec<u8> = saved.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            file.set_len(saved.bytes)?;
            file.write_all_at(&bytes, 0)
        })
        .unwrap();
    Inspector::open_copy(instance.name(), &folder).unwrap()
}

/// Looks again and again while two producers keep two workers at full speed.
fn under_load(of: &str, looks: u32, mut look: impl FnMut(&mut Copies, &Inspector, &TestInstance)) {
    let instance = TestInstance::new(of);
    let _sidecar =
        sidecar(&instance, &[&ALL_SLOW[..], &["--workers", "2", "--capacity", "64", "--lanes", "2"]].concat());
    let over = AtomicBool::new(false);
    let mut copies = Copies::default();
    let ledgers: Vec<Ledger> = std::thread::scope(|scope| {
        let clients = [connect(&instance), connect(&instance)];
        let over = &over;
        let producers = clients.map(|mut client| scope.spawn(move || Ledger::keep(&mut client, over)));
        let stop = Stop(over);
        let inspector = inspector(&instance);
        for _ in 0..looks {
            look(&mut copies, &inspector, &instance);
        }
        drop(stop);
        producers.into_iter().map(|producer| producer.join().unwrap()).collect()
    });
    let tasks: usize = ledgers.iter().map(|ledger| ledger.tasks.len()).sum();
    println!(
        "{} copies of {tasks} tasks, {} slow ones and {} events seen, {} rows torn",
        copies.copies,
        copies.slow.len(),
        copies.events.len(),
        copies.torn
    );
    copies.prove(&ledgers);
    assert!(!copies.slow.is_empty() && copies.before("events") > 0, "there was something to see");
}

/// Ends the producers also where a look has panicked.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn copies_of_an_instance_at_full_speed_never_contradict_themselves_or_each_other_or_the_producers() {
    under_load("speed", 4000, |copies, inspector, _| copies.look(inspector));
}

#[test]
fn saved_copies_of_an_instance_at_full_speed_do_not_either() {
    under_load("saved", 200, |copies, inspector, instance| copies.look(&save(inspector, instance)));
}

#[test]
fn what_was_recorded_outlives_a_kill_and_the_next_start_goes_on_with_it() {
    let instance = TestInstance::new("outlives");
    instance.latch("held");
    let options = [&ALL_SLOW[..], &["--lanes", "2", "--capacity", "64"]].concat();
    let mut first = sidecar(&instance, &options);
    let mut client = connect(&instance);
    let mut ledger = Ledger { lane: client.lane_number(), ..Ledger::default() };
    let mut looks = 0;
    ledger.go_on(&mut client, || {
        looks += 1;
        looks > 200
    });
    let held = ledger.tasks.len() as u64;
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(SLOW), b"held").unwrap();
    first.expect("entered held");
    // The worker is in the handler, so nothing changes any more: what is there now has to be there after the kill.
    let before = (inspector(&instance).look(), inspector(&instance).recorded());
    first.kill();
    let after = (inspector(&instance).look(), inspector(&instance).recorded());
    assert_eq!(after.1, before.1);
    assert_eq!((after.1.torn, after.1.errors.len()), (0, 4));
    let kinds: Vec<EventKind> = after.1.events.iter().map(|event| event.kind).collect();
    for kind in [EventKind::Started, EventKind::LaneTaken, EventKind::SlowTask] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
    after.1.slow.iter().for_each(|task| ledger.prove(task));
    let lane = after.0.lanes.iter().find(|lane| lane.lane == ledger.lane).unwrap();
    let in_flight = lane.in_flight.unwrap();
    assert_eq!((in_flight.position, in_flight.handler_id, in_flight.length, in_flight.attempt), (held, SLOW, 4, 1));
    assert_eq!(counts(&after.0), counts(&before.0));
    assert_eq!(counts(&after.0)[0][0], held, "each task was counted");

    let _second = sidecar(&instance, &options);
    assert!(matches!(client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().status(), Status::Interrupted(_)));
    let refused = |recorded: &Recorded| {
        recorded.errors.iter().filter(|error| error.handler_id == REFUSE).map(|error| error.count).sum::<u64>()
    };
    let plan = Plan::of(ledger.lane, 3);
    let mut again = client.submit_ticket(&TaskDescriptor::new(REFUSE), &plan.payload).unwrap();
    client.wait_timeout(&mut again, FAIL_SAFE).unwrap();
    let last = || inspector(&instance).recorded();
    until("the error is counted", || refused(&last()) == refused(&before.1) + 1);
    until("both tasks are counted", || inspector(&instance).look().workers[0].tasks == held + 2);
    let view = inspector(&instance).look();
    let interrupted = usize::from(Status::Interrupted(Interrupted::Killed).code());
    let lane = view.lanes.iter().find(|lane| lane.lane == ledger.lane).unwrap();
    let slow = view.handlers.iter().find(|handler| handler.row.id == SLOW).unwrap();
    assert_eq!([view.stats.by_status, lane.by_status, slow.by_status].map(|counts| counts[interrupted]), [1; 3]);
    let recorded = last();
    let same = recorded.errors.iter().find(|error| error.handler_id == REFUSE && error.position == held + 1).unwrap();
    let known = before.1.errors.iter().find(|error| error.key == same.key).unwrap();
    assert_eq!((same.count, same.first_at), (known.count + 1, known.first_at), "it goes on where it was");
    let answered: Vec<&Event> = recorded.events.iter().filter(|event| event.kind == EventKind::Answered).collect();
    assert_eq!(answered.len(), 1, "the end of the held one");
    let code = u64::from(Status::Interrupted(Interrupted::Killed).code());
    assert_eq!(answered[0].values, [held, code, u64::from(Interrupted::Killed.code()), 0]);
    assert_eq!((answered[0].lane, answered[0].handler_id), (Some(ledger.lane), SLOW));
    assert!(recorded.events_ever > before.1.events_ever);
    let started: Vec<&Event> = recorded.events.iter().filter(|event| event.kind == EventKind::Started).collect();
    assert_eq!(started.iter().map(|event| event.values[0]).collect::<Vec<_>>(), [1, 2], "which start each was");
    assert!(started[1].number > started[0].number && started[1].at > started[0].at);
    for (now, then) in counts(&inspector(&instance).look()).into_iter().zip(counts(&before.0)) {
        assert!(now.iter().zip(&then).all(|(now, then)| now >= then), "{now:?} after {then:?}");
    }
    // Those of the first life that were slowest are so still, unless one of the second was slower.
    let kept = before.1.slow.iter().filter(|task| recorded.slow.contains(task)).count();
    assert!(kept + 2 >= before.1.slow.len(), "{kept} of {} slow tasks are there", before.1.slow.len());
}

/// Counts that only grow, and histograms.
fn counts(view: &Inspection) -> Vec<Vec<u64>> {
    let mut all: Vec<Vec<u64>> = view.workers.iter().map(|worker| vec![worker.tasks, worker.slow_tasks]).collect();
    for handler in &view.handlers {
        all.push(handler.by_status.to_vec());
        all.push(vec![handler.request_bytes, handler.response_bytes]);
        all.push(handler.queue.buckets().to_vec());
        all.push(handler.run.buckets().to_vec());
    }
    for lane in &view.lanes {
        all.push(lane.total.buckets().to_vec());
        all.push(vec![lane.request_bytes, lane.response_bytes]);
    }
    all
}

#[test]
fn a_kill_at_any_moment_leaves_rows_that_are_true_or_torn() {
    const KILLS: u32 = 30;
    let instance = TestInstance::new("torn");
    let options = [&ALL_SLOW[..], &["--lanes", "2", "--capacity", "64"]].concat();
    let mut serving = Some(sidecar(&instance, &options));
    let mut client = connect(&instance);
    let over = AtomicBool::new(false);
    let mut seen = Vec::new();
    let mut torn = 0;
    let ledger = std::thread::scope(|scope| {
        let producer = scope.spawn(|| Ledger::keep(&mut client, &over));
        let stop = Stop(&over);
        let inspector = inspector(&instance);
        let tasks = || inspector.look().workers[0].tasks;
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..KILLS {
            let enough = tasks() + random.u64(1..3000);
            until("some more tasks are done", || tasks() >= enough);
            serving.take().unwrap().kill();
            let recorded = inspector.recorded();
            torn += recorded.torn;
            assert!(recorded.torn <= KILLS, "{} rows torn", recorded.torn);
            serving = Some(sidecar(&instance, &options));
            seen.push((recorded, tasks()));
        }
        drop(stop);
        producer.join().unwrap()
    });
    println!("{} tasks through {KILLS} kills, rows torn in all: {torn}", ledger.tasks.len());
    let mut ever = 0;
    for (recorded, _) in &seen {
        recorded.slow.iter().for_each(|task| ledger.prove(task));
        recorded.errors.iter().for_each(prove);
        assert!(recorded.events_ever > ever, "numbers go on");
        ever = recorded.events_ever;
        let mut last: BTreeMap<(bool, bool), u64> = BTreeMap::new();
        for event in &recorded.events {
            let of_worker =
                matches!(event.kind, EventKind::SlowTask | EventKind::Slept | EventKind::RunAgain | EventKind::Gap);
            let before = last.insert((of_worker, event.kind == EventKind::Slept), event.number);
            assert!(before < Some(event.number), "{event:?} comes after number {before:?}");
        }
    }
    // A kill between a completion and its counting costs that count, and no more.
    until("all is counted", || {
        let counted = inspector(&instance).look().workers[0].tasks;
        counted <= ledger.tasks.len() as u64 && counted + u64::from(KILLS) >= ledger.tasks.len() as u64
    });
}

/// Tasks of every way to end, one after the other: handler, payload.
fn of_every_end() -> Vec<(u32, Vec<u8>)> {
    let mut tasks: Vec<(u32, Vec<u8>)> = (0..50).map(|length| (ECHO, vec![1; 3 * length])).collect();
    tasks.extend((0..20).map(|number| (REFUSE, format!("order {number} is late").into_bytes())));
    tasks.extend([
        (FAIL, b"abc".to_vec()),
        (PANIC, b"abcde".to_vec()),
        (SIZED, b"1234567".to_vec()),
        (SIZED, vec![0; 8]),
    ]);
    tasks.extend([
        (UNKNOWN, b"nobody".to_vec()),
        (WIDE, 100u32.to_le_bytes().to_vec()),
        (WIDE, 100_000u32.to_le_bytes().to_vec()),
    ]);
    tasks
}

/// What a client saw of one of them.
struct Seen {
    handler_id: u32,
    request_bytes: u64,
    status: Status,
    response_bytes: u64,
    stamps: [u64; 3],
}

impl Seen {
    /// Whether its handler was called.
    fn ran(&self) -> bool {
        !matches!(self.status, Status::Malformed(_) | Status::Expired | Status::Interrupted(_))
    }
}

fn run_all(client: &mut Client) -> Vec<Seen> {
    let each = of_every_end().into_iter().map(|(handler_id, payload)| {
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(handler_id), &payload).unwrap();
        let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
        let (status, stamps) = (completion.status(), completion.stamps());
        let is_too_long = matches!(status, Status::ResponseTooLong { .. });
        let response_bytes = if is_too_long { 0 } else { completion.response().len() as u64 };
        Seen { handler_id, request_bytes: payload.len() as u64, status, response_bytes, stamps }
    });
    let mut seen: Vec<Seen> = each.collect();
    // One whose deadline is over before it starts.
    let past = TaskDescriptor::new(ECHO).deadline(Duration::ZERO);
    let mut ticket = client.submit_ticket(&past, b"late").unwrap();
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    assert_eq!(completion.status(), Status::Expired);
    seen.push(Seen {
        handler_id: ECHO,
        request_bytes: 4,
        status: Status::Expired,
        response_bytes: 0,
        stamps: completion.stamps(),
    });
    seen
}

fn by_status<'a>(seen: impl Iterator<Item = &'a Seen>) -> [u64; Status::CODES] {
    let mut counts = [0; Status::CODES];
    seen.for_each(|task| counts[usize::from(task.status.code())] += 1);
    counts
}

#[test]
fn counts_bytes_and_times_are_exactly_those_of_the_tasks() {
    let instance = TestInstance::new("exact");
    let _sidecar =
        sidecar(&instance, &[&ALL_SLOW[..], &["--lanes", "2", "--capacity", "16", "--idle", "sleep"]].concat());
    let mut clients = [connect(&instance), connect(&instance)];
    let seen: Vec<Vec<Seen>> = clients.iter_mut().map(run_all).collect();
    let all: Vec<&Seen> = seen.iter().flatten().collect();
    let runs = all.iter().filter(|task| task.ran()).count() as u64;
    let inspector = inspector(&instance);
    // A completion is published before it is counted.
    until("all is counted", || {
        let view = inspector.look();
        let counted: u64 = view.lanes.iter().map(|lane| lane.total.count()).sum();
        view.workers[0].tasks == all.len() as u64 && counted == runs
    });
    until("the last is noted", || {
        inspector.recorded().errors.iter().any(|error| error.status == Status::Expired.code() && error.count == 2)
    });
    // At the latest after its tasks, where they left it no time.
    until("it has slept", || inspector.look().workers[0].sleep.asleep_ns > 0);
    let view = inspector.look();
    for handler in &view.handlers {
        let tasks = || all.iter().copied().filter(|task| task.handler_id == handler.row.id);
        let name = &handler.row.name;
        assert_eq!(handler.by_status, by_status(tasks()), "{name}");
        let sums = tasks()
            .filter(|task| task.ran())
            .fold((0, 0), |sum, task| (sum.0 + task.request_bytes, sum.1 + task.response_bytes));
        let runs = tasks().filter(|task| task.ran()).count() as u64;
        assert_eq!((handler.request_bytes, handler.response_bytes), sums, "{name}");
        assert_eq!((handler.run.count(), handler.queue.count()), (runs, runs), "{name}");
    }
    for (client, tasks) in clients.iter().zip(&seen) {
        let lane = view.lanes.iter().find(|lane| lane.lane == client.lane_number()).unwrap();
        let mut others = by_status(tasks.iter());
        others[usize::from(Status::Done.code())] = 0;
        assert_eq!(lane.by_status, others);
        let sums = tasks
            .iter()
            .filter(|task| task.ran())
            .fold((0, 0), |sum, task| (sum.0 + task.request_bytes, sum.1 + task.response_bytes));
        assert_eq!((lane.request_bytes, lane.response_bytes), sums);
        let longest = tasks.iter().filter(|task| task.ran()).map(|task| task.stamps[2] - task.stamps[0]).max();
        assert_eq!(lane.total.max(), longest.map(|longest| bucket_high(bucket_of(longest))));
    }
    let (worker, clock) = (&view.workers[0], view.clock.unwrap());
    let time = worker.time.unwrap();
    let ran: u64 = all.iter().filter(|task| task.ran()).map(|task| task.stamps[2] - task.stamps[1]).sum();
    assert_eq!(time.busy_ticks, ran, "the time inside handlers, by the stamps of their completions");
    let now = clock.now();
    let since = clock.ticks_to_ns(now - time.serves_since);
    let [busy, asleep, idle] = time.shares_ns(&clock, now);
    assert_eq!((busy, asleep), (clock.ticks_to_ns(ran), time.asleep_ns), "nothing had to be cut");
    assert_eq!(busy + asleep + idle, since);
}

#[test]
fn a_producers_line_is_what_its_client_did() {
    let instance = TestInstance::new("line");
    let latch = instance.latch("held");
    let mut sidecar = sidecar(&instance, &["--lanes", "2", "--capacity", "16"]);
    let mut client = connect(&instance);
    let number = client.lane_number();
    let inspector = inspector(&instance);
    // Nothing while the files are made anew.
    let line = || {
        let lane = inspector.look().lanes.into_iter().find(|lane| lane.lane == number).unwrap();
        let all = |it: ProducerView| [it.submitted, it.collected, it.credited, it.rejected];
        lane.producer.map_or([u64::MAX; 4], all)
    };
    let echo = TaskDescriptor::new(ECHO);
    assert_eq!(line(), [0; 4]);
    // A full lane, held by its first task.
    let mut held = client.submit_ticket(&TaskDescriptor::new(SLOW), b"held").unwrap();
    sidecar.expect("entered held");
    let mut tickets: Vec<_> = (0..15).map(|_| client.submit_ticket(&echo, b"x").unwrap()).collect();
    for _ in 0..3 {
        assert!(client.try_submit(&echo, b"x").unwrap_err().is_full());
    }
    assert_eq!(line(), [16, 0, 0, 3]);
    latch.open();
    // Out of order: the newest first; slots come back from the oldest on.
    for (taken, mut ticket) in (1..).zip(tickets.drain(8..).rev()) {
        client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
        assert_eq!(line(), [16, taken, 0, 3]);
    }
    client.wait_timeout(&mut held, FAIL_SAFE).unwrap();
    assert_eq!(line(), [16, 8, 1, 3]);
    // Seven that nobody wants are given back once room is needed, and are not collected.
    tickets.clear();
    client.try_submit(&echo, b"y").unwrap();
    assert_eq!(line(), [17, 8, 1, 3]);
    client.try_submit(&echo, b"y").unwrap();
    assert_eq!(line(), [18, 8, 16, 3]);
    for taken in 1..=2 {
        until("a completion", || client.try_collect().unwrap().is_some());
        assert_eq!(line(), [18, 8 + taken, 16 + taken, 3]);
    }
    // The same lane by futures.
    let shared = client.into_async();
    let futures: Vec<_> = (0..10).map(|_| shared.try_submit(&echo, b"z").unwrap()).collect();
    for future in futures {
        executor_tests::block_on::block_on(future).unwrap();
    }
    // The watcher tells it, if anybody ever had to wait; else the next submit does.
    let last = shared.try_submit(&echo, b"z").unwrap();
    assert_eq!(line(), [29, 20, 28, 3]);
    executor_tests::block_on::block_on(last).unwrap();
    let lane = inspector.look().lanes.into_iter().find(|lane| lane.lane == number).unwrap();
    assert_eq!((lane.started, lane.completed, lane.depth), (Some(29), Some(29), Some(0)));
    drop(shared);
    until("it is free", || line() == [0; 4]);
}

#[test]
fn errors_that_differ_in_numbers_are_one_and_each_other_one_is_told_apart_over_all_workers() {
    let instance = TestInstance::new("errors");
    let options =
        ["--lanes", "2", "--capacity", "16", "--workers", "2", "--response-bytes", "4096", "--request-bytes", "4096"];
    let _sidecar = sidecar(&instance, &[&ALL_SLOW[..], &options].concat());
    let mut clients = [connect(&instance), connect(&instance)];
    let seen: Vec<Vec<Seen>> = clients.iter_mut().map(run_all).collect();
    let inspector = inspector(&instance);
    let errors = || inspector.recorded().errors;
    let workers: Vec<u32> = inspector.look().lanes.iter().map(|lane| lane.placement.worker).collect();
    assert_eq!(workers, [0, 1], "each lane has its worker");
    let not_done = |status: Status| status != Status::Done;
    let failed = seen.iter().flatten().filter(|task| not_done(task.status)).count() as u64;
    until("all are noted", || errors().iter().map(|error| error.count).sum::<u64>() == failed);
    let told: Vec<(u32, u64, String)> =
        errors().into_iter().map(|error| (error.handler_id, error.count, error.text)).collect();
    for (handler_id, count, text) in [
        (REFUSE, 40, "order 19 is late"),
        (FAIL, 2, FAILURE),
        (PANIC, 2, PANIC_TEXT),
        (SIZED, 2, "the handler does not take a payload of this size"),
        (UNKNOWN, 2, "no handler has this id"),
        (WIDE, 2, "the response is longer than a response buffer"),
        (ECHO, 2, "the deadline had passed before the task could start"),
    ] {
        assert!(told.contains(&(handler_id, count, text.to_owned())), "no {count} times {text:?} in {told:?}");
    }
    assert_eq!(told.len(), 7, "{told:?}");
    // First and last: each between the stamps of the tasks it is of.
    let refused = errors().into_iter().find(|error| error.handler_id == REFUSE).unwrap();
    let of: Vec<&Seen> = seen.iter().flatten().filter(|task| task.handler_id == REFUSE).collect();
    let ends: Vec<u64> = of.iter().map(|task| task.stamps[2]).collect();
    assert!(refused.first_at >= ends[0] && refused.first_at < ends[1], "{refused:?}");
    assert!(refused.last_at >= ends[39], "{refused:?}");
    assert_eq!((refused.lane, refused.position), (clients[1].lane_number(), 69), "of the last one");

    // Texts of every kind, more than there is room for.
    let (client, mut first) = (&mut clients[0], 0);
    let odd: Vec<Vec<u8>> = [
        &b""[..],
        b"\xff\xfe no UTF-8 \x80",
        "\u{202e}right to left \u{1f980} \0 \x1b[31m".as_bytes(),
        "\u{e9}".repeat(2000).as_bytes(),
        &[b'7'; 3000],
        &[b'8'; 200],
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    for text in &odd {
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(REFUSE), text).unwrap();
        assert_eq!(client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().status(), Status::Failed { code: 7 });
        let position = ticket.task_id().sequence();
        let find = || {
            errors().into_iter().find(|error| (error.lane, error.handler_id) == (0, REFUSE) && error.last_at > first)
        };
        until("it is noted", || find().is_some());
        let error = find().unwrap();
        first = error.last_at;
        let whole = String::from_utf8_lossy(text);
        assert!(whole.starts_with(error.text.trim_end_matches('\u{fffd}')), "{error:?} of {position}");
        assert!(error.text.len() <= ERROR_TEXT + 2, "{error:?}");
        assert_eq!(error.is_cut, whole.len() > ERROR_TEXT, "{error:?}");
        assert_eq!(
            error.count,
            if text[..].starts_with(b"8") { 2 } else { 1 },
            "all digits are alike, and what is cut is: {error:?}"
        );
    }
    assert_eq!(inspector.recorded().errors_forgotten, 0);
    for number in 0..ERRORS + 10 {
        let text = format!("reason {}", "a".repeat(number));
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(REFUSE), text.as_bytes()).unwrap();
        client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    }
    let last = format!("reason {}", "a".repeat(ERRORS + 9));
    until("the last is noted", || errors().iter().any(|error| error.text == last));
    let recorded = inspector.recorded();
    let kept = recorded.errors.iter().filter(|error| error.text.starts_with("reason ")).count();
    assert_eq!(kept, ERRORS, "the worker that served the lane has the last ones");
    // 7 errors of the first part and 5 odd ones were there, and ten of the last part gave way again.
    assert_eq!(recorded.errors_forgotten, 7 + 5 + 10);
    assert!(recorded.errors.iter().any(|error| error.text == "order 19 is late"), "the other worker has its own");
}

#[test]
fn the_life_of_lanes_and_sidecars_is_told_in_events_in_order() {
    let instance = TestInstance::new("events");
    let options = ["--lanes", "2", "--capacity", "16"];
    let mut first = sidecar(&instance, &options);
    let inspector = inspector(&instance);
    let of_lane = |number: u32| {
        let lane = inspector.look().lanes.into_iter().find(|lane| lane.lane == number).unwrap();
        (lane.nonce, lane.state)
    };
    let told = || {
        let told = inspector.recorded().events.into_iter();
        told.filter(|event| !matches!(event.kind, EventKind::Slept | EventKind::Gap | EventKind::SlowTask))
            .collect::<Vec<Event>>()
    };
    let has = |kind: EventKind, count: usize| {
        move |events: &[Event]| events.iter().filter(|event| event.kind == kind).count() == count
    };
    let client = connect(&instance);
    let lane = client.lane_number();
    until("it is taken", || has(EventKind::LaneTaken, 1)(&told()));
    let taken = of_lane(lane).0;
    drop(client);
    until("it is free again", || has(EventKind::LaneReset, 1)(&told()));
    let reset = of_lane(lane).0;
    let mut next = connect(&instance);
    assert_eq!(next.lane_number(), lane, "the other one was never made");
    until("it is taken", || has(EventKind::LaneTaken, 2)(&told()));
    instance.latch("held");
    let mut ticket = next.submit_ticket(&TaskDescriptor::new(SLOW_IDEMPOTENT), b"held").unwrap();
    first.expect("entered held");
    let first_pid = u64::from(first.pid());
    first.kill();
    let latch = std::path::Path::new("held");
    let mut second = Process::start(&mut process::sidecar_command(SIDECAR, &instance, &options));
    assert_eq!(second.expect("entered held"), "2");
    drop(File::options().write(true).open(instance.folder().join(latch)).unwrap());
    assert_eq!(next.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().attempt(), 2);
    until("it runs again", || has(EventKind::RunAgain, 1)(&told()));
    let second_pid = u64::from(second.pid());
    // A wild write of its producer.
    let is_sq = |name: &String| name.contains(&format!(".lane-{lane}-")) && name.ends_with(".sq");
    let name = instance.files().into_iter().find(is_sq).unwrap();
    let file = File::options().write(true).open(format!("/dev/shm/{name}")).unwrap();
    file.write_all_at(&(1u64 << 40).to_le_bytes(), (SLOTS as u64 + 8) * 8).unwrap();
    until("it is poisoned", || has(EventKind::LanePoisoned, 1)(&told()));
    drop(next);
    until("it is free again", || has(EventKind::LaneReset, 2)(&told()));
    let last = of_lane(lane).0;
    let kept = connect(&instance); // so that the files stay
    until("it is taken", || has(EventKind::LaneTaken, 3)(&told()));
    second.terminate();
    second.expect("ended");
    let events = told();
    let owner = u64::from(std::process::id());
    let expected = [
        (EventKind::Started, None, vec![1, first_pid, 0]),
        (EventKind::LaneTaken, Some(lane), vec![taken, owner, Priority::Normal as u64]),
        (EventKind::LaneLeft, Some(lane), vec![]),
        (EventKind::LaneReset, Some(lane), vec![reset]),
        (EventKind::LaneTaken, Some(lane), vec![reset, owner, Priority::Normal as u64]),
        (EventKind::Started, None, vec![2, second_pid, 1]),
        (EventKind::RunAgain, Some(lane), vec![0, 2]),
        (EventKind::LanePoisoned, Some(lane), vec![u64::from(Poison::Damaged.code())]),
        (EventKind::LaneReset, Some(lane), vec![last]),
        (EventKind::LaneTaken, Some(lane), vec![last, owner, Priority::Normal as u64]),
        (EventKind::Stopping, None, vec![]),
    ];
    let found: Vec<_> = events.iter().map(|event| (event.kind, event.lane, event.values.to_vec())).collect();
    let padded = expected.map(|(kind, lane, mut values)| {
        values.resize(4, 0);
        (kind, lane, values)
    });
    assert_eq!(found, padded);
    for pair in events.windows(2) {
        assert!(pair[0].at <= pair[1].at, "{pair:?}");
    }
    drop(kept);
}

#[test]
fn without_recording_nothing_of_it_is_written_and_tasks_are_as_ever() {
    let instance = TestInstance::new("off");
    let options = ["--lanes", "2", "--capacity", "16", "--idle", "sleep", "--recording", "0"];
    let serving = sidecar(&instance, &options);
    let mut client = connect(&instance);
    let inspector = inspector(&instance);
    let seen = run_all(&mut client);
    assert!(seen.iter().all(|task| task.stamps[1] >= task.stamps[0]), "stamps are");
    until("it has slept and was woken", || {
        client.try_submit(&TaskDescriptor::new(ECHO), b"wake").unwrap();
        until("it is done", || client.try_collect().unwrap().is_some());
        inspector.look().workers[0].sleep.wakes > 3
    });
    drop(client);
    until("it is free", || inspector.look().lanes[0].resets == 1);
    let (view, recorded) = (inspector.look(), inspector.recorded());
    assert_eq!(recorded, Recorded::default(), "nothing, and it says so");
    assert_eq!((view.workers[0].time, view.workers[0].slow_tasks), (None, 0));
    for handler in &view.handlers {
        assert_eq!((handler.run.count(), handler.queue.count()), (0, 0));
        assert_eq!((handler.request_bytes, handler.response_bytes), (0, 0));
        let of = || seen.iter().filter(|task| task.handler_id == handler.row.id);
        let count = handler.by_status.iter().sum::<u64>();
        assert!(
            count == of().count() as u64 || handler.row.id == ECHO && count > of().count() as u64,
            "they are counted"
        );
    }
    assert!(view.lanes.iter().all(|lane| (lane.total.count(), lane.request_bytes, lane.response_bytes) == (0, 0, 0)));
    serving.terminate();
    let (_, status) = serving.rest();
    assert!(status.success());
}

#[test]
fn without_timing_there_are_errors_bytes_and_events_and_no_times() {
    let instance = TestInstance::new("untimed");
    let _serving =
        sidecar(&instance, &[&ALL_SLOW[..], &["--lanes", "2", "--capacity", "16", "--timing", "0"]].concat());
    let mut client = connect(&instance);
    let inspector = inspector(&instance);
    let seen = run_all(&mut client);
    let failed = seen.iter().filter(|task| task.status != Status::Done).count() as u64;
    until("all are noted", || inspector.recorded().errors.iter().map(|error| error.count).sum::<u64>() == failed);
    let (view, recorded) = (inspector.look(), inspector.recorded());
    assert!(recorded.slow.is_empty() && recorded.slow_after_ns == Some(0) && recorded.torn == 0);
    assert!(recorded.events.iter().any(|event| event.kind == EventKind::LaneTaken));
    assert!(recorded.errors.iter().all(|error| error.last_at >= error.first_at && error.first_at > 0));
    assert_eq!((view.workers[0].time, view.workers[0].slow_tasks), (None, 0), "idle would be a lie");
    let sums = seen
        .iter()
        .filter(|task| task.ran())
        .fold((0, 0), |sum, task| (sum.0 + task.request_bytes, sum.1 + task.response_bytes));
    assert_eq!((view.lanes[0].request_bytes, view.lanes[0].response_bytes), sums);
    assert!(view.handlers.iter().all(|handler| handler.run.count() == 0 && handler.queue.count() == 0));
}

#[test]
fn a_status_of_any_bytes_is_read_to_its_end_and_its_parts_add_up() {
    let instance = TestInstance::new("bytes");
    let _serving = sidecar(&instance, &[&ALL_SLOW[..], &["--lanes", "2", "--capacity", "16"]].concat());
    run_all(&mut connect(&instance));
    drop(save(&inspector(&instance), &instance));
    let path = instance.folder().join("copy").join(format!("executor.{}.status", instance.name()));
    let sound = std::fs::read(&path).unwrap();
    let begin = {
        let geometry = inspector(&instance).look().geometry;
        [geometry.meter() * 8, (geometry.meter() + geometry.meter_layout().recorder(0)) * 8]
    };
    let mut random = fastrand::Rng::with_seed(11);
    let (mut rows, mut torn) = (0, 0);
    for round in 0..200 {
        let mut bytes = sound.clone();
        // The recorders alone at first, which are a small part of all; everything that is counted later.
        let from = begin[usize::from(round < 150)];
        let damaged = if round % 10 == 0 { bytes.len() - from } else { 1 << random.u32(0..12) };
        for at in 0..damaged {
            let at = if round % 10 == 0 { from + at } else { random.usize(from..bytes.len()) };
            bytes[at] = random.u8(..);
        }
        std::fs::write(&path, &bytes).unwrap();
        let inspector = Inspector::open_copy(instance.name(), path.parent().unwrap()).unwrap();
        let (view, recorded) = (inspector.look(), inspector.recorded());
        let clock = view.clock.unwrap();
        for time in view.workers.iter().filter_map(|worker| worker.time) {
            let now = clock.now();
            let parts = time.shares_ns(&clock, now).iter().sum::<u64>();
            assert_eq!(parts, clock.ticks_to_ns(now.saturating_sub(time.serves_since)));
        }
        for task in &recorded.slow {
            let wait = [task.unserved, task.asleep, task.late, task.wait_preempted, task.wait_stalled];
            let behind = task.behind_lane.ticks + task.behind_others.ticks;
            assert_eq!(wait.iter().sum::<u64>() + behind + task.wait_unexplained(), task.wait(), "{task:?}");
            assert_eq!(task.run_preempted + task.faulting + task.run_itself(), task.run(), "{task:?}");
        }
        assert!(recorded.errors.iter().all(|error| error.text.len() <= 3 * ERROR_TEXT));
        rows += recorded.slow.len() + recorded.events.len() + recorded.errors.len();
        torn += recorded.torn;
        let mut saved = 0;
        let kept: Result<_, std::convert::Infallible> = inspector.save(|file| {
            saved += file.words.len();
            Ok(())
        });
        assert!(kept.is_ok() && saved * 8 >= bytes.len());
    }
    println!("{rows} rows read, {torn} torn");
    assert!(torn > 0, "some commit words were damaged");
}
