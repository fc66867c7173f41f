//! The node as operators change the cluster through it: plans, decisions, and how far they have come.
//!
//! What a change is and what it risks is `ring::operations`' to say, what a document looks like `kv::plans`' and
//! `kv::progress`'. Here are the facts this node adds (who is up, who asks to join, how large partitions are), the plans
//! it keeps, and what it has seen: since when a change waits for whom, which layouts there were and how they ended.
//! Bounds: [`Plans::MOST`] plans, [`SEEN`] layouts, a member's wait each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::Node;
use crate::cluster::{Known, ProposeError, Proposed, Standing};
use crate::env::BoxFuture;
use crate::kv::layouts::{
    AbortRequest, Begun, CommitRequest, ForceRequest, LayoutSummary, LayoutView, OperationView, PlanRequest, PlanView,
    SkipRequest,
};
use crate::kv::plans::{Plans, begun, committable, conflict, operation_id, plan_view, refused, summary, undecided};
use crate::kv::progress::{Beside, layout_view, operation_stage, operation_view};
use crate::kv::{ChangeView, Error, ErrorCode, LayoutAdmin, date};
use crate::replica::range_of;
use crate::ring::change::{Kind, NotNow, judge_successor};
use crate::ring::live::Awaited;
use crate::ring::operations::follow::{Stage, stage};
use crate::ring::operations::{self, Consent, Facts, Plan};
use crate::ring::risk::Pledge;
use crate::ring::{Chain, Layout, Member, View};
use crate::storage::{Keyspace, Storage};
use crate::types::{Mono, PartitionId, StoreId, Wall};

/// How long a decision is tried for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most layouts whose end is remembered.
const SEEN: usize = 64;
/// How long a measure of partitions is good for.
const WEIGHED_FOR: Duration = Duration::from_secs(60);
/// Partitions that are looked at for it, and most bytes that are read.
const WEIGHED: (usize, u64) = (16, 4 << 20);

/// What the node keeps for operators, in memory.
#[derive(Debug, Default)]
pub(super) struct Desk {
    plans: Plans,
    /// For whom the newest layout waits, for what, since when.
    waiting: BTreeMap<StoreId, (u64, Awaited, Wall)>,
    seen: VecDeque<Seen>,
    /// The chain as it was looked at last.
    before: Option<Chain>,
    weighed: Option<(Mono, Option<u64>)>,
}

/// A layout as this node saw it come, and end.
#[derive(Debug)]
struct Seen {
    layout: Layout,
    summary: LayoutSummary,
    at: Mono,
    /// Once it has ended, for good.
    ended: Option<Stage>,
}

/// What a member says of itself has been heard by then.
const HEARD_AFTER: Duration = Duration::from_secs(3);

impl Desk {
    /// Looks at what is known now.
    fn look(&mut self, view: View<'_>, now: Mono, wall: Wall) {
        let begins = self.seen.is_empty();
        let last = self.seen.back().map_or(0, |seen| seen.layout.version());
        for layout in view.chain.layouts().iter().filter(|layout| layout.version() > last) {
            // What was there when the node started came before it.
            let since = (!begins).then(|| date::rfc3339(wall));
            let summary = summary(view.chain.get(layout.version() - 1), layout, since);
            self.seen.push_back(Seen { layout: layout.clone(), summary, at: now, ended: None });
        }
        while self.seen.len() > SEEN {
            self.seen.pop_front();
        }
        let given_up = self.given_up(view.chain);
        for seen in self.seen.iter_mut().filter(|seen| seen.ended.is_none()) {
            let now = match given_up.filter(|version| *version == seen.layout.version()) {
                Some(version) => Stage::Superseded(version + 1),
                None => stage(view, seen.layout.version(), Some(seen.layout.hash())),
            };
            seen.ended = matches!(now, Stage::Done | Stage::Superseded(_) | Stage::Lost).then_some(now);
        }
        self.before = Some(view.chain.clone());
        let version = view.chain.newest().version();
        let waits = view.waits_for().into_iter().map(|(store, awaited)| {
            let since = match self.waiting.get(&store) {
                Some((of, _, since)) if *of == version => *since,
                _ => wall,
            };
            (store, (version, awaited, since))
        });
        self.waiting = waits.collect();
    }

