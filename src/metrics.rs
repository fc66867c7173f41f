//! Metrics: one registry per node, never a process-global one (ten nodes in one process would share it).
//!
//! [`Metrics`] is grouped by the room that counts. Counting is cheap: an atomic add on a counter that was resolved when
//! the registry was made; a histogram takes one short lock. Names follow Prometheus: base units, `_total`; **a key is
//! never a label**. Counts that another room keeps anyway (transport, storage) are *set* from its snapshot just before
//! the text is made.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::quorum::Level;

/// A gauge that holds a fraction.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// Label words for levels: a number is `count`, so that a client cannot make series.
const LEVELS: [&str; 10] =
    ["one", "two", "three", "quorum", "all", "local_one", "local_quorum", "each_quorum", "any", "count"];
/// Label words for how an operation ended, in the order of [`Ended`].
const ENDINGS: [&str; 4] = ["ok", "not_found", "not_applied", "unknown"];
/// Label words for HTTP methods.
const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "POST", "other"];
/// Label words for HTTP status classes.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// How an operation ended, for counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ended {
    /// Done.
    Ok,
    /// A read that found nothing.
    NotFound,
    /// Refused: nothing was done. For a read: it has no answer.
    NotApplied,
    /// It may have been done.
    Unknown,
}

/// Label words for why a hint was dropped, in the order of [`Dropped`].
const DROPS: [&str; 6] = ["full", "no_room", "too_old", "gone", "purged", "unreadable"];

/// Why a hint was dropped, or not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dropped {
    /// As many wait as there may be.
    Full,
    /// The disk is filled up to its reserve.
    NoRoom,
    /// It waited longer than hints are kept.
    TooOld,
    /// This node does not hold the object any more.
    Gone,
    /// The object's bucket was emptied or deleted since.
    Purged,
    /// What is in its place cannot be read, and may be owed.
    Unreadable,
}

impl Dropped {
    /// Whether an owner lacks something because of it.
    #[must_use]
    pub const fn is_missed(self) -> bool {
        !matches!(self, Self::Purged)
    }
}

/// Everything one node counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The HTTP edge.
    pub http: HttpMetrics,
    /// Reads as coordinator.
    pub reads: OperationMetrics,
    /// Writes as coordinator, deletes included.
    pub writes: OperationMetrics,
    /// What quorums met with.
    pub quorum: QuorumMetrics,
    /// What became of session floors.
    pub sessions: SessionMetrics,
    /// Lists of keys.
    pub lists: ListMetrics,
    /// This node's own data.
    pub replica: ReplicaMetrics,
    /// Connections to peers.
    pub transport: TransportMetrics,
    /// What is known of the other nodes, and of this one's clock.
    pub peers: PeerMetrics,
    /// What the nodes tell each other about each other.
    pub gossip: GossipMetrics,
    /// Layouts, and what moves because of them.
    pub layout: LayoutMetrics,
    /// Replicas compared with each other.
    pub repair: RepairMetrics,
    /// Hints for owners that missed something.
    pub hints: HintMetrics,
    /// What is stored here, read again and recomputed.
    pub scrub: ScrubMetrics,
    /// Deletions, removed for good.
    pub collect: CollectMetrics,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OperationLabels {
    level: &'static str,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FloorLabels {
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("quorate");
        let build = Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") });
        registry.register("build", "The version that runs", build);
        let at = &mut registry;
        let (http, quorum) = (HttpMetrics::new(at), QuorumMetrics::new(at));
        let sessions = SessionMetrics::new(at);
        let reads = OperationMetrics::new(at, "read", "reads");
        let writes = OperationMetrics::new(at, "write", "writes and deletes");
        let (replica, transport, peers) = (ReplicaMetrics::new(at), TransportMetrics::new(at), PeerMetrics::new(at));
        let gossip = GossipMetrics::new(at);
        let (layout, repair, hints) = (LayoutMetrics::new(at), RepairMetrics::new(at), HintMetrics::new(at));
        let (scrub, collect, lists) = (ScrubMetrics::new(at), CollectMetrics::new(at), ListMetrics::new(at));
        Self {
            registry,
            http,
            reads,
            writes,
            quorum,
            sessions,
            lists,
            replica,
            transport,
            peers,
            gossip,
            layout,
            repair,
            hints,
            scrub,
            collect,
        }
    }

    /// Adds what a room keeps by itself; it is asked whenever the text is made. Before the node is shared.
    pub fn register(&mut self, collector: Box<dyn Collector>) {
        self.registry.register_collector(collector);
    }

    /// All of it in the OpenMetrics text format, which Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics have no text form");
        }
        text
    }
}

