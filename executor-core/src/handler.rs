//! One handler with its contract: over bytes, over typed arguments, with items, in place, or with state of its own.

use std::sync::Arc;
use std::time::Duration;

use bytemuck::checked;

use crate::contract::{SliceSpec, TaskSpec, fingerprint};
use crate::response::Response;
use crate::status::Malformed;
use crate::task::{TaskContext, TaskError};
use crate::view::RequestView;

pub(crate) type Shared = dyn Fn(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), Fault> + Send + Sync;
pub(crate) type InPlace =
    dyn Fn(&TaskContext<'_>, RequestView<'_>, &mut Response<'_>) -> Result<(), Fault> + Send + Sync;
pub(crate) type Owned = dyn FnMut(&TaskContext<'_>, &[u8], &mut Response<'_>) -> Result<(), Fault>;
pub(crate) type Factory = dyn Fn(u32) -> Box<Owned> + Send + Sync;

/// What a runner can come back with: the author's error, or a payload that was no legal value.
#[derive(Debug)]
pub enum Fault {
    /// The author's error.
    Task(TaskError),
    /// The payload could not be understood.
    Malformed(Malformed),
}

#[derive(Clone)]
pub(crate) enum Code {
    Shared(Arc<Shared>),
    InPlace(Arc<InPlace>),
    PerWorker(Arc<Factory>),
}

/// One handler with its contract, to be added to a [`RegistryBuilder`](crate::RegistryBuilder).
#[derive(Clone)]
pub struct Handler {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) fingerprint: u64,
    pub(crate) request_min: u32,
    pub(crate) request_max: u32,
    pub(crate) idempotent: bool,
    pub(crate) slow_after: Option<Duration>,
    pub(crate) code: Code,
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
        Self { id, name, fingerprint, request_min: 0, request_max: u32::MAX, idempotent: false, slow_after: None, code }
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

    /// From submit to end a task of it that takes longer is slow: an event of the flight recorder, kept with what it waited
    /// for. Unset, the sidecar's own threshold holds.
    #[must_use]
    pub fn slow_after(mut self, time: Duration) -> Self {
        self.slow_after = Some(time);
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
