//! What a check found: how bad it is, the fact with its figures, and what to do.

use serde_json::{Map, Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Nobody can say.
    Unknown,
    /// It serves, and could do better or more.
    Note,
    /// It serves, and this is likely to hurt.
    Warning,
    /// A start, or a producer, is refused.
    Error,
}

impl State {
    /// All of them, the worst first.
    pub(crate) const ALL: [Self; 5] = [Self::Error, Self::Warning, Self::Note, Self::Unknown, Self::Ok];

    /// As it is printed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What one check found.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) state: State,
    /// One clause, with its figures.
    pub(crate) fact: String,
    /// What to do, one clause; `None` where there is nothing to do.
    pub(crate) cure: Option<String>,
    /// The figures of the fact by name, raw.
    pub(crate) figures: Map<String, Value>,
}

impl Finding {
    fn new(state: State, fact: impl Into<String>, cure: Option<String>) -> Self {
        Self { state, fact: fact.into(), cure, figures: Map::new() }
    }

    pub(crate) fn ok(fact: impl Into<String>) -> Self {
        Self::new(State::Ok, fact, None)
    }

    pub(crate) fn unknown(fact: impl Into<String>) -> Self {
        Self::new(State::Unknown, fact, None)
    }

    /// A note that nothing can be done about, or nothing need be.
    pub(crate) fn fact(fact: impl Into<String>) -> Self {
        Self::new(State::Note, fact, None)
    }

    pub(crate) fn note(fact: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(State::Note, fact, Some(cure.into()))
    }

    pub(crate) fn warning(fact: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(State::Warning, fact, Some(cure.into()))
    }

    pub(crate) fn error(fact: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(State::Error, fact, Some(cure.into()))
    }

    /// With a figure by name.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, figure: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), figure.into());
        self
    }

    /// One line.
    pub(crate) fn text(&self, key: &str) -> String {
        let cure = self.cure.as_ref().map_or(String::new(), |cure| format!("; cure: {cure}"));
        crate::exit::one_line_of(&format!("{:8} {key:14} {}{cure}", self.state.name(), self.fact))
    }

    pub(crate) fn json(&self, key: &str) -> Value {
        json!({
            "key": key,
            "state": self.state.name(),
            "fact": self.fact,
            "figures": self.figures,
            "cure": self.cure,
        })
    }
}
