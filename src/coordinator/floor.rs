//! Session floors: what an answer must be at least as new as, and what a write must be minted on (I-SESSION).
//!
//! A read whose R votes do not cover the floor asks every owner (`quorum::GetCore`); an owner that gives no vote may be
//! the one that has it, so the whole is begun again until the deadline, and then refused: 504 `session_unmet`. Where every
//! owner has voted, what they hold together is the answer, for what none of them has any more was collected, or has
//! expired, or was lost to all. Two more may have it: fallbacks that keep it for an owner. They are asked; and while one
//! of them says nothing, only what this owner knows to have been dropped is taken for gone.
//!
//! A write is minted on a state that covers the floor, which is fetched first: so nobody is shown it without what its
//! writer had seen. The floor itself is never taken for a context: its holder was not shown what it names (I-CONCUR).
//!
//! A bucket that was emptied since has another generation, and anything in it is newer than a floor from before. A floor of a
//! generation that this node does not know yet is waited for.

use std::time::Duration;

use super::get::{Needs, cover};
use super::sloppy::Kept;
use super::{Coordinator, Found, Located, WritePlan, left};
use crate::causality::{VersionVector, decode_head, encode_object};
use crate::kv::{Error, ErrorCode, Outcome, ReadOptions, RepairMode};
use crate::pacing::Backoff;
use crate::quorum::{self, Level};
use crate::replica::{Cause, Fault, MergeRequest};
use crate::types::{Mono, ObjectId, StoreId};

/// When owners are asked again for what a floor names.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(250) };
/// Never sooner than this.
const AGAIN_AT_LEAST: Duration = Duration::from_millis(5);

/// What an operation's client has seen of its object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Floor {
    /// The generation of its bucket then.
    pub generation: u64,
    /// What it has seen.
    pub seen: VersionVector,
}

impl Coordinator {
    /// The floor as a read counts it; none where anything in the bucket is newer.
    pub(super) fn floor_in(&self, located: &Located, floor: Option<&Floor>) -> Result<Option<quorum::Floor>, Error> {
        let Some(floor) = floor.filter(|floor| floor.generation == located.generation) else { return Ok(None) };
        let mut owners = self.require_votes(located, Level::All)?.members().to_vec();
        if self.inner.env.buggify.breaks("an unmet floor is looked for at every owner") {
            owners.clear();
        }
        Ok(Some(quorum::Floor { seen: floor.seen.clone(), owners }))
    }

    /// Refuses a floor from after a change of the bucket that this node has not heard of.
    pub(super) fn check_heard(&self, located: &Located, floor: Option<&Floor>) -> Result<(), Error> {
        match floor {
            Some(floor) if floor.generation > located.generation => {
                let detail = "the floor is from after this bucket was emptied, which this node has not heard of yet";
                Err(Error::refused(ErrorCode::SessionUnmet, detail))
            }
            _ => Ok(()),
        }
    }

    /// Waits a little before an operation is begun anew whose floor was not met; not where no time is left for that, or it
    /// failed for another reason.
    pub(super) async fn looks_again(&self, error: &Error, attempt: &mut u32, deadline: Mono) -> bool {
        let env = &self.inner.env;
        if error.code != ErrorCode::SessionUnmet {
            return false;
        }
        let wait = AGAIN.delay(*attempt, env.entropy.u64()).max(AGAIN_AT_LEAST);
        if left(deadline, env.clock.now()) <= wait {
            return false;
        }
        *attempt += 1;
        env.clock.sleep(wait).await;
        true
    }

    /// Reads at the owners; where they have all answered and what the floor names is not among it, looks at what fallbacks
    /// keep for them.
    pub(super) async fn read_covering(
        &self,
        located: Located,
        needs: Needs,
        options: &ReadOptions,
        began: Mono,
        deadline: Mono,
    ) -> Result<Found, Error> {
        let Some(floor) = needs.floor.clone() else {
            return self.read_for(located, needs, Kept::default(), options, began, deadline).await;
        };
        let (id, generation) = (located.id.clone(), located.generation);
        let found = self.read_for(located, needs, Kept::default(), options, began, deadline).await?;
        if cover(&found, &floor.seen) || self.inner.env.buggify.breaks("an unmet floor is looked for at every owner") {
            return Ok(found);
        }
        let floor = Floor { generation, seen: floor.seen };
        self.look_at_keepers(&id, &floor, options, began, deadline).await
    }

    /// After every owner has answered, and what the floor names is not among it: asks every member what it keeps for others, and
    /// the owners once more.
    pub(super) async fn look_at_keepers(
        &self,
        id: &ObjectId,
        floor: &Floor,
        options: &ReadOptions,
        began: Mono,
        deadline: Mono,
    ) -> Result<Found, Error> {
        let located = self.locate(id)?;
        let keepers = located.keepers();
        let kept = self.ask_keepers(&located, &keepers, left(deadline, self.inner.env.clock.now()) / 2).await;
        // Owners once more, after them: what one of them kept until a moment ago has reached its owner by now.
        let again = self.needs(&located, options, Some(floor))?;
        let answered = kept.answered.clone();
        let found = Box::pin(self.read_for(located, again, kept, options, began, deadline)).await?;
        self.unless_kept(&self.locate(id)?, &floor.seen, found, &answered)
    }

