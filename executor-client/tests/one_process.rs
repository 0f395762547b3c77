//! Client and sidecar in one process, as users' own tests have them.
#![deny(unsafe_code)]
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

/// Waits for a state of the world; a minute without it is a failure. Where faults are there on purpose it is given up sooner.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    let patience = std::time::Duration::from_secs(if cfg!(executor_mutants) { 12 } else { 60 });
    while !holds() {
        assert!(begun.elapsed() < patience, "never came: {what}");
        std::thread::yield_now();
    }
}

fn start(instance: &InstanceName) -> SidecarHandle {
    let mut registry = Registry::builder();
    registry.handler(1, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    });
    registry.add(Handler::new(2, "panics", |_, _, _| panic!("no such luck")));
    Sidecar::builder()
        .instance(instance.clone())
        .registry(registry.build().unwrap())
        .pinned(false)
        .capacity(16)
        .start()
        .unwrap()
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

#[test]
fn tickets_and_plain_tasks_share_a_lane_without_taking_each_others_completions() {
    let instance = name("mixed");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    let echo = TaskDescriptor::new(1);
    let rounds = 3 * client.capacity() as u64;
    // Tickets alone, past the lane's end several times: the plain tasks' cursor must not point into later laps.
    for round in 0..rounds {
        let mut ticket = client.submit_ticket(&echo.user_data(round), &round.to_le_bytes()).unwrap();
        let completion = client.wait(&mut ticket).unwrap();
        assert_eq!((completion.user_data(), completion.response().read::<u64>()), (round, Some(round)));
    }
    assert!(client.try_collect().unwrap().is_none());
    for round in 0..rounds {
        client.try_submit(&echo.user_data(round), &round.to_le_bytes()).unwrap();
        drop(client.submit_ticket(&echo, b"nobody asks").unwrap());
        let mut ticket = client.submit_ticket(&echo, b"asked").unwrap();
        assert_eq!(client.wait(&mut ticket).unwrap().response().to_vec(), b"asked");
        assert_eq!(client.wait(&mut ticket).unwrap_err(), executor_client::WaitError::AlreadyTaken);
        let completion = client.try_collect().unwrap().expect("an earlier task of the lane than the one waited for");
        assert_eq!((completion.user_data(), completion.response().read::<u64>()), (round, Some(round)));
    }
    drop(client);
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().stats.tasks, rounds * 4);
}

#[test]
fn a_full_lane_hands_the_task_back_and_takes_it_once_a_completion_is_collected() {
    let instance = name("full");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    let echo = TaskDescriptor::new(1).user_data(7);
    let batch = client.try_submit_batch(std::iter::repeat_n((echo, &b"x"[..]), client.capacity() + 1));
    assert_eq!(batch.accepted, client.capacity());
    let refused = batch.refused.unwrap();
    assert!(refused.is_full());
    assert_eq!(refused.task(), &echo);
    until("a completion", || client.try_collect().unwrap().is_some());
    client.try_submit(&echo, b"x").unwrap();
    drop(client);
    drop(sidecar);
}

#[test]
fn a_handler_that_panics_ends_its_task_and_the_worker_serves_on() {
    let instance = name("panics");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(2), b"").unwrap();
    let completion = client.wait(&mut ticket).unwrap();
    assert_eq!((completion.status(), completion.text().as_str()), (Status::Panicked, "no such luck"));
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"still here").unwrap();
    assert_eq!(client.wait(&mut ticket).unwrap().response().to_vec(), b"still here");
    drop(client);
    drop(sidecar);
}

#[test]
fn a_start_that_fails_leaves_no_file() {
    let instance = name("fails");
    let mut registry = Registry::builder();
    registry.add(Handler::per_worker(1, "picky", |worker| {
        assert!(worker > 99, "not on this worker");
        |_: &executor_shm::core::TaskContext<'_>, _: &[u8], _: &mut executor_shm::core::Response<'_>| Ok(())
    }));
    let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap()).pinned(false);
    let error = builder.start().unwrap_err();
    assert!(error.to_string().contains("not on this worker"), "{error}");
    let error = Sidecar::builder().instance(instance.clone()).capacity(1000).start().unwrap_err();
    assert!(error.to_string().contains("power of two"), "{error}");
    let prefix = format!("executor.{instance}.");
    let left = std::fs::read_dir("/dev/shm")
        .unwrap()
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)));
    assert_eq!(left.count(), 0);
}

