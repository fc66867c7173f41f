//! A node: the rooms put together, started, stopped; and the embedding API.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use quorate::kv::{Kv, ReadOptions, WriteOptions};
//! use quorate::node::Node;
//! use quorate::types::{Bucket, Key, ObjectId};
//!
//! let node = Node::builder().data_dir("./quorate-data").start().await?;
//! let id = ObjectId::new(Bucket::new("greetings")?, Key::new("hello")?);
//! node.put(id.clone(), "world".into(), WriteOptions::default()).await?;
//! let found = node.get(id, ReadOptions::default()).await?;
//! assert_eq!(found.siblings.len(), 1);
//! node.shutdown().await?;
//! # Ok(())
//! # }
//! ```

mod attention;
mod buckets;
mod builder;
mod config;
mod hints;
mod kv;
mod layout;
mod list;
mod repairs;
mod tombstones;
mod view;
mod workers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tracing::{error, info};

pub use builder::Builder;
pub use config::{ClusterConfig, Config, ConfigError, NodeConfig};

use crate::causality::TokenKeys;
use crate::cluster::{
    BucketKeeper, ClusterService, FoundingOptions, Gossiper, Heard, Joiners, LayoutKeeper, Standing, Steward,
};
use crate::coordinator::{Coordinator, DataService, Limits};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::peers::{PeerMood, Peers, Services};
use crate::repair::{
    self, AntiEntropy, HintOptions, Hints, Mending, Reaper, ReaperOptions, Repaired, Roster, Scope, Scrub,
    ScrubOptions, Transfers,
};
use crate::replica::{Bar, Fault, Identity, Replica, ReplicaOptions};
use crate::ring::founding::{Directory, Terms, seedless};
use crate::ring::{BucketSettings, Grid, Layout, Member};
use crate::storage::records::RecordCache;
use crate::storage::{Storage, StorageError};
use crate::transport::{Hello, Transport};
use crate::types::StoreId;

/// The protocol versions this build speaks: oldest, newest.
const PROTOCOL: (u16, u16) = (1, 1);
/// How often the node looks after itself: its mood, what it refuses.
const TEND_EVERY: Duration = Duration::from_millis(250);
/// So many operations of clients in that time are work that others give way to.
const BUSY: u64 = 8;
/// And for so long after, so that what the others know of this node does not change at every turn.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// What names and numbers take of an entry beside its object, at most: bucket, key, owner, dots.
const LARGEST_NAME: u64 = 2 << 10;

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error("the configuration is wrong: {0}")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Storage(#[from] StorageError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {problem}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        problem: String,
    },
}

/// A running node. Cheap to clone; all clones are one node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    config: Config,
    metrics: Arc<Metrics>,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    gossiper: Gossiper,
    buckets: BucketKeeper,
    coordinator: Coordinator,
    /// What works for this node once it is a member.
    workers: OnceLock<Workers>,
    /// Those that run in the background, to be seen and steered.
    roster: Roster,
    transport: Arc<dyn Transport>,
    keys: Mutex<Option<Arc<TokenKeys>>>,
    draining: AtomicBool,
    /// Whether it answered clients lately.
    busy: AtomicBool,
    joiners: Joiners,
    desk: Mutex<layout::Desk>,
    repairs: repairs::Repairs,
}

/// What works in the background for a member.
struct Workers {
    transfers: Transfers,
    entropy: AntiEntropy,
    hints: Hints,
    mending: Arc<Mending>,
    /// None where its report could not be read.
    scrub: Option<Scrub>,
    reaper: Reaper,
    steward: Steward,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.inner.config.node.name).finish_non_exhaustive()
    }
}