    /// What every owner has answered, and these members: the answer, unless one that said nothing may keep what is missing of
    /// the floor.
    fn unless_kept(
        &self,
        located: &Located,
        seen: &VersionVector,
        found: Found,
        answered: &[StoreId],
    ) -> Result<Found, Error> {
        if cover(&found, seen) {
            return Ok(found);
        }
        let silent: Vec<String> = located
            .keepers()
            .into_iter()
            .filter(|store| !answered.contains(store))
            .map(|store| located.name(store))
            .collect();
        // As old as what this partition has dropped: a round of collection drains hints first, and what has expired is
        // dropped long after its time. A hint that old, whose node was away all the while, is missed.
        let dropped = self.inner.replica.identity().collected(located.place.partition);
        let missing = |dot| !found.object.as_ref().is_some_and(|object| object.context().covers(dot));
        if silent.is_empty() || seen.iter().all(|dot| !missing(dot) || dot.stamp <= dropped) {
            self.inner.metrics.sessions.gone.inc();
            return Ok(found);
        }
        let detail = format!(
            "no owner has all that the floor names, and {} could keep it for one and cannot be asked: read again later, or \
             without the floor",
            silent.join(", ")
        );
        let mut error = Error::new(ErrorCode::SessionUnmet, Outcome::Unknown, detail);
        (error.required, error.answered) = (Some(found.counted.needed), Some(found.counted.answered));
        (error.n, error.layout) = (Some(found.counted.n), Some(found.counted.layout));
        self.inner.metrics.sessions.unmet.inc();
        Err(error)
    }

    /// Before a write is minted: what this node holds, or keeps for the owner that it stands for, is brought to cover the
    /// floor. It may take half of the time there is; the other half is the write's.
    pub(super) async fn meet_floor(
        &self,
        located: &Located,
        plan: &WritePlan,
        stands_for: Option<StoreId>,
        deadline: Mono,
    ) -> Result<(), Error> {
        let Some(floor) = plan.floor.as_ref().filter(|floor| floor.generation >= located.generation) else {
            return Ok(());
        };
        self.check_heard(located, Some(floor))?;
        let (replica, place) = (&self.inner.replica, located.place.clone());
        let held = match stands_for {
            None => replica.read(place).await,
            Some(_) => replica.kept(place, located.rules).await.map(|kept| kept.map(|(record, _)| record)),
        };
        let head = held.map_err(|fault| self.refusal(&fault))?.and_then(|record| decode_head(&record).ok());
        if head.map_or(floor.seen.is_empty(), |head| head.context.covers_all(&floor.seen)) {
            self.inner.metrics.sessions.at_once.inc();
            return Ok(());
        }
        let now = self.inner.env.clock.now();
        let timeout = left(deadline, now) / 2;
        let (r, repair) = (Level::One, Some(RepairMode::Off));
        let sloppy = plan.sloppy || stands_for.is_some();
        let options = ReadOptions { r, timeout, repair, sloppy, ..ReadOptions::default() };
        let again = self.locate(&located.id)?;
        let read = match sloppy {
            false => self.read_here(again, &options, Some(floor), now, now + timeout).await,
            true => {
                let needs = self.needs(&again, &options, Some(floor))?;
                self.read_sloppy(again, needs, &options, now, now + timeout).await
            }
        };
        // Nothing was minted, whatever became of the look.
        let found = read.map_err(|error| {
            // Why it could not be looked for is told as it is.
            if !matches!(error.code, ErrorCode::SessionUnmet | ErrorCode::ReadTimeout) {
                return Error { outcome: Outcome::NotApplied, ..error };
            }
            let detail = format!("what the floor names could not be fetched, so nothing was written: {}", error.detail);
            Error { outcome: Outcome::NotApplied, code: ErrorCode::SessionUnmet, detail, ..error }
        })?;
        let Some(object) = found.object else { return Ok(()) };
        let record = encode_object(&object);
        let merged = match stands_for {
            Some(owner) => self.keep_here(located, owner, record, found.epoch, false).await,
            None => {
                let merge = MergeRequest {
                    place: located.place.clone(),
                    record,
                    rules: located.rules,
                    class: located.class,
                    flush: false,
                    cause: Cause::Repair,
                    epoch: found.epoch,
                };
                replica.merge(merge).await
            }
        };
        merged.map(drop).map_err(|fault| match fault {
            Fault::TooOld(_) => {
                let detail =
                    "a round of collection was sealed while what the floor names was fetched, so nothing was written";
                Error::refused(ErrorCode::SessionUnmet, detail)
            }
            fault => self.refusal(&fault),
        })
    }
}