    /// The layout that was newest at the last look, if it was given up since: by now its abort may be complete, too, and
    /// the chain alone does not tell any more.
    fn given_up(&self, chain: &Chain) -> Option<u64> {
        let before = self.before.as_ref()?;
        let version = before.newest().version();
        let next = chain.get(version + 1)?;
        (judge_successor(before, false, next) == Ok(Kind::Abort)).then_some(version)
    }

    /// Since when the newest layout waits for a member.
    pub(super) fn waits_since(&self, store: StoreId) -> Option<Wall> {
        self.waiting.get(&store).map(|(.., since)| *since)
    }

    /// The last layout that changed something: how this node saw it come, and whether it has ended.
    fn last_change(&self) -> Option<(LayoutSummary, bool)> {
        let changed = self.seen.iter().rev().find(|seen| !seen.summary.changes.is_empty())?;
        Some((changed.summary.clone(), changed.ended.is_some()))
    }

    fn known_since(&self, version: u64) -> Option<String> {
        self.seen.iter().find(|seen| seen.summary.version == version)?.summary.since.clone()
    }
}

impl LayoutAdmin for Node {
    fn layout(&self) -> LayoutView {
        let Some(known) = self.inner.keeper.known() else { return LayoutView::default() };
        self.watch_layouts();
        let candidates = self.candidates(&known);
        let mut view = self.beside(&known, |view, beside| layout_view(view, beside, &candidates));
        view.history = self.desk().seen.iter().rev().map(|seen| seen.summary.clone()).collect();
        view
    }

    fn plan(&self, request: PlanRequest) -> BoxFuture<'_, Result<PlanView, Error>> {
        Box::pin(async move {
            let plan = self.make_plan(request)?;
            let view = plan_view(&plan);
            self.desk().plans.keep(self.inner.env.clock.now(), plan);
            Ok(view)
        })
    }

    fn commit(&self, plan: String, request: CommitRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        Box::pin(async move {
            let plan = self.desk().plans.get(self.inner.env.clock.now(), &plan)?.clone();
            self.propose(plan, request).await
        })
    }

    fn skip(&self, request: SkipRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        Box::pin(async move {
            let SkipRequest { members, force, accept_data_loss } = request;
            let plan = self.make_plan(PlanRequest { remove: members, ..PlanRequest::default() })?;
            let version = plan.next.version();
            self.propose(plan, CommitRequest { version, force, accept_data_loss }).await
        })
    }

    fn abort(&self, request: AbortRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        Box::pin(async move {
            let AbortRequest { remove, force, accept_data_loss } = request;
            let plan = self.make_plan(PlanRequest { remove, abort: true, ..PlanRequest::default() })?;
            let version = plan.next.version();
            self.propose(plan, CommitRequest { version, force, accept_data_loss }).await
        })
    }

    fn force(&self, request: ForceRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        Box::pin(self.append_forced(request))
    }

    fn operation(&self, id: &str) -> Result<OperationView, Error> {
        let known = self.serving_layouts()?;
        self.watch_layouts();
        let at = operation_stage(known.view(), id)?;
        let (ended, began) = {
            let desk = self.desk();
            let seen = desk.seen.iter().find(|seen| operation_id(&seen.layout) == id);
            (seen.and_then(|seen| seen.ended), seen.map(|seen| seen.at))
        };
        let running_for = began.map(|began| self.inner.env.clock.now().since(began));
        Ok(self.beside(&known, |view, beside| operation_view(view, beside, id, ended.unwrap_or(at), running_for)))
    }
}

impl Node {
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.inner.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks what has become of layouts, so that `status` can say since when.
    pub(super) fn watch_layouts(&self) {
        if let Some(known) = self.inner.keeper.known() {
            let clock = &self.inner.env.clock;
            self.desk().look(known.view(), clock.now(), clock.wall());
        }
    }

    /// The last change of the layout, and how far it has come.
    pub(super) fn last_change(&self) -> Option<ChangeView> {
        let known = self.inner.keeper.known()?;
        self.watch_layouts();
        let (LayoutSummary { version, changes, since, .. }, complete) = self.desk().last_change()?;
        let now = self.beside(&known, |view, beside| layout_view(view, beside, &[]));
        let (done, total, waits_for) = (now.done, now.total, now.waits_for);
        Some(ChangeView { layout: version, changes, since, complete, done, total, waits_for })
    }

