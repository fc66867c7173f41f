//! What this node has seen of other stores: the newest generation, its boot nonce, how far it had moved on; remembered over
//! restarts.
//!
//! It is what lets a node learn that its data directory went back or was copied (I-MINT): it asks, and whoever saw a
//! newer generation, this one with another boot nonce, or greater progress, says so. A life is flushed before it is
//! answered, so that what was vouched for once is never forgotten; progress follows within one heartbeat. Bound: one
//! entry a store that ever was a member.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::replica::{Fault, Replica};
use crate::storage::{Keyspace, StorageError};
use crate::transport::Hello;
use crate::types::{Mono, StoreId};

const PREFIX: &[u8] = b"seen/";
/// An answer this recent means that the process behind it is alive.
const LATELY: Duration = Duration::from_millis(600);

/// What was seen of one store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sight {
    /// The newest generation.
    pub generation: u64,
    /// Its boot nonce.
    pub boot: u64,
    /// The greatest progress.
    pub progress: u64,
}

/// What was seen of every store.
#[derive(Debug, Default)]
pub struct Seen {
    known: Mutex<BTreeMap<StoreId, Sight>>,
    answered: Mutex<BTreeMap<StoreId, (u64, Mono)>>,
    /// Held while something is flushed, so that what is on disk and what is in memory go the same way.
    flushing: tokio::sync::Mutex<()>,
}

impl Seen {
    /// Reads what was seen in earlier lives.
    pub(super) fn load(replica: &Replica) -> Result<Self, StorageError> {
        let mut known = BTreeMap::new();
        for entry in replica.storage().scan(Keyspace::Meta, Included(PREFIX), Excluded(b"seen0")) {
            let (key, value) = entry?;
            let store = StoreId::from_slice(&key[PREFIX.len()..]);
            let number = |at: usize| value.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
            if let (Some(store), Some(generation), Some(boot), Some(progress)) =
                (store, number(0), number(8), number(16))
            {
                known.insert(store, Sight { generation, boot, progress });
            }
        }
        Ok(Self { known: Mutex::new(known), ..Self::default() })
    }

    /// What was seen of a store.
    #[must_use]
    pub fn get(&self, store: StoreId) -> Option<Sight> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&store).copied()
    }

    /// Remembers the life a store is in now, if that is newer than all before.
    pub(super) async fn note(&self, replica: &Replica, hello: &Hello) -> Result<(), Fault> {
        let Hello { store, generation, boot, .. } = *hello;
        self.change(replica, store, |sight| {
            if generation > sight.generation {
                (sight.generation, sight.boot) = (generation, boot);
            }
        })
        .await
    }

    /// Whether a store has moved on since it was last noted, in the life that is remembered.
    pub(super) fn is_news(&self, hello: &Hello, progress: u64) -> bool {
        let sight = self.get(hello.store).unwrap_or_default();
        (sight.generation, sight.boot) == (hello.generation, hello.boot) && progress > sight.progress
    }

    /// Remembers how far a store has moved on. One at a time: the next heartbeat tells what was passed over.
    pub(super) async fn note_progress(&self, replica: &Replica, hello: &Hello, progress: u64) -> Result<(), Fault> {
        if self.flushing.try_lock().is_err() {
            return Ok(());
        }
        let (generation, boot) = (hello.generation, hello.boot);
        self.change(replica, hello.store, |sight| {
            if (sight.generation, sight.boot) == (generation, boot) {
                sight.progress = sight.progress.max(progress);
            }
        })
        .await
    }

    /// Flushed, then known.
    async fn change(&self, replica: &Replica, store: StoreId, change: impl Fn(&mut Sight)) -> Result<(), Fault> {
        let _flushing = self.flushing.lock().await;
        let before = self.get(store).unwrap_or_default();
        let mut after = before;
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let mut value = BytesMut::with_capacity(24);
        [after.generation, after.boot, after.progress].into_iter().for_each(|number| value.put_u64(number));
        let key = Bytes::from([PREFIX, &store.as_bytes()[..]].concat());
        replica.remember(vec![(key, value.freeze())]).await?;
        change(self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(store).or_default());
        Ok(())
    }

    /// The process that started with `boot` answered a heartbeat.
    pub(super) fn answered(&self, store: StoreId, boot: u64, now: Mono) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(store, (boot, now));
    }

    /// Whether the process that started with `boot` has just answered.
    pub(super) fn answered_lately(&self, store: StoreId, boot: u64, now: Mono) -> bool {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.get(&store).is_some_and(|(known, at)| *known == boot && now.since(*at) < LATELY)
    }
}
