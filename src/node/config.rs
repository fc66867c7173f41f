//! What a node is told: `[cluster]`, the same everywhere, and `[node]`, its own. Checked once, before anything starts.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::coordinator::Limits;
use crate::quorum::Level;
use crate::replica::Reserve;
use crate::storage::Durability;

/// What is the same on all nodes of a cluster; compared when nodes meet.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Name for people.
    pub name: String,
    /// Partitions of the ring: a power of two, fixed when the cluster is founded.
    pub partitions: u32,
    /// The longest owner list.
    pub replicas_max: u8,
    /// Replicas of what no bucket says otherwise.
    pub n: u8,
    /// R, where a request over HTTP does not say.
    pub r: Level,
    /// W, where a request over HTTP does not say.
    pub w: Level,
    /// How far apart the clocks of two nodes that mint may be.
    pub max_clock_drift: Duration,
    /// How long, by an object's own stamps, request ids are remembered.
    pub idempotency_window: Duration,
    /// Cluster secrets: the first signs, all verify. Empty: none, and then nothing listens beyond loopback.
    pub secrets: Vec<Vec<u8>>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: "quorate".into(),
            partitions: 1024,
            replicas_max: 5,
            n: 3,
            r: Level::Quorum,
            w: Level::Quorum,
            max_clock_drift: Duration::from_millis(500),
            idempotency_window: Limits::default().idempotency_window,
            secrets: Vec::new(),
        }
    }
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("name", &self.name)
            .field("partitions", &self.partitions)
            .field("n", &self.n)
            .field("r", &self.r)
            .field("w", &self.w)
            .field("secrets", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

/// What differs from node to node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Name for people, unique in the cluster.
    pub name: String,
    /// Where other nodes reach it: `host:port`.
    pub peer_address: String,
    /// Where clients reach it: `host:port`; only told to others.
    pub client_address: String,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// Share of the load, relative to the others'.
    pub weight: u32,
    /// Peer addresses to found or find the cluster by, the same list on all nodes. Empty: a cluster of one.
    pub seeds: Vec<String>,
    /// How many nodes found, the founder included. None: as many as there are seeds.
    pub bootstrap_expect: Option<usize>,
    /// How durable a write is when it is acknowledged.
    pub durability: Durability,
    /// Free space on the disk that is kept back for deletes and compaction.
    pub disk_reserve: Reserve,
    /// Storage threads.
    pub storage_threads: usize,
    /// Names the kernel's life, so that a restart of the machine is told from one of the process.
    pub machine_boot: String,
    /// Most bytes of a value.
    pub max_value: usize,
    /// Bytes of memory for records read lately; 0: none.
    pub record_cache: usize,
    /// Bytes of memory for RocksDB's blocks, indexes and filters.
    pub block_cache: usize,
    /// Most siblings of an object, as far as client writes go.
    pub max_siblings: u32,
    /// Most bytes of an object, all siblings, as far as client writes go.
    pub max_object: usize,
    /// Most operations coordinated at once.
    pub max_operations: usize,
    /// Most bytes a second that transfers bring to this node; 0: as many as they can.
    pub transfer_rate: usize,
    /// Most bytes of hints that wait here, for all owners together; 0: none are kept.
    pub max_hint_bytes: usize,
    /// How long a hint is kept.
    pub hint_window: Duration,
    /// Most bytes a second that this node sends because of hints; 0: as many as it can.
    pub hint_rate: usize,
    /// How often each partition is compared with each other owner of it.
    pub repair_interval: Duration,
    /// Most bytes a second that comparisons move to make replicas equal; 0: as many as they can.
    pub repair_rate: usize,
    /// How often everything stored here is read and recomputed.
    pub scrub_interval: Duration,
    /// Most bytes a second that are read for that; 0: as many as can be.
    pub scrub_rate: usize,
    /// How long what is deleted stays before it is removed for good.
    pub collect_linger: Duration,
    /// Whether nodes that ask to join are taken in, and wiped ones let back in, by themselves. Before it is a member:
    /// whether this node is.
    pub auto_join: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: "node".into(),
            peer_address: "127.0.0.1:7402".into(),
            client_address: "127.0.0.1:7400".into(),
            region: "default".into(),
            zone: "default".into(),
            weight: 100,
            seeds: Vec::new(),
            bootstrap_expect: None,
            durability: Durability::Flush,
            disk_reserve: Reserve::default(),
            storage_threads: 2,
            machine_boot: String::new(),
            max_value: 1 << 20,
            record_cache: 32 << 20,
            block_cache: 32 << 20,
            max_siblings: 64,
            max_object: 4 << 20,
            max_operations: Limits::default().operations,
            transfer_rate: 64 << 20,
            repair_interval: Duration::from_secs(3600),
            repair_rate: 16 << 20,
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            scrub_rate: 8 << 20,
            collect_linger: Duration::from_secs(3600),
            max_hint_bytes: 256 << 20,
            hint_window: Duration::from_secs(3 * 3600),
            hint_rate: 64 << 20,
            auto_join: true,
        }
    }
}

