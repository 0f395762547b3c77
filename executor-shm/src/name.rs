//! The name of an instance, and the names of its files.

use std::str::FromStr;

/// What the names of all files of all instances begin with.
pub(crate) const PREFIX: &str = "executor.";

/// The name of an instance: a letter or digit, then up to 47 letters, digits, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName(String);

/// The text is no instance name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no instance name; use a letter or digit, then up to 47 letters, digits, '_' or '-'")]
pub struct InstanceNameError {
    /// What was given.
    pub found: String,
}

impl InstanceName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// The text is no instance name.
    pub fn new(name: &str) -> Result<Self, InstanceNameError> {
        let bytes = name.as_bytes();
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'-';
        let starts = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        if starts && bytes.len() <= 48 && bytes.iter().all(legal) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InstanceNameError { found: name.to_owned() })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn status(&self) -> String {
        format!("{PREFIX}{}.status", self.0)
    }

    pub(crate) fn journal(&self) -> String {
        format!("{PREFIX}{}.journal", self.0)
    }

    pub(crate) fn sq(&self, lane: u32, nonce: u64) -> String {
        format!("{PREFIX}{}.lane-{lane}-{nonce:014x}.sq", self.0)
    }

    pub(crate) fn cq(&self, lane: u32, nonce: u64) -> String {
        format!("{PREFIX}{}.lane-{lane}-{nonce:014x}.cq", self.0)
    }

    pub(crate) fn prefix(&self) -> String {
        format!("{PREFIX}{}.", self.0)
    }
}

impl Default for InstanceName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl std::fmt::Display for InstanceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstanceName {
    type Err = InstanceNameError;

    fn from_str(name: &str) -> Result<Self, InstanceNameError> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_or_confuse_a_listing_are_refused() {
        for bad in ["", ".", "..", "a/b", "a.b", "-a", "_a", "a b", "\u{e9}", &"x".repeat(49), "a\0"] {
            assert_eq!(InstanceName::new(bad), Err(InstanceNameError { found: bad.to_owned() }));
        }
        for good in ["a", "0", "default", "A-b_9", &"x".repeat(48)] {
            assert_eq!(InstanceName::new(good).unwrap().as_str(), good);
        }
    }
}
