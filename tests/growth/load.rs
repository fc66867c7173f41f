//! Clients that never pause while a cluster changes, and what they have a right to afterwards.
//!
//! Each client takes four steps in turn, each through the next node: a blind PUT of a key that nobody else writes; one of
//! its own counters read and written back one higher; a read of a key that anybody had acknowledged; a read of anybody's
//! counter. All at a quorum. What a read must show is written down *before* it begins, so a read that shows less is
//! stale (I-OVERLAP), and what is missing at the end is lost (I-ACK).
//!
//! No answer, 503 and 504 are tried again at the next node, a write under the same Idempotency-Key; they are counted by
//! code. Anything else is an error that no change may cause.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate::client::Client;
use quorate::kv::{Error, ErrorCode, Kv, ReadAnswer, ReadOptions, WriteOptions};
use quorate::quorum::Level;
use tokio::task::JoinHandle;

use crate::data::{for_all, id, read, value};
use crate::server::{Server, pause};

/// Clients at work at once.
const CLIENTS: usize = 4;
/// Counters of each client: enough to lie in many partitions.
const COUNTERS: usize = 16;
/// Between two rounds of a client: the machine has other things to do as well.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Attempts of one request: half a minute and more, at any node there is.
const ATTEMPTS: u64 = 600;

/// The clients while they run.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    told: (u64, BTreeMap<&'static str, u64>),
    since: std::time::Instant,
}

/// What all clients know.
struct Shared {
    nodes: Mutex<Vec<Client>>,
    turn: AtomicUsize,
    keys: Mutex<Vec<String>>,
    /// The greatest value of each counter that was acknowledged.
    counters: Vec<AtomicU64>,
    requests: AtomicU64,
    again: Mutex<BTreeMap<&'static str, u64>>,
    /// Stale reads, and errors that are no reason to try again.
    wrong: Mutex<Vec<String>>,
    ending: AtomicBool,
}

/// What was acknowledged.
pub(crate) struct Acknowledged {
    keys: Vec<String>,
    counters: Vec<u64>,
}

impl Load {
    /// Begins, through these nodes.
    pub(crate) fn start<'a>(nodes: impl IntoIterator<Item = &'a Server>) -> Self {
        let shared = Shared {
            nodes: Mutex::default(),
            turn: AtomicUsize::default(),
            keys: Mutex::default(),
            counters: (0..CLIENTS * COUNTERS).map(|_| AtomicU64::default()).collect(),
            requests: AtomicU64::default(),
            again: Mutex::default(),
            wrong: Mutex::default(),
            ending: AtomicBool::default(),
        };
        let mut load = Self {
            shared: Arc::new(shared),
            tasks: Vec::new(),
            told: Default::default(),
            since: std::time::Instant::now(),
        };
        load.through(nodes);
        load.tasks = (0..CLIENTS).map(|client| tokio::spawn(Arc::clone(&load.shared).run(client))).collect();
        load
    }

    /// The nodes that are asked from now on. One that is down may be among them.
    pub(crate) fn through<'a>(&self, nodes: impl IntoIterator<Item = &'a Server>) {
        *self.shared.nodes.lock().unwrap() = nodes.into_iter().map(Server::client).collect();
    }

    /// Waits until reads and writes have gone on: every client has made some more rounds.
    pub(crate) async fn goes_on(&self) {
        let wanted = self.shared.requests.load(Ordering::Relaxed) + 200;
        for _ in 0..2400 {
            if self.shared.requests.load(Ordering::Relaxed) >= wanted {
                return;
            }
            pause(Duration::from_millis(50)).await;
        }
        panic!("reads and writes came to a halt: {:?} {:?}", self.shared.again, self.shared.wrong);
    }

    /// Says what happened since it was last asked; fails if anything was wrong.
    pub(crate) fn tell(&mut self, step: &str) {
        let wrong = self.shared.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty(), "{step}: {} wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        let requests = self.shared.requests.load(Ordering::Relaxed);
        let again = self.shared.again.lock().unwrap().clone();
        let since = |code: &&str| again[code] - self.told.1.get(code).unwrap_or(&0);
        let tried: Vec<String> =
            again.keys().filter(|code| since(code) > 0).map(|code| format!("{code} {}", since(code))).collect();
        let tried = if tried.is_empty() { "none".to_owned() } else { tried.join(", ") };
        let (count, took) = (requests - self.told.0, self.since.elapsed());
        println!("{step}: {count} requests in {took:.1?}, 0 stale, 0 errors; tried again: {tried}");
        (self.told, self.since) = ((requests, again), std::time::Instant::now());
    }

    /// Ends the clients, each after its round.
    pub(crate) async fn end(mut self) -> Acknowledged {
        self.shared.ending.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
        self.tell("at the end");
        let keys = std::mem::take(&mut *self.shared.keys.lock().unwrap());
        Acknowledged {
            keys,
            counters: self.shared.counters.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    async fn run(self: Arc<Self>, client: usize) {
        // Any order does; the same one each time is easier to talk about.
        let mut state = client as u64 + 1;
        let mut any = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0_u64.. {
            if self.ending.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("live/{client}/{round}");
            if self.put(&key, key.clone(), WriteOptions::default()).await {
                self.keys.lock().unwrap().push(key);
            }
            self.count(client * COUNTERS + any(COUNTERS)).await;
            let known = {
                let keys = self.keys.lock().unwrap();
                (!keys.is_empty()).then(|| keys[any(keys.len())].clone())
            };
            if let Some(key) = known
                && let Some(found) = self.get(&key).await
                && !texts(&found).contains(&key)
            {
                self.wrong(format!("stale: {key} was acknowledged and is not found: {found:?}"));
            }
            self.look(any(self.counters.len())).await;
            pause(BETWEEN).await;
        }
    }

    /// Reads a counter: what it shows, and the answer.
    async fn look(&self, counter: usize) -> Option<(u64, ReadAnswer)> {
        let floor = self.counters[counter].load(Ordering::SeqCst);
        let found = self.get(&name(counter)).await?;
        let shown = greatest(&found);
        if shown < floor {
            self.wrong(format!("stale: counter {counter} was acknowledged at {floor}, and reads {shown}: {found:?}"));
        }
        Some((shown, found))
    }

    /// Counts one up. Nobody else writes this counter.
    async fn count(&self, counter: usize) {
        let Some((shown, found)) = self.look(counter).await else { return };
        let options = WriteOptions { context: Some(found.context), ..WriteOptions::default() };
        if self.put(&name(counter), (shown + 1).to_string(), options).await {
            self.counters[counter].fetch_max(shown + 1, Ordering::SeqCst);
        }
    }

    async fn get(&self, key: &str) -> Option<ReadAnswer> {
        let options = ReadOptions { timeout: ATTEMPT, ..ReadOptions::default() };
        self.until_answered(key, |node| {
            let options = options.clone();
            async move { node.get(id(key), options).await }
        })
        .await
    }

    /// Whether it was acknowledged.
    async fn put(&self, key: &str, text: String, options: WriteOptions) -> bool {
        // The same at every attempt, another one for every write.
        let once = Bytes::from(format!("{key}={text}"));
        let options = WriteOptions { timeout: ATTEMPT, idempotency_key: Some(once), ..options };
        let attempt = |node: Client| {
            let (options, text) = (options.clone(), text.clone());
            async move { node.put(id(key), text.into(), options).await }
        };
        self.until_answered(key, attempt).await.is_some()
    }

    async fn until_answered<T, F>(&self, key: &str, attempt: impl Fn(Client) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let node = {
                let nodes = self.nodes.lock().unwrap();
                nodes[self.turn.fetch_add(1, Ordering::Relaxed) % nodes.len()].clone()
            };
            match attempt(node).await {
                Ok(answer) => {
                    self.requests.fetch_add(1, Ordering::Relaxed);
                    return Some(answer);
                }
                Err(error) if is_passing(error.code) => {
                    *self.again.lock().unwrap().entry(error.code.as_str()).or_default() += 1;
                    last = Some(error);
                }
                Err(error) => {
                    self.wrong(format!("{key}: {error:?}"));
                    return None;
                }
            }
            pause(Duration::from_millis(50)).await;
        }
        self.wrong(format!("{key}: no node answered, {ATTEMPTS} times: {last:?}"));
        None
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// No connection, 503, 504; and a retry that came while its first attempt was still under way.
fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Unreachable
            | ErrorCode::QuorumUnavailable
            | ErrorCode::Overloaded
            | ErrorCode::NotServing
            | ErrorCode::ReplicasFailed
            | ErrorCode::ClockDrift
            | ErrorCode::ReadTimeout
            | ErrorCode::WriteTimeout
            | ErrorCode::IdempotencyInFlight
    )
}