#[test]
fn submit_collecting_hands_over_in_order_what_it_must_take_to_make_room() {
    let instance = name("collecting");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    let (tasks, patience) = (10 * client.capacity() as u64, std::time::Duration::from_secs(60));
    let mut seen = Vec::new();
    for word in 0..tasks {
        let task = TaskDescriptor::new(1).user_data(word);
        client.submit_collecting(&task, &word.to_le_bytes(), patience, |done| seen.push(done.user_data())).unwrap();
    }
    client.close(patience, |done| seen.push(done.user_data())).unwrap();
    assert_eq!(seen, (0..tasks).collect::<Vec<_>>());
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed, "the closed client holds nothing any more");
}

#[test]
fn a_wait_for_room_that_cannot_come_ends_with_the_task_in_hand() {
    let instance = name("stuck");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    let held: Vec<_> =
        (0..client.capacity()).map(|_| client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap()).collect();
    let task = TaskDescriptor::new(1).user_data(9);
    let error = client.submit_collecting(&task, b"", std::time::Duration::ZERO, |_| ()).unwrap_err();
    let expected =
        executor_client::SubmitCollectingError::StillFull { task, source: executor_client::WaitError::Timeout };
    assert_eq!(error, expected);
    drop(held);
    client.submit_collecting(&task, b"", std::time::Duration::from_secs(60), |_| ()).unwrap();
    client.close(std::time::Duration::from_secs(60), |_| ()).unwrap();
    drop(sidecar);
}

#[test]
fn every_error_of_the_client_may_cross_threads_and_outlive_the_client() {
    fn portable<E: std::error::Error + Send + Sync + 'static>() {}
    portable::<executor_client::ConnectError>();
    portable::<executor_client::SubmitError>();
    portable::<executor_client::SubmitCollectingError>();
    portable::<executor_client::CollectError>();
    portable::<executor_client::WaitError>();
    portable::<executor_client::CallError>();
    portable::<executor_shm::StartError>();
    portable::<executor_shm::StopError>();
    fn sendable<T: Send>() {}
    sendable::<Client>();
    sendable::<executor_client::Ticket>();
}

#[test]
fn a_clean_removes_only_what_nobody_can_miss_unless_it_is_to_discard() {
    use executor_shm::clean::{CleanOptions, clean};
    let instance = name("clean");
    let removing = CleanOptions::default();
    assert_eq!(clean(&instance, removing).unwrap().files, 0, "nothing there is no error");

    let sidecar = start(&instance);
    let error = clean(&instance, removing).unwrap_err();
    assert!(error.to_string().contains("already running"), "{error}");
    let mut client = Client::connect(&instance).unwrap();
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap();
    client.wait(&mut ticket).unwrap();
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Kept { attached: 1, unanswered: 0 });

    let found = clean(&instance, removing).unwrap();
    assert_eq!((found.attached, found.unanswered, found.removed), (1, 0, false));
    let mut lost = client.submit_ticket(&TaskDescriptor::new(1), b"accepted while down").unwrap();
    assert_eq!(client.wait(&mut lost).unwrap_err(), executor_client::WaitError::ExecutorDown);
    let found = clean(&instance, CleanOptions { dry_run: true, discard: true }).unwrap();
    assert_eq!((found.attached, found.unanswered, found.removed), (1, 1, true));
    assert!(
        matches!(client.wait(&mut lost).unwrap_err(), executor_client::WaitError::ExecutorDown),
        "a dry run is dry"
    );

    // What a creator leaves that is killed before it gives its file a name.
    std::fs::write(format!("/dev/shm/executor.{instance}.tmp-0123456789abcdef"), b"half made").unwrap();
    clean(&instance, CleanOptions { dry_run: false, discard: true }).unwrap();
    assert_eq!(files(&instance), Vec::<String>::new());
    assert_eq!(client.wait(&mut lost).unwrap_err(), executor_client::WaitError::Discarded);
    let task = TaskDescriptor::new(1).user_data(3);
    assert_eq!(client.try_submit(&task, b"").unwrap_err(), executor_client::SubmitError::Discarded(task));
    assert_eq!(clean(&instance, removing).unwrap().files, 0);
}

