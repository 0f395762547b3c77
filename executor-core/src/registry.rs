//! Which handlers there are: registered by id before the start, frozen afterwards, looked up by index.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::{SliceSpec, TaskSpec};
use crate::handler::{Code, Fault, Handler, InPlace, Owned, Shared};
use crate::response::Response;
use crate::status::Malformed;
use crate::task::{HANDLER_IDS, TaskContext, TaskError};
use crate::view::RequestView;

/// The longest name of a handler, in bytes.
pub const NAME_MAX: usize = 63;

/// Collects handlers before the start.
#[derive(Debug, Default)]
pub struct RegistryBuilder {
    handlers: Vec<Handler>,
}

impl RegistryBuilder {
    /// Adds a handler; mistakes are told by [`RegistryBuilder::build`].
    pub fn add(&mut self, handler: Handler) -> &mut Self {
        self.handlers.push(handler);
        self
    }

    /// Shorthand for [`Handler::new`] added.
    pub fn handler<F>(&mut self, id: u32, name: &str, handler: F) -> &mut Self
    where
        F: Fn(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), TaskError> + Send + Sync + 'static,
    {
        self.add(Handler::new(id, name, handler))
    }

    /// Shorthand for [`Handler::typed`] added.
    pub fn typed<T: TaskSpec>(
        &mut self,
        handler: impl Fn(&TaskContext<'_>, &T::Args) -> Result<T::Output, TaskError> + Send + Sync + 'static,
    ) -> &mut Self {
        self.add(Handler::typed::<T>(handler))
    }

    /// Shorthand for [`Handler::slice`] added.
    pub fn slice<T: SliceSpec>(
        &mut self,
        handler: impl Fn(&TaskContext<'_>, &T::Header, &[T::Item]) -> Result<T::Output, TaskError> + Send + Sync + 'static,
    ) -> &mut Self {
        self.add(Handler::slice::<T>(handler))
    }

    /// Freezes what was added, in order of ids. The builder is empty afterwards.
    ///
    /// # Errors
    ///
    /// The first mistake found: an id outside 1 to 4,095, an id or a name used twice, an unusable name, sizes that no
    /// payload can have.
    pub fn build(&mut self) -> Result<Registry, RegistryError> {
        let mut handlers = std::mem::take(&mut self.handlers);
        handlers.sort_by_key(|handler| handler.id);
        for handler in &handlers {
            let name = || handler.name.clone();
            if !HANDLER_IDS.contains(&handler.id) {
                return Err(RegistryError::IdOutOfRange { id: handler.id, name: name() });
            }
            let printable = handler.name.bytes().all(|byte| byte.is_ascii_graphic());
            if handler.name.is_empty() || handler.name.len() > NAME_MAX || !printable {
                return Err(RegistryError::BadName { id: handler.id, name: name() });
            }
            if handler.request_min > handler.request_max {
                return Err(RegistryError::BadSizes {
                    name: name(),
                    min: handler.request_min,
                    max: handler.request_max,
                });
            }
        }
        for (i, a) in handlers.iter().enumerate() {
            for b in handlers.iter().skip(i + 1) {
                if a.id == b.id {
                    return Err(RegistryError::DuplicateId { id: a.id, first: a.name.clone(), second: b.name.clone() });
                }
                if a.name == b.name {
                    return Err(RegistryError::DuplicateName { name: a.name.clone(), first: a.id, second: b.id });
                }
            }
        }
        Ok(Registry { handlers: handlers.into() })
    }
}

/// Why a set of handlers cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Choose an id from 1 to 4,095.
    #[error("handler {name:?} has id {id}; ids are 1 to 4095")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// The handler's name.
        name: String,
    },
    /// Give one of them another id.
    #[error("handlers {first:?} and {second:?} both have id {id}; give one of them another")]
    DuplicateId {
        /// The id.
        id: u32,
        /// One name.
        first: String,
        /// The other name.
        second: String,
    },
    /// Give one of them another name.
    #[error("ids {first} and {second} are both named {name:?}; give one of them another name")]
    DuplicateName {
        /// The name.
        name: String,
        /// One id.
        first: u32,
        /// The other id.
        second: u32,
    },
    /// Use 1 to 63 printable ASCII characters without a space.
    #[error("handler {id} is named {name:?}; a name is 1 to {NAME_MAX} printable ASCII characters without a space")]
    BadName {
        /// The handler's id.
        id: u32,
        /// The name.
        name: String,
    },
    /// Swap them.
    #[error("handler {name:?} takes payloads of {min} to {max} bytes, which none can be")]
    BadSizes {
        /// The handler's name.
        name: String,
        /// The least size.
        min: u32,
        /// The greatest size.
        max: u32,
    },
}

