//! The gossiped settings of buckets: kept, spread, changed.
//!
//! What wins is `kv`'s to decide ([`SettingsTable`]: a join). This file flushes before it publishes or answers, answers
//! others, and fetches: every node says the hash of its table in gossip, and who hears another one than its own asks for
//! the table of whoever said it. So nothing is sent while nothing changes, whatever the number of buckets.
//!
//! A **change** first asks a majority of the members for what they have, so that its stamp is greater than that of
//! every change acknowledged before, whatever the clocks say; then it is answered once a majority has flushed it. The
//! rest hear of it at the same time, or later by gossip.
//!
//! Bounds: the table's; one table is fetched at a time, one flush made; a change asks each member once at a time, for as
//! long as its patience.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Heard, LayoutKeeper};
use crate::env::{BoxFuture, Env};
use crate::kv::{BucketValues, Settings, SettingsTable};
use crate::peers::Peers;
use crate::replica::{Fault, Replica};
use crate::ring::buckets::BUCKETS_MAX;
use crate::storage::{Keyspace, StorageError};
use crate::transport::Hello;
use crate::transport::messages::buckets::{BucketEntry, BucketTable};
use crate::transport::messages::{Ask, Refusal, Reply, Tell};
use crate::types::{Bucket, Mono, NodeId, Stamp, StoreId};

const PREFIX: &[u8] = b"buckets/";
const END: &[u8] = b"buckets0";
/// How long one member is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Between two tries to reach a member within one change, and between two looks at what others say.
const AGAIN: Duration = Duration::from_millis(200);

/// What is known: the table and its hash.
#[derive(Debug, Default)]
struct Known {
    table: SettingsTable,
    hash: [u8; 16],
}

/// Keeps the gossiped settings of buckets. Clones are the same keeper.
#[derive(Clone)]
pub struct BucketKeeper {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    known: ArcSwap<Known>,
    /// Held while something is flushed, so that what is on disk and what is published go the same way.
    flushing: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
}

/// Why a change of settings came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unset {
    /// This node is no member.
    #[error("this node is in no cluster, or was removed from it")]
    NotServing,
    /// Too few members answered; nothing was changed.
    #[error("{answered} of {members} members answered in time, and {needed} are needed; nothing was changed")]
    TooFew {
        /// How many did.
        answered: usize,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        members: usize,
    },
    /// It was changed here, and too few members flushed it in time.
    #[error("{answered} of {members} members flushed it in time, and {needed} are needed; it may win all the same")]
    Unknown {
        /// How many did.
        answered: usize,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        members: usize,
    },
    /// It could not be stored here.
    #[error("it could not be stored here: {0}")]
    Fault(#[from] Fault),
}

impl std::fmt::Debug for BucketKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketKeeper").field("table", &self.inner.known.load().table).finish_non_exhaustive()
    }
}

fn key_of(bucket: &Bucket) -> Bytes {
    [PREFIX, bucket.as_str().as_bytes()].concat().into()
}

impl BucketKeeper {
    /// The keeper of what the data directory holds.
    pub fn load(env: &Env, replica: Replica, peers: Peers, keeper: LayoutKeeper) -> Result<Self, StorageError> {
        let mut table = SettingsTable::default();
        for entry in replica.storage().scan(Keyspace::Meta, Included(PREFIX), Excluded(END)) {
            let (key, value) = entry?;
            let bucket = std::str::from_utf8(&key[PREFIX.len()..]).ok().and_then(|name| Bucket::new(name).ok());
            // What cannot be read is fetched from the others.
            if let (Some(bucket), Some(settings)) = (bucket, Settings::decode(&value)) {
                table.merge(&bucket, &settings);
            }
        }
        let known = ArcSwap::from_pointee(Known { hash: table.hash(), table });
        let (flushing, changes) = (tokio::sync::Mutex::default(), watch::channel(0).0);
        let inner = Inner { env: env.clone(), replica, peers, keeper, known, flushing, changes };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What requests of the bucket with this id go by where they say nothing.
    #[must_use]
    pub fn values(&self, bucket: &Bucket, id: u64) -> BucketValues {
        let known = self.inner.known.load();
        if known.table.is_empty() { BucketValues::default() } else { known.table.values(bucket, id) }
    }

    /// The settings of the bucket with this id, if it has any.
    #[must_use]
    pub fn settings(&self, bucket: &Bucket, id: u64) -> Option<Settings> {
        self.inner.known.load().table.get(bucket).filter(|settings| settings.id() == id).cloned()
    }

    /// What this node says of its table in gossip.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.inner.known.load().hash))
    }

