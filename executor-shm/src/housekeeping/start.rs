//! A start: what the files of an earlier life say of every lane.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use executor_core::Clock;
use executor_core::record::{COMMIT, DescriptorRecord, INLINE_PAYLOAD};
use executor_core::registry::Registry;
use executor_core::status::{Poison, Status};

use super::notes::Answered;
use super::{Housekeeping, Keep, Limits, Notes, Orders, Pace, skip_ids};
use crate::barrier;
use crate::files::FileError;
use crate::layout::{journal::k, status};
use crate::master::Master;
use crate::mutant::Mutant;
use crate::recovery::{self, Circumstances};
use crate::rehearsal::Instant;
use crate::state::LaneState;
use crate::status::{HandlerRow, Placement};
use crate::warm::Warm;
use crate::words::{Words, WordsMut};

/// Positions that a lane can reach: task ids have 54 bits for them.
const POSITION_MAX: u64 = 1 << 54;
/// Ids that are skipped where nobody knows how many were handed out: years of a lane's work.
const IDS_UNKNOWN: u64 = 1 << 48;

/// What happened to the lanes at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Lanes that had an owner or unanswered tasks.
    pub lanes: u32,
    /// Tasks in flight that are run again.
    pub reruns: u32,
    /// Tasks in flight that were answered `Interrupted`.
    pub interrupted: u32,
    /// Lanes that are poisoned from this start on, because their tasks crashed the sidecar too often.
    pub poisoned: u32,
}