/// A frozen set of handlers. Cheap to clone; clones share the handlers.
#[derive(Clone, Debug)]
pub struct Registry {
    handlers: Arc<[Handler]>,
}

impl Registry {
    /// An empty builder.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }

    /// No handlers.
    #[cfg(not(loom))]
    pub(crate) fn empty() -> Self {
        Self { handlers: Arc::new([]) }
    }

    /// The handlers in order of their ids.
    pub fn handlers(&self) -> &[Handler] {
        &self.handlers
    }

    /// The handler with this id.
    pub fn get(&self, id: u32) -> Option<&Handler> {
        self.handlers.binary_search_by_key(&id, |handler| handler.id).ok().and_then(|at| self.handlers.get(at))
    }
}

/// One row of a worker's dispatch table.
pub(crate) struct Row {
    runner: Option<Runner>,
    request_min: u32,
    request_max: u32,
    pub(crate) since: u32,
    /// Row number, by which the meter counts.
    pub(crate) dense: u32,
}

enum Runner {
    Shared(Arc<Shared>),
    InPlace(Arc<InPlace>),
    Owned(Box<Owned>),
}

impl Row {
    #[inline(always)]
    pub(crate) fn takes(&self, length: u32) -> bool {
        length >= self.request_min && length <= self.request_max
    }

    #[inline(always)]
    pub(crate) fn is_gone(&self) -> bool {
        self.runner.is_none()
    }

    /// Whether it reads requests where they lie.
    #[inline(always)]
    pub(crate) fn is_in_place(&self) -> bool {
        matches!(self.runner, Some(Runner::InPlace(_)))
    }

    pub(crate) fn run_in_place(
        &self,
        context: &TaskContext<'_>,
        request: RequestView<'_>,
        response: &mut Response<'_>,
    ) -> Result<(), Fault> {
        match &self.runner {
            Some(Runner::InPlace(handler)) => handler(context, request, response),
            _ => Err(Fault::Malformed(Malformed::UnknownHandler)),
        }
    }

    #[inline(always)]
    pub(crate) fn run(
        &mut self,
        context: &TaskContext<'_>,
        request: &[u8],
        response: &mut Response<'_>,
    ) -> Result<(), Fault> {
        match &mut self.runner {
            Some(Runner::Shared(handler)) => handler(context, request, response),
            Some(Runner::InPlace(handler)) => handler(context, RequestView::private(request), response),
            Some(Runner::Owned(handler)) => handler(context, request, response),
            None => Err(Fault::Malformed(Malformed::UnknownHandler)),
        }
    }
}

/// What a handler's life in its instance so far means for lanes that attached earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The handler's id.
    pub id: u32,
    /// The registry generation in which it last changed or vanished.
    pub generation: u32,
    /// Its place in the meter.
    pub dense: u32,
}

/// A worker's own table: handlers by id, state of its own where handlers asked for it.
#[derive(Default)]
pub struct Table {
    /// Row number + 1 by id, 0 for none; the length is a power of two.
    index: Box<[u16]>,
    rows: Vec<Row>,
    /// Of handlers that say when a task is slow: id, and when.
    slow_after: Vec<(u32, Duration)>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} rows)", self.rows.len())
    }
}

impl Table {
    /// Makes the handlers of worker `worker`; call it on the worker's own thread. Until [`dated`](Self::dated) says
    /// otherwise each counts from generation 0, in the order of the registry.
    ///
    /// # Errors
    ///
    /// The `make` of a per-worker handler panicked.
    pub fn new(registry: &Registry, worker: u32) -> Result<Self, TableError> {
        let mut table = Self::default();
        for (at, handler) in registry.handlers.iter().enumerate() {
            let runner = match &handler.code {
                Code::Shared(code) => Runner::Shared(Arc::clone(code)),
                Code::InPlace(code) => Runner::InPlace(Arc::clone(code)),
                Code::PerWorker(make) => {
                    let made = std::panic::catch_unwind(AssertUnwindSafe(|| make(worker)));
                    Runner::Owned(made.map_err(|panic| TableError {
                        handler: handler.name.clone(),
                        text: crate::dispatch::panic_text(&*panic).to_owned(),
                    })?)
                }
            };
            let (request_min, request_max) = (handler.request_min, handler.request_max);
            let row = Row { runner: Some(runner), request_min, request_max, since: 0, dense: at as u32 };
            table.place(handler.id, row);
            if let Some(time) = handler.slow_after {
                table.slow_after.push((handler.id, time));
            }
        }
        Ok(table)
    }

