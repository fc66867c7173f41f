//! Transfers: what a layout gives this node is merged from *every* owner of the older live layouts.
//!
//! What is still missing, and from whom, is `ring::sync`'s to say; this worker copies it, a partition and source at a
//! time, page by page, and remembers each page's end on disk, so that a restart goes on where it stopped. A source is
//! read once it has acked the layout: its first page says so itself. What it takes in from then on comes here by the
//! write path. When nothing is missing the layout keeper claims the layout ([`View::may_claim`](crate::ring::View)).
//!
//! An owner whose directory went back behind a collection copies nothing and learns nothing before it has given up what it
//! holds: each page tells what its source has sealed, and a lesson would hide that this node has forgotten its mark.
//!
//! Every page travels in a frame with a checksum, and each record is decoded and merged like any other state.
//!
//! A flush of the disk is the dear part where partitions are small: so there is one for each page that another one
//! follows, and one for all transfers that have ended meanwhile. Each is of a commit that remembers how far this is, and
//! what was merged before is flushed with it.
//!
//! Clients come first: while any member answers some, a transfer works a third of the time.
//!
//! Bounds: `AT_ONCE` transfers; one page of 1 MiB and 64 merges under way in each; a rate in bytes a second that all
//! share; after a failure a transfer waits for the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use tracing::{debug, info, warn};

use super::mend::merge_into;
use super::rate::Rate;
use super::worker::{Roster, Worker};
use crate::cluster::{LayoutKeeper, resume_key};
use crate::collect::{Epoch, Lesson};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replica::{Cause, Fault, Replica};
use crate::ring::sync::Gain;
use crate::storage::Keyspace;
use crate::transport::messages::{Ask, Fetch, Page, PageEntry, Tell};
use crate::types::{Mono, PartitionId, StoreId};

const CALL_FOR: Duration = Duration::from_secs(5);
const PAGE: u32 = 1 << 20;
/// Transfers at once.
const AT_ONCE: usize = 4;
/// Merges under way at once, per transfer.
const MERGES: usize = 64;
const GIVE_WAY: Duration = Duration::from_millis(20);
/// While clients are answered anywhere in the cluster, each transfer rests so many times as long as it worked: there may be
/// machines that work for both.
const REST: u32 = 2;
/// A page that took long did so for other reasons than its work.
const REST_AT_MOST: Duration = Duration::from_millis(500);
/// Between two rounds at most, while something is missing.
const ROUND: Duration = Duration::from_millis(500);

/// What is under way for the newest layout: an immutable snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The layout it is for.
    pub layout: u64,
    /// Partition and source pairs to be copied, those done included.
    pub total: u64,
    /// Those done.
    pub done: u64,
    /// Objects merged.
    pub objects: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// When the first of them began.
    pub began: Option<Mono>,
    /// Why the last one that failed did.
    pub trouble: Option<String>,
}

/// Copies what the layouts give this node. Clones are the same worker.
#[derive(Clone)]
pub struct Transfers {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    window: Duration,
    rate: Rate,
    worker: Worker,
    progress: Mutex<Progress>,
}

/// Why a transfer stopped.
#[derive(Debug)]
enum Stopped {
    /// The source has not acked the layout, or another one is the newest by now: later.
    NotYet,
    Failed(String),
}

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Transfers").field(&*self.progress()).finish()
    }
}

impl Transfers {
    /// Begins to copy, in a task of the node; `rate`: at most so many bytes a second, 0: as many as there are.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "what a worker works with, and its setting")]
    pub fn start(
        env: &Env,
        replica: Replica,
        peers: Peers,
        keeper: LayoutKeeper,
        metrics: Arc<Metrics>,
        window: Duration,
        rate: u64,
        roster: &Roster,
    ) -> Self {
        let about = "Copies what layouts give this node from every owner of the older ones.";
        let worker = roster.register("transfers", about, Some(rate));
        let rate = Rate::new(env, rate, rate.max(u64::from(PAGE)));
        let progress = Mutex::default();
        let inner = Inner { env: env.clone(), replica, peers, keeper, metrics, window, rate, worker, progress };
        let this = Self { inner: Arc::new(inner) };
        env.tasks.spawn(this.clone().run());
        this
    }