/// Sets a counter to what another room has counted.
pub fn set_counter(counter: &Counter, total: u64) {
    counter.inner().store(total, Ordering::Relaxed);
}

fn metric<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    metric(registry, name, help, Counter::default())
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    metric(registry, name, help, Gauge::default())
}

/// 50 microseconds to 26 seconds, doubling.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

/// 1 to 512, doubling.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 10))
}

fn level_index(level: Level) -> usize {
    match level {
        Level::One => 0,
        Level::Two => 1,
        Level::Three => 2,
        Level::Quorum => 3,
        Level::All => 4,
        Level::LocalOne => 5,
        Level::LocalQuorum => 6,
        Level::EachQuorum => 7,
        Level::Any => 8,
        Level::Count(_) => 9,
    }
}

/// Counts and latencies of one kind of operation.
#[derive(Debug)]
pub struct OperationMetrics {
    total: [[Counter; 4]; 10],
    latency: [Histogram; 10],
}

impl OperationMetrics {
    fn new(registry: &mut Registry, name: &str, what: &str) -> Self {
        let totals = Family::<OperationLabels, Counter>::default();
        let latencies = Family::<LevelLabels, Histogram>::new_with_constructor(seconds);
        registry.register(format!("{name}s"), format!("Coordinated {what}, by level and outcome"), totals.clone());
        let help = format!("Time that coordinated {what} took");
        registry.register(format!("{name}_duration_seconds"), help, latencies.clone());
        Self {
            total: LEVELS
                .map(|level| ENDINGS.map(|outcome| totals.get_or_create_owned(&OperationLabels { level, outcome }))),
            latency: LEVELS.map(|level| latencies.get_or_create_owned(&LevelLabels { level })),
        }
    }

    /// Counts one operation.
    pub fn record(&self, level: Level, ended: Ended, time: Duration) {
        let level = level_index(level);
        self.total[level][ended as usize].inc();
        self.latency[level].observe(time.as_secs_f64());
    }

    /// How many have ended.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.total.iter().flatten().map(Counter::get).sum()
    }

    /// How many have ended so.
    #[must_use]
    pub fn count(&self, level: Level, ended: Ended) -> u64 {
        self.total[level_index(level)][ended as usize].get()
    }
}

/// What became of session floors, each time that owners were asked, or this node's own copy was looked at.
#[derive(Debug)]
pub struct SessionMetrics {
    /// Met by what was asked for anyway.
    pub at_once: Counter,
    /// Met once every owner was asked.
    pub widened: Counter,
    /// No owner has it any more: collected, expired, or lost to all.
    pub gone: Counter,
    /// Not met: who may have it gave no answer.
    pub unmet: Counter,
}

impl SessionMetrics {
    fn new(registry: &mut Registry) -> Self {
        let outcomes = Family::<FloorLabels, Counter>::default();
        let help = "Session floors looked for, by outcome: at_once, widened (every owner was asked), gone (no owner has \
                    it any more), unmet";
        registry.register("session_floors", help, outcomes.clone());
        let of = |outcome| outcomes.get_or_create_owned(&FloorLabels { outcome });
        Self { at_once: of("at_once"), widened: of("widened"), gone: of("gone"), unmet: of("unmet") }
    }
}

/// What the HTTP edge counts.
#[derive(Debug)]
pub struct HttpMetrics {
    total: [[Counter; 5]; 6],
    latency: [Histogram; 6],
    /// Connections open now.
    pub connections: Gauge,
    /// Connections refused because all places were at work.
    pub connections_refused: Counter,
}

impl HttpMetrics {
    fn new(registry: &mut Registry) -> Self {
        let totals = Family::<RequestLabels, Counter>::default();
        let latencies = Family::<MethodLabels, Histogram>::new_with_constructor(seconds);
        registry.register("http_requests", "HTTP requests, by method and class of status", totals.clone());
        registry.register("http_request_duration_seconds", "Time that HTTP requests took", latencies.clone());
        Self {
            total: METHODS
                .map(|method| CLASSES.map(|status| totals.get_or_create_owned(&RequestLabels { method, status }))),
            latency: METHODS.map(|method| latencies.get_or_create_owned(&MethodLabels { method })),
            connections: gauge(registry, "http_connections", "HTTP connections open now"),
            connections_refused: counter(registry, "http_connections_refused", "HTTP connections refused, too many"),
        }
    }

