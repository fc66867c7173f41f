//! An in-memory [`Kv`] with the true semantics, for tests of edges and for embedders.
//!
//! It merges and mints by [`crate::causality`] as one replica of three that always agree; so contexts, siblings, tags
//! and replays behave as on a cluster, while nothing is sent anywhere. Its clock is a counter and its tokens are
//! deterministic, so a test sees the same bytes every time. Failures are scripted: [`MockKv::fail_next`]. So is a replica
//! that lags: [`MockKv::lag`], and a floor sees past it.
//!
//! Tokens are authenticated under a key of the mock's own: a token from elsewhere is forged, as it should be.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layouts::{
    AbortRequest, Begun, CommitRequest, ForceRequest, LayoutView, OperationView, PlanRequest, PlanView, SkipRequest,
};
use super::{
    ContextToken, Counted, Error, ErrorCode, FloorToken, HintAdmin, KeyGap, KeyPage, KeyView, Kv, LIST_BYTES,
    LayoutAdmin, ListCursor, ListOptions, NodeView, Outcome, OwnerView, Owners, PartitionView, ReadAnswer, ReadOptions,
    RepairAdmin, RingView, Status, TombstoneAdmin, Value, WorkerAdmin, WriteAnswer, WriteOptions, check_ttl, etag_of,
    open_context, open_floor, payload_of, request_of, views,
};
use crate::causality::{
    Dot, MergeRules, NodeClock, Object, Supersedes, TokenKeys, TokenKind, VersionVector, Write, write,
};
use crate::env::BoxFuture;
use crate::quorum::Level;
use crate::types::{ActorId, Bucket, Key, ObjectId, Stamp, Wall};

mod layouts;

pub use layouts::{Decides, MockLayouts, member};

/// How many replicas the mock speaks for.
const N: u8 = 3;
/// The mock's one actor.
const ACTOR: ActorId = ActorId(0xACCE_55ED);
/// Where the mock's clock starts: 2026-01-01T00:00:00Z.
const START: Wall = Wall(1_767_225_600_000);

/// What a client write may not exceed, and what a blind write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MockRules {
    /// Most bytes in a value.
    pub max_value: usize,
    /// Most siblings.
    pub max_siblings: usize,
    /// Whether blind writes are refused.
    pub reject_blind: bool,
}

impl Default for MockRules {
    fn default() -> Self {
        Self { max_value: 1 << 20, max_siblings: 64, reject_blind: false }
    }
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<ObjectId, Object>,
    /// What reads of one replica find in place of that.
    lagging: BTreeMap<ObjectId, Object>,
    clock: NodeClock,
    wall: Wall,
    failures: VecDeque<(Error, bool)>,
    gaps: Vec<KeyGap>,
    calls: u64,
}

/// An in-memory [`Kv`].
#[derive(Debug)]
pub struct MockKv {
    rules: MockRules,
    keys: TokenKeys,
    state: Mutex<State>,
}

impl Default for MockKv {
    fn default() -> Self {
        Self::new(MockRules::default())
    }
}

impl MockKv {
    /// An empty store under these rules.
    #[must_use]
    pub fn new(rules: MockRules) -> Self {
        let clock = NodeClock::starting_after(Stamp::at(START));
        let state = State {
            objects: BTreeMap::new(),
            lagging: BTreeMap::new(),
            clock,
            wall: START,
            failures: VecDeque::new(),
            gaps: Vec::new(),
            calls: 0,
        };
        Self { rules, keys: TokenKeys::new(&[b"the secret of the mock"]), state: Mutex::new(state) }
    }

    /// The next call that has no failure scripted before it fails so, and does nothing.
    pub fn fail_next(&self, error: Error) {
        self.state().failures.push_back((error, false));
    }

    /// The next call is done, and yet fails so: what a lost acknowledgement looks like.
    pub fn fail_next_after_doing_it(&self, error: Error) {
        self.state().failures.push_back((error, true));
    }

    /// How many calls there have been, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The object as it is stored; empty if there is none.
    #[must_use]
    pub fn object(&self, id: &ObjectId) -> Object {
        self.state().objects.get(id).cloned().unwrap_or_default()
    }

