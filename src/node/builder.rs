//! Configures a node and picks its adapters: the real ones, unless told otherwise.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Config, ConfigError, Node, StartError};
use crate::env::Env;
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;
use crate::transport::Transport;
use crate::transport::handshake::Secrets;
use crate::transport::tcp::{TcpConfig, TcpTransport, TokioNet};

/// A node to be.
#[derive(Default)]
pub struct Builder {
    config: Config,
    env: Option<Env>,
    data_dir: Option<PathBuf>,
    storage: Option<Arc<dyn Storage>>,
    transport: Option<Arc<dyn Transport>>,
    peer_listen: Option<String>,
    insecure: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// What the node is told. Default: a cluster of one.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where it keeps its data. Without one, and without [`Builder::storage`], in memory.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Where it listens for peers: `host:port`. Default: the address it advertises.
    #[must_use]
    pub fn peer_listen(mut self, address: impl Into<String>) -> Self {
        self.peer_listen = Some(address.into());
        self
    }

    /// Listens for peers beyond loopback without a cluster secret: whoever reaches the port owns the data.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Another storage than RocksDB in the data directory.
    #[must_use]
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Another transport than TCP.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Other clocks, entropy, tasks than the machine's.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Starts it. Founding and finding its cluster go on in the background.
    pub async fn start(mut self) -> Result<Node, StartError> {
        self.config.check()?;
        if self.data_dir.is_some() && self.config.node.machine_boot.is_empty() {
            // Where there is no such file a restart of the machine cannot be told from one of the process.
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            self.config.node.machine_boot = boot.trim().to_owned();
        }
        let env = self.env.unwrap_or_else(Env::real);
        let storage = match (self.storage, self.data_dir) {
            (Some(storage), _) => storage,
            (None, Some(path)) => open_storage(&path, self.config.node.block_cache)?,
            (None, None) => Arc::new(MemoryStorage::ephemeral(Arc::clone(&env.entropy))),
        };
        let transport = match self.transport {
            Some(transport) => transport,
            None => {
                let address = self.peer_listen.unwrap_or_else(|| self.config.node.peer_address.clone());
                if !self.insecure && self.config.cluster.secrets.is_empty() && !is_loopback(&address) {
                    let problem =
                        format!("is needed to listen for peers at {address}: whoever reaches it owns the data");
                    return Err(StartError::Config(ConfigError::new("cluster.secret_file", problem)));
                }
                let secrets: Vec<&[u8]> = self.config.cluster.secrets.iter().map(|secret| &secret[..]).collect();
                let tcp = TcpConfig {
                    listen: Some(address.clone()),
                    secrets: Secrets::new(&secrets),
                    ..TcpConfig::default()
                };
                let bound = TcpTransport::bind(env.clone(), Arc::new(TokioNet), tcp).await;
                Arc::new(bound.map_err(|problem| StartError::Listen { address, problem: problem.to_string() })?)
            }
        };
        Node::start_on(env, self.config, storage, transport).await
    }
}

/// Whether an address `host:port` is reached from this machine alone.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(feature = "rocksdb")]
fn open_storage(path: &std::path::Path, block_cache: usize) -> Result<Arc<dyn Storage>, StartError> {
    use crate::storage::rocks::{RocksOptions, RocksStorage};
    Ok(Arc::new(RocksStorage::open(path, &RocksOptions { block_cache, ..RocksOptions::default() })?))
}

#[cfg(not(feature = "rocksdb"))]
fn open_storage(path: &std::path::Path, _block_cache: usize) -> Result<Arc<dyn Storage>, StartError> {
    let problem = format!("{} cannot be used: this build has no `rocksdb` feature", path.display());
    Err(StartError::Storage(crate::storage::StorageError::Io(problem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_secret_nobody_listens_beyond_loopback() {
        for (address, refused) in
            [("0.0.0.0:0", true), ("[::]:0", true), ("127.0.0.1:0", false), ("localhost:0", false)]
        {
            let started = Node::builder().peer_listen(address).start().await;
            assert_eq!(matches!(&started, Err(StartError::Config(_))), refused, "{address}: {started:?}");
            if let Ok(node) = started {
                node.shutdown().await.unwrap();
            }
        }
        let node = Node::builder().peer_listen("0.0.0.0:0").insecure(true).start().await.unwrap();
        node.shutdown().await.unwrap();
    }
}
