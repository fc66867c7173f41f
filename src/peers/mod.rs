//! The other nodes: links, heartbeats, who is up, and what is done with what they send.
//!
//! Down is an opinion: it changes where requests go, never who owns what. It is formed from *direct* heartbeats alone: a
//! round trip of this node's own (indirect ones hide asymmetric links, scylla#8488). How long a silence is too long is
//! [`membership::FailureDetector`](crate::membership::FailureDetector)'s to say; a refused connection makes a peer
//! suspect at once; after a stall of its own a node judges nobody until it has caught up.
//!
//! What others know is published as a snapshot ([`UpSet`]) behind an atomic pointer. Inbound requests are handed to the
//! services that `node/` registered, so this room names none.
//!
//! Bounds: one heartbeat task, one latency window and 128 remembered intervals per member; the transport bounds what is
//! in flight.

mod clocks;
mod heartbeat;
mod recall;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, watch};

use crate::env::{BoxFuture, Env};
use crate::membership::{FailureDetector, PhiRules};
use crate::metrics::Metrics;
use crate::pacing::LatencyWindow;
use crate::replica::{Bar, Replica};
use crate::ring::{Chain, Member};
use crate::storage::StorageError;
use crate::transport::messages::{Ask, Heartbeat, Recalled, Refusal, Reply, Request, Tell};
use crate::transport::{CallError, Handler, Hello, Stranger, Transport};
use crate::types::{Mono, StoreId};

pub use recall::ASK_FOR;
pub use seen::{Seen, Sight};

/// How often a heartbeat is sent.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(250);

/// What a peer says of itself with every heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerMood {
    /// It coordinates no writes.
    pub mints_not: bool,
    /// Its disk failed or is full.
    pub read_only: bool,
    /// It is stopping: it takes no new work.
    pub draining: bool,
    /// Its seeds name nobody else: wiped, it would found a cluster of its own.
    pub seedless: bool,
    /// Its disk is filled up to its reserve: no new values.
    pub deletes_only: bool,
    /// It does not hold everything it owns: partitions of it are in doubt.
    pub in_doubt: bool,
    /// Some of its background workers were told to pause.
    pub pauses: bool,
    /// Its store has no voice in the decision on the next layout.
    pub silent: bool,
    /// It answers clients: what gives way to them does.
    pub busy: bool,
    /// As many hints wait there as may: it stands in for nobody.
    pub hints_full: bool,
    /// Hints wait there for whomever it says so to.
    pub owes: bool,
    /// Others have hints for it: it is being sent what it missed.
    pub catching_up: bool,
}

impl PeerMood {
    fn bits(self) -> u32 {
        u32::from(self.mints_not)
            | u32::from(self.read_only) << 1
            | u32::from(self.draining) << 2
            | u32::from(self.seedless) << 3
            | u32::from(self.deletes_only) << 4
            | u32::from(self.in_doubt) << 5
            | u32::from(self.pauses) << 6
            | u32::from(self.silent) << 7
            | u32::from(self.busy) << 8
            | u32::from(self.hints_full) << 9
            | u32::from(self.owes) << 10
            | u32::from(self.catching_up) << 11
    }

    fn from_bits(bits: u32) -> Self {
        Self {
            mints_not: bits & 1 != 0,
            read_only: bits & 2 != 0,
            draining: bits & 4 != 0,
            seedless: bits & 8 != 0,
            deletes_only: bits & 16 != 0,
            in_doubt: bits & 32 != 0,
            pauses: bits & 64 != 0,
            silent: bits & 128 != 0,
            busy: bits & 256 != 0,
            hints_full: bits & 512 != 0,
            owes: bits & 1024 != 0,
            catching_up: bits & 2048 != 0,
        }
    }
}

/// One member, as this node sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStatus {
    /// Whether requests are sent to it.
    pub up: bool,
    /// Since when, by this node's monotonic clock.
    pub since: Mono,
    /// What it said of itself.
    pub mood: PeerMood,
    /// What it called itself when it last answered.
    pub hello: Option<Arc<Hello>>,
    /// Why it is down, for people.
    pub why: String,
}