impl Node {
    /// A node to be configured and started.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a node on these adapters. Returns at once: founding, and the peers' word on who it was, come in the
    /// background ([`Node::wait_until_serving`]).
    pub async fn start_on(
        env: Env,
        config: Config,
        storage: Arc<dyn Storage>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let metrics = Arc::new(Metrics::new());
        let Config { cluster, node } = &config;
        let storage: Arc<dyn Storage> = match node.record_cache {
            0 => storage,
            bytes => Arc::new(RecordCache::new(storage, bytes, env.entropy.u64(), &metrics)),
        };
        let identity = Arc::new(Identity::open(Arc::clone(&storage), &env)?);
        let options = ReplicaOptions {
            durability: node.durability,
            threads: node.storage_threads,
            partitions: cluster.partitions,
            machine_boot: node.machine_boot.clone(),
            reserve: node.disk_reserve,
            max_clock_drift: cluster.max_clock_drift,
            idempotency_window: cluster.idempotency_window,
            max_hint_bytes: node.max_hint_bytes as u64,
            // And its names.
            max_object: node.max_object as u64 + LARGEST_NAME,
        };
        let replica = Replica::start(&env, storage, Arc::clone(&identity), &metrics, &options)?;
        let hello = Hello {
            node: identity.node(),
            store: identity.store(),
            cluster: None,
            incarnation: identity.incarnation(),
            generation: identity.generation(),
            boot: identity.boot(),
            name: node.name.clone(),
            region: node.region.clone(),
            zone: node.zone.clone(),
            peer_address: node.peer_address.clone(),
            client_address: node.client_address.clone(),
            protocol: PROTOCOL,
            settings: config.cluster_settings(),
            defaults: config.cluster_defaults(),
        };
        let drift = cluster.max_clock_drift;
        let peers = Peers::new(&env, Arc::clone(&transport), replica.clone(), hello, Arc::clone(&metrics), drift)?;
        let keeper = LayoutKeeper::new(&env, replica.clone(), peers.clone(), Arc::clone(&metrics));
        check_grid(&keeper, cluster.partitions)?;
        let limits = Limits { operations: node.max_operations, idempotency_window: cluster.idempotency_window };
        let (keeps, counts) = (keeper.clone(), Arc::clone(&metrics));
        let coordinator = Coordinator::new(&env, replica.clone(), peers.clone(), keeps, counts, limits);
        let founding = ClusterService::new(&env, peers.clone(), keeper.clone(), founding_options(&config, &identity));
        let data = Arc::new(DataService::new(coordinator.clone()));
        let buckets = BucketKeeper::load(&env, replica.clone(), peers.clone(), keeper.clone())?;
        let (seeds, keeps) = (node.seeds.clone(), (keeper.clone(), buckets.clone()));
        let gossiper =
            Gossiper::new(&env, replica.clone(), peers.clone(), keeps.0, keeps.1, Arc::clone(&metrics), seeds);
        let gossip = Arc::new(gossiper.clone());
        peers.open(Services { cluster: Arc::new(founding.clone()), gossip, data });
        let (keys, draining, busy) = (Mutex::new(None), AtomicBool::new(false), AtomicBool::new(false));
        let (joiners, desk, roster) = (founding.joiners().clone(), Mutex::default(), Roster::new(&env));
        let inner = Inner {
            env,
            config,
            metrics,
            replica,
            peers,
            keeper,
            gossiper,
            buckets,
            coordinator,
            workers: OnceLock::new(),
            roster,
            transport,
            keys,
            draining,
            busy,
            joiners,
            desk,
            repairs: Mutex::default(),
        };
        let this = Self { inner: Arc::new(inner) };
        let tasks = this.inner.env.tasks.clone();
        tasks.spawn(this.clone().begin(founding));
        tasks.spawn(this.clone().tend());
        tasks.spawn(this.clone().watch_the_disk());
        Ok(this)
    }

