//! Lanes come and go: drain, close and hurry hand every lane back, after exactly the tasks that were promised.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scripted;

use executor_core::Priority::{High, Low, Normal};
use executor_core::dispatch::Lane;
use executor_core::worker::{self, ControlFull};
use executor_core::{Priority, meter};

use scripted::{Script, Setup, Task, World, registry};

/// A lane that never runs dry; every `panics`-th task of it panics.
fn endless(world: &World, lane: u32, panics: usize) {
    while world.waiting(lane) < 3 {
        world.push(lane, Task::new(if world.ended() % panics == panics - 1 { 2 } else { 1 }));
    }
}

#[test]
fn a_drained_lane_is_served_its_capacity_once_more_and_comes_back() {
    for panics in [usize::MAX, 10, 3, 1] {
        for priorities in [&[Normal][..], &[Normal, High]] {
            let script = Script::new(Setup::default());
            for (lane, &priority) in priorities.iter().enumerate() {
                script.control.borrow_mut().adopt(script.lane(lane as u32, priority, 100)).unwrap();
            }
            endless(&script.world, 0, panics);
            let lanes = priorities.len();
            script.after(move |world, control| {
                endless(world, 0, panics);
                match world.ended() {
                    5 => control.drain(0).unwrap(),
                    6 => control.drain(0).unwrap(), // asking twice grants nothing more
                    50 => (1..lanes).for_each(|lane| control.drain(lane as u32).unwrap()),
                    100 => control.close().unwrap(),
                    _ => {}
                }
            });
            let (world, returned) = script.serve(&registry(), &[]);
            assert_eq!(world.ended(), 105, "one panic in {panics}, {priorities:?}");
            assert_eq!(returned.len(), lanes);
            assert_eq!(returned.last().unwrap().lane.position(), 105);
        }
    }
}

#[test]
fn a_drained_lane_is_served_no_more_than_promised_while_another_priority_waits() {
    for (panics, priorities) in [(usize::MAX, [Normal, Low]), (9, [Normal, Low]), (9, [Low, Normal])] {
        let script = Script::new(Setup::default());
        for (lane, priority) in priorities.into_iter().enumerate() {
            script.control.borrow_mut().adopt(script.lane(lane as u32, priority, 10)).unwrap();
        }
        (0..2).for_each(|lane| endless(&script.world, lane, panics));
        let asked = std::rc::Rc::new(std::cell::Cell::new(None));
        let position = std::rc::Rc::clone(&asked);
        script.after(move |world, control| {
            (0..2).for_each(|lane| endless(world, lane, panics));
            if world.ended() == 130 {
                control.drain(0).unwrap();
                position.set(Some(world.lanes().iter().filter(|&&lane| lane == 0).count() as u64));
            }
            if world.ended() == 2000 {
                control.close().unwrap();
                control.hurry();
            }
        });
        let (_, returned) = script.serve(&registry(), &[]);
        let lane = returned.iter().find(|served| served.facts.lane == 0).unwrap();
        assert_eq!(lane.lane.position(), asked.get().unwrap() + 10, "one panic in {panics}, {priorities:?}");
    }
}

#[test]
fn a_drained_lane_comes_back_as_soon_as_it_is_empty() {
    let script = Script::new(Setup::default());
    script.adopt(&[Normal, Normal]);
    script.world.push(0, Task::new(1));
    (0..10).for_each(|_| script.world.push(1, Task::new(2)));
    script.after(|world, control| {
        if world.ended() == 1 {
            control.drain(0).unwrap();
        }
        if world.ended() == 8 {
            let back = control.take_returned().unwrap();
            assert_eq!((back.facts.lane, back.lane.position()), (0, 1));
            control.close().unwrap();
        }
    });
    let (world, returned) = script.serve(&registry(), &[]);
    assert_eq!(world.ended(), 11);
    assert_eq!(returned.iter().map(|served| served.facts.lane).collect::<Vec<_>>(), [1]);
}

#[test]
fn closing_serves_what_waits_and_hands_every_lane_back() {
    for priorities in [&[Normal; 5][..], &Priority::ALL] {
        let script = Script::new(Setup::default());
        script.adopt(priorities);
        for lane in 0..priorities.len() as u32 {
            (0..20).for_each(|task| script.world.push(lane, Task::new(1 + (task + lane) % 2)));
        }
        script.control.borrow_mut().close().unwrap();
        let (meter, layout) = (std::sync::Arc::clone(&script.meter), script.layout);
        let (world, returned) = script.serve(&registry(), &[]);
        assert_eq!(world.ended(), 20 * priorities.len());
        assert!(returned.iter().all(|served| served.lane.position() == 20));
        let mut lanes: Vec<u32> = returned.iter().map(|served| served.facts.lane).collect();
        lanes.sort_unstable();
        assert_eq!(lanes, (0..priorities.len() as u32).collect::<Vec<_>>());
        let totals = worker::totals(&meter, &layout, 0);
        assert_eq!((totals.tasks, totals.lanes), (20 * priorities.len() as u64, 0));
    }
}

