//! Paths of a producer's process: attach and submit.
//!
//! While it is stepped no sidecar runs: the life lock is held for one, and its files say RUNNING. The next start finds
//! what it left. Then the same kills beside a living sidecar, which must find out by itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_client::{Client, Status, TaskDescriptor};
use executor_shm::InstanceName;
use executor_shm::attach::Instance;
use executor_shm::core::record::COMMIT;
use executor_shm::state::LaneState;
use executor_shm::status::load_lane;

use crate::child::Child;
use crate::effects::{self, Effects};
use crate::image::{GEOMETRY, path, remove, slot, suffixes};
use crate::judge::{Attacher, sidecar};
use crate::keeper::free_lane;
use crate::marker::stop_here;
use crate::pass::{Course, Focus, Workshop};
use crate::scene::{Scene, make};
use crate::stand_in::hold;
use crate::starter::second_level;
use crate::subject::{Company, LEADER, Subject};
use crate::tally::{Finding, Key};
use crate::tasks::{Build, Kind, Task, hush_planned_panics};

const ALONE: Focus = (LEADER, Company::Nobody);
const PATIENCE: Duration = Duration::from_secs(30);

/// How a producer submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Loan,
    Ticket,
}

fn submit(client: &mut Client, way: Way, task: Task) {
    let descriptor = TaskDescriptor::new(task.kind.id());
    let payload = task.payload();
    match way {
        Way::Plain => drop(client.try_submit(&descriptor, &payload).unwrap()),
        Way::Ticket => drop(client.submit_ticket(&descriptor, &payload).unwrap()),
        Way::Loan => {
            let mut loan = client.request(&descriptor, payload.len()).unwrap();
            loan.bytes_mut().copy_from_slice(&payload);
            loan.submit();
        }
    }
}

/// A producer that is about to connect; after the next marker it submits, after another it is done.
fn producer(instance: &InstanceName, way: Way, tasks: &[Task]) -> Subject {
    let (instance, tasks) = (instance.clone(), tasks.to_vec());
    Subject::start(move || {
        stop_here();
        let mut client = Client::connect(&instance).unwrap();
        stop_here();
        tasks.iter().for_each(|&task| submit(&mut client, way, task));
        stop_here();
        drop(client);
        stop_here();
    })
}

fn tasks(kinds: &[Kind], tags: u64) -> Vec<Task> {
    kinds.iter().zip(tags..).map(|(&kind, tag)| Task { kind, tag }).collect()
}

/// The scene of a producer that connects to an instance nobody uses.
fn scene(workshop: &Workshop, kinds: &[Kind]) -> Scene {
    let mut scene = make(&workshop.names, &workshop.effects, &[]);
    scene.plan.lanes.push(free_lane(&scene.image, tasks(kinds, 1), false, false));
    scene
}

/// A producer before its connect, with the life lock held for a sidecar.
fn connecting(workshop: &Workshop, scene: &Scene, way: Way) -> (InstanceName, Subject, Option<File>) {
    let instance = workshop.put(&scene.image);
    let subject = producer(&instance, way, &scene.plan.lanes[0].tasks);
    let life = hold(&path(&instance, "status")).unwrap();
    (instance, subject, Some(life))
}

/// A producer before its first submit.
fn submitting(workshop: &Workshop, scene: &Scene, way: Way) -> (InstanceName, Subject, Option<File>) {
    let (instance, mut subject, life) = connecting(workshop, scene, way);
    subject.run_to_marker(LEADER, Company::Nobody);
    (instance, subject, life)
}

fn watch(workshop: &mut Workshop, (instance, mut subject, life): (InstanceName, Subject, Option<File>)) -> Course {
    let course = workshop.watch(&instance, &mut subject, ALONE, |_, _| false);
    subject.kill();
    drop(life);
    remove(&instance);
    course
}

