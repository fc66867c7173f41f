//! The operators' side of a node without a cluster: plans by the real planner, and decisions as the test wants them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::env::BoxFuture;
use crate::kv::layouts::{
    AbortRequest, Begun, CommitRequest, ForceRequest, LayoutView, OperationView, PlanRequest, PlanView, SkipRequest,
};
use crate::kv::plans::{Plans, begun, committable, conflict, plan_view, refused, undecided};
use crate::kv::progress::{Beside, layout_view, operation_stage, operation_view};
use crate::kv::{Error, ErrorCode, LayoutAdmin};
use crate::ring::change::{follow_up, same_again};
use crate::ring::operations::{self, Facts, Plan};
use crate::ring::{BucketSettings, Chain, Grid, Layout, LayoutError, Member, Tracker, Trackers, View, planner};
use crate::types::{Mono, NodeId, StoreId};

/// A cluster's layouts in memory, as one of its members sees them.
#[derive(Debug)]
pub struct MockLayouts(Mutex<Known>);

#[derive(Debug)]
struct Known {
    chain: Chain,
    trackers: Trackers,
    me: StoreId,
    down: BTreeSet<String>,
    candidates: Vec<Member>,
    plans: Plans,
    now: Mono,
    next: Decides,
}

/// How the next decision ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Decides {
    /// For who proposes.
    #[default]
    Mine,
    /// For another layout.
    Another,
    /// Not in time.
    Late,
}

/// A member of the mock's cluster.
#[must_use]
pub fn member(name: &str, number: u128) -> Member {
    Member {
        node: NodeId::from_bits(number),
        store: StoreId::from_bits(1000 + number),
        name: name.to_owned(),
        region: "r".to_owned(),
        zone: "z".to_owned(),
        weight: 1,
        peer_address: format!("{name}:7402"),
        client_address: format!("{name}:7400"),
    }
}

