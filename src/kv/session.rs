//! Sessions: what one client sees of an object only grows, whichever node it asks and at whatever level (I-SESSION).
//!
//! A [`Session`] is a [`Kv`] around another one (a node in this process, a client of a cluster, the mock). It keeps the
//! floor of each object that went through it and sends it with what comes next: so at `one`, too, a read finds the
//! session's own writes and all that it read before, and a write is made on top of that. What cannot be had in time is an
//! error ([`ErrorCode::SessionUnmet`](super::ErrorCode::SessionUnmet)), never something older.
//!
//! **A session is a line**: operations on one object go one after the other, in the order in which they were begun. Side by
//! side each would know only what came before both. Operations on different objects do not wait for each other, and
//! nothing is promised between them.
//!
//! It may keep contexts, too ([`Session::keeping_contexts`]): then a write without one supersedes what the session was last
//! shown, and no more.
//!
//! Bounded: it remembers so many objects ([`Session::MOST`] by default). Past that the object that was used least recently is
//! forgotten, and the session begins anew for it: from then on it may show an older state. [`Session::forgotten`] counts
//! those.
//!
//! ```
//! use quorate::kv::mock::MockKv;
//! use quorate::kv::{Kv, ReadOptions, Session, WriteOptions};
//! use quorate::quorum::Level;
//! use quorate::types::{Bucket, Key, ObjectId};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let cart = ObjectId::new(Bucket::new("carts")?, Key::new("ada")?);
//! let session = Session::new(MockKv::default());
//! session.put(cart.clone(), "apples".into(), WriteOptions { w: Level::One, ..WriteOptions::default() }).await?;
//! // Through whatever replica: the session's own write is there.
//! let read = session.get(cart, ReadOptions { r: Level::One, ..ReadOptions::default() }).await?;
//! assert_eq!(read.siblings.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    ContextToken, Error, FloorToken, KeyPage, Kv, ListOptions, ReadAnswer, ReadOptions, Value, WriteAnswer,
    WriteOptions,
};
use crate::env::BoxFuture;
use crate::types::{Bucket, ObjectId};

/// What a session knows of one object. Whoever works on it holds the lock.
#[derive(Debug, Default)]
struct Known {
    floor: Option<FloorToken>,
    context: Option<ContextToken>,
}

type Entry = Arc<tokio::sync::Mutex<Known>>;

/// Objects by name, and by when they were last used.
#[derive(Debug, Default)]
struct Objects {
    known: BTreeMap<ObjectId, (u64, Entry)>,
    by_use: BTreeMap<u64, ObjectId>,
    uses: u64,
    forgotten: u64,
}

impl Objects {
    /// The entry of an object, which is now the one used last.
    fn entry(&mut self, id: &ObjectId, most: usize) -> Entry {
        self.uses += 1;
        let (used, entry) = self.known.entry(id.clone()).or_default();
        self.by_use.remove(used);
        *used = self.uses;
        let entry = Arc::clone(entry);
        self.by_use.insert(self.uses, id.clone());
        while self.known.len() > most
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.known.remove(&oldest);
            self.forgotten += 1;
        }
        entry
    }
}

/// One client's line of operations: see the module.
#[derive(Debug)]
pub struct Session<K> {
    kv: K,
    most: usize,
    keeps_contexts: bool,
    objects: Mutex<Objects>,
}

impl<K> Session<K> {
    /// How many objects a session remembers unless it is told otherwise.
    pub const MOST: usize = 10_000;

    /// A new session on this store.
    #[must_use]
    pub fn new(kv: K) -> Self {
        Self { kv, most: Self::MOST, keeps_contexts: false, objects: Mutex::default() }
    }

    /// Remembers at most so many objects, at least one.
    #[must_use]
    pub fn remembering(mut self, most: usize) -> Self {
        self.most = most.max(1);
        self
    }