    /// How many objects are stored, tombstones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().objects.len()
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From here on reads of one replica find the object as it is now, whatever is written, unless they carry a floor that
    /// names more.
    pub fn lag(&self, id: &ObjectId) {
        let mut state = self.state();
        let now = state.objects.get(id).cloned().unwrap_or_default();
        state.lagging.insert(id.clone(), now);
    }

    /// Merges a state into an object, as repair would.
    pub fn merge(&self, id: ObjectId, other: &Object) {
        self.state().objects.entry(id).or_default().merge(other, &MergeRules::default());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, id: &ObjectId, options: &ReadOptions) -> Result<ReadAnswer, Error> {
        let mut state = self.state();
        state.calls += 1;
        let failure = state.failures.pop_front();
        if let Some((error, _)) = failure {
            return Err(error);
        }
        let counted = counted(options.r)?;
        let floor = self.floor(id, options.floor.as_ref())?;
        let whole = state.objects.get(id);
        let lags = |object: &&Object| counted.needed == 1 && object.context().covers_all(&floor);
        let object = state.lagging.get(id).filter(lags).or(whole).cloned().unwrap_or_default();
        let sign = |kind| self.keys.sign(kind, id, object.context());
        Ok(ReadAnswer {
            siblings: views(&object, state.wall),
            context: ContextToken(sign(TokenKind::Context)),
            floor: FloorToken(sign(TokenKind::Floor)),
            etag: (!object.is_empty()).then(|| etag_of(&object, state.wall)),
            counted,
            explain: options.explain.then(Default::default),
        })
    }

    /// What a floor names. Whatever it names was there once: the mock forgets nothing.
    fn floor(&self, id: &ObjectId, token: Option<&FloorToken>) -> Result<VersionVector, Error> {
        let opened = token.map(|token| open_floor(&self.keys, id, token)).transpose()?;
        Ok(opened.map(|(_, seen)| seen).unwrap_or_default())
    }

    fn page(&self, bucket: &Bucket, options: &ListOptions) -> Result<KeyPage, Error> {
        let mut state = self.state();
        state.calls += 1;
        let failure = state.failures.pop_front();
        if let Some((error, _)) = failure {
            return Err(error);
        }
        options.check()?;
        counted(options.r)?;
        let (after, now) = (options.place(bucket)?, state.wall);
        let mut page = KeyPage { gaps: state.gaps.clone(), layout: 1, ..KeyPage::default() };
        let (mut bytes, mut last) = (0, None);
        let its = |id: &ObjectId| id.bucket == *bucket && id.key.as_bytes().starts_with(&options.prefix);
        let objects = state.objects.iter().filter(|(id, _)| its(id) && *id.key.as_bytes() > after);
        for (id, object) in objects {
            let shown = views(object, now);
            if shown.is_empty() {
                continue;
            }
            if page.keys.len() >= options.limit || bytes >= LIST_BYTES {
                page.cursor = last.map(|key: Key| ListCursor::behind(bucket, &options.prefix, key.as_bytes()));
                break;
            }
            let siblings = u32::try_from(shown.len()).unwrap_or(u32::MAX);
            let live: Vec<_> = shown.into_iter().filter(|sibling| sibling.value.is_some()).collect();
            let values = options.values.then_some(live);
            let sizes = values.iter().flatten().filter_map(|sibling| sibling.value.as_ref());
            bytes += id.key.as_bytes().len() + sizes.map(|value| value.bytes.len()).sum::<usize>();
            page.keys.push(KeyView { key: id.key.clone(), etag: etag_of(object, now), siblings, values });
            last = Some(id.key.clone());
        }
        Ok(page)
    }

    /// From here on every page of a list says that these are missing.
    pub fn leave_gaps(&self, gaps: Vec<KeyGap>) {
        self.state().gaps = gaps;
    }

