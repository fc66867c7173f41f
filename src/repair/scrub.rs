//! Scrub: everything stored here is read again, slowly, so that what a disk has spoilt is found while the other owners
//! still hold it.
//!
//! What the storage threads find they quarantine (`replica::scrub`), and the mender fetches it from every other owner; the
//! index and Merkle leaves are recomputed on the way, the index from the records: where they disagree, the record is
//! believed, and anti-entropy compares the partition. This worker goes from partition to partition, at its own rate, once
//! an interval, remembers on disk how far it is, and reports. All partitions that anything is stored of, owned or not. Since
//! when the first pass is waited for is said once, on disk, so that a node that is started again and again comes to it.
//!
//! Not found by it: what a cache of the operating system, or RocksDB's, still holds unspoilt (the next pass, or the one
//! after), and what is as well-formed as before and has an index entry to match.
//!
//! Bounds: one worker; a chunk of 256 keys or 256 KiB at a time and a pause after each; one report.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::rate::Rate;
use super::worker::{Roster, Worker};
use crate::cluster::LayoutKeeper;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::replica::{Fault, Leaves, Replica, Scrubbed};
use crate::storage::{Keyspace, StorageError};
use crate::types::{PartitionId, Wall};

const REPORT: &[u8] = b"scrub/report";
/// After each chunk: clients come first.
const GIVE_WAY: Duration = Duration::from_millis(2);
/// Between two tries where a storage thread is busy.
const AGAIN: Duration = Duration::from_millis(250);
/// After a pass that could not go on.
const RETRY: Duration = Duration::from_secs(60);
/// How far it is is remembered so often.
const REMEMBERED: Duration = Duration::from_secs(60);
/// A pass that was under way when the node stopped goes on after so long, at most.
const RESUMED: Duration = Duration::from_secs(60);
/// Damaged keys of a pass that are followed until they are mended.
const FOLLOWED: usize = 10_000;

/// How it is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubOptions {
    /// How often.
    pub interval: Duration,
    /// Most bytes a second that are read; 0: as many as can be.
    pub rate: u64,
}

/// What a pass came to so far: the one under way, else the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// When it began; none: there was none yet.
    pub began: Option<Wall>,
    /// When it ended; none: it is under way.
    pub ended: Option<Wall>,
    /// The partition that it goes on with.
    next: u32,
    /// Keys read.
    pub keys: u64,
    /// Bytes of records read.
    pub bytes: u64,
    /// Keys found damaged.
    pub found: u64,
    /// Of those, keys that still wait to be merged from the other owners.
    pub waiting: u64,
    /// Index entries that could not be read, or were missing, and were written again.
    pub index: u64,
    /// Index entries that said something else than their records, and were written again.
    #[serde(default)]
    pub disagreed: u64,
    /// Merkle leaves recomputed.
    pub leaves: u64,
    /// Partitions in which something could not even be named.
    pub gaps: u64,
}

/// What is remembered of it on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    report: Report,
    #[serde(flatten)]
    ahead: Ahead,
}

/// What is to be done yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Ahead {
    /// Since when the first pass is waited for: said once, however often the node is started until then.
    #[serde(default)]
    since: Option<Wall>,
    /// Partitions that the pass under way is to read once more, when what had no name there has been merged.
    #[serde(default)]
    again: BTreeSet<u32>,
}

/// Reads everything. Clones are the same worker.
#[derive(Clone)]
pub struct Scrub {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    interval: Duration,
    rate: Rate,
    worker: Worker,
    report: Mutex<Report>,
    ahead: Mutex<Ahead>,
    /// Keys that the last pass found damaged.
    found: Mutex<BTreeSet<Bytes>>,
}

impl std::fmt::Debug for Scrub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scrub").field(&self.report()).finish()
    }
}

impl Scrub {
    /// Begins to read, in a task of the node; goes on where an earlier life of it was.
    pub fn start(
        env: &Env,
        replica: Replica,
        keeper: LayoutKeeper,
        metrics: Arc<Metrics>,
        options: ScrubOptions,
        roster: &Roster,
    ) -> Result<Self, StorageError> {
        let ScrubOptions { interval, rate } = options;
        let about = "Reads everything stored here again, and has what is damaged fetched from the other owners.";
        let worker = roster.register("scrub", about, Some(rate));
        let remembered = replica.storage().get(Keyspace::Meta, REPORT)?;
        // One that cannot be read was none: a pass begins anew.
        let kept: Option<Kept> = remembered.and_then(|kept| serde_json::from_slice(&kept).ok());
        let Kept { mut report, ahead } = kept.unwrap_or_default();
        if report.waiting > 0 {
            // What was in quarantine is so no more, and not mended: it is to be found again, now.
            report = Report { began: report.began, ..Report::default() };
        }
        let (env, rate) = (env.clone(), Rate::new(env, rate, rate.max(1 << 20)));
        let (report, ahead, found) = (Mutex::new(report), Mutex::new(ahead), Mutex::default());
        let inner = Inner { env, replica, keeper, metrics, interval, rate, worker, report, ahead, found };
        let this = Self { inner: Arc::new(inner) };
        this.inner.env.tasks.spawn(this.clone().run());
        Ok(this)
    }