    /// How far it is.
    #[must_use]
    pub fn now(&self) -> Progress {
        self.progress().clone()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.inner.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self) {
        let Inner { env, keeper, worker, .. } = &*self.inner;
        let (mut changes, mut bell, mut run) = (keeper.changes(), worker.bell(), None);
        loop {
            worker.allowed().await;
            changes.mark_unchanged();
            if run.is_none() && self.gains() {
                run = Some(worker.begin());
            }
            let missing = self.round().await;
            if !missing {
                run = None;
            }
            // Where nothing is missing only a change can bring work.
            let look_again = if missing { ROUND } else { Duration::from_secs(60) };
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = bell.rung() => {}
                () = env.clock.sleep(look_again) => {}
            }
        }
    }

    /// Whether layouts give this node something that it has not merged yet.
    fn gains(&self) -> bool {
        let known = self.inner.keeper.known().filter(|known| known.is_member());
        known.is_some_and(|known| !known.view().to_merge(&known.merged).is_empty())
    }

    /// Copies what can be copied now; tells whether anything is missing still.
    async fn round(&self) -> bool {
        let Inner { keeper, metrics, env, .. } = &*self.inner;
        let Some(known) = keeper.known().filter(|known| known.is_member()) else { return false };
        let (view, layout) = (known.view(), known.newest().version());
        let gains = view.to_merge(&known.merged);
        metrics.layout.gains_left.set(i64::try_from(gains.len()).unwrap_or(i64::MAX));
        let left: u64 = gains.iter().map(|gain| gain.sources.len() as u64).sum();
        {
            let mut progress = self.progress();
            if progress.layout != layout {
                *progress = Progress { layout, total: left, began: Some(env.clock.now()), ..Progress::default() };
            }
            progress.total = progress.total.max(left);
            progress.done = progress.total - left;
            if left > 0 {
                self.inner.worker.progress(progress.done, progress.total);
            }
        }
        if gains.is_empty() {
            let mut progress = self.progress();
            if progress.began.take().is_some() && progress.total > 0 {
                let Progress { layout, objects, bytes, .. } = *progress;
                info!(layout, objects, bytes, "holds what the layout gives it");
            }
            return false;
        }
        let ready = |source: &StoreId| {
            self.may_be_read(known.trackers.of(*source).ack, layout) && self.inner.peers.up().is_up(*source)
        };
        let jobs = in_turns(&gains).into_iter().filter(|(_, source)| ready(source));
        let jobs: Vec<(PartitionId, StoreId)> = jobs.collect();
        let mut running = futures_util::stream::iter(jobs.into_iter().map(|(partition, source)| {
            let this = self.clone();
            async move { (partition, source, this.copy(partition, source, layout).await) }
        }))
        .buffer_unordered(AT_ONCE)
        .ready_chunks(AT_ONCE);
        while let Some(ended) = running.next().await {
            let mut whole = Vec::new();
            for (partition, source, ended) in ended {
                match ended {
                    Ok(resumable) => whole.push((partition, source, resumable)),
                    Err(stopped) => self.stopped(partition, source, layout, stopped),
                }
            }
            self.whole(whole, layout).await;
            if keeper.newest().is_none_or(|newest| newest.version() != layout) {
                // Something else is wanted by now.
                return true;
            }
        }
        true
    }

    /// Remembers that these are merged whole; of each, whether it left a point at which to resume.
    async fn whole(&self, whole: Vec<(PartitionId, StoreId, bool)>, layout: u64) {
        let Inner { replica, keeper, metrics, .. } = &*self.inner;
        let pairs: Vec<(PartitionId, StoreId)> =
            whole.iter().map(|(partition, source, _)| (*partition, *source)).collect();
        let resumable = whole.iter().filter(|(.., resumable)| *resumable);
        let points = resumable.map(|(partition, source, _)| resume_key(*partition, *source)).collect();
        let remembered = match keeper.merged(&pairs, layout).await {
            Ok(true) => replica.unremember(points).await,
            Ok(false) => {
                return pairs.into_iter().for_each(|(at, from)| self.stopped(at, from, layout, Stopped::NotYet));
            }
            Err(fault) => Err(fault),
        };
        for (partition, source) in pairs {
            match &remembered {
                Ok(()) => {
                    let mut progress = self.progress();
                    progress.done += 1;
                    self.inner.worker.progress(progress.done, progress.total);
                    drop(progress);
                    metrics.layout.transfers.inc();
                    debug!(%partition, %source, layout, "merged whole");
                }
                Err(fault) => self.stopped(partition, source, layout, Stopped::Failed(format!("{source}: {fault}"))),
            }
        }
    }

    fn stopped(&self, partition: PartitionId, source: StoreId, layout: u64, stopped: Stopped) {
        match stopped {
            Stopped::NotYet => debug!(%partition, %source, layout, "nothing to be merged for this layout now"),
            Stopped::Failed(why) => {
                self.inner.metrics.layout.transfer_failures.inc();
                warn!(%partition, %source, why, "a transfer stopped, and goes on later");
                self.inner.worker.failed(why.clone());
                self.progress().trouble = Some(why);
            }
        }
    }

    /// Whether a source that has acked so much is worth reading for a layout.
    fn may_be_read(&self, acked: u64, layout: u64) -> bool {
        acked >= layout || self.inner.env.buggify.breaks("a source is read once it has acked")
    }

    /// Merges all that one source holds of a partition, and remembers how far it got, but not that it is whole; tells
    /// whether there is a point to be forgotten then.
    async fn copy(&self, partition: PartitionId, source: StoreId, layout: u64) -> Result<bool, Stopped> {
        let Inner { replica, peers, keeper, metrics, env, .. } = &*self.inner;
        let failed = |why: String| Stopped::Failed(format!("{source}: {why}"));
        let resume = resume_key(partition, source);
        // Where an earlier try for this layout got to.
        let mut after = self.point(&resume).filter(|(_, of)| *of == layout).map(|(after, _)| after).unwrap_or_default();
        loop {
            // Before anything is held: a pause here keeps no newer layout waiting.
            self.inner.worker.allowed().await;
            let began = env.clock.now();
            // What is merged here is in flight: newer layouts are not acked before it has ended.
            let guard = keeper.held().take();
            if keeper.newest().is_none_or(|newest| newest.version() != layout) {
                // What this node is given, and keeps of what it merged, is another question by now.
                return Err(Stopped::NotYet);
            }
            let (held, gone_through) = match replica.inventory(partition, after.clone(), PAGE as usize).await {
                Ok((held, bytes)) => (held.encode(), bytes as u64),
                Err(Fault::Overloaded) => {
                    drop(guard);
                    env.clock.sleep(GIVE_WAY).await;
                    continue;
                }
                Err(fault) => return Err(failed(fault.to_string())),
            };
            let fetch = Fetch { partition: partition.0, after: after.clone(), max_bytes: PAGE, held };
            let page = match peers.call(source, Ask::Fetch(fetch), layout, CALL_FOR).await.map(|reply| reply.tell) {
                Ok(Some(Tell::Page(page))) => page,
                Ok(Some(Tell::Refused(refused))) => return Err(failed(refused.detail)),
                Ok(_) => return Err(failed("it answers something else".into())),
                Err(why) => return Err(failed(why.to_string())),
            };
            let Page { entries, next, unreadable, acked, epoch, sealed, lesson } = page;
            if !self.may_be_read(acked, layout) {
                return Err(Stopped::NotYet);
            }
            // Before it learns: from then on it seems to remember. What it holds goes first (`mend`).
            if replica.is_behind(partition, Epoch(sealed)) && !env.buggify.breaks("who is behind does not learn") {
                replica.distrust(partition).await.map_err(|fault| failed(fault.to_string()))?;
                return Err(failed("this directory went back behind a collection: its copy starts over first".into()));
            }
            if !unreadable.is_empty() {
                // What it cannot read it may have acknowledged: it has to be mended first.
                return Err(failed(format!("it cannot read {} of its keys", unreadable.len())));
            }
            if after.is_empty() {
                let Some(lesson) = lesson else {
                    let why = "a round of collection is to be finished there first, or the partition synced";
                    return Err(failed(why.into()));
                };
                let lesson = Lesson::decode(lesson).map_err(|bad| failed(bad.to_string()))?;
                if !env.buggify.breaks("a store that gains a partition learns its epoch") {
                    replica.learn(partition, lesson).await.map_err(|fault| failed(fault.to_string()))?;
                }
            }
            let (objects, bytes) = (entries.len() as u64, entries.iter().map(|entry| entry.record.len() as u64).sum());
            self.merge_all(entries, Epoch(epoch)).await.map_err(failed)?;
            metrics.layout.transferred_objects.inc_by(objects);
            metrics.layout.transferred_bytes.inc_by(bytes);
            {
                let mut progress = self.progress();
                progress.objects += objects;
                progress.bytes += bytes;
            }
            if let Some(next) = &next {
                let point = (resume.clone(), point(layout, next));
                replica.remember(vec![point]).await.map_err(|fault| failed(fault.to_string()))?;
            }
            drop(guard);
            let worked = env.clock.now().since(began);
            // Nor does a pace. The last page is paid for, too: of most partitions there is no other; and what was here already
            // was read on both sides.
            self.inner.rate.pace(bytes + gone_through).await;
            if peers.is_busy() {
                env.clock.sleep((worked * REST).min(REST_AT_MOST)).await;
            }
            let Some(next) = next else { return Ok(!after.is_empty()) };
            after = next;
        }
    }

    async fn merge_all(&self, entries: Vec<PageEntry>, epoch: Epoch) -> Result<(), String> {
        let Inner { replica, keeper, window, env, .. } = &*self.inner;
        let Some(layout) = keeper.newest() else { return Err("this node is in no cluster".into()) };
        let merges = entries.into_iter().map(|PageEntry { target, record }| {
            let layout = layout.clone();
            async move {
                loop {
                    let (target, record) = (target.clone(), record.clone());
                    match merge_into(replica, &layout, *window, target, (record, epoch), Cause::Repair).await {
                        // Clients first.
                        Err(Fault::Overloaded) => env.clock.sleep(GIVE_WAY).await,
                        merged => return merged,
                    }
                }
            }
        });
        let mut merging = futures_util::stream::iter(merges).buffer_unordered(MERGES);
        while let Some(merged) = merging.next().await {
            match merged {
                Ok(()) => {}
                // Also of a key that is quarantined here: once that is mended it is merged.
                Err(fault) => return Err(fault.to_string()),
            }
        }
        Ok(())
    }

    /// Where an earlier try of a transfer got to, and for which layout.
    fn point(&self, resume: &Bytes) -> Option<(Bytes, u64)> {
        let value = self.inner.replica.storage().get(Keyspace::Meta, resume).ok()??;
        let (layout, after) = value.split_at_checked(8)?;
        Some((Bytes::copy_from_slice(after), u64::from_be_bytes(layout.try_into().ok()?)))
    }

    /// Partitions that are still missing something, by source: for people.
    #[must_use]
    pub fn missing(&self) -> BTreeMap<StoreId, BTreeSet<PartitionId>> {
        let Some(known) = self.inner.keeper.known() else { return BTreeMap::new() };
        let mut missing: BTreeMap<StoreId, BTreeSet<PartitionId>> = BTreeMap::new();
        for gain in known.view().to_merge(&known.merged) {
            for source in gain.sources {
                missing.entry(source).or_default().insert(gain.partition);
            }
        }
        missing
    }
}

