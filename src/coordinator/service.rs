//! What peers ask of this node's data: copies, merges, pages, and operations handed over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Coordinator, Floor, WritePlan};
use crate::causality::{
    Fingerprint, MergeRules, Payload, RecordError, RequestId, Supersedes, decode_vector, digest_of_record,
    encode_object, encode_vector,
};
use crate::cluster::Known;
use crate::collect::Epoch;
use crate::env::BoxFuture;
use crate::kv::{Counted, Error, ReadOptions, RepairMode};
use crate::peers::Service;
use crate::repair::take_step;
use crate::replica::{Cause, Fault, Inventory, KeepRequest, MergeRequest, Place, name_of};
use crate::ring::judge::{self, Named, Unfit};
use crate::ring::{Layout, Mode};
use crate::transport::Hello;
use crate::transport::messages::layouts::{DigestOf, Digests, ListDigests};
use crate::transport::messages::{
    self, Ask, Copy, Failed, Fetch, HandedRead, HandedWrite, Held, Keep, Page, PageEntry, Read, ReadDone, Refusal,
    Refused, Reply, Request, Settle, Settled, Superseding, Target, Tell, Write, WriteDone, Written,
};
use crate::types::{Bucket, Digest, Key, ObjectId, PartitionId, StoreId, Wall};

/// Most bytes of a page.
const PAGE_MOST: u32 = 4 << 20;

/// Most entries of a list of digests.
const DIGESTS_MOST: u32 = 10_000;

/// Answers what peers ask of this node's data.
#[derive(Clone, Debug)]
pub struct DataService(Coordinator);

impl DataService {
    /// The service of a node's coordinator and replica.
    #[must_use]
    pub const fn new(coordinator: Coordinator) -> Self {
        Self(coordinator)
    }
}

impl Service for DataService {
    fn serve(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let this = self.0.clone();
        Box::pin(async move {
            let budget = Duration::from_micros(request.budget_us);
            // Who is behind the sender learns first.
            this.inner.keeper.level_with(&from, request.head).await;
            // Before the look at the layouts: see `Held`.
            let _guard =
                matches!(request.ask, Some(Ask::Write(_) | Ask::Keep(_))).then(|| this.inner.keeper.held().take());
            let known = match this.known_to(&from) {
                Ok(known) => known,
                Err(refused) => return turn_away(refused),
            };
            let counted: Vec<u64> = std::iter::once(request.counted).chain(request.also).collect();
            let named = Named { sender: from.store, newest: request.head, counted: &counted };
            match request.ask {
                Some(Ask::Read(read)) => this.serve_read(&known, named, read).await,
                Some(Ask::Write(write)) => this.serve_write(&known, named, write).await,
                Some(Ask::Keep(keep)) => this.serve_keep(&known, named, keep).await,
                Some(Ask::ReadKept(read)) => this.serve_read_kept(&known, read).await,
                Some(Ask::Fetch(_)) if named.newest < known.newest().version() => this.unfit(known.view().behind()),
                Some(Ask::Fetch(fetch)) => this.serve_fetch(&known, fetch).await,
                Some(Ask::Settle(settle)) => this.serve_settle(settle, budget).await,
                Some(Ask::ListDigests(list)) => this.serve_digests(list).await,
                Some(Ask::CompareRoots(_) | Ask::Descend(_)) if known.agreed(named).is_none() => {
                    this.unfit(known.view().behind())
                }
                Some(Ask::CompareRoots(asked)) => this.serve_compare_roots(&asked).await,
                Some(Ask::Descend(asked)) => this.serve_descend(&asked).await,
                Some(Ask::Collect(asked)) => {
                    // Who is up has been asked what it remembers of this node.
                    let up = this.inner.peers.up();
                    match take_step(&this.inner.replica, &known, |store| up.is_up(store), asked).await {
                        Ok(told) => Reply::new(Tell::Collected(told)),
                        Err(fault) => refuse(&fault),
                    }
                }
                Some(Ask::List(asked)) => this.serve_list(&known, named, &asked, budget).await,
                Some(Ask::HandedRead(read)) => this.serve_handed_read(read, budget).await,
                Some(Ask::HandedWrite(write)) => this.serve_handed_write(write, budget).await,
                _ => Reply::refused(Refusal::Unknown, "this node does not know that request"),
            }
        })
    }
}

