//! What is in flight, and how old: the writes that this node coordinates or has accepted and not finished; and the
//! partitions in which it counts votes.
//!
//! A node acks a layout only once nothing of its own is in flight on anything older (`ring::live::View::may_ack`).
//! Whoever begins a write takes a [`Guard`] *first* and looks at the layouts afterwards: so what it uses is at least as
//! new as its guard says, whatever happens in between.
//!
//! A vote must not outlive the copy that it stands for (decision 0024): before a damaged copy is merged anew, every owner
//! finishes counting what it counts in that partition. Whoever begins an operation takes a [`Counting`] *before* it asks
//! anybody, and drops it once it has decided.
//!
//! Bounds: one counter for each layout that something is still in flight on; one number for each operation under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::types::PartitionId;

/// The register. Clones are the same register.
#[derive(Clone, Debug, Default)]
pub struct Held {
    register: Arc<Mutex<Register>>,
    votes: Arc<Votes>,
}

/// Partitions share so many locks.
const SHARDS: usize = 64;

/// The operations that count votes.
#[derive(Debug)]
struct Votes {
    shards: [Mutex<UnderWay>; SHARDS],
    /// How many wait for operations to end: nobody, nearly always.
    waiting: AtomicUsize,
    ended: Notify,
}

impl Default for Votes {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, waiting: AtomicUsize::new(0), ended: Notify::new() }
    }
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    /// By the order in which they began.
    operations: BTreeSet<(PartitionId, u64)>,
}

#[derive(Debug, Default)]
struct Register {
    head: u64,
    held: BTreeMap<u64, usize>,
}

/// Something is in flight for as long as this lives.
#[derive(Debug)]
pub struct Guard {
    register: Arc<Mutex<Register>>,
    head: u64,
}

/// An operation counts votes for as long as this lives.
#[derive(Debug)]
pub struct Counting {
    votes: Arc<Votes>,
    operation: (PartitionId, u64),
}

impl Votes {
    fn under_way(&self, partition: PartitionId) -> MutexGuard<'_, UnderWay> {
        self.shards[partition.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for operations to end, for as long as this lives.
struct Waits<'a>(&'a Votes);

impl<'a> Waits<'a> {
    fn begin(votes: &'a Votes) -> Self {
        votes.waiting.fetch_add(1, Ordering::SeqCst);
        Self(votes)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Held {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A newer layout has been published: what begins from here on uses it.
    pub(super) fn published(&self, head: u64) {
        let mut register = self.register();
        register.head = register.head.max(head);
    }

    /// Something begins.
    #[must_use]
    pub fn take(&self) -> Guard {
        let mut register = self.register();
        let head = register.head;
        *register.held.entry(head).or_default() += 1;
        Guard { register: Arc::clone(&self.register), head }
    }

    /// The newest layout known to the oldest that is still in flight; none while nothing is.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.register().held.keys().next().copied()
    }

    /// How many are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.register().held.values().sum()
    }

    /// An operation in a partition begins, whose votes will be counted here.
    #[must_use]
    pub fn counting(&self, partition: PartitionId) -> Counting {
        let mut under_way = self.votes.under_way(partition);
        under_way.next += 1;
        let operation = (partition, under_way.next);
        under_way.operations.insert(operation);
        Counting { votes: Arc::clone(&self.votes), operation }
    }

    /// The number of the operation that began last, of those that share a lock with a partition's.
    #[must_use]
    pub fn last_begun(&self, partition: PartitionId) -> u64 {
        self.votes.under_way(partition).next
    }

    /// Waits until every operation of a partition up to this number has decided. What begins later is not waited for, so
    /// it ends: at the latest when the last of them meets its deadline.
    pub async fn counted(&self, partition: PartitionId, until: u64) {
        // Before the look, and in the same order as those that end: they take the lock, and then ask who waits.
        let _waits = Waits::begin(&self.votes);
        loop {
            // Before the look: nothing that ends in between is missed.
            let mut ended = std::pin::pin!(self.votes.ended.notified());
            ended.as_mut().enable();
            let counts =
                |under_way: &UnderWay| under_way.operations.range((partition, 0)..=(partition, until)).count() > 0;
            if !counts(&self.votes.under_way(partition)) {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.votes.under_way(self.operation.0).operations.remove(&self.operation);
        if self.votes.waiting.load(Ordering::SeqCst) > 0 {
            self.votes.ended.notify_waiters();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = register.held.get_mut(&self.head) {
            *count -= 1;
            if *count == 0 {
                register.held.remove(&self.head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_in_flight_is_told_until_it_has_ended() {
        let held = Held::default();
        held.published(1);
        let (one, two) = (held.take(), held.take());
        held.published(3);
        held.published(2);
        let three = held.take();
        assert_eq!((held.oldest(), held.count()), (Some(1), 3));
        drop(one);
        assert_eq!(held.oldest(), Some(1), "the other one is as old");
        drop(two);
        assert_eq!(held.oldest(), Some(3), "a head never goes back");
        drop(three);
        assert_eq!((held.oldest(), held.count()), (None, 0));
    }

    #[tokio::test]
    async fn what_counts_votes_now_is_waited_for_and_nothing_that_begins_later() {
        let held = Held::default();
        held.counted(PartitionId(1), held.last_begun(PartitionId(1))).await;
        let (first, second) = (held.counting(PartitionId(1)), held.counting(PartitionId(1)));
        let _elsewhere = held.counting(PartitionId(2));
        let mut counted = waiting(held.clone());
        assert!(counted.is_waiting().await);
        let _later = held.counting(PartitionId(1));
        drop(second);
        assert!(counted.is_waiting().await, "the first one still counts");
        drop(first);
        assert!(!counted.is_waiting().await);
    }

    /// Someone who waits for partition 1.
    struct Waiting(std::pin::Pin<Box<dyn Future<Output = ()>>>);

    fn waiting(held: Held) -> Waiting {
        let until = held.last_begun(PartitionId(1));
        Waiting(Box::pin(async move { held.counted(PartitionId(1), until).await }))
    }

    impl Waiting {
        async fn is_waiting(&mut self) -> bool {
            std::future::poll_fn(|cx| std::task::Poll::Ready(self.0.as_mut().poll(cx).is_pending())).await
        }
    }
}