    /// Counts one request.
    pub fn record(&self, method: &str, status: u16, time: Duration) {
        let method = Self::method(method);
        self.total[method][usize::from(status / 100).clamp(1, 5) - 1].inc();
        self.latency[method].observe(time.as_secs_f64());
    }

    /// How many requests with this method got a status of this one's class.
    #[must_use]
    pub fn count(&self, method: &str, status: u16) -> u64 {
        self.total[Self::method(method)][usize::from(status / 100).clamp(1, 5) - 1].get()
    }

    fn method(name: &str) -> usize {
        METHODS.iter().position(|known| *known == name).unwrap_or(METHODS.len() - 1)
    }
}

/// Hints for owners that missed something.
#[derive(Debug)]
pub struct HintMetrics {
    /// Hints left, those included that were merged with an older one of the same key.
    pub left: Counter,
    /// Hints ended because everybody they were for has it.
    pub replayed: Counter,
    /// Bytes of the objects sent for them.
    pub bytes: Counter,
    /// Sends that came to nothing, and are repeated.
    pub failures: Counter,
    /// Times that this node stood in for an owner: hints by value, those that were merged with an older one included.
    pub kept: Counter,
    /// Times that it did not, since as many hints wait as may.
    pub refused: Counter,
    /// Times that one was looked at which cannot be read, or which a later version left.
    pub unreadable: Counter,
    /// Keys that wait and counted towards a quorum.
    pub owed: Gauge,
    /// Keys that wait, each for one owner.
    pub waiting: Gauge,
    /// Bytes of the hints that wait.
    pub waiting_bytes: Gauge,
    dropped: [Counter; 6],
}

impl HintMetrics {
    fn new(registry: &mut Registry) -> Self {
        let dropped = Family::<ReasonLabels, Counter>::default();
        registry.register("hints_dropped", "Hints dropped or not kept, by reason", dropped.clone());
        Self {
            left: counter(registry, "hints_left", "Hints left for owners that missed a write, merged ones included"),
            replayed: counter(registry, "hints_replayed", "Hints ended because their owners have what they were for"),
            bytes: counter(registry, "hints_sent_bytes", "Bytes of objects sent because of hints"),
            failures: counter(registry, "hint_failures", "Sends because of hints that failed, to be repeated"),
            kept: counter(registry, "hints_kept", "Times this node stood in for an owner that was down"),
            refused: counter(registry, "hints_refused", "Times it did not, since as many hints wait as may"),
            unreadable: counter(
                registry,
                "hints_unreadable",
                "Looks at hints that cannot be read: they are left alone",
            ),
            owed: gauge(registry, "hints_owed_keys", "Keys that wait and counted towards a quorum: never dropped"),
            waiting: gauge(registry, "hints_waiting_keys", "Keys that owners missed and that wait to be sent to them"),
            waiting_bytes: gauge(registry, "hints_waiting_bytes", "Bytes of the hints that wait"),
            dropped: DROPS.map(|reason| dropped.get_or_create_owned(&ReasonLabels { reason })),
        }
    }

    /// Hints dropped for this reason.
    #[must_use]
    pub fn dropped(&self, why: Dropped) -> &Counter {
        &self.dropped[why as usize]
    }