fn judge_all(workshop: &mut Workshop, scene: &Scene, course: &Course) {
    workshop.judge_course(&course.moments, &scene.plan, &Attacher::ALL, 1, |workshop, moment| {
        second_level(workshop, scene, moment, &Attacher::ALL);
    });
}

fn run(workshop: &mut Workshop, way: Way, kinds: &[Kind]) {
    let scene = scene(workshop, kinds);
    let before = submitting(workshop, &scene, way);
    let course = watch(workshop, before);
    judge_all(workshop, &scene, &course);
    workshop.kill_each(&course, &scene.plan, ALONE, 1, |workshop| submitting(workshop, &scene, way));
    beside(workshop, &course, way, kinds);
}

/// Payloads that travel in the descriptor, of both handlers.
pub(crate) fn inline(workshop: &mut Workshop) {
    run(workshop, Way::Plain, &[Kind::Plain, Kind::Again]);
}

/// Payloads that travel in buffers, one made where it travels.
pub(crate) fn buffers(workshop: &mut Workshop) {
    run(workshop, Way::Loan, &[Kind::Long, Kind::InPlace]);
}

/// Tasks with tickets.
pub(crate) fn tickets(workshop: &mut Workshop) {
    run(workshop, Way::Ticket, &[Kind::Plain, Kind::Long]);
}

/// From before the connect to after it.
pub(crate) fn attach(workshop: &mut Workshop) {
    let scene = scene(workshop, &[]);
    let before = connecting(workshop, &scene, Way::Plain);
    let course = watch(workshop, before);
    judge_all(workshop, &scene, &course);
    workshop.kill_each(&course, &scene.plan, ALONE, 1, |workshop| connecting(workshop, &scene, Way::Plain));
}

/// From before a client is dropped to after it; it has tasks that nobody has looked at.
pub(crate) fn detach(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Plain, Kind::Long]);
    let (instance, mut subject, life) = submitting(workshop, &scene, Way::Plain);
    subject.run_to_marker(LEADER, Company::Nobody);
    let course = watch(workshop, (instance, subject, life));
    judge_all(workshop, &scene, &course);
}

/// The kills of a course once more, beside one sidecar that lives through all of them.
fn beside(workshop: &mut Workshop, course: &Course, way: Way, kinds: &[Kind]) {
    let instance = workshop.names.fresh();
    workshop.effects.restore(&vec![0; workshop.effects.copy().len()]);
    let effects = Arc::clone(&workshop.effects);
    let name = instance.clone();
    let mut serving = Child::fork(move |line| {
        hush_planned_panics();
        let handle = sidecar(&name, Build::First, &effects).start().unwrap();
        line.say("ready");
        line.wait();
        handle.stop();
        line.say(&format!("{:?}", handle.join().unwrap().ending));
    });
    assert_eq!(serving.hear(PATIENCE).as_deref(), Some("ready"));
    let mut tags = 1;
    for step in course.instructions_to_kill(1, 0) {
        let tasks = tasks(kinds, tags);
        tags += tasks.len() as u64;
        workshop.effects.restore(&vec![0; workshop.effects.copy().len()]);
        let mut subject = producer(&instance, way, &tasks);
        subject.run_to_marker(LEADER, Company::Nobody);
        let lanes: Vec<File> = lanes(&instance);
        let came = course.run_to(&mut subject, ALONE, step);
        subject.kill();
        workshop.tally.kills += u64::from(came); // wherever it was killed, what it accepted is served
        let accepted = accepted(&lanes, &tasks);
        let findings = look(&instance, &tasks, accepted, &workshop.effects);
        let instructions = &workshop.instructions;
        let address = course.address(step);
        workshop.tally.add(findings, || {
            format!(
                "killed beside a living sidecar after {step} instructions, before {}",
                instructions.describe(address)
            )
        });
    }
    serving.tell();
    let ending = serving.hear(PATIENCE);
    let mut findings = Vec::new();
    if ending.as_deref() != Some("Removed") {
        findings.push(Finding::new(Key::Leaked, format!("the sidecar beside which producers died ended {ending:?}")));
    }
    let left = suffixes(&instance);
    if !left.is_empty() {
        findings.push(Finding::new(Key::Leaked, format!("{left:?} are left")));
    }
    workshop.tally.add(findings, || "after producers were killed beside one sidecar".to_owned());
    remove(&instance);
}

