//! The name a model is served under.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A model's name as clients and metrics see it: `[a-z0-9][a-z0-9._-]{0,63}`, never a path or a URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// Most bytes in a name.
    pub const LENGTH_MAX: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.chars().next() else {
            return Err(NameError::Empty);
        };
        if !first.is_ascii_lowercase() && !first.is_ascii_digit() {
            return Err(NameError::First { name: text.to_owned(), found: first });
        }
        let bad = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(*c)));
        if let Some(found) = bad {
            return Err(NameError::Character { name: text.to_owned(), found });
        }
        // Only ASCII is left, so bytes are characters.
        if text.len() > Self::LENGTH_MAX {
            return Err(NameError::TooLong { length: text.len() });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ModelName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ModelName> for Arc<str> {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

impl AsRef<str> for ModelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no model name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("the model's name is empty")]
    Empty,
    #[error("model name `{name}` begins with {found:?}; it must begin with a lower-case letter or a digit")]
    First { name: String, found: char },
    #[error("model name `{name}` contains {found:?}; it may have a-z, 0-9, `.`, `_` and `-`")]
    Character { name: String, found: char },
    #[error("the model's name has {length} characters, {max} are allowed", max = ModelName::LENGTH_MAX)]
    TooLong { length: usize },
}

#[cfg(test)]
mod tests;
