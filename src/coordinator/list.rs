//! The shell around a page of keys: asks whom [`ListCore`] says, here or through `peers`, and keeps the time.
//!
//! Reads follow the layout that GET follows: owners in the layout that reads use, completely synced, judged by each of them
//! for itself and partition by partition. Where somebody knows a newer layout, and something is missing, the page is made
//! anew under what is known by then.
//!
//! At more than one answer a partition the owners send their objects, deletes among them, and what they jointly hold is
//! shown: a key that one of them has deleted and another has not heard of is not listed. Where a round of collection was
//! sealed between their answers the page is made anew, three times at most: one may have dropped a delete that another has
//! not heard of. Then those partitions are gaps.
//!
//! Bounds: pages under way ([`PAGES`]; past it: 503 `overloaded`); keys and bytes of a page, which the caller says, and of
//! each answer, as large a part of it as lies in the partitions asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::pending::Pending;
use super::route::Routes;
use super::{Coordinator, Inner, about_layouts, left, no_vote_of, no_vote_of_refusal};
use crate::causality::{MergeRules, Object, decode_object};
use crate::cluster::Known;
use crate::kv::{Error, ErrorCode, Outcome, expired, views};
use crate::quorum::list::{Answer, Asking, Cover, Gap, Keys, ListCore, ListPage, ListStep, Wanted};
use crate::quorum::{Level, LevelError, NoVote};
use crate::replica::{Fault, ListWanted, Listing};
use crate::ring::judge::{Named, Unfit};
use crate::ring::{Grid, Layout, Mode};
use crate::transport::messages::lists::{List, Listed, ListedKey, ReadUnder, Unable};
use crate::transport::messages::{Ask, Refusal, Refused, Reply, Tell};
use crate::types::{Bucket, Digest, Key, Mono, PartitionId, StoreId, Token, Wall};

/// Pages that one node makes at once, at most: each may hold as many bytes as a page has, twice.
const PAGES: usize = 64;
/// Most keys of an answer to another node.
const KEYS_MOST: u32 = 20_000;
/// Most bytes of an answer to another node.
const BYTES_MOST: u32 = 4 << 20;
/// The least and the most time that a node is given for an answer: it answers with what it has by then, and whoever says
/// nothing leaves time for another.
const CALL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Before a page is made anew, for a round of collection was sealed meanwhile.
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// How often it is made; then the partitions are gaps.
const TRIES: u32 = 3;

/// A page that is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListPlan {
    /// Of this bucket.
    pub bucket: Bucket,
    /// Keys that begin so.
    pub prefix: Bytes,
    /// Keys behind this one; empty: from the first on.
    pub after: Bytes,
    /// At most so many keys.
    pub keys: usize,
    /// No more keys once there are so many bytes.
    pub bytes: usize,
    /// With the objects.
    pub values: bool,
    /// How many owners answer for each partition.
    pub r: Level,
    /// How long it may take.
    pub timeout: Duration,
    /// The time by which values have expired or not.
    pub now: Wall,
}

/// A key, and what is known of its object.
#[derive(Clone, Debug)]
pub struct FoundKey {
    /// The object's digest.
    pub digest: Digest,
    /// How many siblings are shown: at least one.
    pub siblings: u32,
    /// How many siblings have expired.
    pub expired: u32,
    /// The object, where it was wanted.
    pub object: Option<Object>,
    /// What it takes of a page.
    bytes: usize,
}

/// Partitions that too few replicas could answer for, and those that did not: name, and state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedGap {
    /// The partitions, in order.
    pub partitions: Vec<PartitionId>,
    /// Who did not answer for them, and why.
    pub silent: Vec<(String, &'static str)>,
}

/// A page: all keys from where it begins up to `upto`, but for those of the gaps.
#[derive(Clone, Debug)]
pub struct PlannedPage {
    /// The keys, in order.
    pub keys: Vec<(Bytes, FoundKey)>,
    /// Where the next page goes on: behind this key. None: there are no more.
    pub upto: Option<Bytes>,
    /// What is missing.
    pub gaps: Vec<PlannedGap>,
    /// The layout that it was read in.
    pub layout: u64,
}

/// What lists go by in one bucket.
struct Rules {
    bucket: Bucket,
    grid: Grid,
    merge: MergeRules,
    now: Wall,
    /// Whether the page is to hold objects; else they go once they are merged.
    values: bool,
}

impl Keys for Rules {
    type Said = FoundKey;

    fn partition_of(&self, key: &Bytes) -> PartitionId {
        // What is no key lies nowhere that anybody was asked for.
        Key::new(key.clone()).map_or(PartitionId(u32::MAX), |key| self.grid.partition(Token::of(&self.bucket, &key)))
    }

