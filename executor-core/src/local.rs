//! In-process lanes: a pair of `rtrb` rings between one submitting thread and one worker.
//!
//! They keep no journal, because what would read it dies with them; otherwise they owe their submitter what a lane in
//! shared memory does: strict order, and exactly one completion for every accepted task.
//!
//! # Invariants
//! - R1: `submitted - collected <= capacity`, both private to the submitter, so the completion ring is never full.

use crate::dispatch::{Lane, Scratch};
use crate::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD, INLINE_RESPONSE, LENGTH_MAX};
use crate::response::Response;
use crate::status::{Poison, Status};

/// A task on its way to the worker.
#[derive(Debug)]
struct LocalTask {
    record: DescriptorRecord,
    payload: Option<Box<[u8]>>,
}

/// An ended task on its way back.
#[derive(Debug)]
pub struct LocalCompletion {
    /// How it ended and when.
    pub record: CompletionRecord,
    response: Option<Box<[u8]>>,
}

impl LocalCompletion {
    /// The answer's bytes.
    pub fn response(&self) -> &[u8] {
        match &self.response {
            Some(bytes) => bytes,
            None => self.record.inline_response().get(..self.record.response_length() as usize).unwrap_or_default(),
        }
    }
}

/// The submitting end of an in-process lane.
#[derive(Debug)]
pub struct LocalProducer {
    tasks: rtrb::Producer<LocalTask>,
    completions: rtrb::Consumer<LocalCompletion>,
    submitted: u64,
    collected: u64,
    capacity: u64,
}

/// Why a task was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalSubmitError {
    /// Collect a completion first.
    #[error("the lane is full; collect a completion first")]
    Full,
}

/// The worker's end of an in-process lane.
#[derive(Debug)]
pub struct LocalLane {
    tasks: rtrb::Consumer<LocalTask>,
    completions: rtrb::Producer<LocalCompletion>,
    position: u64,
    capacity: u64,
    request_bytes: usize,
    payload: Option<Box<[u8]>>,
    buffer: Box<[u8]>,
}

/// A lane for `capacity` tasks (at least 1) with payloads of up to `request_bytes` and responses of up to
/// `response_bytes`, at most [`LENGTH_MAX`]; up to 32 and 24 bytes always fit.
pub fn lane(capacity: usize, request_bytes: usize, response_bytes: usize) -> (LocalProducer, LocalLane) {
    let capacity = capacity.max(1);
    let (task_writer, task_reader) = rtrb::RingBuffer::new(capacity);
    let (completion_writer, completion_reader) = rtrb::RingBuffer::new(capacity);
    (
        LocalProducer {
            tasks: task_writer,
            completions: completion_reader,
            submitted: 0,
            collected: 0,
            capacity: capacity as u64,
        },
        LocalLane {
            tasks: task_reader,
            completions: completion_writer,
            position: 0,
            capacity: capacity as u64,
            request_bytes: request_bytes.min(LENGTH_MAX),
            payload: None,
            buffer: vec![0; response_bytes.min(LENGTH_MAX)].into(),
        },
    )
}

impl LocalProducer {
    /// Submits a task and returns its position. Payloads past 32 bytes cost an allocation.
    ///
    /// # Errors
    ///
    /// [`LocalSubmitError::Full`] while `capacity` tasks are uncollected.
    pub fn try_submit(
        &mut self,
        handler_id: u32,
        payload: &[u8],
        submitted_at: u64,
        deadline: u64,
    ) -> Result<u64, LocalSubmitError> {
        if self.submitted - self.collected == self.capacity {
            return Err(LocalSubmitError::Full);
        }
        // The wire has 24 bits; a longer payload is cut to the longest, which no lane takes, so it ends as TooLong.
        let length = payload.len().min(0x00ff_ffff) as u32;
        let mut record = DescriptorRecord::new(handler_id, length, submitted_at, deadline);
        let mut task = LocalTask { record, payload: None };
        if let Some(inline) = record.inline_payload_mut().get_mut(..payload.len()) {
            inline.copy_from_slice(payload);
            task.record = record;
        } else {
            task.payload = Some(payload.into());
        }
        self.tasks.push(task).map_err(|_| LocalSubmitError::Full)?;
        self.submitted += 1;
        Ok(self.submitted - 1)
    }

    /// The next completion, in order of submission.
    pub fn try_collect(&mut self) -> Option<LocalCompletion> {
        let completion = self.completions.pop().ok()?;
        self.collected += 1;
        Some(completion)
    }

    /// Tasks submitted and not collected.
    pub fn in_flight(&self) -> u64 {
        self.submitted - self.collected
    }
}

impl Lane for LocalLane {
    #[inline(always)]
    fn is_ready(&self) -> bool {
        !self.tasks.is_empty()
    }

    #[inline(always)]
    fn take(&mut self, into: &mut DescriptorRecord) -> u16 {
        match self.tasks.pop() {
            Ok(task) => {
                *into = task.record;
                self.payload = task.payload;
                1
            }
            Err(_) => 0,
        }
    }

