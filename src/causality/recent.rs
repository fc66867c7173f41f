//! Recent request ids: how a repeated write with one Idempotency-Key is found to be the same write.
//!
//! Kept inside the object, merged by union, cut by a rule that reads the object alone (never a clock): so replicas
//! that hold the same object hold the same ids.

use std::time::Duration;

use super::Dot;
use crate::types::{ActorId, Stamp};

/// Most requests an object remembers.
pub const RECENT_MAX: usize = 64;

/// Hash of (Idempotency-Key, bucket, key).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub [u8; 16]);

/// Hash of what the request asked for: verb, body, content type, meta, ttl, context.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fingerprint(pub [u8; 16]);

/// A write that carried an Idempotency-Key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Recent {
    /// The dot it minted.
    pub dot: Dot,
    /// Which request it was.
    pub id: RequestId,
    /// What the request asked for.
    pub fingerprint: Fingerprint,
}

/// The order in which requests are kept: oldest first.
fn order(recent: &Recent) -> (Stamp, ActorId, RequestId, Fingerprint) {
    (recent.dot.stamp, recent.dot.actor, recent.id, recent.fingerprint)
}

/// The recent requests of one object, newest last.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct RecentRequests(Vec<Recent>);

impl RecentRequests {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// All of them, by (stamp, actor, id).
    #[must_use]
    pub fn as_slice(&self) -> &[Recent] {
        &self.0
    }

    /// The request with this id, if remembered. Where two nodes minted for one id, the earliest answers for it.
    #[must_use]
    pub fn find(&self, id: RequestId) -> Option<&Recent> {
        self.0.iter().find(|recent| recent.id == id)
    }

    /// Takes requests that are in order already, oldest first, none twice; `None` where they are not.
    pub(super) fn from_sorted(sorted: Vec<Recent>) -> Option<Self> {
        sorted.is_sorted_by(|a, b| order(a) < order(b)).then_some(Self(sorted))
    }

    /// Remembers a request. Call [`RecentRequests::cut`] afterwards.
    pub fn add(&mut self, recent: Recent) {
        if let Err(at) = self.0.binary_search_by_key(&order(&recent), order) {
            self.0.insert(at, recent);
        }
    }

    /// Remembers all that `other` does. Call [`RecentRequests::cut`] afterwards.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|recent| self.add(*recent));
    }

    /// Forgets what is more than `window` older than the object's own `greatest` stamp, and all but the newest
    /// [`RECENT_MAX`].
    pub fn cut(&mut self, greatest: Stamp, window: Duration) {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let oldest = greatest.wall().0.saturating_sub(window);
        self.0.retain(|recent| recent.dot.stamp.wall().0 >= oldest);
        let surplus = self.0.len().saturating_sub(RECENT_MAX);
        self.0.drain(..surplus);
    }
}
