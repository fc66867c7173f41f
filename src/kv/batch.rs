//! Batches: many operations in one call, side by side, each with an outcome of its own.
//!
//! **Not atomic.** A batch saves round trips and nothing else: each operation succeeds or fails by itself, some may be done
//! and others not, and two of one object are concurrent, as if two clients had sent them. [`batch`] works on every
//! [`Kv`]: on a node in this process, on a [`Session`](super::Session) (which does those of one object one after the other),
//! on the mock. A client of a cluster sends the whole in one request (`Client::batch`).
//!
//! Bounded: [`OPS_MOST`] operations; so many of them at a time (4: each may bring an object of 4 MiB); and once the values that
//! were brought come to 8 MiB, what would bring more is refused before it is begun: whoever asked does it by itself.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::{Error, ErrorCode, Kv, ReadAnswer, ReadOptions, SiblingView, Value, WriteAnswer, WriteOptions};
use crate::env::Clock;
use crate::types::ObjectId;

pub mod wire;

/// Most operations in a batch.
pub const OPS_MOST: usize = 100;
/// Most bytes of a batch that is sent to a node.
pub const BODY_MOST: usize = 4 << 20;
/// How many are under way at a time.
const AT_ONCE: usize = 4;
/// Once so many bytes of values were brought, nothing more is.
const READ_MOST: usize = 8 << 20;

/// One operation of a batch.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// Read an object.
    Get(ObjectId, ReadOptions),
    /// Store a value.
    Put(ObjectId, Value, WriteOptions),
    /// Delete.
    Delete(ObjectId, WriteOptions),
}

impl Operation {
    /// Its object.
    #[must_use]
    pub const fn id(&self) -> &ObjectId {
        match self {
            Self::Get(id, _) | Self::Put(id, ..) | Self::Delete(id, _) => id,
        }
    }

    /// How long it may take, from the batch's beginning on.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        match self {
            Self::Get(_, options) => options.timeout,
            Self::Put(_, _, options) | Self::Delete(_, options) => options.timeout,
        }
    }
}

/// What became of one operation of a batch.
#[derive(Clone, PartialEq, Debug)]
pub enum Done {
    /// A read.
    Read(Result<ReadAnswer, Error>),
    /// A write, or a delete.
    Wrote(Result<WriteAnswer, Error>),
}

impl Done {
    /// Bytes of values that it brought.
    fn bytes(&self) -> usize {
        let siblings: &[SiblingView] = match self {
            Self::Read(Ok(answer)) => &answer.siblings,
            Self::Wrote(Ok(answer)) => answer.siblings.as_deref().unwrap_or_default(),
            Self::Read(Err(_)) | Self::Wrote(Err(_)) => &[],
        };
        siblings.iter().filter_map(|view| view.value.as_ref()).map(|value| value.bytes.len()).sum()
    }
}

/// Refuses more operations than there may be.
pub fn check_count(count: usize) -> Result<(), Error> {
    if count <= OPS_MOST {
        return Ok(());
    }
    let detail = format!("a batch has at most {OPS_MOST} operations, got {count}: send them in several");
    Err(Error::refused(ErrorCode::BadParameter, detail))
}

/// Carries out operations side by side. What became of each stands where it stood.
///
/// # Errors
/// Where there are more than [`OPS_MOST`]: then nothing was done.
pub async fn batch<K: Kv + ?Sized>(kv: &K, clock: &dyn Clock, operations: Vec<Operation>) -> Result<Vec<Done>, Error> {
    check_count(operations.len())?;
    let began = clock.now();
    let mut done: Vec<Option<Done>> = operations.iter().map(|_| None).collect();
    let mut waiting = operations.into_iter().enumerate();
    let mut under_way = FuturesUnordered::new();
    let mut read = 0;
    loop {
        while under_way.len() < AT_ONCE
            && let Some((at, operation)) = waiting.next()
        {
            let (spent, full) = (clock.now().since(began), read >= READ_MOST);
            under_way.push(async move { (at, one(kv, operation, spent, full).await) });
        }
        let Some((at, became)) = under_way.next().await else { break };
        read += became.bytes();
        done[at] = Some(became);
    }
    Ok(done.into_iter().flatten().collect())
}

