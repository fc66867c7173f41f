//! What the benches share: CPU time of processes, load by wrk, and the floor.
//!
//! CPU time, not wall time: it is what a shared machine lets one compare. It comes from `/proc/PID/stat`, in hundredths
//! of a second, so every measurement runs for seconds.

pub(crate) mod floor;
#[cfg(feature = "http")]
pub(crate) mod nodes;

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The product's, so that nodes and floor run on what it runs on.
#[cfg(feature = "allocator")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A runtime for one of `processes` that share this machine. Each gets its share of the cores, as async threads: threads
/// beyond that only take each other's work and caches, which nodes on machines of their own do not. `BENCH_THREADS` says
/// otherwise.
pub(crate) fn runtime(processes: usize) -> io::Result<tokio::runtime::Runtime> {
    let told = std::env::var("BENCH_THREADS").ok().and_then(|threads| threads.parse().ok());
    let share = || std::thread::available_parallelism().map_or(1, |cores| cores.get() / processes);
    let threads: usize = told.unwrap_or_else(share);
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads.max(1)).enable_all().build()
}

/// CPU seconds that a process has used, all its threads, those that ended included.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    // Linux counts these in USER_HZ, 100 everywhere.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Bytes that do not compress, the same at every run.
pub(crate) fn value(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        33 + (state % 94) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// A load for wrk.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) ports: Vec<u16>,
    pub(crate) method: &'static str,
    /// The key is appended.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) keys: usize,
    pub(crate) size: usize,
    pub(crate) connections: usize,
    pub(crate) seconds: u64,
    /// Most milliseconds a connection waits before its next request.
    pub(crate) think: u64,
    /// So many keys are written again and again; 0: each key once.
    pub(crate) overwrites: usize,
}

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    pub p50: Duration,
    pub p99: Duration,
}

impl Seen {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// Where wrk is, or how to get it.
pub(crate) fn wrk() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("wrk")).find(|file| file.is_file());
    found.ok_or_else(|| "the load generator wrk is missing: apt-get install wrk, or run scripts/bench".to_owned())
}

/// Runs wrk. An answer that is an error spoils the figure, so it is one here.
pub(crate) fn drive(load: &Load) -> Result<Seen, String> {
    let (seen, errors) = drive_on(load)?;
    if errors > 0.0 || seen.requests < 1.0 {
        return Err(format!("{} {}: {errors} of {} requests failed", load.method, load.path, seen.requests));
    }
    Ok(seen)
}

/// Runs wrk, also where answers are errors: how many were.
pub(crate) fn drive_on(load: &Load) -> Result<(Seen, f64), String> {
    let ports: Vec<String> = load.ports.iter().map(u16::to_string).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load.lua");
    let output = Command::new(wrk()?)
        .args([
            "--threads",
            &load.ports.len().clamp(2, 3).to_string(),
            "--timeout",
            "10s",
            "--latency",
            "--script",
            script,
        ])
        .args(["--connections", &load.connections.to_string(), "--duration", &format!("{}s", load.seconds)])
        .arg(format!("http://127.0.0.1:{}/", load.ports[0]))
        .env("BENCH_PORTS", ports.join(" "))
        .env("BENCH_METHOD", load.method)
        .env("BENCH_PATH", &load.path)
        .env("BENCH_QUERY", &load.query)
        .env("BENCH_KEYS", load.keys.to_string())
        .env("BENCH_SIZE", load.size.to_string())
        .env("BENCH_THINK", load.think.to_string())
        .env("BENCH_OVERWRITES", load.overwrites.to_string())
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("BENCH "));
    let numbers: Vec<f64> = line.unwrap_or("").split(' ').filter_map(|number| number.parse().ok()).collect();
    let [requests, micros, errors, p50, p99] = numbers[..] else {
        return Err(format!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)));
    };
    let time = |micros: f64| Duration::from_micros(micros as u64);
    Ok((Seen { requests, seconds: micros / 1e6, p50: time(p50), p99: time(p99) }, errors))
}

/// CPU microseconds of these processes for each operation of `work`, which says how many it did.
pub(crate) fn cpu_per_operation<T>(
    pids: &[u32],
    work: impl FnOnce() -> Result<(f64, T), String>,
) -> Result<(f64, T), String> {
    let all = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let before = all();
    let (operations, result) = work()?;
    Ok(((all() - before) * 1e6 / operations, result))
}

/// A directory on the disk that is measured: `BENCH_DIR`, else the system's temporary one.
pub(crate) fn scratch() -> io::Result<tempfile::TempDir> {
    let root = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix("quorate-bench-").tempdir_in(root)
}