/// The submissions of all lanes, open.
fn lanes(instance: &InstanceName) -> Vec<File> {
    let names = suffixes(instance).into_iter().filter(|name| name.ends_with(".sq"));
    names.filter_map(|name| File::open(path(instance, &name)).ok()).collect()
}

/// How many of `tasks` some lane says were accepted.
fn accepted(lanes: &[File], tasks: &[Task]) -> usize {
    let word = |file: &File, at: usize| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at as u64 * 8).unwrap();
        u64::from_le_bytes(bytes)
    };
    let tag_of = |file: &File, position: u64, task: Task| {
        let at = if task.payload().len() <= 32 {
            slot(position) + 4
        } else {
            GEOMETRY.buffers() + position as usize * GEOMETRY.request_bytes as usize / 8
        };
        word(file, at)
    };
    let in_lane = |file: &File| {
        let is_in = |&(position, task): &(u64, &Task)| {
            word(file, slot(position) + COMMIT) == position + 1 && tag_of(file, position, *task) == task.tag
        };
        (0..).zip(tasks).take_while(is_in).count()
    };
    lanes.iter().map(in_lane).max().unwrap_or(0)
}

/// Looks on until the dead producer's lane is free again; a fresh client is served meanwhile.
fn look(instance: &InstanceName, tasks: &[Task], accepted: usize, effects: &Effects) -> Vec<Finding> {
    let mut child = Child::fork(|line| {
        let mut say = |key, text: String| line.say(&Finding::new(key, text).to_line());
        let mut fresh = Client::connect_timeout(instance, PATIENCE).unwrap();
        let task = Task { kind: Kind::Plain, tag: u64::MAX - 1 };
        let mut ticket = fresh.submit_ticket(&TaskDescriptor::new(task.kind.id()), &task.payload()).unwrap();
        match fresh.wait_timeout(&mut ticket, PATIENCE) {
            Ok(end) if end.status() == Status::Done && end.response().to_vec() == task.response() => {}
            end => say(Key::Stuck, format!("a fresh client beside a dead one is answered {end:?}")),
        }
        drop(fresh);
        let found = Instance::open(instance, None).unwrap();
        let begun = Instant::now();
        let is_settled = || {
            let states = (0..GEOMETRY.lanes).map(|lane| load_lane(found.status(), &GEOMETRY, lane).word.state());
            states.filter(|&state| state != Some(LaneState::Absent)).all(|state| state == Some(LaneState::Free))
        };
        while !is_settled() {
            if begun.elapsed() > PATIENCE {
                say(Key::Stuck, format!("a dead producer's lane is not free again: {:?}", found.holders()));
                break;
            }
            found.wake_housekeeping();
            std::thread::yield_now();
        }
        let all = effects::read(&effects.copy());
        for (position, task) in tasks.iter().enumerate() {
            let due = usize::from(position < accepted);
            let count = all.iter().filter(|effect| effect.tag == task.tag).count();
            if count != due {
                let key = if count < due { Key::Lost } else { Key::Doubled };
                say(key, format!("task {position} of {accepted} accepted took effect {count} times"));
            }
        }
        if all.iter().any(|effect| effect.tag == crate::tasks::TORN) {
            say(Key::Torn, "a handler got half a payload".to_owned());
        }
        line.say("looked");
    });
    let mut findings = Vec::new();
    loop {
        match child.hear(PATIENCE * 4) {
            Some(line) if line == "looked" => return findings,
            Some(line) => findings.push(Finding::from_line(&line)),
            None => {
                findings.push(Finding::new(Key::Stuck, "a fresh client beside a dead one is not served"));
                return findings;
            }
        }
    }
}