/// Everything a node is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// The same on all nodes.
    pub cluster: ClusterConfig,
    /// This node's own.
    pub node: NodeConfig,
}

/// What is wrong with a configuration: which entry, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{entry}: {problem}")]
pub struct ConfigError {
    /// The entry, as the file spells it.
    pub entry: &'static str,
    /// The entry that it contradicts, where it is not wrong by itself.
    pub against: Option<&'static str>,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// An entry that is wrong by itself.
    #[must_use]
    pub fn new(entry: &'static str, problem: impl Into<String>) -> Self {
        Self { entry, against: None, problem: problem.into() }
    }

    /// It contradicts this one.
    #[must_use]
    pub fn against(self, entry: &'static str) -> Self {
        Self { against: Some(entry), ..self }
    }
}

/// The largest object a node may be told to take: with room for siblings that merge, peers carry it in one message.
const LARGEST_OBJECT: usize = 16 << 20;
/// RocksDB's cache holds the indexes and filters of open tables: with less it reads them again for every record.
const SMALLEST_BLOCK_CACHE: usize = 1 << 20;
/// With less its parts keep nothing.
const SMALLEST_RECORD_CACHE: usize = 16 << 10;
/// Most operations at once: each holds some memory even where it waits.
const MOST_OPERATIONS: usize = 1_000_000;
/// Longest label or address: all of them have to fit a handshake.
const LONGEST_LABEL: usize = 255;
const DRIFT: RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_secs(60);
const REPAIR: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const SCRUB: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
/// How long deletions may be told to stay.
const LINGER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
const HINT_WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

impl Config {
    /// Checks every entry, alone and against the others.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.cluster.check()?;
        self.node.check()
    }

    /// A hash of what safety needs to be the same everywhere: nodes that disagree refuse each other.
    #[must_use]
    pub fn cluster_settings(&self) -> u64 {
        let ClusterConfig { partitions, replicas_max, max_clock_drift, idempotency_window, .. } = &self.cluster;
        let settings =
            format!("{partitions} {replicas_max} {} {}", max_clock_drift.as_micros(), idempotency_window.as_micros());
        let mut half = [0; 8];
        half.copy_from_slice(&blake3::hash(settings.as_bytes()).as_bytes()[..8]);
        u64::from_be_bytes(half).max(1)
    }

    /// What should be the same everywhere and harms nothing where it is not: `status` tells of a difference.
    #[must_use]
    pub fn cluster_defaults(&self) -> String {
        let ClusterConfig { name, n, r, w, .. } = &self.cluster;
        format!("name={name:?} n={n} r={r} w={w}")
    }
}

fn rule(right: bool, entry: &'static str, problem: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if right { Ok(()) } else { Err(ConfigError::new(entry, problem())) }
}

fn time(entry: &'static str, time: Duration, range: &RangeInclusive<Duration>) -> Result<(), ConfigError> {
    rule(range.contains(&time), entry, || format!("is {:?} to {:?}, got {time:?}", range.start(), range.end()))
}

