//! The shell around the decision on the next layout: an acceptor that flushes before it answers, and a proposer.
//!
//! What counts is `paxos`' to decide. The acceptor is made anew from its record for each question, under the keeper's
//! pen, so no two questions are answered from one state and this node's tracker stands still between what it vouches for
//! and the flush. A store that is proven to have gone back may have forgotten what it promised: see `voice`.
//!
//! Bounds: one record, of the newest layout's successor; a proposal ends with its patience.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::keeper::LayoutKeeper;
use super::voice::record_entry;
use crate::env::BoxFuture;
use crate::pacing::Backoff;
use crate::paxos::{
    Acceptor, Decided, DecisionId, Electorate, Outcome, Progress, Proposals, Proposer, Reply, Request, Step, Ticket,
    Value,
};
use crate::replica::Fault;
use crate::ring::change::{NotNow, judge_successor};
use crate::ring::risk::Pledge;
use crate::ring::{Chain, Layout};
use crate::transport::messages::layouts::{Decide, Decided as Told, Layouts};
use crate::transport::messages::{Ask, Tell};
use crate::types::StoreId;

/// How long one question to an acceptor may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How a proposal ended.
#[derive(Clone, Debug)]
pub enum Proposed {
    /// The layout proposed is the next one.
    Won {
        /// It.
        layout: Layout,
        /// How far those who accepted had sync_acked.
        pledges: Vec<Pledge>,
    },
    /// Another one is.
    Conflict {
        /// The one that was decided.
        winner: Layout,
    },
}

/// Why a proposal came to nothing.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// This node is no member.
    #[error("this node is in no cluster, or was removed from it")]
    NotServing,
    /// It may not be decided (now).
    #[error(transparent)]
    NotNow(#[from] NotNow),
    /// No majority answered in time.
    #[error("{0} of the {1} members that decide were needed and not enough answered: it may still be decided")]
    Unknown(usize, usize),
    /// What was decided makes no sense, or could not be stored.
    #[error("what was decided could not be taken: {0}")]
    Untaken(String),
}

impl LayoutKeeper {
    /// Answers a proposer.
    pub(super) async fn vote(&self, request: &Request) -> Result<Reply, Fault> {
        let inner = &self.inner;
        let mut pen = inner.pen.lock().await;
        let Some(known) = self.known() else { return Ok(Reply::OtherDecision) };
        let decision = request.decision();
        let asked = |layout: &&Layout| layout.hash().0 == decision.0;
        let Some(parent) = known.chain.layouts().iter().find(asked) else { return Ok(Reply::OtherDecision) };
        if let Some(next) = known.chain.get(parent.version() + 1) {
            let value = Value::new(next.encode());
            return Ok(Reply::Decided(Decided { decision, value, attestations: Default::default() }));
        }
        if !self.may_speak()? {
            return Ok(Reply::OtherDecision);
        }
        let record = self.acceptor_record(decision)?.unwrap_or_default();
        let electorate = Electorate::new(known.chain.deciders().into_iter().map(|(_, store)| store));
        let acceptor = electorate.and_then(|electorate| Acceptor::new(inner.me, decision, &electorate, record));
        let Some(acceptor) = acceptor else { return Ok(Reply::OtherDecision) };
        if let Request::Accept(accept) = request {
            let fits = Layout::decode(accept.value.bytes()).is_ok_and(|next| known.chain.follows(&next).is_ok());
            if !fits {
                warn!("a layout was proposed that cannot follow: not accepted");
                return Ok(Reply::OtherDecision);
            }
        }
        let vouched = self.vouches(&pen, parent)?;
        match acceptor.receive(request, || Bytes::copy_from_slice(&vouched.to_be_bytes())) {
            Step::Answer(_, reply) => Ok(reply),
            Step::Flush(unflushed) => {
                let mut entries = vec![record_entry(decision, unflushed.record())];
                let accepts = if matches!(request, Request::Accept(_)) { parent.version() + 1 } else { 0 };
                let pledged = pen.pledged.max(accepts);
                entries.push(Self::pledge_entry(pledged));
                inner.replica.remember(entries).await?;
                self.pledged_up_to(&mut pen, pledged);
                Ok(unflushed.flushed().1)
            }
        }
    }

