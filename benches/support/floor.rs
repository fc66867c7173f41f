//! The floor: CPU microseconds of what no design can avoid, with the libraries the product uses.
//!
//! It is measured where the product is: in three processes at once, with as many operations under way as the cluster has,
//! so that what sharing a machine costs (switches, cold caches) is in both figures.
//!
//! - `http`: one axum request of a keep-alive connection, 64 of them at once, the servers' CPU alone;
//! - `frame`: one framed request and its reply over loopback TCP through [`TcpTransport`], 64 at once, both ends: with
//!   the value in it (a replica is written to), or with a digest (a replica is asked whether it holds the same);
//! - `kv_write`: one RocksDB read and three changes (object, index, Merkle sum), committed 16 objects a batch;
//! - `kv_read`: one RocksDB get, out of table files that are cached.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use http::StatusCode;
use quorate::env::{BoxFuture, Env};
use quorate::storage::rocks::{RocksOptions, RocksStorage};
use quorate::storage::{Batch, Durability, Keyspace, Storage};
use quorate::transport::handshake::Secrets;
use quorate::transport::messages::{self, Ask, Held, Reply, Request, Target, Tell, Written};
use quorate::transport::tcp::{TcpConfig, TcpTransport, TokioNet};
use quorate::transport::{Handler, Hello, Transport};
use quorate::types::{Incarnation, NodeId, StoreId};
use serde::Serialize;

use super::{Load, cpu_per_operation, drive, scratch, value};

/// Operations at once.
pub(crate) const AT_ONCE: usize = 64;
/// Processes, as many as the cluster has nodes.
const WORKERS: usize = 3;
/// The argument that makes this program a worker.
pub(crate) const AS_WORKER: &str = "--as-floor-worker";
/// Objects in a batch.
const BATCH: usize = 16;

/// CPU microseconds an operation, for one size of value.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Floor {
    pub(crate) size: usize,
    pub(crate) http_put: f64,
    pub(crate) http_get: f64,
    pub(crate) frame_value: f64,
    pub(crate) frame_digest: f64,
    pub(crate) kv_write: f64,
    pub(crate) kv_read: f64,
}

impl Floor {
    /// `http + 3 kv_write + 2 frame`.
    pub(crate) fn put(&self) -> f64 {
        self.http_put + 3.0 * self.kv_write + 2.0 * self.frame_value
    }

    /// `http + 2 kv_read + 1 frame`, the frame with a digest: replicas in sync send no values.
    pub(crate) fn get(&self) -> f64 {
        self.http_get + 2.0 * self.kv_read + self.frame_digest
    }

    /// The mean of two measurements.
    pub(crate) fn mean(&self, other: &Self) -> Self {
        let mean = |of: fn(&Self) -> f64| f64::midpoint(of(self), of(other));
        Self {
            size: self.size,
            http_put: mean(|f| f.http_put),
            http_get: mean(|f| f.http_get),
            frame_value: mean(|f| f.frame_value),
            frame_digest: mean(|f| f.frame_digest),
            kv_write: mean(|f| f.kv_write),
            kv_read: mean(|f| f.kv_read),
        }
    }
}

/// Measures all of it; takes about `6 * seconds`.
pub(crate) fn measure(size: usize, durability: Durability, seconds: u64) -> Result<Floor, String> {
    let mut workers = (0..WORKERS).map(|_| Worker::start(size, durability)).collect::<Result<Vec<_>, _>>()?;
    let ports: Vec<u16> = workers.iter().map(|worker| worker.http).collect();
    let pids: Vec<u32> = workers.iter().map(|worker| worker.child.id()).collect();
    let http = |method| {
        let load = Load {
            ports: ports.clone(),
            method,
            path: "/v1/kv/bench/key".into(),
            query: String::new(),
            keys: 10_000,
            size,
            connections: AT_ONCE,
            seconds,
            think: 0,
            overwrites: 0,
        };
        cpu_per_operation(&pids, || drive(&load).map(|seen| (seen.requests, ())))
    };
    let (http_put, ()) = http("PUT")?;
    let (http_get, ()) = http("GET")?;
    let peers: Vec<String> = workers.iter().map(|worker| worker.peer.clone()).collect();
    let mut all = |what: &str| -> Result<f64, String> {
        // Each calls the next: as many calls as connections, over all.
        let commands = (0..WORKERS).map(|at| format!("{what} {seconds} {}", peers[(at + 1) % WORKERS]));
        let (cpu, ()) = cpu_per_operation(&pids, || {
            workers.iter_mut().zip(commands).try_for_each(|(worker, command)| worker.tell(&command))?;
            let counts = workers.iter_mut().map(Worker::count).collect::<Result<Vec<f64>, _>>()?;
            Ok((counts.iter().sum(), ()))
        })?;
        Ok(cpu)
    };
    let (frame_value, frame_digest) = (all("write-frames")?, all("read-frames")?);
    let kv_write = all("kv-write")?;
    all("compact")?;
    let kv_read = all("kv-read")?;
    Ok(Floor { size, http_put, http_get, frame_value, frame_digest, kv_write, kv_read })
}

