//! Handing an operation over to an owner: once, never onward.
//!
//! A read may be tried at the next owner whatever became of the first try. A write goes to a second owner only if the
//! first provably did not take it; else its outcome is unknown (two coordinators would mint two dots for one request).

use bytes::Bytes;

use super::get::Needs;
use super::{Coordinator, Located, WritePlan, Wrote, left};
use crate::causality::{Supersedes, decode_object, decode_vector, digest_of_record, encode_vector};
use crate::collect::Epoch;
use crate::coordinator::Found;
use crate::kv::{Counted, Error, ErrorCode, Outcome, ReadOptions, RepairMode};
use crate::quorum::Explain;
use crate::replica::Fault;
use crate::transport::CallError;
use crate::transport::messages::{self, Ask, HandedRead, HandedWrite, Refusal, Superseding, Tell};
use crate::types::{Digest, Mono, StoreId, Wall};

impl Coordinator {
    /// The owners that an operation may be handed to: for a write first those that mint and have room for it, as far as
    /// their last heartbeat tells; same zone first; then the fastest.
    fn hosts(&self, located: &Located, write: Option<&WritePlan>) -> Vec<StoreId> {
        let up = self.inner.peers.up();
        let mut hosts: Vec<_> = located
            .stores()
            .filter_map(|store| located.member(store))
            .filter(|member| member.store != self.inner.me && up.is_up(member.store))
            .map(|member| {
                let takes =
                    |plan: &WritePlan| up.mints(member.store) && up.writes(member.store, plan.grows() || plan.looks());
                let reluctant = !write.is_none_or(takes);
                let median = self.inner.peers.median(member.store).map(|median| median.as_millis());
                let gaining = !located.route.reads_from(member.store);
                ((reluctant, gaining, member.zone != self.inner.zone, median), member.store)
            })
            .collect();
        // A stable sort: the order of the preference list breaks ties.
        hosts.sort_by_key(|(order, _)| *order);
        hosts.into_iter().map(|(_, store)| store).collect()
    }

    pub(super) async fn hand_over_read(
        &self,
        located: &Located,
        options: &ReadOptions,
        needs: &Needs,
        deadline: Mono,
    ) -> Result<Found, Error> {
        let mut last = self.nobody(located, "read");
        for host in self.hosts(located, None) {
            let now = self.inner.env.clock.now();
            let budget = left(deadline, now);
            if budget.is_zero() {
                break;
            }
            self.inner.metrics.quorum.handovers.inc();
            let handed = HandedRead {
                target: located.target(),
                level: options.r.to_string(),
                repair: match options.repair {
                    None => "",
                    Some(RepairMode::Sync) => "sync",
                    Some(RepairMode::Async) => "async",
                    Some(RepairMode::Off) => "off",
                }
                .to_owned(),
                hedge: options.hedge,
                explain: options.explain,
                floor: needs.floor.as_ref().map(|floor| encode_vector(&floor.seen)),
            };
            match self.inner.peers.call(host, Ask::HandedRead(handed), located.version(), budget).await {
                Ok(reply) => match reply.tell {
                    Some(Tell::ReadDone(done)) => return found_of(done, located.generation),
                    Some(Tell::Failed(failed)) => last = error_of(&failed.error),
                    Some(Tell::Refused(refused)) => last = self.turned_away(located, host, &refused).await,
                    _ => last = internal(Outcome::Unknown),
                },
                Err(CallError::TimedOut) => {
                    let detail = format!("{} did not answer in time", located.name(host));
                    last = Error::new(ErrorCode::ReadTimeout, Outcome::Unknown, detail);
                }
                Err(failed) => {
                    let detail = format!("{} could not be reached: {failed}", located.name(host));
                    last = Error::new(ErrorCode::ReplicasFailed, Outcome::Unknown, detail);
                }
            }
        }
        Err(last)
    }

    pub(super) async fn hand_over_write(
        &self,
        located: &Located,
        plan: &WritePlan,
        deadline: Mono,
    ) -> Result<Wrote, Error> {
        let hosts = self.hosts(located, Some(plan));
        self.hand_over_write_to(located, plan, &hosts, deadline, self.nobody(located, "write")).await
    }

    /// Hands a write over to the first of these that takes it; `last` is why none does, where there are none.
    pub(super) async fn hand_over_write_to(
        &self,
        located: &Located,
        plan: &WritePlan,
        hosts: &[StoreId],
        deadline: Mono,
        mut last: Error,
    ) -> Result<Wrote, Error> {
        for &host in hosts {
            let budget = left(deadline, self.inner.env.clock.now());
            if budget.is_zero() {
                break;
            }
            self.inner.metrics.quorum.handovers.inc();
            let ask = Ask::HandedWrite(handed_of(located, plan));
            match self.inner.peers.call(host, ask, located.version(), budget).await {
                Ok(reply) => match reply.tell {
                    Some(Tell::WriteDone(done)) => return wrote_of(&done, located.generation, plan.return_body),
                    Some(Tell::Failed(failed)) => {
                        let error = error_of(&failed.error);
                        if error.outcome != Outcome::NotApplied || !elsewhere(error.code) {
                            return Err(error);
                        }
                        last = error;
                    }
                    Some(Tell::Refused(refused)) => last = self.turned_away(located, host, &refused).await,
                    _ => return Err(internal(Outcome::Unknown)),
                },
                Err(failed) if failed.proves_unseen() => {
                    let detail = format!("{} could not be reached: {failed}", located.name(host));
                    last = self.later(Error::refused(ErrorCode::ReplicasFailed, detail));
                }
                Err(failed) => {
                    self.inner.metrics.quorum.unknown_writes.inc();
                    let detail = format!(
                        "the write was handed over to {}, which did not answer ({failed}); it may be there all the same",
                        located.name(host)
                    );
                    return Err(Error::new(ErrorCode::WriteTimeout, Outcome::Unknown, detail));
                }
            }
        }
        Err(last)
    }