    /// Has `next` decided as the newest layout's successor, or learns what is; tries for as long as `patience`.
    pub async fn propose(&self, next: Layout, patience: Duration) -> Result<Proposed, ProposeError> {
        let inner = &self.inner;
        let known = self.known().filter(|known| known.is_member()).ok_or(ProposeError::NotServing)?;
        judge_successor(&known.chain, known.view().is_complete(), &next)?;
        let parent = known.newest().clone();
        let decision = DecisionId(parent.hash().0);
        let stores: Vec<StoreId> = known.chain.deciders().into_iter().map(|(_, store)| store).collect();
        let electorate = Electorate::new(stores.iter().copied()).ok_or(ProposeError::NotServing)?;
        let majority = electorate.majority();
        let node = inner.replica.identity().node();
        let value = Value::new(next.encode());
        info!(version = next.version(), hash = %next.hash(), "proposes the next layout");
        let begin = || {
            let proposal = inner.env.entropy.u64();
            let proposer = Proposer::new(decision, electorate.clone(), node, proposal, value.clone());
            (proposer, UnderWay::begin(self, decision))
        };
        let (mut proposer, mut under_way) = begin();
        let deadline = inner.env.clock.now() + patience;
        let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1) };
        let mut attempt = 0;
        let mut asking: Option<Request> = proposer.request();
        let outcome = loop {
            if !under_way.tries(proposer.round()) {
                (proposer, under_way) = begin();
                asking = proposer.request();
                continue;
            }
            let mut pending: FuturesUnordered<BoxFuture<'static, (StoreId, Option<Reply>)>> = FuturesUnordered::new();
            if let Some(request) = &asking {
                pending.extend(stores.iter().map(|store| self.ask_acceptor(*store, request.clone())));
            }
            let mut over = None;
            while let Some((from, reply)) = pending.next().await {
                match reply.map_or(Progress::Wait, |reply| proposer.on_reply(from, reply)) {
                    Progress::Wait => {}
                    Progress::Send(request) => {
                        pending.extend(stores.iter().map(|store| self.ask_acceptor(*store, request.clone())));
                    }
                    Progress::Beaten { .. } => break,
                    Progress::Over(outcome) => {
                        over = Some(outcome);
                        break;
                    }
                }
            }
            if over.is_none()
                && let Some(decided) = self.decided(&parent)
                && let Progress::Over(outcome) = proposer.learn(decided)
            {
                over = Some(outcome);
            }
            if let Some(outcome) = over.take().filter(|_| under_way.conclude()) {
                break outcome;
            }
            let wait = backoff.delay(attempt, inner.env.entropy.u64());
            attempt += 1;
            if inner.env.clock.now() + wait >= deadline {
                return Err(ProposeError::Unknown(majority, stores.len()));
            }
            inner.env.clock.sleep(wait).await;
            asking = proposer.retry();
        };
        let decided = outcome.decided();
        let layout = Layout::decode(decided.value.bytes()).map_err(|bad| ProposeError::Untaken(bad.to_string()))?;
        under_way.remember(layout.clone()).await?;
        self.nudge();
        Ok(match outcome {
            Outcome::Won(decided) => {
                let pledge = |(store, bytes): (StoreId, Bytes)| {
                    Some((store, u64::from_be_bytes(bytes.as_ref().try_into().ok()?)))
                };
                Proposed::Won { layout, pledges: decided.attestations.into_iter().filter_map(pledge).collect() }
            }
            Outcome::Conflict(_) => Proposed::Conflict { winner: layout },
        })
    }

    /// What this node proposes now.
    pub(super) fn proposals(&self) -> MutexGuard<'_, Proposals> {
        self.inner.proposals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was decided behind `parent`, if the chain knows it.
    fn decided(&self, parent: &Layout) -> Option<Decided> {
        let known = self.known()?;
        let next = known.chain.get(parent.version() + 1)?;
        let decision = DecisionId(parent.hash().0);
        Some(Decided { decision, value: Value::new(next.encode()), attestations: Default::default() })
    }

    /// Appends what was decided.
    pub(super) async fn append(&self, layout: Layout) -> Result<(), ProposeError> {
        let Some(known) = self.known() else { return Err(ProposeError::NotServing) };
        let held = known.chain.get(layout.version());
        if held.is_some_and(|held| *held == layout) || held.is_none() && known.newest().version() >= layout.version() {
            // Known, or followed by another already and dropped.
            return Ok(());
        }
        let mut chain: Chain = (*known.chain).clone();
        let untaken = |why: String| ProposeError::Untaken(why);
        chain.push(layout).map_err(|bad| untaken(bad.to_string()))?;
        self.learn(&chain).await.map(|_| ()).map_err(|why| untaken(why.to_string()))
    }

    /// Lets every member know at once that there is a newer layout; whoever misses it hears of it by heartbeat.
    fn nudge(&self) {
        let Some(known) = self.known() else { return };
        for layout in known.chain.live() {
            for member in layout.members().iter().filter(|member| member.store != self.inner.me) {
                let since = known.newest().version();
                let call = self.inner.peers.call(member.store, Ask::Layouts(Layouts { since }), 0, ANSWER_WITHIN);
                self.inner.env.tasks.spawn(async move { drop(call.await) });
            }
        }
    }

    fn ask_acceptor(&self, store: StoreId, request: Request) -> BoxFuture<'static, (StoreId, Option<Reply>)> {
        let this = self.clone();
        Box::pin(async move {
            if store == this.inner.me {
                return (store, this.vote(&request).await.ok());
            }
            let call = this.inner.peers.call(store, Ask::Decide(Decide::from(&request)), 0, ANSWER_WITHIN);
            let reply = match call.await.map(|reply| reply.tell) {
                Ok(Some(Tell::Decided(told))) => told.reply(request.decision()).ok(),
                _ => None,
            };
            (store, reply)
        })
    }

    /// Answers a proposer's message.
    pub(super) async fn serve_decide(&self, decide: &Decide) -> Result<Told, Fault> {
        let request = Request::try_from(decide).map_err(|bad| Fault::Malformed(bad.to_string()))?;
        Ok(Told::from(&self.vote(&request).await?))
    }
}