    /// Hints dropped, for whatever reason.
    #[must_use]
    pub fn all_dropped(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}

/// Declares a group of plain metrics: field, kind, name, help.
macro_rules! group {
    ($(#[$doc:meta])* $group:ident { $($field:ident: $kind:ty = $make:expr, $name:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $group {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl $group {
            fn new(registry: &mut Registry) -> Self {
                Self { $($field: metric(registry, $name, $help, $make),)* }
            }
        }
    };
}

group! {
    /// What quorums met with.
    QuorumMetrics {
        unavailable: Counter = Counter::default(), "quorum_unavailable",
            "Requests refused because too few replicas were live.";
        hedges: Counter = Counter::default(), "hedges",
            "Reads sent to one more replica because one was slow.";
        divergent_reads: Counter = Counter::default(), "divergent_reads",
            "Reads whose replicas did not agree.";
        read_repairs: Counter = Counter::default(), "read_repairs",
            "Replicas mended by a read.";
        read_repair_failures: Counter = Counter::default(), "read_repair_failures",
            "Replicas that a read could not mend.";
        handovers: Counter = Counter::default(), "handovers",
            "Requests handed over to an owner.";
        stand_ins: Counter = Counter::default(), "stand_ins",
            "Hints of fallbacks that counted in the place of an owner.";
        stood_in: Counter = Counter::default(), "stood_in_writes",
            "Writes coordinated here in the place of owners that could not be reached.";
        sloppy_reads: Counter = Counter::default(), "sloppy_reads",
            "Reads that fallbacks were asked for as well.";
        replays: Counter = Counter::default(), "idempotent_replays",
            "Writes answered as the first time, by their Idempotency-Key.";
        unknown_writes: Counter = Counter::default(), "unknown_writes",
            "Writes whose outcome is unknown.";
        missed_owners: Counter = Counter::default(), "missed_owners",
            "Owners that had not acknowledged a write when it was given up.";
        sibling_writes: Counter = Counter::default(), "sibling_writes",
            "Writes that left siblings beside the new one.";
        overloaded: Counter = Counter::default(), "operations_refused",
            "Operations refused because too many were under way.";
        siblings: Histogram = sizes(), "siblings",
            "Siblings of objects read.";
    }
}

group! {
    /// Lists of keys.
    ListMetrics {
        pages: Counter = Counter::default(), "list_pages",
            "Pages of keys that this node made for clients.";
        failures: Counter = Counter::default(), "list_failures",
            "Pages of keys that were refused, or could not be made.";
        keys: Counter = Counter::default(), "list_keys",
            "Keys on those pages.";
        gaps: Counter = Counter::default(), "list_gaps",
            "Partitions that too few replicas could answer for, summed over those pages.";
        asked: Counter = Counter::default(), "list_requests",
            "Questions to other nodes for those pages.";
        served: Counter = Counter::default(), "list_served",
            "Questions of other nodes for keys, answered here.";
        seconds: Histogram = seconds(), "list_page_duration_seconds",
            "Time that pages of keys took.";
    }
}

group! {
    /// Replicas compared with each other.
    RepairMetrics {
        rounds: Counter = Counter::default(), "repair_rounds",
            "Comparisons with another member that this node began.";
        compared: Counter = Counter::default(), "repair_partitions_compared",
            "Partitions compared with another owner.";
        differed: Counter = Counter::default(), "repair_partitions_differed",
            "Of those, partitions that differed.";
        repaired: Counter = Counter::default(), "repair_keys_repaired",
            "Keys that differed and were made equal.";
        failures: Counter = Counter::default(), "repair_failures",
            "Keys that differed and could not be made equal that time.";
        bytes: Counter = Counter::default(), "repair_exchanged_bytes",
            "Bytes of records exchanged to make replicas equal.";
        paused: Gauge = Gauge::default(), "workers_paused",
            "Background workers of this node that were told to pause.";
    }
}

group! {
    /// What is stored here, read again and recomputed.
    ScrubMetrics {
        passes: Counter = Counter::default(), "scrub_passes",
            "Times that everything stored here was read.";
        keys: Counter = Counter::default(), "scrubbed_keys",
            "Keys read and recomputed.";
        bytes: Counter = Counter::default(), "scrubbed_bytes",
            "Bytes of records read for that.";
        damaged: Counter = Counter::default(), "scrub_damaged_keys",
            "Keys found damaged, and quarantined until they are merged from the other owners.";
        index: Counter = Counter::default(), "scrub_index_entries",
            "Index entries that could not be read, or were missing, and were written again.";
        disagreed: Counter = Counter::default(), "scrub_disagreeing_index_entries",
            "Index entries that said something else than their records, and were written again from them.";
        leaves: Counter = Counter::default(), "scrub_leaves",
            "Merkle leaves that could not be read, or were not the sum of their objects, and were recomputed.";
        gaps: Counter = Counter::default(), "scrub_gaps",
            "Partitions in which something could not even be named, merged as a whole from their other owners.";
    }
}

group! {
    /// Deletions, removed for good.
    CollectMetrics {
        dropped: Counter = Counter::default(), "collected_tombstones",
            "Deleted objects that rounds of collection removed from this node for good.";
        rounds: Counter = Counter::default(), "collect_rounds",
            "Rounds of collection that this node took to their end.";
        refused: Counter = Counter::default(), "collect_refused_states",
            "Object states refused because they were read before a round of collection, to be read and sent again.";
        waiting: Gauge = Gauge::default(), "tombstones_waiting",
            "Deletions that wait to be collected in the partitions whose rounds this node drives.";
        held_up: Gauge = Gauge::default(), "collect_held_up_partitions",
            "Of those partitions, the ones in which nothing can be collected now: `quorate tombstones` says for whom.";
    }
}

group! {
    /// This node's own data.
    ReplicaMetrics {
        forgotten: Counter = Counter::default(), "forgotten_objects",
            "Objects deleted because this node does not own them any more, or begins to anew.";
        expired: Counter = Counter::default(), "expired_objects",
            "Objects deleted because all that was ever in them has expired.";
        purged: Counter = Counter::default(), "purged_objects",
            "Objects deleted because their bucket was emptied or deleted.";
        purging: Gauge = Gauge::default(), "purging_buckets",
            "Buckets whose older generations are still being dropped, or whose n has changed.";
        cache_hits: Counter = Counter::default(), "record_cache_hits",
            "Records that the cache of records had.";
        cache_misses: Counter = Counter::default(), "record_cache_misses",
            "Records that the cache of records did not have.";
        commits: Counter = Counter::default(), "commits",
            "Batches committed.";
        minted: Counter = Counter::default(), "minted_dots",
            "Dots minted.";
        quarantines: Counter = Counter::default(), "quarantines",
            "Keys put into quarantine.";
        overloaded: Counter = Counter::default(), "storage_queue_full",
            "Operations refused because a storage thread's queue was full.";
        commit_failures: Counter = Counter::default(), "commit_failures",
            "Batches that could not be committed.";
        commit_objects: Histogram = sizes(), "commit_objects",
            "Objects in a committed batch.";
        commit_seconds: Histogram = seconds(), "commit_duration_seconds",
            "Time that commits took, the flush included.";
        flushes: Counter = Counter::default(), "flushes",
            "Flushes to the disk.";
        bytes_written: Counter = Counter::default(), "object_written_bytes",
            "Bytes of objects written.";
        quarantined: Gauge = Gauge::default(), "quarantined_keys",
            "Keys that could not be read and wait to be merged with every other owner.";
        unsynced: Gauge = Gauge::default(), "unsynced_partitions",
            "Partitions that have no vote until merged with every other owner.";
        dot_clashes: Counter = Counter::default(), "dot_clashes",
            "Dots met with two different values: a bug or a copied directory.";
        rollback_proofs: Counter = Counter::default(), "rollback_proofs",
            "Proofs that this node's data went back in time.";
        queue: Gauge = Gauge::default(), "storage_queue_depth",
            "Requests that wait for a storage thread.";
        serving: Gauge = Gauge::default(), "serving",
            "1 while this node serves clients: not while it starts, waits for others, stays out or stops.";
        read_only: Gauge = Gauge::default(), "read_only",
            "1 while this node takes no writes.";
        disk_free: Gauge = Gauge::default(), "disk_free_bytes",
            "Free space on the data directory's file system.";
        disk_size: Gauge = Gauge::default(), "disk_size_bytes",
            "Size of the data directory's file system.";
        disk_reserve: Gauge = Gauge::default(), "disk_reserve_bytes",
            "Free space below which no new values are taken.";
        deletes_only: Gauge = Gauge::default(), "deletes_only",
            "1 while the disk is filled up to its reserve: no new values, only deletes.";
        no_room: Counter = Counter::default(), "no_room_refusals",
            "New values refused, of clients and peers, for want of space on the disk.";
    }
}

group! {
    /// Connections to peers; but for the calls, set from what the transport has counted, by [`set_counter`].
    TransportMetrics {
        connections: Gauge = Gauge::default(), "peer_connections",
            "Connections to peers open now.";
        calls: Counter = Counter::default(), "peer_calls",
            "Requests sent to peers.";
        call_failures: Counter = Counter::default(), "peer_call_failures",
            "Requests to peers without a reply.";
        frames_sent: Counter = Counter::default(), "peer_frames_sent",
            "Frames sent.";
        frames_received: Counter = Counter::default(), "peer_frames_received",
            "Frames received.";
        bytes_sent: Counter = Counter::default(), "peer_sent_bytes",
            "Bytes sent to peers.";
        bytes_received: Counter = Counter::default(), "peer_received_bytes",
            "Bytes received from peers.";
        bad_frames: Counter = Counter::default(), "peer_bad_frames",
            "Frames with a bad checksum or form.";
        rejected: Counter = Counter::default(), "peer_handshakes_rejected",
            "Handshakes refused, by either side.";
    }
}

group! {
    /// What is known of the other nodes, and of this one's clock.
    PeerMetrics {
        up: Gauge = Gauge::default(), "peers_up",
            "Members this node holds for up, itself included.";
        went_down: Counter = Counter::default(), "peers_went_down",
            "Times that a member was taken for down.";
        members: Gauge = Gauge::default(), "members",
            "Members of the newest layout.";
        layout: Gauge = Gauge::default(), "layout_version",
            "The newest layout's version.";
        clock_offset: FloatGauge = FloatGauge::default(), "clock_offset_seconds",
            "This node's clock against the median of the members.";
        heartbeat_misses: Counter = Counter::default(), "heartbeat_misses",
            "Heartbeats that were not answered in time.";
    }
}

group! {
    /// What the nodes tell each other about each other.
    GossipMetrics {
        rounds: Counter = Counter::default(), "gossip_rounds",
            "Rounds of gossip: about one a second.";
        exchanges: Counter = Counter::default(), "gossip_exchanges",
            "Exchanges opened with others.";
        equal: Counter = Counter::default(), "gossip_equal",
            "Exchanges opened that found both sides to know the same.";
        changes: Counter = Counter::default(), "gossip_changes",
            "Times that news of a node were heard.";
        failures: Counter = Counter::default(), "gossip_failures",
            "Exchanges opened that came to nothing.";
        bytes_sent: Counter = Counter::default(), "gossip_sent_bytes",
            "Bytes of gossip sent, asked and answered.";
        bytes_received: Counter = Counter::default(), "gossip_received_bytes",
            "Bytes of gossip received, asked and answered.";
        malformed: Counter = Counter::default(), "gossip_malformed",
            "Gossip left out or refused because no node says that.";
        twins: Counter = Counter::default(), "gossip_twins",
            "Times that two lives of one generation were met: copies of one data directory.";
        nodes: Gauge = Gauge::default(), "gossip_nodes",
            "Nodes that something is known of, this one included.";
    }
}

group! {
    /// Layouts, and what moves because of them.
    LayoutMetrics {
        newest: Gauge = Gauge::default(), "layout_newest",
            "Version of the newest layout this node knows.";
        live: Gauge = Gauge::default(), "layouts_live",
            "Layouts that count for writes: more than one while a change is under way.";
        catch_ups: Counter = Counter::default(), "layout_catch_ups",
            "Times that a member which knew a newer layout was asked for it.";
        voices_regained: Counter = Counter::default(), "layout_voices_regained",
            "Times that this node's store, having gone back, got its voice in the next layout's decision back.";
        refused: Counter = Counter::default(), "layout_refused_requests",
            "Requests of peers refused because of the layouts they named.";
        retries: Counter = Counter::default(), "layout_retries",
            "Times that an operation went on under other layouts than it began with.";
        gains_left: Gauge = Gauge::default(), "transfer_partitions_left",
            "Partitions still to be merged from all their sources.";
        transfers: Counter = Counter::default(), "transfers",
            "Partitions merged whole from one source.";
        transferred_objects: Counter = Counter::default(), "transfer_objects",
            "Objects merged by transfers.";
        transferred_bytes: Counter = Counter::default(), "transfer_bytes",
            "Bytes of objects merged by transfers.";
        transfer_failures: Counter = Counter::default(), "transfer_failures",
            "Transfers that stopped half way, to be resumed.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_convention() {
        let metrics = Metrics::new();
        metrics.reads.record(Level::Quorum, Ended::Ok, Duration::from_millis(1));
        metrics.writes.record(Level::Count(2), Ended::Unknown, Duration::from_millis(1));
        metrics.http.record("PATCH", 404, Duration::ZERO);
        set_counter(&metrics.transport.bytes_sent, 7);
        metrics.hints.dropped(Dropped::TooOld).inc();
        metrics.sessions.unmet.inc();
        let text = metrics.text();
        for line in [
            "quorate_build_info{version=",
            "quorate_reads_total{level=\"quorum\",outcome=\"ok\"} 1",
            "quorate_writes_total{level=\"count\",outcome=\"unknown\"} 1",
            "quorate_read_duration_seconds_bucket{",
            "quorate_http_requests_total{method=\"other\",status=\"4xx\"} 1",
            "quorate_peer_sent_bytes_total 7",
            "quorate_quarantined_keys 0",
            "quorate_hints_dropped_total{reason=\"too_old\"} 1",
            "quorate_hints_waiting_keys 0",
            "quorate_session_floors_total{outcome=\"unmet\"} 1",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn two_nodes_do_not_share_counts() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.quorum.hedges.inc();
        assert_eq!((a.quorum.hedges.get(), b.quorum.hedges.get()), (1, 0));
    }
}