struct Found {
    id: ObjectId,
    place: Place,
    rules: MergeRules,
    class: u16,
}

fn malformed(detail: impl Into<String>) -> Reply {
    Reply::refused(Refusal::Malformed, detail)
}

fn turn_away(refused: Refused) -> Reply {
    Reply::new(Tell::Refused(refused))
}

fn refuse(fault: &Fault) -> Reply {
    Reply::refused(fault.refusal(), fault.to_string())
}

fn fail(error: &Error) -> Reply {
    let error = serde_json::to_vec(error).unwrap_or_default();
    Reply::new(Tell::Failed(Failed { error: error.into() }))
}

impl Coordinator {
    /// What this node knows of layouts, if the sender is a member of one that is live.
    fn known_to(&self, from: &Hello) -> Result<Arc<Known>, Refused> {
        let Some(known) = self.inner.keeper.known() else {
            return Err(Refused::new(Refusal::Layout, "this node is in no cluster yet"));
        };
        if known.chain.ended().contains(&from.store) {
            let detail =
                "the sender was removed from the cluster for good: it is to be stopped, and its directory emptied";
            return Err(Refused::new(Refusal::Ended, detail));
        }
        if known.chain.live().iter().all(|layout| layout.member_by_store(from.store).is_none()) {
            return Err(Refused::new(Refusal::NotOwner, "the sender is not a member of a layout that is live here"));
        }
        Ok(known)
    }

    fn find(&self, layout: &Layout, target: Target) -> Result<Found, Refused> {
        let bucket = Bucket::new(&target.bucket).map_err(|bad| Refused::new(Refusal::Malformed, bad.to_string()))?;
        let key = Key::new(target.key).map_err(|bad| Refused::new(Refusal::Malformed, bad.to_string()))?;
        let id = ObjectId::new(bucket, key);
        let settings = layout.settings(&id.bucket);
        if target.generation != settings.generation {
            let detail = format!("the bucket's generation is {} here", settings.generation);
            return Err(Refused::new(Refusal::Layout, detail));
        }
        let place = Place::of(layout.grid(), &id, target.generation);
        let rules = MergeRules {
            last_write_wins: settings.mode == Mode::Lww,
            idempotency_window: self.inner.limits.idempotency_window,
        };
        let class = layout.class_of(settings);
        Ok(Found { id, place, rules, class })
    }

    pub(super) fn unfit(&self, refusal: judge::Refusal) -> Reply {
        self.inner.metrics.layout.refused.inc();
        let (why, detail) = match refusal.why {
            Unfit::Ended => (Refusal::Ended, "the sender was removed from the cluster for good"),
            Unfit::Behind => (Refusal::Layout, "a newer layout is known here than the request names"),
            Unfit::NotLive => (Refusal::Layout, "none of the layouts that the request names is live here"),
            Unfit::NotOwner => (Refusal::NotOwner, "this node does not own that object in the layouts named"),
            Unfit::NotFallback => (Refusal::NotOwner, "this node stands in for no owner of that object"),
            Unfit::Syncing => (Refusal::Syncing, "this node does not hold everything of that partition yet"),
            Unfit::Superseded => (Refusal::Layout, "this node reads in a later layout"),
        };
        turn_away(Refused { live: refusal.live, ..Refused::new(why, detail) })
    }

    async fn serve_read(&self, known: &Known, named: Named<'_>, read: Read) -> Reply {
        let found = match self.find(known.newest(), read.target) {
            Ok(found) => found,
            Err(refused) => return turn_away(refused),
        };
        let partition = found.place.partition;
        // The one before what it tells of, the other after.
        let epoch = self.inner.replica.epoch(partition).0;
        let found = if read.to_mend && named.newest < known.newest().version() {
            return self.unfit(known.view().behind());
        } else if read.to_mend {
            // No vote: whatever is here is of use.
            self.inner.replica.read_to_mend(found.place).await
        } else {
            match known.judge_read(named, found.place.partition, &found.id.bucket) {
                Ok(_) => self.inner.replica.read(found.place).await,
                Err(refusal) => return self.unfit(refusal),
            }
        };
        let (held, record) = match found {
            Err(fault) => return refuse(&fault),
            Ok(None) => (Held::Nothing, None),
            Ok(Some(record))
                if read.have.is_some_and(|have| have[..] == digest_of_record(&record).0)
                    && !self.inner.env.buggify.at("sent whole though it is the same") =>
            {
                (Held::Same, None)
            }
            Ok(Some(record)) => (Held::Object, Some(record)),
        };
        let sealed = self.inner.replica.sealed(partition).0;
        Reply::new(Tell::Copy(Copy { held: held.into(), record, epoch, sealed }))
    }