/// A proposal of this node, until it is dropped. One that is concluded is under way until what was decided is remembered;
/// where that fails, for as long as the process lives: nobody may take it for given up, for it may be on the disk.
struct UnderWay {
    keeper: LayoutKeeper,
    ticket: Ticket,
    concluded: bool,
}

impl UnderWay {
    fn begin(keeper: &LayoutKeeper, decision: DecisionId) -> Self {
        Self { keeper: keeper.clone(), ticket: keeper.proposals().begin(decision), concluded: false }
    }

    /// Whether it may try under this round.
    fn tries(&self, round: u64) -> bool {
        self.keeper.proposals().tries(self.ticket, round)
    }

    /// Whether what it heard counts.
    fn conclude(&mut self) -> bool {
        self.concluded = self.keeper.proposals().conclude(self.ticket);
        self.concluded
    }

    /// Remembers what it concluded, also where nobody waits for that any more.
    async fn remember(self, layout: Layout) -> Result<(), ProposeError> {
        let (told, heard) = oneshot::channel();
        let tasks = self.keeper.inner.env.tasks.clone();
        tasks.spawn(async move {
            let appended = self.keeper.append(layout).await;
            if appended.is_ok() {
                self.keeper.proposals().end(self.ticket);
            }
            // Whoever waited may be gone.
            let _ = told.send(appended);
        });
        heard.await.unwrap_or_else(|_| Err(ProposeError::Untaken("this node is stopping".into())))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.concluded {
            self.keeper.proposals().end(self.ticket);
        }
    }
}
