//! Which handlers there are: registered by id before the start, frozen afterwards, looked up by index.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytemuck::checked;

use crate::contract::{SliceSpec, TaskSpec, fingerprint};
use crate::response::Response;
use crate::status::Malformed;
use crate::task::{HANDLER_IDS, TaskContext, TaskError};
use crate::view::RequestView;

/// The longest name of a handler, in bytes.
pub const NAME_MAX: usize = 63;

type Shared = dyn Fn(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), Fault> + Send + Sync;
type InPlace = dyn Fn(&TaskContext<'_>, RequestView<'_>, &mut Response<'_>) -> Result<(), Fault> + Send + Sync;
type Owned = dyn FnMut(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), Fault>;
type Factory = dyn Fn(u32) -> Box<Owned> + Send + Sync;

/// What a runner can come back with: the author's error, or a payload that was no legal value.
#[derive(Debug)]
pub enum Fault {
    /// The author's error.
    Task(TaskError),
    /// The payload could not be understood.
    Malformed(Malformed),
}

#[derive(Clone)]
enum Code {
    Shared(Arc<Shared>),
    InPlace(Arc<InPlace>),
    PerWorker(Arc<Factory>),
}

/// One handler with its contract, to be added to a [`RegistryBuilder`].
#[derive(Clone)]
pub struct Handler {
    id: u32,
    name: String,
    fingerprint: u64,
    request_min: u32,
    request_max: u32,
    idempotent: bool,
    code: Code,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("fingerprint", &format_args!("{:016x}", self.fingerprint))
            .field("request_bytes", &(self.request_min..=self.request_max))
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}

impl Handler {
    /// A handler over bytes, shared by all workers. It gets a private copy of the payload, aligned to at least 32.
    pub fn new<F>(id: u32, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), TaskError> + Send + Sync + 'static,
    {
        Self::with(
            id,
            name.into(),
            Code::Shared(Arc::new(move |context, request, response| {
                handler(context, request, response).map_err(Fault::Task)
            })),
        )
    }

    /// A handler that reads the request where its producer put it, without a copy. It pays for long requests of which
    /// little is read, or of which each word is read once; the producer can change bytes while they are read, so see
    /// [`RequestView`].
    pub fn in_place<F>(id: u32, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(&TaskContext<'_>, RequestView<'_>, &mut Response<'_>) -> Result<(), TaskError> + Send + Sync + 'static,
    {
        Self::with(
            id,
            name.into(),
            Code::InPlace(Arc::new(move |context, request, response| {
                handler(context, request, response).map_err(Fault::Task)
            })),
        )
    }

    /// A handler with state of its own in each worker, so it needs no lock: `make(worker)` is called once on each
    /// worker's own thread before it serves.
    pub fn per_worker<M, F>(id: u32, name: impl Into<String>, make: M) -> Self
    where
        M: Fn(u32) -> F + Send + Sync + 'static,
        F: FnMut(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), TaskError> + 'static,
    {
        Self::with(
            id,
            name.into(),
            Code::PerWorker(Arc::new(move |worker| {
                let mut handler = make(worker);
                Box::new(move |context, request, response| handler(context, request, response).map_err(Fault::Task))
            })),
        )
    }

    /// A handler for a typed contract. A payload of another size ends as `Malformed(WrongSize)`, one that is no legal
    /// value of `T::Args` as `Malformed(BadValue)`; neither reaches `handler`.
    pub fn typed<T: TaskSpec>(
        handler: impl Fn(&TaskContext<'_>, &T::Args) -> Result<T::Output, TaskError> + Send + Sync + 'static,
    ) -> Self {
        let size = size_of::<T::Args>() as u32;
        let mut this = Self::with(
            T::ID,
            T::NAME.to_owned(),
            Code::Shared(Arc::new(move |context, request, response| {
                // Payloads come aligned to 32 or 64; only a type aligned to more than its inline place needs the copy.
                let output = match checked::try_from_bytes::<T::Args>(request) {
                    Ok(args) => handler(context, args),
                    Err(checked::CheckedCastError::PodCastError(_)) => {
                        let args = checked::try_pod_read_unaligned::<T::Args>(request)
                            .map_err(|_| Fault::Malformed(Malformed::BadValue))?;
                        handler(context, &args)
                    }
                    Err(checked::CheckedCastError::InvalidBitPattern) => {
                        return Err(Fault::Malformed(Malformed::BadValue));
                    }
                };
                response.write_value(&output.map_err(Fault::Task)?);
                Ok(())
            })),
        );
        this.fingerprint = T::FINGERPRINT;
        this.request_min = size;
        this.request_max = size;
        this
    }

    /// A handler for a typed contract with items. A payload that is no header and whole items ends as
    /// `Malformed(WrongSize)`, one whose header is no legal value as `Malformed(BadValue)`; neither reaches `handler`.
    pub fn slice<T: SliceSpec>(
        handler: impl Fn(&TaskContext<'_>, &T::Header, &[T::Item]) -> Result<T::Output, TaskError> + Send + Sync + 'static,
    ) -> Self {
        let code: Arc<Shared> = Arc::new(move |context, request, response| {
            let (Some(header), Some(items)) = (request.get(..size_of::<T::Header>()), request.get(T::ITEMS_AT..))
            else {
                return Err(Fault::Malformed(Malformed::WrongSize)); // the size limits below have seen to it
            };
            if !items.len().is_multiple_of(size_of::<T::Item>()) {
                return Err(Fault::Malformed(Malformed::WrongSize));
            }
            let header = checked::try_pod_read_unaligned::<T::Header>(header)
                .map_err(|_| Fault::Malformed(Malformed::BadValue))?;
            // Payloads come aligned to 64, up to 32 bytes to 32. An item aligned to more has at least 64 bytes, so what
            // does not lie aligned has no items.
            let items = if items.is_empty() {
                &[]
            } else {
                bytemuck::try_cast_slice::<u8, T::Item>(items).map_err(|_| Fault::Malformed(Malformed::BadValue))?
            };
            let output = handler(context, &header, items);
            response.write_value(&output.map_err(Fault::Task)?);
            Ok(())
        });
        let mut this = Self::with(T::ID, T::NAME.to_owned(), Code::Shared(code));
        this.fingerprint = T::FINGERPRINT;
        this.request_min = u32::try_from(T::ITEMS_AT).unwrap_or(u32::MAX);
        this
    }

    fn with(id: u32, name: String, code: Code) -> Self {
        let fingerprint = fingerprint(&name, 0, 0, 0, 0, 0);
        Self { id, name, fingerprint, request_min: 0, request_max: u32::MAX, idempotent: false, code }
    }

    /// Says that running a task twice does no more than running it once. Only then is a task that was interrupted by a
    /// crash run again; otherwise it ends as [`Interrupted`](crate::Status::Interrupted).
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The payload sizes it takes, in bytes; others end as `Malformed(WrongSize)`.
    #[must_use]
    pub fn request_bytes(mut self, sizes: std::ops::RangeInclusive<u32>) -> Self {
        self.request_min = *sizes.start();
        self.request_max = *sizes.end();
        self
    }

    /// The version of an untyped handler's contract: part of its fingerprint.
    #[must_use]
    pub fn schema(mut self, schema: u32) -> Self {
        self.fingerprint = fingerprint(&self.name, schema, 0, 0, 0, 0);
        self
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its contract in 64 bits.
    pub fn contract(&self) -> u64 {
        self.fingerprint
    }

    /// Whether it may run a task twice.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// The payload sizes it takes.
    pub fn request_limits(&self) -> std::ops::RangeInclusive<u32> {
        self.request_min..=self.request_max
    }
}

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
pub(crate) struct Table {
    /// Row number + 1 by id, 0 for none; the length is a power of two.
    index: Box<[u16]>,
    rows: Vec<Row>,
}

impl Table {
    /// Builds the table on the worker's own thread. `since` names every id the instance ever had, gone ones included;
    /// a handler it does not name counts from generation 0, in the order of the registry.
    ///
    /// A panicking `make` of a per-worker handler is the error.
    pub(crate) fn new(registry: &Registry, since: &[Since], worker: u32) -> Result<Self, TableError> {
        let highest = registry.handlers.iter().map(Handler::id).chain(since.iter().map(|s| s.id)).max().unwrap_or(0);
        let mut index = vec![0u16; (highest as usize + 1).next_power_of_two()].into_boxed_slice();
        let mut rows: Vec<Row> = Vec::new();
        let mut place = |id: u32, row: Row| {
            rows.push(row);
            if let Some(place) = index.get_mut(id as usize) {
                *place = rows.len() as u16;
            }
        };
        for (at, handler) in registry.handlers.iter().enumerate() {
            let known = since.iter().find(|s| s.id == handler.id);
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
            place(
                handler.id,
                Row {
                    runner: Some(runner),
                    request_min: handler.request_min,
                    request_max: handler.request_max,
                    since: known.map_or(0, |s| s.generation),
                    dense: known.map_or(at as u32, |s| s.dense),
                },
            );
        }
        for gone in since.iter().filter(|s| registry.get(s.id).is_none()) {
            let (since, dense) = (gone.generation, gone.dense);
            place(gone.id, Row { runner: None, request_min: 0, request_max: u32::MAX, since, dense });
        }
        Ok(Self { index, rows })
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
        let mut table = Table::new(&registry, &[gone], 0).unwrap();
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
        let error = Table::new(&registry, &[], 0).err().unwrap();
        assert_eq!(error.to_string(), "handler \"licensed\" panicked while a worker made its own state: no license");
    }
}
