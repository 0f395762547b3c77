//! Paths of a start: create, and the recovery in it.

use crate::image::Image;
use crate::judge::Attacher;
use crate::pass::{Course, Workshop};
use crate::scene::{Scene, make};
use crate::starter::{STARTING, second_level, start_course, starting};
use crate::tasks::{Build, Kind};
use crate::worker::{in_flight, in_flight_again};

/// A start on a scene with a task in flight: its images, then a kill before each instruction of the judgement.
fn recover(workshop: &mut Workshop, scene: &Scene) {
    let course = start_course(workshop, scene);
    judge_all(workshop, scene, &course, 1);
    let published = |story: &str| story.contains("cq slot") && !story.contains("sq slot");
    let mut steps = course.moments.iter().filter(|moment| published(&moment.story)).map(|moment| moment.steps);
    let Some(first) = steps.next() else { return };
    let last = steps.next_back().unwrap_or(first);
    workshop.kill_each(&course.between(first, last), &scene.plan, STARTING, 1, |workshop| {
        let instance = workshop.put(&scene.image);
        let subject = starting(workshop, &instance, scene.plan.build);
        (instance, subject, None)
    });
}

fn judge_all(workshop: &mut Workshop, scene: &Scene, course: &Course, one_in: u64) {
    // An owner of lanes whose journal somebody has removed keeps every start away, as it must.
    let attachers = if scene.image.has_lost_its_journal() { &Attacher::ALL[..2] } else { &Attacher::ALL };
    workshop.judge_course(&course.moments, &scene.plan, attachers, one_in, |workshop, moment| {
        second_level(workshop, scene, moment, attachers);
    });
}

/// A task that must not run twice.
pub(crate) fn killed(workshop: &mut Workshop) {
    let scene = in_flight(workshop, &[Kind::Long, Kind::Plain]);
    recover(workshop, &scene);
}

/// A task that was judged and not answered.
pub(crate) fn verdict(workshop: &mut Workshop) {
    let scene = in_flight(workshop, &[Kind::Unknown, Kind::Plain]);
    recover(workshop, &scene);
}

/// A task that runs again: recovery marks it and stores nothing of its lane.
pub(crate) fn rerun(workshop: &mut Workshop) {
    let scene = in_flight(workshop, &[Kind::AgainLong, Kind::Plain]);
    recover(workshop, &scene);
}

/// A task that was killed on its last attempt.
pub(crate) fn attempts(workshop: &mut Workshop) {
    let scene = in_flight_again(workshop, &[Kind::AgainLong, Kind::Plain]);
    recover(workshop, &scene);
}

/// A task whose handler another build replaces; the registry is written anew.
pub(crate) fn replaced(workshop: &mut Workshop) {
    let scene = in_flight(workshop, &[Kind::AgainLong, Kind::Plain]).with_build(Build::Changed);
    recover(workshop, &scene);
}

fn create(workshop: &mut Workshop, image: Image, build: Build) {
    let scene = Scene::deserted(image, build);
    let course = start_course(workshop, &scene);
    let one_in = workshop.options.one_in;
    judge_all(workshop, &scene, &course, one_in);
}

/// The files of an instance whose sidecar was killed while nobody was attached.
fn idle(workshop: &Workshop) -> Image {
    make(&workshop.names, &workshop.effects, &[]).image
}

/// From nothing.
pub(crate) fn fresh(workshop: &mut Workshop) {
    let image = Image { effects: vec![0; workshop.effects.copy().len()], ..Image::default() };
    create(workshop, image, Build::First);
}

/// From a journal whose `status` was removed.
pub(crate) fn without_status(workshop: &mut Workshop) {
    let mut image = idle(workshop);
    image.files.remove("status");
    create(workshop, image, Build::First);
}

/// From left-overs whose journal was removed.
pub(crate) fn without_journal(workshop: &mut Workshop) {
    let mut image = idle(workshop);
    image.files.remove("journal");
    create(workshop, image, Build::First);
}

/// From files whose lanes were removed.
pub(crate) fn without_lanes(workshop: &mut Workshop) {
    let mut image = idle(workshop);
    image.files.retain(|suffix, _| !suffix.starts_with("lane-"));
    create(workshop, image, Build::First);
}