async fn one<K: Kv + ?Sized>(kv: &K, operation: Operation, spent: Duration, full: bool) -> Done {
    let left = operation.timeout().saturating_sub(spent);
    let late = |code| Error::refused(code, "the time of the batch was over before this was begun; nothing was done");
    let more = || {
        let detail = format!(
            "the values that this batch has brought come to more than {} MiB: do this one by itself",
            READ_MOST >> 20
        );
        Error::refused(ErrorCode::Overloaded, detail)
    };
    match operation {
        Operation::Get(..) if full => Done::Read(Err(more())),
        Operation::Put(_, _, WriteOptions { return_body: true, .. })
        | Operation::Delete(_, WriteOptions { return_body: true, .. })
            if full =>
        {
            Done::Wrote(Err(more()))
        }
        Operation::Get(..) if left.is_zero() => Done::Read(Err(late(ErrorCode::ReadTimeout))),
        Operation::Put(..) | Operation::Delete(..) if left.is_zero() => Done::Wrote(Err(late(ErrorCode::WriteTimeout))),
        Operation::Get(id, options) => Done::Read(kv.get(id, ReadOptions { timeout: left, ..options }).await),
        Operation::Put(id, value, options) => {
            Done::Wrote(kv.put(id, value, WriteOptions { timeout: left, ..options }).await)
        }
        Operation::Delete(id, options) => Done::Wrote(kv.delete(id, WriteOptions { timeout: left, ..options }).await),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::mock::{MockKv, write_timeout};
    use super::super::{KeyPage, ListOptions, Outcome, Session};
    use super::*;
    use crate::env::{BoxFuture, Env};
    use crate::types::{Bucket, Key};

    fn id(key: &str) -> ObjectId {
        ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.as_bytes().to_vec()).unwrap())
    }

    fn put(key: &str, value: &str) -> Operation {
        Operation::Put(id(key), value.to_owned().into(), WriteOptions::default())
    }

    fn get(key: &str) -> Operation {
        Operation::Get(id(key), ReadOptions::default())
    }

    async fn run<K: Kv>(kv: &K, operations: Vec<Operation>) -> Vec<Done> {
        batch(kv, &*Env::real().clock, operations).await.unwrap()
    }

    #[tokio::test]
    async fn each_has_its_own_outcome_in_its_own_place() {
        let kv = MockKv::default();
        run(&kv, vec![put("a", "1"), put("b", "2")]).await;
        kv.fail_next_after_doing_it(write_timeout());
        let done = run(&kv, vec![put("a", "3"), get("b"), Operation::Delete(id("b"), WriteOptions::default())]).await;
        let [Done::Wrote(Err(failed)), Done::Read(Ok(read)), Done::Wrote(Ok(deleted))] = &done[..] else {
            panic!("{done:?}");
        };
        assert_eq!((failed.code, failed.outcome), (ErrorCode::WriteTimeout, Outcome::Unknown));
        assert_eq!(read.siblings.len(), 1);
        assert_eq!(deleted.sibling_count, 1);
        assert_eq!(run(&kv, Vec::new()).await, []);
    }

    #[tokio::test]
    async fn too_many_are_refused_and_nothing_is_done() {
        let kv = MockKv::default();
        let many = |count: usize| (0..count).map(|at| put(&at.to_string(), "v")).collect();
        let refused = batch(&kv, &*Env::real().clock, many(OPS_MOST + 1)).await.unwrap_err();
        assert_eq!((refused.code, refused.outcome, kv.calls()), (ErrorCode::BadParameter, Outcome::NotApplied, 0));
        assert_eq!(run(&kv, many(OPS_MOST)).await.len(), OPS_MOST);
        assert_eq!(kv.len(), OPS_MOST);
    }

    #[tokio::test]
    async fn a_session_does_those_of_one_object_in_their_order() {
        let session = Session::new(MockKv::default()).keeping_contexts();
        let done = run(&session, vec![put("a", "1"), put("a", "2"), get("a")]).await;
        let Done::Read(Ok(read)) = &done[2] else { panic!("{done:?}") };
        assert_eq!(read.siblings.len(), 1, "the second was shown the first");
    }

    /// Answers once it is told to; counts how many wait.
    #[derive(Default)]
    struct Slow {
        waiting: AtomicUsize,
        most: AtomicUsize,
        kv: MockKv,
    }

    impl Kv for Slow {
        fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
            Box::pin(async move {
                let now = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
                self.most.fetch_max(now, Ordering::Relaxed);
                tokio::task::yield_now().await;
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.kv.get(id, options).await
            })
        }

        fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
            self.kv.put(id, value, options)
        }

        fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
            self.kv.delete(id, options)
        }

        fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
            self.kv.list(bucket, options)
        }
    }

    #[tokio::test]
    async fn so_many_are_under_way_at_a_time() {
        let kv = Slow::default();
        run(&kv, (0..OPS_MOST).map(|at| get(&at.to_string())).collect()).await;
        assert_eq!(kv.most.load(Ordering::Relaxed), AT_ONCE);
    }

    #[tokio::test]
    async fn what_was_read_is_bounded_and_writes_go_on() {
        let kv = Arc::new(MockKv::default());
        let large = Value::from(vec![0; 1 << 20]);
        kv.put(id("large"), large, WriteOptions::default()).await.unwrap();
        let mut operations: Vec<Operation> = (0..60).map(|_| get("large")).collect();
        operations.push(put("a", "v"));
        let done = run(&kv, operations).await;
        let refused = |done: &&Done| matches!(done, Done::Read(Err(error)) if error.code == ErrorCode::Overloaded);
        let (full, read) = (done.iter().filter(refused).count(), READ_MOST >> 20);
        assert!((60 - read - AT_ONCE..=60 - read).contains(&full), "{full} were refused");
        assert!(matches!(done[60], Done::Wrote(Ok(_))));
    }

    #[tokio::test]
    async fn what_has_no_time_left_is_not_begun() {
        let kv = MockKv::default();
        let options = WriteOptions { timeout: Duration::ZERO, ..WriteOptions::default() };
        let done = run(&kv, vec![Operation::Delete(id("a"), options)]).await;
        let Done::Wrote(Err(late)) = &done[0] else { panic!("{done:?}") };
        assert_eq!((late.code, late.outcome, kv.calls()), (ErrorCode::WriteTimeout, Outcome::NotApplied, 0));
    }
}