/// What to copy, each partition from one source before it is copied from the next: from there only what differs is sent.
/// Partitions begin with different sources, so that all of them have something to do.
fn in_turns(gains: &[Gain]) -> Vec<(PartitionId, StoreId)> {
    let most = gains.iter().map(|gain| gain.sources.len()).max().unwrap_or_default();
    let turn = |turn: usize| {
        gains.iter().enumerate().filter(move |(_, gain)| turn < gain.sources.len()).filter_map(move |(at, gain)| {
            let source = gain.sources.iter().nth((at + turn) % gain.sources.len())?;
            Some((gain.partition, *source))
        })
    };
    (0..most).flat_map(turn).collect()
}

fn point(layout: u64, after: &Bytes) -> Bytes {
    let mut point = BytesMut::with_capacity(8 + after.len());
    point.put_u64(layout);
    point.put_slice(after);
    point.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_every_partition_has_its_turn_once_and_no_partition_two_in_a_row() {
        let stores = |from: u128, to: u128| (from..to).map(StoreId::from_bits).collect::<BTreeSet<StoreId>>();
        let gain = |partition, sources| Gain { partition: PartitionId(partition), sources };
        let gains = [gain(0, stores(1, 4)), gain(1, stores(1, 4)), gain(2, stores(2, 4)), gain(3, stores(3, 4))];
        let jobs = in_turns(&gains);
        let wanted: BTreeSet<(PartitionId, StoreId)> =
            gains.iter().flat_map(|gain| gain.sources.iter().map(|source| (gain.partition, *source))).collect();
        assert_eq!(jobs.len(), wanted.len());
        assert_eq!(jobs.iter().copied().collect::<BTreeSet<_>>(), wanted);
        assert!(jobs.windows(2).all(|two| two[0].0 != two[1].0), "{jobs:?}");
        let first: BTreeSet<StoreId> = jobs[..4].iter().map(|(_, source)| *source).collect();
        assert!(first.len() > 1, "all begin with one source: {jobs:?}");
        assert!(in_turns(&[]).is_empty());
    }
}
