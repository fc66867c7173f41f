//! Being in a cluster: how it is founded, which layout is in force, what the nodes say of themselves.
//!
//! The decisions are `ring::Founding`'s; this room probes the seeds, flushes a layout before anybody is told of it, and
//! publishes the one in force behind an atomic pointer. Until a node serves, it says why not ([`Standing`]). Once it is a
//! member it gossips ([`Gossiper`]).

mod founding;
mod gossiper;
mod said;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::watch;

pub use founding::{ClusterService, FoundingOptions};
pub use gossiper::{About, Gossiper, Heard};
pub use said::{DiskState, Head, Said};

use crate::replica::{Fault, Replica};
use crate::ring::Layout;
use crate::ring::founding::Directory;
use crate::storage::Keyspace;

const LAYOUT: &[u8] = b"layout/current";

/// Where a node stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has not begun.
    Starting,
    /// It waits to become a member, and why.
    Waiting(String),
    /// It stays out, and why: an operator has to act.
    Refused(String),
    /// It is a member, and serves.
    Serving,
}

/// Keeps the layout in force.
#[derive(Clone)]
pub struct LayoutKeeper {
    replica: Replica,
    layout: Arc<ArcSwapOption<Layout>>,
    standing: watch::Sender<Standing>,
    held: Arc<Mutex<Option<Bytes>>>,
}

impl std::fmt::Debug for LayoutKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayoutKeeper").field("standing", &*self.standing.borrow()).finish_non_exhaustive()
    }
}

impl LayoutKeeper {
    /// The keeper of a node's layout; nothing is in force yet.
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        let standing = watch::channel(Standing::Starting).0;
        Self { replica, layout: Arc::default(), standing, held: Arc::default() }
    }

    /// What the data directory holds.
    pub fn directory(&self) -> Result<Directory, Fault> {
        use std::ops::Bound::Unbounded;
        let storage = self.replica.storage();
        if let Some(bytes) = storage.get(Keyspace::Meta, LAYOUT)? {
            let layout = Layout::decode(&bytes).map_err(|bad| Fault::Malformed(format!("the stored layout: {bad}")))?;
            return Ok(Directory::Ring(layout));
        }
        match storage.scan(Keyspace::Objects, Unbounded, Unbounded).next() {
            None => Ok(Directory::Fresh),
            Some(_) => Ok(Directory::DataOnly),
        }
    }

    /// Flushes a layout, before anybody is told of it.
    pub async fn flush(&self, layout: &Layout) -> Result<(), Fault> {
        self.replica.remember(vec![(Bytes::from_static(LAYOUT), layout.encode())]).await
    }

    /// Puts a flushed layout in force.
    pub fn publish(&self, layout: Arc<Layout>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(layout.encode());
        self.layout.store(Some(layout));
    }

    /// The layout in force, in its encoding.
    #[must_use]
    pub fn encoded(&self) -> Option<Bytes> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The layout in force: a snapshot behind an atomic pointer.
    #[must_use]
    pub fn layout(&self) -> &Arc<ArcSwapOption<Layout>> {
        &self.layout
    }

    /// Says where this node stands. Who was refused stays out until the process is started again.
    pub fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|now| {
            let changed = *now != standing && !matches!(now, Standing::Refused(_));
            if changed {
                *now = standing;
            }
            changed
        });
    }

    /// Where this node stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Told whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}
