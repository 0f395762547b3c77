//! Whose turn it is: the rules W1 to W5 of the worker, counted task by task with scripted lanes.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scripted;

use executor_core::Priority::{self, Critical, High, Low, Normal};
use executor_core::worker::PASS_OVER_LIMIT;
use proptest::prelude::*;

use scripted::{Script, Setup, Task, World, lane_of, registry};

const LIMIT: usize = PASS_OVER_LIMIT as usize;

fn script(quantum: u32) -> Script {
    Script::new(Setup { quantum, ..Setup::default() })
}

fn fill(world: &World, lane: u32, tasks: usize) {
    (0..tasks).for_each(|_| world.push(lane, Task::new(1)));
}

/// Keeps lanes from ever running dry.
fn refill(world: &World, lanes: impl IntoIterator<Item = u32>) {
    for lane in lanes {
        if world.waiting(lane) == 0 {
            world.push(lane, Task::new(1));
        }
    }
}

#[test]
fn tasks_of_a_lane_end_in_the_order_they_came() {
    let script = script(4);
    script.adopt(&[Normal, Normal]);
    fill(&script.world, 0, 30);
    fill(&script.world, 1, 30);
    let world = script.serve_total(60, &registry(), |_| {});
    for lane in [0, 1] {
        let positions: Vec<u64> =
            world.log.borrow().iter().filter(|entry| entry.lane == lane).map(|entry| entry.position).collect();
        assert_eq!(positions, (0..30).collect::<Vec<u64>>());
    }
}

#[test]
fn lanes_of_one_priority_take_turns_of_a_quantum() {
    // Alone, and beside a lane of another priority that never has a task: the two are served by different loops.
    for priorities in [&[Normal; 3][..], &[Normal, Normal, Normal, High], &[Normal, Normal, Normal, Low]] {
        let script = script(4);
        script.adopt(priorities);
        for lane in 0..3 {
            fill(&script.world, lane, 10);
        }
        let world = script.serve_total(30, &registry(), |_| {});
        let turns = [(0, 4), (1, 4), (2, 4), (0, 4), (1, 4), (2, 4), (0, 2), (1, 2), (2, 2)];
        assert_eq!(world.runs(), turns, "{priorities:?}");
    }
}

#[test]
fn a_quantum_of_zero_is_one() {
    for priorities in [&[Normal; 2][..], &[Normal, Normal, High]] {
        let script = script(0);
        script.adopt(priorities);
        fill(&script.world, 0, 3);
        fill(&script.world, 1, 3);
        assert_eq!(script.serve_total(6, &registry(), |_| {}).lanes(), [0, 1, 0, 1, 0, 1]);
    }
}

#[test]
fn a_task_of_a_higher_priority_is_the_next_after_the_one_that_runs() {
    for (low, high) in [(Low, Normal), (Low, Critical), (Normal, High), (High, Critical)] {
        let script = script(64);
        script.adopt(&[low, high]);
        fill(&script.world, 0, 20);
        let world = script.serve_total(22, &registry(), |world| {
            if world.ended() == 5 {
                fill(world, 1, 2);
            }
        });
        assert_eq!(world.runs(), [(0, 5), (1, 2), (0, 15)], "{low:?} and {high:?}");
    }
}

#[test]
fn a_saturated_higher_class_passes_a_lower_one_over_exactly_to_the_limit() {
    for (low, high) in [(Low, Normal), (Low, Critical), (Normal, Critical), (High, Critical)] {
        let script = script(7);
        script.adopt(&[low, high]);
        fill(&script.world, 0, 5);
        fill(&script.world, 1, 1);
        let world = script.serve_total(5 * (LIMIT + 1), &registry(), |world| refill(world, [1]));
        let expected: Vec<_> = (0..5).flat_map(|_| [(1, LIMIT), (0, 1)]).collect();
        assert_eq!(world.runs(), expected, "{low:?} and {high:?}");
    }
}

#[test]
fn tasks_that_run_while_a_class_is_empty_do_not_pass_it_over() {
    let script = script(64);
    script.adopt(&[Low, Critical]);
    fill(&script.world, 1, 1);
    let world = script.serve_total(2 * LIMIT + 1, &registry(), |world| {
        refill(world, [1]);
        if world.ended() == LIMIT + 6 {
            fill(world, 0, 1);
        }
    });
    // Looked at after 64 tasks, when it had nothing, and again after as many.
    assert_eq!(world.runs(), [(1, 2 * LIMIT), (0, 1)]);
}