    /// What the pass under way, or the last one, came to.
    #[must_use]
    pub fn report(&self) -> Report {
        let health = self.inner.replica.health();
        let waiting = {
            let found = self.inner.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.iter().filter(|stored| health.is_quarantined(stored)).count() as u64
        };
        Report { waiting, ..*self.lock() }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.inner.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once, durably, since when the first pass is waited for.
    async fn wait_for_the_first(&self) -> Result<(), Fault> {
        if self.lock().began.is_some() || self.ahead().since.is_some() {
            return Ok(());
        }
        self.ahead().since = Some(self.inner.env.clock.wall());
        self.remember().await
    }

    async fn run(self) {
        let Inner { env, worker, .. } = &*self.inner;
        let (mut bell, mut retry) = (worker.bell(), false);
        match self.wait_for_the_first().await {
            Ok(()) => {}
            Err(Fault::Stopping) => return,
            // It is said again in the next life.
            Err(fault) => worker.failed(fault.to_string()),
        }
        loop {
            let rest = if retry { RETRY.min(self.inner.interval) } else { self.rest(env.clock.wall()) };
            worker.rest(&mut bell, rest).await;
            if self.inner.keeper.newest().is_none() {
                // In no cluster yet: there is nothing to read, and nobody to fetch it from.
                retry = true;
                continue;
            }
            let pass = {
                let _run = worker.begin();
                self.pass().await
            };
            retry = match pass {
                Ok(()) => false,
                Err(Fault::Stopping) => return,
                Err(fault) => {
                    warn!(%fault, "what is stored here cannot be read to the end now");
                    worker.failed(fault.to_string());
                    true
                }
            };
        }
    }

    /// A time of this node's own, within an interval: not all nodes read at once, nor all that were started at once.
    fn own(&self) -> Duration {
        let Inner { interval, replica, .. } = &*self.inner;
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis((replica.identity().store().bits() % u128::from(millis)) as u64)
    }

    /// How long until the next pass.
    fn rest(&self, now: Wall) -> Duration {
        let (interval, own) = (self.inner.interval, self.own());
        let Report { began, ended, .. } = *self.lock();
        let passed = |since: Wall| Duration::from_millis(now.0.saturating_sub(since.0));
        match (began, ended) {
            (None, _) => own.saturating_sub(self.ahead().since.map_or(Duration::ZERO, passed)),
            // It was under way when this node stopped.
            (Some(_), None) => (own / 64).min(RESUMED),
            (Some(_), Some(ended)) => (interval - own / 16).saturating_sub(passed(ended)),
        }
    }

    async fn pass(&self) -> Result<(), Fault> {
        let Inner { env, replica, keeper, metrics, worker, .. } = &*self.inner;
        let Some(layout) = keeper.newest() else { return Ok(()) };
        let first = {
            let report = *self.lock();
            if report.ended.is_none() { report.next } else { 0 }
        };
        if first == 0 {
            *self.lock() = Report { began: Some(env.clock.wall()), ..Report::default() };
            self.inner.found.lock().unwrap_or_else(PoisonError::into_inner).clear();
            *self.ahead() = Ahead::default();
            // Whoever is started from here on goes on with it.
            self.remember().await?;
        }
        let (q, mut remembered) = (layout.grid().q(), env.clock.now());
        for partition in (first..q).map(PartitionId) {
            worker.progress(u64::from(partition.0), u64::from(q));
            if self.scrub(partition).await? {
                self.ahead().again.insert(partition.0);
            }
            self.lock().next = partition.0 + 1;
            if env.clock.now().since(remembered) >= REMEMBERED {
                self.remember().await?;
                remembered = env.clock.now();
            }
        }
        // Once they are merged from their other owners, what lay behind the gap has a name.
        let until = env.clock.now() + RETRY;
        loop {
            // Forgotten once it has been read: what goes wrong here ends the try, and the next one goes on with it.
            let Some(partition) = self.ahead().again.first().copied().map(PartitionId) else { break };
            while !replica.health().is_synced(partition) && env.clock.now() < until {
                env.clock.sleep(AGAIN).await;
            }
            self.scrub(partition).await?;
            self.ahead().again.remove(&partition.0);
        }
        {
            let mut report = self.lock();
            (report.ended, report.next) = (Some(env.clock.wall()), 0);
        }
        self.remember().await?;
        metrics.scrub.passes.inc();
        let report = self.report();
        match report.found + report.index + report.disagreed + report.leaves + report.gaps {
            0 => info!(keys = report.keys, bytes = report.bytes, "all that is stored here was read, and is well"),
            _ => warn!(?report, "all that is stored here was read, and something was damaged"),
        }
        // What is quarantined is mended elsewhere: whoever starts next does not look for it again.
        let mut changes = replica.health().watch();
        let until = env.clock.now() + RETRY;
        while self.report().waiting > 0 && env.clock.now() < until {
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = env.clock.sleep(AGAIN) => {}
            }
        }
        if report.waiting > 0 { self.remember().await } else { Ok(()) }
    }

