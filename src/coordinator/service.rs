//! What peers ask of this node's data: copies, merges, pages, and operations handed over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Coordinator, WritePlan};
use crate::causality::{
    Fingerprint, MergeRules, Payload, RequestId, Supersedes, decode_vector, digest_of_record, encode_object,
    encode_vector,
};
use crate::env::BoxFuture;
use crate::kv::{Counted, Error, ReadOptions, RepairMode};
use crate::peers::Service;
use crate::replica::{Cause, Fault, MergeRequest, Place, name_of};
use crate::ring::{Layout, Mode};
use crate::transport::Hello;
use crate::transport::messages::{
    self, Ask, Copy, Failed, Fetch, HandedRead, HandedWrite, Held, Page, PageEntry, Read, ReadDone, Refusal, Refused,
    Reply, Request, Superseding, Target, Tell, Write, WriteDone, Written,
};
use crate::types::{Bucket, Key, ObjectId, PartitionId, Wall};

/// Most bytes of a page.
const PAGE_MOST: u32 = 4 << 20;

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
            let layout = match this.layout_for(&from, request.counted) {
                Ok(layout) => layout,
                Err(refused) => return turn_away(refused),
            };
            match request.ask {
                Some(Ask::Read(read)) => this.serve_read(&layout, read).await,
                Some(Ask::Write(write)) => this.serve_write(&layout, write).await,
                Some(Ask::Fetch(fetch)) => this.serve_fetch(fetch).await,
                Some(Ask::HandedRead(read)) => this.serve_handed_read(read, budget).await,
                Some(Ask::HandedWrite(write)) => this.serve_handed_write(write, budget).await,
                _ => Reply::refused(Refusal::Unknown, "this node does not know that request"),
            }
        })
    }
}

struct Named {
    id: ObjectId,
    place: Place,
    rules: MergeRules,
    class: u16,
    owned: bool,
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
    /// The layout that the request is counted in, if it is the one in use here and the sender is a member.
    fn layout_for(&self, from: &Hello, counted: u64) -> Result<Arc<Layout>, Refused> {
        let Some(layout) = self.inner.layout.load_full() else {
            return Err(Refused::new(Refusal::Layout, "this node is in no cluster yet"));
        };
        if counted != layout.version() {
            let live = vec![layout.version()];
            let detail = format!("layout {counted} is not in use here, {} is", layout.version());
            return Err(Refused { live, ..Refused::new(Refusal::Layout, detail) });
        }
        if layout.member_by_store(from.store).is_none() {
            return Err(Refused::new(Refusal::NotOwner, "the sender is not a member of this cluster's layout"));
        }
        Ok(layout)
    }

    fn name(&self, layout: &Layout, target: Target) -> Result<Named, Refused> {
        let bucket = Bucket::new(&target.bucket).map_err(|bad| Refused::new(Refusal::Malformed, bad.to_string()))?;
        let key = Key::new(target.key).map_err(|bad| Refused::new(Refusal::Malformed, bad.to_string()))?;
        let id = ObjectId::new(bucket, key);
        let settings = layout.settings(&id.bucket);
        if target.generation != settings.generation {
            let detail = format!("the bucket's generation is {} here", settings.generation);
            return Err(Refused::new(Refusal::Malformed, detail));
        }
        let place = Place::of(layout.grid(), &id, target.generation);
        let me = layout.member_by_store(self.inner.me);
        let owned = me.is_some_and(|me| layout.owns(me, place.partition, settings));
        let rules = MergeRules {
            last_write_wins: settings.mode == Mode::Lww,
            idempotency_window: self.inner.limits.idempotency_window,
        };
        let class = u16::from(settings.n);
        Ok(Named { id, place, rules, class, owned })
    }

    fn named_owner(&self, layout: &Layout, target: Target) -> Result<Named, Refused> {
        let named = self.name(layout, target)?;
        if named.owned { Ok(named) } else { Err(Refused::new(Refusal::NotOwner, "this node does not own that object")) }
    }

