//! A node with its two HTTP listeners: what `server` runs one of and `dev` several.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Resolved, Settings};
use super::output::{Exit, Failure};
use crate::env::Env;
use crate::http::{Api, ServeLimits, TcpSocket, admin_router, client_router, serve};
use crate::node::{Node, StartError};

/// A running node and its listeners.
pub(super) struct Running {
    pub(super) node: Node,
    settings: Settings,
    stop: CancellationToken,
    listeners: TaskTracker,
}

impl Running {
    /// Binds the listeners, then starts the node: what can fail for a wrong address fails before data is touched.
    pub(super) async fn start(resolved: Resolved) -> Result<Self, Failure> {
        let Resolved { settings, admin_token } = resolved;
        let client = listen("node.client_listen", &settings.client_listen).await?;
        let admin = listen("node.admin_listen", &settings.admin_listen).await?;
        let env = Env::real();
        let builder =
            Node::builder().env(env.clone()).config(settings.config.clone()).peer_listen(settings.peer_listen.clone());
        let builder = builder.insecure(settings.insecure);
        let builder = if keeps_data() { builder.data_dir(&settings.data_dir) } else { builder };
        let node = builder.start().await.map_err(|error| start_failure(&error, &settings))?;
        let (kv, view) = (Arc::new(node.clone()), Arc::new(node.clone()));
        let api = Arc::new(Api::new(kv, view, Arc::clone(node.metrics()), env.clone(), settings.requests));
        let (stop, listeners) = (CancellationToken::new(), TaskTracker::new());
        let admin_limits = ServeLimits { max_connections: 64, ..settings.serve };
        for (listener, router, limits) in [
            (client, client_router(Arc::clone(&api)), settings.serve),
            (admin, admin_router(api, admin_token), admin_limits),
        ] {
            let socket = TcpSocket::new(listener, env.clone());
            listeners.spawn(serve(socket, router, limits, env.clone(), Arc::clone(node.metrics()), stop.clone()));
        }
        listeners.close();
        Ok(Self { node, settings, stop, listeners })
    }

    /// Takes nothing new, finishes what is under way, flushes, and leaves the clean mark.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let Self { node, settings, stop, listeners } = self;
        let clock = Arc::clone(&node.env().clock);
        let began = clock.now();
        node.drain();
        stop.cancel();
        listeners.wait().await;
        let left = settings.shutdown_timeout.saturating_sub(clock.now().since(began));
        node.shutdown_within(left.max(Duration::from_millis(100))).await.map_err(|error| {
            let next = "nothing acknowledged is lost; the next start merges with the other replicas";
            Failure::new(Exit::Failed, format!("the stop was not clean: {error}"), next)
        })
    }
}

/// Whether this build has durable storage. Without it, nodes keep their data in memory.
pub(super) const fn keeps_data() -> bool {
    cfg!(feature = "rocksdb")
}

async fn listen(key: &str, address: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let next = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("something listens there already: another {key} (--client-listen, --admin-listen, --base-port)")
            }
            _ => String::new(),
        };
        Failure::new(Exit::Failed, format!("cannot listen on {address} ({key}): {error}"), next)
    })
}

fn start_failure(error: &StartError, settings: &Settings) -> Failure {
    match error {
        StartError::Config(_) => Failure::new(Exit::Usage, error.to_string(), "config/quorate.toml has every setting"),
        StartError::Storage(problem) => {
            let text = format!("the data directory {} cannot be used: {problem}", settings.data_dir.display());
            Failure::new(Exit::Failed, text, "--data-dir chooses another one")
        }
        StartError::Listen { .. } => {
            Failure::new(Exit::Failed, error.to_string(), "--peer-listen (or --base-port) chooses another address")
        }
    }
}