    /// Keeps the context of each answer, too, and sends it with the next write that has none: read, then write, and the
    /// write supersedes what was read. A write that leaves siblings shows none of them, so the next is blind again.
    #[must_use]
    pub fn keeping_contexts(mut self) -> Self {
        self.keeps_contexts = true;
        self
    }

    /// What it wraps.
    pub const fn inner(&self) -> &K {
        &self.kv
    }

    /// What is known of an object, to be carried elsewhere: to another process, or to another session.
    pub async fn floor(&self, id: &ObjectId) -> Option<FloorToken> {
        let entry = self.objects().known.get(id).map(|(_, entry)| Arc::clone(entry))?;
        let known = entry.lock().await;
        known.floor.clone()
    }

    /// Forgets an object: the session begins anew for it.
    pub fn forget(&self, id: &ObjectId) {
        let mut objects = self.objects();
        if let Some((used, _)) = objects.known.remove(id) {
            objects.by_use.remove(&used);
        }
    }

    /// How many objects were forgotten because it remembers no more than it does.
    pub fn forgotten(&self) -> u64 {
        self.objects().forgotten
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: &ObjectId) -> Entry {
        self.objects().entry(id, self.most)
    }
}

impl<K: Kv> Session<K> {
    async fn write(
        &self,
        id: ObjectId,
        mut options: WriteOptions,
        write: impl AsyncFnOnce(ObjectId, WriteOptions) -> Result<WriteAnswer, Error>,
    ) -> Result<WriteAnswer, Error> {
        let entry = self.entry(&id);
        let mut known = entry.lock().await;
        let own = options.floor.is_some();
        options.floor = options.floor.or_else(|| known.floor.clone());
        if self.keeps_contexts && options.context.is_none() {
            options.context = known.context.clone();
        }
        let answer = write(id, options).await?;
        // What a caller's own floor brought may be older than what this session has seen.
        if !own || known.floor.is_none() {
            known.floor = Some(answer.floor.clone());
        }
        known.context = answer.context.clone().filter(|_| self.keeps_contexts);
        Ok(answer)
    }
}

