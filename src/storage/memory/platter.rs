//! What is on a simulated disk.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Batch, Entries, Keyspace, StorageError};
use crate::storage::{Change, sum};

/// The contents of a simulated disk, to roll it back to or to clone it from.
#[derive(Clone, Debug)]
pub struct Platter(Image);

impl Platter {
    pub(super) const fn new(image: Image) -> Self {
        Self(image)
    }

    pub(super) const fn image(&self) -> &Image {
        &self.0
    }
}

/// Something that happened to the platter, in the order of the list of unsynced events.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Batch(Batch),
    Damage(Keyspace, Bytes),
}

/// The state of all keyspaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    keyspaces: [Entries; Keyspace::ALL.len()],
    damaged: BTreeSet<(Keyspace, Bytes)>,
    bytes: u64,
}

impl Image {
    pub(super) const fn entries(&self, keyspace: Keyspace) -> &Entries {
        &self.keyspaces[keyspace as usize]
    }

    /// Keys and values, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is stored, damaged or not.
    pub(super) fn get(&self, keyspace: Keyspace, key: &[u8]) -> Option<&Bytes> {
        self.entries(keyspace).get(key)
    }

    /// What a read of `key` answers.
    pub(super) fn read(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.entries(keyspace).get_key_value(key) {
            Some((key, value)) => self.checked(keyspace, key, value).map(Some),
            None => Ok(None),
        }
    }

    /// `value`, unless it is damaged.
    pub(super) fn checked(&self, keyspace: Keyspace, key: &Bytes, value: &Bytes) -> Result<Bytes, StorageError> {
        if !self.damaged.is_empty() && self.damaged.contains(&(keyspace, key.clone())) {
            return Err(StorageError::Corrupt { keyspace, detail: "simulated damage".to_owned() });
        }
        Ok(value.clone())
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Damage(keyspace, key) => {
                if self.get(*keyspace, key).is_some() {
                    self.damaged.insert((*keyspace, key.clone()));
                }
            }
            Event::Batch(batch) => batch.changes().iter().for_each(|change| self.change(change)),
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Put(keyspace, key, value) => {
                self.heal(*keyspace, key);
                self.store(*keyspace, key, Some(value.clone()));
            }
            Change::Delete(keyspace, key) => {
                self.heal(*keyspace, key);
                self.store(*keyspace, key, None);
            }
            Change::Add(keyspace, key, delta) => {
                let sum = sum(self.get(*keyspace, key).map(Bytes::as_ref)).wrapping_add(*delta);
                self.store(*keyspace, key, Some(Bytes::copy_from_slice(&sum.to_le_bytes())));
            }
        }
    }

    fn heal(&mut self, keyspace: Keyspace, key: &Bytes) {
        if !self.damaged.is_empty() {
            self.damaged.remove(&(keyspace, key.clone()));
        }
    }

    fn store(&mut self, keyspace: Keyspace, key: &Bytes, value: Option<Bytes>) {
        let entries = &mut self.keyspaces[keyspace as usize];
        let came = value.as_ref().map_or(0, |value| size(key, value));
        let went = match value {
            Some(value) => entries.insert(key.clone(), value),
            None => entries.remove(key),
        };
        self.bytes = (self.bytes + came).saturating_sub(went.map_or(0, |value| size(key, &value)));
    }
}

fn size(key: &Bytes, value: &Bytes) -> u64 {
    u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX)
}

/// The space a batch takes before anything it replaces is given back, as a log would.
pub(super) fn growth(batch: &Batch) -> u64 {
    let bytes = |change: &Change| match change {
        Change::Put(_, key, value) => size(key, value),
        Change::Delete(..) => 0,
        Change::Add(_, key, _) => u64::try_from(key.len() + size_of::<u128>()).unwrap_or(u64::MAX),
    };
    batch.changes().iter().map(bytes).sum()
}