/// A member that knows a newer layout than this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ahead {
    /// The member.
    pub store: StoreId,
    /// The newest layout's version.
    pub head: u64,
}

/// Who is up: an immutable snapshot.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct UpSet {
    peers: BTreeMap<StoreId, PeerStatus>,
}

impl UpSet {
    /// Whether requests are sent to this member. A node is always up to itself.
    #[must_use]
    pub fn is_up(&self, store: StoreId) -> bool {
        self.peers.get(&store).is_some_and(|peer| peer.up)
    }

    /// Whether it is up and takes writes to coordinate.
    #[must_use]
    pub fn mints(&self, store: StoreId) -> bool {
        self.peers.get(&store).is_some_and(|peer| peer.up && !peer.mood.mints_not && !peer.mood.draining)
    }

    /// Whether it is up and can take a write; `grows`: one that brings a new value.
    #[must_use]
    pub fn writes(&self, store: StoreId, grows: bool) -> bool {
        let takes = |mood: PeerMood| !(mood.read_only || grows && mood.deletes_only);
        self.peers.get(&store).is_some_and(|peer| peer.up && takes(peer.mood))
    }

    /// Whether it is up and may stand in for an owner of a write; `grows`: one that brings a new value.
    #[must_use]
    pub fn stands_in(&self, store: StoreId, grows: bool) -> bool {
        self.writes(store, grows) && self.get(store).is_some_and(|peer| !peer.mood.hints_full && !peer.mood.draining)
    }

    /// What is known of a member.
    #[must_use]
    pub fn get(&self, store: StoreId) -> Option<&PeerStatus> {
        self.peers.get(&store)
    }
}

/// Answers what peers ask.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn serve(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply>;
}

/// The other nodes.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    transport: Arc<dyn Transport>,
    replica: Replica,
    hello: ArcSwap<Hello>,
    introducing: Mutex<()>,
    chain: ArcSwapOption<Chain>,
    /// The members that get heartbeats, and where.
    beating: Mutex<BTreeMap<StoreId, String>>,
    /// Whether members get heartbeats at all: not before this node knows who it is.
    watching: AtomicBool,
    /// The member that knows the newest layout, where that is newer than this node's.
    ahead: watch::Sender<Option<Ahead>>,
    up: ArcSwap<UpSet>,
    changes: watch::Sender<u64>,
    /// Held while `up` is changed by what it says, so that the two never part.
    detector: Mutex<FailureDetector>,
    latencies: Mutex<BTreeMap<StoreId, LatencyWindow>>,
    clocks: Mutex<clocks::Clocks>,
    seen: Seen,
    mood: ArcSwap<PeerMood>,
    /// Members that refuse this node.
    refusing: Mutex<BTreeSet<StoreId>>,
    /// Members whose process was no member yet when it was asked. The first heartbeat of one says that it is, and that
    /// it is to be asked again.
    outside: Mutex<BTreeSet<StoreId>>,
    come_in: Notify,
    /// The member of another cluster that called last.
    stranger: watch::Sender<Option<Stranger>>,
    metrics: Arc<Metrics>,
    services: ArcSwapOption<Services>,
}

/// Who answers what.
#[derive(Clone)]
pub struct Services {
    /// Founding, layouts, decisions.
    pub cluster: Arc<dyn Service>,
    /// What the nodes say of themselves.
    pub gossip: Arc<dyn Service>,
    /// Everything about data.
    pub data: Arc<dyn Service>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("hello", &self.hello()).finish_non_exhaustive()
    }
}

