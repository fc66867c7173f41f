//! Three nodes, each a child process of the bench with a directory of its own, on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use quorate::cluster::Standing;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, client_router, serve};
use quorate::kv::{BucketAdmin as _, Guard, Kv, NodeView};
use quorate::metrics::Metrics;
use quorate::node::{ClusterConfig, Config, Node, NodeConfig};
use quorate::replica::Reserve;
use quorate::storage::Durability;
use quorate::types::Bucket;
use tokio_util::sync::CancellationToken;

use super::floor::AT_ONCE;
use super::{Load, Seen, cpu_per_operation, drive, runtime, scratch, value};

pub(crate) const NODES: usize = 3;
/// Keys that are read, of 100 B and of 4 KiB.
pub(crate) const KEYS: [(usize, usize); 2] = [(100, 10_000), (4096, 4_000)];
/// The first argument of a process that is a node.
pub(crate) const AS_NODE: &str = "--as-node";

// -- A node ----------------------------------------------------------------------------------------------------------

/// Runs a node until its standard input ends, and tells how its hints are at each line of it: `INDEX DIR DURABILITY CLIENT_PORT... PEER_PORT...`, and for one that joins
/// later its own client and peer port behind these.
pub(crate) fn be_a_node(args: &[String]) -> Result<(), String> {
    let [index, dir, durability, ports @ ..] = args else { return Err("--as-node wants more".into()) };
    let index: usize = index.parse().map_err(|error| format!("{error}"))?;
    let address = |at: usize| format!("127.0.0.1:{}", ports[at]);
    let seeds: Vec<String> = (NODES..2 * NODES).map(address).collect();
    let joins = index >= NODES;
    let (client, peer) = if joins { (2 * NODES, 2 * NODES + 1) } else { (index, NODES + index) };
    let config = Config {
        cluster: ClusterConfig::default(),
        node: NodeConfig {
            name: format!("node-{}", index + 1),
            peer_address: address(peer),
            client_address: address(client),
            seeds,
            // A share of a large disk may be more than is free where this is measured.
            disk_reserve: Reserve::Bytes(64 << 20),
            durability: if durability == "os" { Durability::Os } else { Durability::Flush },
            machine_boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            ..NodeConfig::default()
        },
    };
    let runtime = runtime(NODES).map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let started = Node::builder().config(config).data_dir(dir).start().await;
        let node = Arc::new(started.map_err(|error| error.to_string())?);
        match node.wait_until_serving().await {
            Standing::Serving => {}
            other => return Err(format!("{other:?}")),
        }
        let listener = tokio::net::TcpListener::bind(address(client)).await.map_err(|error| error.to_string())?;
        let (env, metrics) = (node.env().clone(), node.metrics().clone());
        let (kv, view): (Arc<dyn Kv>, Arc<dyn NodeView>) = (node.clone(), node.clone());
        let api = Arc::new(Api::new(kv, view, metrics.clone(), env.clone(), RequestLimits::default()));
        let socket = TcpSocket::new(listener, env.clone());
        let stop = CancellationToken::new();
        let served = serve(socket, client_router(api), ServeLimits::default(), env, metrics, stop.clone());
        println!("serving");
        if joins {
            while !node.layouts().known().is_some_and(|known| known.is_member() && known.view().is_complete()) {
                node.env().clock.sleep(Duration::from_millis(20)).await;
            }
            println!("joined");
        }
        let asked = Arc::clone(&node);
        let input_ended = tokio::task::spawn_blocking(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if let Some(bucket) = line.strip_prefix("overwrite ") {
                    tokio::runtime::Handle::current().block_on(overwrite(&asked, bucket))?;
                }
                println!("{}", Hints::of(&asked));
            }
            Ok(())
        });
        let told: Result<(), String> = tokio::select! {
            () = served => Ok(()),
            told = input_ended => told.map_err(said)?,
        };
        told?;
        stop.cancel();
        node.shutdown_within(Duration::from_secs(2)).await.map_err(|error| error.to_string())
    })
}