// -- A worker, as its parent sees it ---------------------------------------------------------------------------------

struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    http: u16,
    peer: String,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

impl Worker {
    fn start(size: usize, durability: Durability) -> Result<Self, String> {
        let said = |error: std::io::Error| error.to_string();
        let durability = if durability == Durability::Flush { "flush" } else { "os" };
        let mut child = Command::new(std::env::current_exe().map_err(said)?)
            .args([AS_WORKER, &size.to_string(), durability])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(said)?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("no output")?);
        let mut worker = Self { child, input, output: BufReader::new(output), http: 0, peer: String::new() };
        let line = worker.line()?;
        let (http, peer) = line.split_once(' ').ok_or("a worker did not start")?;
        worker.http = http.parse().map_err(|error| format!("{error}"))?;
        peer.clone_into(&mut worker.peer);
        Ok(worker)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| error.to_string())?;
        Ok(line.trim().to_owned())
    }

    fn tell(&mut self, command: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("no input")?;
        writeln!(input, "{command}").map_err(|error| error.to_string())
    }

    /// How many operations the last command did.
    fn count(&mut self) -> Result<f64, String> {
        let line = self.line()?;
        line.parse().map_err(|_| format!("a worker said {line:?}; its error is above"))
    }
}

// -- A worker --------------------------------------------------------------------------------------------------------

/// Runs a worker until its input ends: `SIZE DURABILITY`.
pub(crate) fn be_a_worker(args: &[String]) -> Result<(), String> {
    let [size, durability] = args else { return Err(format!("{AS_WORKER} wants a size and a durability")) };
    let size: usize = size.parse().map_err(|error| format!("{error}"))?;
    let durability = if durability == "os" { Durability::Os } else { Durability::Flush };
    let runtime = super::runtime(WORKERS).map_err(|error| error.to_string())?;
    let http = runtime.block_on(serve_http(size))?;
    let (transport, address) = runtime.block_on(transport())?;
    println!("{http} {address}");
    let mut kv = Kv::open(size, durability)?;
    for line in std::io::stdin().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split(' ').collect();
        let [what, seconds, peer] = words[..] else { return Err(format!("not understood: {line}")) };
        let end = now() + Duration::from_secs(seconds.parse().map_err(|error| format!("{error}"))?);
        let count = match what {
            "write-frames" => calls(&runtime, &transport, peer, end, write_request(size))?,
            "read-frames" => calls(&runtime, &transport, peer, end, read_request())?,
            "kv-write" => kv.write(end)?,
            "compact" => kv.store.compact().map(|()| 1).map_err(|error| error.to_string())?,
            "kv-read" => kv.read(end)?,
            other => return Err(format!("not understood: {other}")),
        };
        println!("{count}");
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a bench keeps real time")]
fn now() -> Instant {
    Instant::now()
}

async fn serve_http(size: usize) -> Result<u16, String> {
    let body = Bytes::from(value(size));
    let take = |body: Bytes| async move {
        std::hint::black_box(&body);
        StatusCode::NO_CONTENT
    };
    let give = move || std::future::ready(body.clone());
    let router = Router::new().route("/v1/kv/{*rest}", get(give).put(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let serving = async move { axum::serve(listener, router).await };
    drop(tokio::runtime::Handle::current().spawn(serving));
    Ok(port)
}

struct Echo;

impl Handler for Echo {
    fn admit(&self, _: &Hello) -> Result<(), String> {
        Ok(())
    }

    fn handle(&self, _: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let tell = match request.ask {
            Some(Ask::Write(_)) => Tell::Written(Written { flushed: true, ..Written::default() }),
            _ => Tell::Copy(messages::Copy { held: Held::Same.into(), ..messages::Copy::default() }),
        };
        Box::pin(std::future::ready(Reply::new(tell)))
    }
}

fn hello(number: u128) -> Hello {
    Hello {
        node: NodeId::from_bits(number),
        store: StoreId::from_bits(number),
        cluster: None,
        incarnation: Incarnation(number),
        generation: 1,
        boot: 1,
        name: number.to_string(),
        region: String::new(),
        zone: String::new(),
        peer_address: String::new(),
        client_address: String::new(),
        protocol: (1, 1),
        settings: 0,
        defaults: String::new(),
    }
}

async fn transport() -> Result<(Arc<TcpTransport>, String), String> {
    let config = TcpConfig { listen: Some("127.0.0.1:0".into()), secrets: Secrets::new(&[]), ..TcpConfig::default() };
    let env = Env::real();
    let number = env.entropy.u128();
    let transport = TcpTransport::bind(env, Arc::new(TokioNet), config).await.map_err(|error| error.to_string())?;
    transport.serve(hello(number), Arc::new(Echo));
    let address = transport.local_address().unwrap_or_default().to_owned();
    Ok((Arc::new(transport), address))
}

fn target() -> Target {
    Target { bucket: "bench".into(), generation: 0, key: Bytes::from_static(b"key-0123456789") }
}

fn write_request(size: usize) -> impl Fn() -> Request + Clone + Send + 'static {
    let record = Bytes::from(value(size));
    move || {
        let write = messages::Write { target: target(), record: record.clone(), ..messages::Write::default() };
        Request::new(Ask::Write(write))
    }
}

fn read_request() -> impl Fn() -> Request + Clone + Send + 'static {
    let have = Some(Bytes::from_static(&[7; 16]));
    move || Request::new(Ask::Read(messages::Read { target: target(), have: have.clone(), to_mend: false }))
}

fn calls(
    runtime: &tokio::runtime::Runtime,
    caller: &Arc<TcpTransport>,
    address: &str,
    end: Instant,
    request: impl Fn() -> Request + Clone + Send + 'static,
) -> Result<u64, String> {
    let done = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE / WORKERS {
            let (caller, address, request, done) = (caller.clone(), address.to_owned(), request.clone(), done.clone());
            tasks.spawn(async move {
                while now() < end {
                    for _ in 0..16 {
                        let answer = caller.call(&address, None, request(), Duration::from_secs(5)).await;
                        answer.map_err(|error| error.to_string())?;
                    }
                    done.fetch_add(16, Ordering::Relaxed);
                }
                Ok::<_, String>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| error.to_string())??;
        }
        Ok::<_, String>(())
    })?;
    Ok(done.load(Ordering::Relaxed))
}