    fn nobody(&self, located: &Located, what: &str) -> Error {
        if located.stores().any(|store| store == self.inner.me)
            && let Some(bar) = self.inner.replica.identity().barred()
        {
            return self.later(super::refused(&Fault::Barred(bar)));
        }
        let detail = format!("no owner is up that could coordinate the {what}");
        self.later(Error::refused(ErrorCode::QuorumUnavailable, detail))
    }

    async fn turned_away(&self, located: &Located, host: StoreId, refused: &messages::Refused) -> Error {
        if super::about_layouts(refused.why()) {
            self.learn_from(host).await;
        }
        let code = match refused.why() {
            Refusal::ReadOnly => ErrorCode::ReadOnly,
            Refusal::NoRoom => ErrorCode::DiskFull,
            Refusal::HintsFull => ErrorCode::HintsFull,
            Refusal::Overloaded => ErrorCode::Overloaded,
            Refusal::ClockDrift => ErrorCode::ClockDrift,
            Refusal::Stopping => ErrorCode::NotServing,
            _ => ErrorCode::ReplicasFailed,
        };
        self.later(Error::refused(code, format!("{}: {}", located.name(host), refused.detail)))
    }
}

/// Whether another owner, or a fallback, may do what this one refused.
pub(super) fn elsewhere(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotServing
            | ErrorCode::Overloaded
            | ErrorCode::ClockDrift
            | ErrorCode::ReadOnly
            | ErrorCode::DiskFull
            | ErrorCode::HintsFull
            | ErrorCode::ReplicasFailed
            | ErrorCode::SessionUnmet
    )
}

fn handed_of(located: &Located, plan: &WritePlan) -> HandedWrite {
    let (supersedes, context) = match &plan.supersedes {
        Supersedes::Tombstones => (Superseding::Tombstones, Bytes::new()),
        Supersedes::Seen => (Superseding::Seen, Bytes::new()),
        Supersedes::Covered(context) => (Superseding::Covered, encode_vector(context)),
    };
    HandedWrite {
        target: located.target(),
        level: plan.w.to_string(),
        durable: plan.durable,
        payload: messages::Payload {
            value: plan.payload.value.clone(),
            content_type: plan.payload.content_type.clone(),
            meta: plan.payload.meta.clone(),
            written_at_ms: plan.payload.written_at.0,
            ttl_ms: plan.ttl.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        },
        supersedes: supersedes.into(),
        context,
        request_id: plan.request.map(|(id, _)| Bytes::copy_from_slice(&id.0)),
        fingerprint: plan.request.map(|(_, fingerprint)| Bytes::copy_from_slice(&fingerprint.0)),
        return_body: plan.return_body,
        explain: plan.explain,
        max_siblings: plan.max_siblings,
        max_object: plan.max_object,
        sloppy: plan.sloppy,
        // Of an older generation: anything in this one is newer.
        floor: plan
            .floor
            .as_ref()
            .filter(|floor| floor.generation == located.generation)
            .map(|f| encode_vector(&f.seen)),
    }
}

fn counted_of(counted: &messages::Counted) -> Counted {
    Counted {
        answered: counted.answered,
        needed: counted.needed,
        n: counted.n,
        layout: counted.layout,
        sloppy: counted.sloppy,
    }
}

fn explain_of(json: &Bytes) -> Option<Explain> {
    serde_json::from_slice(json).ok()
}

fn found_of(done: messages::ReadDone, generation: u64) -> Result<Found, Error> {
    let digest = done.record.as_deref().map(digest_of_record);
    let object = match done.record.map(decode_object) {
        None => None,
        Some(Ok(object)) => Some(object.into()),
        Some(Err(_)) => return Err(internal(Outcome::Unknown)),
    };
    // It is not told under which epoch it was read: it is shown, and written nowhere.
    let (epoch, counted) = (Epoch::FIRST, counted_of(&done.counted));
    Ok(Found { object, digest, epoch, generation, counted, explain: explain_of(&done.explain) })
}

fn wrote_of(done: &messages::WriteDone, generation: u64, return_body: bool) -> Result<Wrote, Error> {
    // It was acknowledged: what cannot be understood of the answer does not change that.
    let object = done.record.clone().map(decode_object).transpose().map_err(|_| internal(Outcome::Applied))?;
    let context = decode_vector(&done.context).map_err(|_| internal(Outcome::Applied))?;
    let digest = Digest::from_slice(&done.digest).ok_or_else(|| internal(Outcome::Applied))?;
    Ok(Wrote {
        context,
        generation,
        object: object.filter(|_| return_body),
        digest,
        siblings: done.siblings,
        alone: done.alone,
        expires_at: done.expires_at_ms.map(Wall),
        replayed: done.replayed,
        counted: counted_of(&done.counted),
        explain: explain_of(&done.explain),
    })
}

fn error_of(json: &Bytes) -> Error {
    serde_json::from_slice(json).unwrap_or_else(|_| internal(Outcome::Unknown))
}

fn internal(outcome: Outcome) -> Error {
    Error::new(ErrorCode::Internal, outcome, "an owner's answer could not be understood")
}
