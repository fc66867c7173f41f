//! One attempt after the other to have a value decided.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::{Accept, Accepted, Ballot, Decided, DecisionId, Electorate, Prepare, Reply, Request, Value};
use crate::types::{NodeId, StoreId};

/// How it ended for a proposer. Both times there is one decision, the same for everybody.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// What it proposed was decided.
    Won(Decided),
    /// Something else was decided.
    Conflict(Decided),
}

impl Outcome {
    /// The decision.
    #[must_use]
    pub const fn decided(&self) -> &Decided {
        match self {
            Self::Won(decided) | Self::Conflict(decided) => decided,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Won(decided) => write!(f, "decided: {}", decided.value.hash()),
            Self::Conflict(decided) => write!(f, "conflict: decided value is {}", decided.value.hash()),
        }
    }
}

/// What a reply led to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Progress {
    /// Nothing to do: more replies are needed, or none any more.
    Wait,
    /// Send this to the whole electorate.
    Send(Request),
    /// This attempt can't succeed any more: wait a while (backoff, jitter), then [`Proposer::retry`].
    Beaten {
        /// The highest ballot that got in the way.
        by: Ballot,
    },
    /// It is over.
    Over(Outcome),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Preparing(BTreeMap<StoreId, Option<Accepted>>),
    Accepting(Value, BTreeMap<StoreId, Bytes>),
    Beaten,
    Over(Outcome),
}

/// A node that wants a value decided. It keeps nothing on disk: what it forgets in a crash is an attempt, and its next
/// one has other ballots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposer {
    decision: DecisionId,
    electorate: Electorate,
    value: Value,
    ballot: Ballot,
    /// The highest ballot heard of.
    highest: Ballot,
    refused: BTreeSet<StoreId>,
    phase: Phase,
}

impl Proposer {
    /// A proposal by `node`, under `proposal`: bits drawn at random for it alone. Send [`Proposer::request`] to the
    /// whole electorate, this node's own store included, and pass on what they answer.
    #[must_use]
    pub fn new(decision: DecisionId, electorate: Electorate, node: NodeId, proposal: u64, value: Value) -> Self {
        let ballot = Ballot { round: 1, node, proposal };
        let phase = Phase::Preparing(BTreeMap::new());
        Self { decision, electorate, value, ballot, highest: ballot, refused: BTreeSet::new(), phase }
    }

    /// What the attempt under way asks of everybody; to repeat to whoever has not answered. None between attempts, and
    /// once it is over.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        let (decision, ballot) = (self.decision, self.ballot);
        match &self.phase {
            Phase::Preparing(_) => Some(Request::Prepare(Prepare { decision, ballot })),
            Phase::Accepting(value, _) => Some(Request::Accept(Accept { decision, ballot, value: value.clone() })),
            Phase::Beaten | Phase::Over(_) => None,
        }
    }

    /// The round of the attempt under way, or of the last one.
    #[must_use]
    pub const fn round(&self) -> u64 {
        self.ballot.round
    }

    /// Who is asked.
    #[must_use]
    pub const fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// How it ended, once it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Over(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Begins another attempt, above every ballot heard of. Right whenever the last one was beaten or had no answer for
    /// too long; too early, it only costs the attempt that was under way. None once it is over.
    #[must_use]
    pub fn retry(&mut self) -> Option<Request> {
        if self.outcome().is_some() {
            return None;
        }
        // None past the last round: going on under a ballot that was used would be two values under one.
        let round = self.highest.round.checked_add(1)?;
        self.ballot.round = round;
        self.highest = self.ballot;
        self.refused.clear();
        self.phase = Phase::Preparing(BTreeMap::new());
        self.request()
    }

    /// Somebody tells, outside of any reply, what was decided.
    pub fn learn(&mut self, decided: Decided) -> Progress {
        if decided.decision != self.decision || self.outcome().is_some() {
            return Progress::Wait;
        }
        self.over(decided)
    }

    /// `from` answered. The transport vouches that it is that store; one that is not asked is not heard.
    pub fn on_reply(&mut self, from: StoreId, reply: Reply) -> Progress {
        if !self.electorate.has(from) {
            return Progress::Wait;
        }
        match reply {
            Reply::Promised { ballot, accepted } if ballot == self.ballot => self.promised(from, accepted),
            Reply::Accepted { ballot, value, attestation } if ballot == self.ballot => match &mut self.phase {
                Phase::Accepting(asked, accepts) if asked.hash() == value => {
                    accepts.insert(from, attestation);
                    self.accepted()
                }
                Phase::Over(Outcome::Won(decided) | Outcome::Conflict(decided)) if decided.value.hash() == value => {
                    // More were heard of than were needed.
                    decided.attestations.entry(from).or_insert(attestation);
                    Progress::Wait
                }
                _ => Progress::Wait,
            },
            Reply::Refused { ballot, highest } => self.refused(from, ballot, highest),
            Reply::Decided(decided) => self.learn(decided),
            // Of an earlier attempt.
            Reply::Promised { .. } | Reply::Accepted { .. } | Reply::OtherDecision | Reply::Renounced { .. } => {
                Progress::Wait
            }
        }
    }

    fn promised(&mut self, from: StoreId, accepted: Option<Accepted>) -> Progress {
        let Phase::Preparing(promises) = &mut self.phase else { return Progress::Wait };
        promises.insert(from, accepted);
        if promises.len() < self.electorate.majority() {
            return Progress::Wait;
        }
        // What the highest ballot carries may be decided already; nothing below it can be, other than that.
        let carried = promises.values().flatten().max_by_key(|accepted| accepted.ballot);
        let value = carried.map_or_else(|| self.value.clone(), |accepted| accepted.value.clone());
        self.phase = Phase::Accepting(value, BTreeMap::new());
        self.request().map_or(Progress::Wait, Progress::Send)
    }

    fn accepted(&mut self) -> Progress {
        let Phase::Accepting(value, accepts) = &self.phase else { return Progress::Wait };
        if accepts.len() < self.electorate.majority() {
            return Progress::Wait;
        }
        let decided = Decided { decision: self.decision, value: value.clone(), attestations: accepts.clone() };
        self.over(decided)
    }

    fn refused(&mut self, from: StoreId, ballot: Ballot, highest: Ballot) -> Progress {
        self.highest = self.highest.max(highest);
        let under_way = matches!(self.phase, Phase::Preparing(_) | Phase::Accepting(..));
        if ballot != self.ballot || !under_way {
            return Progress::Wait;
        }
        self.refused.insert(from);
        if self.refused.len() <= self.electorate.spare() {
            return Progress::Wait;
        }
        self.phase = Phase::Beaten;
        Progress::Beaten { by: self.highest }
    }

    fn over(&mut self, decided: Decided) -> Progress {
        let won = decided.value == self.value;
        let outcome = if won { Outcome::Won(decided) } else { Outcome::Conflict(decided) };
        self.phase = Phase::Over(outcome.clone());
        Progress::Over(outcome)
    }
}
