//! Paths of housekeeping: a lane that is taken, lanes that are reset, and the stop.

use std::fs::File;
use std::time::Duration;

use executor_shm::InstanceName;
use executor_shm::attach::{Instance, Wish};
use executor_shm::core::record::COMMIT;
use executor_shm::lane::{LaneShape, ProducerHalf};
use nix::libc;

use crate::child::Child;
use crate::image::{GEOMETRY, Image, path, remove, slot};
use crate::judge::Attacher;
use crate::pass::{Course, Moment, Workshop};
use crate::plan::Lane;
use crate::scene::{Producer, Scene, make};
use crate::stand_in::hold;
use crate::starter::{second_level, started};
use crate::subject::{Company, KEEPER, LEADER, Subject};
use crate::tasks::{Kind, Task};

const PATIENCE: Duration = Duration::from_secs(30);
/// Naps without a change after which housekeeping has nothing more to do.
const NAPS: usize = 3;

/// Steps through what the keeper does on a scene until it has nothing more to do, or has ended.
fn course(workshop: &mut Workshop, scene: &Scene, instance: &InstanceName, subject: &mut Subject) -> Course {
    course_of(NAPS, workshop, scene, instance, subject)
}

/// The same with so many naps without a change.
fn course_of(
    most: usize,
    workshop: &mut Workshop,
    scene: &Scene,
    instance: &InstanceName,
    subject: &mut Subject,
) -> Course {
    let survivors = scene.plan.lanes.iter().filter(|lane| lane.survivor);
    let held: Vec<File> = survivors.filter_map(|lane| hold(&path(instance, &lane.sq())).ok()).collect();
    let (mut naps, mut hash) = (0, 0);
    let course = workshop.watch(instance, subject, (KEEPER, Company::Worker), |image, stepped| {
        if stepped.call != Some(libc::SYS_futex as u64) {
            return false;
        }
        let now = image.hash();
        naps = if now == hash { naps + 1 } else { 0 };
        hash = now;
        naps >= most
    });
    drop(held);
    course
}

fn judge_all(workshop: &mut Workshop, scene: &Scene, moments: &[Moment]) {
    let one_in = workshop.options.one_in;
    workshop.judge_course(moments, &scene.plan, &Attacher::ALL, one_in, |workshop, moment| {
        second_level(workshop, scene, moment, &Attacher::ALL);
    });
}

/// A scene that housekeeping settles by itself.
fn settle(workshop: &mut Workshop, scene: &Scene) {
    let instance = workshop.put(&scene.image);
    let mut subject = started(workshop, &instance, scene.plan.build);
    let course = course(workshop, scene, &instance, &mut subject);
    subject.kill();
    remove(&instance);
    judge_all(workshop, scene, &course.moments);
}

/// A producer that is gone, and one that stays.
fn one_gone_one_here(workshop: &Workshop) -> Scene {
    let gone =
        Producer { answered: vec![Kind::Plain; 3], waiting: vec![Kind::Plain, Kind::Long], ..Producer::default() };
    let here = Producer { answered: vec![Kind::Plain], waiting: vec![Kind::Plain; 2], survivor: true };
    make(&workshop.names, &workshop.effects, &[gone, here])
}

/// ACTIVE -> DRAINING -> RESETTING -> FREE, beside a lane that is served on.
pub(crate) fn detached(workshop: &mut Workshop) {
    let scene = one_gone_one_here(workshop);
    settle(workshop, &scene);
}

/// ACTIVE -> POISONED: somebody wrote into the lane's submissions; then its owner goes.
pub(crate) fn poisoned(workshop: &mut Workshop) {
    let mut scene = one_gone_one_here(workshop);
    let lane = &mut scene.plan.lanes[0];
    lane.tasks.truncate(3);
    let at = slot(3) + COMMIT;
    let name = lane.sq();
    scene.image.files.get_mut(&name).unwrap().set_word(at, 0xdead);
    let lane = scene.plan.lanes[0].clone();
    let instance = workshop.put(&scene.image);
    let mut subject = started(workshop, &instance, scene.plan.build);
    let owner = hold(&path(&instance, &lane.sq())).unwrap();
    let first = course(workshop, &scene, &instance, &mut subject);
    drop(owner);
    let second = course(workshop, &scene, &instance, &mut subject);
    subject.kill();
    remove(&instance);
    judge_all(workshop, &scene, &first.moments);
    judge_all(workshop, &scene, &second.moments);
}

