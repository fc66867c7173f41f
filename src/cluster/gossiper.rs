//! The shell around gossip: owns this node's view, speaks for it, opens exchanges and answers those of others.
//!
//! What is to be said, believed and proven is `membership`'s to decide. This file says what this node is ([`Said`])
//! whenever that has changed, gossips about every second with a few others, publishes what was heard as a snapshot
//! ([`Heard`]) behind an atomic pointer, and acts on events: a proof that this directory went back, or was copied, is
//! acted on exactly as one that a peer remembers ([`Peers::went_back`]).
//!
//! The view is behind a mutex that is held for a look or a change, never across an await. It begins once this node
//! knows who it is; before that everybody is refused.
//!
//! Bounds: those of `membership`; at most `FANOUT` and two exchanges under way that this node opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use prost::Message as _;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, error, warn};

use super::said::{DiskState, Head, Said, in_steps};
use super::{BucketKeeper, LayoutKeeper};
use crate::env::{BoxFuture, Env};
use crate::membership::{Delta, Digest, Event, Life, Push, View, ViewHash, choose};
use crate::metrics::Metrics;
use crate::peers::{Peers, Service};
use crate::replica::{Bar, Fault, Replica};
use crate::ring::{Layout, Tracker};
use crate::transport::messages::gossip::{BadGossip, Gossip, GossipAsk, GossipTell, Gossiped, hash};
use crate::transport::messages::{Ask, Refusal, Reply, Request, Tell};
use crate::transport::{CallError, Hello};
use crate::types::{NodeId, StoreId, Wall};

/// How many live nodes an exchange is opened with in a round.
const FANOUT: usize = 3;
/// Between two rounds, give or take a half: so that nodes that started at once do not gossip in step.
const EVERY: Duration = Duration::from_secs(1);
/// Between two rounds at least, whatever the news.
const AT_LEAST: Duration = Duration::from_millis(100);
/// How long one message of an exchange may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Between two tries to act on a proof while the storage threads are busy.
const AGAIN: Duration = Duration::from_millis(100);

/// What a node said of itself, and when in its life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The life it said it in.
    pub life: Life,
    /// Counts its changes.
    pub version: u64,
    /// What it said.
    pub said: Said,
}

/// What is known of all nodes: an immutable snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// Equal where all is equal; none before this node gossips.
    pub hash: Option<ViewHash>,
    /// Who is known, this node included.
    pub nodes: BTreeMap<NodeId, Arc<About>>,
}

impl Heard {
    /// What a node said of itself.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<&Said> {
        self.nodes.get(&node).map(|about| &about.said)
    }

    /// The snapshot of a view; what has not changed since `before` is shared with it.
    fn next(before: &Self, view: &View) -> Self {
        let about = |(node, state): (NodeId, &crate::membership::State)| {
            let (life, version) = (state.life(), state.version());
            let known = before.nodes.get(&node).filter(|known| (known.life, known.version) == (life, version));
            let about = known.map_or_else(|| Arc::new(About { life, version, said: Said::read(state) }), Arc::clone);
            (node, about)
        };
        Self { hash: Some(view.hash()), nodes: view.states().map(about).collect() }
    }
}

/// Why an exchange came to nothing.
#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Bad(#[from] BadGossip),
    #[error("it is not in this cluster")]
    Elsewhere,
}

/// Gossips.
#[derive(Clone)]
pub struct Gossiper {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    buckets: BucketKeeper,
    metrics: Arc<Metrics>,
    seeds: Vec<String>,
    started_at: Wall,
    view: Mutex<Option<View>>,
    heard: ArcSwap<Heard>,
    changes: watch::Sender<u64>,
    /// A proof against this directory is being acted on.
    raising: AtomicBool,
}

impl std::fmt::Debug for Gossiper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossiper").field("seeds", &self.inner.seeds).finish_non_exhaustive()
    }
}

impl Gossiper {
    /// A gossiper that refuses everybody until [`Gossiper::begin`].
    #[must_use]
    pub fn new(
        env: &Env,
        replica: Replica,
        peers: Peers,
        keeper: LayoutKeeper,
        buckets: BucketKeeper,
        metrics: Arc<Metrics>,
        seeds: Vec<String>,
    ) -> Self {
        let (view, heard, changes) = (Mutex::default(), ArcSwap::default(), watch::channel(0).0);
        let (env, started_at, raising) = (env.clone(), env.clock.wall(), AtomicBool::new(false));
        Self {
            inner: Arc::new(Inner {
                env,
                replica,
                peers,
                keeper,
                buckets,
                metrics,
                seeds,
                started_at,
                view,
                heard,
                changes,
                raising,
            }),
        }
    }

