//! The real data that ships with the project, and plain requests about it.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use quorate::client::Client;
use quorate::kv::{Kv, ReadOptions, WriteOptions};
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};

/// Requests under way at once.
const AT_ONCE: usize = 48;

/// The records that ship with the project: (key, value).
pub(crate) fn records() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cities.tsv");
    let text = std::fs::read_to_string(path).unwrap();
    let records: Vec<_> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once('\t'))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    assert!(records.len() >= 30_000);
    records
}

pub(crate) fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("cities").unwrap(), Key::new(key.to_owned()).unwrap())
}

pub(crate) fn write(w: Level) -> WriteOptions {
    WriteOptions { w, timeout: Duration::from_secs(10), ..WriteOptions::default() }
}

pub(crate) fn read(r: Level) -> ReadOptions {
    ReadOptions { r, timeout: Duration::from_secs(10), ..ReadOptions::default() }
}

pub(crate) async fn value(client: &Client, key: &str, r: Level) -> Option<String> {
    let found = client.get(id(key), read(r)).await.unwrap();
    assert!(found.siblings.len() <= 1, "{key} has siblings");
    let only = found.siblings.into_iter().next()?.value?;
    Some(String::from_utf8(only.bytes.to_vec()).unwrap())
}

/// Runs `work` on every item, some at once.
pub(crate) async fn for_all<T, F: Future<Output = ()>>(items: impl IntoIterator<Item = T>, work: impl FnMut(T) -> F) {
    futures_util::stream::iter(items).map(work).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
}