    /// Takes what somebody has, flushed before this returns; forgets the settings of buckets that are gone.
    async fn take(&self, entries: Vec<(Bucket, Settings)>) -> Result<(), Fault> {
        let inner = &self.inner;
        let _one_at_a_time = inner.flushing.lock().await;
        let mut table = inner.known.load().table.clone();
        let before = table.hash();
        let mut taken: BTreeMap<Bucket, Settings> = BTreeMap::new();
        for (bucket, settings) in entries {
            if table.merge(&bucket, &settings) {
                taken.insert(bucket, settings);
            }
        }
        let gone = inner.keeper.newest().map_or_else(Vec::new, |layout| table.prune(&layout));
        taken.retain(|bucket, _| table.get(bucket).is_some());
        if table.hash() == before {
            return Ok(());
        }
        if !taken.is_empty() {
            let entries = taken.iter().map(|(bucket, settings)| (key_of(bucket), settings.encode()));
            inner.replica.remember(entries.collect()).await?;
        }
        inner.known.store(Arc::new(Known { hash: table.hash(), table }));
        inner.changes.send_modify(|count| *count += 1);
        inner.replica.unremember(gone.iter().map(key_of).collect()).await
    }

    /// Answers a member: takes what it brings, tells what is here beside that.
    pub(super) async fn answer(&self, from: &Hello, theirs: BucketTable) -> Reply {
        let member = |known: &super::Known| {
            known.chain.live().iter().any(|layout| layout.member_by_store(from.store).is_some())
                && !known.chain.ended().contains(&from.store)
        };
        if !self.inner.keeper.look().as_ref().is_some_and(|known| member(known)) {
            return Reply::refused(Refusal::NotOwner, "settings of buckets are told among members");
        }
        let Some(entries) = read(&theirs) else {
            return Reply::refused(Refusal::Malformed, "more settings than there may be buckets");
        };
        if let Err(fault) = self.take(entries).await {
            return Reply::refused(fault.refusal(), fault.to_string());
        }
        let known = self.inner.known.load();
        Reply::new(Tell::Buckets(beside(&known.table, known.hash, &theirs.hash)))
    }

    /// Asks a member, bringing these entries; takes what it has beside them.
    async fn ask(&self, store: StoreId, entries: Vec<(Bucket, Settings)>) -> Result<(), String> {
        let hash = self.inner.known.load().hash;
        let asked = brings(hash, entries.iter().map(|(bucket, settings)| (bucket, settings)));
        let call = self.inner.peers.call(store, Ask::Buckets(asked), 0, ANSWER_WITHIN);
        let told = match call.await.map(|reply| reply.tell) {
            Ok(Some(Tell::Buckets(told))) => told,
            Ok(Some(Tell::Refused(refused))) => return Err(refused.detail),
            Ok(_) => return Err("it answers something else".into()),
            Err(failed) => return Err(failed.to_string()),
        };
        let entries = read(&told).ok_or("it tells of more buckets than there may be")?;
        self.take(entries).await.map_err(|fault| fault.to_string())
    }

    /// Brings all members these entries, and waits until a majority of them, this node included, has answered: how many
    /// did, were needed, and are there. The others are still asked for a while.
    async fn majority(&self, entries: &[(Bucket, Settings)], deadline: Mono) -> Result<(usize, usize, usize), Unset> {
        let inner = &self.inner;
        let known = inner.keeper.known().filter(|known| known.is_member()).ok_or(Unset::NotServing)?;
        let stores: Vec<StoreId> = known.newest().members().iter().map(|member| member.store).collect();
        let (members, needed) = (stores.len(), stores.len() / 2 + 1);
        let mut asking: FuturesUnordered<BoxFuture<'static, bool>> = FuturesUnordered::new();
        for store in stores.into_iter().filter(|store| *store != known.me) {
            let (answer, answered) = tokio::sync::oneshot::channel();
            let (this, entries) = (self.clone(), entries.to_vec());
            // In a task of its own: who is slow is told all the same, whether or not anybody waits.
            inner.env.tasks.spawn(async move {
                let took = loop {
                    match this.ask(store, entries.clone()).await {
                        Ok(()) => break true,
                        Err(why) => debug!(%store, why, "settings of buckets were not taken"),
                    }
                    let clock = &this.inner.env.clock;
                    if clock.now() + AGAIN >= deadline {
                        break false;
                    }
                    clock.sleep(AGAIN).await;
                };
                // Nobody may wait for it any more.
                let _ = answer.send(took);
            });
            asking.push(Box::pin(async move { answered.await.unwrap_or(false) }));
        }
        let mut answered = 1;
        let left = deadline.since(inner.env.clock.now());
        let counted = inner.env.timeout(left, async {
            while answered < needed {
                match asking.next().await {
                    Some(took) => answered += usize::from(took),
                    None => break,
                }
            }
        });
        // In time or not: what counts is who has answered.
        let _ = counted.await;
        Ok((answered, needed, members))
    }

    /// Learns what a majority of the members has: whatever was acknowledged is then known here.
    pub async fn gather(&self, patience: Duration) -> Result<(), Unset> {
        let deadline = self.inner.env.clock.now() + patience;
        match self.majority(&[], deadline).await? {
            (answered, needed, members) if answered < needed => Err(Unset::TooFew { answered, needed, members }),
            _ => Ok(()),
        }
    }