    fn join(&self, _: &Bytes, said: Vec<FoundKey>) -> Option<FoundKey> {
        let mut said = said.into_iter();
        let mut joined = said.next()?;
        for other in said {
            if other.digest == joined.digest {
                continue;
            }
            if let (Some(mut mine), Some(theirs)) = (joined.object.take(), &other.object) {
                mine.merge(theirs, &self.merge);
                joined = FoundKey::of(mine, self.now, joined.bytes.max(other.bytes));
            }
        }
        if !self.values {
            joined.object = None;
        }
        (joined.siblings > 0).then_some(joined)
    }

    fn bytes(&self, key: &Bytes, said: &FoundKey) -> usize {
        key.len() + said.bytes
    }
}

impl FoundKey {
    fn of(object: Object, now: Wall, bytes: usize) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (siblings, expired) = (count(views(&object, now).len()), count(expired(&object, now)));
        Self { digest: object.digest(), siblings, expired, object: Some(object), bytes }
    }

    /// What another node says of a key; none where that makes no sense.
    fn read(said: ListedKey, wants_object: bool) -> Option<(Bytes, Self)> {
        let ListedKey { key, digest, siblings, expired, record } = said;
        let bytes = record.as_ref().map_or(0, Bytes::len);
        let object = record.map(decode_object).transpose().ok()?;
        let makes_sense = object.is_some() || !wants_object;
        let digest = Digest::from_slice(&digest)?;
        makes_sense.then_some((key, Self { digest, siblings, expired, object, bytes }))
    }
}

/// Holds one place among the pages under way.
struct Page(Arc<Inner>);