    fn write(&self, id: &ObjectId, value: Option<Value>, options: &WriteOptions) -> Result<WriteAnswer, Error> {
        let mut state = self.state();
        state.calls += 1;
        let failure = state.failures.pop_front();
        if let Some((error, false)) = failure {
            return Err(error);
        }
        let counted = counted(options.w)?;
        // It mints on all there is, so there is nothing that a floor could add.
        self.floor(id, options.floor.as_ref())?;
        let context = options.context.as_ref().map(|token| open_context(&self.keys, id, token)).transpose()?;
        // Its buckets are never emptied.
        let context = context.map(|(_, context)| context);
        check_ttl(options.ttl, value.is_none())?;
        let request = options
            .idempotency_key
            .as_ref()
            .map(|key| request_of(key, id, value.as_ref(), options.ttl, context.as_ref()));
        let supersedes = match context {
            Some(context) => Supersedes::Covered(context),
            None if self.rules.reject_blind => {
                let detail = "this bucket takes no write without a context: read first, then send its Quorate-Context";
                return Err(Error::refused(ErrorCode::ContextRequired, detail));
            }
            None if value.is_none() => Supersedes::Seen,
            None => Supersedes::Tombstones,
        };
        let size = value.as_ref().map_or(0, |value| value.bytes.len());
        if size > self.rules.max_value {
            let detail = format!("a value has at most {} bytes, got {size}", self.rules.max_value);
            return Err(Error::refused(ErrorCode::ValueTooLarge, detail));
        }
        let local = state.objects.get(id).cloned().unwrap_or_default();
        if let Some((found, fingerprint)) = request.and_then(|(id, print)| Some((*local.recent().find(id)?, print))) {
            if found.fingerprint != fingerprint {
                let detail = "this Idempotency-Key was used for another request: take a new one";
                return Err(Error::refused(ErrorCode::IdempotencyReused, detail));
            }
            return Ok(self.answer(id, &local, found.dot, true, counted, options, state.wall));
        }
        state.wall = Wall(state.wall.0 + 1);
        let wall = state.wall;
        let reading = state.clock.next(wall);
        let mut payload = payload_of(value, wall);
        payload.expires_at = options.ttl.within(None).map(|time| wall + time);
        let minted = write(
            &local,
            Write { payload, supersedes, request },
            ACTOR,
            reading,
            Stamp::default(),
            &MergeRules::default(),
        );
        if minted.object.siblings().len() > self.rules.max_siblings {
            let detail =
                format!("the object has {} siblings: read them, then write with their context", local.siblings().len());
            return Err(Error::refused(ErrorCode::TooManySiblings, detail));
        }
        let answer = self.answer(id, &minted.object, minted.dot, false, counted, options, wall);
        state.objects.insert(id.clone(), minted.object);
        match failure {
            Some((error, _)) => Err(error),
            None => Ok(answer),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one answer, made in one place, of all that an answer says")]
    fn answer(
        &self,
        id: &ObjectId,
        object: &Object,
        dot: Dot,
        replayed: bool,
        counted: Counted,
        options: &WriteOptions,
        now: Wall,
    ) -> WriteAnswer {
        let shown = object.is_alone(dot) || options.return_body;
        WriteAnswer {
            context: shown.then(|| ContextToken(self.keys.sign(TokenKind::Context, id, object.context()))),
            floor: FloorToken(self.keys.sign(TokenKind::Floor, id, object.context())),
            etag: etag_of(object, now),
            sibling_count: u32::try_from(object.siblings().len()).unwrap_or(u32::MAX),
            siblings: options.return_body.then(|| views(object, now)),
            expires_at: object
                .siblings()
                .iter()
                .find(|sibling| sibling.dot == dot)
                .and_then(|s| s.payloads[0].expires_at),
            replayed,
            counted,
            explain: options.explain.then(Default::default),
        }
    }
}

impl Kv for MockKv {
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(async move { self.read(&id, &options) })
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(async move { self.write(&id, Some(value), &options) })
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(async move { self.write(&id, None, &options) })
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        Box::pin(async move { self.page(&bucket, &options) })
    }
}

/// How the quorum was met, or why there can be none.
fn counted(level: Level) -> Result<Counted, Error> {
    let needed = match level {
        Level::Count(n) => n,
        Level::One | Level::LocalOne | Level::Any => 1,
        Level::Two | Level::Quorum | Level::LocalQuorum | Level::EachQuorum => 2,
        Level::Three | Level::All => N,
    };
    if !(1..=N).contains(&needed) {
        return Err(Error::refused(ErrorCode::BadParameter, format!("a level is 1 to {N} here, got {needed}")));
    }
    Ok(Counted { answered: needed.into(), needed: needed.into(), n: N.into(), layout: 1, sloppy: 0 })
}

/// A [`NodeView`] that says what it was made of.
#[derive(Clone, Debug, Default)]
pub struct MockNode {
    /// What [`NodeView::status`] says.
    pub status: Status,
    /// Why it is not ready; none if it is.
    pub not_ready: Option<String>,
    /// What [`NodeView::metrics_text`] says.
    pub metrics: String,
    /// The layouts; none while it is in no cluster.
    pub layouts: Option<Arc<MockLayouts>>,
}

impl MockNode {
    fn layouts(&self) -> Result<&MockLayouts, Error> {
        let fresh = || Error::refused(ErrorCode::NotServing, "this node is not in a cluster yet");
        self.layouts.as_deref().ok_or_else(fresh)
    }

