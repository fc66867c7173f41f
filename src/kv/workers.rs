//! Workers as documents: what runs in the background of a node, and what it may be told.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Error, ErrorCode};

/// What administrators ask of a node's workers. By default there are none.
pub trait WorkerAdmin: Send + Sync {
    /// What runs in the background here.
    fn workers_view(&self) -> WorkersView {
        WorkersView::default()
    }

    /// Tells one of them what to do; answers how it is then.
    fn steer(&self, name: &str, steer: Steer) -> Result<WorkerView, Error> {
        let _ = steer;
        Err(unknown_worker(name, &self.workers_view()))
    }
}

/// What a worker may be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// To stop at its next safe point, until it is resumed or the node starts again.
    Pause,
    /// To go on.
    Resume,
    /// To begin now what it would begin later; a paused one: once it is resumed.
    Run,
}

impl Steer {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Pause, Self::Resume, Self::Run];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Run => "run",
        }
    }
}

impl FromStr for Steer {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|steer| steer.as_str() == word).ok_or_else(|| {
            let detail = format!("{word:?} is nothing that a worker may be told: pause, resume or run is");
            Error::refused(ErrorCode::NotKnown, detail)
        })
    }
}

/// The error for a name that is no worker's.
#[must_use]
pub fn unknown_worker(name: &str, known: &WorkersView) -> Error {
    let names: Vec<&str> = known.workers.iter().map(|worker| worker.name.as_str()).collect();
    let there = match names.is_empty() {
        true => "no worker has begun on this node yet".to_owned(),
        false => format!("they are {}", names.join(", ")),
    };
    Error::refused(ErrorCode::NotKnown, format!("{name:?} is no worker of this node: {there}"))
}

/// What runs in the background of one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WorkersView {
    /// The node that answers.
    pub node: String,
    /// Its workers; none before it serves.
    pub workers: Vec<WorkerView>,
    /// What the last scrub came to, or the one under way; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<ScrubView>,
}

/// What a reading of everything that is stored came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubView {
    /// When it began (RFC 3339).
    pub began: String,
    /// When it ended (RFC 3339); none: it is under way.
    pub ended: Option<String>,
    /// Keys read.
    pub keys: u64,
    /// Bytes of records read.
    pub bytes: u64,
    /// Keys found damaged.
    pub found: u64,
    /// Of those, keys that have been merged from the other owners since.
    pub mended: u64,
    /// Of those, keys that wait for it.
    pub waiting: u64,
    /// Index entries that could not be read, or were missing, and were written again.
    pub index_entries: u64,
    /// Index entries that said something else than their records; they were written again from the records, and the
    /// partition is compared with its other owners.
    #[serde(default)]
    pub disagreeing: u64,
    /// Merkle leaves that could not be read, or were not the sum of their objects, and were recomputed.
    pub leaves: u64,
    /// Partitions in which something could not even be named; they are merged as a whole from their other owners.
    pub gaps: u64,
}

/// One worker.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// What it does, in a sentence.
    pub about: String,
    /// `running`, `idle`, `paused` (until it is resumed, or the node starts again).
    pub state: String,
    /// How far the run under way is, in what it counts; none where none is under way, or it cannot be said.
    pub done: Option<u64>,
    /// Of how much.
    pub total: Option<u64>,
    /// Most bytes a second that it moves; 0: as many as it can; none: it has no such budget.
    pub rate: Option<u64>,
    /// Runs that have ended since the node started.
    pub runs: u64,
    /// When the last one ended (RFC 3339).
    pub ended: Option<String>,
    /// What went wrong last; it may have gone well since.
    pub error: Option<String>,
    /// When that was (RFC 3339).
    pub error_at: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_word_or_no_name_is_told_what_there_is() {
        for steer in Steer::ALL {
            assert_eq!(steer.as_str().parse::<Steer>().unwrap(), steer);
        }
        let wrong = "stop".parse::<Steer>().unwrap_err();
        assert!(wrong.code == ErrorCode::NotKnown && wrong.detail.contains("pause, resume or run"), "{wrong:?}");
        let worker = |name: &str| WorkerView { name: name.into(), ..WorkerView::default() };
        let known = WorkersView { node: "n1".into(), workers: vec![worker("hints"), worker("expiry")], scrub: None };
        let wrong = unknown_worker("hint", &known);
        assert!(wrong.detail.contains("hints, expiry"), "{wrong:?}");
        assert!(unknown_worker("hints", &WorkersView::default()).detail.contains("yet"));
    }
}
