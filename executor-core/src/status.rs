//! How a task ended: the status byte of a completion with its detail byte, as a typed value.

/// How a task ended. Every accepted task gets exactly one of these.
///
/// On the wire it is a status byte (1 to 9; 0 is never valid), a detail byte and, for [`Status::ResponseTooLong`],
/// the length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// The handler ran and returned `Ok`; the response is its output.
    Done,
    /// The handler ran and returned an error; the response is its text.
    Failed {
        /// The code the handler chose, 0 if it chose none.
        code: u8,
    },
    /// The handler panicked; the response is the panic's text. The worker lives on.
    Panicked,
    /// The descriptor could not be run. Mend it and submit again.
    Malformed(Malformed),
    /// The handler ran, but its response is longer than a response buffer. Raise `--response-bytes`.
    ResponseTooLong {
        /// Bytes the handler wanted to write.
        wanted: u32,
    },
    /// The deadline had passed before the task could start.
    Expired,
    /// The sidecar went away while the task ran: it may or may not have taken effect.
    Interrupted(Interrupted),
    /// The handler is not the one the lane attached under. Reconnect.
    HandlerChanged(HandlerChange),
    /// The lane is poisoned; the task did not run. Use another lane.
    Poisoned(Poison),
}

/// Whether the handler of a task was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ran {
    /// The handler ran to its end, once.
    Yes,
    /// The handler was never called.
    No,
    /// Nobody knows: the process that ran it was interrupted.
    Maybe,
}

macro_rules! details {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal: $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)+
            /// A reason this build does not know: the sidecar is newer.
            Other(u8),
        }

        impl $name {
            /// The detail byte on the wire.
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ Self::Other(code) => code }
            }

            /// The reason for a detail byte.
            pub const fn from_code(code: u8) -> Self {
                match code { $($code => Self::$variant,)+ other => Self::Other(other) }
            }

            /// One lower-case clause.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::Other(_) => "a reason this build does not know" }
            }
        }
    };
}

details! {
    /// Why a descriptor could not be run.
    Malformed {
        /// No handler has this id.
        UnknownHandler = 1: "no handler has this id",
        /// A flag bit is set that this build does not know.
        BadFlags = 2: "unknown flag bits are set",
        /// The payload is longer than the lane's request buffers.
        TooLong = 3: "the payload is longer than a request buffer",
        /// The payload's size is outside what the handler takes.
        WrongSize = 4: "the handler does not take a payload of this size",
        /// The payload is no legal value of the handler's argument type.
        BadValue = 5: "the payload is no legal value of the handler's argument type",
    }
}

details! {
    /// Why nobody knows whether an interrupted task took effect.
    Interrupted {
        /// The sidecar was killed while the handler ran.
        Killed = 1: "the sidecar was killed while the handler ran",
        /// The handler raised a fatal signal.
        Signal = 2: "the handler raised a fatal signal",
        /// An idempotent task was interrupted on its last attempt.
        Attempts = 3: "interrupted on the last attempt",
        /// The handler was replaced by another before the task could run again.
        HandlerChanged = 4: "the handler changed before the task could run again",
        /// The payload could not be read again.
        PayloadLost = 5: "the payload could not be read again",
    }
}

details! {
    /// What became of the handler a lane attached under.
    HandlerChange {
        /// Another handler or another contract has its id.
        Changed = 1: "another contract has this id since the lane attached",
        /// It is gone.
        Missing = 2: "the handler is gone since the lane attached",
    }
}

details! {
    /// Why a lane serves no tasks any more.
    Poison {
        /// Its tasks crashed the sidecar too often.
        CrashBudget = 1: "its tasks crashed the sidecar too often",
        /// Its submission file was damaged.
        Damaged = 2: "its submission file was damaged",
    }
}

impl Status {
    /// How many different status bytes there are, with the invalid 0: the size of a table indexed by [`Status::code`].
    pub const CODES: usize = 10;