    fn serving_layouts(&self) -> Result<Arc<Known>, Error> {
        let not = |why: String| Error::refused(ErrorCode::NotServing, format!("this node changes no layouts: {why}"));
        match self.standing() {
            Standing::Serving => self.inner.keeper.known().ok_or_else(|| not("it is starting".into())),
            Standing::Starting => Err(not("it is starting".into())),
            Standing::Waiting(why) | Standing::Refused(why) => Err(not(why)),
        }
    }

    /// Nodes that ask this one to be taken in.
    fn candidates(&self, known: &Known) -> Vec<Member> {
        let stranger = |member: &Member| {
            known.newest().member_by_store(member.store).is_none() && !known.chain.ended().contains(&member.store)
        };
        self.inner.joiners.now().into_iter().map(|joiner| joiner.member).filter(stranger).collect()
    }

    /// Asks with the facts that this node knows.
    fn with_facts<T>(&self, known: &Known, ask: impl FnOnce(View<'_>, &Facts<'_>) -> T) -> T {
        let candidates = self.candidates(known);
        let (up, heard) = (self.inner.peers.up(), self.heard());
        let bytes = self.partition_bytes(known);
        let knows = |store: StoreId| {
            let node = known.newest().member_by_store(store).map(|index| known.newest().member(index).node);
            let said = node.and_then(|node| heard.of(node)).and_then(|said| said.head.as_ref());
            said.map_or(0, |head| head.version)
        };
        let doubtful = |store: StoreId| match store == known.me {
            true => !self.inner.replica.health().unsynced().is_empty(),
            false => up.get(store).is_some_and(|peer| peer.mood.in_doubt),
        };
        let members = known.newest().members().iter().map(|member| member.store);
        let unsynced: BTreeSet<StoreId> = members.filter(|store| doubtful(*store)).collect();
        let silent = self.silent(known);
        let facts = Facts {
            candidates: &candidates,
            up: &|store| up.is_up(store),
            knows: &knows,
            bytes: &|_| bytes,
            unsynced: &unsynced,
            silent: &silent,
        };
        ask(known.view(), &facts)
    }

    /// Members whose stores have no voice in the decision on the next layout, as far as they said so. None while somebody
    /// has just gone: its last word may have given one its voice back, and that is not heard of at once.
    pub(super) fn silent(&self, known: &Known) -> BTreeSet<StoreId> {
        let (up, now) = (self.inner.peers.up(), self.inner.env.clock.now());
        let just_gone = |store| up.get(store).is_some_and(|peer| !peer.up && now.since(peer.since) < HEARD_AFTER);
        if known.newest().members().iter().any(|member| just_gone(member.store)) {
            return BTreeSet::new();
        }
        let is_silent = |store: &StoreId| match *store == known.me {
            true => self.inner.keeper.is_silent(),
            false => up.get(*store).is_some_and(|peer| peer.mood.silent),
        };
        known.newest().members().iter().map(|member| member.store).filter(is_silent).collect()
    }

    pub(super) fn beside<T>(&self, known: &Known, ask: impl FnOnce(View<'_>, Beside<'_>) -> T) -> T {
        let since = |store| self.desk().waits_since(store).map(date::rfc3339);
        // This node's own: what the others copy, their trackers tell once it is done.
        let copied = self.transfers().map(|transfers| transfers.now());
        let copied = copied.filter(|progress| progress.layout == known.newest().version());
        let beside = Beside {
            state: &|member| self.state_of(member, None),
            waiting_since: &since,
            known_since: &|version| self.desk().known_since(version),
            transferred: copied.map(|progress| (progress.done, progress.total)),
        };
        ask(known.view(), beside)
    }

    fn make_plan(&self, request: PlanRequest) -> Result<Plan, Error> {
        let known = self.serving_layouts()?;
        let changes = request.into();
        self.with_facts(&known, |view, facts| operations::plan(view, facts, &changes)).map_err(|why| refused(&why))
    }

