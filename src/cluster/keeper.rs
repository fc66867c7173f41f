//! The layout keeper: holds the chain, this node's tracker and what others said of theirs, and publishes them as one
//! snapshot ([`Known`]).
//!
//! Which layout may come, what may be said of it and when it is dropped is `ring`'s to decide; this file flushes before
//! anything is used or told, in one order: whoever changes what is on disk holds the *pen* throughout. So no tracker
//! moves between what an acceptor vouches for and its flush, and no layout comes between a deletion and the chain that
//! made it necessary.
//!
//! It is driven by what changes: a chain or a tracker that was heard, a write that has ended, a transfer that is done;
//! and looks four times a second anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::held::Held;
use super::known::Known;
use super::points::{MERGED, POINT, Point, point_key, points};
use super::{Directory, Standing};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::paxos::Proposals;
use crate::peers::Peers;
use crate::replica::{Fault, Replica};
use crate::ring::live::holders;
use crate::ring::sync::{Merged, placements, starts_afresh};
use crate::ring::trackers::{HeardTracker, OwnTracker};
use crate::ring::{Chain, ChainError, Layout, Tracker, Trackers};
use crate::storage::Keyspace;
use crate::transport::Hello;
use crate::transport::messages::layouts::{Layouts, LayoutsTold, TrackerOf};
use crate::transport::messages::{Ask, Tell};
use crate::types::{Bucket, Mono, PartitionId, StoreId};

const CHAIN: &[u8] = b"layout/chain";
const TRACKER: &[u8] = b"layout/tracker";
const PLEDGED: &[u8] = b"layout/pledged";

/// How often it looks by itself.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long somebody who knows more is asked.
const ASK_FOR: Duration = Duration::from_millis(500);
/// A question this old need not be remembered.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// What only the holder of the pen changes.
#[derive(Debug, Default)]
pub(super) struct Pen {
    pub(super) own: OwnTracker,
    /// The version of the newest successor this store has accepted in a decision.
    pub(super) pledged: u64,
}

/// Keeps the layouts. Clones are the same keeper.
#[derive(Clone)]
pub struct LayoutKeeper {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) env: Env,
    pub(super) replica: Replica,
    pub(super) peers: Peers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) me: StoreId,
    known: ArcSwapOption<Known>,
    /// Held while a snapshot is made from the one before.
    publishing: Mutex<()>,
    pub(super) pen: tokio::sync::Mutex<Pen>,
    held: Held,
    /// What the pen says was pledged, for whoever only looks.
    pledged: AtomicU64,
    /// Whether this store has no voice, for whoever only looks.
    pub(super) mute: AtomicBool,
    /// What this node proposes.
    pub(super) proposals: Mutex<Proposals>,
    standing: watch::Sender<Standing>,
    changes: watch::Sender<u64>,
    /// One question to somebody who knows more at a time; when each was last asked.
    asking: tokio::sync::Mutex<BTreeMap<StoreId, Mono>>,
}

/// Why a chain was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Untaken {
    /// It is no successor of what is known.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It could not be flushed.
    #[error("it could not be stored: {0}")]
    Fault(#[from] Fault),
    /// Nobody answered.
    #[error("{0}")]
    Unheard(String),
}

impl std::fmt::Debug for LayoutKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayoutKeeper").field("standing", &*self.inner.standing.borrow()).finish_non_exhaustive()
    }
}