#[test]
fn a_stop_without_time_to_drain_loses_nothing_of_a_producer_that_is_gone() {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;
    let instance = name("hurried");
    let runs = Arc::new(AtomicU32::new(0));
    let serve = |gate: Option<mpsc::Receiver<()>>, entered: mpsc::Sender<()>| {
        let (runs, gate) = (Arc::clone(&runs), std::sync::Mutex::new(gate));
        let mut registry = Registry::builder();
        registry.handler(1, "count", move |_, _, _| {
            runs.fetch_add(1, Relaxed);
            let _ = entered.send(());
            if let Some(gate) = &*gate.lock().unwrap() {
                let _ = gate.recv();
            }
            Ok(())
        });
        let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
        builder.pinned(false).capacity(16).drain_time(Duration::ZERO).start().unwrap()
    };
    let (open, gate) = mpsc::channel();
    let (entered, first_runs) = mpsc::channel();
    let sidecar = serve(Some(gate), entered);
    let mut client = Client::connect(&instance).unwrap();
    for _ in 0..5 {
        client.try_submit(&TaskDescriptor::new(1), b"").unwrap();
    }
    first_runs.recv().unwrap();
    drop(client);
    let look = || executor_shm::inspect::Inspector::open(&instance).unwrap().look();
    let draining = Some(executor_shm::state::LaneState::Draining);
    until("the lane drains", || look().lanes.iter().any(|lane| lane.state == draining));
    sidecar.stop();
    // The stop's time is up while the first task still runs; the gate opens only then.
    until("the stop begins", || look().state == Some(executor_shm::state::InstanceState::Closing));
    drop(open);
    let ending = sidecar.join().unwrap().ending;
    if runs.load(Relaxed) < 5 {
        assert_eq!(ending, Ending::Kept { attached: 0, unanswered: 1 });
        let (entered, _) = mpsc::channel();
        let sidecar = serve(None, entered);
        until("the next start serves the rest", || runs.load(Relaxed) == 5);
        sidecar.stop();
        sidecar.join().unwrap();
    }
    assert_eq!(runs.load(Relaxed), 5, "every accepted task runs exactly once");
    executor_shm::clean::clean(&instance, executor_shm::clean::CleanOptions::default()).unwrap();
}

#[test]
fn a_stop_keeps_what_was_submitted_to_a_lane_that_nobody_had_noticed_yet() {
    use executor_shm::attach::{Instance, Wish};
    use executor_shm::core::record::DescriptorRecord;
    use executor_shm::lane::{LaneShape, ProducerHalf};
    use std::sync::{Arc, Mutex, mpsc};
    let instance = name("unnoticed");
    let runs = Arc::new(AtomicU32::new(0));
    let serve = |gate: Option<mpsc::Receiver<()>>, entered: mpsc::Sender<()>| {
        let (runs, gate) = (Arc::clone(&runs), Mutex::new(gate));
        let mut registry = Registry::builder();
        registry.handler(1, "gate", move |_, _, _| {
            let _ = entered.send(());
            gate.lock().unwrap().as_ref().map(mpsc::Receiver::recv);
            Ok(())
        });
        registry.handler(2, "count", move |_, _, _| {
            runs.fetch_add(1, Relaxed);
            Ok(())
        });
        let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
        builder.pinned(false).capacity(16).start().unwrap()
    };
    let ((open, gate), (enter, entered)) = (mpsc::channel(), mpsc::channel());
    let sidecar = serve(Some(gate), enter);
    let opened = Instance::open(&instance, None).unwrap();
    let mut client = Client::connect(&instance).unwrap();
    client.try_submit(&TaskDescriptor::new(1), b"").unwrap();
    entered.recv().unwrap();
    drop(client);
    sidecar.stop();
    let state = || executor_shm::inspect::Inspector::open(&instance).unwrap().look().state;
    until("the stop begins", || state() == Some(executor_shm::state::InstanceState::Closing));
    // It found the instance before the stop, and comes and goes while the stop waits for the handler.
    let claim = opened.claim(Wish::default()).unwrap().expect("two FREE lanes are kept made");
    let mut producer = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(opened.geometry()));
    producer.submit(&DescriptorRecord::new(2, 0, 1, 0));
    drop((producer, claim.lock));
    drop(open);
    assert_eq!(sidecar.join().unwrap().ending, Ending::Kept { attached: 0, unanswered: 1 });
    assert_eq!(runs.load(Relaxed), 0, "no lane is handed over after a stop has begun");
    let sidecar = serve(None, mpsc::channel().0);
    until("the next start serves it", || runs.load(Relaxed) == 1);
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
}