    async fn propose(&self, plan: Plan, request: CommitRequest) -> Result<Begun, Error> {
        let known = self.serving_layouts()?;
        if *known.newest() == plan.next && request.version == plan.next.version() {
            return Ok(begun(&plan.next));
        }
        self.with_facts(&known, |view, facts| committable(view, facts, &plan, request))?;
        let next = plan.next;
        match self.inner.keeper.propose(next.clone(), PATIENCE).await {
            Ok(Proposed::Won { layout, pledges }) => {
                let warnings = self.found_out(&known, &layout, &pledges, request.into());
                Ok(Begun { warnings, ..begun(&layout) })
            }
            Ok(Proposed::Conflict { winner }) => Err(conflict(&winner, &next)),
            Err(ProposeError::NotNow(NotNow::Chain(_))) => {
                let newest = self.inner.keeper.newest().unwrap_or_else(|| known.newest().clone());
                Err(conflict(&newest, &next))
            }
            Err(ProposeError::NotNow(why)) => Err(refused(&why.into())),
            Err(why @ ProposeError::NotServing) => Err(Error::refused(ErrorCode::NotServing, why.to_string())),
            Err(why) => Err(undecided(&next, &why.to_string())),
        }
    }

    /// What those who accepted vouched for, and nobody knew before: then it is too late to ask, not to say.
    fn found_out(&self, known: &Known, next: &Layout, pledges: &[Pledge], consent: Consent) -> Vec<String> {
        let loses = operations::loses(known.view(), &BTreeSet::new(), next, pledges);
        if loses.is_empty() || consent.accept_data_loss {
            return Vec::new();
        }
        let text = |short: &crate::ring::risk::Short| {
            format!("acknowledged writes may be lost: {short}; members had come further than was known here")
        };
        let warnings: Vec<String> = loses.iter().map(text).collect();
        warnings.iter().for_each(|warning| warn!(version = next.version(), "{warning}"));
        warnings
    }

    async fn append_forced(&self, request: ForceRequest) -> Result<Begun, Error> {
        let known = self.serving_layouts()?;
        let consent = Consent { accept_data_loss: request.accept_data_loss, ..Consent::default() };
        let plan = self.with_facts(&known, |view, facts| {
            operations::force(view, facts, &request.gone)
                .and_then(|plan| plan.risks.allow_force(consent).map(|()| plan))
        });
        let next = plan.map_err(|why| refused(&why))?.next;
        warn!(
            version = next.version(), hash = %next.hash(), gone = ?request.gone,
            "a layout is FORCED: nobody decides it, and what only those that are gone hold is lost"
        );
        let mut chain = (*known.chain).clone();
        let conflicts = |why: String| Error::refused(ErrorCode::LayoutConflict, why);
        chain.push(next.clone()).map_err(|why| conflicts(why.to_string()))?;
        self.inner.keeper.learn(&chain).await.map_err(|why| conflicts(why.to_string()))?;
        info!(version = next.version(), "the forced layout is appended here, and spreads from here");
        Ok(begun(&next))
    }

    /// About how many bytes a replica of a partition takes: the mean of some that this node owns. None where they are
    /// too large to be read for it.
    fn partition_bytes(&self, known: &Known) -> Option<u64> {
        let now = self.inner.env.clock.now();
        let kept = self.desk().weighed;
        if let Some((_, bytes)) = kept.filter(|(at, _)| now.since(*at) < WEIGHED_FOR) {
            return bytes;
        }
        let bytes = weigh(&**self.inner.replica.storage(), &known.newest().partitions_of(known.me));
        self.desk().weighed = Some((now, bytes));
        bytes
    }
}

/// The mean size of some of these partitions.
fn weigh(storage: &dyn Storage, partitions: &[PartitionId]) -> Option<u64> {
    let (most, budget) = WEIGHED;
    let step = partitions.len().div_ceil(most).max(1);
    let (mut left, mut sizes) = (budget, Vec::new());
    for partition in partitions.iter().step_by(step) {
        let (from, to) = range_of(*partition);
        let to = to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(&to[..]));
        let mut size = 0;
        for entry in storage.scan(Keyspace::Objects, Bound::Included(&from), to) {
            let (key, value) = entry.ok()?;
            size += (key.len() + value.len()) as u64;
            if size > left {
                // Cut short: only those looked at as a whole count.
                return mean(&sizes);
            }
        }
        left -= size;
        sizes.push(size);
    }
    mean(&sizes)
}

fn mean(sizes: &[u64]) -> Option<u64> {
    sizes.iter().sum::<u64>().checked_div(sizes.len() as u64)
}

#[cfg(test)]
mod tests;
