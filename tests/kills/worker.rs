//! Paths of a worker: step and publish.

use crate::image::{GEOMETRY, Image, slot};
use crate::judge::Attacher;
use crate::pass::{Course, Workshop};
use crate::scene::{Producer, Scene, make};
use crate::starter::{WORKING, second_level, started, work_course};
use crate::tasks::{Build, Kind};

/// A worker stores nothing that a client goes by when it claims a lane.
const ATTACHERS: [Attacher; 1] = [Attacher::Nobody];

/// A producer whose lane has gone once round already, with tasks that wait.
fn waiting(kinds: &[Kind]) -> Producer {
    Producer { answered: vec![Kind::Plain; 9], waiting: kinds.to_vec(), survivor: true }
}

fn scene(workshop: &Workshop, kinds: &[Kind]) -> Scene {
    make(&workshop.names, &workshop.effects, &[waiting(kinds)])
}

/// The images of a scene whose tasks the worker serves.
fn images(workshop: &mut Workshop, scene: &Scene) -> Course {
    let course = work_course(workshop, scene);
    workshop.judge_course(&course.moments, &scene.plan, &ATTACHERS, 1, |workshop, moment| {
        second_level(workshop, scene, moment, &ATTACHERS);
    });
    course
}

/// The images of a scene, then a kill before each instruction, or before one in `one_in` where nothing changes.
fn run(workshop: &mut Workshop, scene: &Scene, one_in: u64) {
    let course = images(workshop, scene);
    workshop.kill_each(&course, &scene.plan, WORKING, one_in, |workshop| {
        let instance = workshop.put(&scene.image);
        let subject = started(workshop, &instance, scene.plan.build);
        (instance, subject, None)
    });
}

/// Tasks that run, whose records hold everything, and one that is not for any handler.
pub(crate) fn inline(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Plain, Kind::Again, Kind::Unknown]);
    run(workshop, &scene, 1);
}

/// Tasks whose payloads and answers lie in buffers.
pub(crate) fn buffers(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Long, Kind::InPlace, Kind::AgainLong]);
    run(workshop, &scene, 1);
}

/// Tasks that never run.
pub(crate) fn verdicts(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Expired, Kind::Flagged, Kind::WrongSize, Kind::TooLong]);
    run(workshop, &scene, 1);
}

/// Tasks for handlers that another build has replaced.
pub(crate) fn changed(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Plain, Kind::AgainLong]).with_build(Build::Changed);
    run(workshop, &scene, 1);
}

/// Tasks of a producer that is gone. The worker does not know, so its instructions are those of other scenes.
pub(crate) fn deserted(workshop: &mut Workshop) {
    let producer = Producer { survivor: false, ..waiting(&[Kind::Plain, Kind::Long]) };
    let scene = make(&workshop.names, &workshop.effects, &[producer]);
    images(workshop, &scene);
}

/// A task that was in flight runs again, and the next one after it.
pub(crate) fn again(workshop: &mut Workshop) {
    let scene = in_flight(workshop, &[Kind::AgainLong, Kind::Plain]);
    run(workshop, &scene, 1);
}

/// Handlers that fail.
pub(crate) fn failed(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Failed, Kind::Wide]);
    run(workshop, &scene, 1);
}

/// A handler that panics. Unwinding takes some 100,000 instructions and stores nothing; one in a thousand of them is
/// killed.
pub(crate) fn panicked(workshop: &mut Workshop) {
    let scene = scene(workshop, &[Kind::Panicked]);
    run(workshop, &scene, 1000);
}

/// A scene killed while the handler of the first waiting task runs.
pub(crate) fn in_flight(workshop: &mut Workshop, kinds: &[Kind]) -> Scene {
    let scene = scene(workshop, kinds);
    killed_in_first_task(workshop, &scene)
}

/// What a kill leaves while the first waiting task of the first lane is started, and nothing of its answer is stored; late
/// in its handler if it has one.
pub(crate) fn killed_in_first_task(workshop: &mut Workshop, scene: &Scene) -> Scene {
    let course = work_course(workshop, scene);
    let lane = &scene.plan.lanes[0];
    let started = |image: &Image| image.word("journal", GEOMETRY.journal_lane(lane.number));
    let position = match started(&scene.image) {
        // A task that runs again was started before.
        0 => 0,
        count if scene.image.commit(&lane.cq(), count - 1) != count => count - 1,
        count => count,
    };
    let answer = |image: &Image| -> Vec<u64> { (0..8).map(|i| image.word(&lane.cq(), slot(position) + i)).collect() };
    let mut moments = course.moments.iter().rev();
    let last =
        moments.find(|moment| started(&moment.image) == position + 1 && answer(&moment.image) == answer(&scene.image));
    scene.after(&last.expect("the first task is started").image)
}

/// As [`in_flight`], of a task that runs for the second time.
pub(crate) fn in_flight_again(workshop: &mut Workshop, kinds: &[Kind]) -> Scene {
    let scene = in_flight(workshop, kinds);
    killed_in_first_task(workshop, &scene)
}