    async fn serve_write(&self, known: &Known, named: Named<'_>, write: Write) -> Reply {
        let found = match self.find(known.newest(), write.target) {
            Ok(found) => found,
            Err(refused) => return turn_away(refused),
        };
        let layouts = match known.judge_write(named, found.place.partition, &found.id.bucket) {
            Ok(layouts) => layouts,
            Err(refusal) => return self.unfit(refusal),
        };
        let request = MergeRequest {
            place: found.place,
            record: write.record,
            rules: found.rules,
            class: found.class,
            flush: write.flush,
            cause: if write.repair { Cause::Repair } else { Cause::Written },
            epoch: Epoch(write.epoch),
        };
        let merged = self.inner.replica.merge(request).await;
        let env = &self.inner.env;
        if env.buggify.at("acknowledged late") {
            env.clock.sleep(Duration::from_micros(env.entropy.below(2_000_000))).await;
        }
        match merged {
            Ok(flushed) => Reply::new(Tell::Written(Written { flushed, layouts })),
            Err(fault) => refuse(&fault),
        }
    }

    /// Keeps a state for an owner that its coordinator cannot reach.
    async fn serve_keep(&self, known: &Known, named: Named<'_>, keep: Keep) -> Reply {
        let found = match self.find(known.newest(), keep.target) {
            Ok(found) => found,
            Err(refused) => return turn_away(refused),
        };
        let Some(owner) = StoreId::from_slice(&keep.owner) else { return malformed("a store id has 16 bytes") };
        let layouts = match known.judge_hint(named, found.place.partition, &found.id.bucket, owner) {
            Ok(layouts) => layouts,
            Err(refusal) => return self.unfit(refusal),
        };
        let Keep { record, epoch, sealed, flush, .. } = keep;
        let (place, rules, sealed) = (found.place, found.rules, Epoch(sealed));
        let request = KeepRequest { place, owner, record, epoch, sealed, rules, flush };
        match self.inner.replica.keep_hint(request).await {
            Ok(flushed) => Reply::new(Tell::Written(Written { flushed, layouts })),
            Err(fault) => refuse(&fault),
        }
    }

    /// What is kept here for whoever owns an object. No vote by itself: whoever asks knows whom this node stands in for.
    async fn serve_read_kept(&self, known: &Known, read: Read) -> Reply {
        let found = match self.find(known.newest(), read.target) {
            Ok(found) => found,
            Err(refused) => return turn_away(refused),
        };
        let (held, record, epoch) = match self.inner.replica.kept(found.place, found.rules).await {
            Err(fault) => return refuse(&fault),
            Ok(None) => (Held::Nothing, None, u64::MAX),
            Ok(Some((record, epoch))) => (Held::Object, Some(record), epoch),
        };
        Reply::new(Tell::Copy(Copy { held: held.into(), record, epoch, sealed: 0 }))
    }

    /// Lets the votes that are counted here be counted, before a copy that gave one of them is merged anew.
    async fn serve_settle(&self, settle: Settle, budget: Duration) -> Reply {
        let (env, held) = (&self.inner.env, self.inner.keeper.held());
        let partition = PartitionId(settle.partition);
        let until = if settle.until == 0 { held.last_begun(partition) } else { settle.until };
        // So that whoever asks is told in time.
        let counted = env.timeout(budget / 2, held.counted(partition, until)).await;
        Reply::new(Tell::Settled(Settled { counting: counted.is_err(), until }))
    }