#[test]
fn closing_serves_a_lane_that_never_empties_its_capacity_and_no_more() {
    let script = Script::new(Setup::default());
    for lane in 0..2 {
        script.control.borrow_mut().adopt(script.lane(lane, Normal, 300)).unwrap();
        endless(&script.world, lane, 7);
    }
    script.after(|world, _| (0..2).for_each(|lane| endless(world, lane, 7)));
    script.control.borrow_mut().close().unwrap();
    let (_, returned) = script.serve(&registry(), &[]);
    assert_eq!(returned.iter().map(|served| served.lane.position()).collect::<Vec<_>>(), [300, 300]);
}

#[test]
fn a_lane_that_comes_after_close_was_read_goes_back_too() {
    let script = Script::new(Setup::default());
    script.adopt(&[Normal]);
    script.control.borrow_mut().close().unwrap();
    script.control.borrow_mut().adopt(script.lane(1, Low, 1024)).unwrap();
    (0..4).for_each(|_| script.world.push(1, Task::new(1)));
    let (world, returned) = script.serve(&registry(), &[]);
    assert_eq!((world.lanes(), returned.len()), (vec![1; 4], 2));
}

#[test]
fn a_hurried_worker_stops_after_the_task_in_its_hands() {
    for (priorities, handler) in
        [(&[Normal, Normal][..], 1), (&[Normal, Normal], 2), (&[Low, High], 1), (&[Low, High], 2)]
    {
        let script = Script::new(Setup::default());
        script.adopt(priorities);
        for lane in 0..2 {
            (0..200).for_each(|_| script.world.push(lane, Task::new(handler)));
        }
        script.after(|world, control| match world.ended() {
            50 => control.close().unwrap(),
            90 => control.hurry(),
            _ => {}
        });
        let (world, returned) = script.serve(&registry(), &[]);
        assert_eq!((world.ended(), returned.len()), (90, 2), "{priorities:?}, handler {handler}");
        assert_eq!(returned.iter().map(|served| served.lane.position()).sum::<u64>(), 90);
    }
}

#[test]
fn a_command_that_finds_no_room_hands_the_lane_back() {
    let script = Script::new(Setup::default());
    let mut control = script.control.borrow_mut();
    let mut lane = 0;
    let refused = loop {
        match control.adopt(script.lane(lane, Normal, 1)) {
            Ok(()) => lane += 1,
            Err(ControlFull(served)) => break served,
        }
    };
    assert_eq!(refused.facts.lane, lane);
    assert!(lane >= 128, "all lanes of an instance fit: {lane}");
    assert!(control.drain(0).is_err() && control.close().is_err());
}

#[test]
fn a_worker_that_gives_back_more_lanes_than_are_taken_waits_and_loses_none() {
    let script = Script::new(Setup::default());
    for lane in 0..250 {
        script.control.borrow_mut().adopt(script.lane(lane, Normal, 8)).unwrap();
    }
    script.world.push(0, Task::new(1));
    let (newcomers, layout) = (std::rc::Rc::clone(&script.world), script.layout);
    let taken = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = std::rc::Rc::clone(&taken);
    script.after(move |world, control| match world.ended() {
        1 => {
            (0..250).for_each(|lane| control.drain(lane).unwrap());
            world.push(0, Task::new(1)); // keeps lane 0
        }
        2 => {
            for lane in 250..300 {
                control.adopt(scripted::lane_of(&newcomers, &layout, lane, Normal, 8)).unwrap();
            }
            (250..300).for_each(|lane| control.drain(lane).unwrap());
            world.push(0, Task::new(1));
        }
        3 => {
            while control.take_returned().is_some() {
                count.set(count.get() + 1);
            }
            assert_eq!(count.get(), 256, "the ring was full");
            control.close().unwrap();
        }
        _ => {}
    });
    let (_, returned) = script.serve(&registry(), &[]);
    assert_eq!(taken.get() + returned.len(), 300);
}

#[test]
fn the_meter_says_how_many_lanes_a_worker_has() {
    let script = Script::new(Setup::default());
    script.adopt(&[Normal, Low, Low]);
    script.world.push(0, Task::new(1));
    script.world.push(1, Task::new(2));
    let (meter, layout) = (std::sync::Arc::clone(&script.meter), script.layout);
    let seen = std::sync::Arc::clone(&meter);
    script.after(move |world, control| {
        let lanes = worker::totals(&seen, &layout, 0).lanes;
        if world.ended() == 1 {
            assert_eq!(lanes, 3);
            control.drain(2).unwrap();
        } else {
            assert_eq!(lanes, 2);
            control.close().unwrap();
        }
    });
    let (_, returned) = script.serve(&registry(), &[]);
    assert_eq!(returned.len(), 3);
    assert_eq!(meter::read(&meter, layout.worker(0) + meter::WorkerWord::Lanes as usize), 0);
}