    /// Sets what requests of a bucket go by; [`BucketKeeper::gather`] comes first. Returns once a majority of the members
    /// has flushed it.
    pub async fn change(
        &self,
        bucket: &Bucket,
        id: u64,
        values: &BucketValues,
        patience: Duration,
    ) -> Result<(), Unset> {
        let inner = &self.inner;
        let deadline = inner.env.clock.now() + patience;
        let author = inner.replica.identity().node();
        let before = self.settings(bucket, id).map_or(Stamp::default(), |settings| settings.stamp());
        let stamp = Stamp::at(inner.env.clock.wall()).max(before.next());
        let entry = (bucket.clone(), Settings::new(id, stamp, author, values));
        self.take(vec![entry.clone()]).await?;
        match self.majority(&[entry], deadline).await? {
            (answered, needed, members) if answered < needed => Err(Unset::Unknown { answered, needed, members }),
            _ => Ok(()),
        }
    }

    /// Fetches what others say they have and this node has not, for as long as the node lives. `heard` is what was
    /// heard in gossip, `news` tells whenever that changes.
    pub fn follow(&self, heard: impl Fn() -> Arc<Heard> + Send + 'static, mut news: watch::Receiver<u64>) {
        let this = self.clone();
        self.inner.env.tasks.spawn(async move {
            let (mut layouts, mut own) = (this.inner.keeper.changes(), this.inner.changes.subscribe());
            // What each said when it was last asked, and what was known here then: asked again, it would say the same.
            let mut settled: BTreeMap<NodeId, (String, String)> = BTreeMap::new();
            loop {
                layouts.mark_unchanged();
                own.mark_unchanged();
                news.mark_unchanged();
                if let Err(fault) = this.take(Vec::new()).await {
                    warn!(%fault, "the settings of buckets that are gone could not be forgotten");
                }
                let mut again = false;
                let said = heard();
                settled.retain(|node, _| said.nodes.contains_key(node));
                for (node, about) in &said.nodes {
                    let (Some(theirs), Some(store)) = (about.said.buckets.clone(), about.said.store) else { continue };
                    let ours = this.hash();
                    let pair = (theirs, ours);
                    if pair.0 == pair.1 || settled.get(node) == Some(&pair) || !this.inner.peers.up().is_up(store) {
                        continue;
                    }
                    match this.ask(store, Vec::new()).await {
                        Ok(()) => drop(settled.insert(*node, (pair.0, this.hash()))),
                        Err(why) => {
                            debug!(%store, why, "the settings of buckets could not be fetched yet");
                            again = true;
                        }
                    }
                }
                let clock = &this.inner.env.clock;
                tokio::select! {
                    biased;
                    changed = news.changed() => if changed.is_err() { return },
                    _ = layouts.changed() => {}
                    () = clock.sleep(AGAIN), if again => {}
                }
            }
        });
    }
}

/// A table that brings these entries.
fn brings<'a>(hash: [u8; 16], entries: impl IntoIterator<Item = (&'a Bucket, &'a Settings)>) -> BucketTable {
    let entry = |(bucket, settings): (&Bucket, &Settings)| BucketEntry {
        bucket: bucket.as_str().to_owned(),
        settings: settings.encode(),
    };
    BucketTable { hash: Bytes::copy_from_slice(&hash), entries: entries.into_iter().map(entry).collect() }
}

/// All there is, unless the other side has the same.
fn beside(table: &SettingsTable, hash: [u8; 16], theirs: &Bytes) -> BucketTable {
    if theirs[..] == hash { brings(hash, None) } else { brings(hash, table.iter()) }
}

/// What a message brings, as far as it can be read; none where it is more than there may be.
fn read(told: &BucketTable) -> Option<Vec<(Bucket, Settings)>> {
    let entry = |entry: &BucketEntry| Some((Bucket::new(&entry.bucket).ok()?, Settings::decode(&entry.settings)?));
    (told.entries.len() <= BUCKETS_MAX).then(|| told.entries.iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_table_is_told_whole_or_not_at_all_and_read_as_it_was() {
        let mut table = SettingsTable::default();
        let values = BucketValues { max_siblings: Some(2), ..BucketValues::default() };
        let settings = |stamp| Settings::new(3, Stamp(stamp), NodeId::from_bits(1), &values);
        let (a, b) = (Bucket::new("a").unwrap(), Bucket::new("b").unwrap());
        assert!(table.merge(&a, &settings(1)) && table.merge(&b, &settings(2)));
        let hash = table.hash();
        assert_eq!(beside(&table, hash, &Bytes::copy_from_slice(&hash)).entries, []);
        let told = beside(&table, hash, &Bytes::from_static(b"another"));
        assert_eq!(BucketTable::decode(&told.encode_to_vec()[..]).unwrap(), told);
        assert_eq!(read(&told), Some(vec![(a, settings(1)), (b, settings(2))]));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_too_much_is_refused() {
        let odd = |bucket: &str| BucketEntry { bucket: bucket.into(), settings: Bytes::from_static(b"short") };
        let table = BucketTable { hash: Bytes::new(), entries: vec![odd("a/b"), odd("b")] };
        assert_eq!(read(&table), Some(Vec::new()));
        let much = BucketTable { hash: Bytes::new(), entries: vec![odd("b"); BUCKETS_MAX + 1] };
        assert_eq!(read(&much), None);
    }
}
