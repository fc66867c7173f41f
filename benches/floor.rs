//! The floor on this machine, by itself: `cargo bench --bench floor [-- --json] [--seconds N] [--durability os]`.
//!
//! See `docs/performance.md` for what it is the floor of.

#![allow(dead_code, reason = "the benches share a module and each uses a part of it")]

mod support;

use quorate::storage::Durability;
use support::floor::{AS_WORKER, Floor, be_a_worker, measure};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = if args.first().is_some_and(|arg| arg == AS_WORKER) { be_a_worker(&args[1..]) } else { run(&args) };
    if let Err(problem) = done {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let after = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let seconds = after("--seconds").map_or(Ok(3), |text| text.parse::<u64>()).map_err(|error| error.to_string())?;
    let durability = match after("--durability").map(String::as_str) {
        None | Some("flush") => Durability::Flush,
        Some("os") => Durability::Os,
        Some(other) => return Err(format!("--durability is flush or os, got {other}")),
    };
    let floors = [100, 4096].into_iter().map(|size| measure(size, durability, seconds));
    let floors = floors.collect::<Result<Vec<Floor>, String>>()?;
    if args.iter().any(|arg| arg == "--json") {
        let json: Vec<_> = floors
            .iter()
            .map(|floor| serde_json::json!({ "parts": floor, "put": floor.put(), "get": floor.get() }))
            .collect();
        println!("{}", serde_json::Value::from(json));
        return Ok(());
    }
    print(&floors);
    Ok(())
}

fn print(floors: &[Floor]) {
    println!("CPU microseconds per operation");
    let row = |name: &str, of: &dyn Fn(&Floor) -> f64| {
        print!("{name:<44}");
        floors.iter().for_each(|floor| print!("{:>9.1}", of(floor)));
        println!();
    };
    row("bytes of a value", &|f| f.size as f64);
    row("http       PUT by axum", &|f| f.http_put);
    row("           GET by axum", &|f| f.http_get);
    row("frame      with the value", &|f| f.frame_value);
    row("           with a digest", &|f| f.frame_digest);
    row("kv_write   one RocksDB read, three changes", &|f| f.kv_write);
    row("kv_read    one RocksDB get", &|f| f.kv_read);
    row("floor(PUT) http + 3 kv_write + 2 frame", &Floor::put);
    row("floor(GET) http + 2 kv_read + 1 frame", &Floor::get);
}
