//! Why a task must not run, and what a handler's error comes to.

use super::{Lane, Served};
use crate::clock::Clock;
use crate::handler::Fault;
use crate::record::{DescriptorRecord, INLINE_PAYLOAD};
use crate::registry::Row;
use crate::response::Response;
use crate::status::{HandlerChange, Interrupted, Malformed, Poison, Status};

/// Why the task must not run, if so. A task that runs again was judged before; its deadline is not looked at twice.
#[inline(always)]
pub(super) fn judge<L: Lane>(
    record: &DescriptorRecord,
    row: Option<&Row>,
    served: &Served<L>,
    attempt: u16,
    started_at: u64,
    clock: &Clock,
) -> Option<Status> {
    if let Some(reason) = served.lane.poison() {
        return Some(match reason {
            reason if attempt == 1 => Status::Poisoned(reason),
            Poison::Damaged => Status::Interrupted(Interrupted::PayloadLost),
            _ => Status::Interrupted(Interrupted::Attempts),
        });
    }
    let Some(row) = row else {
        return Some(unknown(attempt));
    };
    if row.since > served.facts.generation || row.is_gone() {
        return Some(changed(row, served.facts.generation, attempt));
    }
    let length = record.length();
    if record.flags() != 0 {
        return Some(Status::Malformed(Malformed::BadFlags));
    }
    if length as usize > INLINE_PAYLOAD && length as usize > served.lane.request_bytes() {
        return Some(Status::Malformed(Malformed::TooLong));
    }
    if !row.takes(length) {
        return Some(Status::Malformed(Malformed::WrongSize));
    }
    if record.deadline() != 0 && attempt == 1 {
        let now = if started_at != 0 { started_at } else { clock.now() };
        if now > record.deadline() {
            return Some(Status::Expired);
        }
    }
    None
}

#[cold]
fn unknown(attempt: u16) -> Status {
    if attempt == 1 {
        Status::Malformed(Malformed::UnknownHandler)
    } else {
        Status::Interrupted(Interrupted::HandlerChanged)
    }
}

#[cold]
fn changed(row: &Row, generation: u32, attempt: u16) -> Status {
    if attempt > 1 {
        Status::Interrupted(Interrupted::HandlerChanged)
    } else if row.since <= generation {
        Status::Malformed(Malformed::UnknownHandler) // it was gone before this lane attached
    } else if row.is_gone() {
        Status::HandlerChanged(HandlerChange::Missing)
    } else {
        Status::HandlerChanged(HandlerChange::Changed)
    }
}

#[cold]
pub(super) fn payload_lost(attempt: u16) -> Status {
    if attempt == 1 { Status::Poisoned(Poison::Damaged) } else { Status::Interrupted(Interrupted::PayloadLost) }
}

/// Status byte, detail byte, and whether it was the author's code that failed.
#[cold]
pub(super) fn fail(fault: &Fault, response: &mut Response<'_>) -> (u8, u8, bool) {
    let (status, ran) = match fault {
        Fault::Task(error) => {
            response.set_text(error.message());
            (Status::Failed { code: error.code() }, true)
        }
        Fault::Malformed(reason) => {
            response.clear();
            (Status::Malformed(*reason), false)
        }
    };
    (status.code(), status.detail(), ran)
}