    /// Begins to gossip: once this node is a member and knows who it is.
    pub fn begin(&self) {
        let (this, identity) = (self.clone(), self.inner.replica.identity());
        let life = Life { generation: identity.generation(), boot: identity.boot() };
        let view = View::new(identity.node(), life, self.inner.env.clock.now());
        *self.inner.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
        let mut layouts = self.inner.keeper.changes();
        self.inner.env.tasks.spawn(async move {
            loop {
                this.round().await;
                // Who has news of layouts does not wait for the next round.
                let micros = u64::try_from(EVERY.as_micros()).unwrap_or(u64::MAX);
                let jitter = Duration::from_micros(this.inner.env.entropy.below(micros));
                let clock = &this.inner.env.clock;
                clock.sleep(AT_LEAST).await;
                tokio::select! {
                    biased;
                    _ = layouts.changed() => {}
                    () = clock.sleep(EVERY / 2 - AT_LEAST + jitter) => {}
                }
                layouts.mark_unchanged();
            }
        });
    }

    /// What is known of all nodes.
    #[must_use]
    pub fn heard(&self) -> Arc<Heard> {
        self.inner.heard.load_full()
    }

    /// Told whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Looks at the view, or changes it; what has changed is published before anybody else looks. None before the
    /// node gossips.
    fn with<T>(&self, what: impl FnOnce(&mut View) -> T) -> Option<T> {
        let mut view = self.inner.view.lock().unwrap_or_else(PoisonError::into_inner);
        let view = view.as_mut()?;
        let result = what(view);
        let before = self.inner.heard.load();
        if before.hash != Some(view.hash()) {
            self.inner.heard.store(Arc::new(Heard::next(&before, view)));
            self.inner.metrics.gossip.nodes.set(i64::try_from(view.states().len()).unwrap_or(i64::MAX));
            self.inner.changes.send_modify(|count| *count += 1);
        }
        Some(result)
    }

    /// Says what this node is, as far as that has changed.
    fn say(&self) {
        let values = self.myself().values();
        let generation = self.inner.replica.identity().generation();
        let _begun = self.with(|view| {
            // Flushed already; peers may have had the proof before gossip did.
            view.reborn(generation);
            for (name, value) in values {
                if let Err(unset) = view.set(name.clone(), value) {
                    warn!(name = name.as_str(), %unset, "this node cannot say what it is");
                }
            }
        });
    }

    fn myself(&self) -> Said {
        let Inner { replica, peers, keeper, started_at, .. } = &*self.inner;
        let (hello, health, known) = (peers.hello(), replica.health(), keeper.known());
        let disk = match () {
            () if health.is_read_only() => DiskState::ReadOnly,
            () if health.room().is_short() => DiskState::DeletesOnly,
            () => DiskState::Ok,
        };
        Said {
            name: Some(hello.name.clone()),
            region: Some(hello.region.clone()),
            zone: Some(hello.zone.clone()),
            peer_address: Some(hello.peer_address.clone()),
            client_address: Some(hello.client_address.clone()),
            store: Some(hello.store),
            incarnation: Some(self.inner.replica.identity().incarnation()),
            head: known.as_ref().map(|known| Head::of(known.newest())),
            tracker: known.as_ref().map(|known| known.view().own().clone()),
            buckets: Some(self.inner.buckets.hash()),
            protocol: Some(hello.protocol),
            software: Some(env!("CARGO_PKG_VERSION").to_owned()),
            used_bytes: health.room().space().map(|(space, _)| in_steps(space.free, space.total)),
            disk: Some(disk),
            started_at: Some(*started_at),
        }
    }

    /// Gossips once, with a few.
    async fn round(&self) {
        let Inner { env, peers, keeper, metrics, seeds, .. } = &*self.inner;
        let Some(known) = keeper.known() else { return };
        self.say();
        let layouts = known.chain.live();
        let members: BTreeSet<NodeId> = layouts.iter().flat_map(Layout::members).map(|member| member.node).collect();
        let ended = known.chain.ended();
        let _forgotten = self.with(|view| view.keep(members, env.clock.now()));
        if layouts.len() > 1 {
            // Also what was heard of a member before this node knew the layout that lists it: nobody says it again.
            self.pass_on(self.heard().nodes.values().map(|about| &about.said));
        }
        let (me, up) = (peers.hello(), peers.up());
        let others = layouts.iter().flat_map(Layout::members);
        let others = others.filter(|member| member.store != me.store && !ended.contains(&member.store));
        let stores: BTreeMap<&str, StoreId> = others.map(|other| (&*other.peer_address, other.store)).collect();
        let (live, dead): (Vec<&str>, Vec<&str>) = stores.keys().copied().partition(|other| up.is_up(stores[*other]));
        let seeds: Vec<&str> = seeds.iter().map(String::as_str).filter(|seed| *seed != me.peer_address).collect();
        let roll = |most| usize::try_from(env.entropy.below(most as u64)).unwrap_or(0);
        let chosen = choose(&live, &dead, &seeds, FANOUT, roll);
        metrics.gossip.rounds.inc();
        let exchanges = chosen.into_iter().map(|address| {
            let expect = stores.get(address).copied();
            async move {
                if let Err(failed) = self.exchange(address, expect).await {
                    self.inner.metrics.gossip.failures.inc();
                    debug!(address, %failed, "gossip came to nothing");
                }
            }
        });
        join_all(exchanges).await;
    }

