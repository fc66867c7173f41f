//! A node of the release binary on a small disk of its own, filled up to its reserve: a tmpfs, where this process may
//! mount one. Where it may not, the test says so and counts as ignored.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; processes live in real time; its own main says what it did"
)]

#[path = "processes/server.rs"]
mod server;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quorate::client::Client;
use quorate::kv::{Error, ErrorCode, Kv, Outcome, ReadOptions, WriteOptions};
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};
use server::Server;

const NAME: &str = "a_small_disk_keeps_its_reserve_for_deletes";
const MIB: usize = 1 << 20;

/// A mounted tmpfs, gone when this is.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(size: &str) -> Result<Self, String> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        mount(place.path(), size).map(|()| Self(place))
    }
}

fn mount(place: &Path, options: &str) -> Result<(), String> {
    let mut command = Command::new("mount");
    let output = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).output();
    match output {
        Err(error) => Err(format!("mount: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left behind may hold a file there.
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "it stays mounted");
    }
}

fn id(key: usize) -> ObjectId {
    ObjectId::new(Bucket::new("full").unwrap(), Key::new(format!("k{key}")).unwrap())
}

fn one() -> WriteOptions {
    WriteOptions { w: Level::One, timeout: Duration::from_secs(10), ..WriteOptions::default() }
}

async fn put(client: &Client, key: usize, bytes: usize) -> Result<(), Error> {
    // Not to be compressed away.
    let mut value = vec![0; bytes];
    without_pattern(key, &mut value);
    client.put(id(key), value.into(), one()).await.map(drop)
}

/// Bytes without a pattern, the same for the same key.
fn without_pattern(key: usize, bytes: &mut [u8]) {
    let mut state = key as u64 + 1;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

/// Puts values until one is refused, as it must be before the disk is full; how many there are now.
async fn fill(client: &Client, mut taken: usize) -> usize {
    loop {
        assert!(taken < 512, "more than there is space for");
        match put(client, taken, MIB - 1024).await {
            Ok(()) => taken += 1,
            Err(refused) => {
                is_full(&refused);
                return taken;
            }
        }
    }
}

async fn has(client: &Client, key: usize) -> bool {
    let options = ReadOptions { r: Level::One, timeout: Duration::from_secs(10), ..ReadOptions::default() };
    client.get(id(key), options).await.unwrap().siblings.len() == 1
}

fn is_full(refused: &Error) {
    assert_eq!((refused.code, refused.outcome), (ErrorCode::DiskFull, Outcome::NotApplied), "{refused}");
}

async fn a_small_disk_keeps_its_reserve_for_deletes(disk: &Disk) {
    let mut servers = Server::cluster(1, disk.0.path());
    let server = &mut servers[0];
    server.flags = vec!["--set".into(), "node.disk_reserve=50%".into()];
    server.start();
    server.wait_for("it serves", |status| status.health != "not_serving").await;
    let client = server.client();
    let mut taken = fill(&client, 0).await;
    assert!(taken >= 8, "{taken} values of a MiB on a disk of 512");
    let short = |status: &quorate::kv::Status| status.attention.iter().any(|a| a.code == "deletes_only");
    server.wait_for("it says so", short).await;
    is_full(&put(&client, taken, 10).await.unwrap_err());
    assert!(has(&client, 0).await && has(&client, taken - 1).await, "reads go on");
    client.delete(id(0), one()).await.unwrap();
    assert!(!has(&client, 0).await, "deletes go on");

    // What was acknowledged outlives a kill on the full disk. The next process may find room: it has put the log's
    // entries in their place, and needs that log no more.
    server.kill();
    server.start();
    server.wait_for("it serves again", |status| status.health != "not_serving").await;
    taken = fill(&client, taken).await;
    server.wait_for("it says so again", short).await;
    for key in 1..taken {
        assert!(has(&client, key).await, "{key} of {taken}");
    }
    assert!(!has(&client, 0).await);

    // Room comes back: it takes values again, without a start.
    mount(disk.0.path(), "remount,size=4g").unwrap();
    server.wait_for("it has room", |status| !short(status)).await;
    put(&client, taken, MIB - 1024).await.unwrap();
    assert!(server.terminate().success());
    println!("{taken} values of a MiB on 512 MiB with 50% kept back");
}

fn main() {
    // The part of the standard harness's command line that matters here.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    if filter.is_some_and(|filter| !NAME.contains(&filter)) {
        return println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out");
    }
    let disk = match Disk::mount("size=512m") {
        Ok(disk) => disk,
        Err(why) => {
            println!("test {NAME} ... ignored, no tmpfs can be mounted here: {why}");
            return println!("\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(a_small_disk_keeps_its_reserve_for_deletes(&disk));
    println!("test {NAME} ... ok");
    println!("\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
