//! The subject of most paths: a sidecar that starts on a scene's files.

use executor_shm::InstanceName;
use nix::libc;

use crate::image::{GEOMETRY, Image};
use crate::judge::{Attacher, sidecar};
use crate::marker::stop_here;
use crate::pass::{Course, Focus, Moment, Workshop};
use crate::plan::Plan;
use crate::scene::Scene;
use crate::subject::{Company, LEADER, Subject, WORKER};
use crate::tasks::{Build, hush_planned_panics};

/// The program's own thread during a start: the worker gets ready beside it and no further.
pub(crate) const STARTING: Focus = (LEADER, Company::WorkerUntilIdle);
/// The worker at its work, everybody else stands.
pub(crate) const WORKING: Focus = (WORKER, Company::Nobody);

/// A sidecar that is about to start.
pub(crate) fn starting(workshop: &Workshop, instance: &InstanceName, build: Build) -> Subject {
    let (name, effects) = (instance.clone(), workshop.effects.clone());
    Subject::start(move || {
        hush_planned_panics();
        stop_here();
        let handle = sidecar(&name, build, &effects).start().unwrap();
        assert_eq!(*handle.geometry(), GEOMETRY, "the harness reckons with other sizes");
        if stop_here() != 0 {
            handle.stop();
            handle.join().unwrap();
            stop_here();
        }
        std::process::exit(0);
    })
}

/// A sidecar that has started, whose worker is about to look for the first time.
pub(crate) fn started(workshop: &Workshop, instance: &InstanceName, build: Build) -> Subject {
    let mut subject = starting(workshop, instance, build);
    subject.run_to_marker(LEADER, Company::WorkerUntilIdle);
    subject.run_worker_to_idle();
    subject
}

/// Whether everything that was accepted is answered.
fn is_answered(image: &Image, plan: &Plan) -> bool {
    plan.lanes.iter().all(|lane| {
        let accepted = lane.accepted(image) as u64;
        (0..accepted).all(|position| image.commit(&lane.cq(), position) > position)
    })
}

/// Steps through a start on a scene.
pub(crate) fn start_course(workshop: &mut Workshop, scene: &Scene) -> Course {
    let instance = workshop.put(&scene.image);
    let mut subject = starting(workshop, &instance, scene.plan.build);
    let course = workshop.watch(&instance, &mut subject, STARTING, |_, _| false);
    subject.kill();
    crate::image::remove(&instance);
    course
}

/// Steps through the worker's work on a scene until it finds nothing more.
pub(crate) fn work_course(workshop: &mut Workshop, scene: &Scene) -> Course {
    let instance = workshop.put(&scene.image);
    let mut subject = started(workshop, &instance, scene.plan.build);
    let plan = &scene.plan;
    let mut looks = 0;
    let course = workshop.watch(&instance, &mut subject, WORKING, |image, stepped| {
        looks += u64::from(stepped.call == Some(libc::SYS_sched_yield as u64));
        looks > 1 && stepped.call.is_some() && is_answered(image, plan)
    });
    subject.kill();
    crate::image::remove(&instance);
    course
}

/// Kills again: inside the next start after a kill that left `first`, and inside the work after it.
pub(crate) fn second_level(workshop: &mut Workshop, scene: &Scene, first: &Moment, attachers: &[Attacher]) {
    let scene = scene.after(&first.image);
    let build = scene.plan.build;
    let begin = |workshop: &Workshop, instance: &InstanceName| starting(workshop, instance, build);
    let mut moments = workshop.watch_changes(STARTING, &scene.image, begin);
    if !scene.plan.lanes.is_empty() {
        moments.extend(work_course(workshop, &scene).moments);
    }
    workshop.judge_second(&moments, &scene.plan, first, attachers);
}