impl ClusterConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let (q, most, n) = (self.partitions, self.replicas_max, self.n);
        let plain = (1..=LONGEST_LABEL).contains(&self.name.len()) && !self.name.chars().any(char::is_control);
        rule(plain, "cluster.name", || format!("is 1 to {LONGEST_LABEL} bytes without control characters"))?;
        rule(q.is_power_of_two() && q <= 65_536, "cluster.partitions", || {
            format!("is a power of two from 1 to 65536, got {q}")
        })?;
        rule((1..=16).contains(&most), "cluster.replicas_max", || format!("is 1 to 16, got {most}"))?;
        if !(1..=most).contains(&n) {
            let problem = format!("is 1 to cluster.replicas_max ({most}), got {n}");
            return Err(ConfigError::new("cluster.n", problem).against("cluster.replicas_max"));
        }
        for (entry, level) in [("cluster.r", self.r), ("cluster.w", self.w)] {
            rule(level != Level::Any, entry, || {
                "got any, which a request or a bucket asks for, knowing what it gives up; one is near".into()
            })?;
            if level.number().is_some_and(|count| count == 0 || count > usize::from(n)) {
                let problem = format!("is 1 to cluster.n ({n}), or quorum or all, got {level}");
                return Err(ConfigError::new(entry, problem).against("cluster.n"));
            }
        }
        time("cluster.max_clock_drift", self.max_clock_drift, &DRIFT)?;
        time("cluster.idempotency.window", self.idempotency_window, &WINDOW)?;
        rule(self.secrets.iter().all(|secret| secret.len() >= 16), "cluster.secret_file", || {
            let shortest = self.secrets.iter().map(Vec::len).min().unwrap_or_default();
            format!("each line is a secret of at least 16 bytes, got one of {shortest}")
        })
    }
}

