//! A store that has forgotten what it promised gets its voice back.
//!
//! A directory that went back (a restored snapshot, a lying disk) has forgotten promises and accepts in a decision that is
//! still open. Its store says nothing in it any more, for it could help a second value to be decided. One such store does
//! no harm; but once a majority of the electorate has forgotten, nothing is decided ever again.
//!
//! What a store has forgotten matters only to proposers that have heard it, or may still. So it asks *every* node that may
//! propose to **renounce** the decision: to give up its proposals that are under way, with all that they have heard, and
//! begin new ones if it likes. Once all have done so, and none of them knows what was decided, nobody holds a reply of what
//! is forgotten, nothing was decided by it that anybody could know of, and the store speaks again.
//!
//! Each of these loses the promise of one value when it is taken out (`tests/models/recovery.rs`):
//!
//! 1. **Everybody**: one proposer left out may hold a majority of accepts.
//! 2. **What is concluded is not renounced**: who knows the decision tells it. In between, while it is being remembered,
//!    the store has to wait.
//! 3. **What was heard counts no more**: what a proposer begins after renouncing has a ballot of its own.
//! 4. **Above all that was asked before**: requests of what was renounced may still be on their way. The store begins with
//!    a promise no one of them can reach: [`FAR`] rounds above the highest that anybody knows of. A proposer that crashed
//!    has forgotten how high it was, but a round is one above the highest that was heard of, an attempt each.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Ballot, DecisionId, Record};
use crate::types::{NodeId, StoreId};

/// More attempts than anybody makes between two recoveries.
const FAR: u64 = 1 << 20;
/// Decisions of which a node knows how high it was.
const KEPT: usize = 4;

/// Whom a store that has forgotten still has to hear.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recovery {
    decision: DecisionId,
    unheard: BTreeSet<StoreId>,
    highest: u64,
}

impl Recovery {
    /// Of a decision in which these may propose; the store itself among them.
    #[must_use]
    pub fn new(decision: DecisionId, proposers: impl IntoIterator<Item = StoreId>) -> Self {
        Self { decision, unheard: proposers.into_iter().collect(), highest: 0 }
    }

    /// Which decision it is about.
    #[must_use]
    pub const fn decision(&self) -> DecisionId {
        self.decision
    }

    /// Who has not renounced yet.
    #[must_use]
    pub const fn unheard(&self) -> &BTreeSet<StoreId> {
        &self.unheard
    }

    /// Somebody has renounced, after the store had forgotten, and knows of no round higher than this.
    pub fn renounced(&mut self, by: StoreId, highest: u64) {
        self.unheard.remove(&by);
        self.highest = self.highest.max(highest);
    }

    /// Once everybody has renounced: what the store, on this node, begins with, to be flushed before it speaks. It vouches
    /// for what is given, for it may have forgotten what it vouched for before.
    #[must_use]
    pub fn record(&self, node: NodeId, attestation: Bytes) -> Option<Record> {
        let round = self.highest.saturating_add(FAR);
        let promised = Some(Ballot { round, node, proposal: 0 });
        self.unheard.is_empty().then_some(Record { promised, accepted: None, attestation: Some(attestation) })
    }
}

/// One proposal, among those of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// The proposals that a node has under way, so that they can be renounced. A crash forgets them, as it should.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Proposals {
    next: u64,
    open: BTreeMap<Ticket, Open>,
    /// The highest round tried in each of the last [`KEPT`] decisions.
    highest: Vec<(DecisionId, u64)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Open {
    decision: DecisionId,
    /// What was decided is being remembered.
    concluded: bool,
}

impl Proposals {
    /// A proposal begins.
    pub fn begin(&mut self, decision: DecisionId) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.open.insert(ticket, Open { decision, concluded: false });
        ticket
    }

    /// Before anybody is asked under it: an attempt has this round. Whether the proposal goes on; if not, it was renounced,
    /// and is to be begun anew.
    #[must_use]
    pub fn tries(&mut self, ticket: Ticket, round: u64) -> bool {
        let Some(open) = self.open.get(&ticket) else { return false };
        match self.highest.iter_mut().find(|(of, _)| *of == open.decision) {
            Some((_, highest)) => *highest = round.max(*highest),
            None => {
                self.highest.push((open.decision, round));
                let past = self.highest.len().saturating_sub(KEPT);
                self.highest.drain(..past);
            }
        }
        true
    }

    /// A proposal has heard that it is over: whether that counts. If not, it was renounced, and is to be begun anew.
    #[must_use]
    pub fn conclude(&mut self, ticket: Ticket) -> bool {
        let open = self.open.get_mut(&ticket);
        open.map(|open| open.concluded = true).is_some()
    }

    /// A proposal has come to its end: what was decided is remembered, or it gave up.
    pub fn end(&mut self, ticket: Ticket) {
        self.open.remove(&ticket);
    }

    /// Renounces a decision: what is under way in it comes to nothing. Gives the highest round tried in it; none: one is
    /// concluded, and what was decided is not remembered yet, so ask again later. It says nothing of what is remembered
    /// already.
    #[must_use]
    pub fn renounce(&mut self, decision: DecisionId) -> Option<u64> {
        self.open.retain(|_, open| open.decision != decision || open.concluded);
        let highest = self.highest.iter().find(|(of, _)| *of == decision).map_or(0, |(_, round)| *round);
        self.open.values().all(|open| open.decision != decision).then_some(highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: DecisionId = DecisionId([1; 32]);
    const OTHER: DecisionId = DecisionId([2; 32]);

    #[test]
    fn a_store_speaks_again_once_everybody_has_renounced() {
        let stores = [1, 2, 3].map(StoreId::from_bits);
        let (node, word) = (NodeId::from_bits(9), Bytes::from_static(b"had"));
        let mut recovery = Recovery::new(ONE, stores);
        recovery.renounced(stores[0], 4);
        recovery.renounced(stores[0], 4);
        recovery.renounced(stores[2], 7);
        assert_eq!(recovery.record(node, word.clone()), None, "one is heard once");
        recovery.renounced(stores[1], 0);
        let record = recovery.record(node, word.clone()).unwrap();
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record), "it is flushed");
        assert_eq!((record.accepted, record.attestation), (None, Some(word)));
        assert_eq!(record.promised.map(|ballot| ballot.round), Some(7 + FAR));
        assert_eq!(recovery.decision(), ONE);
    }

    #[test]
    fn a_renounced_proposal_concludes_nothing_and_a_concluded_one_is_not_renounced() {
        let mut proposals = Proposals::default();
        let (first, second, other) = (proposals.begin(ONE), proposals.begin(ONE), proposals.begin(OTHER));
        assert!(proposals.tries(first, 1) && proposals.tries(second, 3) && proposals.tries(first, 2));
        assert!(proposals.conclude(second));
        assert_eq!(proposals.renounce(ONE), None, "what it concluded is not remembered yet");
        assert!(!proposals.tries(first, 4) && !proposals.conclude(first));
        proposals.end(second);
        assert_eq!(proposals.renounce(ONE), Some(3));
        assert!(proposals.tries(other, 1) && proposals.conclude(other), "another decision is another matter");
        let again = proposals.begin(ONE);
        assert!(again > second && proposals.conclude(again));
    }
}
