//! A simulated machine's disk: what outlives its processes, and what befalls it.
//!
//! Glue between the nemesis and `storage::memory`: which of the disk's faults stands for which of the schedule's, what a
//! death leaves, and the copies of a directory that somebody keeps. A power cut is another life of the kernel, and the
//! process is told ([`SimDisk::machine_boot`]); a kill is not.

use std::ops::Bound::Unbounded;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::net::Death;
use crate::env::Entropy;
use crate::storage::memory::{Faults, MemoryDisk, MemoryStorage, Platter};
use crate::storage::{Keyspace, Storage, StorageError};

/// One machine's disk.
#[derive(Debug)]
pub struct SimDisk {
    disk: MemoryDisk,
    entropy: Arc<Entropy>,
    boots: u64,
    copy: Option<Platter>,
}

impl SimDisk {
    /// An empty disk; its faults follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let entropy = Arc::new(Entropy::seeded(seed));
        Self { disk: MemoryDisk::new(Arc::clone(&entropy)), entropy, boots: 1, copy: None }
    }

    /// Opens the directory for a new process.
    ///
    /// # Errors
    /// While another process has it open.
    pub fn open(&self) -> Result<MemoryStorage, StorageError> {
        self.disk.open()
    }

    /// Names the kernel's life.
    #[must_use]
    pub fn machine_boot(&self) -> String {
        format!("boot-{}", self.boots)
    }

    /// What is left when the process, or the machine, dies.
    pub fn die(&mut self, death: Death) {
        match death {
            Death::Killed => self.disk.kill(),
            Death::PowerCut => {
                self.disk.crash(&self.entropy);
                self.boots += 1;
            }
        }
    }

    /// The next write fails: before anything is written, or with its fate in doubt.
    pub fn fail(&self) {
        let faults = self.disk.faults();
        let in_doubt = self.entropy.chance(0.5);
        let (commit_error, flush_error) = if in_doubt { (0.0, 1.0) } else { (1.0, 0.0) };
        self.disk.set_faults(Faults { commit_error, flush_error, ..faults });
    }

    /// No more space.
    pub fn fill(&self) {
        self.disk.set_faults(Faults { capacity: Some(0), ..self.disk.faults() });
    }

    /// Space for so many bytes; none: no bound.
    pub fn limit(&self, capacity: Option<u64>) {
        self.disk.set_faults(Faults { capacity, ..self.disk.faults() });
    }

    /// Each flush takes up to this long; zero: none does.
    pub fn slow(&self, stall: Duration) {
        let flush_stall = (!stall.is_zero()).then_some((stall / 2, stall));
        self.disk.set_faults(Faults { flush_stall, ..self.disk.faults() });
    }

    /// Well again.
    pub fn heal(&self) {
        self.disk.set_faults(Faults::default());
    }

    /// Damages the object that `pick` chooses of those that `reader` sees. Says which.
    pub fn damage(&self, reader: &dyn Storage, pick: u64) -> Option<Bytes> {
        let keys: Vec<Bytes> = reader
            .scan(Keyspace::Objects, Unbounded, Unbounded)
            .filter_map(|entry| entry.ok().map(|(key, _)| key))
            .collect();
        let at = usize::try_from(pick % u64::try_from(keys.len()).ok()?.max(1)).ok()?;
        let key = keys.get(at)?.clone();
        self.disk.damage(Keyspace::Objects, &key).then_some(key)
    }

    /// Damages this entry, if there is one; says whether there was.
    pub fn damage_entry(&self, keyspace: Keyspace, key: &[u8]) -> bool {
        self.disk.damage(keyspace, key)
    }

    /// As [`SimDisk::damage`], while no process has the directory open.
    pub fn damage_closed(&self, pick: u64) -> Option<Bytes> {
        let reader = self.disk.open().ok()?;
        self.damage(&reader, pick)
    }

    /// An empty directory.
    pub fn wipe(&self) {
        self.disk.wipe();
    }

    /// A copy of the directory.
    #[must_use]
    pub fn snapshot(&self) -> Platter {
        self.disk.snapshot_platter()
    }

    /// Keeps a copy of the directory.
    pub fn keep_copy(&mut self) {
        self.copy = Some(self.snapshot());
    }

    /// The copy kept.
    #[must_use]
    pub const fn copy(&self) -> Option<&Platter> {
        self.copy.as_ref()
    }

    /// The directory becomes the copy kept, if one was.
    pub fn roll_back(&self) {
        if let Some(copy) = &self.copy {
            self.disk.restore_platter(copy);
        }
    }

    /// The directory becomes a copy of another's.
    pub fn become_copy(&self, platter: &Platter) {
        self.disk.restore_platter(platter);
    }

    /// Batches that a power cut may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.disk.unsynced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Batch, Durability};

    fn put(storage: &MemoryStorage, key: &'static [u8], durability: Durability) {
        let mut batch = Batch::new();
        batch.put(Keyspace::Objects, key, b"v".to_vec());
        storage.commit(batch, durability).unwrap();
    }

    #[test]
    fn a_kill_loses_nothing_and_a_power_cut_names_another_boot() {
        let mut disk = SimDisk::new(1);
        let storage = disk.open().unwrap();
        put(&storage, b"a", Durability::Os);
        let boot = disk.machine_boot();
        disk.die(Death::Killed);
        assert!(storage.get(Keyspace::Objects, b"a").is_err(), "the dead process reads nothing");
        let storage = disk.open().unwrap();
        assert!(storage.get(Keyspace::Objects, b"a").unwrap().is_some());
        assert_eq!(disk.machine_boot(), boot);
        disk.die(Death::PowerCut);
        assert_ne!(disk.machine_boot(), boot);
    }

    #[test]
    fn damage_is_found_by_whoever_reads() {
        let disk = SimDisk::new(1);
        let storage = disk.open().unwrap();
        assert_eq!(disk.damage(&storage, 7), None, "there is nothing to damage");
        put(&storage, b"a", Durability::Flush);
        assert_eq!(disk.damage(&storage, 7).as_deref(), Some(&b"a"[..]));
        assert!(storage.get(Keyspace::Objects, b"a").is_err());
    }

    #[test]
    fn a_directory_goes_back_to_the_copy_kept() {
        let mut disk = SimDisk::new(1);
        let storage = disk.open().unwrap();
        disk.keep_copy();
        put(&storage, b"a", Durability::Flush);
        disk.die(Death::Killed);
        disk.roll_back();
        assert!(disk.open().unwrap().get(Keyspace::Objects, b"a").unwrap().is_none());
    }
}
