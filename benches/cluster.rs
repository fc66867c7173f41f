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

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use quorate::storage::Durability;
use serde_json::{Value, json};
use support::floor::{AS_WORKER, AT_ONCE, Floor, be_a_worker, measure};
use support::nodes::{AS_NODE, Cluster, KEYS, NODES, be_a_node, now, pause};
use support::{Load, Seen, cpu_seconds, resident, scratch};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some(AS_NODE) => be_a_node(&args[1..]),
        Some(AS_WORKER) => be_a_worker(&args[1..]),
        _ => bench(&args),
    };
    if let Err(problem) = done {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
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
