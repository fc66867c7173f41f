//! Histories: what clients asked, what they were answered, and what they were *shown*.
//!
//! One process records all clients and stamps every event with its own clock, so the order of the lines is the order of
//! the events. **ok** is an answer; **fail** is proof that nothing was applied; **info** is everything else (timeout,
//! reset, 5xx after sending): it may be applied at any later time. An operation without an end counts as info.
//!
//! Contexts are opaque to clients, but whoever runs the check holds the cluster's keys, so vectors and dots are
//! recorded in the clear. A history is text, one JSON object a line, for people and for `check`.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::causality::{Dot, VersionVector};
use crate::types::{ActorId, Stamp};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Read.
    Get,
    /// Write a value.
    Put,
    /// Write a tombstone.
    Delete,
}

/// One operation's beginning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoke {
    /// Which client.
    pub client: u32,
    /// Which node it asked.
    pub node: u32,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// What is asked for.
    pub verb: Verb,
    /// R of a read, W of a write: how many replicas.
    pub level: u8,
    /// The value to write: unique in the whole history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The context it carries; none: blind.
    #[serde(default, with = "text::maybe_vector", skip_serializing_if = "Option::is_none")]
    pub context: Option<VersionVector>,
    /// A PUT under `blind_writes = overwrite`: without a context it supersedes what its coordinator sees.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
    /// What it writes expires.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
    /// One of the reads at the very end: everything healed, quiet, R = all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// A sibling that an answer held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The write.
    #[serde(with = "text::dot")]
    pub dot: Dot,
    /// Its value; none for a tombstone.
    pub value: Option<String>,
}

/// One operation's answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// The dot a write minted.
    #[serde(default, with = "text::maybe_dot", skip_serializing_if = "Option::is_none")]
    pub dot: Option<Dot>,
    /// The context given to the client: always of a read, sometimes of a write.
    #[serde(default, with = "text::maybe_vector", skip_serializing_if = "Option::is_none")]
    pub context: Option<VersionVector>,
    /// All that the object had seen: what the floor names. Not given to the client as a context.
    #[serde(default, with = "text::maybe_vector", skip_serializing_if = "Option::is_none")]
    pub seen: Option<VersionVector>,
    /// The siblings that the client was shown.
    #[serde(default)]
    pub shown: Vec<Shown>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An operation begins.
    Invoke(Invoke),
    /// It was answered.
    Ok(Answered),
    /// It was provably not applied.
    Fail {
        /// What the error said.
        error: String,
    },
    /// It may have been applied, or may be later.
    Info {
        /// What the error said.
        error: String,
    },
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The recorder's clock, in microseconds.
    pub at: u64,
    /// Which operation.
    pub op: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A line that is none.
#[derive(Debug, Error)]
#[error("line {line} of the history: {error}")]
pub struct BadLine {
    /// Which, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: serde_json::Error,
}

/// Records a history; shared by all clients of a run.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<(u64, Vec<Line>)>);

impl Recorder {
    /// An operation begins; its number.
    pub fn invoke(&self, at: u64, invoke: Invoke) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let op = state.0;
        state.0 += 1;
        state.1.push(Line { at, op, event: Event::Invoke(invoke) });
        op
    }

    /// An operation ends.
    pub fn end(&self, at: u64, op: u64, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.push(Line { at, op, event });
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// A history as text: one JSON object a line.
#[must_use]
pub fn write(lines: &[Line]) -> String {
    let json = |line| serde_json::to_string(line).expect("a line is text, numbers and lists");
    lines.iter().map(|line| json(line) + "\n").collect()
}

/// Reads what [`write()`] wrote. Empty lines are skipped.
///
/// # Errors
/// The first line that is no event.
pub fn read(text: &str) -> Result<Vec<Line>, BadLine> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled.map(|(at, line)| serde_json::from_str(line).map_err(|error| BadLine { line: at + 1, error })).collect()
}

/// Reads a dot as its `Display` writes it: `actor@stamp`, both in hexadecimal.
#[must_use]
pub fn parse_dot(text: &str) -> Option<Dot> {
    let (actor, stamp) = text.split_once('@')?;
    let actor = u64::from_str_radix(actor, 16).ok()?;
    Some(Dot::new(ActorId(actor), Stamp(u64::from_str_radix(stamp, 16).ok()?)))
}

/// Dots and vectors as text.
mod text {
    use serde::Deserializer;

    use super::{Dot, parse_dot};

    fn parse<E: serde::de::Error>(text: &str) -> Result<Dot, E> {
        parse_dot(text).ok_or_else(|| E::custom(format!("{text:?} is no dot: actor@stamp in hexadecimal")))
    }

    pub(super) mod dot {
        use super::{Deserializer, Dot};

        pub(in super::super) fn serialize<S: serde::Serializer>(dot: &Dot, to: S) -> Result<S::Ok, S::Error> {
            to.collect_str(dot)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dot, D::Error> {
            super::parse(&<String as super::super::Deserialize>::deserialize(from)?)
        }
    }

    pub(super) mod maybe_dot {
        use super::{Deserializer, Dot};

        pub(in super::super) fn serialize<S: serde::Serializer>(dot: &Option<Dot>, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_some(&dot.map(|dot| dot.to_string()))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Dot>, D::Error> {
            let text = <Option<String> as super::super::Deserialize>::deserialize(from)?;
            text.map(|text| super::parse(&text)).transpose()
        }
    }

    pub(super) mod maybe_vector {
        use super::Deserializer;
        use crate::causality::VersionVector;

        pub(in super::super) fn serialize<S: serde::Serializer>(
            vector: &Option<VersionVector>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            let dots = vector.as_ref().map(|vector| vector.iter().map(|dot| dot.to_string()).collect::<Vec<_>>());
            serde::Serialize::serialize(&dots, to)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<VersionVector>, D::Error> {
            let dots = <Option<Vec<String>> as super::super::Deserialize>::deserialize(from)?;
            dots.map(|dots| dots.iter().map(|text| super::parse(text)).collect()).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_survives_its_text() {
        let dot = Dot::new(ActorId(0xa1), Stamp(7));
        let recorder = Recorder::default();
        let invoke = Invoke {
            client: 1,
            node: 2,
            bucket: "b".into(),
            key: "k\n\"é".into(),
            verb: Verb::Put,
            level: 2,
            value: Some("e1".into()),
            context: Some(VersionVector::from_iter([dot])),
            overwrite: false,
            expires: true,
            last: false,
        };
        let op = recorder.invoke(5, invoke.clone());
        let shown = vec![Shown { dot, value: None }];
        let answered = Answered { dot: Some(dot), context: None, seen: Some([dot].into_iter().collect()), shown };
        recorder.end(6, op, Event::Ok(answered));
        let other = recorder.invoke(7, Invoke { context: None, value: None, verb: Verb::Get, ..invoke });
        recorder.end(8, other, Event::Info { error: "no answer in time".into() });
        let text = write(&recorder.lines());
        assert_eq!(read(&text).unwrap(), recorder.lines());
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains(r#""dot":"00000000000000a1@0000000000000007""#), "{text}");
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(read("\n{}\n").unwrap_err().line, 2);
        let wrong = r#"{"at":1,"op":1,"event":"ok","dot":"zz@1"}"#;
        assert!(read(wrong).unwrap_err().to_string().contains("is no dot"));
    }
}