/// What an attacher does while housekeeping stands.
fn attach(instance: &InstanceName, tasks: &[Task]) -> Child {
    let tasks = tasks.to_vec();
    let mut child = Child::fork(|line| {
        let found = Instance::open(instance, None).unwrap();
        let claim = found.claim(Wish::default()).unwrap().unwrap();
        let mut half = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(&GEOMETRY));
        tasks.iter().for_each(|task| {
            half.submit(&task.record(task.tag));
        });
        line.say("attached");
        line.wait();
    });
    assert_eq!(child.hear(PATIENCE).as_deref(), Some("attached"));
    child
}

/// The first FREE lane of an image, for an attacher that will submit `tasks`.
pub(crate) fn free_lane(image: &Image, tasks: Vec<Task>, survivor: bool, tagged: bool) -> Lane {
    Lane { number: 0, nonce: image.mirror(0).nonce(), tasks, survivor, tagged }
}

/// FREE -> ACTIVE: housekeeping finds an attacher with tasks, and makes another lane.
pub(crate) fn taken(workshop: &mut Workshop) {
    let mut scene = make(&workshop.names, &workshop.effects, &[]);
    let tasks = vec![Task { kind: Kind::Plain, tag: 1 }, Task { kind: Kind::Again, tag: 2 }];
    let lane = free_lane(&scene.image, tasks.clone(), true, true);
    let instance = workshop.put(&scene.image);
    let mut subject = started(workshop, &instance, scene.plan.build);
    let mut attacher = attach(&instance, &tasks);
    // The attacher holds its lock itself, so nothing stands in for it.
    let course = course(workshop, &scene, &instance, &mut subject);
    subject.kill();
    attacher.kill();
    remove(&instance);
    scene.plan.lanes.push(lane);
    judge_all(workshop, &scene, &course.moments);
}

/// FREE -> RESETTING: an attacher died between its wish and its first task.
pub(crate) fn touched(workshop: &mut Workshop) {
    let scene = make(&workshop.names, &workshop.effects, &[]);
    let instance = workshop.put(&scene.image);
    let mut subject = started(workshop, &instance, scene.plan.build);
    attach(&instance, &[]).kill();
    let course = course(workshop, &scene, &instance, &mut subject);
    subject.kill();
    remove(&instance);
    judge_all(workshop, &scene, &course.moments);
}

/// A stop of a scene, from its order to the end of housekeeping.
fn stop(workshop: &mut Workshop, scene: &Scene) {
    let instance = workshop.put(&scene.image);
    let mut subject = started(workshop, &instance, scene.plan.build);
    subject.tell(LEADER, 1);
    subject.run_through_calls(LEADER, 1, Company::Nobody); // it has woken housekeeping, and waits for it next
    // It naps as often as the workers need to end.
    let course = course_of(usize::MAX, workshop, scene, &instance, &mut subject);
    assert!(subject.has_ended(KEEPER), "housekeeping does not end");
    subject.kill();
    remove(&instance);
    judge_all(workshop, scene, &course.moments);
}

/// Nobody is attached: the files go.
pub(crate) fn alone(workshop: &mut Workshop) {
    let scene = make(&workshop.names, &workshop.effects, &[]);
    stop(workshop, &scene);
}

/// A producer stays attached, another is gone with tasks unanswered: the files stay.
pub(crate) fn attended(workshop: &mut Workshop) {
    let scene = one_gone_one_here(workshop);
    stop(workshop, &scene);
}

/// Producers are gone and left tasks: they are served, then the files go.
pub(crate) fn left(workshop: &mut Workshop) {
    let gone = Producer { answered: vec![Kind::Plain], waiting: vec![Kind::Plain, Kind::Long], ..Producer::default() };
    let scene = make(&workshop.names, &workshop.effects, &[gone.clone(), gone]);
    stop(workshop, &scene);
}