impl Peers {
    /// Peers of a node that calls itself `hello`. Nothing is sent or answered before [`Peers::open`].
    pub fn new(
        env: &Env,
        transport: Arc<dyn Transport>,
        replica: Replica,
        hello: Hello,
        metrics: Arc<Metrics>,
        max_clock_drift: Duration,
    ) -> Result<Self, StorageError> {
        let seen = Seen::load(&replica)?;
        let inner = Inner {
            env: env.clone(),
            transport,
            replica,
            hello: ArcSwap::from_pointee(hello),
            introducing: Mutex::default(),
            chain: ArcSwapOption::empty(),
            beating: Mutex::default(),
            watching: AtomicBool::new(false),
            ahead: watch::channel(None).0,
            up: ArcSwap::default(),
            changes: watch::channel(0).0,
            detector: Mutex::new(FailureDetector::new(PhiRules { every: HEARTBEAT_EVERY, ..PhiRules::default() })),
            latencies: Mutex::default(),
            clocks: Mutex::new(clocks::Clocks::new(max_clock_drift)),
            seen,
            mood: ArcSwap::default(),
            metrics,
            refusing: Mutex::default(),
            outside: Mutex::default(),
            come_in: Notify::new(),
            stranger: watch::channel(None).0,
            services: ArcSwapOption::empty(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Registers who answers, and begins to listen.
    pub fn open(&self, services: Services) {
        self.inner.services.store(Some(Arc::new(services)));
        self.serve();
    }

    /// Answers nobody any more, and lets go of the services.
    pub fn close(&self) {
        self.inner.services.store(None);
    }

    /// What this node calls itself.
    #[must_use]
    pub fn hello(&self) -> Arc<Hello> {
        self.inner.hello.load_full()
    }

    /// Changes what this node calls itself: a cluster was founded, an incarnation or generation is new.
    pub fn introduce(&self, change: impl FnOnce(&mut Hello)) {
        let _one_at_a_time = self.inner.introducing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hello = (*self.hello()).clone();
        change(&mut hello);
        self.inner.hello.store(Arc::new(hello));
        self.serve();
    }

    fn serve(&self) {
        self.inner.transport.serve((*self.hello()).clone(), Arc::new(self.clone()));
    }

    /// Takes the members of the live layouts for its peers: they can be called from here on. Those that come get
    /// heartbeats, those that have gone get no more.
    pub fn follow(&self, chain: Arc<Chain>) {
        self.inner.chain.store(Some(chain));
        if self.inner.watching.load(Ordering::Acquire) {
            self.beat_to_members();
        }
    }

    /// Begins to send heartbeats to the members: once this node knows who it is.
    pub fn watch_members(&self) {
        if self.inner.chain.load().is_none() || self.inner.watching.swap(true, Ordering::AcqRel) {
            return;
        }
        let (me, since, hello) = (self.hello().store, self.inner.env.clock.now(), Some(self.hello()));
        self.change(|up| {
            let (mood, hello) = (PeerMood::default(), hello.clone());
            up.peers.insert(me, PeerStatus { up: true, since, mood, hello, why: String::new() });
        });
        self.beat_to_members();
        heartbeat::judge(self);
        clocks::start(self);
    }

    /// Sends heartbeats to whoever is a member now, and to nobody else.
    fn beat_to_members(&self) {
        let Some(chain) = self.inner.chain.load_full() else { return };
        let me = self.hello().store;
        let members: BTreeMap<StoreId, String> =
            members_of(&chain).map(|member| (member.store, member.peer_address.clone())).collect();
        let since = self.inner.env.clock.now();
        let why = "not heard from since this node knows it";
        let mut beating = self.inner.beating.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(|up| {
            up.peers.retain(|store, _| *store == me || members.contains_key(store));
            for store in members.keys().filter(|store| **store != me) {
                let (mood, hello) = (PeerMood::default(), None);
                let unknown = || PeerStatus { up: false, since, mood, hello, why: why.into() };
                up.peers.entry(*store).or_insert_with(unknown);
            }
        });
        let gone: Vec<StoreId> = beating.keys().copied().filter(|store| !members.contains_key(store)).collect();
        for store in gone {
            beating.remove(&store);
            self.detector().forget(store);
            self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner).forget(store);
            self.inner.latencies.lock().unwrap_or_else(PoisonError::into_inner).remove(&store);
        }
        for (store, address) in members.into_iter().filter(|(store, _)| *store != me) {
            if beating.get(&store) != Some(&address) {
                beating.insert(store, address.clone());
                heartbeat::start(self, store, address);
            }
        }
    }

    /// Whether a member still gets heartbeats at this address.
    fn beats_to(&self, store: StoreId, address: &str) -> bool {
        let beating = self.inner.beating.lock().unwrap_or_else(PoisonError::into_inner);
        beating.get(&store).is_some_and(|known| known == address)
    }

    /// The version of the newest layout this node knows; 0 while it knows none.
    fn head(&self) -> u64 {
        self.inner.chain.load().as_ref().map_or(0, |chain| chain.newest().version())
    }

    /// Told of members that know a newer layout than this node.
    #[must_use]
    pub fn ahead(&self) -> watch::Receiver<Option<Ahead>> {
        self.inner.ahead.subscribe()
    }

    /// Notes the newest layout that somebody says it knows.
    fn note_head(&self, from: StoreId, head: u64) {
        if head <= self.head() {
            return;
        }
        self.inner.ahead.send_if_modified(|known| {
            let news = known.is_none_or(|known| known.head < head || known.head == head && known.store != from);
            if news {
                *known = Some(Ahead { store: from, head });
            }
            news
        });
    }

    /// Who is up.
    #[must_use]
    pub fn up(&self) -> Arc<UpSet> {
        self.inner.up.load_full()
    }

    /// How suspect a member is: how unlikely its silence would be if it lived, as a power of ten. None of one that gets
    /// no heartbeats.
    #[must_use]
    pub fn phi(&self, store: StoreId) -> Option<f64> {
        self.detector().phi(store, self.inner.env.clock.now())
    }

    fn detector(&self) -> MutexGuard<'_, FailureDetector> {
        self.inner.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever somebody comes or goes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Told of every member of another cluster that calls, and is refused.
    #[must_use]
    pub fn strangers(&self) -> watch::Receiver<Option<Stranger>> {
        self.inner.stranger.subscribe()
    }

    /// What was seen of other stores.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.inner.seen
    }

    /// What heartbeats say of this node.
    pub fn set_mood(&self, mood: PeerMood) {
        self.inner.mood.store(Arc::new(mood));
    }

    /// Whether clients are answered here, or by any member that is up.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.inner.mood.load().busy || self.up().peers.values().any(|peer| peer.up && peer.mood.busy)
    }