    async fn exchange(&self, address: &str, expect: Option<StoreId>) -> Result<(), Failed> {
        let Inner { env, metrics, .. } = &*self.inner;
        let Some(hash) = self.with(|view| view.hash()) else { return Ok(()) };
        metrics.gossip.exchanges.inc();
        let digest = match self.ask(address, expect, hash.into()).await? {
            GossipTell::Same(_) => {
                metrics.gossip.equal.inc();
                return Ok(());
            }
            GossipTell::Digest(digest) => Digest::try_from(&digest)?,
            GossipTell::Delta(_) => return Err(BadGossip::Nothing.into()),
        };
        let (roll, now) = (env.entropy.u64(), env.clock.now());
        let Some((push, events)) = self.with(|view| view.answer_digest(&digest, roll, now)) else { return Ok(()) };
        self.heed(events);
        let GossipTell::Delta(delta) = self.ask(address, expect, (&push).into()).await? else {
            return Err(BadGossip::Nothing.into());
        };
        let delta = Delta::try_from(&delta)?;
        self.heed(self.with(|view| view.apply(&delta, env.clock.now())).unwrap_or_default());
        Ok(())
    }

    async fn ask(&self, address: &str, expect: Option<StoreId>, gossip: Gossip) -> Result<GossipTell, Failed> {
        let Inner { peers, metrics, .. } = &*self.inner;
        metrics.gossip.bytes_sent.inc_by(gossip.encoded_len() as u64);
        let answer = peers.ask_store(address, expect, Ask::Gossip(gossip), ANSWER_WITHIN).await?;
        if answer.from.cluster != peers.hello().cluster {
            return Err(Failed::Elsewhere);
        }
        match answer.reply.tell {
            Some(Tell::Gossiped(gossiped)) => {
                metrics.gossip.bytes_received.inc_by(gossiped.encoded_len() as u64);
                gossiped.tell.ok_or(Failed::Bad(BadGossip::Nothing))
            }
            Some(Tell::Refused(refused)) => Err(Failed::Refused(refused.detail)),
            _ => Err(BadGossip::Nothing.into()),
        }
    }

    /// Answers one message of an exchange; none while this node does not gossip.
    fn answer(&self, gossip: &Gossip) -> Result<Option<Gossiped>, BadGossip> {
        let Inner { env, .. } = &*self.inner;
        let (roll, now) = (env.entropy.u64(), env.clock.now());
        match &gossip.ask {
            Some(GossipAsk::Hash(bytes)) => {
                let hash = hash(bytes)?;
                Ok(self.with(|view| view.answer_hash(hash, roll, now).as_ref().into()))
            }
            Some(GossipAsk::Push(push)) => {
                let push = Push::try_from(push)?;
                let Some((delta, events)) = self.with(|view| view.answer_push(&push, roll, now)) else {
                    return Ok(None);
                };
                self.heed(events);
                Ok(Some((&delta).into()))
            }
            None => Err(BadGossip::Nothing),
        }
    }

    /// Acts on what came to light.
    fn heed(&self, events: Vec<Event>) {
        let metrics = &self.inner.metrics.gossip;
        let mut changed = BTreeSet::new();
        for event in events {
            match event {
                Event::Changed(node) => {
                    metrics.changes.inc();
                    changed.insert(node);
                }
                Event::Removed(node) => warn!(%node, "a node was removed for good: its id is refused"),
                Event::Surpassed { heard, raise_to } => self.raise(heard, raise_to),
                Event::Twins { node, lives: [one, two] } => {
                    metrics.twins.inc();
                    error!(%node, ?one, ?two, "two processes are, or were, on copies of one data directory");
                }
                Event::Malformed(node) => {
                    metrics.malformed.inc();
                    warn!(%node, "gossip told of a node what no node says of itself: left out");
                }
            }
        }
        let heard = self.heard();
        self.pass_on(changed.into_iter().filter_map(|node| heard.of(node)));
    }

