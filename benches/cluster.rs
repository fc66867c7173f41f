//! Three nodes under load, against the floor: `scripts/bench`, or
//! `cargo bench --bench cluster [-- --quick] [--json] [--seconds N]`.
//!
//! Each node is a child process of this one with a data directory of its own, on loopback. wrk drives them, all three
//! alike, 64 connections; the figure is the CPU time of the three nodes for each operation, and `floor / measured` the
//! efficiency. Everything is measured in one run, because figures of different runs on shared machines cannot be
//! compared. See `docs/performance.md`.
//!
//! `-- --join` measures instead what clients get before, while and after a fourth node joins.
//!
//! `-- --hold` starts a cluster, fills it, prints addresses and process ids and waits for the end of its input: to
//! profile it, or to look at it by hand.

#![allow(dead_code, reason = "the benches share a module and each uses a part of it")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use quorate::cluster::Standing;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, client_router, serve};
use quorate::kv::{Kv, NodeView};
use quorate::node::{ClusterConfig, Config, Node, NodeConfig};
use quorate::replica::Reserve;
use quorate::storage::Durability;
use serde_json::{Value, json};
use support::floor::{AS_WORKER, AT_ONCE, Floor, be_a_worker, measure};
use support::{Load, Seen, cpu_per_operation, cpu_seconds, drive, resident, scratch, value};
use tokio_util::sync::CancellationToken;

const NODES: usize = 3;
/// Keys that are read, of 100 B and of 4 KiB.
const KEYS: [(usize, usize); 2] = [(100, 10_000), (4096, 4_000)];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("--as-node") => be_a_node(&args[1..]),
        Some(AS_WORKER) => be_a_worker(&args[1..]),
        _ => bench(&args),
    };
    if let Err(problem) = done {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
}

// -- A node ----------------------------------------------------------------------------------------------------------

/// Runs a node until its standard input ends: `INDEX DIR DURABILITY CLIENT_PORT... PEER_PORT...`, and for one that joins
/// later its own client and peer port behind these.
fn be_a_node(args: &[String]) -> Result<(), String> {
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
    let runtime = support::runtime(NODES).map_err(|error| error.to_string())?;
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
        let input_ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            () = served => {}
            _ = input_ended => {}
        }
        stop.cancel();
        node.shutdown_within(Duration::from_secs(2)).await.map_err(|error| error.to_string())
    })
}

// -- A cluster -------------------------------------------------------------------------------------------------------

struct Process {
    child: Child,
    /// Its end is the node's sign to stop, also where this process is killed.
    input: Option<ChildStdin>,
}

