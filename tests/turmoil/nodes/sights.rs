//! What happened in a run, by name: a run in which nothing went wrong proves little.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Counts by name.
#[derive(Default)]
pub(super) struct Sights(Mutex<BTreeMap<&'static str, u64>>);

impl Sights {
    pub(super) fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&self, what: &'static str, count: u64) {
        *self.0.lock().unwrap().entry(what).or_default() += count;
    }

    pub(super) fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap().iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    }
}

/// What has to happen in any eight seeds, else the faults do not bite.
pub(super) const SOMETIMES: &[&str] = &[
    "operations answered",
    "operations of unknown outcome",
    "operations refused",
    "HTTP connections used again",
    "HTTP connections lost under a request",
    "HTTP requests without an answer in time",
    "HTTP attempts elsewhere",
    "answered 503",
    "answered 504",
    "answered as the first time",
    "peers connected again",
    "silent peers",
    "late replies",
    "frames with a wrong checksum",
    "requests that came back after a heal",
    "processes started again",
    "power cuts",
    "clean stops",
    "pauses",
    "partitions",
    "sibling writes",
    "read repairs",
    "hand-overs",
    "new incarnations",
];