    /// The same handlers with their past in the instance. `since` names every id it ever had; one that no handler has
    /// any more is gone.
    #[must_use]
    pub fn dated(mut self, since: &[Since]) -> Self {
        for &Since { id, generation, dense } in since {
            match self.find(id) {
                Some(row) => (row.since, row.dense) = (generation, dense),
                None => {
                    let row = Row { runner: None, request_min: 0, request_max: u32::MAX, since: generation, dense };
                    self.place(id, row);
                }
            }
        }
        self
    }

    /// Of handlers that say when a task is slow: row, and when.
    pub(crate) fn slow_after(&mut self) -> Vec<(u32, Duration)> {
        let own = std::mem::take(&mut self.slow_after);
        own.into_iter().filter_map(|(id, time)| Some((self.find(id)?.dense, time))).collect()
    }

    fn place(&mut self, id: u32, row: Row) {
        let id = id as usize;
        if id >= self.index.len() {
            let mut longer = vec![0; (id + 1).next_power_of_two()].into_boxed_slice();
            longer[..self.index.len()].copy_from_slice(&self.index);
            self.index = longer;
        }
        self.rows.push(row);
        self.index[id] = self.rows.len() as u16;
    }

    /// The row of an id. The index is masked after its check, so that a mispredicted check cannot read elsewhere.
    #[inline(always)]
    pub(crate) fn find(&mut self, id: u32) -> Option<&mut Row> {
        let id = id as usize;
        if id >= self.index.len() {
            return None;
        }
        let place = *self.index.get(id & (self.index.len() - 1))?;
        self.rows.get_mut((place as usize).wrapping_sub(1))
    }
}

/// A per-worker handler could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("handler {handler:?} panicked while a worker made its own state: {text}")]
pub struct TableError {
    handler: String,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(id: u32, name: &str) -> Handler {
        Handler::new(id, name, |_, _, _| Ok(()))
    }

    fn build(handlers: Vec<Handler>) -> Result<Registry, RegistryError> {
        let mut builder = Registry::builder();
        for handler in handlers {
            builder.add(handler);
        }
        builder.build()
    }

    #[test]
    fn ids_outside_1_to_4095_are_refused_at_build() {
        for id in [0, 4096, u32::MAX] {
            let error = build(vec![nothing(id, "edge")]).unwrap_err();
            assert_eq!(error, RegistryError::IdOutOfRange { id, name: "edge".into() });
        }
        assert!(build(vec![nothing(1, "low"), nothing(4095, "high")]).is_ok());
    }

    #[test]
    fn duplicates_are_refused_with_both_names() {
        let error = build(vec![nothing(7, "a"), nothing(7, "b")]).unwrap_err();
        assert_eq!(error.to_string(), "handlers \"a\" and \"b\" both have id 7; give one of them another");
        let error = build(vec![nothing(7, "a"), nothing(8, "a")]).unwrap_err();
        assert_eq!(error, RegistryError::DuplicateName { name: "a".into(), first: 7, second: 8 });
    }

    #[test]
    fn unusable_names_and_sizes_are_refused() {
        for name in ["", "with space", "tab\t", &"x".repeat(64)] {
            assert!(matches!(build(vec![nothing(1, name)]), Err(RegistryError::BadName { .. })), "{name:?}");
        }
        #[allow(clippy::reversed_empty_ranges, reason = "the mistake under test")]
        let handler = nothing(1, "a").request_bytes(9..=8);
        assert!(matches!(build(vec![handler]), Err(RegistryError::BadSizes { min: 9, max: 8, .. })));
    }

    #[test]
    fn lookup_finds_what_was_registered_and_nothing_else() {
        let registry = build(vec![nothing(4095, "high"), nothing(1, "low")]).unwrap();
        let gone = Since { id: 9, generation: 5, dense: 2 };
        let mut table = Table::new(&registry, 0).unwrap().dated(&[gone]);
        assert_eq!(table.find(1).unwrap().dense, 0);
        assert_eq!(table.find(4095).unwrap().dense, 1);
        let row = table.find(9).unwrap();
        assert!(row.is_gone());
        assert_eq!((row.since, row.dense), (5, 2));
        for id in [0, 2, 4094, 4096, 4097, u32::MAX] {
            assert!(table.find(id).is_none(), "id {id}");
        }
    }

    #[test]
    fn a_panic_while_making_worker_state_is_an_error_with_its_name() {
        fn make(_: u32) -> impl FnMut(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), TaskError> {
            let refuse = true;
            assert!(!refuse, "no license");
            |_: &TaskContext<'_>, _: &[u8], _: &mut Response<'_>| Ok(())
        }
        let registry = build(vec![Handler::per_worker(3, "licensed", make)]).unwrap();
        let error = Table::new(&registry, 0).err().unwrap();
        assert_eq!(error.to_string(), "handler \"licensed\" panicked while a worker made its own state: no license");
    }
}
