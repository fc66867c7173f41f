//! The driver: what comes next, and how far a round is.

use std::collections::BTreeSet;

use super::{Epoch, RoundId, Stage, Status};
use crate::types::StoreId;

/// What a driver does next in a partition, given what all its owners say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// All owners hold this round, and not all have dropped it: whoever began it, it is finished first.
    Finish(RoundId),
    /// Some owner can never mark this round: the others forget it.
    Forget(RoundId),
    /// A round may begin, with this epoch, after these rounds.
    Begin {
        /// One more than any owner's.
        epoch: Epoch,
        /// All owners have dropped them.
        after: Vec<RoundId>,
    },
    /// This layout has had all the rounds there are epochs for.
    Exhausted,
}

/// What a driver does next under `layout`, the one live layout. All owners have to have answered: where one has not, there
/// is nothing to be done.
#[must_use]
pub fn plan(owners: &[Status], layout: u64) -> Plan {
    let rounds: BTreeSet<RoundId> = owners.iter().flat_map(|owner| owner.rounds.keys().copied()).collect();
    let mut after = Vec::new();
    for id in rounds {
        let stages = || owners.iter().filter_map(|owner| owner.rounds.get(&id));
        let lacks = |owner: &&Status| !owner.rounds.contains_key(&id);
        if stages().all(|stage| *stage == Stage::Dropped) {
            // Who does not hold it has forgotten it, which takes that all had dropped it.
            after.push(id);
        } else if !owners.iter().any(|owner| lacks(&owner)) {
            return Plan::Finish(id);
        } else if owners.iter().filter(lacks).any(|owner| owner.epoch >= id.epoch) {
            return Plan::Forget(id);
        }
    }
    let greatest = owners.iter().map(|owner| owner.epoch).max().unwrap_or_default();
    greatest.next_under(layout).map_or(Plan::Exhausted, |epoch| Plan::Begin { epoch, after })
}

/// A step of a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// Owners mark.
    Mark,
    /// Who may hold hints is asked whether it holds none that was read earlier.
    Drain,
    /// Owners seal.
    Seal,
    /// Owners drop.
    Drop,
}

/// A driver's way through one round: every step at everybody, before the next. Each may be asked as often as it takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drive {
    round: RoundId,
    owners: BTreeSet<StoreId>,
    holders: BTreeSet<StoreId>,
    step: Option<Step>,
    waits: BTreeSet<StoreId>,
}

impl Drive {
    /// Of a new round, from the marks on. `holders` are all that may hold hints of the partition, owners or not.
    #[must_use]
    pub fn begin(round: RoundId, owners: BTreeSet<StoreId>, holders: BTreeSet<StoreId>) -> Self {
        let waits = owners.clone();
        Self { round, owners, holders, step: Some(Step::Mark), waits }
    }

    /// Of a round that all owners have marked, as [`plan`] told.
    #[must_use]
    pub fn resume(round: RoundId, owners: BTreeSet<StoreId>, holders: BTreeSet<StoreId>) -> Self {
        let mut drive = Self { round, owners, holders, step: Some(Step::Mark), waits: BTreeSet::new() };
        drive.go_on();
        drive
    }

    /// Of a round that some owner has sealed already, so that all had marked it and all hints were drained.
    #[must_use]
    pub fn finish(round: RoundId, owners: BTreeSet<StoreId>) -> Self {
        let waits = owners.clone();
        Self { round, owners, holders: BTreeSet::new(), step: Some(Step::Seal), waits }
    }

    /// The round.
    #[must_use]
    pub const fn round(&self) -> RoundId {
        self.round
    }

    /// The step to be asked for now; none once all have dropped it.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        self.step
    }

    /// Who has not answered that step yet: for whom the round waits.
    #[must_use]
    pub const fn waits(&self) -> &BTreeSet<StoreId> {
        &self.waits
    }

    /// One has done a step, flushed. An answer to an earlier step changes nothing.
    pub fn done(&mut self, from: StoreId, step: Step) {
        if self.step == Some(step) {
            self.waits.remove(&from);
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        while self.waits.is_empty() {
            let (step, whom) = match self.step {
                Some(Step::Mark) => (Step::Drain, &self.holders),
                Some(Step::Drain) => (Step::Seal, &self.owners),
                Some(Step::Seal) => (Step::Drop, &self.owners),
                Some(Step::Drop) | None => {
                    self.step = None;
                    return;
                }
            };
            (self.step, self.waits) = (Some(step), whom.clone());
        }
    }
}