    /// A page of a partition, whoever owns it: for transfers and mending.
    async fn serve_fetch(&self, known: &Known, fetch: Fetch) -> Reply {
        // Of before the page is read: from there on what this node takes in goes to the newer layout's owners, too.
        let acked = known.view().own().ack;
        let most = fetch.max_bytes.min(PAGE_MOST) as usize;
        let held = match Inventory::decode(&fetch.held) {
            Ok(held) => held,
            Err(none) => return malformed(none.to_string()),
        };
        let (partition, replica) = (PartitionId(fetch.partition), &self.inner.replica);
        // Before it is read. Of the lesson alone: what is sealed meanwhile refuses what is read under this epoch.
        let epoch = replica.epoch(partition).0;
        let lesson =
            if fetch.after.is_empty() { replica.lesson(partition).map(|lesson| lesson.encode()) } else { None };
        let page = match replica.page(partition, fetch.after, most, held).await {
            Ok(page) => page,
            Err(fault) => return refuse(&fault),
        };
        let sealed = replica.sealed(partition).0;
        let target = |stored: &Bytes| {
            name_of(stored).map(|(id, generation)| Target {
                bucket: id.bucket.as_str().to_owned(),
                generation,
                key: id.key.as_bytes().clone(),
            })
        };
        let entries = page
            .entries
            .iter()
            .filter_map(|(stored, record)| Some(PageEntry { target: target(stored)?, record: record.clone() }));
        Reply::new(Tell::Page(Page {
            entries: entries.collect(),
            next: page.next,
            epoch,
            unreadable: page.unreadable.iter().filter_map(target).collect(),
            acked,
            sealed,
            lesson,
        }))
    }

    async fn serve_digests(&self, list: ListDigests) -> Reply {
        let most = list.most.clamp(1, DIGESTS_MOST) as usize;
        let partition = PartitionId(list.partition);
        let listed = self.inner.replica.digests(partition, list.after, list.to, most).await;
        // A copy that is in doubt covers nobody's: whoever asks would delete the last good one.
        let health = self.inner.replica.health();
        if !health.is_synced(partition) {
            return refuse(&Fault::Syncing);
        }
        match listed {
            Ok(mut page) => {
                page.entries.retain(|(stored, _)| !health.is_quarantined(stored));
                let of =
                    |(stored, digest): (Bytes, Digest)| DigestOf { stored, digest: Bytes::copy_from_slice(&digest.0) };
                Reply::new(Tell::Digests(Digests {
                    entries: page.entries.into_iter().map(of).collect(),
                    next: page.next,
                }))
            }
            Err(fault) => refuse(&fault),
        }
    }

    async fn serve_handed_read(&self, read: HandedRead, budget: Duration) -> Reply {
        let began = self.inner.env.clock.now();
        let Ok(r) = read.level.parse() else { return malformed("no such level") };
        let repair = match read.repair.as_str() {
            "sync" => Some(RepairMode::Sync),
            "async" => Some(RepairMode::Async),
            "off" => Some(RepairMode::Off),
            _ => None,
        };
        let (hedge, explain) = (read.hedge, read.explain);
        let options = ReadOptions { r, timeout: budget, repair, hedge, explain, ..ReadOptions::default() };
        let floor = match floor_of(read.floor.as_deref(), read.target.generation) {
            Ok(floor) => floor,
            Err(bad) => return malformed(bad.to_string()),
        };
        let located = match self.located_owner(read.target) {
            Ok(located) => located,
            Err(refused) => return turn_away(refused),
        };
        match self.read_here(located, &options, floor.as_ref(), began, began + budget).await {
            Ok(found) => Reply::new(Tell::ReadDone(ReadDone {
                record: found.object.map(|object| encode_object(&object)),
                counted: counted_message(found.counted),
                explain: explain_json(found.explain.as_ref()),
            })),
            Err(error) => fail(&error),
        }
    }