async fn overwrite(node: &Node, bucket: &str) -> Result<(), String> {
    let bucket = Bucket::new(bucket).map_err(said)?;
    let wish = serde_json::from_value(serde_json::json!({ "blind_writes": "overwrite" })).map_err(said)?;
    let set = node.set_bucket(bucket, wish, Guard::default(), Duration::from_secs(20));
    set.await.map(drop).map_err(|error| error.detail)
}

/// What a node says of its hints, and of what comparison repaired.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    /// Keys that wait.
    pub(crate) waiting: u64,
    pub(crate) replayed: u64,
    pub(crate) dropped: u64,
    /// Keys that were made equal by comparison.
    pub(crate) repaired: u64,
}

impl Hints {
    fn of(node: &Node) -> Self {
        let metrics: &Metrics = node.metrics();
        Self {
            waiting: node.replica().hints().total().0,
            replayed: metrics.hints.replayed.get(),
            dropped: metrics.hints.all_dropped(),
            repaired: metrics.repair.repaired.get(),
        }
    }

    fn said(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
        let mut next = || numbers.next();
        Some(Self { waiting: next()?, replayed: next()?, dropped: next()?, repaired: next()? })
    }

    pub(crate) fn and(self, more: Self) -> Self {
        Self {
            waiting: self.waiting + more.waiting,
            replayed: self.replayed + more.replayed,
            dropped: self.dropped + more.dropped,
            repaired: self.repaired + more.repaired,
        }
    }
}

impl std::fmt::Display for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.waiting, self.replayed, self.dropped, self.repaired)
    }
}

// -- A cluster -------------------------------------------------------------------------------------------------------