impl NodeConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let labels = [
            ("node.name", &self.name),
            ("node.region", &self.region),
            ("node.zone", &self.zone),
            ("node.advertise", &self.peer_address),
            ("node.advertise_client", &self.client_address),
        ];
        for (entry, text) in labels {
            let right = (1..=LONGEST_LABEL).contains(&text.len());
            rule(right, entry, || format!("is 1 to {LONGEST_LABEL} bytes, got {}", text.len()))?;
        }
        rule(self.weight >= 1, "node.weight", || "is at least 1, got 0".into())?;
        let reserve = self.disk_reserve;
        rule(!matches!(reserve, Reserve::Percent(51..)), "node.disk_reserve", || {
            format!("is a size, or at most 50%, got {reserve}")
        })?;
        rule(self.storage_threads >= 1, "node.storage_threads", || "is at least 1, got 0".into())?;
        let records = self.record_cache;
        rule(records == 0 || records >= SMALLEST_RECORD_CACHE, "node.cache.records", || {
            format!("is 0B for none, or at least {SMALLEST_RECORD_CACHE}B, got {records}B")
        })?;
        let blocks = self.block_cache;
        rule(blocks >= SMALLEST_BLOCK_CACHE, "node.cache.blocks", || {
            format!(
                "is at least {SMALLEST_BLOCK_CACHE}B, which is what the indexes of a small store need, got {blocks}B"
            )
        })?;
        let (value, object) = (self.max_value, self.max_object);
        rule(value >= 1, "node.limits.max_value", || "is at least 1B, got 0B".into())?;
        rule(object <= LARGEST_OBJECT, "node.limits.max_object", || {
            format!("is at most {LARGEST_OBJECT}B, which is what peers carry, got {object}B")
        })?;
        if object < value {
            let problem = format!("is at least node.limits.max_value ({value}B), got {object}B");
            return Err(ConfigError::new("node.limits.max_object", problem).against("node.limits.max_value"));
        }
        time("node.repair.interval", self.repair_interval, &REPAIR)?;
        time("node.scrub.interval", self.scrub_interval, &SCRUB)?;
        time("node.collect.linger", self.collect_linger, &LINGER)?;
        rule(self.max_siblings >= 1, "node.limits.max_siblings", || "is at least 1, got 0".into())?;
        let requests = self.max_operations;
        rule((1..=MOST_OPERATIONS).contains(&requests), "node.limits.requests", || {
            format!("is 1 to {MOST_OPERATIONS}, got {requests}")
        })?;
        time("node.hints.window", self.hint_window, &HINT_WINDOW)?;
        self.check_seeds()
    }

    fn check_seeds(&self) -> Result<(), ConfigError> {
        let mut known = BTreeSet::new();
        if let Some(twice) = self.seeds.iter().find(|seed| !known.insert(*seed)) {
            return Err(ConfigError::new("node.seeds", format!("lists each address once, got {twice} twice")));
        }
        let seeds = self.seeds.len();
        match self.bootstrap_expect {
            Some(expect) if expect == 0 || expect > seeds.max(1) => {
                let problem = format!("is 1 to the number of node.seeds ({seeds}), got {expect}");
                Err(ConfigError::new("node.bootstrap_expect", problem).against("node.seeds"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_right() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Breaks = fn(&mut Config);
        let broken: [(&str, Breaks); 31] = [
            ("cluster.partitions", |c| c.cluster.partitions = 1000),
            ("cluster.replicas_max", |c| c.cluster.replicas_max = 0),
            ("cluster.n", |c| c.cluster.n = 6),
            ("cluster.n", |c| c.cluster.n = 0),
            ("cluster.r", |c| c.cluster.r = Level::Any),
            ("cluster.w", |c| c.cluster.w = Level::Any),
            ("cluster.w", |c| c.cluster.w = Level::Count(4)),
            ("cluster.r", |c| (c.cluster.n, c.cluster.r) = (2, Level::Three)),
            ("cluster.max_clock_drift", |c| c.cluster.max_clock_drift = Duration::ZERO),
            ("cluster.max_clock_drift", |c| c.cluster.max_clock_drift = Duration::from_secs(61)),
            ("cluster.idempotency.window", |c| c.cluster.idempotency_window = Duration::ZERO),
            ("cluster.secret_file", |c| c.cluster.secrets = vec![b"short".to_vec()]),
            ("node.weight", |c| c.node.weight = 0),
            ("node.disk_reserve", |c| c.node.disk_reserve = Reserve::Percent(51)),
            ("node.cache.records", |c| c.node.record_cache = 1),
            ("node.cache.blocks", |c| c.node.block_cache = 4096),
            ("node.limits.max_value", |c| c.node.max_value = 0),
            ("node.repair.interval", |c| c.node.repair_interval = Duration::ZERO),
            ("node.scrub.interval", |c| c.node.scrub_interval = Duration::ZERO),
            ("node.collect.linger", |c| c.node.collect_linger = Duration::ZERO),
            ("node.limits.max_object", |c| c.node.max_object = 10),
            ("node.limits.max_object", |c| c.node.max_object = (16 << 20) + 1),
            ("node.limits.max_siblings", |c| c.node.max_siblings = 0),
            ("node.limits.requests", |c| c.node.max_operations = 0),
            ("node.hints.window", |c| c.node.hint_window = Duration::ZERO),
            ("node.bootstrap_expect", |c| c.node.bootstrap_expect = Some(4)),
            ("node.bootstrap_expect", |c| c.node.bootstrap_expect = Some(0)),
            ("node.seeds", |c| c.node.seeds = vec!["a:1".into(), "b:1".into(), "a:1".into()]),
            ("node.name", |c| c.node.name.clear()),
            ("node.zone", |c| c.node.zone.clear()),
            ("node.region", |c| c.node.region = "r".repeat(256)),
        ];
        for (entry, breaks) in broken {
            let mut config = Config::default();
            breaks(&mut config);
            let wrong = config.check().unwrap_err();
            assert_eq!(wrong.entry, entry, "{wrong}");
            assert!(wrong.problem.contains("got "), "{wrong} does not say what was given");
        }
    }

    #[test]
    fn what_safety_needs_is_told_from_what_is_only_meant_to_agree() {
        type Changes = fn(&mut ClusterConfig);
        let (mut safety, mut taste) = (0, 0);
        let changes: [Changes; 8] = [
            |c| c.partitions = 16,
            |c| c.replicas_max = 3,
            |c| c.max_clock_drift = Duration::from_secs(1),
            |c| c.idempotency_window = Duration::from_secs(1),
            |c| c.name = "other".into(),
            |c| c.n = 2,
            |c| c.r = Level::One,
            |c| c.w = Level::All,
        ];
        let ours = Config::default();
        for change in changes {
            let mut theirs = Config::default();
            change(&mut theirs.cluster);
            let differs = (
                ours.cluster_settings() != theirs.cluster_settings(),
                ours.cluster_defaults() != theirs.cluster_defaults(),
            );
            assert!(differs.0 != differs.1, "{theirs:?}");
            safety += usize::from(differs.0);
            taste += usize::from(differs.1);
        }
        assert_eq!((safety, taste), (4, 4));
    }
}
