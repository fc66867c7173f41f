//! One store's voice: promises, accepts, and forgets neither.

use bytes::Bytes;

use super::{Accept, Accepted, Decided, DecisionId, Electorate, Prepare, Record, Reply, Request};
use crate::types::StoreId;

/// One store's part in one decision.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Acceptor {
    decision: DecisionId,
    record: Record,
    decided: Option<Decided>,
}

/// What a request led to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Step {
    /// Nothing to remember: the reply may be sent.
    Answer(Acceptor, Reply),
    /// Something to remember first.
    Flush(Unflushed),
}

/// An acceptor between its decision and its answer. It *is* the acceptor meanwhile: another request waits, so that no
/// two changes start from one state, and nobody is told what the disk does not hold.
///
/// If the flush fails, drop it: what is on disk then is known only by reading it (`Record::decode`, [`Acceptor::new`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub struct Unflushed {
    acceptor: Acceptor,
    reply: Reply,
}

impl Unflushed {
    /// What to flush, in place of what was there.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.acceptor.record
    }

    /// It is flushed: here is the acceptor again, and what it answers.
    #[must_use]
    pub fn flushed(self) -> (Acceptor, Reply) {
        (self.acceptor, self.reply)
    }
}

impl Acceptor {
    /// The acceptor that `me` is in a decision, with what its disk remembers (a default record if nothing). None if it
    /// is not asked: a wiped or restored disk is another store, and has no voice in the old one's name.
    #[must_use]
    pub fn new(me: StoreId, decision: DecisionId, electorate: &Electorate, record: Record) -> Option<Self> {
        electorate.has(me).then_some(Self { decision, record, decided: None })
    }

    /// Which decision it is for.
    #[must_use]
    pub const fn decision(&self) -> DecisionId {
        self.decision
    }

    /// What was decided, if it was told.
    #[must_use]
    pub const fn decided(&self) -> Option<&Decided> {
        self.decided.as_ref()
    }

    /// It is told what was decided: whoever asks from now on is told too.
    pub fn learn(&mut self, decided: Decided) {
        if decided.decision == self.decision {
            self.decided = Some(decided);
        }
    }

    /// Takes a request.
    ///
    /// `attest` says what this store vouches for with its first accept, in the same flushed record; later accepts
    /// repeat it. The chain's question is whether the store had sync_acked the layout before: if it says no, it never
    /// may afterwards (semantics section 3, Abort). So the caller lets no tracker move between the call and the flush.
    pub fn receive(self, request: &Request, attest: impl FnOnce() -> Bytes) -> Step {
        if request.decision() != self.decision {
            return Step::Answer(self, Reply::OtherDecision);
        }
        if let Some(decided) = self.decided.clone() {
            return Step::Answer(self, Reply::Decided(decided));
        }
        let ballot = request.ballot();
        if let Some(highest) = self.record.promised.filter(|promised| *promised > ballot) {
            return Step::Answer(self, Reply::Refused { ballot, highest });
        }
        match request {
            Request::Prepare(prepare) => self.promise(prepare),
            Request::Accept(accept) => self.accept(accept, attest),
        }
    }

    fn promise(mut self, prepare: &Prepare) -> Step {
        let ballot = prepare.ballot;
        let reply = Reply::Promised { ballot, accepted: self.record.accepted.clone() };
        if self.record.promised == Some(ballot) {
            return Step::Answer(self, reply);
        }
        self.record.promised = Some(ballot);
        Step::Flush(Unflushed { acceptor: self, reply })
    }

    fn accept(mut self, accept: &Accept, attest: impl FnOnce() -> Bytes) -> Step {
        let Accept { ballot, ref value, .. } = *accept;
        let before = self.record.accepted.as_ref().filter(|before| before.ballot == ballot);
        if before.is_some_and(|before| before.value != *value) {
            // Two values under one ballot: no proposer of ours does that. The first one stays.
            return Step::Answer(self, Reply::Refused { ballot, highest: ballot });
        }
        let repeated = before.is_some();
        let attestation = self.record.attestation.get_or_insert_with(attest).clone();
        let reply = Reply::Accepted { ballot, value: value.hash(), attestation };
        if repeated {
            return Step::Answer(self, reply);
        }
        self.record.promised = Some(ballot);
        self.record.accepted = Some(Accepted { ballot, value: value.clone() });
        Step::Flush(Unflushed { acceptor: self, reply })
    }
}