    async fn serve_handed_write(&self, write: HandedWrite, budget: Duration) -> Reply {
        let began = self.inner.env.clock.now();
        let supersedes = match write.supersedes() {
            Superseding::Tombstones => Supersedes::Tombstones,
            Superseding::Seen => Supersedes::Seen,
            Superseding::Covered => match decode_vector(&write.context) {
                Ok(context) => Supersedes::Covered(context),
                Err(bad) => return malformed(bad.to_string()),
            },
        };
        let floor = match floor_of(write.floor.as_deref(), write.target.generation) {
            Ok(floor) => floor,
            Err(bad) => return malformed(bad.to_string()),
        };
        let half = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| <[u8; 16]>::try_from(&bytes[..])).transpose();
        let (Ok(id), Ok(fingerprint)) = (half(&write.request_id), half(&write.fingerprint)) else {
            return malformed("a request id has 16 bytes");
        };
        let Ok(w) = write.level.parse() else { return malformed("no such level") };
        // Before the look at the layouts: see `Held`.
        let guard = self.inner.keeper.held().take();
        let (located, owns) = match self.located_owner(write.target.clone()) {
            Ok(located) => (located, true),
            Err(refused) if write.sloppy && refused.why() == Refusal::NotOwner => match self.located(write.target) {
                Ok(located) => (located, false),
                Err(refused) => return turn_away(refused),
            },
            Err(refused) => return turn_away(refused),
        };
        let plan = WritePlan {
            payload: Payload {
                value: write.payload.value,
                content_type: write.payload.content_type,
                meta: write.payload.meta,
                written_at: Wall(write.payload.written_at_ms),
                expires_at: None,
            },
            ttl: write.payload.ttl_ms.map(Duration::from_millis),
            supersedes,
            shown_under: None,
            floor,
            request: id.zip(fingerprint).map(|(id, fingerprint)| (RequestId(id), Fingerprint(fingerprint))),
            w,
            durable: write.durable,
            timeout: budget,
            return_body: write.return_body,
            explain: write.explain,
            max_siblings: write.max_siblings,
            max_object: write.max_object,
            sloppy: write.sloppy,
        };
        if let Err(error) = self.check(&located, &plan) {
            return fail(&error);
        }
        let stands_for = match owns {
            true => None,
            false => match self.stands_for(&located, &plan, None) {
                Ok(owner) => Some(owner),
                Err(error) => return fail(&error),
            },
        };
        if let Some(bar) = self.inner.replica.identity().barred() {
            return refuse(&Fault::Barred(bar));
        }
        let admitted = match self.admit() {
            Ok(admitted) => admitted,
            Err(error) => return fail(&error),
        };
        match self.write_here(located, plan, stands_for, began, began + budget, (admitted, guard)).await {
            Ok(wrote) => Reply::new(Tell::WriteDone(WriteDone {
                record: wrote.object.as_ref().map(encode_object),
                digest: Bytes::copy_from_slice(&wrote.digest.0),
                siblings: wrote.siblings,
                alone: wrote.alone,
                replayed: wrote.replayed,
                counted: counted_message(wrote.counted),
                explain: explain_json(wrote.explain.as_ref()),
                context: encode_vector(&wrote.context),
                expires_at_ms: wrote.expires_at.map(|at| at.0),
            })),
            Err(error) => fail(&error),
        }
    }

    fn located(&self, target: Target) -> Result<super::Located, Refused> {
        let Some(known) = self.inner.keeper.known() else {
            return Err(Refused::new(Refusal::Layout, "this node is in no cluster yet"));
        };
        let found = self.find(known.newest(), target)?;
        self.locate(&found.id).map_err(|error| Refused::new(Refusal::Stopping, error.detail))
    }

    /// The object, if this node coordinates for it; a handed-over operation goes no further.
    fn located_owner(&self, target: Target) -> Result<super::Located, Refused> {
        let located = self.located(target)?;
        if self.is_synced_owner(&located) {
            return Ok(located);
        }
        if located.stores().any(|store| store == self.inner.me) {
            return Err(Refused::new(Refusal::Syncing, Fault::Syncing.to_string()));
        }
        Err(Refused::new(Refusal::NotOwner, "this node does not own that object"))
    }
}

/// A floor, as who hands an operation over says it: of the generation that its target names.
fn floor_of(bytes: Option<&[u8]>, generation: u64) -> Result<Option<Floor>, RecordError> {
    let seen = bytes.map(decode_vector).transpose()?;
    Ok(seen.map(|seen| Floor { generation, seen }))
}

fn counted_message(counted: Counted) -> messages::Counted {
    messages::Counted {
        answered: counted.answered,
        needed: counted.needed,
        n: counted.n,
        layout: counted.layout,
        sloppy: counted.sloppy,
    }
}

fn explain_json(explain: Option<&crate::quorum::Explain>) -> Bytes {
    explain.and_then(|explain| serde_json::to_vec(explain).ok()).unwrap_or_default().into()
}
