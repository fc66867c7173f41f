//! Which directories went back, when, and when their nodes were told: what [`excuse`](super::check::excuse) needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::check::excuse::WentBack;
use super::cluster::Cluster;
use super::time::SimClock;
use super::workload::Runner;
use crate::env::{Clock as _, Tasks};
use crate::node::Node;
use crate::replica::Place;
use crate::ring::Layout;
use crate::ring::live::holders;
use crate::types::StoreId;

/// Between two looks at whether a directory that went back has been found out.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Takes down when directories go back. Clones are the same book.
#[derive(Clone)]
pub struct Backs {
    cluster: Cluster,
    clock: Arc<SimClock>,
    tasks: Tasks,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    /// When each machine's copy was made.
    copies: BTreeMap<usize, u64>,
    entries: Vec<Entry>,
}

struct Entry {
    machine: usize,
    store: Option<StoreId>,
    went: WentBack,
    /// The layouts that were live when it went back, and when that was noticed.
    live: Vec<Layout>,
}

impl std::fmt::Debug for Backs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backs").field("entries", &self.book().entries.len()).finish_non_exhaustive()
    }
}

/// The layouts that are live for whoever knows the newest.
fn live(cluster: &Cluster) -> Vec<Layout> {
    let known = (0..cluster.len()).filter_map(|machine| cluster.node(machine)?.layouts().known());
    let newest = known.max_by_key(|known| known.newest().version());
    newest.map(|known| known.chain.live().to_vec()).unwrap_or_default()
}

impl Backs {
    /// An empty book; what it looks at runs in `tasks`.
    #[must_use]
    pub fn new(cluster: &Cluster, tasks: &Tasks) -> Self {
        let clock = SimClock::new(cluster.time());
        Self { cluster: cluster.clone(), clock, tasks: tasks.clone(), book: Arc::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of a machine's directory is kept now.
    pub fn copied(&self, machine: usize) {
        let now = self.clock.now().0;
        self.book().copies.insert(machine, now);
    }

    /// A machine's directory goes back to that copy now: looks until its node has been told.
    pub fn went_back(&self, machine: usize) {
        let (back, live_now) = (self.clock.now().0, live(&self.cluster));
        let name = format!("n{machine}");
        let store = live_now
            .iter()
            .rev()
            .find_map(|layout| layout.members().iter().find(|member| member.name == name).map(|member| member.store));
        let mut book = self.book();
        let Some(&made) = book.copies.get(&machine) else { return };
        // A copy made of a directory that had gone back itself, unnoticed, lacks what that one had forgotten.
        let unnoticed = |entry: &&Entry| {
            let WentBack { back, noticed, .. } = entry.went;
            entry.machine == machine && back <= made && noticed.is_none_or(|noticed| noticed > made)
        };
        let copied = book.entries.iter().filter(unnoticed).map(|entry| entry.went.copied).fold(made, u64::min);
        let number = book.entries.len();
        let went = WentBack { copied, back, ..WentBack::default() };
        book.entries.push(Entry { machine, store, went, live: live_now });
        drop(book);
        let this = self.clone();
        self.tasks.spawn(async move {
            loop {
                this.clock.sleep(LOOK_EVERY).await;
                let told = |node: Node| node.metrics().replica.rollback_proofs.get() > 0;
                if this.cluster.node(machine).is_some_and(told) {
                    let entry = &mut this.book().entries[number];
                    entry.went.noticed = Some(this.clock.now().0);
                    entry.live.extend(live(&this.cluster));
                    return;
                }
            }
        });
    }

    /// Whether every node whose directory went back has been told.
    #[must_use]
    pub fn all_noticed(&self) -> bool {
        self.book().entries.iter().all(|entry| entry.went.noticed.is_some())
    }

    /// All that went back, with the keys that their nodes own, or owned then.
    #[must_use]
    pub fn account(&self, runner: &Runner) -> Vec<WentBack> {
        let now = live(&self.cluster);
        let keys = runner.keys();
        let account = |entry: &Entry| {
            let owned = |key: &&String| {
                let id = runner.id(key);
                entry.live.iter().chain(&now).any(|layout| {
                    let partition = Place::of(layout.grid(), &id, 0).partition;
                    let owners = holders(layout, partition, Some(&id.bucket));
                    entry.store.is_some_and(|store| owners.contains(store))
                })
            };
            let keys: BTreeSet<String> = keys.iter().filter(owned).cloned().collect();
            WentBack { keys, ..entry.went.clone() }
        };
        self.book().entries.iter().map(account).collect()
    }
}