/// A floor or a context that the options carry already is sent in place of the session's.
impl<K: Kv> Kv for Session<K> {
    fn get(&self, id: ObjectId, mut options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(async move {
            let entry = self.entry(&id);
            let mut known = entry.lock().await;
            let own = options.floor.is_some();
            options.floor = options.floor.or_else(|| known.floor.clone());
            let answer = self.kv.get(id, options).await?;
            if !own || known.floor.is_none() {
                known.floor = Some(answer.floor.clone());
            }
            known.context = self.keeps_contexts.then(|| answer.context.clone());
            Ok(answer)
        })
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.write(id, options, async |id, options| self.kv.put(id, value, options).await))
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.write(id, options, async |id, options| self.kv.delete(id, options).await))
    }

    /// Lists know no floors: what this session has seen may be missing on a page.
    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        self.kv.list(bucket, options)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mock::{MockKv, write_timeout};
    use super::*;
    use crate::quorum::Level;
    use crate::types::Key;

    fn id(key: &str) -> ObjectId {
        ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.as_bytes().to_vec()).unwrap())
    }

    fn one() -> ReadOptions {
        ReadOptions { r: Level::One, ..ReadOptions::default() }
    }

    async fn put(session: &Session<Arc<MockKv>>, key: &str, value: &str) -> WriteAnswer {
        session.put(id(key), value.to_owned().into(), WriteOptions::default()).await.unwrap()
    }

    async fn values(session: &Session<Arc<MockKv>>, key: &str) -> usize {
        session.get(id(key), one()).await.unwrap().siblings.len()
    }

    fn lagging() -> Arc<MockKv> {
        let kv = Arc::new(MockKv::default());
        for key in ["a", "b", "c"] {
            kv.lag(&id(key));
        }
        kv
    }

    #[tokio::test]
    async fn a_session_reads_its_own_writes_and_another_one_may_not() {
        let kv = lagging();
        let (mine, yours) = (Session::new(Arc::clone(&kv)), Session::new(kv));
        put(&mine, "a", "1").await;
        assert_eq!((values(&mine, "a").await, values(&yours, "a").await), (1, 0));
        assert_eq!(values(&mine, "b").await, 0, "and nothing of it holds for another object");
    }

    #[tokio::test]
    async fn a_session_does_not_go_back_behind_what_it_read() {
        let kv = lagging();
        let (mine, yours) = (Session::new(Arc::clone(&kv)), Session::new(kv));
        put(&yours, "a", "1").await;
        assert_eq!(mine.get(id("a"), ReadOptions::default()).await.unwrap().siblings.len(), 1, "at quorum");
        assert_eq!(values(&mine, "a").await, 1, "and at one from then on");
        mine.forget(&id("a"));
        assert_eq!(values(&mine, "a").await, 0, "unless it is told to forget");
        // The floor may be carried elsewhere.
        let floor = yours.floor(&id("a")).await;
        assert_eq!(mine.get(id("a"), ReadOptions { floor, ..one() }).await.unwrap().siblings.len(), 1);
    }

    #[tokio::test]
    async fn what_failed_changes_nothing() {
        let kv = lagging();
        let mine = Session::new(Arc::clone(&kv));
        kv.fail_next_after_doing_it(write_timeout());
        assert!(mine.put(id("a"), "1".into(), WriteOptions::default()).await.is_err());
        assert_eq!(mine.floor(&id("a")).await, None);
        assert_eq!(values(&mine, "a").await, 0, "of what is not acknowledged nothing is promised");
    }

    #[tokio::test]
    async fn it_remembers_so_many_objects_and_forgets_the_one_used_least_recently() {
        let mine = Session::new(lagging()).remembering(2);
        put(&mine, "a", "1").await;
        put(&mine, "b", "1").await;
        assert_eq!(values(&mine, "a").await, 1, "used again");
        put(&mine, "c", "1").await;
        assert_eq!(mine.forgotten(), 1);
        assert_eq!((values(&mine, "a").await, values(&mine, "c").await), (1, 1));
        assert_eq!(values(&mine, "b").await, 0);
        assert_eq!(mine.forgotten(), 2, "and something else for that");
        let objects = mine.objects();
        assert_eq!((objects.known.len(), objects.by_use.len()), (2, 2));
    }

    #[tokio::test]
    async fn a_session_that_keeps_contexts_replaces_what_it_read() {
        let kv = Arc::new(MockKv::default());
        let (plain, keeps) = (Session::new(Arc::clone(&kv)), Session::new(Arc::clone(&kv)).keeping_contexts());
        put(&plain, "a", "1").await;
        put(&plain, "a", "2").await;
        assert_eq!(values(&keeps, "a").await, 2);
        assert_eq!(put(&keeps, "a", "3").await.sibling_count, 1, "both were shown");
        assert_eq!(put(&keeps, "a", "4").await.sibling_count, 1, "and so was its own");
        put(&plain, "a", "5").await;
        assert_eq!(put(&keeps, "a", "6").await.sibling_count, 2, "what nobody showed it stays");
        assert_eq!(put(&keeps, "a", "7").await.sibling_count, 3, "and no context came of that: blind");
    }

    #[tokio::test]
    async fn operations_on_one_object_go_one_after_the_other() {
        let kv = lagging();
        let mine = Session::new(Arc::clone(&kv));
        let entry = mine.entry(&id("a"));
        let held = entry.lock().await;
        let mut write = Box::pin(put(&mine, "a", "1"));
        tokio::select! {
            biased;
            _ = &mut write => panic!("it did not wait"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(kv.calls(), 0);
        put(&mine, "b", "1").await;
        drop(held);
        write.await;
        assert_eq!(kv.calls(), 2);
    }
}