    async fn serve_read(&self, layout: &Layout, read: Read) -> Reply {
        let named = match self.named_owner(layout, read.target) {
            Ok(named) => named,
            Err(refused) => return turn_away(refused),
        };
        let found = if read.to_mend {
            self.inner.replica.read_to_mend(named.place).await
        } else {
            self.inner.replica.read(named.place).await
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
        Reply::new(Tell::Copy(Copy { held: held.into(), record, epoch: 0, sealed: 0 }))
    }

    async fn serve_write(&self, layout: &Layout, write: Write) -> Reply {
        let named = match self.named_owner(layout, write.target) {
            Ok(named) => named,
            Err(refused) => return turn_away(refused),
        };
        let request = MergeRequest {
            place: named.place,
            record: write.record,
            rules: named.rules,
            class: named.class,
            flush: write.flush,
            cause: if write.repair { Cause::Repair } else { Cause::Written },
        };
        let merged = self.inner.replica.merge(request).await;
        let env = &self.inner.env;
        if env.buggify.at("acknowledged late") {
            env.clock.sleep(Duration::from_micros(env.entropy.below(2_000_000))).await;
        }
        match merged {
            Ok(flushed) => Reply::new(Tell::Written(Written { flushed })),
            Err(fault) => refuse(&fault),
        }
    }

    async fn serve_fetch(&self, fetch: Fetch) -> Reply {
        let most = fetch.max_bytes.min(PAGE_MOST) as usize;
        let page = match self.inner.replica.page(PartitionId(fetch.partition), fetch.after, most).await {
            Ok(page) => page,
            Err(fault) => return refuse(&fault),
        };
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
            epoch: 0,
            unreadable: page.unreadable.iter().filter_map(target).collect(),
        }))
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
        let options = ReadOptions { r, timeout: budget, repair, hedge: read.hedge, explain: read.explain };
        let located = match self.located_owner(read.target) {
            Ok(located) => located,
            Err(refused) => return turn_away(refused),
        };
        match self.read_here(located, &options, began, began + budget).await {
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
        let half = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| <[u8; 16]>::try_from(&bytes[..])).transpose();
        let (Ok(id), Ok(fingerprint)) = (half(&write.request_id), half(&write.fingerprint)) else {
            return malformed("a request id has 16 bytes");
        };
        let Ok(w) = write.level.parse() else { return malformed("no such level") };
        let located = match self.located_owner(write.target) {
            Ok(located) => located,
            Err(refused) => return turn_away(refused),
        };
        let plan = WritePlan {
            payload: Payload {
                value: write.payload.value,
                content_type: write.payload.content_type,
                meta: write.payload.meta,
                written_at: Wall(write.payload.written_at_ms),
                expires_at: write.payload.expires_at_ms.map(Wall),
            },
            supersedes,
            request: id.zip(fingerprint).map(|(id, fingerprint)| (RequestId(id), Fingerprint(fingerprint))),
            w,
            durable: write.durable,
            timeout: budget,
            return_body: write.return_body,
            explain: write.explain,
            max_siblings: write.max_siblings,
            max_object: write.max_object,
        };
        if let Err(error) = self.check(&located, &plan) {
            return fail(&error);
        }
        if let Some(bar) = self.inner.replica.identity().barred() {
            return refuse(&Fault::Barred(bar));
        }
        let admitted = match self.admit() {
            Ok(admitted) => admitted,
            Err(error) => return fail(&error),
        };
        match self.write_here(located, plan, began, began + budget, admitted).await {
            Ok(wrote) => Reply::new(Tell::WriteDone(WriteDone {
                record: wrote.object.as_ref().map(encode_object),
                digest: Bytes::copy_from_slice(&wrote.digest.0),
                siblings: wrote.siblings,
                alone: wrote.alone,
                replayed: wrote.replayed,
                counted: counted_message(wrote.counted),
                explain: explain_json(wrote.explain.as_ref()),
                context: encode_vector(&wrote.context),
            })),
            Err(error) => fail(&error),
        }
    }

    /// The object, if this node coordinates for it; a handed-over operation goes no further.
    fn located_owner(&self, target: Target) -> Result<super::Located, Refused> {
        let Some(layout) = self.inner.layout.load_full() else {
            return Err(Refused::new(Refusal::Layout, "this node is in no cluster yet"));
        };
        let named = self.named_owner(&layout, target)?;
        let located = self.locate(&named.id).map_err(|error| Refused::new(Refusal::Stopping, error.detail))?;
        if self.is_synced_owner(&located) {
            return Ok(located);
        }
        Err(Refused::new(Refusal::Syncing, Fault::Syncing.to_string()))
    }
}

fn counted_message(counted: Counted) -> messages::Counted {
    messages::Counted { answered: counted.answered, needed: counted.needed, n: counted.n, layout: counted.layout }
}

fn explain_json(explain: Option<&crate::quorum::Explain>) -> Bytes {
    explain.and_then(|explain| serde_json::to_vec(explain).ok()).unwrap_or_default().into()
}