struct Cluster {
    nodes: Vec<Process>,
    /// Of clients.
    ports: Vec<u16>,
    /// Of clients, then of peers.
    all_ports: Vec<u16>,
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|node| drop(node.input.take()));
        for node in &mut self.nodes {
            let ended = (0..100).any(|_| {
                pause(50);
                !matches!(node.child.try_wait(), Ok(None))
            });
            if !ended {
                let _ = node.child.kill();
            }
            let _ = node.child.wait();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a bench keeps real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

impl Cluster {
    fn start(durability: &str) -> Result<Self, String> {
        let said = |error: std::io::Error| error.to_string();
        let dir = scratch().map_err(said)?;
        let ports = free_ports(2 * NODES).map_err(said)?;
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let mut child = Command::new(std::env::current_exe().map_err(said)?)
                .args(["--as-node", &index.to_string()])
                .arg(dir.path().join(index.to_string()))
                .arg(durability)
                .args(ports.iter().map(u16::to_string))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(said)?;
            let input = child.stdin.take();
            nodes.push(Process { child, input });
        }
        let mut cluster = Self { nodes, ports: ports[..NODES].to_vec(), all_ports: ports, dir };
        for node in &mut cluster.nodes {
            let output = node.child.stdout.take().ok_or("no output")?;
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map_err(said)?;
            if line.trim() != "serving" {
                return Err("a node did not start; its error is above".into());
            }
        }
        // Every node has to have seen the others up.
        cluster.settle()?;
        Ok(cluster)
    }

    /// Starts one more node, with an empty directory; the first byte that comes by the channel says that it has its share.
    fn join(&mut self) -> Result<Receiver<()>, String> {
        let said = |error: std::io::Error| error.to_string();
        let own = free_ports(2).map_err(said)?;
        let mut child = Command::new(std::env::current_exe().map_err(said)?)
            .args(["--as-node", &NODES.to_string()])
            .arg(self.dir.path().join(NODES.to_string()))
            .arg("flush")
            .args(self.all_ports.iter().chain(&own).map(u16::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(said)?;
        let output = child.stdout.take().ok_or("no output")?;
        let input = child.stdin.take();
        self.nodes.push(Process { child, input });
        let (tell, told) = channel();
        std::thread::spawn(move || {
            if BufReader::new(output).lines().map_while(Result::ok).any(|line| line == "joined") {
                let _ = tell.send(());
            }
        });
        Ok(told)
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    fn settle(&self) -> Result<(), String> {
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
    fn fill(&self, bucket: &str, size: usize, keys: usize) -> Result<(), String> {
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

    fn load(&self, method: &'static str, bucket: &str, query: &str, size: usize, seconds: u64) -> Load {
        let keys = KEYS.iter().find(|(known, _)| *known == size).map_or(1, |(_, keys)| *keys);
        let (path, query) = (format!("/v1/kv/{bucket}/"), query.to_owned());
        let ports = self.ports.clone();
        Load { ports, method, path, query, keys, size, connections: AT_ONCE, seconds, think: 0 }
    }

    /// CPU microseconds of all nodes for each operation, and what the clients saw.
    fn measure(&self, load: &Load) -> Result<(f64, Seen), String> {
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

/// Median time of an fsync of 4 KiB appended, where the nodes keep their data.
fn fsync_time() -> Result<Duration, String> {
    let measured = || -> std::io::Result<Duration> {
        let dir = scratch()?;
        let mut file = std::fs::File::create(Path::new(dir.path()).join("sync"))?;
        let mut times = Vec::new();
        for _ in 0..200 {
            file.write_all(&[7; 4096])?;
            let began = now();
            file.sync_data()?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    measured().map_err(|error| error.to_string())
}

// -- The run ---------------------------------------------------------------------------------------------------------

fn bench(args: &[String]) -> Result<(), String> {
    support::wrk()?;
    let has = |name: &str| args.iter().any(|arg| arg == name);
    if has("--hold") {
        return hold();
    }
    if has("--join") {
        return join();
    }
    let after = args.iter().position(|arg| arg == "--seconds").and_then(|at| args.get(at + 1));
    let default = if has("--quick") { 3 } else { 8 };
    let seconds = after.map_or(Ok(default), |text| text.parse()).map_err(|error| format!("--seconds: {error}"))?;
    let (quick, json) = (has("--quick"), has("--json"));
    let say = |text: &str| if !json { println!("{text}") } else { eprintln!("{text}") };

    let floor_seconds = seconds.min(3);
    let floors = || -> Result<Vec<Floor>, String> {
        KEYS.iter().map(|(size, _)| measure(*size, Durability::Flush, floor_seconds)).collect()
    };
    let before = floors()?;
    let fsync = fsync_time()?;
    let cluster = Cluster::start("flush")?;
    let idle = idle(&cluster, if quick { 5 } else { 10 });
    let mut rows = Vec::new();
    for (size, keys) in KEYS {
        let bucket = format!("read-{size}");
        cluster.fill(&bucket, size, keys)?;
    }
    pause(2000);
    let levels = ["one", "quorum", "all"];
    for (method, name, letter) in [("GET", "read", "r"), ("PUT", "write", "w")] {
        for (size, _) in KEYS {
            let wanted: &[&str] = if size == 100 && !quick { &levels } else { &["quorum"] };
            for level in wanted {
                let bucket =
                    format!("{name}-{size}{}", if method == "PUT" { format!("-{level}") } else { String::new() });
                let load = cluster.load(method, &bucket, &format!("?{letter}={level}"), size, seconds);
                let (cpu, seen) = cluster.measure(&load)?;
                rows.push(Row { method, size, level, cpu, seen });
            }
        }
    }
    let half = if quick { Vec::new() } else { half_load(&cluster, &rows, seconds)? };
    drop(cluster);
    let (flush, os) = against_os(seconds)?;
    let after = floors()?;
    let floors: Vec<Floor> = before.iter().zip(&after).map(|(before, after)| before.mean(after)).collect();
    say(&report(&floors, (&before, &after), &rows, &half, idle, fsync, (flush, os)));
    if json {
        let rows: Vec<Value> = rows.iter().map(|row| row.json(&floors)).collect();
        let document = json!({
            "floors": floors, "rows": rows, "idle_cpu_percent": idle.0, "idle_rss_bytes": idle.1,
            "fsync_us": fsync.as_secs_f64() * 1e6, "put_per_second": { "flush": flush, "os": os },
        });
        println!("{document}");
    }
    Ok(())
}

fn hold() -> Result<(), String> {
    let cluster = Cluster::start("flush")?;
    for (size, keys) in KEYS {
        cluster.fill(&format!("read-{size}"), size, keys)?;
    }
    for (pid, port) in cluster.pids().iter().zip(&cluster.ports) {
        println!("process {pid} serves http://127.0.0.1:{port}/v1/kv/read-100/1");
    }
    println!("waiting for the end of standard input");
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| error.to_string())?;
    Ok(())
}

/// What clients keep of their throughput while a node joins, at least.
const WHILE_JOINING: f64 = 0.6;

/// What clients get before, while and after a fourth node joins: quorum PUTs and GETs of 100 B, in turn, a second each.
/// The machine's processors are shared with the joiner and with wrk: this is the cost of a join where there are no more.
///
/// Answers a second hang on what else the machine does at the time: the run says something only where that stays the
/// same. CPU time of all nodes for each answer is printed beside them; the joiner's copying is in it.
fn join() -> Result<(), String> {
    let mut cluster = Cluster::start("flush")?;
    for (size, keys) in KEYS {
        cluster.fill(&format!("read-{size}"), size, 4 * keys)?;
    }
    let mut round = 0;
    let mut second = |cluster: &Cluster| -> Result<[Got; 2], String> {
        round += 1;
        let writes = cluster.load("PUT", &format!("write-100-join-{round}"), "?w=quorum", 100, 1);
        let reads = cluster.load("GET", "read-100", "?r=quorum", 100, 1);
        Ok([answered(cluster, &writes)?, answered(cluster, &reads)?])
    };
    let mut many = |cluster: &Cluster, enough: &dyn Fn(usize) -> bool| -> Result<(usize, [Got; 2]), String> {
        let (mut rounds, mut sums) = (0, [Got::default(); 2]);
        while !enough(rounds) {
            let seen = second(cluster)?;
            sums = [sums[0].and(seen[0]), sums[1].and(seen[1])];
            rounds += 1;
        }
        Ok((rounds, sums))
    };
    let (_, before) = many(&cluster, &|rounds| rounds == 4)?;
    let began = now();
    let joined = cluster.join()?;
    let (rounds, during) = many(&cluster, &|rounds| rounds > 0 && joined.try_recv().is_ok() || rounds == 120)?;
    let took = began.elapsed();
    let (_, after) = many(&cluster, &|rounds| rounds == 4)?;
    println!("A fourth node joins three, N=3, durability=flush, {AT_ONCE} connections: {took:.1?}, {rounds} rounds");
    println!("                     before     while     after   while and after as shares of before");
    let mut least = f64::INFINITY;
    for (at, name) in ["PUT 100 quorum", "GET 100 quorum"].into_iter().enumerate() {
        let got = [before[at], during[at], after[at]];
        let [a, b, c] = got.map(|got| got.answers / got.seconds);
        println!("  {name:<16} {a:>8.0}  {b:>8.0}  {c:>8.0}   {:.2}  {:.2}   op/s", b / a, c / a);
        least = least.min(b / a);
        let [a, b, c] = got.map(|got| got.cpu / got.answers * 1e6);
        println!(
            "  {:<16} {a:>8.1}  {b:>8.1}  {c:>8.1}   {:.2}  {:.2}   CPU us/op (before as share)",
            "",
            a / b,
            a / c
        );
    }
    println!("Clients keep {least:.2} of their throughput while a node joins (wanted: {WHILE_JOINING})");
    Ok(())
}

/// What clients got.
#[derive(Clone, Copy, Default)]
struct Got {
    answers: f64,
    seconds: f64,
    /// Seconds that all nodes used meanwhile.
    cpu: f64,
}

impl Got {
    fn and(self, more: Self) -> Self {
        Self { answers: self.answers + more.answers, seconds: self.seconds + more.seconds, cpu: self.cpu + more.cpu }
    }
}

/// Layouts that change may turn a request away: it is not counted as an answer, and spoils nothing else.
fn answered(cluster: &Cluster, load: &Load) -> Result<Got, String> {
    let used = || cluster.pids().into_iter().map(cpu_seconds).sum::<f64>();
    let before = used();
    let (seen, errors) = support::drive_on(load)?;
    let answers = (seen.requests - errors).max(1.0);
    Ok(Got { answers, seconds: seen.seconds, cpu: used() - before })
}

struct Row {
    method: &'static str,
    size: usize,
    level: &'static str,
    cpu: f64,
    seen: Seen,
}

impl Row {
    fn efficiency(&self, floors: &[Floor]) -> Option<f64> {
        let floor = floors.iter().find(|floor| floor.size == self.size && self.level == "quorum")?;
        Some(if self.method == "PUT" { floor.put() } else { floor.get() } / self.cpu)
    }

    fn json(&self, floors: &[Floor]) -> Value {
        json!({
            "method": self.method, "size": self.size, "level": self.level, "cpu_us": self.cpu,
            "efficiency": self.efficiency(floors), "per_second": self.seen.per_second(),
            "p50_us": self.seen.p50.as_micros() as u64, "p99_us": self.seen.p99.as_micros() as u64,
        })
    }
}

/// CPU percent of a node that does nothing, and the largest node's resident bytes.
fn idle(cluster: &Cluster, seconds: u64) -> (f64, u64) {
    pause(3000);
    let pids = cluster.pids();
    let used = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let before = used();
    pause(seconds * 1000);
    let percent = (used() - before) / (seconds as f64) / (NODES as f64) * 100.0;
    (percent, pids.iter().map(|pid| resident(*pid)).max().unwrap_or(0))
}

/// The clients wait between requests, so that about half of what the nodes can do is asked of them.
fn half_load(cluster: &Cluster, rows: &[Row], seconds: u64) -> Result<Vec<(&'static str, Seen)>, String> {
    let mut found = Vec::new();
    for row in rows.iter().filter(|row| row.size == 100 && row.level == "quorum") {
        let (bucket, query) =
            if row.method == "PUT" { ("write-100-half", "?w=quorum") } else { ("read-100", "?r=quorum") };
        let cycle = 2.0 * AT_ONCE as f64 / row.seen.per_second() * 1000.0;
        let mut load = cluster.load(row.method, bucket, query, row.size, seconds);
        // The mean of a uniform wait is half of its longest.
        load.think = (2.0 * (cycle - cycle / 4.0)).round().max(1.0) as u64;
        found.push((row.method, cluster.measure(&load)?.1));
    }
    Ok(found)
}

/// PUTs a second at `flush` and at `os`: two clusters, in turn, so that both see the same machine.
fn against_os(seconds: u64) -> Result<(f64, f64), String> {
    let (flush, os) = (Cluster::start("flush")?, Cluster::start("os")?);
    let mut sums = [0.0; 2];
    for round in 0..2 {
        for (sum, cluster) in sums.iter_mut().zip([&flush, &os]) {
            let load = cluster.load("PUT", &format!("durability-{round}"), "?w=quorum", 100, seconds.div_ceil(2));
            *sum += cluster.measure(&load)?.1.per_second();
        }
    }
    Ok((sums[0] / 2.0, sums[1] / 2.0))
}

fn report(
    floors: &[Floor],
    (before, after): (&[Floor], &[Floor]),
    rows: &[Row],
    half: &[(&'static str, Seen)],
    idle: (f64, u64),
    fsync: Duration,
    (flush, os): (f64, f64),
) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("Floor, CPU us per operation (measured before and after; the mean counts)\n");
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line("  bytes   http PUT/GET  frame value/digest  kv write/read    floor PUT    floor GET".into());
    for ((floor, before), after) in floors.iter().zip(before).zip(after) {
        let Floor { size, http_put, http_get, frame_value, frame_digest, kv_write, kv_read } = floor;
        line(format!(
            "  {size:>5}     {http_put:>4.1} / {http_get:>4.1}       {frame_value:>4.1} / {frame_digest:>4.1}     {kv_write:>5.1} / {kv_read:>4.1}    {:>4.1} ({:.1}-{:.1})  {:>4.1} ({:.1}-{:.1})",
            floor.put(),
            before.put(),
            after.put(),
            floor.get(),
            before.get(),
            after.get(),
        ));
    }
    line(String::new());
    line(format!("Three nodes, N=3, durability=flush, {AT_ONCE} connections; CPU of all nodes added up"));
    line("  operation         CPU us/op  efficiency  against one     op/s     p50 ms   p99 ms".into());
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    for row in rows {
        let efficiency = row.efficiency(floors).map_or_else(|| "   -".into(), |efficiency| format!("{efficiency:.2}"));
        let one = rows.iter().find(|one| (one.method, one.size, one.level) == (row.method, row.size, "one"));
        let against = one.map_or_else(|| "   -".into(), |one| format!("{:.2}", row.cpu / one.cpu));
        line(format!(
            "  {} {:>5} {:<7} {:>9.1} {efficiency:>10} {against:>12} {:>10.0} {:>9.2} {:>8.2}",
            row.method,
            row.size,
            row.level,
            row.cpu,
            row.seen.per_second(),
            milliseconds(row.seen.p50),
            milliseconds(row.seen.p99),
        ));
    }
    line(String::new());
    for (method, seen) in half {
        let (p50, p99) = (milliseconds(seen.p50), milliseconds(seen.p99));
        line(format!(
            "Half of peak load, {method} 100 quorum: {:.0} op/s, p50 {p50:.2} ms, p99 {p99:.2} ms, p99/p50 {:.1}",
            seen.per_second(),
            p99 / p50,
        ));
    }
    line(format!(
        "PUT 100 quorum, flush against os: {flush:.0} / {os:.0} op/s = {:.2}; one fsync takes {:.0} us here",
        flush / os,
        fsync.as_secs_f64() * 1e6,
    ));
    line(format!("Idle, empty node: {:.2} % CPU, {:.1} MiB resident", idle.0, idle.1 as f64 / f64::from(1 << 20)));
    text.trim_end().to_owned()
}