fn name(counter: usize) -> String {
    format!("counter/{counter}")
}

fn texts(found: &ReadAnswer) -> Vec<String> {
    let values = found.siblings.iter().filter_map(|sibling| sibling.value.as_ref());
    values.map(|value| String::from_utf8_lossy(&value.bytes).into_owned()).collect()
}

/// A retry that met an attempt whose outcome was unknown may have made a sibling: the greatest counts.
fn greatest(found: &ReadAnswer) -> u64 {
    texts(found).iter().map(|text| text.parse().unwrap()).max().unwrap_or(0)
}

impl Acknowledged {
    /// How many objects that is.
    pub(crate) fn objects(&self) -> usize {
        self.keys.len() + self.counters.iter().filter(|count| **count > 0).count()
    }

    /// Reads all of it, and the records, at a quorum through every one of these nodes.
    pub(crate) async fn is_there(&self, records: &[(String, String)], nodes: &[&Server]) {
        assert!(self.keys.len() > 100 && self.counters.iter().sum::<u64>() > 100, "little was written");
        let lost = Mutex::new(Vec::new());
        for node in nodes {
            let (client, lost) = (&node.client(), &lost);
            for_all(records, |(key, wanted)| async move {
                if value(client, key, Level::Quorum).await.as_ref() != Some(wanted) {
                    lost.lock().unwrap().push(key.clone());
                }
            })
            .await;
            for_all(&self.keys, |key| async move {
                let found = client.get(id(key), read(Level::Quorum)).await.unwrap();
                if !texts(&found).contains(key) {
                    lost.lock().unwrap().push(key.clone());
                }
            })
            .await;
            for (counter, wanted) in self.counters.iter().enumerate() {
                let found = client.get(id(&name(counter)), read(Level::Quorum)).await.unwrap();
                if greatest(&found) < *wanted {
                    lost.lock().unwrap().push(name(counter));
                }
            }
        }
        let lost = lost.into_inner().unwrap();
        assert!(lost.is_empty(), "{} lost, such as {:?}", lost.len(), &lost[..lost.len().min(5)]);
        println!(
            "{} acknowledged keys, {} counts and {} records are found through each of {} nodes",
            self.keys.len(),
            self.counters.iter().sum::<u64>(),
            records.len(),
            nodes.len()
        );
    }
}
