//! What a node is told: `[cluster]`, the same everywhere, and `[node]`, its own. Checked once, before anything starts.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::coordinator::Limits;
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
    /// Storage threads.
    pub storage_threads: usize,
    /// Names the kernel's life, so that a restart of the machine is told from one of the process.
    pub machine_boot: String,
    /// Most bytes of a value.
    pub max_value: usize,
    /// Most siblings of an object, as far as client writes go.
    pub max_siblings: u32,
    /// Most bytes of an object, all siblings, as far as client writes go.
    pub max_object: usize,
    /// Most operations coordinated at once.
    pub max_operations: usize,
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
            storage_threads: 2,
            machine_boot: String::new(),
            max_value: 1 << 20,
            max_siblings: 64,
            max_object: 4 << 20,
            max_operations: Limits::default().operations,
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
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Config {
    /// Checks every entry, alone and against the others.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { cluster, node } = self;
        let rule = |right: bool, entry: &'static str, problem: String| {
            if right { Ok(()) } else { Err(ConfigError { entry, problem }) }
        };
        let q = cluster.partitions;
        rule(
            q.is_power_of_two() && q <= 65_536,
            "cluster.partitions",
            format!("is a power of two from 1 to 65536, got {q}"),
        )?;
        rule(
            (1..=16).contains(&cluster.replicas_max),
            "cluster.replicas_max",
            format!("is 1 to 16, got {}", cluster.replicas_max),
        )?;
        rule(
            (1..=cluster.replicas_max).contains(&cluster.n),
            "cluster.n",
            format!("is 1 to cluster.replicas_max ({}), got {}", cluster.replicas_max, cluster.n),
        )?;
        rule(
            cluster.max_clock_drift >= Duration::from_millis(2),
            "cluster.max_clock_drift",
            format!("is at least 2ms, got {:?}", cluster.max_clock_drift),
        )?;
        rule(
            cluster.secrets.iter().all(|secret| secret.len() >= 16),
            "cluster.secret_file",
            "each line is a secret of at least 16 bytes".into(),
        )?;
        rule(!node.name.is_empty() && node.name.len() <= 255, "node.name", "is 1 to 255 bytes".into())?;
        rule(node.weight >= 1, "node.weight", "is at least 1".into())?;
        rule(node.storage_threads >= 1, "node.storage_threads", "is at least 1".into())?;
        rule(node.max_value >= 1, "node.limits.max_value", "is at least 1 byte".into())?;
        rule(
            node.max_object >= node.max_value,
            "node.limits.max_object",
            format!("is at least node.limits.max_value ({}), got {}", node.max_value, node.max_object),
        )?;
        rule(node.max_siblings >= 1, "node.limits.max_siblings", "is at least 1".into())?;
        rule(node.max_operations >= 1, "node.limits.requests", "is at least 1".into())?;
        match node.bootstrap_expect {
            Some(expect) if expect == 0 || expect > node.seeds.len().max(1) => rule(
                false,
                "node.bootstrap_expect",
                format!("is 1 to the number of node.seeds ({}), got {expect}", node.seeds.len()),
            ),
            _ => Ok(()),
        }
    }

    /// A hash of what has to be the same everywhere: nodes that disagree refuse each other.
    #[must_use]
    pub fn cluster_settings(&self) -> u64 {
        let ClusterConfig { partitions, replicas_max, n, max_clock_drift, idempotency_window, .. } = &self.cluster;
        let settings = format!(
            "{partitions} {replicas_max} {n} {} {}",
            max_clock_drift.as_micros(),
            idempotency_window.as_micros()
        );
        let mut half = [0; 8];
        half.copy_from_slice(&blake3::hash(settings.as_bytes()).as_bytes()[..8]);
        u64::from_be_bytes(half).max(1)
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
        let broken: [(&str, Breaks); 7] = [
            ("cluster.partitions", |c| c.cluster.partitions = 1000),
            ("cluster.n", |c| c.cluster.n = 6),
            ("cluster.secret_file", |c| c.cluster.secrets = vec![b"short".to_vec()]),
            ("node.weight", |c| c.node.weight = 0),
            ("node.limits.max_object", |c| c.node.max_object = 10),
            ("node.bootstrap_expect", |c| c.node.bootstrap_expect = Some(4)),
            ("node.name", |c| c.node.name.clear()),
        ];
        for (entry, breaks) in broken {
            let mut config = Config::default();
            breaks(&mut config);
            assert_eq!(config.check().map_err(|wrong| wrong.entry), Err(entry));
        }
    }
}
