//! Buckets in the chain: the successor that creates one, changes where its objects lie, empties it, or takes it away.
//!
//! **A generation never comes back under a name.** It is part of every stored key, so what was written before a purge or
//! a delete is under keys that nobody names any more, whatever frame, hint or returning owner still carries it. The
//! chain is the memory: an entry is never taken out of it. A bucket that was deleted, or emptied without ever having
//! been configured, leaves an entry that *remembers* its generation and has the cluster's defaults for the rest; an id
//! with the top bit set marks it. The next bucket of that name begins with the remembered generation, which only grows
//! ([`Chain::follows`](super::Chain::follows) refuses a layout in which one falls).
//!
//! A bucket keeps the generation of what was written under its name before it was configured: those objects become its
//! own. Under `mode = lww` the sibling with the greatest stamp stays of each.
//!
//! The owners do not change: lists are `replicas_max` wide and a bucket uses the first n of each, so another n adds or
//! takes away holders and moves nothing else. When such a layout may be decided is `change`'s to say, like any other's.
//!
//! Bound: [`BUCKETS_MAX`] entries, those that only remember included; past it no name is added, and the error says so.

use thiserror::Error;

use super::{BucketSettings, Layout, LayoutError, LayoutSpec, Mode, Role};
use crate::types::Bucket;

/// Most names that the chain knows: every layout carries them all.
pub const BUCKETS_MAX: usize = 4096;

/// Set in the id of an entry that only remembers a generation.
const REMEMBERS: u64 = 1 << 63;

impl BucketSettings {
    /// Whether somebody configured this bucket; else it has the cluster's defaults, and perhaps a generation.
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.id != 0 && self.id & REMEMBERS == 0
    }

    /// Whether it only remembers the generation of a bucket that is gone.
    #[must_use]
    pub const fn only_remembers(&self) -> bool {
        self.id & REMEMBERS != 0
    }

    /// The most replicas of one object, over all regions of `layout`.
    #[must_use]
    pub fn replicas_in(&self, layout: &Layout) -> usize {
        layout.regions().map(|region| usize::from(self.n_in(region))).sum()
    }
}

impl Layout {
    /// Stands for the owner positions that hold a bucket: buckets that are placed alike have one class, those placed as
    /// the cluster's default have class 0. Where n differs by region two classes may fall together: what is compared by
    /// class is then compared in more detail than needed.
    #[must_use]
    pub fn class_of(&self, settings: &BucketSettings) -> u16 {
        let default = &self.spec().default_bucket;
        if (settings.n, &settings.n_in_region) == (default.n, &default.n_in_region) {
            return 0;
        }
        if settings.n_in_region.is_empty() {
            return u16::from(settings.n);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[settings.n]);
        for (region, n) in &settings.n_in_region {
            hasher.update(region.as_bytes()).update(&[0, *n]);
        }
        let [high, low, ..] = *hasher.finalize().as_bytes();
        u16::from_be_bytes([high, low]) | 1 << 15
    }
}

/// What safety is to know of a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Replicas in every region that `n_in_region` does not name.
    pub n: u8,
    /// Replicas by region; 0 keeps the bucket out of a region.
    pub n_in_region: Vec<(String, u8)>,
    /// What becomes of concurrent writes.
    pub mode: Mode,
    /// What its data are.
    pub role: Role,
}

/// Why a bucket cannot be so.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BucketError {
    /// More replicas than an owner list has, or none at all.
    #[error("{what} is {least} to {most}, the longest owner list of this cluster, got {got}")]
    Replicas {
        /// Which number.
        what: String,
        /// The least it may be.
        least: u8,
        /// The most it may be.
        most: u8,
        /// What was asked for.
        got: u8,
    },
    /// A region in which nobody stands.
    #[error("regions: no member stands in {region:?}; there are {known}")]
    Region {
        /// The region.
        region: String,
        /// Those there are.
        known: String,
    },
    /// A region twice.
    #[error("regions: {0:?} is named twice")]
    Twice(String),
    /// No region holds a replica.
    #[error("regions: no region holds a replica; one of them has at least 1")]
    Nowhere,
    /// A mode that would change.
    #[error(
        "mode is fixed when a bucket is created, and {bucket} is {is}: make another bucket, or delete this one first"
    )]
    Mode {
        /// The bucket.
        bucket: Bucket,
        /// Its mode.
        is: &'static str,
    },
    /// A role that would change.
    #[error(
        "role is fixed when a bucket is created, and {bucket} is a {is}: make another bucket, or delete this one first"
    )]
    Role {
        /// The bucket.
        bucket: Bucket,
        /// Its role.
        is: &'static str,
    },
    /// There is nothing to delete.
    #[error("bucket {0} is not configured: it has the cluster's defaults; to empty it for good, purge it")]
    NotConfigured(Bucket),
    /// No name can be added.
    #[error("{BUCKETS_MAX} buckets are known, the most there may be, deleted ones included: use one of them")]
    TooMany,
    /// No layout can be made so.
    #[error("no layout can be made: {0}")]
    NoLayout(#[from] LayoutError),
}