    fn ask<'a, T: Send + 'a>(
        &'a self,
        ask: impl FnOnce(&'a MockLayouts) -> BoxFuture<'a, Result<T, Error>>,
    ) -> BoxFuture<'a, Result<T, Error>> {
        self.layouts().map_or_else(|error| Box::pin(std::future::ready(Err(error))) as BoxFuture<'a, _>, ask)
    }
}

impl LayoutAdmin for MockNode {
    fn layout(&self) -> LayoutView {
        self.layouts().map(LayoutAdmin::layout).unwrap_or_default()
    }

    fn plan(&self, request: PlanRequest) -> BoxFuture<'_, Result<PlanView, Error>> {
        self.ask(|layouts| layouts.plan(request))
    }

    fn commit(&self, plan: String, request: CommitRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        self.ask(|layouts| layouts.commit(plan, request))
    }

    fn skip(&self, request: SkipRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        self.ask(|layouts| layouts.skip(request))
    }

    fn abort(&self, request: AbortRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        self.ask(|layouts| layouts.abort(request))
    }

    fn force(&self, request: ForceRequest) -> BoxFuture<'_, Result<Begun, Error>> {
        self.ask(|layouts| layouts.force(request))
    }

    fn operation(&self, id: &str) -> Result<OperationView, Error> {
        self.layouts()?.operation(id)
    }
}

impl HintAdmin for MockNode {}

impl WorkerAdmin for MockNode {}

impl RepairAdmin for MockNode {}

impl TombstoneAdmin for MockNode {}

impl NodeView for MockNode {
    fn owners(&self, id: &ObjectId) -> Result<Owners, Error> {
        let owner = |node: &str| OwnerView {
            node: node.to_owned(),
            zone: "z".to_owned(),
            region: "r".to_owned(),
            state: "up".to_owned(),
        };
        Ok(Owners {
            token: id.token().to_string(),
            partition: 0,
            layout: 1,
            owners: ["a", "b", "c"].map(owner).to_vec(),
            fallbacks: Vec::new(),
        })
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    fn ring(&self) -> RingView {
        let members: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let partitions = vec![PartitionView { id: 0, owners: members.clone() }];
        RingView { version: 1, live: vec![1], q: 1, members, partitions, ..RingView::default() }
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.clone().map_or(Ok(()), Err)
    }

    fn metrics_text(&self) -> String {
        self.metrics.clone()
    }
}

/// A failure to script: fewer acknowledgements than asked for, in time.
#[must_use]
pub fn write_timeout() -> Error {
    Error {
        required: Some(2),
        answered: Some(1),
        n: Some(N.into()),
        ..Error::new(ErrorCode::WriteTimeout, Outcome::Unknown, "1 of 2 replicas answered in 1s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: &str) -> ObjectId {
        ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.as_bytes().to_vec()).unwrap())
    }