    #[inline]
    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        let bytes = self.payload.as_deref()?;
        let copy = scratch.get(length)?;
        copy.copy_from_slice(bytes.get(..length)?);
        Some(copy)
    }

    #[inline(always)]
    fn poison(&self) -> Option<Poison> {
        None
    }

    #[inline(always)]
    fn start(&mut self, _attempt: u16, _verdict: Option<Status>, _started_at: u64) -> bool {
        true
    }

    #[inline(always)]
    fn response(&mut self) -> Response<'_> {
        Response::new(&mut self.buffer)
    }

    #[inline(always)]
    fn publish(&mut self, completion: &CompletionRecord) {
        let length = completion.response_length() as usize;
        let response = if length > INLINE_RESPONSE { self.buffer.get(..length).map(Box::from) } else { None };
        self.position += 1;
        if self.completions.push(LocalCompletion { record: *completion, response }).is_err() {
            unreachable!("R1: the submitter keeps room for every accepted task's completion");
        }
    }

    #[inline(always)]
    fn position(&self) -> u64 {
        self.position
    }

    #[inline(always)]
    fn request_bytes(&self) -> usize {
        self.request_bytes.max(INLINE_PAYLOAD)
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A payload of so many bytes, to be answered with so many.
        Submit(usize, usize),
        Serve,
        Collect,
    }

    fn step() -> impl Strategy<Value = Step> {
        let sizes = || prop::sample::select(vec![0usize, 1, 24, 25, 31, 32, 33, 63, 64]);
        prop_oneof![
            3 => (sizes(), sizes()).prop_map(|(payload, response)| Step::Submit(payload, response)),
            2 => Just(Step::Serve),
            2 => Just(Step::Collect),
        ]
    }

    /// What a worker does with a lane, without one. The answer is the payload's first byte, so many times.
    fn serve(lane: &mut LocalLane, scratch: &mut Scratch, sizes: &mut VecDeque<usize>) -> Option<Vec<u8>> {
        let mut record = DescriptorRecord::default();
        let ready = lane.is_ready();
        let attempt = lane.take(&mut record);
        assert_eq!(ready, attempt == 1);
        if attempt == 0 {
            return None;
        }
        let length = record.length() as usize;
        let payload = match record.inline_payload().get(..length) {
            Some(inline) => inline.to_vec(),
            None => lane.payload(length, scratch).unwrap().to_vec(),
        };
        let size = sizes.pop_front().unwrap();
        assert!(lane.start(attempt, None, 0));
        let mut response = lane.response();
        response.write(&vec![payload.first().copied().unwrap_or(0xee); size]);
        let written = response.finish();
        let completion = CompletionRecord::new(
            Status::Done,
            attempt,
            written.wanted as u32,
            record.submitted_at(),
            0,
            0,
            written.inline,
        );
        lane.publish(&completion);
        Some(payload)
    }

    proptest! {
        #[test]
        fn a_lane_behaves_like_two_queues_with_one_bound(
            capacity in 0..6usize,
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let (mut producer, mut lane) = lane(capacity, 64, 64);
            let mut scratch = Scratch::new(64);
            let (mut waiting, mut ended) = (VecDeque::new(), VecDeque::new());
            let (mut sizes, mut submitted) = (VecDeque::new(), 0u64);
            for step in steps {
                match step {
                    Step::Submit(length, size) => {
                        let payload: Vec<u8> = (0..length).map(|i| (submitted as usize + i) as u8).collect();
                        let position = producer.try_submit(3, &payload, submitted, 0);
                        if waiting.len() + ended.len() == capacity.max(1) {
                            prop_assert_eq!(position, Err(LocalSubmitError::Full));
                        } else {
                            prop_assert_eq!(position, Ok(submitted));
                            waiting.push_back((submitted, payload, size));
                            sizes.push_back(size);
                            submitted += 1;
                        }
                    }
                    Step::Serve => {
                        let served = serve(&mut lane, &mut scratch, &mut sizes);
                        prop_assert_eq!(served.as_ref(), waiting.front().map(|(_, payload, _)| payload));
                        ended.extend(waiting.pop_front());
                        prop_assert_eq!(lane.position() + waiting.len() as u64, submitted);
                    }
                    Step::Collect => {
                        let found = producer.try_collect();
                        let found = found.as_ref().map(|found| (found.record.submitted_at(), found.response().to_vec()));
                        let expected = ended.pop_front().map(|(number, payload, size)| {
                            (number, vec![payload.first().copied().unwrap_or(0xee); size])
                        });
                        prop_assert_eq!(found, expected);
                    }
                }
                prop_assert_eq!(producer.in_flight(), (waiting.len() + ended.len()) as u64);
            }
        }
    }

    #[test]
    fn a_lane_is_made_for_no_more_than_a_record_can_name() {
        let (mut producer, mut lane) = lane(1, usize::MAX, 0);
        assert_eq!(lane.request_bytes(), LENGTH_MAX);
        producer.try_submit(1, &vec![0; 1 << 24], 0, 0).unwrap();
        let mut record = DescriptorRecord::default();
        assert_eq!(lane.take(&mut record), 1);
        assert!(record.length() as usize > LENGTH_MAX, "a payload that was cut must be too long");
    }
}
