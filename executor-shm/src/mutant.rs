//! Faults on purpose, for one question: does the suite see them? No build that is shipped can have one.
//!
//! Built with `--cfg executor_mutants` a process has the one fault that its environment names in `EXECUTOR_MUTANT`; without
//! that flag `Mutant::is_on` is `false` at compile time and nothing is left of any. `cargo run -p executor-tests --bin
//! mutants` tries them all, and says which test sees which.
//!
//! A fault whose loss is made good elsewhere breaks nothing that anybody could see, and is not in the table: a lane that
//! recovery hands to no worker, which the next look of housekeeping does; a reset that makes the new files before it stores
//! their nonce, which the next start sweeps; J's words stored under the commit of the task before, which has completed.

#[cfg(all(executor_mutants, not(debug_assertions)))]
compile_error!("faults on purpose are for one test build; what may be shipped has none");

macro_rules! mutants {
    ($(#[doc = $what:literal] $name:ident,)+) => {
        /// What can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the table is the documentation")]
        pub enum Mutant {
            $(#[doc = $what] $name,)+
        }

        impl Mutant {
            /// Every one, with its name and what it breaks.
            pub const ALL: &[(Self, &str, &str)] = &[$((Self::$name, stringify!($name), $what),)+];
        }
    };
}

// One table for the code, the environment and whoever runs them: hence a macro.
mutants! {
    // Submit, take, start, publish: `lane.rs`.
    /// submit: the commit word is stored before the descriptor
    CommitBeforeDescriptor,
    /// submit: a full lane takes one task more
    FullLaneTakesOneMore,
    /// step: the journal gets the descriptor by a second read of the slot
    DescriptorReadTwice,
    /// step: the journal gets no descriptor
    DescriptorNotJournalled,
    /// step: a payload is used without being copied from the lane
    PayloadNotCopied,
    /// step: the first look at the poison is forgotten
    PoisonNotLookedAt,
    /// step: the second look at the poison is forgotten
    PoisonNotLookedAtAgain,
    /// step: STARTED is stored before the verdict
    StartedBeforeVerdict,
    /// step: STARTED is stored before the time of the start
    StartedBeforeTime,
    /// step: STARTED is stored after the handler
    StartedAfterHandler,
    /// step: a second attempt does not count itself
    AttemptNotStored,
    /// step: a second attempt takes its descriptor from the lane, not from the journal
    RerunFromSubmission,
    /// publish: COMPLETED is stored before the completion
    CompletedBeforeRecord,

    // Sleep and wake: `lane.rs`, `bell.rs`, `sleep.rs`, `housekeeping.rs`.
    /// worker: it sleeps and does not say so
    WorkerSleepsUnsaid,
    /// worker: it sleeps on what it sees, whatever that is
    WorkerLooksOnce,
    /// submit: it wakes nobody
    SubmitWakesNobody,
    /// wait: it sleeps and does not say so
    WaitSleepsUnsaid,
    /// wait: it sleeps on what it sees, whatever that is
    WaitLooksOnce,
    /// watcher of futures: it sleeps and does not say so
    LookoutSleepsUnsaid,
    /// watcher of futures: it sleeps on what it sees, whatever that is
    LookoutLooksOnce,
    /// publish: it wakes nobody
    CompletionWakesNobody,
    /// publish: a wake-up that was put off is left out
    WakeUpLeftOut,
    /// publish: useless wake-ups are not held back
    WakeUpsWithoutEnd,
    /// recovery: it wakes nobody
    RecoveryWakesNobody,
    /// housekeeping: a lane that is handed over wakes nobody
    CommandWakesNobody,
    /// worker: with more lanes than it can sleep on it sleeps as long as with few
    CrowdForgotten,

    // What a start makes of the task in flight: `recovery.rs`.
    /// recovery: a completion that is there is not noticed
    CompletedNotNoticed,
    /// recovery: the first task of a lane is not looked at
    FirstTaskForgotten,
    /// recovery: a verdict is ignored
    VerdictIgnored,
    /// recovery: a task that is not idempotent runs again
    IdempotenceIgnored,
    /// recovery: a poisoned lane's task runs again
    PoisonIgnored,
    /// recovery: a task whose handler changed runs again
    ChangeIgnored,
    /// recovery: a task whose payload is lost runs again
    LossIgnored,
    /// recovery: attempts are not counted
    AttemptsIgnored,
    /// recovery: the attempts of another position count
    AttemptsOfAnyTask,
    /// recovery: the signal is not told
    SignalNotTold,
    /// recovery: its commit word is stored before its completion
    AnswerBeforeRecord,
    /// recovery: what it answered is served once more
    AnsweredServedAgain,
    /// recovery: a lane is charged for a note of an earlier task
    EarlierNoteCharged,
    /// recovery: a start that begins again charges the same crash again
    CrashChargedTwice,
    /// recovery: crashes count whenever they were
    CrashWindowIgnored,
    /// stop, clean: a task in flight is not taken for unanswered
    InFlightForgotten,
    /// stop, clean: a task that waits is not taken for unanswered
    WaitingForgotten,

    // The lanes at a start: `housekeeping/start.rs`.
    /// start: a FREE lane is not opened, whatever was submitted to it
    FreeLaneForgotten,
    /// start: a DRAINING lane is reset at once
    DrainingLaneReset,
    /// start: a POISONED lane is reset at once
    PoisonedLaneReset,
    /// start: ids of a lane without files are counted by the journal alone
    LostIdsNotSkipped,
    /// start: a damaged count of tasks is believed
    DamagedCountBelieved,
    /// start: only today's handler is asked whether it is idempotent
    OldIdempotenceIgnored,
    /// start: a lane over its crash budget is not poisoned
    BudgetIgnored,
    /// start: the mirrors of the lanes are not rewritten
    MirrorsNotRewritten,
    /// start: the worker is not told that a task is to run again
    RerunForgotten,
    /// start: the epoch is not raised
    EpochNotRaised,
    /// start: files that the journal does not name stay
    LeftoversNotSwept,
    /// start: files of lanes go though the journal names them
    NamedFilesSwept,

    // Whose files they are: `master.rs`, `leftovers.rs`, `warm.rs`.
    /// start: names are not looked at again once the locks are held
    NamesNotLookedAtAgain,
    /// start: a new journal takes the files beside it as its own
    NewJournalAdopts,
    /// start: a new journal has its name before its lock
    NewJournalUnlocked,
    /// start: a life lock beside a new journal is no reason to stop
    LifeBesideNewIgnored,
    /// start: an owner's lock beside a new journal is no reason to stop
    OwnerBesideNewIgnored,
    /// master: it never notices that its names are gone
    NamesLostUnnoticed,
    /// standby: what was mapped ahead is believed without another look
    WarmFileBelieved,

    // A producer's way in and out: `attach.rs`, `housekeeping.rs`.
    /// attach: the lock is not taken
    LockNotTaken,
    /// attach: the lane's word is not looked at again
    LaneNotLookedAtAgain,
    /// attach: the second look compares the state and not the nonce
    NonceNotCompared,
    /// attach: the second look does not see a task
    FirstTaskNotSeen,
    /// attach: the second look does not see a wish
    WishNotSeen,
    /// housekeeping: a lock is enough, the wish is not waited for
    WishNotAwaited,
    /// housekeeping: a FREE lane with a task and without its owner is not taken
    OrphanedTaskNotSeen,
    /// housekeeping: a FREE lane whose owner came and went is given up with its task
    TaskGivenUp,
    /// housekeeping: a lane that was touched and left stays as it is
    TouchedLaneKept,
    /// housekeeping: an owner that is gone is not noticed
    DesertionUnnoticed,
    /// housekeeping: priority and worker are not noted in the journal
    PlacementNotNoted,
    /// housekeeping: a mirror is stored before its journal
    MirrorBeforeJournal,

    // Damage: `housekeeping/audit.rs`.
    /// audit: wild commit words are not seen
    AuditorBlind,
    /// audit: a truncated lane is not given up
    TruncationIgnored,
    /// audit: nobody is told from where on a lane is damaged
    DamageNotTold,
    /// audit: ids of a damaged lane are counted by its journal alone
    DamagedIdsNotSkipped,

    // RESETTING: `housekeeping/reset.rs`.
    /// reset: the base does not grow
    BaseNotGrown,
    /// reset: the base grows by one too little
    BaseGrownTooLittle,
    /// reset: the base is not mirrored
    BaseNotMirrored,
    /// reset: files are replaced whoever holds the lock
    ResetUnderOwner,
    /// reset: old files stay
    OldFilesKept,
    /// reset: the files get the same nonce again
    NonceKept,
    /// reset: the lane's lines in the journal are not cleared
    LinesNotCleared,
    /// reset: the journal says FREE before its lines are cleared
    FreeBeforeCleared,

    // A stop: `housekeeping/stop.rs`, `Master::retire`.
    /// stop: what is committed is not served
    StopServesNothing,
    /// stop: a lane that came back with tasks is reset
    StopResetsUnserved,
    /// stop: lanes with an owner are no reason to keep the files
    StopIgnoresOwners,
    /// stop: unanswered tasks are no reason to keep the files
    StopIgnoresTasks,
    /// stop: tasks in FREE lanes are no reason to keep the files
    StopIgnoresFreeLanes,
    /// stop: the lanes' words stay as they are while their files go
    RetiredLanesStayFree,
    /// stop: the journal goes first
    JournalRetiredFirst,
    /// clean: an instance goes with its unanswered tasks
    CleanIgnoresTasks,
}

impl Mutant {
    /// Whether this process has this fault. Never, but in the one test build.
    #[cfg(not(executor_mutants))]
    #[inline(always)]
    pub(crate) const fn is_on(self) -> bool {
        false
    }

    /// Does what only this fault does.
    #[inline(always)]
    pub(crate) fn then(self, fault: impl FnOnce()) {
        if self.is_on() {
            fault();
        }
    }

    /// Whether this process has this fault.
    ///
    /// # Panics
    ///
    /// The environment names one that there is not: a run that has none by mistake would prove nothing.
    #[cfg(executor_mutants)]
    pub(crate) fn is_on(self) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
        let choose = || {
            let name = std::env::var("EXECUTOR_MUTANT").ok().filter(|name| !name.is_empty())?;
            let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
            Some(found.unwrap_or_else(|| panic!("EXECUTOR_MUTANT={name}: there is no such mutant")).0)
        };
        *CHOSEN.get_or_init(choose) == Some(self)
    }
}
