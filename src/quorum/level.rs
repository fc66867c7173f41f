//! Consistency levels, meaning what Cassandra's mean: as text, and as a number of replicas.
//!
//! A level alone says nothing; [`requirement`](super::requirement) turns it into who has to answer.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};
use thiserror::Error;

/// How many replicas a request needs. Its text is a word or a number, also in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// This many.
    Count(u8),
    /// One.
    One,
    /// Two.
    Two,
    /// Three.
    Three,
    /// More than half of all.
    Quorum,
    /// All.
    All,
    /// One in the coordinator's region.
    LocalOne,
    /// More than half of those in the coordinator's region.
    LocalQuorum,
    /// More than half in each region.
    EachQuorum,
    /// One of the owners or fallbacks: a hint counts. For writes alone.
    Any,
}

/// What a level may be, for people.
const WORDS: &str = "one, two, three, quorum, all, local_one, local_quorum, each_quorum, any";

/// Why a level cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LevelError {
    /// Neither a word nor a number.
    #[error("{0:?} is no consistency level: it is a number from 1 to N, or one of {WORDS}")]
    Unknown(String),
    /// No replica at all would have to answer.
    #[error("a consistency level of 0 asks nobody: it is a number from 1 to N, or one of {WORDS}")]
    Zero,
    /// More replicas than there are.
    #[error(
        "{asked} replicas were asked for, but an object here has {n}: a number from 1 to {n} is right, or quorum or all"
    )]
    TooMany {
        /// Replicas asked for.
        asked: usize,
        /// Replicas there are: the effective N.
        n: usize,
    },
    /// More flushed acknowledgements than acknowledgements.
    #[error("durable={durable} is more than the {needed} acknowledgements asked for: 0 to {needed} is right")]
    TooDurable {
        /// Flushed acknowledgements asked for.
        durable: usize,
        /// Acknowledgements asked for.
        needed: usize,
    },
    /// A `local_` level where the coordinator's region has no replica.
    #[error("region {0:?} has no replica of this object: quorum, each_quorum or a number is right here")]
    NoneInRegion(String),
    /// No layout gives this object an owner.
    #[error("this object has no owners")]
    NoOwners,
    /// A read at `any`: a hint may count as a copy, but nobody answers a read by not having one.
    #[error("any is a level of writes, where a hint counts: a read asks one, or more")]
    AnyReads,
}

impl Level {
    /// The levels that are words.
    pub const NAMED: [Self; 9] = [
        Self::One,
        Self::Two,
        Self::Three,
        Self::Quorum,
        Self::All,
        Self::LocalOne,
        Self::LocalQuorum,
        Self::EachQuorum,
        Self::Any,
    ];

    /// The number that was asked for, where a number was: `two` is 2, and `any` is 1 of whoever there is. The other words
    /// depend on N.
    #[must_use]
    pub const fn number(self) -> Option<usize> {
        match self {
            Self::Count(count) => Some(count as usize),
            Self::One | Self::Any => Some(1),
            Self::Two => Some(2),
            Self::Three => Some(3),
            _ => None,
        }
    }

    /// The word, where the level is one.
    const fn word(self) -> Option<&'static str> {
        Some(match self {
            Self::Count(_) => return None,
            Self::One => "one",
            Self::Two => "two",
            Self::Three => "three",
            Self::Quorum => "quorum",
            Self::All => "all",
            Self::LocalOne => "local_one",
            Self::LocalQuorum => "local_quorum",
            Self::EachQuorum => "each_quorum",
            Self::Any => "any",
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.word(), self.number()) {
            (Some(word), _) => f.write_str(word),
            (None, count) => write!(f, "{}", count.unwrap_or_default()),
        }
    }
}

impl FromStr for Level {
    type Err = LevelError;

    /// Reads a word, or a plain decimal number from 1 to 255 (N is never larger). Case counts; signs and leading zeros
    /// are refused, so that one level has one spelling.
    fn from_str(text: &str) -> Result<Self, LevelError> {
        if let Some(named) = Self::NAMED.into_iter().find(|level| level.word() == Some(text)) {
            return Ok(named);
        }
        if text == "0" {
            return Err(LevelError::Zero);
        }
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        match text.parse() {
            Ok(count) if plain => Ok(Self::Count(count)),
            _ => Err(LevelError::Unknown(text.chars().take(64).collect())),
        }
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'_, str>>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_survives_its_own_text() {
        for level in Level::NAMED.into_iter().chain((1..=255).map(Level::Count)) {
            assert_eq!(level.to_string().parse(), Ok(level));
            let json = serde_json::to_string(&level).unwrap();
            assert_eq!(json, format!("\"{level}\""));
            assert_eq!(serde_json::from_str::<Level>(&json).unwrap(), level);
        }
    }

    #[test]
    fn what_is_no_level_is_told_what_would_be() {
        let error = "qourum".parse::<Level>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"qourum\" is no consistency level: it is a number from 1 to N, or one of one, two, three, quorum, all, \
             local_one, local_quorum, each_quorum, any"
        );
        assert_eq!("0".parse::<Level>(), Err(LevelError::Zero));
        for bad in ["", "-1", "+1", "01", "00", "256", "1.5", " 1", "Quorum", "QUORUM", "quorum ", "1e0", "٣"] {
            assert_eq!(bad.parse::<Level>(), Err(LevelError::Unknown(bad.into())), "{bad:?}");
        }
        let long = "x".repeat(100_000).parse::<Level>().unwrap_err();
        assert_eq!(long, LevelError::Unknown("x".repeat(64)), "an error does not echo what has no bound");
    }

    #[test]
    fn the_list_of_words_is_complete() {
        let words: Vec<_> = Level::NAMED.iter().map(ToString::to_string).collect();
        assert_eq!(words.join(", "), WORDS);
    }
}