#[test]
fn whoever_still_looks_at_an_instance_that_was_removed_finds_no_free_lane() {
    use executor_shm::attach::{Instance, Wish};
    let instance = name("removed");
    let sidecar = start(&instance);
    let opened = Instance::open(&instance, None).unwrap();
    let is_free =
        |holder: &(u32, executor_shm::state::LaneState, u64)| holder.1 == executor_shm::state::LaneState::Free;
    assert!(opened.holders().iter().any(is_free));
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
    // One that has opened the files of a FREE lane before they went gets its lock now, and looks again.
    assert!(!opened.holders().iter().any(is_free), "a lane without files is offered: {:?}", opened.holders());
    assert!(opened.claim(Wish::default()).unwrap().is_none());
}

#[test]
fn a_start_without_a_journal_beside_a_lane_that_is_held_is_refused_and_removes_nothing() {
    let instance = name("ownerless");
    let sidecar = start(&instance);
    let client = Client::connect(&instance).unwrap();
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Kept { attached: 1, unanswered: 0 });
    std::fs::remove_file(format!("/dev/shm/executor.{instance}.journal")).unwrap();
    let before = files(&instance);
    let error = Sidecar::builder().instance(instance.clone()).pinned(false).start().unwrap_err().to_string();
    assert!(error.contains(".sq has no journal beside it and is still in use"), "{error}");
    assert_eq!(files(&instance), before);
    drop(client);
    let sidecar = start(&instance);
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
    assert_eq!(files(&instance), Vec::<String>::new());
}

fn files(instance: &InstanceName) -> Vec<String> {
    let prefix = format!("executor.{instance}.");
    let names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(&prefix)).collect();
    names.sort();
    names
}

#[test]
fn a_start_beside_a_living_sidecar_without_a_journal_is_refused_and_removes_nothing() {
    let instance = name("headless");
    let ((enter, entered), (open, gate)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let gate = std::sync::Mutex::new(gate);
    let mut registry = Registry::builder();
    registry.handler(1, "gate", move |_, _, _| {
        let _ = enter.send(());
        let _ = gate.lock().unwrap().recv();
        Ok(())
    });
    let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
    let sidecar = builder.pinned(false).start().unwrap();
    let open = open; // dropped before the sidecar, which waits for its handler, also by a panic
    let mut client = Client::connect(&instance).unwrap();
    client.try_submit(&TaskDescriptor::new(1), b"").unwrap();
    // It ends by itself once it misses the name, however late this thread goes on, but not before its handler returns.
    entered.recv().unwrap();
    drop(client); // its lane would be reason enough to refuse
    let is_settled = |files: &[String]| files.len() == 8 && !files.iter().any(|name| name.contains(".tmp-"));
    until("two more lanes are made", || is_settled(&files(&instance)));
    std::fs::remove_file(format!("/dev/shm/executor.{instance}.journal")).unwrap();
    let before = files(&instance);
    let error = Sidecar::builder().instance(instance.clone()).pinned(false).start().unwrap_err();
    assert!(error.to_string().contains("still in use"), "{error}");
    assert_eq!(files(&instance), before);
    drop(open);
    sidecar.stop();
    sidecar.join().unwrap();
    executor_shm::clean::clean(&instance, executor_shm::clean::CleanOptions::default()).unwrap();
    assert_eq!(files(&instance), Vec::<String>::new());
}

#[test]
fn a_producer_whose_lane_was_damaged_is_told_so_instead_of_waiting_for_ever_and_ids_do_not_repeat() {
    use std::os::unix::fs::FileExt;
    let instance = name("damaged");
    let sidecar = start(&instance);
    let mut client = Client::connect(&instance).unwrap();
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Kept { attached: 1, unanswered: 0 });
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap();
    let sq = files(&instance).into_iter().find(|name| name.contains("lane-0") && name.ends_with(".sq")).unwrap();
    let path = format!("/dev/shm/{sq}");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 64], 0).unwrap();
    let sidecar = start(&instance);
    assert!(std::fs::exists(&path).unwrap(), "a lane's files were replaced under its owner");
    assert_eq!(client.wait(&mut ticket).unwrap_err(), executor_client::WaitError::Discarded);
    let (lost, lane) = (ticket.task_id(), client.lane_number());
    drop(client);
    until("the lane is made anew", || {
        let mut client = Client::connect(&instance).unwrap();
        // Answered before the client goes, so that the stop below finds nothing to leave behind.
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap();
        client.wait(&mut ticket).unwrap();
        assert_ne!(ticket.task_id(), lost, "an id was handed out twice");
        client.lane_number() == lane
    });
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
}