impl LayoutKeeper {
    /// The keeper of a node's layouts; none is in force yet.
    #[must_use]
    pub fn new(env: &Env, replica: Replica, peers: Peers, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            env: env.clone(),
            peers,
            metrics,
            me: replica.identity().store(),
            replica,
            known: ArcSwapOption::empty(),
            publishing: Mutex::default(),
            pen: tokio::sync::Mutex::default(),
            held: Held::default(),
            pledged: AtomicU64::new(0),
            mute: AtomicBool::new(false),
            proposals: Mutex::default(),
            standing: watch::channel(Standing::Starting).0,
            changes: watch::channel(0).0,
            asking: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the data directory holds.
    pub fn directory(&self) -> Result<Directory, Fault> {
        use std::ops::Bound::Unbounded;
        let storage = self.inner.replica.storage();
        if let Some(bytes) = storage.get(Keyspace::Meta, CHAIN)? {
            let chain = Chain::decode(&bytes).map_err(|bad| Fault::Malformed(format!("the stored layouts: {bad}")))?;
            return Ok(Directory::Ring(chain));
        }
        match storage.scan(Keyspace::Objects, Unbounded, Unbounded).next() {
            None => Ok(Directory::Fresh),
            Some(_) => Ok(Directory::DataOnly),
        }
    }

    /// Flushes the chain this node begins with, before anybody is told of it.
    pub async fn flush(&self, chain: &Chain) -> Result<(), Fault> {
        let replica = &self.inner.replica;
        let since = replica.begins_under(chain.newest().version());
        replica.remember(vec![(Bytes::from_static(CHAIN), chain.encode()), since]).await
    }

    /// Puts a flushed chain in force, with what the directory remembers beside it.
    pub async fn begin(&self, chain: Chain) -> Result<(), Fault> {
        let inner = &self.inner;
        let mut pen = inner.pen.lock().await;
        let storage = inner.replica.storage();
        let bad = |what: &str| Fault::Malformed(format!("the stored {what} cannot be read"));
        let own = match storage.get(Keyspace::Meta, TRACKER)? {
            Some(bytes) => Tracker::decode(&bytes).map_err(|_| bad("tracker"))?,
            // Before layout 1 there was nothing: it is in force at once.
            None if chain.newest().version() == 1 => {
                let tracker = Tracker { ack: 1, synced: [1].into(), sync_ack: 1 };
                inner.replica.remember(vec![(Bytes::from_static(TRACKER), tracker.encode())]).await?;
                tracker
            }
            None => Tracker::default(),
        };
        let pledged = match storage.get(Keyspace::Meta, PLEDGED)? {
            Some(bytes) => u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| bad("pledge"))?),
            None => 0,
        };
        let mut merged = Merged::default();
        for point in points(&**inner.replica.storage(), MERGED)? {
            merged.record(point.partition, point.source, point.layout);
        }
        let mut trackers = Trackers::default();
        trackers.set_own(inner.me, &own);
        *pen = Pen { own: OwnTracker::stored(own), pledged };
        inner.pledged.store(pledged, Ordering::Release);
        self.publish(|_| Known::new(Arc::new(chain), Arc::new(trackers), Arc::new(merged), inner.me));
        Ok(())
    }

    /// What this node knows of layouts; none before it is in a cluster.
    #[must_use]
    pub fn known(&self) -> Option<Arc<Known>> {
        self.inner.known.load_full()
    }

    /// The same for a look that is soon over.
    pub fn look(&self) -> arc_swap::Guard<Option<Arc<Known>>> {
        self.inner.known.load()
    }

    /// The newest layout; none before there is one.
    #[must_use]
    pub fn newest(&self) -> Option<Layout> {
        self.look().as_ref().map(|known| known.newest().clone())
    }

    /// What is in flight here.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.inner.held
    }

    /// Says where this node stands. Who was refused stays out until the process is started again.
    pub fn stand(&self, standing: Standing) {
        self.inner.standing.send_if_modified(|now| {
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
        self.inner.standing.borrow().clone()
    }

    /// Told whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.inner.standing.subscribe()
    }

    /// Told whenever what is known of layouts changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Makes the next snapshot from the one before.
    fn publish(&self, next: impl FnOnce(Option<&Known>) -> Known) {
        let inner = &self.inner;
        let _one_at_a_time = inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(next(inner.known.load().as_deref()));
        let head = next.newest().version();
        let same = inner.known.load().as_ref().is_some_and(|before| Arc::ptr_eq(&before.chain, &next.chain));
        if !same {
            // First: whoever finds a member in the snapshot can call it.
            inner.peers.follow(Arc::clone(&next.chain));
        }
        inner.metrics.layout.newest.set(i64::try_from(head).unwrap_or(i64::MAX));
        inner.metrics.layout.live.set(i64::try_from(next.chain.live().len()).unwrap_or(i64::MAX));
        // It is flushed. Before the snapshot: whoever goes by it reads under its epoch.
        let gained = if next.chain.live().len() > 1 && next.is_member() {
            next.view().to_merge(&next.merged).into_iter().map(|gain| gain.partition).collect()
        } else {
            BTreeSet::new()
        };
        inner.replica.follow_layout(head, gained);
        inner.known.store(Some(next));
        // After the snapshot: whoever takes a guard under the new head finds it.
        inner.held.published(head);
        inner.changes.send_modify(|count| *count += 1);
    }

    /// Makes the next snapshot from the one before, whatever anybody else has published meanwhile.
    fn change(&self, change: impl FnOnce(&Known) -> (Option<Chain>, Option<Trackers>, Option<Merged>)) {
        self.publish(|before| {
            let Some(before) = before else { unreachable!("what changes was there before") };
            let (chain, trackers, merged) = change(before);
            Known::new(
                chain.map_or_else(|| Arc::clone(&before.chain), Arc::new),
                trackers.map_or_else(|| Arc::clone(&before.trackers), Arc::new),
                merged.map_or_else(|| Arc::clone(&before.merged), Arc::new),
                before.me,
            )
        });
    }

    /// Flushes this node's tracker as raised by what it may say now, and publishes it.
    async fn raise(&self, pen: &mut Pen, by: &Tracker) -> Result<bool, Fault> {
        let Some(raised) = pen.own.raise(by).cloned() else { return Ok(false) };
        if let Err(fault) = self.inner.replica.remember(vec![(Bytes::from_static(TRACKER), raised.encode())]).await {
            pen.own.not_flushed();
            return Err(fault);
        }
        pen.own.flushed();
        info!(ack = raised.ack, synced = ?raised.synced, sync_ack = raised.sync_ack, "follows the layouts");
        let (me, told) = (self.inner.me, pen.own.told().clone());
        self.change(|known| {
            let mut trackers = (*known.trackers).clone();
            trackers.set_own(me, &told);
            (None, Some(trackers), None)
        });
        Ok(true)
    }

    /// Drives what follows from what is known, until the node ends.
    pub fn drive(&self) {
        let (this, keeper) = (self.clone(), self.clone());
        self.inner.env.tasks.spawn(self.clone().keep_voice());
        let mut ahead = self.inner.peers.ahead();
        self.inner.env.tasks.spawn(async move {
            let mut changes = this.changes();
            loop {
                changes.mark_unchanged();
                if let Err(fault) = this.go_on().await {
                    error!(%fault, "what this node knows of layouts could not be stored");
                }
                tokio::select! {
                    biased;
                    changed = changes.changed() => if changed.is_err() { return },
                    () = this.inner.env.clock.sleep(LOOK_EVERY) => {}
                }
            }
        });
        self.inner.env.tasks.spawn(async move {
            loop {
                let known = *ahead.borrow_and_update();
                if let Some(other) = known.filter(|other| keeper.newest().is_some_and(|l| l.version() < other.head))
                    && let Err(why) = keeper.catch_up(other.store, other.head).await
                {
                    warn!(store = %other.store, head = other.head, %why, "a newer layout could not be learnt yet");
                }
                tokio::select! {
                    biased;
                    changed = ahead.changed() => if changed.is_err() { return },
                    () = keeper.inner.env.clock.sleep(LOOK_EVERY) => {}
                }
            }
        });
    }

    /// Does what may be done by what is known: ack, claim, sync_ack, drop.
    async fn go_on(&self) -> Result<(), Fault> {
        let inner = &self.inner;
        loop {
            let mut pen = inner.pen.lock().await;
            let Some(known) = self.known() else { return Ok(()) };
            let view = known.view();
            if let Some(version) = view.may_drop_before() {
                let mut chain = (*known.chain).clone();
                chain.drop_before(version);
                info!(version, "older layouts are dropped: every member reads in this one, or a later one");
                self.take(&known, chain).await?;
                pen.own.forget_before(version);
                continue;
            }
            if !known.is_member() {
                return Ok(());
            }
            let mut by = view.own().clone();
            if let Some(version) = view.may_ack(inner.held.oldest()) {
                by.ack = version;
            }
            let mut claims = view.may_claim(&known.merged);
            if inner.env.buggify.breaks("a store votes once it holds what it is given") {
                claims.extend(known.live().iter().filter(|version| !by.synced.contains(version)));
            }
            if !claims.is_empty() {
                // What was merged, whatever `durability` says; then the word for it.
                inner.replica.flush().await?;
                by.synced.extend(&claims);
            }
            if let Some(version) = view.may_sync_ack(self.bound_by(&pen, known.newest())?)
                && !self.owes(&known)
            {
                by.sync_ack = version;
            }
            if !self.raise(&mut pen, &by).await? {
                return Ok(());
            }
        }
    }

    /// Whether this node leaves, and keeps what counted towards a quorum for owners that have not got it yet: the change
    /// waits for that, since who has left is heard no more. It keeps nothing new, for it is no fallback any more.
    fn owes(&self, known: &Known) -> bool {
        let newest = known.newest();
        let leaves = newest.leaving().any(|member| member.store == self.inner.me);
        let waits = !self.inner.env.buggify.breaks("who leaves hands over what it owes");
        leaves && waits && self.inner.replica.hints().owed() > 0
    }

    /// Takes a chain that goes further than the one known. The caller holds the pen.
    ///
    /// What this node is given of what it did not own before it deletes first, under new tenures: only then is the chain
    /// flushed, so that a crash in between leaves the same to be done. What it owned by its own account it keeps, also
    /// where that account is an old one.
    async fn take(&self, known: &Known, chain: Chain) -> Result<(), Fault> {
        let inner = &self.inner;
        let before = known.newest().version();
        let member = chain.newest().member_by_store(inner.me).is_some();
        if member && chain.live_from() > before {
            // Older layouts are dropped when every member reads in a later one, and this node knows of none.
            error!("the others are further than this node can have been left behind: its directory went back");
            inner.replica.roll_back().await?;
        }
        let fresh: BTreeSet<PartitionId> = if chain.newest().version() > before {
            let classes = placements(chain.live());
            let given = |partition: &PartitionId| {
                classes.iter().any(|bucket| is_given(known, &chain, *partition, bucket.as_ref()))
            };
            chain.newest().grid().partitions().filter(given).collect()
        } else {
            BTreeSet::new()
        };
        let of_old: Vec<Bytes> = if fresh.is_empty() && chain.live_from() == known.chain.live_from() {
            Vec::new()
        } else {
            // What was merged for layouts that are complete, or into what is deleted now.
            let past = |point: &Point| point.layout <= chain.live_from() || fresh.contains(&point.partition);
            let all = points(&**inner.replica.storage(), MERGED)?
                .into_iter()
                .chain(points(&**inner.replica.storage(), POINT)?);
            all.filter(past).map(|point| point.key).collect()
        };
        inner.replica.unremember(of_old).await?;
        if chain.newest().version() > before {
            inner.replica.close_rounds(chain.newest().version()).await?;
        }
        if !fresh.is_empty() {
            inner.replica.new_tenures(fresh.iter().copied().collect()).await?;
            let (was, will) = (Arc::new(known.clone()), Arc::new(chain.clone()));
            for partition in &fresh {
                let (was, will, partition) = (Arc::clone(&was), Arc::clone(&will), *partition);
                let which = move |bucket: &Bucket| {
                    is_given(&was, &will, partition, Some(bucket)) && !has_lost_most(&was, &will, partition, bucket)
                };
                inner.replica.forget(partition, Arc::new(which)).await?;
                if placements(known.chain.live()).iter().all(|of| known.view().may_delete(partition, of.as_ref())) {
                    inner.replica.begin_anew(partition, chain.newest().version()).await?;
                }
            }
        }
        inner.replica.remember(vec![(Bytes::from_static(CHAIN), chain.encode())]).await?;
        let (version, hash) = (chain.newest().version(), chain.newest().hash());
        if version > before {
            info!(version, members = chain.newest().members().len(), %hash, "a newer layout");
        }
        self.change(|known| {
            let (mut trackers, mut merged) = ((*known.trackers).clone(), (*known.merged).clone());
            trackers.prune(&chain);
            merged.prune(&chain, &fresh);
            (Some(chain), Some(trackers), Some(merged))
        });
        if !member {
            self.removed(version);
        }
        Ok(())
    }

    /// Stays out, with a directory that is older than all layouts that count: what it missed is not copied to it layout by
    /// layout, but as to anybody who comes back with an empty directory.
    fn outdated(&self, newest: u64, live_from: u64) {
        self.stay_out(format!(
            "its data directory is an old one: it ends with layout {newest}, and the others have dropped all before \
             {live_from}. Stop it, move the directory away and start it with an empty one: it comes back under its name \
             and is given its data by the others"
        ));
    }

    fn removed(&self, version: u64) {
        let why = format!(
            "it was removed from the cluster, by layout {version} or before: stop it; to come back, it starts with an \
             empty directory, as a new node"
        );
        self.stay_out(why);
    }

    fn stay_out(&self, why: String) {
        if !matches!(self.standing(), Standing::Refused(_)) {
            warn!(why, "this node does not serve");
        }
        self.stand(Standing::Refused(why));
    }

    /// Takes what another node's chain has in addition; tells whether that was anything.
    pub async fn learn(&self, other: &Chain) -> Result<bool, Untaken> {
        let _pen = self.inner.pen.lock().await;
        let Some(known) = self.known() else { return Ok(false) };
        let mut chain = (*known.chain).clone();
        match chain.merge(other) {
            Ok(false) => Ok(false),
            Ok(true) => {
                self.take(&known, chain).await?;
                Ok(true)
            }
            Err(bad) => {
                if matches!(bad, ChainError::Fork { .. }) {
                    error!(%bad, "nothing is taken over: find out whose layouts are wrong before anything else");
                }
                // The others wait for every member; so who finds that they have gone on is none any more, or holds a
                // directory of long ago.
                let ours = other.newest().cluster() == known.newest().cluster();
                let gap = matches!(bad, ChainError::Gap { .. }) && other.live_from() > known.newest().version();
                if ours && other.ended().contains(&self.inner.me) {
                    self.removed(other.newest().version());
                } else if ours && gap {
                    self.outdated(known.newest().version(), other.live_from());
                }
                Err(bad.into())
            }
        }
    }

    /// Takes what was said of members' trackers; of this node's own, more than it knows itself proves that its directory
    /// went back.
    pub async fn hear(&self, said: impl IntoIterator<Item = (StoreId, Tracker)>) {
        let mut went_back = None;
        let mut news = false;
        {
            let Some(before) = self.known() else { return };
            let mut trackers = (*before.trackers).clone();
            let live_from = before.chain.live_from();
            let listed = |store| before.chain.live().iter().any(|layout| layout.member_by_store(store).is_some());
            for (store, tracker) in said {
                if !listed(store) {
                    continue;
                }
                match trackers.hear(self.inner.me, live_from, store, &tracker) {
                    HeardTracker::Known => {}
                    HeardTracker::News => news = true,
                    HeardTracker::WentBack => went_back = Some(tracker),
                }
            }
            if news {
                self.publish(|now| {
                    let Some(now) = now else { unreachable!("it was known before") };
                    // Somebody may have published meanwhile: what was heard then stays heard.
                    let mut both = (*now.trackers).clone();
                    for (store, tracker) in trackers.iter().filter(|(store, _)| *store != self.inner.me) {
                        both.hear(self.inner.me, now.chain.live_from(), store, tracker);
                    }
                    both.prune(&now.chain);
                    Known::new(Arc::clone(&now.chain), Arc::new(both), Arc::clone(&now.merged), now.me)
                });
            }
        }
        if let Some(tracker) = went_back {
            self.catch_up_with_myself(&tracker).await;
        }
    }

    /// Others have heard more of this node than it remembers: its directory went back. Every partition is merged anew,
    /// and what was said is said again, for others have acted on it.
    async fn catch_up_with_myself(&self, said: &Tracker) {
        error!(?said, "others have heard this node follow layouts that its directory does not know of: it went back");
        let mut pen = self.inner.pen.lock().await;
        let live_from = self.look().as_ref().map_or(0, |known| known.chain.live_from());
        if pen.own.told().covers(said, live_from) {
            return;
        }
        if let Err(fault) = self.inner.replica.roll_back().await {
            return error!(%fault, "could not act on the proof of a rollback");
        }
        if let Err(fault) = self.raise(&mut pen, said).await {
            error!(%fault, "could not act on the proof of a rollback");
        }
    }

    /// Says how far this node had sync_acked, as an acceptor of the newest layout's successor would, and never sync_acks an
    /// older layout than that successor afterwards: what may be lost by skipping is judged by it.
    pub async fn pledge(&self) -> Result<(StoreId, u64), Fault> {
        let mut pen = self.inner.pen.lock().await;
        let Some(known) = self.known() else { return Ok((self.inner.me, u64::MAX)) };
        let pledged = pen.pledged.max(known.newest().version() + 1);
        self.inner.replica.remember(vec![Self::pledge_entry(pledged)]).await?;
        self.pledged_up_to(&mut pen, pledged);
        Ok((self.inner.me, self.vouches(&pen, known.newest())?))
    }

    /// Notes a pledge that is flushed.
    pub(super) fn pledged_up_to(&self, pen: &mut Pen, version: u64) {
        pen.pledged = version;
        self.inner.pledged.store(version, Ordering::Release);
    }

    /// The newest version this node has accepted, or pledged for: it sync_acks nothing older.
    #[must_use]
    pub fn pledged(&self) -> u64 {
        self.inner.pledged.load(Ordering::Acquire)
    }

    /// Of each of these partitions all that a source held is merged, if not flushed yet; the source had acked `layout`, or
    /// a later one, before it was read. The commit that remembers it is flushed, and with it what was merged. Tells
    /// whether that counts: not where another layout is the newest by now, for what was merged may have been deleted in
    /// between.
    pub async fn merged(&self, pairs: &[(PartitionId, StoreId)], layout: u64) -> Result<bool, Fault> {
        if pairs.is_empty() {
            return Ok(true);
        }
        let _pen = self.inner.pen.lock().await;
        if self.newest().is_none_or(|newest| newest.version() != layout) {
            return Ok(false);
        }
        let version = Bytes::copy_from_slice(&layout.to_be_bytes());
        let entry =
            |(partition, source): &(PartitionId, StoreId)| (point_key(MERGED, *partition, *source), version.clone());
        self.inner.replica.remember(pairs.iter().map(entry).collect()).await?;
        self.change(|known| {
            let mut merged = (*known.merged).clone();
            pairs.iter().for_each(|(partition, source)| merged.record(*partition, *source, layout));
            (None, None, Some(merged))
        });
        Ok(true)
    }

    /// What to tell a node whose newest layout is `since`.
    #[must_use]
    pub fn tell(&self, since: u64) -> LayoutsTold {
        let Some(known) = self.known() else { return LayoutsTold::default() };
        let trackers = known.trackers.iter().map(|(store, tracker)| TrackerOf::new(store, tracker.encode())).collect();
        LayoutsTold { chain: Some(known.chain.since(since.max(1)).encode()), trackers }
    }

    /// Asks a member that knows more, and takes it. One question at a time; nothing is asked if `head` is known by then, or
    /// the member was asked by somebody else since.
    pub async fn catch_up(&self, from: StoreId, head: u64) -> Result<(), Untaken> {
        let since = self.inner.env.clock.now();
        let mut asked = self.inner.asking.lock().await;
        let newest = self.newest().map_or(0, |layout| layout.version());
        if newest >= head && head > 0 || asked.get(&from).is_some_and(|at| *at >= since) {
            return Ok(());
        }
        asked.retain(|_, at| since.since(*at) < FORGET_AFTER);
        asked.insert(from, self.inner.env.clock.now());
        self.inner.metrics.layout.catch_ups.inc();
        let reply = self.inner.peers.call(from, Ask::Layouts(Layouts { since: newest }), 0, ASK_FOR).await;
        match reply.map(|reply| reply.tell) {
            Ok(Some(Tell::Layouts(told))) => self.take_told(&told).await,
            Ok(Some(Tell::Refused(refused))) => Err(Untaken::Unheard(refused.detail)),
            Ok(_) => Err(Untaken::Unheard("it answers something else".into())),
            Err(failed) => Err(Untaken::Unheard(failed.to_string())),
        }
    }

    /// Before a request of somebody who knows more is judged: learns what it knows, if that works in time.
    pub async fn level_with(&self, from: &Hello, head: u64) {
        let behind = self.look().as_ref().is_some_and(|known| {
            known.newest().version() < head
                && known.newest().cluster() == from.cluster.unwrap_or(known.newest().cluster())
        });
        if behind && let Err(why) = self.catch_up(from.store, head).await {
            debug!(name = from.name, head, %why, "could not catch up with who asks");
        }
    }

    /// Takes chain and trackers that somebody told.
    async fn take_told(&self, told: &LayoutsTold) -> Result<(), Untaken> {
        let readable =
            |said: &TrackerOf| Some((StoreId::from_slice(&said.store)?, Tracker::decode(&said.tracker).ok()?));
        let said: Vec<(StoreId, Tracker)> = told.trackers.iter().filter_map(readable).collect();
        // What they say of this node comes first: one that went back votes on nothing that is new to it.
        self.hear(said.iter().filter(|(store, _)| *store == self.inner.me).cloned()).await;
        if let Some(chain) = &told.chain {
            self.learn(&Chain::decode(chain)?).await?;
        }
        self.hear(said).await;
        Ok(())
    }

    /// The entry that remembers a pledge.
    pub(super) fn pledge_entry(version: u64) -> (Bytes, Bytes) {
        (Bytes::from_static(PLEDGED), Bytes::copy_from_slice(&version.to_be_bytes()))
    }
}

/// Whether a chain gives this node what it did not own before, by that chain or by its own account.
fn is_given(known: &Known, chain: &Chain, partition: PartitionId, bucket: Option<&Bucket>) -> bool {
    let owned = |layout: &Layout| holders(layout, partition, bucket).contains(known.me);
    starts_afresh(chain, known.newest().version(), known.me, partition, bucket) && !known.chain.live().iter().any(owned)
}

/// Whether most of those who owned a bucket's objects in a partition, in some layout that was live, are out of the cluster
/// for good. Somebody has accepted then that what only they held is lost: what a former owner still has may be all that is
/// left, and is merged into, not deleted.
fn has_lost_most(known: &Known, chain: &Chain, partition: PartitionId, bucket: &Bucket) -> bool {
    known.chain.live().iter().any(|layout| {
        let owners: Vec<StoreId> = holders(layout, partition, Some(bucket)).stores().collect();
        2 * owners.iter().filter(|owner| chain.ended().contains(owner)).count() > owners.len()
    })
}