impl Mode {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Siblings => "siblings",
            Self::Lww => "lww",
        }
    }
}

impl Role {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Cache => "cache",
        }
    }
}

/// The layout after `newest` in which `bucket` is so; none where it is so already.
pub fn set(newest: &Layout, bucket: &Bucket, wanted: &Wanted) -> Result<Option<Layout>, BucketError> {
    let n_in_region = check(newest, wanted)?;
    let before = newest.settings(bucket);
    if before.is_configured() {
        let (bucket, is) = (bucket.clone(), before);
        if is.mode != wanted.mode {
            return Err(BucketError::Mode { bucket, is: is.mode.word() });
        }
        if is.role != wanted.role {
            return Err(BucketError::Role { bucket, is: is.role.word() });
        }
    }
    let id = if before.is_configured() { before.id } else { newest.version() + 1 };
    let Wanted { n, mode, role, .. } = *wanted;
    let after = BucketSettings { id, generation: before.generation, n, n_in_region, mode, role };
    if *before == after { Ok(None) } else { with(newest, bucket, after).map(Some) }
}

/// The layout after `newest` in which nothing that was written to `bucket` before is read again.
pub fn purge(newest: &Layout, bucket: &Bucket) -> Result<Layout, BucketError> {
    let before = newest.settings(bucket);
    let id = if before.is_configured() { before.id } else { REMEMBERS | (newest.version() + 1) };
    with(newest, bucket, BucketSettings { id, generation: before.generation + 1, ..before.clone() })
}

/// The layout after `newest` in which `bucket` is gone with all that was written to it; what is written to its name from
/// then on has the cluster's defaults, and is none of what was there.
pub fn delete(newest: &Layout, bucket: &Bucket) -> Result<Layout, BucketError> {
    let before = newest.settings(bucket);
    if !before.is_configured() {
        return Err(BucketError::NotConfigured(bucket.clone()));
    }
    let id = REMEMBERS | (newest.version() + 1);
    let generation = before.generation + 1;
    with(newest, bucket, BucketSettings { id, generation, ..newest.spec().default_bucket.clone() })
}

/// The regions of a bucket that can be, in order.
fn check(newest: &Layout, wanted: &Wanted) -> Result<Vec<(String, u8)>, BucketError> {
    let most = newest.spec().replicas_max;
    let number = |what: &str, least: u8, got: u8| {
        let right = (least..=most).contains(&got);
        if right { Ok(()) } else { Err(BucketError::Replicas { what: what.to_owned(), least, most, got }) }
    };
    number("n", 1, wanted.n)?;
    let mut regions = wanted.n_in_region.clone();
    regions.sort();
    for (at, (region, n)) in regions.iter().enumerate() {
        number(&format!("regions: {region}"), 0, *n)?;
        if !newest.regions().any(|known| known == region) {
            let known = newest.regions().collect::<Vec<_>>().join(", ");
            return Err(BucketError::Region { region: region.clone(), known });
        }
        if at > 0 && regions[at - 1].0 == *region {
            return Err(BucketError::Twice(region.clone()));
        }
    }
    let settings = BucketSettings { n: wanted.n, n_in_region: regions, ..BucketSettings::default() };
    if settings.replicas_in(newest) == 0 { Err(BucketError::Nowhere) } else { Ok(settings.n_in_region) }
}

fn with(newest: &Layout, bucket: &Bucket, settings: BucketSettings) -> Result<Layout, BucketError> {
    let mut spec = LayoutSpec {
        version: newest.version() + 1,
        parent: newest.hash(),
        cluster: Some(newest.cluster()),
        ..newest.spec().clone()
    };
    if spec.buckets.insert(bucket.clone(), settings).is_none() && spec.buckets.len() > BUCKETS_MAX {
        return Err(BucketError::TooMany);
    }
    Ok(Layout::new(spec)?)
}

#[cfg(test)]
mod tests;