    /// Founds or finds the cluster, asks the members who this node was, then serves.
    async fn begin(self, founding: ClusterService) {
        let Some(layout) = founding.found().await else { return };
        let inner = &self.inner;
        let me = inner.replica.identity().store();
        self.make_keys(&layout);
        let others: Vec<StoreId> =
            layout.members().iter().map(|member| member.store).filter(|store| *store != me).collect();
        let mut refused = None;
        loop {
            match inner.peers.settle(&others, refused.clone()).await {
                Ok(None) => break,
                Ok(Some(why)) => {
                    refused = Some(why.clone());
                    // The one that answers may be this node's own last life, not yet given up by its peers.
                    inner.replica.identity().bar(Bar::Impostor);
                    inner.keeper.stand(Standing::Waiting(format!("a member refuses this node: {why}")));
                    inner.env.clock.sleep(TEND_EVERY).await;
                }
                Err(Fault::Overloaded) => inner.env.clock.sleep(TEND_EVERY).await,
                Err(fault) => {
                    error!(%fault, "this node does not serve");
                    return inner.keeper.stand(Standing::Refused(fault.to_string()));
                }
            }
        }
        inner.replica.identity().lift(Bar::Impostor);
        inner.peers.watch_members();
        inner.keeper.drive();
        inner.gossiper.begin();
        let gossiper = inner.gossiper.clone();
        inner.buckets.follow(move || gossiper.heard(), inner.gossiper.watch());
        let window = inner.config.cluster.idempotency_window;
        let Inner { env, keeper, replica, peers, metrics, config, roster, .. } = &**inner;
        let rate = config.node.transfer_rate as u64;
        let data = || (replica.clone(), peers.clone(), keeper.clone());
        let (copy, links, keeps) = data();
        let mending = repair::start(env, copy, links, keeps, window, roster);
        let (copy, links, keeps) = data();
        let transfers = Transfers::start(env, copy, links, keeps, Arc::clone(metrics), window, rate, roster);
        let (copy, links, keeps) = data();
        repair::clear_leftovers(env, copy, links, keeps, roster);
        let (copy, _, keeps) = data();
        if let Err(failed) = repair::start_purging(env, copy, keeps, Arc::clone(metrics), roster) {
            error!(%failed, "what is left of emptied buckets cannot be dropped: the disk cannot be read");
        }
        let (copy, _, keeps) = data();
        repair::start_expiry(env, copy, keeps, roster);
        let (copy, links, keeps) = data();
        let options = ReaperOptions {
            linger: config.node.collect_linger,
            idempotency_window: window,
            max_clock_drift: config.cluster.max_clock_drift,
        };
        let reaper = Reaper::start(env, copy, links, keeps, Arc::clone(metrics), options, roster);
        let (copy, links, keeps) = data();
        let (interval, rate) = (config.node.repair_interval, config.node.repair_rate as u64);
        let (counts, finishes) = (Arc::clone(metrics), reaper.clone());
        let entropy = AntiEntropy::start(env, copy, links, keeps, counts, window, interval, rate, finishes, roster);
        let (copy, links, keeps) = data();
        let options = HintOptions {
            window: config.node.hint_window,
            idempotency_window: config.cluster.idempotency_window,
            rate: config.node.hint_rate as u64,
        };
        let hints = Hints::start(env, copy, links, keeps, Arc::clone(metrics), options, roster);
        let (copy, _, keeps) = data();
        let options = ScrubOptions { interval: config.node.scrub_interval, rate: config.node.scrub_rate as u64 };
        let scrub = Scrub::start(env, copy, keeps, Arc::clone(metrics), options, roster)
            .inspect_err(|failed| error!(%failed, "what is stored here is not scrubbed: the disk cannot be read"))
            .ok();
        let joiners = founding.joiners().clone();
        let steward = Steward::start(env, keeper.clone(), peers.clone(), joiners, config.node.auto_join);
        // Once: a node begins once.
        let _ = inner.workers.set(Workers { transfers, entropy, hints, mending, scrub, reaper, steward });
        self.tell_mood();
        inner.keeper.stand(Standing::Serving);
        info!(name = inner.config.node.name, "serving");
    }

    /// Without a cluster secret the cluster id signs: it tells the tokens of one cluster from another's, no more.
    fn make_keys(&self, layout: &Layout) {
        let cluster = layout.cluster();
        let secrets: Vec<&[u8]> = match &self.inner.config.cluster.secrets[..] {
            [] => vec![&cluster.as_bytes()[..]],
            some => some.iter().map(|secret| &secret[..]).collect(),
        };
        let keys = Arc::new(TokenKeys::new(&secrets));
        *self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
    }

    /// Tells the peers how this node is.
    async fn tend(self) {
        let (mut answered, mut busy_until) = (0, self.inner.env.clock.now());
        loop {
            let (now, all) =
                (self.inner.env.clock.now(), self.inner.metrics.reads.all() + self.inner.metrics.writes.all());
            if all - answered >= BUSY {
                busy_until = now + BUSY_FOR;
            }
            answered = all;
            self.inner.busy.store(now < busy_until, Ordering::Release);
            self.tell_mood();
            self.watch_layouts();
            self.inner.env.clock.sleep(TEND_EVERY).await;
        }
    }

    /// Measures the room on the disk. Apart from the rest: a disk that hangs shall not silence the node.
    async fn watch_the_disk(self) {
        loop {
            self.inner.env.clock.sleep(TEND_EVERY).await;
            self.inner.replica.measure().await;
        }
    }

    fn tell_mood(&self) {
        let inner = &self.inner;
        let read_only = inner.replica.health().is_read_only();
        let draining = inner.draining.load(Ordering::Acquire);
        let mints_not = inner.replica.identity().barred().is_some();
        let Config { node, .. } = &inner.config;
        let seedless = seedless(&node.seeds, &node.peer_address);
        let deletes_only = inner.replica.health().room().is_short();
        let in_doubt = !inner.replica.health().unsynced().is_empty();
        let pauses = inner.roster.all().iter().any(repair::Worker::is_paused);
        let hints_full = inner.replica.hints().is_full();
        let (silent, busy) = (inner.keeper.is_silent(), inner.busy.load(Ordering::Acquire));
        // Whom this node itself has hints for is told to each by itself.
        let (owes, catching_up) = (false, inner.peers.is_owed());
        let mood = PeerMood {
            mints_not,
            read_only,
            draining,
            seedless,
            deletes_only,
            in_doubt,
            pauses,
            silent,
            busy,
            hints_full,
            owes,
            catching_up,
        };
        inner.peers.set_mood(mood);
    }

