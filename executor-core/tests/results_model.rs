//! Results are handed out, kept and forgotten exactly as a plain model says, after any sequence of submits and waits.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use executor_core::{Error, ExecutorConfig, Priority, Task, TaskError, TaskExecutor, TaskId, TaskResult};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Submits a task, which fails or not.
    Submit { fails: bool },
    /// Submits one and waits for it.
    SubmitAndWait { fails: bool },
    /// Waits for the task that was accepted so many before the last one.
    Wait { back: usize },
    /// Waits for a task that was refused, or never submitted.
    WaitForStranger,
    /// Submits a task that holds the worker.
    Hold,
    /// Lets it end, and everything behind it.
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|fails| Step::Submit { fails }),
        1 => any::<bool>().prop_map(|fails| Step::SubmitAndWait { fails }),
        6 => (0..14usize).prop_map(|back| Step::Wait { back }),
        1 => Just(Step::WaitForStranger),
        1 => Just(Step::Hold),
        2 => Just(Step::Release),
    ]
}

/// What is owed for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    /// As the so-manyth of all.
    Ended(usize),
    Read(usize),
}

#[derive(Debug)]
struct Model {
    limit: usize,
    tasks: Vec<(TaskId, bool, State)>,
    finished: usize,
    held: bool,
}

/// What a wait comes to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Result { fails: bool },
    Timeout,
    AlreadyRead,
    UnknownOrExpired,
}

impl Model {
    fn pending(&self) -> usize {
        self.tasks.iter().filter(|task| task.2 == State::Pending).count()
    }

    /// A task more; `false` if there is no room.
    fn submit(&mut self, id: TaskId, fails: bool) -> bool {
        let has_room = self.pending() < self.limit;
        if has_room {
            self.tasks.push((id, fails, State::Pending));
        }
        has_room
    }

    /// Unless the worker is held, everything ends in order.
    fn settle(&mut self) {
        for task in self.tasks.iter_mut().filter(|task| task.2 == State::Pending) {
            self.finished += 1;
            task.2 = State::Ended(self.finished);
        }
    }

    fn wait(&mut self, index: usize) -> Outcome {
        let (_, fails, state) = &mut self.tasks[index];
        match *state {
            State::Pending => Outcome::Timeout,
            State::Ended(number) | State::Read(number) if self.finished >= number + self.limit => {
                Outcome::UnknownOrExpired
            }
            State::Ended(number) => {
                *state = State::Read(number);
                Outcome::Result { fails: *fails }
            }
            State::Read(_) => Outcome::AlreadyRead,
        }
    }
}

fn seen(id: TaskId, limit: usize, end: Result<TaskResult, Error>) -> Outcome {
    match end {
        Ok(result) => {
            assert_eq!(result.task_id, id);
            assert_eq!(result.error, (!result.success).then(|| format!("task {id} fails")));
            Outcome::Result { fails: !result.success }
        }
        Err(Error::Timeout { task_id, waited: Duration::ZERO }) if task_id == id => Outcome::Timeout,
        Err(Error::AlreadyRead { task_id }) if task_id == id => Outcome::AlreadyRead,
        Err(Error::UnknownOrExpired { task_id, kept }) if task_id == id && kept == limit => Outcome::UnknownOrExpired,
        Err(error) => panic!("{error:?}"),
    }
}

fn task(fails: bool) -> Task {
    let (tell, told) = channel::<TaskId>();
    let task = Task::new("model", Priority::Normal, move || match (fails, told.recv()) {
        (true, Ok(id)) => Err(TaskError::new(format!("task {id} fails"))),
        _ => Ok(()),
    });
    tell.send(task.id()).unwrap();
    task
}

fn follow(limit: usize, steps: &[Step]) {
    let config = ExecutorConfig { worker_threads: 1, max_queue_depth: limit, ..ExecutorConfig::default() };
    let executor = TaskExecutor::new(config).unwrap();
    let mut model = Model { limit, tasks: Vec::new(), finished: 0, held: false };
    let mut gate: Option<Sender<()>> = None;
    let mut stranger = task(false).id();
    let drained = |executor: &TaskExecutor| {
        while executor.queue_depth() > 0 {
            std::thread::yield_now();
        }
    };
    for &step in steps {
        match step {
            Step::Submit { fails } => {
                let task = task(fails);
                let id = task.id();
                match (model.submit(id, fails), executor.submit_task(task)) {
                    (true, Ok(accepted)) => assert_eq!(accepted, id),
                    (false, Err(Error::QueueFull { depth, task })) => {
                        assert_eq!((depth, task.id()), (limit, id));
                        stranger = id;
                    }
                    other => panic!("{other:?}"),
                }
            }
            Step::SubmitAndWait { fails } => {
                let task = task(fails);
                let id = task.id();
                let timeout = if model.held { Duration::ZERO } else { PATIENCE };
                let accepted = model.submit(id, fails);
                let end = executor.submit_and_wait(task, timeout);
                if accepted {
                    if !model.held {
                        model.settle();
                    }
                    assert_eq!(seen(id, limit, end), model.wait(model.tasks.len() - 1));
                } else {
                    assert!(matches!(end, Err(Error::QueueFull { .. })), "{end:?}");
                }
            }
            Step::Wait { back } => {
                let Some(index) = model.tasks.len().checked_sub(back + 1) else { continue };
                let (id, _, state) = model.tasks[index];
                // What has ended counts as finished a moment before its result can be read.
                let timeout = if state == State::Pending { Duration::ZERO } else { PATIENCE };
                let end = executor.wait_for_completion(id, timeout);
                assert_eq!(seen(id, limit, end), model.wait(index), "{model:?}");
            }
            Step::WaitForStranger => {
                let end = executor.wait_for_completion(stranger, PATIENCE);
                assert_eq!(seen(stranger, limit, end), Outcome::UnknownOrExpired);
            }
            Step::Hold if !model.held => {
                let (began, begun) = channel();
                let (open, opened) = channel::<()>();
                let hold = Task::new("hold", Priority::Normal, move || {
                    began.send(()).unwrap();
                    let _ = opened.recv();
                    Ok(())
                });
                assert!(model.submit(hold.id(), false), "nothing is pending while nobody holds the worker");
                executor.submit_task(hold).unwrap();
                begun.recv().unwrap();
                (gate, model.held) = (Some(open), true);
            }
            Step::Hold => {}
            Step::Release => {
                drop(gate.take());
                model.held = false;
            }
        }
        if !model.held {
            drained(&executor);
            model.settle();
        }
    }
    drop(gate);
    executor.shutdown_timeout(PATIENCE).unwrap();
    assert_eq!(executor.stats().tasks_executed.into_inner() as usize, model.tasks.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_wait_ends_as_the_model_says(limit in 1..6usize, steps in prop::collection::vec(step(), 1..120)) {
        follow(limit, &steps);
    }
}
