//! The one error of the key-value interface. HTTP's problem documents, the client's errors and the exit codes of the
//! command line are all made from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ContextToken, Outcome};

/// What went wrong. The text form (`snake_case`) is the problem document's `code`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// A parameter is wrong (400).
    BadParameter,
    /// The context is forged, damaged, or of another key (400).
    BadContext,
    /// The floor is forged, damaged, or of another key (400).
    BadFloor,
    /// The context is longer than what a node takes (409).
    ContextTooLarge,
    /// A blind write where the bucket wants a context (428).
    ContextRequired,
    /// The object has as many siblings as it may have, and the write would add one (409).
    TooManySiblings,
    /// The value is larger than what a node takes (413).
    ValueTooLarge,
    /// The resulting object is larger than what a node takes (413).
    ObjectTooLarge,
    /// The same Idempotency-Key is in flight here (409).
    IdempotencyInFlight,
    /// The Idempotency-Key was used for another request (422).
    IdempotencyReused,
    /// Part of the interface, not built yet (501).
    NotYet,
    /// Too few live replicas; nothing was sent (503).
    QuorumUnavailable,
    /// A queue is full (503).
    Overloaded,
    /// As many hints wait on the nodes that could stand in for owners as may (503).
    HintsFull,
    /// No node that may coordinate has a clock that can be trusted (503).
    ClockDrift,
    /// The disk failed (503).
    ReadOnly,
    /// Too few disks have room beyond what is kept back for deletes and compaction (507).
    DiskFull,
    /// The node is not a member of a cluster (yet), or is stopping (503).
    NotServing,
    /// Fewer than W acknowledgements in time (504).
    WriteTimeout,
    /// Fewer than R answers in time, or a divergence not mended in time (504).
    ReadTimeout,
    /// Who may have what the floor names did not answer in time; a write was not minted for that (504).
    SessionUnmet,
    /// Too few replicas could answer: damaged, refused (503).
    ReplicasFailed,
    /// Another layout was decided, or is in force by now (409).
    LayoutConflict,
    /// The layouts' rules, or the risk, stand against it as things are (409).
    LayoutRefused,
    /// Who would do it was told to pause (409).
    Paused,
    /// Too few of those who decide answered in time: it may be decided yet (504).
    Undecided,
    /// There is no such plan, operation or member here (404).
    NotKnown,
    /// What a change took for granted is not so (412).
    PreconditionFailed,
    /// A change has to say what it knows of what it changes (428).
    PreconditionRequired,
    /// The client could not reach any node.
    Unreachable,
    /// Whoever answers wants a token, or another one (401, 403).
    Unauthorized,
    /// An answer that is none of this interface: a newer node's, or no Quorate node's at all.
    Unexpected,
    /// The answer made no sense.
    Internal,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::BadParameter,
        Self::BadContext,
        Self::BadFloor,
        Self::ContextTooLarge,
        Self::ContextRequired,
        Self::TooManySiblings,
        Self::ValueTooLarge,
        Self::ObjectTooLarge,
        Self::IdempotencyInFlight,
        Self::IdempotencyReused,
        Self::NotYet,
        Self::QuorumUnavailable,
        Self::Overloaded,
        Self::HintsFull,
        Self::ClockDrift,
        Self::ReadOnly,
        Self::DiskFull,
        Self::NotServing,
        Self::WriteTimeout,
        Self::ReadTimeout,
        Self::SessionUnmet,
        Self::ReplicasFailed,
        Self::LayoutConflict,
        Self::LayoutRefused,
        Self::Paused,
        Self::Undecided,
        Self::NotKnown,
        Self::PreconditionFailed,
        Self::PreconditionRequired,
        Self::Unreachable,
        Self::Unauthorized,
        Self::Unexpected,
        Self::Internal,
    ];

    /// The code that documents spell this way.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// The code as documents spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadParameter => "bad_parameter",
            Self::BadContext => "bad_context",
            Self::BadFloor => "bad_floor",
            Self::ContextTooLarge => "context_too_large",
            Self::ContextRequired => "context_required",
            Self::TooManySiblings => "too_many_siblings",
            Self::ValueTooLarge => "value_too_large",
            Self::ObjectTooLarge => "object_too_large",
            Self::IdempotencyInFlight => "idempotency_in_flight",
            Self::IdempotencyReused => "idempotency_reused",
            Self::NotYet => "not_yet",
            Self::QuorumUnavailable => "quorum_unavailable",
            Self::Overloaded => "overloaded",
            Self::HintsFull => "hints_full",
            Self::ClockDrift => "clock_drift",
            Self::ReadOnly => "read_only",
            Self::DiskFull => "disk_full",
            Self::NotServing => "not_serving",
            Self::WriteTimeout => "write_timeout",
            Self::ReadTimeout => "read_timeout",
            Self::SessionUnmet => "session_unmet",
            Self::ReplicasFailed => "replicas_failed",
            Self::LayoutConflict => "layout_conflict",
            Self::LayoutRefused => "layout_refused",
            Self::Paused => "paused",
            Self::Undecided => "undecided",
            Self::NotKnown => "not_known",
            Self::PreconditionFailed => "precondition_failed",
            Self::PreconditionRequired => "precondition_required",
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Unexpected => "unexpected",
            Self::Internal => "internal",
        }
    }
}

/// What one replica did, as an error tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The node's name.
    pub node: String,
    /// `ok`, `down`, `timeout`, `error`, `refused`, `syncing`, `unsent`.
    pub state: String,
}

/// A failed operation.
#[derive(Clone, PartialEq, Debug, Error, Serialize, Deserialize)]
#[error("{detail}")]
pub struct Error {
    /// What went wrong.
    pub code: ErrorCode,
    /// Whether it was done all the same.
    pub outcome: Outcome,
    /// What went wrong and what would be right, for people.
    pub detail: String,
    /// Replicas needed, where a quorum was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<u32>,
    /// Replicas that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u32>,
    /// Replicas there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// The layout it was counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<u64>,
    /// What each replica did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaReport>,
    /// When to try again, at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// What to resolve with, where siblings stand in the way ([`ErrorCode::TooManySiblings`]): none yet shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Box<ContextToken>>,
}

impl Error {
    /// An error with nothing but a code, an outcome and a text.
    #[must_use]
    pub fn new(code: ErrorCode, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self {
            code,
            outcome,
            detail: detail.into(),
            required: None,
            answered: None,
            n: None,
            layout: None,
            replicas: Vec::new(),
            retry_after: None,
            context: None,
        }
    }

    /// A refusal: nothing was done.
    #[must_use]
    pub fn refused(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::new(code, Outcome::NotApplied, detail)
    }
}