impl Housekeeping {
    /// Recovers every lane of the files and rewrites the mirrors. No worker has a lane yet.
    pub(crate) fn recover(
        master: Master,
        clock: Clock,
        rows: (&[HandlerRow], &[HandlerRow], u32),
        registry: &Registry,
        orders: Arc<Orders>,
        (drain_time, limits): (Duration, Limits),
        warm: &mut Warm,
    ) -> Result<(Self, RecoveryReport), FileError> {
        let (old_rows, new_rows, generation) = rows;
        let mut report = RecoveryReport::default();
        let mut notes = Notes::new(&master, clock);
        let mut lanes = Vec::new();
        for lane in 0..master.geometry.lanes {
            let mut keep = Keep::absent(master.lane_word(lane));
            let at = master.geometry.journal_lane(lane);
            keep.placement = Placement::from_word(master.journal.load(at + k::PLACEMENT));
            match keep.word.state() {
                Some(LaneState::Absent) => {}
                Some(LaneState::Free) if Mutant::FreeLaneForgotten.is_on() => {}
                Some(LaneState::Draining) if Mutant::DrainingLaneReset.is_on() => {
                    keep.word = keep.word.with(LaneState::Resetting, 0);
                }
                Some(LaneState::Poisoned) if Mutant::PoisonedLaneReset.is_on() => {
                    keep.word = keep.word.with(LaneState::Resetting, 0);
                }
                Some(LaneState::Resetting) | None => keep.word = keep.word.with(LaneState::Resetting, 0),
                // No lane comes this far: the count is damaged, and a position taken from it would run tasks again.
                Some(_) if master.journal.load(at + COMMIT) > POSITION_MAX && !Mutant::DamagedCountBelieved.is_on() => {
                    keep.word = keep.word.with(LaneState::Resetting, 0);
                    // The state first: killed after it, the next start resets the lane; the count alone, made 0, would
                    // have it serve everything from the beginning.
                    master.set_lane_word(lane, keep.word);
                    skip_ids(&master.journal, at, IDS_UNKNOWN);
                    master.journal.commit(at + COMMIT, 0);
                }
                Some(state) => {
                    match warm.open_lane(&master.instance, &master.geometry, master.nonce, lane, keep.word.nonce()) {
                        // Files that are gone or damaged under a journal that names them cost their own lane only: they
                        // are made anew once nobody holds their lock, and whoever was attached finds the lane lost. Names
                        // that something else has stop the start: perhaps the files are only elsewhere.
                        Err(error) if error.is_missing() || error.is_damage() => {
                            // Ids past the journal's count were handed out as well.
                            if !Mutant::LostIdsNotSkipped.is_on() {
                                skip_ids(&master.journal, at, u64::from(master.geometry.capacity));
                            }
                            keep.word = keep.word.with(LaneState::Resetting, 0);
                        }
                        Err(error) => return Err(error),
                        Ok(files) => {
                            let charge = recovery::charge(&master.journal, at, &files.cq, &master.geometry);
                            let is_over = charge.over_budget && !Mutant::BudgetIgnored.is_on();
                            if is_over && state != LaneState::Poisoned {
                                // The state first, as for every poison: a start killed here finds it and answers alike.
                                keep.word = keep.word.with(LaneState::Poisoned, Poison::CrashBudget.code());
                                master.set_lane_word(lane, keep.word);
                                report.poisoned += 1;
                            }
                            let state = keep.word.state().unwrap_or(state);
                            let damaged = keep.word.reason() == Poison::Damaged.code();
                            let look = |record: &executor_core::record::DescriptorRecord| {
                                let id = record.handler_id();
                                let attached = master.journal.load(at + k::GENERATION);
                                let old = old_rows.iter().find(|row| row.id == id);
                                let new = new_rows.iter().find(|row| row.id == id);
                                Circumstances {
                                    poisoned: state == LaneState::Poisoned,
                                    payload_lost: state == LaneState::Poisoned
                                        && damaged
                                        && record.length() as usize > INLINE_PAYLOAD,
                                    handler_changed: new.is_none_or(|row| u64::from(row.since) > attached || row.gone),
                                    idempotent: (Mutant::OldIdempotenceIgnored.is_on()
                                        || old.is_some_and(|row| row.idempotent))
                                        && registry.get(id).is_some_and(executor_core::Handler::is_idempotent),
                                    signal: charge.signal.is_some(),
                                }
                            };
                            let found = recovery::recover(&master.journal, at, &files.cq, &master.geometry, look);
                            if state != LaneState::Free {
                                report.lanes += 1;
                            }
                            report.reruns += u32::from(found.rerun.is_some());
                            report.interrupted += u32::from(matches!(found.answered, Some(Status::Interrupted(_))));
                            if let Some(status) = found.answered {
                                let handler_id =
                                    DescriptorRecord { words: master.journal.load_record(at) }.handler_id();
                                let row = new_rows.iter().position(|row| row.id == handler_id);
                                let position = master.journal.load(at + COMMIT).wrapping_sub(1);
                                notes.answered(&master, &Answered { lane, position, handler_id, row, status });
                            }
                            keep.start = (found.position, found.rerun.filter(|_| !Mutant::RerunForgotten.is_on()));
                            keep.hold(files);
                            keep.poison.fetch_or(u32::from(keep.word.reason()), Relaxed);
                        }
                    }
                }
            }
            lanes.push(keep);
        }
        for (lane, keep) in (0..).zip(&lanes).take_while(|_| !Mutant::MirrorsNotRewritten.is_on()) {
            let at = master.geometry.journal_lane(lane);
            let gate = master.geometry.gate(lane);
            master.status.store(gate + status::LANE_BASE, master.journal.load(at + k::BASE));
            master.status.store(gate + status::LANE_PLACEMENT, keep.placement.word());
            master.status.store(gate + status::LANE_RESETS, master.journal.load(at + k::RESETS));
            // The last life may have ended asleep.
            master.status.store(gate + status::GATE_SLEEPING, 0);
            master.status.store(gate + status::GATE_BARRIER, u64::from(barrier::is_registered()));
            master.set_lane_word(lane, keep.word);
        }
        let problem = Arc::default();
        let (names_seen, names_lost, reset_again) = (Instant::now(), false, None);
        let (controls, running) = (Vec::new(), Vec::new());
        let this = Self {
            notes,
            master,
            clock,
            ticked_at: clock.now(),
            generation,
            controls,
            orders,
            drain_time,
            problem,
            lanes,
            names_seen,
            names_lost,
            reset_again,
            running,
            looks: Pace::new(limits.looks, names_seen),
            renewals: Pace::new(limits.renewals, names_seen),
            is_held_back: false,
        };
        Ok((this, report))
    }
}
