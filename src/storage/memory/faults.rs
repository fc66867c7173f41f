//! What a simulated disk does wrong.

use std::time::Duration;

/// What a simulated disk does wrong. The default is a healthy disk. Probabilities are per operation, 0 to 1.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Faults {
    /// A read fails with an I/O error; a scan fails at one of its first entries.
    pub read_error: f64,
    /// A key that is read turns out to be damaged, and stays so until it is put or deleted.
    pub damage: f64,
    /// The cached read does not know, though it could.
    pub uncached: f64,
    /// A commit fails before anything of it is written.
    pub commit_error: f64,
    /// A flush, or the flush of a commit, fails: what it was to make durable may or may not be.
    pub flush_error: f64,
    /// How long a flush stalls: drawn between these two.
    pub flush_stall: Option<(Duration, Duration)>,
    /// Bytes of keys and values that fit.
    pub capacity: Option<u64>,
}

impl Faults {
    /// Whether a read can go wrong by chance.
    pub(super) fn spoil_reads(&self) -> bool {
        self.read_error > 0.0 || self.damage > 0.0
    }
}
