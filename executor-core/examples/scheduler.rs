//! A scheduler with a causality graph: a task is released once everything it depends on is done.
//!
//! The graph is apart from the executor: it knows ids, holds tasks back and hands out those that are due. A cycle is an
//! error when it would be closed, and a task whose dependency failed does not run and says which one that was.
//!
//! ```sh
//! cargo run --release -p executor-core --example scheduler
//! ```

#![deny(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use executor_core::{Error, ExecutorConfig, Priority, Task, TaskError, TaskExecutor, TaskId};

/// Why the graph refused a task.
#[derive(Debug, PartialEq, Eq)]
enum GraphError {
    /// These depend on each other, the last one on the first.
    Cycle(Vec<TaskId>),
    /// It was added before.
    Known(TaskId),
}

impl std::fmt::Display for GraphError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cycle(ids) => {
                write!(f, "a cycle: ")?;
                ids.iter().try_for_each(|id| write!(f, "{id} -> "))?;
                write!(f, "{}", ids[0])
            }
            Self::Known(id) => write!(f, "task {id} was added before"),
        }
    }
}

impl std::error::Error for GraphError {}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// It ran and failed.
    Failed(String),
    /// It did not run because this one failed.
    Orphaned(TaskId),
}

/// What depends on what.
#[derive(Debug, Default)]
struct CausalityGraph {
    /// Of tasks that were added: what they depend on.
    edges: HashMap<TaskId, Vec<TaskId>>,
    ends: HashMap<TaskId, End>,
    /// Held back, with what each still waits for.
    waiting: HashMap<TaskId, (Task, BTreeSet<TaskId>)>,
}

impl CausalityGraph {
    /// Adds a task that runs already, or may.
    fn add_task(&mut self, id: TaskId, dependencies: Vec<TaskId>) -> Result<(), GraphError> {
        if self.edges.contains_key(&id) {
            return Err(GraphError::Known(id));
        }
        // Dependencies may be added after what depends on them, so any edge can close a cycle.
        if let Some(path) = dependencies.iter().find_map(|&dependency| self.path(dependency, id)) {
            return Err(GraphError::Cycle(path));
        }
        self.edges.insert(id, dependencies);
        Ok(())
    }

    /// Adds a task that is held back until `dependencies` are done. The task if it is due at once.
    fn hold(&mut self, task: Task, dependencies: Vec<TaskId>) -> Result<Vec<Task>, GraphError> {
        let id = task.id();
        let open = dependencies.iter().copied().filter(|id| self.ends.get(id) != Some(&End::Done)).collect();
        let failed = dependencies.iter().copied().find(|id| self.ends.get(id).is_some_and(|end| *end != End::Done));
        self.add_task(id, dependencies)?;
        self.waiting.insert(id, (task, open));
        Ok(match failed {
            Some(failed) => self.orphan(id, failed),
            None => self.due(),
        })
    }

    /// A task has ended: those that are due now.
    fn end(&mut self, id: TaskId, end: End) -> Vec<Task> {
        let is_done = end == End::Done;
        self.ends.insert(id, end);
        let behind: Vec<TaskId> =
            self.waiting.iter().filter(|(_, (_, open))| open.contains(&id)).map(|(&id, _)| id).collect();
        for waiting in behind {
            if !is_done {
                self.orphan(waiting, id);
            } else if let Some((_, open)) = self.waiting.get_mut(&waiting) {
                open.remove(&id);
            }
        }
        self.due()
    }

    /// Drops a task that is never going to be due, and all behind it.
    fn orphan(&mut self, id: TaskId, failed: TaskId) -> Vec<Task> {
        self.waiting.remove(&id);
        self.end(id, End::Orphaned(failed))
    }

    fn due(&mut self) -> Vec<Task> {
        let due: Vec<TaskId> =
            self.waiting.iter().filter(|(_, (_, open))| open.is_empty()).map(|(&id, _)| id).collect();
        due.iter().filter_map(|id| Some(self.waiting.remove(id)?.0)).collect()
    }

    /// The way from `from` to `to` along dependencies.
    fn path(&self, from: TaskId, to: TaskId) -> Option<Vec<TaskId>> {
        let (mut seen, mut ways) = (BTreeSet::new(), vec![vec![from]]);
        while let Some(way) = ways.pop() {
            let &last = way.last()?;
            if last == to {
                return Some(way);
            }
            if seen.insert(last) {
                let next = self.edges.get(&last).into_iter().flatten();
                ways.extend(next.map(|&next| way.iter().copied().chain([next]).collect::<Vec<_>>()));
            }
        }
        None
    }
}

/// Tells the scheduler's thread how a task ended.
type Ends = mpsc::Sender<(TaskId, End)>;

struct TaskScheduler {
    executor: TaskExecutor,
    causality_graph: Mutex<CausalityGraph>,
    ends: Ends,
    /// Read by whoever releases tasks.
    ended: Mutex<mpsc::Receiver<(TaskId, End)>>,
}

impl TaskScheduler {
    fn new() -> Result<Self, Error> {
        let executor = TaskExecutor::new(ExecutorConfig {
            worker_threads: 4,
            max_queue_depth: 10_000,
            target_latency_ns: 2_000,
            enable_timing_metrics: true,
            executor_cores: vec![],
        })?;
        let (ends, ended) = mpsc::channel();
        Ok(Self { executor, causality_graph: Mutex::default(), ends, ended: Mutex::new(ended) })
    }