#[test]
fn the_least_urgent_of_two_classes_that_are_due_goes_first() {
    let script = script(64);
    script.adopt(&Priority::ALL);
    (0..4).for_each(|lane| fill(&script.world, lane, 1));
    let world = script.serve_total(4 * LIMIT, &registry(), |world| refill(world, 0..4));
    // After 64 Critical tasks all three are due. Low was then passed over by two, Normal by one of them.
    let start = [(3, LIMIT), (0, 1), (1, 1), (2, 1), (3, LIMIT - 2), (0, 1), (3, 1), (1, 1), (3, 1), (2, 1)];
    assert_eq!(world.runs()[..start.len()], start);
}

#[test]
fn low_lanes_take_their_due_tasks_in_turns() {
    let script = script(64);
    script.adopt(&[Low, Low, Low, Critical]);
    (0..4).for_each(|lane| fill(&script.world, lane, 1));
    let world = script.serve_total(6 * (LIMIT + 1), &registry(), |world| refill(world, 0..4));
    let low: Vec<u32> = world.lanes().into_iter().filter(|&lane| lane != 3).collect();
    assert_eq!(low, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_class_that_was_passed_over_goes_on_with_its_next_lane() {
    // After each Low task comes one High task. Were each lull given to the same lane, its neighbour would wait for a
    // quantum of them.
    let script = script(64);
    script.adopt(&[Low, Low, High]);
    fill(&script.world, 0, 10);
    fill(&script.world, 1, 10);
    let world = script.serve_total(12, &registry(), |world| {
        if world.lanes().last() != Some(&2) {
            fill(world, 2, 1);
        }
    });
    assert_eq!(world.lanes(), [0, 2, 1, 2, 0, 2, 1, 2, 0, 2, 1, 2]);
}

#[test]
fn a_lane_that_comes_with_a_higher_priority_is_served_after_the_task_that_runs() {
    let script = script(64);
    script.adopt(&[Low]);
    fill(&script.world, 0, 100);
    let (newcomers, layout) = (std::rc::Rc::clone(&script.world), script.layout);
    script.after(move |world, control| match world.ended() {
        5 => {
            fill(world, 1, 3);
            control.adopt(lane_of(&newcomers, &layout, 1, Critical, 1024)).unwrap();
        }
        20 => {
            control.close().unwrap();
            control.hurry();
        }
        _ => {}
    });
    let (world, _) = script.serve(&registry(), &[]);
    assert_eq!(world.runs(), [(0, 5), (1, 3), (0, 12)]);
}

#[test]
fn a_lane_whose_every_task_panics_keeps_no_other_waiting() {
    // Alone with its like, beside an urgent one, and urgent itself.
    for (priorities, expected) in [
        (&[Normal, Normal][..], vec![(0, 1), (1, 4), (0, 1), (1, 4)]),
        (&[Normal, Normal, High], vec![(0, 1), (1, 4), (0, 1), (1, 4)]),
        (&[High, Low], vec![(0, LIMIT), (1, 1), (0, LIMIT), (1, 1)]),
    ] {
        let script = script(4);
        script.adopt(priorities);
        script.world.push(0, Task::new(2));
        fill(&script.world, 1, 8);
        let total = expected.iter().map(|(_, tasks)| tasks).sum();
        let world = script.serve_total(total, &registry(), |world| {
            if world.waiting(0) == 0 {
                world.push(0, Task::new(2));
            }
        });
        assert_eq!(world.runs(), expected, "{priorities:?}");
    }
}

/// What was waiting when a task was chosen, and which it was.
#[derive(Debug)]
struct Choice {
    lane: u32,
    panicked: bool,
    waiting: Vec<usize>,
}

fn priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(Priority::ALL.to_vec())
}

/// After so many completions, so many tasks for this lane, panicking or not.
fn arrivals() -> impl Strategy<Value = Vec<(usize, u32, usize, bool)>> {
    prop::collection::vec((0..600usize, 0..6u32, 1..120usize, prop::bool::weighted(0.2)), 1..40)
}

fn choices(quantum: u32, priorities: &[Priority], arrivals: &[(usize, u32, usize, bool)]) -> Vec<Choice> {
    let lanes = priorities.len() as u32;
    let mut arrivals: Vec<_> = arrivals.iter().map(|&(at, lane, n, panics)| (at, lane % lanes, n, panics)).collect();
    arrivals.sort_by_key(|arrival| arrival.0);
    let total: usize = arrivals.iter().map(|arrival| arrival.2).sum();
    let mut arrivals = arrivals.into_iter().peekable();
    let mut arrive = move |world: &World| {
        // Nothing left to do: time goes on to the next arrival.
        while let Some(&(at, lane, tasks, panics)) = arrivals.peek()
            && (at <= world.ended() || (0..lanes).all(|lane| world.waiting(lane) == 0))
        {
            arrivals.next();
            (0..tasks).for_each(|_| world.push(lane, Task::new(if panics { 2 } else { 1 })));
        }
        (0..lanes).map(|lane| world.waiting(lane)).collect::<Vec<_>>()
    };
    let script = script(quantum);
    script.adopt(priorities);
    let seen = std::rc::Rc::new(std::cell::RefCell::new(vec![arrive(&script.world)]));
    let waiting = std::rc::Rc::clone(&seen);
    let world = script.serve_total(total, &registry(), move |world| waiting.borrow_mut().push(arrive(world)));
    let mut next = vec![0; lanes as usize];
    let log = world.log.borrow();
    let seen = seen.borrow();
    log.iter()
        .zip(&*seen)
        .map(|(entry, waiting)| {
            assert_eq!(entry.position, next[entry.lane as usize], "W1");
            next[entry.lane as usize] += 1;
            let panicked = entry.completion.status_code() == 3;
            Choice { lane: entry.lane, panicked, waiting: waiting.clone() }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_arrivals_break_the_rules_of_order(
        quantum in 1..10u32,
        priorities in prop::collection::vec(priority(), 1..6),
        arrivals in arrivals(),
    ) {
        let choices = choices(quantum, &priorities, &arrivals);
        let class_of = |choice: &Choice| priorities[choice.lane as usize];
        let waits = |choice: &Choice, lane: usize| choice.waiting[lane] > 0;
        let class_waits = |choice: &Choice, class| {
            (0..priorities.len()).any(|lane| priorities[lane] == class && waits(choice, lane))
        };
        for class in Priority::ALL {
            let (mut passed_over, mut since_served) = (0, 0);
            for choice in &choices {
                if class_of(choice) == class {
                    let urgent = Priority::ALL.into_iter().any(|above| above > class && class_waits(choice, above));
                    prop_assert!(!urgent || since_served >= LIMIT, "W3: {:?} after {}", choice, since_served);
                    (passed_over, since_served) = (0, 0);
                } else if class_of(choice) > class {
                    since_served += 1;
                    passed_over = if class_waits(choice, class) { passed_over + 1 } else { 0 };
                    prop_assert!(passed_over <= LIMIT, "W4: {:?} was passed over by {}", class, passed_over);
                }
            }
            let of_class: Vec<_> = choices.iter().filter(|choice| class_of(choice) == class).collect();
            for lane in (0..priorities.len()).filter(|&lane| priorities[lane] == class) {
                // Tasks of each other lane of the class since this one was served or had nothing.
                let mut turns = vec![0; priorities.len()];
                for choice in &of_class {
                    if choice.lane as usize == lane || !waits(choice, lane) {
                        turns.fill(0);
                        continue;
                    }
                    turns[choice.lane as usize] += 1;
                    prop_assert!(turns[choice.lane as usize] <= quantum, "W2: lane {} waited for {:?}", lane, turns);
                }
            }
            for pair in of_class.windows(2).filter(|pair| pair[0].panicked && pair[0].lane == pair[1].lane) {
                let others = (0..priorities.len()).filter(|&lane| priorities[lane] == class && lane != pair[0].lane as usize);
                prop_assert!(others.into_iter().all(|lane| !waits(pair[1], lane)), "W5: {:?}", pair);
            }
        }
    }
}