struct Kv {
    store: RocksStorage,
    durability: Durability,
    record: Bytes,
    count: u64,
    _dir: tempfile::TempDir,
}

impl Kv {
    fn open(size: usize, durability: Durability) -> Result<Self, String> {
        let dir = scratch().map_err(|error| error.to_string())?;
        let store = RocksStorage::open(dir.path(), &RocksOptions::default()).map_err(|error| error.to_string())?;
        Ok(Self { store, durability, record: Bytes::from(value(size)), count: 0, _dir: dir })
    }

    /// Spread as the product's keys are: over 1024 partitions of 256 leaves.
    fn place(number: u64) -> ([u8; 4], u8) {
        let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        ([0, 0, bits[0] & 3, bits[1]], bits[2])
    }

    fn key(number: u64) -> Bytes {
        let partition = Self::place(number).0;
        Bytes::from([&partition[..], b"\x05bench\0\0\0\0\0\0\0\0", format!("key-{number}").as_bytes()].concat())
    }

    fn leaf(number: u64) -> Bytes {
        let (partition, leaf) = Self::place(number);
        Bytes::from([&partition[..], &[0, 3, 255, 255, 255, 255, leaf]].concat())
    }

    fn write(&mut self, end: Instant) -> Result<u64, String> {
        let before = self.count;
        while now() < end {
            let mut batch = Batch::new();
            for _ in 0..BATCH {
                let key = Self::key(self.count);
                let found = self.store.get(Keyspace::Objects, &key).map_err(|error| error.to_string())?;
                assert!(found.is_none(), "a new key");
                batch.add(Keyspace::Merkle, Self::leaf(self.count), 1 << 77);
                batch.put(Keyspace::Index, key.clone(), Bytes::from_static(&[1; 29]));
                batch.put(Keyspace::Objects, key, self.record.clone());
                self.count += 1;
            }
            self.store.commit(batch, self.durability).map_err(|error| error.to_string())?;
        }
        Ok(self.count - before)
    }

    /// Reads the newest of what was written, as many keys as the cluster is read of.
    fn read(&self, end: Instant) -> Result<u64, String> {
        let keys = self.count.min(if self.record.len() > 1000 { 4_000 } else { 10_000 });
        let mut reads = 0_u64;
        while now() < end {
            for _ in 0..256 {
                let key = Self::key(self.count - 1 - reads * 7919 % keys);
                let found = self.store.get(Keyspace::Objects, &key).map_err(|error| error.to_string())?;
                assert!(found.is_some_and(|found| found.len() == self.record.len()), "what was written");
                reads += 1;
            }
        }
        Ok(reads)
    }
}