    /// Whether a member that is up has hints for this node: it sends them what was missed here.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.up().peers.values().any(|peer| peer.up && peer.mood.owes)
    }

    /// How far this node's clock is from the members' median, and whether that is too far.
    #[must_use]
    pub fn clock_offset(&self) -> Option<(i64, bool)> {
        self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner).verdict()
    }

    /// The 95th percentile of a member's recent answers.
    #[must_use]
    pub fn p95(&self, store: StoreId) -> Option<Duration> {
        let latencies = self.inner.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.get(&store).and_then(LatencyWindow::p95)
    }

    /// The median of a member's recent answers.
    #[must_use]
    pub fn median(&self, store: StoreId) -> Option<Duration> {
        let latencies = self.inner.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.get(&store).and_then(LatencyWindow::median)
    }

    /// Asks whoever listens at `address`: before there is a cluster, or to check on a member.
    pub fn ask(
        &self,
        address: &str,
        ask: Ask,
        budget: Duration,
    ) -> BoxFuture<'static, Result<crate::transport::Answer, CallError>> {
        self.ask_store(address, None, ask, budget)
    }

    /// Asks whoever listens at `address`, if it is this store; outside any quorum, and not as an answer to measure.
    pub fn ask_store(
        &self,
        address: &str,
        expect: Option<StoreId>,
        ask: Ask,
        budget: Duration,
    ) -> BoxFuture<'static, Result<crate::transport::Answer, CallError>> {
        self.inner.transport.call(address, expect, Request::new(ask), budget)
    }

    /// Asks a member, within a quorum that is counted in layout `counted`.
    ///
    /// The future sends once it is first polled; whoever must not stop half way spawns it.
    pub fn call(
        &self,
        store: StoreId,
        ask: Ask,
        counted: u64,
        budget: Duration,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + use<> {
        self.call_in(store, ask, counted, Vec::new(), budget)
    }

    /// Asks a member, within a quorum that is counted in layout `counted` and in these as `well`.
    pub fn call_in(
        &self,
        store: StoreId,
        ask: Ask,
        counted: u64,
        also: Vec<u64>,
        budget: Duration,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + use<> {
        // What waits there, or reads much, says nothing of how long the way is.
        let waits = matches!(ask, Ask::Settle(_) | Ask::List(_));
        let this = self.clone();
        async move {
            let called = {
                let chain = this.inner.chain.load();
                let Some(chain) = chain.as_ref() else {
                    return Err(CallError::NotSent("this node is in no cluster yet".into()));
                };
                let Some(member) = member_of(chain, store) else {
                    return Err(CallError::NotSent("it is not a member".into()));
                };
                let budget_us = u64::try_from(budget.as_micros()).unwrap_or(u64::MAX);
                let request = Request { head: chain.newest().version(), counted, also, budget_us, ask: Some(ask) };
                this.inner.metrics.transport.calls.inc();
                this.inner.transport.call(&member.peer_address, Some(store), request, budget)
            };
            let sent = this.inner.env.clock.now();
            let answer = called.await;
            let now = this.inner.env.clock.now();
            if answer.is_err() {
                this.inner.metrics.transport.call_failures.inc();
            }
            answer.map(|answer| {
                if !waits {
                    this.note_latency(store, now.since(sent));
                }
                this.note_head(store, answer.reply.head);
                answer.reply
            })
        }
    }

    fn note_latency(&self, store: StoreId, took: Duration) {
        let mut latencies = self.inner.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.entry(store).or_default().record(took);
    }

    /// Changes the snapshot of who is up.
    fn change(&self, change: impl Fn(&mut UpSet)) {
        self.inner.up.rcu(|up| {
            let mut up = (**up).clone();
            change(&mut up);
            up
        });
        let up = self.up().peers.values().filter(|peer| peer.up).count();
        self.inner.metrics.peers.up.set(i64::try_from(up).unwrap_or(i64::MAX));
        self.inner.changes.send_modify(|count| *count += 1);
    }
}

impl Handler for Peers {
    fn admit(&self, peer: &Hello) -> Result<(), String> {
        let me = self.hello();
        if peer.store == me.store {
            return Err(format!(
                "store {} is this node's own ({}): the data directory of {} is a copy of it; empty that directory and \
                 start again, then it enters as a new node",
                peer.store, me.peer_address, peer.peer_address
            ));
        }
        let Some(chain) = self.inner.chain.load_full() else { return Ok(()) };
        let Some(member) = member_of(&chain, peer.store) else { return Ok(()) };
        if member.peer_address != peer.peer_address {
            return Err(format!(
                "store {} is the member {} at {}, and the process that calls advertises {}: a copied data directory is \
                 to be emptied before it is started; a moved node is to advertise its old address",
                peer.store, member.name, member.peer_address, peer.peer_address
            ));
        }
        if let Some(status) = self.up().get(peer.store)
            && let Some(known) = &status.hello
            && status.up
            && known.boot != peer.boot
            && self.inner.seen.answered_lately(peer.store, known.boot, self.inner.env.clock.now())
        {
            return Err(format!("another process answers under the store id {} of {}", peer.store, member.name));
        }
        Ok(())
    }

    fn lists(&self, address: &str) -> bool {
        let chain = self.inner.chain.load();
        chain.as_ref().is_some_and(|chain| members_of(chain).any(|member| member.peer_address == address))
    }

    fn overhear(&self, stranger: &Stranger) {
        self.inner.stranger.send_replace(Some(stranger.clone()));
    }

    fn handle(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        if self.inner.chain.load().as_ref().is_some_and(|chain| member_of(chain, from.store).is_some()) {
            self.note_head(from.store, request.head);
        }
        let Some(services) = self.inner.services.load_full() else {
            return Box::pin(async { Reply::refused(Refusal::Stopping, "this node is stopping") });
        };
        let reply: BoxFuture<'static, Reply> = match &request.ask {
            Some(Ask::Heartbeat(theirs)) => {
                let (this, progress) = (self.clone(), theirs.progress);
                let beat = self.beat(from.store);
                if this.inner.outside.lock().unwrap_or_else(PoisonError::into_inner).remove(&from.store) {
                    this.inner.come_in.notify_waiters();
                }
                if this.inner.seen.is_news(&from, progress) {
                    // Beside the answer: a slow disk here must not make this node look dead.
                    let tasks = this.inner.env.tasks.clone();
                    tasks.spawn(async move {
                        // A disk that fails says so elsewhere; the next heartbeat tells it again.
                        let _ = this.inner.seen.note_progress(&this.inner.replica, &from, progress).await;
                    });
                }
                Box::pin(async move { Reply::new(Tell::Alive(beat)) })
            }
            // A process that waits outside, or was let go, has no word on who belongs to the cluster: a copied directory
            // would take its answer for a member's that lets it in.
            Some(Ask::Recall(_)) if !self.is_member() => {
                Box::pin(async { Reply::refused(Refusal::NotOwner, "this process is no member of the cluster") })
            }
            Some(Ask::Recall(recall)) => {
                let (this, remember) = (self.clone(), recall.remember);
                Box::pin(async move { this.recall(&from, remember).await })
            }
            Some(Ask::Probe(_) | Ask::Layouts(_) | Ask::Decide(_) | Ask::Renounce(_)) => {
                services.cluster.serve(from, request)
            }
            Some(Ask::Gossip(_) | Ask::Buckets(_)) => services.gossip.serve(from, request),
            Some(_) => services.data.serve(from, request),
            None => Box::pin(async { Reply::refused(Refusal::Unknown, "this node does not know that request") }),
        };
        let this = self.clone();
        Box::pin(async move {
            let mut reply = reply.await;
            // What it knows by now: an answer to what it was behind for shows that it has caught up.
            reply.head = this.head();
            reply
        })
    }
}