    /// Tells the layout keeper how far these follow the layouts.
    fn pass_on<'a>(&self, said: impl Iterator<Item = &'a Said>) {
        let trackers: Vec<(StoreId, Tracker)> =
            said.filter_map(|said| Some((said.store?, said.tracker.clone()?))).collect();
        if !trackers.is_empty() {
            let keeper = self.inner.keeper.clone();
            self.inner.env.tasks.spawn(async move { keeper.hear(trackers).await });
        }
    }

    /// Others have heard more of this node than it has said: its directory went back, or was copied. One proof is acted
    /// on at a time; another comes again with the next exchange. It mints nothing until it is another actor.
    fn raise(&self, heard: Life, raise_to: u64) {
        if self.inner.replica.health().is_read_only() || self.inner.raising.swap(true, Ordering::AcqRel) {
            return;
        }
        self.inner.replica.identity().bar(Bar::WentBack);
        let this = self.clone();
        self.inner.env.tasks.spawn(async move {
            let identity = this.inner.replica.identity();
            loop {
                if identity.generation() >= raise_to {
                    identity.lift(Bar::WentBack);
                    break;
                }
                match this.inner.peers.went_back(heard.generation, 0).await {
                    Ok(()) => break,
                    Err(Fault::Overloaded) => this.inner.env.clock.sleep(AGAIN).await,
                    Err(fault) => {
                        error!(%fault, "could not act on the proof of a rollback");
                        break;
                    }
                }
            }
            this.say();
            this.inner.raising.store(false, Ordering::Release);
        });
    }
}

impl Service for Gossiper {
    fn serve(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let this = self.clone();
        Box::pin(async move {
            let gossip = match request.ask {
                Some(Ask::Gossip(gossip)) => gossip,
                Some(Ask::Buckets(theirs)) => return this.inner.buckets.answer(&from, theirs).await,
                _ => return Reply::refused(Refusal::Unknown, "this node does not know that request"),
            };
            let metrics = &this.inner.metrics.gossip;
            metrics.bytes_received.inc_by(gossip.encoded_len() as u64);
            if from.cluster != this.inner.peers.hello().cluster {
                return Reply::refused(Refusal::NotOwner, "gossip stays within one cluster");
            }
            match this.answer(&gossip) {
                Ok(Some(gossiped)) => {
                    metrics.bytes_sent.inc_by(gossiped.encoded_len() as u64);
                    Reply::new(Tell::Gossiped(gossiped))
                }
                Ok(None) => Reply::refused(Refusal::NotOwner, "this node does not gossip yet"),
                Err(bad) => {
                    metrics.malformed.inc();
                    warn!(name = from.name, %bad, "gossip that is beyond its bounds: refused");
                    Reply::refused(Refusal::Malformed, bad.to_string())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::frame::HEADER_LEN;
    use crate::types::Mono;

    /// What it costs to know that there is no news: the same in every cluster.
    #[test]
    fn where_nothing_changes_gossip_costs_the_same_whatever_the_size() {
        let now = Mono(1);
        let mut costs = BTreeMap::new();
        for nodes in [10u64, 100, 1000] {
            let life = |node| Life { generation: 1, boot: node };
            let mut views = [0, 1].map(|node| View::new(NodeId::from_bits(node.into()), life(node), now));
            let nobody = Digest { scope: crate::membership::Scope::All, known: Vec::new(), removed: 0 };
            for node in 0..nodes {
                let mut its = View::new(NodeId::from_bits(node.into()), life(node), now);
                let said = Said { name: Some(format!("n{node}")), ..Said::default() };
                for (name, value) in said.values() {
                    assert_eq!(its.set(name.clone(), value.clone()), Ok(true));
                    if let Some(own) = views.get_mut(usize::try_from(node).unwrap()) {
                        assert_eq!(own.set(name, value), Ok(true));
                    }
                }
                let (push, _) = its.answer_digest(&nobody, 0, now);
                for view in &mut views {
                    assert!(view.apply(&push.delta, now).iter().all(|event| matches!(event, Event::Changed(_))));
                }
            }
            let [asks, answers] = &views;
            assert_eq!(asks.states().len() as u64, nodes);
            let digest = answers.answer_hash(asks.hash(), 0, now);
            assert_eq!(digest, None, "they know the same");
            let asked = Request::new(Ask::Gossip(asks.hash().into())).encoded_len() + HEADER_LEN;
            let told = Reply { head: 1, ..Reply::new(Tell::Gossiped(digest.as_ref().into())) };
            // As many exchanges are answered as are opened.
            costs.insert(nodes, FANOUT * (asked + told.encoded_len() + HEADER_LEN));
        }
        assert_eq!(costs, [10, 100, 1000].map(|nodes| (nodes, FIGURE)).into(), "bytes sent, per node and second");
    }

    /// The figure in `docs/performance.md`.
    const FIGURE: usize = 192;
}