    fn put(kv: &MockKv, value: &str, context: Option<ContextToken>) -> Result<WriteAnswer, Error> {
        kv.write(&id("k"), Some(Value::from(value.to_owned())), &WriteOptions { context, ..WriteOptions::default() })
    }

    #[test]
    fn blind_writes_make_siblings_and_a_context_ends_them() {
        let kv = MockKv::default();
        assert!(put(&kv, "1", None).unwrap().context.is_some());
        let second = put(&kv, "2", None).unwrap();
        assert_eq!((second.sibling_count, second.context), (2, None), "a context names only what was shown");
        let read = kv.read(&id("k"), &ReadOptions::default()).unwrap();
        assert_eq!(read.siblings.len(), 2);
        assert!(read.siblings[0].dot.stamp > read.siblings[1].dot.stamp);
        assert_eq!(put(&kv, "3", Some(read.context)).unwrap().sibling_count, 1);
    }

    #[test]
    fn a_floor_or_a_foreign_context_is_refused() {
        let kv = MockKv::default();
        let written = put(&kv, "1", None).unwrap();
        let code = |token: String| put(&kv, "2", Some(ContextToken(token))).unwrap_err().code;
        assert_eq!(code(written.floor.0), ErrorCode::BadContext);
        assert_eq!(
            code(kv.keys.sign(TokenKind::Context, &id("other"), kv.object(&id("k")).context())),
            ErrorCode::BadContext
        );
        assert_eq!(code("a".repeat(crate::causality::MAX_BATCH_CONTEXT_LEN + 1)), ErrorCode::ContextTooLarge);
        assert_eq!(kv.object(&id("k")).siblings().len(), 1);
    }

    #[test]
    fn a_floor_sees_past_a_replica_that_lags() {
        let kv = MockKv::default();
        put(&kv, "1", None).unwrap();
        kv.lag(&id("k"));
        let written = put(&kv, "2", None).unwrap();
        let read = |r, floor| kv.read(&id("k"), &ReadOptions { r, floor, ..ReadOptions::default() });
        assert_eq!(read(Level::One, None).unwrap().siblings.len(), 1, "it lags");
        assert_eq!(read(Level::Quorum, None).unwrap().siblings.len(), 2, "one of two does not");
        assert_eq!(read(Level::One, Some(written.floor.clone())).unwrap().siblings.len(), 2);
        let code = |floor: String| read(Level::One, Some(FloorToken(floor))).unwrap_err().code;
        assert_eq!(code(written.context.map_or_else(String::new, |context| context.0)), ErrorCode::BadFloor);
        let other = kv.keys.sign(TokenKind::Floor, &id("other"), kv.object(&id("k")).context());
        assert_eq!(code(other.clone()), ErrorCode::BadFloor);
        let options = WriteOptions { floor: Some(FloorToken(other)), ..WriteOptions::default() };
        assert_eq!(kv.write(&id("k"), None, &options).unwrap_err().code, ErrorCode::BadFloor);
        assert_eq!(kv.object(&id("k")).siblings().len(), 2, "and nothing was done");
    }

    #[test]
    fn a_blind_delete_supersedes_what_is_seen() {
        let kv = MockKv::default();
        put(&kv, "1", None).unwrap();
        put(&kv, "2", None).unwrap();
        assert_eq!(kv.write(&id("k"), None, &WriteOptions::default()).unwrap().sibling_count, 1);
        let read = kv.read(&id("k"), &ReadOptions::default()).unwrap();
        assert!(read.siblings.is_empty() && read.etag.is_some());
        assert_eq!(put(&kv, "3", None).unwrap().sibling_count, 1, "a blind write supersedes tombstones");
    }

    #[test]
    fn failures_come_in_their_order_and_do_nothing_unless_told() {
        let kv = MockKv::default();
        kv.fail_next(write_timeout());
        kv.fail_next_after_doing_it(write_timeout());
        assert!(put(&kv, "1", None).is_err() && kv.is_empty());
        assert!(put(&kv, "2", None).is_err());
        assert_eq!(kv.object(&id("k")).siblings().len(), 1);
        assert!(put(&kv, "3", None).is_ok());
        assert_eq!(kv.calls(), 3);
    }
}