impl Drop for Page {
    fn drop(&mut self) {
        self.0.lists.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What came of one question.
struct Answered {
    stream: usize,
    said: Result<Answer<FoundKey>, NoVote>,
    read: Vec<ReadUnder>,
}

/// By partition, the least epoch under which it was read, and the greatest that is sealed at one that answered.
#[derive(Default)]
struct Under(BTreeMap<u32, (u64, u64)>);

impl Under {
    fn note(&mut self, read: &[ReadUnder]) {
        for ReadUnder { partition, epoch, sealed } in read {
            let (least, greatest) = self.0.entry(*partition).or_insert((*epoch, *sealed));
            (*least, *greatest) = ((*least).min(*epoch), (*greatest).max(*sealed));
        }
    }

    /// The partitions in which one answer is from before another's seal.
    fn across(&self) -> BTreeSet<PartitionId> {
        self.0.iter().filter(|(_, (epoch, sealed))| epoch < sealed).map(|(at, _)| PartitionId(*at)).collect()
    }
}

impl Coordinator {
    /// Makes a page of a bucket's keys.
    pub async fn list(&self, plan: &ListPlan) -> Result<PlannedPage, Error> {
        let _admitted = self.admit()?;
        let _page = self.begin_page()?;
        let deadline = self.inner.env.clock.now() + plan.timeout;
        let mut again = 0;
        loop {
            let Some((known, routes)) = self.routes() else {
                let detail = "this node is not in a cluster yet; `quorate status` says what it waits for";
                return Err(self.later(Error::refused(ErrorCode::NotServing, detail)));
            };
            if !known.is_member() {
                let detail = format!("this node was removed from the cluster by layout {}", known.newest().version());
                return Err(self.later(Error::refused(ErrorCode::NotServing, detail)));
            }
            let (mut page, across) = self.page(plan, &known, &routes, deadline).await?;
            if !across.is_empty() {
                let clock = &self.inner.env.clock;
                again += 1;
                if again < TRIES && !left(deadline, clock.now()).is_zero() {
                    clock.sleep(AGAIN_AFTER.min(left(deadline, clock.now()))).await;
                    continue;
                }
                leave_out(&mut page, &across, known.newest().grid(), &plan.bucket);
            }
            if !page.gaps.is_empty() && self.goes_on(&known, deadline) {
                continue;
            }
            return Ok(self.planned(page, &known));
        }
    }

    fn begin_page(&self) -> Result<Page, Error> {
        let page = Page(Arc::clone(&self.inner));
        if self.inner.lists.fetch_add(1, Ordering::Relaxed) < PAGES {
            return Ok(page);
        }
        self.inner.metrics.quorum.overloaded.inc();
        let detail = format!("{PAGES} pages of keys are being made here, the most there may be");
        Err(self.later(Error::refused(ErrorCode::Overloaded, detail)))
    }

    /// A page, and the partitions whose replicas answered from before and after a round of collection.
    async fn page(
        &self,
        plan: &ListPlan,
        known: &Arc<Known>,
        routes: &Routes,
        deadline: Mono,
    ) -> Result<(ListPage<FoundKey>, BTreeSet<PartitionId>), Error> {
        let wrong = |wrong: LevelError| Error::refused(ErrorCode::BadParameter, wrong.to_string());
        if plan.r == Level::Any {
            return Err(wrong(LevelError::AnyReads));
        }
        let layout = known.newest();
        let (grid, settings) = (layout.grid(), layout.settings(&plan.bucket));
        let requirements: Result<Vec<_>, LevelError> = grid
            .partitions()
            .map(|partition| routes.of(partition, &plan.bucket).reads(plan.r, &self.inner.region))
            .collect();
        let requirements = requirements.map_err(wrong)?;
        let votes = |groups: &[crate::quorum::Group]| groups.iter().map(|group| group.need).sum::<usize>();
        let joins = requirements.iter().any(|requirement| votes(requirement.groups()) > 1);
        let merge = MergeRules {
            last_write_wins: settings.mode == Mode::Lww,
            idempotency_window: self.inner.limits.idempotency_window,
        };
        let rules = Rules { bucket: plan.bucket.clone(), grid, merge, now: plan.now, values: plan.values };
        let wanted = Wanted { after: plan.after.clone(), keys: plan.keys, bytes: plan.bytes };
        let mut core = ListCore::new(rules, wanted, Cover::new(self.inner.me, requirements), grid.q());
        let (mut pending, mut under): (Pending<Answered>, Under) = (Pending::new(), Under::default());
        let clock = Arc::clone(&self.inner.env.clock);
        let (mut late, mut is_late) = (clock.sleep(left(deadline, clock.now())), false);
        loop {
            let up = self.inner.peers.up();
            let is_up = |store| store == self.inner.me || up.is_up(store);
            match core.step(is_up, |store| self.far(known, store)) {
                ListStep::Done(mut page) => {
                    if is_late && page.upto.is_none() && !page.gaps.is_empty() {
                        // What did not answer in time is asked again for the next page: the list has not ended.
                        page.upto = page.keys.last().map(|(key, _)| key.clone());
                        if page.upto.is_none() {
                            let detail =
                                "too few replicas answered for a page in time; the same cursor goes on from here";
                            return Err(Error::new(ErrorCode::ReadTimeout, Outcome::Unknown, detail));
                        }
                    }
                    return Ok((page, under.across()));
                }
                ListStep::Ask(asked) => {
                    for asking in asked {
                        let list = List {
                            bucket: plan.bucket.as_str().to_owned(),
                            generation: settings.generation,
                            partitions: asking.partitions.iter().map(|partition| partition.0).collect(),
                            prefix: plan.prefix.clone(),
                            after: asking.after.clone(),
                            now_ms: plan.now.0,
                            keys: u32::try_from(asking.keys).unwrap_or(u32::MAX).clamp(1, KEYS_MOST),
                            max_bytes: u32::try_from(asking.bytes).unwrap_or(u32::MAX).min(BYTES_MOST),
                            records: plan.values || joins,
                            dead: joins,
                        };
                        let call = self.ask(asking, list, plan.values, Arc::clone(known), deadline);
                        pending.push(Box::pin(call));
                    }
                }
                ListStep::Wait => {
                    let answered = tokio::select! {
                        biased;
                        answered = pending.next(), if !pending.is_empty() => answered,
                        () = &mut late => None,
                    };
                    if let Some(Answered { read, .. }) = &answered {
                        under.note(read);
                    }
                    match answered {
                        Some(Answered { stream, said: Ok(answer), .. }) => core.on_answer(stream, answer),
                        Some(Answered { stream, said: Err(why), .. }) => core.on_failed(stream, why),
                        None => {
                            is_late = true;
                            core.on_deadline();
                        }
                    }
                }
            }
        }
    }

    /// Which of those that could answer is asked: in this zone before others, then the fastest.
    fn far(&self, known: &Known, store: StoreId) -> (bool, u128) {
        let zone = member_of(known, store).map(|member| member.zone.as_str());
        let median = self.inner.peers.median(store).map_or(0, |median| median.as_millis());
        (zone != Some(self.inner.zone.as_str()), median)
    }

    /// Asks one store, which may be this node's own.
    fn ask(
        &self,
        asking: Asking,
        list: List,
        values: bool,
        known: Arc<Known>,
        deadline: Mono,
    ) -> impl Future<Output = Answered> + Send + use<> {
        let this = self.clone();
        async move {
            let Asking { stream, store, .. } = asking;
            let wants_objects = list.records;
            let env = &this.inner.env;
            let budget = (left(deadline, env.clock.now()) / 2).clamp(CALL.0, CALL.1);
            let listed = if store == this.inner.me {
                let own = env.timeout(budget, this.list_own(&known, &list, budget)).await;
                own.unwrap_or(Err(NoVote::TimedOut))
            } else {
                this.inner.metrics.lists.asked.inc();
                match this.inner.peers.call(store, Ask::List(list), known.read_version(), budget).await {
                    Err(failed) => Err(no_vote_of(&failed)),
                    Ok(reply) => match reply.tell {
                        Some(Tell::Listed(listed)) => Ok(listed),
                        Some(Tell::Refused(refused)) => {
                            if about_layouts(refused.why()) {
                                this.learn_from(store).await;
                            }
                            Err(no_vote_of_refusal(refused.why()))
                        }
                        _ => Err(NoVote::Failed),
                    },
                }
            };
            let read = listed.as_ref().map(|listed| listed.read.clone()).unwrap_or_default();
            let said = listed.and_then(|listed| {
                let key = |said| {
                    let (key, mut found) = FoundKey::read(said, wants_objects)?;
                    // Only what is shown counts for the page.
                    found.bytes = if values { found.bytes } else { 0 };
                    Some((key, found))
                };
                let keys: Option<Vec<_>> = listed.keys.into_iter().map(key).collect();
                let unable = |unable: Unable| (PartitionId(unable.partition), no_vote_of_refusal(unable.why()));
                Ok(Answer {
                    keys: keys.ok_or(NoVote::Failed)?,
                    whole: listed.whole,
                    unable: listed.unable.into_iter().map(unable).collect(),
                })
            });
            Answered { stream, said, read }
        }
    }

    /// Asks this node's own store: judged as anybody's.
    async fn list_own(&self, known: &Known, list: &List, budget: Duration) -> Result<Listed, NoVote> {
        let now = self.inner.keeper.known().ok_or(NoVote::Syncing)?;
        let counted = [known.read_version()];
        let named = Named { sender: self.inner.me, newest: now.newest().version(), counted: &counted };
        self.list_here(&now, named, list, budget).await.map_err(|refused| match refused.tell {
            Some(Tell::Refused(refused)) => no_vote_of_refusal(refused.why()),
            _ => NoVote::Failed,
        })
    }

    pub(super) async fn serve_list(&self, known: &Known, named: Named<'_>, asked: &List, budget: Duration) -> Reply {
        self.inner.metrics.lists.served.inc();
        match self.list_here(known, named, asked, budget).await {
            Ok(listed) => Reply::new(Tell::Listed(listed)),
            Err(refused) => refused,
        }
    }

    /// What this node's own store says; or the refusal.
    async fn list_here(
        &self,
        known: &Known,
        named: Named<'_>,
        asked: &List,
        budget: Duration,
    ) -> Result<Listed, Reply> {
        let malformed = |detail: String| Reply::refused(Refusal::Malformed, detail);
        let bucket = Bucket::new(&asked.bucket).map_err(|bad| malformed(bad.to_string()))?;
        let layout = known.newest();
        let (grid, generation) = (layout.grid(), layout.settings(&bucket).generation);
        if asked.generation != generation {
            let detail = format!("the bucket's generation is {generation} here");
            return Err(Reply::new(Tell::Refused(Refused::new(Refusal::Layout, detail))));
        }
        let (mut partitions, mut unable) = (Vec::with_capacity(asked.partitions.len()), Vec::new());
        for &partition in &asked.partitions {
            if partition >= grid.q() || partitions.last().is_some_and(|PartitionId(last)| *last >= partition) {
                return Err(malformed(format!("partitions are below {} and in order, got {partition}", grid.q())));
            }
            match known.judge_read(named, PartitionId(partition), &bucket) {
                Ok(_) => partitions.push(PartitionId(partition)),
                Err(refusal) => match refusal.why {
                    Unfit::NotOwner => unable.push(Unable { partition, why: Refusal::NotOwner.into() }),
                    Unfit::Syncing => unable.push(Unable { partition, why: Refusal::Syncing.into() }),
                    _ => return Err(self.unfit(refusal)),
                },
            }
        }
        let wanted = ListWanted {
            bucket,
            generation,
            prefix: asked.prefix.clone(),
            after: asked.after.clone(),
            now: Wall(asked.now_ms),
            keys: asked.keys.clamp(1, KEYS_MOST) as usize,
            bytes: asked.max_bytes.min(BYTES_MOST) as usize,
            records: asked.records,
            dead: asked.dead && asked.records,
        };
        // So that whoever asks is told in time.
        let deadline = self.inner.env.clock.now() + budget * 3 / 4;
        let replica = &self.inner.replica;
        let mut read: Vec<ReadUnder> = Vec::new();
        if wanted.dead {
            let under = |at: &PartitionId| ReadUnder { partition: at.0, epoch: replica.epoch(*at).0, sealed: 0 };
            read.extend(partitions.iter().map(under));
        }
        let listing = replica.list(&partitions, &wanted, deadline).await;
        let listing = listing.map_err(|fault| Reply::refused(fault.refusal(), fault.to_string()))?;
        // What was taken away meanwhile is missing from it: it was judged before.
        let now = self.inner.keeper.known();
        let counts = |at: &PartitionId| {
            let owned = now.as_ref().is_some_and(|now| now.judge_read(named, *at, &wanted.bucket).is_ok());
            owned && replica.has_vote(*at)
        };
        let gone = partitions.iter().filter(|at| !counts(at));
        unable.extend(gone.map(|at| Unable { partition: at.0, why: Refusal::Syncing.into() }));
        read.iter_mut().for_each(|under| under.sealed = replica.sealed(PartitionId(under.partition)).0);
        let mut listed = listed_message(listing, unable);
        read.retain(|under| listed.unable.iter().all(|unable| unable.partition != under.partition));
        listed.read = read;
        Ok(listed)
    }

    fn planned(&self, page: ListPage<FoundKey>, known: &Known) -> PlannedPage {
        let ListPage { keys, upto, gaps } = page;
        let mut alike: BTreeMap<Vec<(String, &'static str)>, Vec<PartitionId>> = BTreeMap::new();
        for Gap { partition, silent } in gaps {
            let name = |store| member_of(known, store).map_or_else(|| store.to_string(), |member| member.name.clone());
            let mut silent: Vec<_> = silent.into_iter().map(|(store, why)| (name(store), why.as_str())).collect();
            silent.sort();
            alike.entry(silent).or_default().push(partition);
        }
        let mut gaps: Vec<PlannedGap> =
            alike.into_iter().map(|(silent, partitions)| PlannedGap { partitions, silent }).collect();
        gaps.sort_by_key(|gap| gap.partitions.first().copied());
        if self.inner.env.buggify.breaks("a gap is told") {
            gaps.clear();
        }
        let lists = &self.inner.metrics.lists;
        lists.keys.inc_by(keys.len() as u64);
        lists.gaps.inc_by(gaps.iter().map(|gap| gap.partitions.len() as u64).sum());
        PlannedPage { keys, upto, gaps, layout: known.read_version() }
    }
}

/// Makes gaps of these partitions: the rest of the page is as good as any.
fn leave_out(page: &mut ListPage<FoundKey>, across: &BTreeSet<PartitionId>, grid: Grid, bucket: &Bucket) {
    let of = |key: &Bytes| Key::new(key.clone()).map(|key| grid.partition(Token::of(bucket, &key)));
    page.keys.retain(|(key, _)| of(key).is_ok_and(|at| !across.contains(&at)));
    let named: BTreeSet<PartitionId> = page.gaps.iter().map(|gap| gap.partition).collect();
    let more = across.iter().filter(|at| !named.contains(at));
    page.gaps.extend(more.map(|at| Gap { partition: *at, silent: Vec::new() }));
}

/// A member of any live layout, as the newest says it.
fn member_of(known: &Known, store: StoreId) -> Option<&crate::ring::Member> {
    let member = |layout: &'_ Layout| layout.member_by_store(store);
    let mut newest_first = known.chain.live().iter().rev();
    newest_first.find_map(|layout| member(layout).map(|index| layout.member(index)))
}

fn listed_message(listing: Listing, mut unable: Vec<Unable>) -> Listed {
    let Listing { keys, whole, unable: faults } = listing;
    let of = |(partition, fault): (PartitionId, Fault)| Unable { partition: partition.0, why: fault.refusal().into() };
    unable.extend(faults.into_iter().map(of));
    let key = |(key, listed): (Bytes, crate::replica::Listed)| ListedKey {
        key,
        digest: Bytes::copy_from_slice(&listed.digest.0),
        siblings: listed.siblings,
        expired: listed.expired,
        record: listed.record,
    };
    Listed { keys: keys.into_iter().map(key).collect(), whole, unable, read: Vec::new() }
}