/// The members of the layouts that `chain` holds live, the newest's first, but for those that have ended.
fn members_of(chain: &Chain) -> impl Iterator<Item = &Member> {
    let live = chain.live().iter().rev().flat_map(|layout| layout.members());
    let mut seen = BTreeSet::new();
    live.filter(move |member| !chain.ended().contains(&member.store) && seen.insert(member.store))
}

/// The member with this store, as the newest layout that lists it says; none if it has ended.
fn member_of(chain: &Chain, store: StoreId) -> Option<&Member> {
    let newest = chain.newest();
    if let Some(index) = newest.member_by_store(store) {
        return Some(newest.member(index));
    }
    members_of(chain).find(|member| member.store == store)
}

impl Peers {
    fn is_member(&self) -> bool {
        let me = self.hello().store;
        self.inner.chain.load().as_ref().is_some_and(|chain| member_of(chain, me).is_some())
    }

    fn beat(&self, to: StoreId) -> Heartbeat {
        let owes = self.inner.replica.hints().waiting(to).is_some();
        Heartbeat {
            wall_ms: self.inner.env.clock.wall().0,
            state: PeerMood { owes, ..**self.inner.mood.load() }.bits(),
            progress: self.inner.replica.identity().progress(),
        }
    }

    /// Notes whether a member refuses this node. Refused by one and taken in by nobody, it neither votes nor mints.
    fn note_refusal(&self, store: StoreId, refuses: bool) {
        let mut refusing = self.inner.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        if refuses {
            refusing.insert(store);
        } else {
            refusing.clear();
        }
        let me = self.hello().store;
        let alone = !self.up().peers.iter().any(|(other, peer)| peer.up && *other != me);
        let identity = self.inner.replica.identity();
        if !refusing.is_empty() && alone {
            identity.bar(Bar::Impostor);
        } else {
            identity.lift(Bar::Impostor);
        }
    }

    /// Tells a node what was seen of its store, and remembers what it is now where it asks for that.
    async fn recall(&self, from: &Hello, remember: bool) -> Reply {
        let before = self.inner.seen.get(from.store);
        let noted = remember && self.inner.seen.note(&self.inner.replica, from).await.is_ok();
        let now = self.inner.seen.get(from.store).unwrap_or_default();
        let kept = noted && (now.generation, now.boot) == (from.generation, from.boot);
        let known = before.is_some_and(|sight| sight.generation > 0);
        let Sight { generation, boot, progress } = before.unwrap_or_default();
        Reply::new(Tell::Recalled(Recalled { known, generation, boot, progress, kept }))
    }
}