    /// The status byte on the wire, 1 to 9.
    #[inline]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 1,
            Self::Failed { .. } => 2,
            Self::Panicked => 3,
            Self::Malformed(_) => 4,
            Self::ResponseTooLong { .. } => 5,
            Self::Expired => 6,
            Self::Interrupted(_) => 7,
            Self::HandlerChanged(_) => 8,
            Self::Poisoned(_) => 9,
        }
    }

    /// The detail byte on the wire.
    #[inline]
    pub const fn detail(self) -> u8 {
        match self {
            Self::Done | Self::Panicked | Self::Expired | Self::ResponseTooLong { .. } => 0,
            Self::Failed { code } => code,
            Self::Malformed(reason) => reason.code(),
            Self::Interrupted(reason) => reason.code(),
            Self::HandlerChanged(reason) => reason.code(),
            Self::Poisoned(reason) => reason.code(),
        }
    }

    /// The status for the bytes of a completion, or `None` for a status byte that no build of this ABI writes.
    #[inline]
    pub const fn from_wire(code: u8, detail: u8, length: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Done,
            2 => Self::Failed { code: detail },
            3 => Self::Panicked,
            4 => Self::Malformed(Malformed::from_code(detail)),
            5 => Self::ResponseTooLong { wanted: length },
            6 => Self::Expired,
            7 => Self::Interrupted(Interrupted::from_code(detail)),
            8 => Self::HandlerChanged(HandlerChange::from_code(detail)),
            9 => Self::Poisoned(Poison::from_code(detail)),
            _ => return None,
        })
    }

    /// The short name of a status byte, as tools print it.
    pub const fn name_of(code: u8) -> &'static str {
        match code {
            1 => "done",
            2 => "failed",
            3 => "panicked",
            4 => "malformed",
            5 => "response_too_long",
            6 => "expired",
            7 => "interrupted",
            8 => "handler_changed",
            9 => "poisoned",
            _ => "invalid",
        }
    }

    /// Whether the handler ran.
    pub const fn ran(self) -> Ran {
        match self {
            Self::Done | Self::Failed { .. } | Self::Panicked | Self::ResponseTooLong { .. } => Ran::Yes,
            Self::Malformed(_) | Self::Expired | Self::HandlerChanged(_) | Self::Poisoned(_) => Ran::No,
            Self::Interrupted(_) => Ran::Maybe,
        }
    }

    /// Whether the very same task may be submitted again without a second effect and with hope of another answer: an
    /// expired task at once, one whose handler changed after reconnecting, a poisoned one on another lane. For
    /// [`Status::Interrupted`] only the task's author knows: it is safe if, and only if, the handler is idempotent.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Expired | Self::HandlerChanged(_) | Self::Poisoned(_))
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed { code: 0 } => f.write_str("the handler failed"),
            Self::Failed { code } => write!(f, "the handler failed with code {code}"),
            Self::Panicked => f.write_str("the handler panicked"),
            Self::Malformed(reason) => write!(f, "malformed: {}", reason.text()),
            Self::ResponseTooLong { wanted } => {
                write!(f, "the response of {wanted} bytes does not fit; raise --response-bytes")
            }
            Self::Expired => f.write_str("the deadline had passed before the task could start"),
            Self::Interrupted(reason) => write!(f, "interrupted, it may have taken effect: {}", reason.text()),
            Self::HandlerChanged(reason) => write!(f, "reconnect: {}", reason.text()),
            Self::Poisoned(reason) => write!(f, "the lane is poisoned: {}", reason.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_wire() {
        for code in 0..=255u8 {
            for detail in 0..=255u8 {
                let Some(status) = Status::from_wire(code, detail, 77) else {
                    assert!(code == 0 || code > 9, "code {code} must be known");
                    continue;
                };
                assert_eq!(status.code(), code);
                if !matches!(code, 1 | 3 | 5 | 6) {
                    assert_eq!(status.detail(), detail);
                }
                assert_eq!(Status::from_wire(status.code(), status.detail(), 77), Some(status));
            }
        }
    }

    #[test]
    fn only_an_interrupted_task_may_have_run() {
        for code in 1..=9 {
            let status = Status::from_wire(code, 1, 0).unwrap();
            assert_eq!(status.ran() == Ran::Maybe, code == 7);
            assert!(
                !(status.is_retryable() && status.ran() != Ran::No),
                "{status} ran and must not be retried blindly"
            );
        }
    }
}