    /// Compares what this node holds with the other owners, now, and makes equal what differs. Nothing before it serves.
    pub async fn repair(&self, scope: Scope) -> Repaired {
        match self.inner.workers.get() {
            Some(workers) => workers.entropy.repair(scope).await,
            None => Repaired::default(),
        }
    }

    /// Waits until this node serves, or stays out for good; then says which.
    pub async fn wait_until_serving(&self) -> Standing {
        let mut standing = self.inner.keeper.watch();
        loop {
            let now = standing.borrow_and_update().clone();
            if matches!(now, Standing::Serving | Standing::Refused(_)) || standing.changed().await.is_err() {
                return now;
            }
        }
    }

    /// Where this node stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.inner.keeper.standing()
    }

    /// What this node counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// What this node was told.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The seams it runs on.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// This node's copy of the data.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.inner.replica
    }

    /// What the nodes say of themselves, as far as this one has heard.
    #[must_use]
    pub fn heard(&self) -> Arc<Heard> {
        self.inner.gossiper.heard()
    }

    /// What this node knows of layouts, and proposes; none is known before it is in a cluster.
    #[must_use]
    pub fn layouts(&self) -> &LayoutKeeper {
        &self.inner.keeper
    }

    /// What is being copied because of layouts; none before this node is a member.
    #[must_use]
    pub fn transfers(&self) -> Option<&Transfers> {
        self.inner.workers.get().map(|workers| &workers.transfers)
    }

    /// What is being sent to owners that missed it; none before this node is a member.
    #[must_use]
    pub fn hints(&self) -> Option<&Hints> {
        self.inner.workers.get().map(|workers| &workers.hints)
    }

    /// What reading everything stored here came to, the last time or so far; none before this node is a member.
    #[must_use]
    pub fn scrub_report(&self) -> Option<repair::Report> {
        self.inner.workers.get().and_then(|workers| workers.scrub.as_ref()).map(Scrub::report)
    }

    /// Who proposes what needs no operator; none before this node is a member.
    #[must_use]
    pub fn steward(&self) -> Option<&Steward> {
        self.inner.workers.get().map(|workers| &workers.steward)
    }

    /// The keys that tokens are signed with; none before the node is in a cluster.
    #[must_use]
    pub fn token_keys(&self) -> Option<Arc<TokenKeys>> {
        self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no new operations; those under way go on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.tell_mood();
    }

    /// Stops: takes no new operations, finishes those under way for at most `patience`, flushes, leaves the clean mark.
    pub async fn shutdown_within(&self, patience: Duration) -> Result<(), StorageError> {
        let inner = &self.inner;
        self.drain();
        let clock = Arc::clone(&inner.env.clock);
        let give_up = clock.now() + patience;
        while inner.coordinator.under_way() > 0 && clock.now() < give_up {
            clock.sleep(Duration::from_millis(5)).await;
        }
        inner.transport.shutdown().await;
        inner.peers.close();
        let flushed = inner.replica.shutdown(true).await;
        inner.env.tasks.shutdown().await;
        flushed
    }

    /// Stops, with the default patience of 30 s.
    pub async fn shutdown(&self) -> Result<(), StorageError> {
        self.shutdown_within(Duration::from_secs(30)).await
    }
}

/// Partitions are fixed when a cluster is founded: a directory of another grid cannot be served under this one.
fn check_grid(keeper: &LayoutKeeper, partitions: u32) -> Result<(), ConfigError> {
    match keeper.directory() {
        Ok(Directory::Ring(chain)) if chain.newest().grid().q() != partitions => {
            let founded_with = chain.newest().grid().q();
            let problem = format!("is {founded_with} for the cluster of this data directory, got {partitions}");
            Err(ConfigError::new("cluster.partitions", problem))
        }
        // What cannot be read is told by founding, which says how to go on.
        _ => Ok(()),
    }
}

fn founding_options(config: &Config, identity: &Identity) -> FoundingOptions {
    let Config { cluster, node } = config;
    let me = Member {
        node: identity.node(),
        store: identity.store(),
        name: node.name.clone(),
        region: node.region.clone(),
        zone: node.zone.clone(),
        weight: node.weight,
        peer_address: node.peer_address.clone(),
        client_address: node.client_address.clone(),
    };
    // `Config::check` has refused what is no grid.
    let grid = Grid::new(cluster.partitions).unwrap_or_default();
    let default_bucket = BucketSettings { n: cluster.n, ..BucketSettings::default() };
    let terms = Terms {
        cluster_name: cluster.name.clone(),
        grid,
        replicas_max: cluster.replicas_max,
        default_bucket,
        seeds: node.seeds.clone(),
        bootstrap_expect: node.bootstrap_expect,
    };
    FoundingOptions { me, terms, by_plan: !config.node.auto_join }
}
