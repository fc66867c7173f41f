//! Purging: what was written to buckets before they were emptied or deleted leaves the disk; and where a bucket's n has
//! changed, its objects are hung under their new placement class, so that owners compare the right trees.
//!
//! Both are only tidying up: a generation that has ended is named by nobody and refused where it arrives, and a write
//! hangs what it finds. So this worker takes its time: one chunk of one partition at a time, and a pause after each.
//!
//! It begins once this node has *acked* the layout: nothing that it coordinated or accepted under an older one is in
//! flight then, so nothing comes behind it. How far it got is remembered by bucket, in whole ones: a restart begins the
//! bucket it was at again.
//!
//! Bounds: one worker, 256 deletions at a time; one remembered entry per bucket that was ever emptied or changed its n.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{info, warn};

use super::worker::{Roster, Worker};
use crate::cluster::LayoutKeeper;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::replica::{Fault, Replica};
use crate::ring::Layout;
use crate::storage::{Keyspace, StorageError};
use crate::types::Bucket;

const PREFIX: &[u8] = b"purged/";
const END: &[u8] = b"purged0";
/// After each chunk of deletions: clients come first.
const GIVE_WAY: Duration = Duration::from_millis(2);
/// Between two tries where a storage thread is busy; between two rounds of which the first failed it doubles.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// What a bucket has been tidied up to: its generation, its placement class.
type Tidied = (u64, u16);

struct Purger {
    env: Env,
    replica: Replica,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    worker: Worker,
    done: BTreeMap<Bucket, Tidied>,
}

/// Begins to purge, in a task of the node.
pub fn start(
    env: &Env,
    replica: Replica,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    roster: &Roster,
) -> Result<(), StorageError> {
    let mut done = BTreeMap::new();
    for entry in replica.storage().scan(Keyspace::Meta, Included(PREFIX), Excluded(END)) {
        let (key, value) = entry?;
        let bucket = std::str::from_utf8(&key[PREFIX.len()..]).ok().and_then(|name| Bucket::new(name).ok());
        let generation = value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let class = value.last_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        // What cannot be read was not done: it is done again.
        if let (Some(bucket), Some(generation), Some(class)) = (bucket, generation, class) {
            done.insert(bucket, (generation, class));
        }
    }
    let about = "Drops what was in buckets before they were emptied, and hangs objects where a changed n wants them.";
    let worker = roster.register("purging", about, None);
    let purger = Purger { env: env.clone(), replica, keeper, metrics, worker, done };
    env.tasks.spawn(purger.run());
    Ok(())
}

impl Purger {
    async fn run(mut self) {
        let (mut changes, mut again, mut bell) = (self.keeper.changes(), AGAIN, self.worker.bell());
        loop {
            self.worker.allowed().await;
            changes.mark_unchanged();
            if let Err(fault) = self.round().await {
                self.worker.failed(fault.to_string());
                warn!(%fault, "older generations of buckets could not be dropped yet");
                self.worker.rest(&mut bell, again).await;
                again = (2 * again).min(AGAIN_AT_MOST);
                continue;
            }
            again = AGAIN;
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = bell.rung() => {}
            }
        }
    }

    /// The buckets that are not tidied up to `layout`.
    fn due(&self, layout: &Layout) -> Vec<(Bucket, Tidied)> {
        let untouched = (layout.spec().default_bucket.generation, 0);
        let wanted = layout
            .spec()
            .buckets
            .iter()
            .map(|(bucket, settings)| (bucket, (settings.generation, layout.class_of(settings))));
        let due = wanted.filter(|(bucket, wanted)| self.done.get(bucket).unwrap_or(&untouched) != wanted);
        due.map(|(bucket, wanted)| (bucket.clone(), wanted)).collect()
    }

    async fn round(&mut self) -> Result<(), Fault> {
        let Some(known) = self.keeper.known() else { return Ok(()) };
        let layout = known.newest();
        if known.view().own().ack < layout.version() {
            return Ok(());
        }
        let due = self.due(layout);
        let left = &self.metrics.replica.purging;
        left.set(i64::try_from(due.len()).unwrap_or(i64::MAX));
        let (_run, total) = ((!due.is_empty()).then(|| self.worker.begin()), due.len() as u64);
        for (done, (bucket, wanted)) in (0..).zip(due) {
            self.worker.progress(done, total);
            let dropped = self.tidy(layout, &bucket, wanted).await?;
            let key = Bytes::from([PREFIX, bucket.as_str().as_bytes()].concat());
            let value = [&wanted.0.to_be_bytes()[..], &wanted.1.to_be_bytes()].concat();
            self.replica.remember(vec![(key, value.into())]).await?;
            if dropped > 0 {
                info!(%bucket, dropped, generation = wanted.0, "what was in it before is gone from the disk");
            }
            self.done.insert(bucket, wanted);
            self.metrics.replica.purging.dec();
        }
        Ok(())
    }

    async fn tidy(&self, layout: &Layout, bucket: &Bucket, (generation, class): Tidied) -> Result<u64, Fault> {
        let mut dropped = 0;
        for partition in layout.grid().partitions() {
            self.worker.allowed().await;
            loop {
                let (some, all) = self.patiently(|| self.replica.drop_before(partition, bucket, generation)).await?;
                dropped += some;
                self.metrics.replica.purged.inc_by(some);
                if some > 0 {
                    self.env.clock.sleep(GIVE_WAY).await;
                }
                if all {
                    break;
                }
            }
            self.patiently(|| self.replica.hang(partition, bucket, class)).await?;
        }
        Ok(dropped)
    }

    /// Gives way to clients where the storage threads have enough to do.
    async fn patiently<T, F: Future<Output = Result<T, Fault>>>(&self, job: impl Fn() -> F) -> Result<T, Fault> {
        loop {
            match job().await {
                Err(Fault::Overloaded) => self.env.clock.sleep(AGAIN).await,
                done => return done,
            }
        }
    }
}
