//! A scan of a keyspace as it was when the scan began, while commits go on.
//!
//! A scan copies a few entries at a time. What a commit is about to replace in the rest, it first leaves with every
//! scan that is open: so a store without open scans pays nothing, and a scan no more than what changed under it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::platter::Image;
use super::{Batch, Entry, Keyspace, MemoryStorage, StorageError};
use crate::storage::{Change, is_empty_range};

/// Entries copied at a time: few at first, for a scan that looks at no more, then twice as many each time.
const FIRST: usize = 8;
const CHUNK: usize = 64;

/// What a read answered before: `None` where nothing was.
type Before = BTreeMap<Bytes, Result<Option<Bytes>, StorageError>>;

/// The open scans.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    next: u64,
    open: BTreeMap<u64, (Keyspace, Before)>,
}

impl Snapshots {
    fn open(&mut self, keyspace: Keyspace) -> u64 {
        self.next += 1;
        self.open.insert(self.next, (keyspace, Before::new()));
        self.next
    }

    /// Ends them all; their numbers are not used again.
    pub(super) fn end(&mut self) {
        self.open.clear();
    }

    /// Leaves with every open scan what `batch` is about to change.
    pub(super) fn remember(&mut self, batch: &Batch, live: &Image) {
        if self.open.is_empty() {
            return;
        }
        for change in batch.changes() {
            let (Change::Put(keyspace, key, _) | Change::Delete(keyspace, key) | Change::Add(keyspace, key, _)) =
                change;
            for (scanned, before) in self.open.values_mut().filter(|(scanned, _)| scanned == keyspace) {
                before.entry(key.clone()).or_insert_with(|| live.read(*scanned, key));
            }
        }
    }
}

/// A running scan.
#[derive(Debug)]
pub(super) struct MemoryScan<'a> {
    storage: &'a MemoryStorage,
    snapshot: u64,
    keyspace: Keyspace,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    chunk: std::vec::IntoIter<Entry>,
    /// Entries of the next chunk.
    most: usize,
    /// Entries left before a simulated read error.
    fails_after: Option<u64>,
    ended: bool,
}

impl<'a> MemoryScan<'a> {
    pub(super) fn new(storage: &'a MemoryStorage, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let drive = &storage.drive;
        let mut state = drive.write();
        let fails_after = drive.chance(state.faults.read_error).then(|| drive.entropy.below(8));
        Self {
            storage,
            snapshot: state.snapshots.open(keyspace),
            keyspace,
            from: from.map(Bytes::copy_from_slice),
            to: to.map(Bytes::copy_from_slice),
            chunk: Vec::new().into_iter(),
            most: FIRST,
            fails_after,
            ended: is_empty_range(from, to),
        }
    }

    /// The next entries: those of now, but for keys that changed since, what they were.
    fn refill(&mut self) -> Result<(), StorageError> {
        let state = self.storage.drive.read();
        self.storage.is_open(&state)?;
        let Some((_, before)) = state.snapshots.open.get(&self.snapshot) else {
            return Err(StorageError::Io("the scan ended when its process died".to_owned()));
        };
        let range = || (self.from.as_ref(), self.to.as_ref());
        let mut now = state.live.entries(self.keyspace).range::<Bytes, _>(range()).peekable();
        let mut then = before.range::<Bytes, _>(range()).peekable();
        let mut chunk = Vec::new();
        let mut last = None;
        while chunk.len() < self.most {
            let (key, entry) = match (now.peek(), then.peek()) {
                (None, None) => break,
                (Some((key, _)), Some((changed, _))) if key < changed => entry(&state.live, self.keyspace, now.next()),
                (Some(_), None) => entry(&state.live, self.keyspace, now.next()),
                (live, Some((changed, value))) => {
                    let (changed, value) = (*changed, *value);
                    if live.is_some_and(|(key, _)| *key == changed) {
                        now.next();
                    }
                    then.next();
                    let entry = value.clone().transpose().map(|value| value.map(|value| (changed.clone(), value)));
                    (Some(changed.clone()), entry)
                }
            };
            last = key;
            chunk.extend(entry);
        }
        match last {
            Some(key) if now.peek().is_some() || then.peek().is_some() => self.from = Bound::Excluded(key),
            _ => self.ended = true,
        }
        self.chunk = chunk.into_iter();
        self.most = CHUNK.min(2 * self.most);
        Ok(())
    }
}

fn entry(live: &Image, keyspace: Keyspace, next: Option<(&Bytes, &Bytes)>) -> (Option<Bytes>, Option<Entry>) {
    let Some((key, value)) = next else { return (None, None) };
    let entry = live.checked(keyspace, key, value).map(|value| (key.clone(), value));
    (Some(key.clone()), Some(entry))
}

impl Iterator for MemoryScan<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let entry = match self.fails_after.as_mut() {
            Some(0) => Some(Err(StorageError::Io("simulated read error".to_owned()))),
            Some(left) => {
                *left -= 1;
                self.advance()
            }
            None => self.advance(),
        };
        if let None | Some(Err(_)) = entry {
            self.ended = true;
            self.chunk = Vec::new().into_iter();
            self.fails_after = None;
        }
        entry
    }
}

impl MemoryScan<'_> {
    fn advance(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.chunk.next() {
                return Some(entry);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.refill() {
                return Some(Err(error));
            }
        }
    }
}

impl Drop for MemoryScan<'_> {
    fn drop(&mut self) {
        self.storage.drive.write().snapshots.open.remove(&self.snapshot);
    }
}