    fn graph(&self) -> MutexGuard<'_, CausalityGraph> {
        self.causality_graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task that tells how it ended.
    fn task(
        &self,
        name: &'static str,
        priority: Priority,
        work: impl FnOnce() -> Result<(), TaskError> + Send + 'static,
    ) -> Task {
        let (ends, own_id) = (self.ends.clone(), Arc::new(Mutex::new(None)));
        let id = Arc::clone(&own_id);
        let task = Task::new(name, priority, move || {
            let outcome = work();
            let end = outcome.as_ref().map_or_else(|error| End::Failed(error.message().to_owned()), |()| End::Done);
            if let Some(id) = *own_id.lock().unwrap_or_else(PoisonError::into_inner) {
                ends.send((id, end))?;
            }
            outcome
        });
        *id.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.id());
        task
    }

    /// Runs a task that depends on nothing.
    fn submit(&self, task: Task) -> Result<TaskId, Box<dyn std::error::Error>> {
        let task_id = self.executor.submit_task(task)?;
        self.graph().add_task(task_id, vec![])?;
        Ok(task_id)
    }

    /// Runs a task once `dependencies` are done.
    fn submit_after(&self, task: Task, dependencies: Vec<TaskId>) -> Result<TaskId, Box<dyn std::error::Error>> {
        let task_id = task.id();
        let due = self.graph().hold(task, dependencies)?;
        self.release(due)?;
        Ok(task_id)
    }

    fn release(&self, due: Vec<Task>) -> Result<(), Error> {
        due.into_iter().try_for_each(|task| self.executor.submit_task(task).map(drop))
    }

    /// Releases tasks until `id` has ended one way or another.
    fn run_until(&self, id: TaskId) -> Result<End, Box<dyn std::error::Error>> {
        loop {
            if let Some(end) = self.graph().ends.get(&id) {
                return Ok(end.clone());
            }
            let (ended, end) =
                self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(Duration::from_secs(60))?;
            let due = self.graph().end(ended, end);
            self.release(due)?;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scheduler = TaskScheduler::new()?;
    let order = Arc::new(Mutex::new(Vec::new()));
    let say = |text: &'static str| {
        let order = Arc::clone(&order);
        scheduler.task(text, Priority::High, move || {
            println!("{text}");
            order.lock().map_err(|_| TaskError::new("poisoned"))?.push(text);
            Ok(())
        })
    };

    // Flour and water make the dough, the dough makes the bread.
    let flour = scheduler.submit(say("flour"))?;
    let water = scheduler.submit(say("water"))?;
    let dough = scheduler.submit_after(say("dough"), vec![flour, water])?;
    let bread = scheduler.submit_after(say("bread"), vec![dough])?;
    assert_eq!(scheduler.run_until(bread)?, End::Done);

    // A cycle is refused when it would be closed: the hen after the egg, the egg after the hen.
    let (hen, egg) = (say("hen"), say("egg"));
    let hen_id = hen.id();
    scheduler.submit_after(hen, vec![egg.id()])?;
    match scheduler.submit_after(egg, vec![hen_id]) {
        Err(error) => println!("refused: {error}"),
        Ok(_) => return Err("a cycle was accepted".into()),
    }

    // What depends on a task that failed does not run, and says on which.
    let oven = scheduler.task("oven", Priority::High, || Err(TaskError::new("the oven is cold")));
    let oven = scheduler.submit(oven)?;
    let cake = scheduler.submit_after(say("cake"), vec![oven])?;
    let feast = scheduler.submit_after(say("feast"), vec![cake])?;
    assert_eq!(scheduler.run_until(feast)?, End::Orphaned(cake));
    println!("the cake: {:?}, for the oven: {:?}", scheduler.run_until(cake)?, scheduler.run_until(oven)?);

    scheduler.executor.shutdown()?;
    let order = order.lock().map_err(|_| "poisoned")?;
    let at = |text: &str| order.iter().position(|said| *said == text);
    let in_order = at("flour") < at("dough") && at("water") < at("dough") && at("dough") < at("bread");
    if order.len() == 4 && in_order { Ok(()) } else { Err(format!("{order:?} is out of order").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> TaskId {
        TaskId::from_u64(number)
    }

    #[test]
    fn tasks_run_after_what_they_depend_on() {
        main().unwrap();
    }

    #[test]
    fn a_cycle_is_an_error_when_it_would_be_closed_and_names_its_tasks() {
        let mut graph = CausalityGraph::default();
        graph.add_task(id(1), vec![id(2)]).unwrap();
        graph.add_task(id(2), vec![id(3), id(4)]).unwrap();
        graph.add_task(id(4), vec![]).unwrap();
        let error = graph.add_task(id(3), vec![id(4), id(1)]).unwrap_err();
        assert_eq!(error, GraphError::Cycle(vec![id(1), id(2), id(3)]));
        assert_eq!(error.to_string(), format!("a cycle: {} -> {} -> {} -> {}", id(1), id(2), id(3), id(1)));
        assert_eq!(graph.add_task(id(5), vec![id(5)]).unwrap_err(), GraphError::Cycle(vec![id(5)]));
        // What was refused left nothing behind.
        graph.add_task(id(3), vec![id(4)]).unwrap();
        assert_eq!(graph.add_task(id(3), vec![]).unwrap_err(), GraphError::Known(id(3)));
    }

    #[test]
    fn a_task_behind_one_that_failed_long_ago_is_an_orphan_at_once() {
        let scheduler = TaskScheduler::new().unwrap();
        let failing = scheduler.task("fails", Priority::Low, || Err(TaskError::new("no")));
        let failed = scheduler.submit(failing).unwrap();
        assert_eq!(scheduler.run_until(failed).unwrap(), End::Failed("no".to_owned()));
        let behind = scheduler.task("behind", Priority::Low, || panic!("it must not run"));
        let behind = scheduler.submit_after(behind, vec![failed]).unwrap();
        assert_eq!(scheduler.run_until(behind).unwrap(), End::Orphaned(failed));
        scheduler.executor.shutdown().unwrap();
    }
}
