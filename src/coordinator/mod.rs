//! Coordination: one client operation on the owners of one object.
//!
//! A node that is a synced owner in a live layout coordinates; any other hands the operation over, once, to one that is.
//! While a change of layouts is under way writes count in each live one and reads in the one that is complete; a replica
//! that knows more refuses, and the operation goes on, with the same dot, under what it then knows. The decisions
//! are made by the pure `quorum::{GetCore, PutCore}`; this room performs them: asks replicas through `peers`, its own
//! through `replica`, keeps the time, and turns what came of it into an answer or a [`Error`].
//!
//! A *sloppy* operation counts fallbacks that store hints, or answer from them, in the place of owners that are down
//! (`sloppy`). Only `lost` is promised of it: what was acknowledged reaches its owners.
//!
//! An operation may carry a *floor*: what its session has seen of the object (`floor`).
//!
//! I-HONEST is kept here: whatever is refused before the mint is `not_applied`; after it, what did not reach W in time
//! is `unknown`, never "failed".
//!
//! Bounds: every operation has a deadline; the operations in flight (`Limits::operations`; past it: 503 `overloaded`), the
//! pages of lists among them (`list::PAGES`).

mod broken;
mod compare;
mod floor;
mod get;
mod handover;
mod list;
mod pending;
mod put;
mod route;
mod service;
mod sloppy;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tracing::debug;

pub use floor::Floor;
pub use get::Found;
pub use list::{FoundKey, ListPlan, PlannedGap, PlannedPage};
pub use put::{WritePlan, Wrote};
pub use service::DataService;

use route::{Route, Routes};

use crate::causality::{MergeRules, RequestId};
use crate::cluster::{Known, LayoutKeeper};
use crate::env::Env;
use crate::kv::{Error, ErrorCode, Outcome, ReplicaReport};
use crate::metrics::Metrics;
use crate::pacing::Budget;
use crate::peers::Peers;
use crate::quorum::{Described, Level, LevelError, NoVote, Requirement, Role, Unavailable, requirement};
use crate::replica::{Fault, Place, Replica};
use crate::ring::judge::Named;
use crate::ring::{Layout, Member, Mode};
use crate::transport::CallError;
use crate::transport::messages::{Refusal, Target};
use crate::types::{Mono, ObjectId, StoreId};

/// What a coordinator takes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most operations coordinated at once.
    pub operations: usize,
    /// How long, by an object's own stamps, request ids are remembered; the same on all nodes.
    pub idempotency_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: 10_000, idempotency_window: MergeRules::default().idempotency_window }
    }
}

/// Coordinates operations.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    routes: ArcSwapOption<Routes>,
    me: StoreId,
    region: String,
    zone: String,
    limits: Limits,
    under_way: AtomicUsize,
    lists: AtomicUsize,
    requests: Mutex<BTreeSet<RequestId>>,
    hedges: Mutex<Budget>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

/// One object in the live layouts: all that an operation needs to know of it.
struct Located {
    known: Arc<Known>,
    id: ObjectId,
    generation: u64,
    place: Place,
    route: Arc<Route>,
    rules: MergeRules,
    class: u16,
}

impl Located {
    fn target(&self) -> Target {
        Target {
            bucket: self.id.bucket.as_str().to_owned(),
            generation: self.generation,
            key: self.id.key.as_bytes().clone(),
        }
    }

    fn stores(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.route.stores.iter().copied()
    }

    /// A member of any live layout, as the newest says it.
    fn member(&self, store: StoreId) -> Option<&Member> {
        let mut newest_first = self.known.chain.live().iter().rev();
        newest_first.find_map(|layout| layout.member_by_store(store).map(|index| layout.member(index)))
    }

    /// The newest layout's version.
    fn version(&self) -> u64 {
        self.known.newest().version()
    }

    /// The versions of the other live layouts, the newest first: a write is counted in them, too.
    fn older(&self) -> Vec<u64> {
        let live = self.known.chain.live();
        live[..live.len() - 1].iter().rev().map(Layout::version).collect()
    }

    fn name(&self, store: StoreId) -> String {
        self.member(store).map_or_else(|| store.to_string(), |member| member.name.clone())
    }