struct Sum<const ID: u32>;
impl<const ID: u32> executor_client::TaskSpec for Sum<ID> {
    const ID: u32 = ID;
    const NAME: &'static str = "sum";
    const SCHEMA: u32 = 1;
    type Args = [u64; 2];
    type Output = u64;
}

#[test]
fn a_contract_under_another_id_is_another_contract() {
    let instance = name("contracts");
    let mut registry = Registry::builder();
    registry.typed::<Sum<1>>(|_, [a, b]| Ok(a + b));
    registry.handler(2, "effects", |_, _, _| panic!("a task of another contract ran"));
    let sidecar = Sidecar::builder()
        .instance(instance.clone())
        .registry(registry.build().unwrap())
        .pinned(false)
        .start()
        .unwrap();
    let mut client = Client::connect(&instance).unwrap();
    for _ in 0..3 {
        assert_eq!(client.call::<Sum<1>>(&[3, 4]), Ok(7));
        let error = client.call::<Sum<2>>(&[3, 4]).unwrap_err();
        assert!(matches!(error, executor_client::CallError::Contract(_)), "{error}");
    }
    drop(client);
    drop(sidecar);
}

#[test]
fn a_lane_whose_count_is_damaged_runs_nothing_again() {
    use std::os::unix::fs::FileExt;
    let instance = name("count");
    let runs = std::sync::Arc::new(AtomicU32::new(0));
    let serve = || {
        let (mut registry, runs) = (Registry::builder(), std::sync::Arc::clone(&runs));
        registry.handler(1, "count", move |_, _, _| {
            runs.fetch_add(1, Relaxed);
            Ok(())
        });
        let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
        builder.pinned(false).capacity(16).start().unwrap()
    };
    let sidecar = serve();
    let mut client = Client::connect(&instance).unwrap();
    for _ in 0..3 {
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(1), b"").unwrap();
        client.wait(&mut ticket).unwrap();
    }
    let lane = client.lane_number();
    sidecar.stop();
    sidecar.join().unwrap();
    let journal = format!("/dev/shm/executor.{instance}.journal");
    let journal = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
    let geometry = executor_shm::inspect::Inspector::open(&instance).unwrap().look().geometry;
    journal.write_all_at(&u64::MAX.to_le_bytes(), geometry.journal_lane(lane) as u64 * 8).unwrap();
    let sidecar = serve();
    until("the lane is lost", || client.state() == executor_client::LaneStatus::Lost);
    drop(client);
    until("the lane is made anew", || {
        let mut client = Client::connect(&instance).unwrap();
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(2), b"").unwrap();
        client.wait(&mut ticket).unwrap();
        client.lane_number() == lane
    });
    assert_eq!(runs.load(Relaxed), 3, "a task ran twice");
    sidecar.stop();
    assert_eq!(sidecar.join().unwrap().ending, Ending::Removed);
}
