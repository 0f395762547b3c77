//! What a start was asked for, and whether the files that are there fit it and this machine.

use executor_core::clock::ClockSource;

use crate::boot::Boot;
use crate::files::{FileError, Header, InstanceName};
use crate::group::Group;
use crate::layout::{Geometry, Kind, geometry, journal};
use crate::master::{MasterError, foreign};
use crate::state::InstanceState;
use crate::status as table;
use crate::words::Words;

/// Sizes a start was asked for; `None` takes the files' own, or the default for new files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) lanes: Option<u32>,
    pub(crate) capacity: Option<u32>,
    pub(crate) request_bytes: Option<u32>,
    pub(crate) response_bytes: Option<u32>,
    pub(crate) timing: Option<bool>,
    pub(crate) group: Option<Group>,
    pub(crate) handlers: u32,
    pub(crate) workers: u32,
}

impl Wanted {
    /// The sizes of new files. Room for more handlers and workers than asked for now: a later start may have more.
    pub(crate) fn geometry(&self) -> Geometry {
        let default = Geometry::default();
        Geometry {
            capacity: self.capacity.unwrap_or(default.capacity),
            request_bytes: self.request_bytes.unwrap_or(default.request_bytes),
            response_bytes: self.response_bytes.unwrap_or(default.response_bytes),
            lanes: self.lanes.unwrap_or(default.lanes),
            handlers: (self.handlers * 2).next_multiple_of(8).clamp(default.handlers, 4096),
            workers: self.workers.max(default.workers),
        }
    }

    /// Compares with the sizes of files that are there; `timed` is `None` where they have not settled that yet.
    ///
    /// # Errors
    ///
    /// [`MasterError::Differs`], naming the first option that does.
    pub(crate) fn check(
        &self,
        instance: &InstanceName,
        found: &Geometry,
        timed: Option<bool>,
    ) -> Result<(), MasterError> {
        let differs = |option, asked, found| MasterError::Differs { instance: instance.clone(), option, asked, found };
        let timing = (self.timing.map(u64::from), timed.map_or(self.timing.map_or(0, u64::from), u64::from));
        for (option, (asked, found)) in [
            ("lanes", (self.lanes.map(u64::from), u64::from(found.lanes))),
            ("capacity", (self.capacity.map(u64::from), u64::from(found.capacity))),
            ("request-bytes", (self.request_bytes.map(u64::from), u64::from(found.request_bytes))),
            ("response-bytes", (self.response_bytes.map(u64::from), u64::from(found.response_bytes))),
            ("timing", timing),
        ] {
            if let Some(asked) = asked
                && asked != found
            {
                return Err(differs(option, asked, found));
            }
        }
        for (option, needed, room) in
            [("room for workers", self.workers, found.workers), ("room for handlers", self.handlers, found.handlers)]
        {
            if needed > room {
                return Err(differs(option, u64::from(needed), u64::from(room)));
            }
        }
        Ok(())
    }

    /// Compares with the files of an instance that has settled; `clock` is what this machine stamps with, `None` for
    /// whoever serves no task.
    ///
    /// # Errors
    ///
    /// [`MasterError::Differs`], [`MasterError::OtherGroup`]; for whoever serves [`MasterError::OtherBoot`],
    /// [`MasterError::Clock`], or the kernel gives no files to the group.
    pub(crate) fn check_settled(
        &self,
        instance: &InstanceName,
        clock: Option<ClockSource>,
        words: &impl Words,
        geometry: &Geometry,
    ) -> Result<(), MasterError> {
        self.check(instance, geometry, Some(table::is_timed(words)))?;
        let group = read_group(instance, words)?;
        if let Some(asked) = self.group
            && Some(asked) != group
        {
            return Err(MasterError::OtherGroup { instance: instance.clone(), asked, found: group });
        }
        let Some(clock) = clock else { return Ok(()) };
        if Boot::load(words, journal::BOOT).is_other(Boot::now()) {
            return Err(MasterError::OtherBoot { instance: instance.clone() });
        }
        let found = ClockSource::from_code(words.load(geometry::CLOCK));
        if found != Some(clock) {
            let found = found.map_or("unknown", ClockSource::name);
            return Err(MasterError::Clock { instance: instance.clone(), asked: clock.name(), found });
        }
        match group {
            Some(group) => Ok(group.probe().map_err(FileError::from)?), // lanes are to be made for it
            None => Ok(()),
        }
    }
}

/// Whose members a journal lets in.
///
/// # Errors
///
/// The word stands for no group.
pub(crate) fn read_group(instance: &InstanceName, words: &impl Words) -> Result<Option<Group>, MasterError> {
    Group::from_word(words.load(journal::GROUP)).map_err(|()| foreign(&instance.journal(), "its group is none").into())
}

/// What a journal says of itself.
///
/// # Errors
///
/// It is none of this build, or none at all.
pub(crate) fn read_journal(
    instance: &InstanceName,
    journal: &impl Words,
) -> Result<(Header, Geometry, InstanceState), MasterError> {
    let name = instance.journal();
    let head = Header::load(journal, &name, Kind::Journal)?;
    let geometry = Geometry::load(journal);
    geometry.check()?;
    if geometry.journal_bytes() != journal.len() * 8 || head.lanes != geometry.lanes {
        return Err(foreign(&name, "its length does not fit its sizes").into());
    }
    let state = InstanceState::from_word(head.state).ok_or_else(|| foreign(&name, "its state is none"))?;
    Ok((head, geometry, state))
}