    fn describe(&self, store: StoreId) -> Described {
        let zone = self.member(store).map(|member| member.zone.clone());
        let role = match () {
            () if self.route.reads_from(store) => Role::Owner,
            () if self.route.stores.contains(&store) => Role::Joining,
            () => Role::Fallback,
        };
        Described { node: self.name(store), zone: zone.unwrap_or_default(), role }
    }

    fn reports(&self, states: impl Iterator<Item = (StoreId, &'static str)>) -> Vec<ReplicaReport> {
        states.map(|(store, state)| ReplicaReport { node: self.name(store), state: state.to_owned() }).collect()
    }
}

/// Holds one place among the operations under way.
struct Admitted(Arc<Inner>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Coordinator {
    /// A coordinator for this node.
    #[must_use]
    pub fn new(
        env: &Env,
        replica: Replica,
        peers: Peers,
        keeper: LayoutKeeper,
        metrics: Arc<Metrics>,
        limits: Limits,
    ) -> Self {
        let hello = peers.hello();
        let (region, zone) = (hello.region.clone(), hello.zone.clone());
        let inner = Inner {
            env: env.clone(),
            me: replica.identity().store(),
            replica,
            peers,
            keeper,
            routes: ArcSwapOption::empty(),
            region,
            zone,
            limits,
            under_way: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            requests: Mutex::default(),
            hedges: Mutex::new(if env.buggify.at("hedges run out") { Budget::new(50, 0) } else { Budget::hedging() }),
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Operations under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.inner.under_way.load(Ordering::Relaxed)
    }

    fn admit(&self) -> Result<Admitted, Error> {
        let admitted = Admitted(Arc::clone(&self.inner));
        if self.inner.under_way.fetch_add(1, Ordering::Relaxed) < self.inner.limits.operations {
            return Ok(admitted);
        }
        self.inner.metrics.quorum.overloaded.inc();
        let detail = format!("{} operations are under way here, the most there may be", self.inner.limits.operations);
        Err(self.later(Error::refused(ErrorCode::Overloaded, detail)))
    }

    /// Adds when to try again, jittered, so that those refused together do not come back together.
    fn later(&self, mut error: Error) -> Error {
        error.retry_after = Some(Duration::from_millis(500 + self.inner.env.entropy.below(1000)));
        error
    }

    fn locate(&self, id: &ObjectId) -> Result<Located, Error> {
        let Some((known, routes)) = self.routes() else {
            let detail = "this node is not in a cluster yet; `quorate status` says what it waits for";
            return Err(self.later(Error::refused(ErrorCode::NotServing, detail)));
        };
        let layout = known.newest();
        if !known.is_member() {
            let detail = format!("this node was removed from the cluster by layout {}", layout.version());
            return Err(self.later(Error::refused(ErrorCode::NotServing, detail)));
        }
        let settings = layout.settings(&id.bucket);
        let place = Place::of(layout.grid(), id, settings.generation);
        let route = routes.of(place.partition, &id.bucket);
        let (class, generation) = (layout.class_of(settings), settings.generation);
        let rules = MergeRules {
            last_write_wins: settings.mode == Mode::Lww,
            idempotency_window: self.inner.limits.idempotency_window,
        };
        Ok(Located { known, id: id.clone(), generation, place, route, rules, class })
    }

    /// What is known of layouts, and the routes that follow from it; none before there are any.
    fn routes(&self) -> Option<(Arc<Known>, Arc<Routes>)> {
        let now = self.inner.keeper.look();
        let now = now.as_ref()?;
        let kept = self.inner.routes.load();
        if let Some(kept) = kept.as_ref().filter(|kept| Arc::ptr_eq(kept.known(), now) || kept.known().routes_like(now))
        {
            return Some((Arc::clone(now), Arc::clone(kept)));
        }
        let routes = Arc::new(Routes::new(Arc::clone(now), &self.inner.region));
        self.inner.routes.store(Some(Arc::clone(&routes)));
        Some((Arc::clone(now), routes))
    }

    /// Whether the layouts have moved on since an operation was begun.
    fn moved_on(&self, known: &Known) -> bool {
        self.inner.keeper.look().as_ref().is_some_and(|now| !now.routes_like(known))
    }

    /// Whether this node's own copy is a vote in the layout that the read is counted in: judged as anybody's.
    fn judge_own_read(&self, located: &Located) -> Result<(), Fault> {
        let now = self.inner.keeper.look();
        let Some(now) = now.as_ref() else { return Err(Fault::Syncing) };
        let counted = [located.known.read_version()];
        let named = Named { sender: self.inner.me, newest: now.newest().version(), counted: &counted };
        let judged = now.judge_read(named, located.place.partition, &located.id.bucket);
        judged.map(|_| ()).map_err(|_| Fault::Syncing)
    }

    /// Asks a member that refused because of layouts what it knows; whoever refused because it is behind learns from
    /// this node instead.
    async fn learn_from(&self, store: StoreId) {
        if store == self.inner.me {
            return;
        }
        // Whatever it is that it knows: a layout, or how far others are.
        if let Err(why) = self.inner.keeper.catch_up(store, 0).await {
            debug!(%store, %why, "could not learn what a member that refuses knows");
        }
    }

    fn require(&self, located: &Located, level: Level) -> Result<Requirement, Error> {
        let wrong = |wrong: LevelError| Error::refused(ErrorCode::BadParameter, wrong.to_string());
        match broken::counted_in(&self.inner.env.buggify, located) {
            None => located.route.writes(level, &self.inner.region).map_err(wrong),
            Some(live) => requirement(level, &live, &self.inner.region).map_err(wrong),
        }
    }

    fn require_votes(&self, located: &Located, level: Level) -> Result<Requirement, Error> {
        let wrong = |wrong: LevelError| Error::refused(ErrorCode::BadParameter, wrong.to_string());
        if level == Level::Any {
            return Err(wrong(LevelError::AnyReads));
        }
        located.route.reads(level, &self.inner.region).map_err(wrong)
    }

    /// The layouts in which this node's own store may take a write now, by what it knows by now; none: it is no owner.
    fn judge_own_write(&self, located: &Located) -> Option<Vec<u64>> {
        let known = self.inner.keeper.known()?;
        let counted = known.live();
        let named = Named { sender: self.inner.me, newest: known.newest().version(), counted: &counted };
        known.judge_write(named, located.place.partition, &located.id.bucket).ok()
    }

    fn unavailable(&self, located: &Located, short: &Unavailable) -> Error {
        self.inner.metrics.quorum.unavailable.inc();
        let up = self.inner.peers.up();
        let states = located.stores().map(|store| (store, if up.is_up(store) { "up" } else { "down" }));
        let (newest, short_in) = (located.version(), short.layout());
        let older = match short_in {
            older if older < newest => format!(" in layout {older}, which counts until {newest} is complete"),
            _ => String::new(),
        };
        let Unavailable { live, required, n, .. } = short;
        let detail = format!("{live} of {n} replicas are up{older} and {required} are needed; nothing was sent");
        let mut error = self.later(Error::refused(ErrorCode::QuorumUnavailable, detail));
        error.required = u32::try_from(*required).ok();
        error.answered = Some(0);
        error.n = u32::try_from(*n).ok();
        error.layout = Some(short_in);
        error.replicas = located.reports(states);
        error
    }

    /// Enough owners are up, but too few of them have room for a new value.
    fn no_room(&self, located: &Located, short: &Unavailable) -> Error {
        let up = self.inner.peers.up();
        let full: Vec<String> = located
            .stores()
            .filter(|store| up.is_up(*store) && !self.takes(*store, true))
            .map(|store| located.name(store))
            .collect();
        let detail = format!(
            "{} of the {} replicas needed have room for a new value: the disk of {} is filled up to what it keeps back \
             for deletes; nothing was sent",
            short.live,
            short.required,
            full.join(", ")
        );
        let mut error = Error::refused(ErrorCode::DiskFull, detail);
        error.required = u32::try_from(short.required).ok();
        error.n = u32::try_from(short.n).ok();
        error.layout = Some(located.version());
        error
    }

    /// Whether an owner that is up takes a write; `grows`: one that brings a new value.
    fn takes(&self, store: StoreId, grows: bool) -> bool {
        if store != self.inner.me {
            return self.inner.peers.up().writes(store, grows);
        }
        let health = self.inner.replica.health();
        !(health.is_read_only() || grows && health.room().is_short())
    }

    /// Whether this node coordinates for the object: it owns a copy in a live layout, completely synced.
    fn is_synced_owner(&self, located: &Located) -> bool {
        located.known.coordinates(located.place.partition, &located.id.bucket)
            && self.inner.replica.health().is_synced(located.place.partition)
    }

    /// Whether this owner hands over what it could do itself. Only a simulation wants that.
    fn would_rather_not(&self, located: &Located) -> bool {
        let up = self.inner.peers.up();
        located.stores().any(|store| store != self.inner.me && up.is_up(store))
            && self.inner.env.buggify.at("an owner hands over")
    }

    fn claim(&self, id: RequestId) -> Result<Claim, Error> {
        let mut requests = self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.insert(id) {
            Ok(Claim { inner: Arc::clone(&self.inner), id })
        } else {
            let detail = "a request with this Idempotency-Key is under way here; repeat it once that has ended";
            Err(self.later(Error::refused(ErrorCode::IdempotencyInFlight, detail)))
        }
    }
}

/// Holds an Idempotency-Key while its request is under way.
struct Claim {
    inner: Arc<Inner>,
    id: RequestId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

fn left(deadline: Mono, now: Mono) -> Duration {
    deadline.since(now)
}

/// What a call without a reply says of the peer's vote.
fn no_vote_of(failed: &CallError) -> NoVote {
    match failed {
        CallError::TimedOut => NoVote::TimedOut,
        CallError::NotSent(_) | CallError::Lost(_) => NoVote::Unreachable,
        CallError::Rejected(_) | CallError::Busy(_) => NoVote::Refused,
    }
}

/// Whether a refusal is about layouts: this node, or the one that refuses, does not know the newest.
fn about_layouts(why: Refusal) -> bool {
    matches!(why, Refusal::Layout | Refusal::NotOwner)
}

/// What a refusal says of the peer's vote.
fn no_vote_of_refusal(why: Refusal) -> NoVote {
    match why {
        Refusal::Syncing => NoVote::Syncing,
        Refusal::Damaged | Refusal::ReadOnly => NoVote::Failed,
        _ => NoVote::Refused,
    }
}

/// What this node's own fault says of its vote.
fn no_vote_of_fault(fault: &Fault) -> NoVote {
    no_vote_of_refusal(fault.refusal())
}

/// A refusal before the mint, as the client is told.
fn refused(fault: &Fault) -> Error {
    let code = match fault {
        Fault::Damaged | Fault::HintUnreadable | Fault::Syncing => ErrorCode::ReplicasFailed,
        Fault::ReadOnly(_) => ErrorCode::ReadOnly,
        Fault::NoRoom => ErrorCode::DiskFull,
        Fault::HintsFull => ErrorCode::HintsFull,
        Fault::Overloaded => ErrorCode::Overloaded,
        Fault::Stopping => ErrorCode::NotServing,
        Fault::Barred(crate::replica::Bar::ClockDrift) => ErrorCode::ClockDrift,
        Fault::Barred(crate::replica::Bar::DiskFailed) => ErrorCode::ReadOnly,
        Fault::Barred(_) => ErrorCode::NotServing,
        Fault::TooLate => ErrorCode::WriteTimeout,
        Fault::Malformed(_) | Fault::TooOld(_) => ErrorCode::Internal,
        Fault::EndOfTime => ErrorCode::BadContext,
        Fault::IdempotencyReused => ErrorCode::IdempotencyReused,
        Fault::TooManySiblings { .. } => ErrorCode::TooManySiblings,
        Fault::ObjectTooLarge { .. } => ErrorCode::ObjectTooLarge,
    };
    let detail = match fault {
        Fault::TooManySiblings { siblings } => format!(
            "the object has {siblings} siblings, the most it may have, and a blind write would add one; read it, send \
             the context it gives, and the write replaces what was read"
        ),
        other => other.to_string(),
    };
    Error::new(code, Outcome::NotApplied, detail)
}
