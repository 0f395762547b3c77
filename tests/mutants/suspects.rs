//! Who should see which mutant.

use std::fmt;

use executor_shm::mutant::Mutant;

/// What a suspect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The unit tests of a library.
    Library,
    Test,
    /// A program of this package.
    Program,
}

/// A program and its arguments, which may be names of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suspect(Kind, &'static str);

impl Suspect {
    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    pub(crate) fn program(self) -> &'static str {
        self.1.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn arguments(self) -> impl Iterator<Item = &'static str> {
        self.1.split(' ').skip(1)
    }
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}

const fn test(text: &'static str) -> Suspect {
    Suspect(Kind::Test, text)
}

/// The unit tests beside the code.
const UNITS: Suspect = Suspect(Kind::Library, "executor_shm");
const LANE_MODEL: Suspect = test("lane_model");
const LANE_LIFE: Suspect = test("lane_life");
const ONE_PROCESS: Suspect = test("one_process");
const CRASH: Suspect = test("crash");
const FATAL: Suspect = test("fatal");
const TAKEOVER: Suspect = test("takeover");
const POISON: Suspect = test("poison");
const STANDBY: Suspect = test("standby");
const STARTERS: Suspect = test("starters");
const REPLACED_STATUS: Suspect = test("refusals a_status_that_is_not_the_journals");
const SLEEP: Suspect = test("sleep");
const COMPLETIONS: Suspect = test("completions");
const SLEEPERS: Suspect = Suspect(Kind::Program, "sleepers --races 20000");
const RESET_KILLS: Suspect = Suspect(Kind::Program, "kills --unit reset/detached");

/// The suspects of a mutant, the most likely one first.
pub(crate) fn suspects(mutant: Mutant) -> &'static [Suspect] {
    use Mutant::*;
    match mutant {
        CommitBeforeDescriptor | FullLaneTakesOneMore | StartedBeforeVerdict | StartedBeforeTime => &[LANE_MODEL],
        AttemptNotStored | CompletedBeforeRecord => &[LANE_MODEL],
        StartedAfterHandler | DescriptorReadTwice | DescriptorNotJournalled | RerunFromSubmission => &[LANE_LIFE],
        PayloadNotCopied => &[LANE_MODEL],
        PoisonNotLookedAt | PoisonNotLookedAtAgain => &[LANE_MODEL, LANE_LIFE],
        WorkerSleepsUnsaid | SubmitWakesNobody | WorkerLooksOnce => &[SLEEPERS, SLEEP],
        WaitSleepsUnsaid | CompletionWakesNobody | WaitLooksOnce => &[SLEEPERS, SLEEP],
        LookoutSleepsUnsaid | LookoutLooksOnce => &[UNITS, COMPLETIONS],
        WakeUpLeftOut | WakeUpsWithoutEnd | RecoveryWakesNobody | CommandWakesNobody | CrowdForgotten => &[SLEEP],
        CompletedNotNoticed | FirstTaskForgotten | VerdictIgnored | IdempotenceIgnored => &[LANE_MODEL],
        PoisonIgnored | ChangeIgnored | LossIgnored | AttemptsIgnored | AttemptsOfAnyTask => &[LANE_MODEL],
        SignalNotTold | AnswerBeforeRecord | AnsweredServedAgain => &[LANE_MODEL],
        EarlierNoteCharged | CrashChargedTwice | CrashWindowIgnored => &[UNITS],
        InFlightForgotten | WaitingForgotten => &[LANE_LIFE],
        FreeLaneForgotten | DrainingLaneReset => &[CRASH],
        PoisonedLaneReset => &[FATAL, POISON],
        LostIdsNotSkipped | DamagedCountBelieved => &[ONE_PROCESS],
        OldIdempotenceIgnored => &[TAKEOVER],
        BudgetIgnored => &[FATAL],
        MirrorsNotRewritten => &[REPLACED_STATUS],
        RerunForgotten => &[CRASH],
        EpochNotRaised => &[STANDBY],
        LeftoversNotSwept => &[STARTERS],
        NamedFilesSwept => &[CRASH],
        NamesNotLookedAtAgain => &[UNITS],
        NewJournalUnlocked => &[STARTERS],
        NewJournalAdopts | LifeBesideNewIgnored | OwnerBesideNewIgnored => &[ONE_PROCESS],
        NamesLostUnnoticed => &[STARTERS],
        WarmFileBelieved => &[STANDBY],
        LockNotTaken | LaneNotLookedAtAgain | NonceNotCompared | FirstTaskNotSeen | WishNotSeen => &[UNITS],
        WishNotAwaited | OrphanedTaskNotSeen | TaskGivenUp | TouchedLaneKept => &[UNITS],
        DesertionUnnoticed => &[UNITS],
        PlacementNotNoted => &[CRASH],
        MirrorBeforeJournal => &[RESET_KILLS],
        AuditorBlind => &[UNITS],
        TruncationIgnored | DamageNotTold => &[POISON],
        DamagedIdsNotSkipped => &[POISON],
        BaseNotGrown | BaseGrownTooLittle => &[LANE_LIFE],
        BaseNotMirrored => &[CRASH],
        ResetUnderOwner => &[ONE_PROCESS],
        OldFilesKept | NonceKept => &[CRASH],
        LinesNotCleared => &[LANE_LIFE],
        FreeBeforeCleared => &[RESET_KILLS],
        StopServesNothing | StopIgnoresOwners => &[CRASH],
        StopResetsUnserved | StopIgnoresTasks | StopIgnoresFreeLanes | RetiredLanesStayFree => &[ONE_PROCESS],
        JournalRetiredFirst => &[STARTERS],
        CleanIgnoresTasks => &[ONE_PROCESS],
    }
}