struct Process {
    child: Child,
    /// Its end is the node's sign to stop, also where this process is killed.
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Process {
    fn is_serving(&mut self) -> Result<(), String> {
        if self.line()? == "serving" { Ok(()) } else { Err("a node did not start; its error is above".into()) }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.as_mut().ok_or("nobody listens to it")?.read_line(&mut line).map_err(said)?;
        Ok(line.trim().to_owned())
    }

    /// Gives it time to stop, then kills it.
    fn end(&mut self) {
        drop(self.input.take());
        let ended = (0..100).any(|_| {
            pause(50);
            !matches!(self.child.try_wait(), Ok(None))
        });
        if !ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(crate) struct Cluster {
    nodes: Vec<Process>,
    /// Of clients.
    pub(crate) ports: Vec<u16>,
    /// Of clients, then of peers.
    all_ports: Vec<u16>,
    dir: tempfile::TempDir,
    durability: &'static str,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

#[allow(clippy::disallowed_methods, reason = "a bench keeps real time")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

pub(crate) fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

impl Cluster {
    pub(crate) fn start(durability: &'static str) -> Result<Self, String> {
        let dir = scratch().map_err(said)?;
        let all_ports = free_ports(2 * NODES).map_err(said)?;
        let ports = all_ports[..NODES].to_vec();
        let mut cluster = Self { nodes: Vec::new(), ports, all_ports, dir, durability };
        for index in 0..NODES {
            let node = cluster.process(index, &[])?;
            cluster.nodes.push(node);
        }
        cluster.nodes.iter_mut().try_for_each(Process::is_serving)?;
        // Every node has to have seen the others up.
        cluster.settle()?;
        Ok(cluster)
    }

    fn process(&self, index: usize, own_ports: &[u16]) -> Result<Process, String> {
        let mut child = Command::new(std::env::current_exe().map_err(said)?)
            .args([AS_NODE, &index.to_string()])
            .arg(self.directory(index))
            .arg(self.durability)
            .args(self.all_ports.iter().chain(own_ports).map(u16::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(said)?;
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Ok(Process { child, input, output })
    }

    /// Where a node keeps its data.
    pub(crate) fn directory(&self, index: usize) -> PathBuf {
        self.dir.path().join(index.to_string())
    }

    /// Starts one more node, with an empty directory; the first byte that comes by the channel says that it has its share.
    pub(crate) fn join(&mut self) -> Result<Receiver<()>, String> {
        let own = free_ports(2).map_err(said)?;
        let mut node = self.process(NODES, &own)?;
        let output = node.output.take().ok_or("no output")?;
        self.nodes.push(node);
        let (tell, told) = channel();
        std::thread::spawn(move || {
            if output.lines().map_while(Result::ok).any(|line| line == "joined") {
                let _ = tell.send(());
            }
        });
        Ok(told)
    }

    /// Kills a node.
    pub(crate) fn kill(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].child.kill().map_err(said)?;
        self.nodes[index].child.wait().map_err(said).map(drop)
    }

    /// Starts a node that was killed.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index] = self.process(index, &[])?;
        self.nodes[index].is_serving()
    }

    /// What a node says of its hints.
    pub(crate) fn hints(&mut self, index: usize) -> Result<Hints, String> {
        self.tell(index, "hints")
    }

    /// Has writes without a context overwrite what is there, in a bucket of this name.
    pub(crate) fn overwrite(&mut self, bucket: &str) -> Result<(), String> {
        self.tell(0, &format!("overwrite {bucket}")).map(drop)
    }

    fn tell(&mut self, index: usize, what: &str) -> Result<Hints, String> {
        let node = &mut self.nodes[index];
        let line = format!("{what}\n");
        node.input.as_mut().ok_or("its input is closed")?.write_all(line.as_bytes()).map_err(said)?;
        let line = node.line()?;
        Hints::said(&line).ok_or_else(|| format!("a node said {line:?} of its hints"))
    }

    /// Ends all nodes; their directories are there until this goes.
    pub(crate) fn end(&mut self) {
        self.nodes.iter_mut().for_each(|node| drop(node.input.take()));
        self.nodes.iter_mut().for_each(Process::end);
        self.nodes.clear();
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    pub(crate) fn settle(&self) -> Result<(), String> {
        let give_up = now() + Duration::from_secs(20);
        for port in &self.ports {
            while put(*port, "/v1/kv/settle/key?w=all", b"x").is_err() {
                if now() > give_up {
                    return Err("the nodes did not find each other".into());
                }
                pause(100);
            }
        }
        Ok(())
    }

    /// Writes the keys that are read later, to all.
    pub(crate) fn fill(&self, bucket: &str, size: usize, keys: usize) -> Result<(), String> {
        let value = value(size);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|thread| {
                    let (value, ports) = (&value, &self.ports);
                    scope.spawn(move || {
                        let mut client = Client::connect(ports[thread % NODES])?;
                        let mut mine = (1..=keys).filter(|key| key % 16 == thread);
                        mine.try_for_each(|key| client.put(&format!("/v1/kv/{bucket}/{key}?w=all"), value))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a loader failed".to_owned())?)
        })
    }

    pub(crate) fn load(&self, method: &'static str, bucket: &str, query: &str, size: usize, seconds: u64) -> Load {
        let keys = KEYS.iter().find(|(known, _)| *known == size).map_or(1, |(_, keys)| *keys);
        let (path, query) = (format!("/v1/kv/{bucket}/"), query.to_owned());
        let ports = self.ports.clone();
        Load { ports, method, path, query, keys, size, connections: AT_ONCE, seconds, think: 0, overwrites: 0 }
    }

    /// CPU microseconds of all nodes for each operation, and what the clients saw.
    pub(crate) fn measure(&self, load: &Load) -> Result<(f64, Seen), String> {
        let measured = cpu_per_operation(&self.pids(), || drive(load).map(|seen| (seen.requests, seen)));
        // What is left over (flushes to table files, late replicas) is not the next measurement's.
        pause(1000);
        measured
    }
}

/// A keep-alive connection that only knows PUT.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    fn put(&mut self, path: &str, value: &[u8]) -> Result<(), String> {
        let mut request = format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", value.len());
        request.push_str(&String::from_utf8_lossy(value));
        self.0.get_mut().write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut status = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err("the node closed the connection".into());
            }
            if status.is_empty() {
                status = line;
            } else if line.trim().is_empty() {
                break;
            }
        }
        if status.contains(" 204 ") { Ok(()) } else { Err(format!("PUT {path}: {}", status.trim())) }
    }
}

fn put(port: u16, path: &str, value: &[u8]) -> Result<(), String> {
    Client::connect(port)?.put(path, value)
}