impl MockLayouts {
    /// A cluster of these, complete; the first is the node that answers.
    pub fn of(members: Vec<Member>) -> Result<Self, LayoutError> {
        let me = members.first().map_or(StoreId::from_bits(0), |member| member.store);
        let first = planner::found("mock", Grid::new(8)?, 5, BucketSettings::default(), members)?;
        Ok(Self(Mutex::new(Known {
            chain: Chain::founded(first),
            trackers: Trackers::default(),
            me,
            down: BTreeSet::new(),
            candidates: Vec::new(),
            plans: Plans::default(),
            now: Mono(0),
            next: Decides::Mine,
        })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are down from now on, the others up.
    pub fn set_down(&self, names: &[&str]) {
        self.known().down = names.iter().map(|name| (*name).to_owned()).collect();
    }

    /// These could become members.
    pub fn set_candidates(&self, members: Vec<Member>) {
        self.known().candidates = members;
    }

    /// How the next decision ends.
    pub fn decide(&self, next: Decides) {
        self.known().next = next;
    }

    /// Everybody is done with the change under way, and with what follows it by itself.
    pub fn complete(&self) {
        let mut known = self.known();
        loop {
            let version = known.chain.newest().version();
            let done = Tracker { ack: version, synced: [version].into(), sync_ack: version };
            let members: Vec<StoreId> = known.chain.newest().members().iter().map(|member| member.store).collect();
            members.into_iter().for_each(|store| known.trackers.set_own(store, &done));
            known.chain.drop_before(version);
            let Ok(Some(next)) = follow_up(&known.chain) else { return };
            if known.chain.push(next).is_err() {
                return;
            }
        }
    }

    /// The newest layout.
    #[must_use]
    pub fn newest(&self) -> Layout {
        self.known().chain.newest().clone()
    }
}

impl Known {
    fn view(&self) -> View<'_> {
        View { chain: &self.chain, trackers: &self.trackers, me: self.me }
    }

    fn is_down(&self, store: StoreId) -> bool {
        let newest = self.chain.newest();
        newest.member_by_store(store).is_some_and(|index| self.down.contains(&newest.member(index).name))
    }

    fn with<T>(&self, ask: impl FnOnce(View<'_>, &Facts<'_>) -> T) -> T {
        let facts = Facts {
            candidates: &self.candidates,
            up: &|store| !self.is_down(store),
            knows: &|_| self.chain.newest().version(),
            bytes: &|_| Some(1024),
            unsynced: &BTreeSet::new(),
            silent: &BTreeSet::new(),
        };
        ask(self.view(), &facts)
    }

    fn beside<T>(&self, ask: impl FnOnce(View<'_>, Beside<'_>) -> T) -> T {
        let state = |member: &Member| if self.down.contains(&member.name) { "down" } else { "up" }.to_owned();
        let beside =
            Beside { state: &state, waiting_since: &|_| None, known_since: &|_| None, transferred: Some((0, 0)) };
        ask(self.view(), beside)
    }

    fn plan(&self, request: PlanRequest) -> Result<Plan, Error> {
        self.with(|view, facts| operations::plan(view, facts, &request.into())).map_err(|why| refused(&why))
    }

    fn propose(&mut self, plan: &Plan, request: CommitRequest) -> Result<Begun, Error> {
        self.with(|view, facts| committable(view, facts, plan, request))?;
        let next = match std::mem::take(&mut self.next) {
            Decides::Mine => plan.next.clone(),
            Decides::Late => return Err(undecided(&plan.next, "1 of 3 answered")),
            Decides::Another => {
                let again = same_again(&self.chain);
                let other = again.map_err(|why| refused(&why.into()))?;
                let error = conflict(&other, &plan.next);
                self.push(other)?;
                return Err(error);
            }
        };
        self.push(next)
    }

    fn push(&mut self, next: Layout) -> Result<Begun, Error> {
        let begun = begun(&next);
        self.chain.push(next).map_err(|why| Error::refused(ErrorCode::LayoutConflict, why.to_string()))?;
        Ok(begun)
    }
}

impl LayoutAdmin for MockLayouts {
    fn layout(&self) -> LayoutView {
        let known = self.known();
        known.beside(|view, beside| layout_view(view, beside, &known.candidates))
    }

    fn plan(&self, request: PlanRequest) -> BoxFuture<'_, Result<PlanView, Error>> {
        let mut known = self.known();
        let plan = known.plan(request);
        let view = plan.map(|plan| {
            let (view, now) = (plan_view(&plan), known.now);
            known.plans.keep(now, plan);
            view
        });
        Box::pin(std::future::ready(view))
    }

    fn commit(&self, plan: String, request: CommitRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        let mut known = self.known();
        let plan = known.plans.get(known.now, &plan).cloned();
        Box::pin(std::future::ready(plan.and_then(|plan| known.propose(&plan, request))))
    }

    fn skip(&self, request: SkipRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        let SkipRequest { members, force, accept_data_loss } = request;
        let mut known = self.known();
        let plan = known.plan(PlanRequest { remove: members, ..PlanRequest::default() });
        let begun = plan.and_then(|plan| {
            let version = plan.next.version();
            known.propose(&plan, CommitRequest { version, force, accept_data_loss })
        });
        Box::pin(std::future::ready(begun))
    }

    fn abort(&self, request: AbortRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        let AbortRequest { remove, force, accept_data_loss } = request;
        let mut known = self.known();
        let plan = known.plan(PlanRequest { remove, abort: true, ..PlanRequest::default() });
        let begun = plan.and_then(|plan| {
            let version = plan.next.version();
            known.propose(&plan, CommitRequest { version, force, accept_data_loss })
        });
        Box::pin(std::future::ready(begun))
    }

    fn force(&self, request: ForceRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        let mut known = self.known();
        let plan = known.with(|view, facts| operations::force(view, facts, &request.gone));
        let consent = operations::Consent { accept_data_loss: request.accept_data_loss, ..Default::default() };
        let plan = plan.and_then(|plan| plan.risks.allow_force(consent).map(|()| plan)).map_err(|why| refused(&why));
        Box::pin(std::future::ready(plan.and_then(|plan| known.push(plan.next))))
    }

    fn operation(&self, id: &str) -> Result<OperationView, Error> {
        let known = self.known();
        known.beside(|view, beside| {
            let at = operation_stage(view, id)?;
            Ok(operation_view(view, beside, id, at, None))
        })
    }
}
