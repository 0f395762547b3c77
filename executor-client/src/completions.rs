//! Completions of plain tasks as a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::{FusedStream, Stream};

use crate::completion::OwnedCompletion;
use crate::shared_lane::SharedLane;
use crate::wait::WaitError;

/// The completions of plain tasks, in the order of their submits, each once. Made by
/// [`AsyncClient::completions`](crate::AsyncClient::completions).
///
/// It is pending while none is there, also while nothing was submitted. Where several streams, descriptors or callers of
/// [`try_collect`](crate::AsyncClient::try_collect) take completions of one lane, each is given to one of them. Dropping it
/// between two items loses nothing: a completion is taken when it is handed over.
///
/// # Errors
///
/// Those of a [`TaskFuture`](crate::TaskFuture), as its last item; so it does with a lane that takes no tasks any more and
/// has answered all, without an error.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Completions {
    lane: Arc<SharedLane>,
    /// Its number among the streams of the lane, once it had to wait.
    number: Option<u64>,
    has_ended: bool,
}

impl Completions {
    pub(crate) fn new(lane: &Arc<SharedLane>) -> Self {
        Self { lane: Arc::clone(lane), number: None, has_ended: false }
    }
}

impl Stream for Completions {
    type Item = Result<OwnedCompletion, WaitError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { lane, number, has_ended } = &mut *self;
        if *has_ended {
            return Poll::Ready(None);
        }
        let polled = lane.poll(|inner, wakers| {
            let number = *number.get_or_insert_with(|| inner.number());
            inner.poll_plain(number, context, wakers)
        });
        polled.map(|collected| {
            *has_ended = !matches!(collected, Ok(Some(_)) | Err(WaitError::NoWatcher { .. }));
            collected.transpose()
        })
    }
}

impl FusedStream for Completions {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.lane.with(|inner, wakers| inner.forget_stream(number, wakers));
        }
    }
}
