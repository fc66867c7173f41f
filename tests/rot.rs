//! Bytes that change on a disk by themselves: a stopped node's table files are damaged where its values lie. Reads never
//! answer with wrong bytes, nor that there is nothing; scrub finds what nobody read; all of it is whole again on that node.
#![cfg(all(feature = "cli", feature = "rocksdb"))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; processes live in real time"
)]

#[path = "processes/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::client::Client;
use quorate::kv::{Kv, ReadOptions, ScrubView, Steer, WriteOptions};
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};
use server::{Server, pause, start_all};

const KEYS: usize = 1500;
/// Every so manyth key's value is damaged: about one in each block of a table.
const EVERY: usize = 25;

fn id(key: usize) -> ObjectId {
    ObjectId::new(Bucket::new("rot").unwrap(), Key::new(format!("k{key}")).unwrap())
}

/// Bytes without a pattern, the same for the same key: found again in a table file, whatever compresses it.
fn value_of(key: usize) -> Vec<u8> {
    let mut state = (key as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(1000).collect()
}

async fn write_all(client: &Client) {
    for key in 0..KEYS {
        let options = WriteOptions { w: Level::All, timeout: Duration::from_secs(10), ..WriteOptions::default() };
        client.put(id(key), value_of(key).into(), options).await.unwrap();
    }
}

/// What a node answers at R=1: its value, or that it cannot answer; panics at anything else.
async fn answers_right(client: &Client, key: usize) -> bool {
    let options = ReadOptions { r: Level::One, timeout: Duration::from_secs(10), ..ReadOptions::default() };
    match client.get(id(key), options).await {
        Ok(answer) => {
            let values: Vec<_> = answer.siblings.iter().filter_map(|sibling| sibling.value.as_ref()).collect();
            assert_eq!(values.len(), 1, "k{key} is there, and was never written twice");
            assert!(values[0].bytes == value_of(key), "k{key}: wrong bytes");
            true
        }
        Err(_) => false,
    }
}

fn tables(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tables(&path));
        } else if path.extension().is_some_and(|is| is == "sst" || is == "blob") {
            found.push(path);
        }
    }
    found
}

/// Flips a bit in the middle of these keys' values, wherever they lie in table files; tells which that was done to.
fn damage(directory: &Path, keys: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut files: Vec<(PathBuf, Vec<u8>)> =
        tables(directory).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let mut damaged = Vec::new();
    for key in keys {
        let value = value_of(key);
        let part = &value[480..512];
        for (_, bytes) in &mut files {
            let at = bytes.windows(part.len()).position(|window| window == part);
            if let Some(at) = at {
                bytes[at + 16] ^= 1;
                damaged.push(key);
            }
        }
    }
    files.into_iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    damaged.dedup();
    damaged
}

async fn scrub_of(client: &Client) -> Option<ScrubView> {
    client.workers().await.unwrap().scrub
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_never_answered_found_by_scrub_and_mended() {
    let root = tempfile::tempdir().unwrap();
    let mut servers = Server::cluster(3, root.path());
    start_all(&mut servers).await;
    write_all(&servers[1].client()).await;
    // What the log holds becomes tables at the next start.
    for _ in 0..2 {
        assert!(servers[0].terminate().success());
        servers[0].start();
        servers[0].wait_until_up(3).await;
    }
    assert!(servers[0].terminate().success());
    let damaged = damage(&servers[0].directory, (0..KEYS).step_by(EVERY));
    assert!(damaged.len() > KEYS / EVERY / 2, "{} values were found in tables", damaged.len());
    servers[0].start();
    servers[0].wait_until_up(3).await;

    // Half of them are read, and not only they: what shares a block with one cannot be read either.
    let client = servers[0].client();
    let mut right = 0;
    for key in 0..KEYS / 2 {
        right += usize::from(answers_right(&client, key).await);
    }
    assert!(right > KEYS / 4, "{right} of {} could be answered", KEYS / 2);
    client.steer("scrub", Steer::Run).await.unwrap();
    let mut scrub = None;
    for _ in 0..1200 {
        scrub = scrub_of(&client).await;
        if scrub.as_ref().is_some_and(|scrub| scrub.ended.is_some() && scrub.waiting == 0 && scrub.found > 0) {
            break;
        }
        pause(Duration::from_millis(50)).await;
    }
    let scrub = scrub.unwrap();
    println!("{} values damaged; scrub: {scrub:?}", damaged.len());
    assert!(scrub.ended.is_some() && scrub.waiting == 0, "{scrub:?}\n{}", servers[0].log());
    let unread = damaged.iter().filter(|key| **key >= KEYS / 2).count() as u64;
    assert!(scrub.found >= unread / 2 && scrub.mended == scrub.found, "{scrub:?}, {unread} of them unread");
    let well = |code: &str| !["quarantined", "syncing", "read_only"].contains(&code);
    let status = servers[0].wait_for("it is well", |status| status.attention.iter().all(|a| well(&a.code))).await;
    assert_ne!(status.health, "not_serving");

    // Alone: all of it is here.
    for other in &mut servers[1..] {
        assert!(other.terminate().success());
    }
    for key in 0..KEYS {
        assert!(answers_right(&client, key).await, "k{key} is not whole again\n{}", servers[0].log());
    }
}