    async fn remember(&self) -> Result<(), Fault> {
        let kept = Kept { report: self.report(), ahead: self.ahead().clone() };
        let value = serde_json::to_vec(&kept).map_err(|wrong| Fault::Malformed(wrong.to_string()))?;
        let entry = (Bytes::from_static(REPORT), Bytes::from(value));
        self.patiently(|| self.inner.replica.remember(vec![entry.clone()])).await
    }

    /// Reads a partition; tells whether there is something in it that cannot even be named.
    async fn scrub(&self, partition: PartitionId) -> Result<bool, Fault> {
        let Inner { env, replica, metrics, worker, rate, .. } = &*self.inner;
        let (mut sums, mut unknown, mut after, mut gap) = (Leaves::new(), BTreeSet::new(), Bytes::new(), false);
        loop {
            worker.allowed().await;
            let Scrubbed {
                keys,
                bytes,
                damaged,
                index_mended,
                disagreed,
                leaves_mended,
                gap: here,
                leaves,
                unknown: some,
                next,
            } = self.patiently(|| replica.scrub(partition, after.clone())).await?;
            for (leaf, sum) in leaves {
                let of = sums.entry(leaf).or_default();
                *of = of.wrapping_add(sum);
            }
            unknown.extend(some);
            metrics.scrub.keys.inc_by(keys);
            metrics.scrub.bytes.inc_by(bytes);
            metrics.scrub.damaged.inc_by(damaged.len() as u64);
            metrics.scrub.index.inc_by(index_mended);
            metrics.scrub.disagreed.inc_by(disagreed);
            metrics.scrub.leaves.inc_by(leaves_mended);
            {
                let mut report = self.lock();
                report.keys += keys;
                report.bytes += bytes;
                report.found += damaged.len() as u64;
                report.index += index_mended;
                report.disagreed += disagreed;
                report.leaves += leaves_mended;
                if here && !gap {
                    report.gaps += 1;
                    metrics.scrub.gaps.inc();
                }
            }
            gap |= here;
            {
                let mut found = self.inner.found.lock().unwrap_or_else(PoisonError::into_inner);
                let room = FOLLOWED.saturating_sub(found.len());
                found.extend(damaged.into_iter().take(room));
            }
            rate.pace(bytes).await;
            env.clock.sleep(GIVE_WAY).await;
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        if gap {
            return Ok(true);
        }
        let now = self.patiently(|| replica.leaves(partition)).await?;
        let suspects = suspects(&now, &sums, &unknown);
        if suspects.is_empty() {
            return Ok(false);
        }
        let wrong = self.patiently(|| replica.recompute(partition, suspects.clone())).await?;
        metrics.scrub.leaves.inc_by(wrong);
        self.lock().leaves += wrong;
        Ok(false)
    }

    /// Gives way to clients where the storage threads have enough to do.
    async fn patiently<T, F: Future<Output = Result<T, Fault>>>(&self, job: impl Fn() -> F) -> Result<T, Fault> {
        loop {
            match job().await {
                Err(Fault::Overloaded) => self.inner.env.clock.sleep(AGAIN).await,
                done => return done,
            }
        }
    }
}

/// The leaves that are not what was summed up. Of those written meanwhile, most are right: whoever owns them decides.
fn suspects(now: &Leaves, sums: &Leaves, unknown: &BTreeSet<u8>) -> BTreeSet<Bytes> {
    let of = |leaves: &Leaves, leaf: &Bytes| leaves.get(leaf).copied().unwrap_or_default();
    let all = now.keys().chain(sums.keys());
    let known = all.filter(|leaf| leaf.last().is_none_or(|number| !unknown.contains(number)));
    known.filter(|leaf| of(sums, leaf) != of(now, leaf)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_is_remembered_and_a_report_without_it_is_read() {
        let report = Report { began: Some(Wall(5)), next: 7, found: 3, ..Report::default() };
        let ahead = Ahead { since: Some(Wall(9)), again: BTreeSet::from([2, 5]) };
        let kept = Kept { report, ahead };
        let read: Kept = serde_json::from_slice(&serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(read, kept);
        let old: Kept = serde_json::from_slice(&serde_json::to_vec(&report).unwrap()).unwrap();
        assert_eq!(old, Kept { report, ahead: Ahead::default() });
    }

    fn leaves(sums: &[(u8, u128)]) -> Leaves {
        sums.iter().map(|(leaf, sum)| (Bytes::copy_from_slice(&[0, *leaf]), *sum)).collect()
    }

    #[test]
    fn a_leaf_is_suspect_that_is_not_what_its_objects_were_summed_up_to() {
        let now = leaves(&[(1, 10), (2, 21), (3, 30), (5, 50), (6, 60)]);
        let sums = leaves(&[(1, 10), (2, 20), (3, 31), (4, 40), (5, 51)]);
        let found = suspects(&now, &sums, &BTreeSet::from([5]));
        let found: Vec<u8> = found.iter().filter_map(|leaf| leaf.last().copied()).collect();
        assert_eq!(found, [2, 3, 4, 6], "of 5 not all is known");
    }
}
