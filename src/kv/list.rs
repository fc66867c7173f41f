//! Lists of a bucket's keys, page by page.
//!
//! A page holds keys in byte order, from a place in that order on. Where too few replicas could answer for a partition its
//! keys are not on the page, and the page says so: [`KeyPage::gaps`]. A [`ListCursor`] names the place where the next page
//! goes on, and nothing else: it is as good on any node, after any change of layouts, after any restart.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ETag, Error, ErrorCode, Kv, ReplicaReport, SiblingView};
use crate::quorum::Level;
use crate::types::{Bucket, Key};

/// Most keys on a page.
pub const LIST_MOST: usize = 10_000;
/// No more keys are put on a page once it has so many bytes, keys and values together.
pub const LIST_BYTES: usize = 4 << 20;
/// Most bytes of a prefix: those of a key.
pub const PREFIX_MOST: usize = 1024;
/// The version of cursors.
const VERSION: u8 = 1;
const SUM: usize = 8;

/// What is wanted of a bucket's keys.
#[derive(Clone, PartialEq, Debug)]
pub struct ListOptions {
    /// Keys that begin so; empty: all.
    pub prefix: Bytes,
    /// At most so many keys on a page: 1 to [`LIST_MOST`]. A page may have fewer, even none, and a cursor all the same.
    pub limit: usize,
    /// Where to go on, as the page before said; none: from the first key on.
    pub cursor: Option<ListCursor>,
    /// With the live siblings' values.
    pub values: bool,
    /// How many owners answer for each partition; what they jointly hold is listed.
    pub r: Level,
    /// How long a page may take.
    pub timeout: Duration,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            prefix: Bytes::new(),
            limit: 1000,
            cursor: None,
            values: false,
            r: Level::One,
            timeout: Duration::from_secs(5),
        }
    }
}

impl ListOptions {
    /// Refuses what no page can have.
    pub fn check(&self) -> Result<(), Error> {
        let refused = |detail: String| Err(Error::refused(ErrorCode::BadParameter, detail));
        if !(1..=LIST_MOST).contains(&self.limit) {
            return refused(format!("limit is 1 to {LIST_MOST} keys a page, got {}", self.limit));
        }
        if self.prefix.len() > PREFIX_MOST {
            return refused(format!("a prefix has at most {PREFIX_MOST} bytes, got {}", self.prefix.len()));
        }
        Ok(())
    }

    /// The key behind which the page begins; empty: from the first one on.
    pub fn place(&self, bucket: &Bucket) -> Result<Bytes, Error> {
        self.cursor.as_ref().map_or(Ok(Bytes::new()), |cursor| cursor.place(bucket, &self.prefix))
    }
}

/// A place in the order of the keys of one bucket that begin with one prefix. Opaque.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListCursor(pub String);

impl fmt::Debug for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListCursor({})", self.0)
    }
}

impl ListCursor {
    /// The place behind `key`.
    ///
    /// Base64url without padding of version (1 byte), a checksum over bucket, prefix and key (8), the key. It is not signed:
    /// whoever makes one up has named a place, which anybody may.
    #[must_use]
    pub fn behind(bucket: &Bucket, prefix: &[u8], key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(1 + SUM + key.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&sum(bucket, prefix, key));
        bytes.extend_from_slice(key);
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The key behind which it is, if it is a cursor of this bucket and prefix.
    pub fn place(&self, bucket: &Bucket, prefix: &[u8]) -> Result<Bytes, Error> {
        let refused = |detail: &str| Error::refused(ErrorCode::BadParameter, detail);
        let damaged = || refused("this is no cursor: send the one that came with the page before, as it is");
        let bytes = URL_SAFE_NO_PAD.decode(&self.0).map(Bytes::from).map_err(|_| damaged())?;
        match bytes.first() {
            Some(&VERSION) if bytes.len() > 1 + SUM && bytes.len() <= 1 + SUM + PREFIX_MOST => {}
            Some(&version) if version > VERSION => return Err(refused("a newer node gave out this cursor: ask it")),
            _ => return Err(damaged()),
        }
        let key = bytes.slice(1 + SUM..);
        if bytes[1..=SUM] != sum(bucket, prefix, &key) {
            return Err(refused("this cursor is of another bucket or another prefix: repeat those of the page before"));
        }
        Ok(key)
    }
}

fn sum(bucket: &Bucket, prefix: &[u8], key: &[u8]) -> [u8; SUM] {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026-11 list cursor");
    for part in [bucket.as_str().as_bytes(), prefix, key] {
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    let mut sum = [0; SUM];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM]);
    sum
}

/// A key in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyView {
    /// The key.
    pub key: Key,
    /// Its object's tag.
    pub etag: ETag,
    /// How many siblings a reader is shown: at least one.
    pub siblings: u32,
    /// The live siblings, greatest stamp first, where they were asked for.
    pub values: Option<Vec<SiblingView>>,
}

/// Partitions that too few replicas could answer for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyGap {
    /// The partitions, in order.
    pub partitions: Vec<u32>,
    /// The replicas that did not answer for them, and why: down, syncing, timeout, error, refused.
    pub replicas: Vec<ReplicaReport>,
}

/// What several pages lack together: each partition once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GapsSeen {
    gaps: Vec<KeyGap>,
    partitions: BTreeSet<u32>,
}

impl GapsSeen {
    /// Adds what a page lacks.
    pub fn add(&mut self, gaps: &[KeyGap]) {
        for gap in gaps {
            let partitions: Vec<u32> =
                gap.partitions.iter().copied().filter(|partition| self.partitions.insert(*partition)).collect();
            if !partitions.is_empty() {
                self.gaps.push(KeyGap { partitions, replicas: gap.replicas.clone() });
            }
        }
    }

    /// How many partitions these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.partitions.len()
    }

    /// All of them.
    #[must_use]
    pub fn gaps(&self) -> &[KeyGap] {
        &self.gaps
    }
}

/// A page of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyPage {
    /// The keys, in byte order.
    pub keys: Vec<KeyView>,
    /// Where the next page goes on; none: there are no more keys.
    pub cursor: Option<ListCursor>,
    /// What is missing: no key of these partitions is on the page, whether or not there are any.
    pub gaps: Vec<KeyGap>,
    /// The layout that it was read in.
    pub layout: u64,
}

/// The pages of a list, one after the other.
///
/// ```
/// # use quorate::kv::mock::MockKv;
/// # use quorate::kv::{Kv, ListOptions, Pages, WriteOptions};
/// # use quorate::types::{Bucket, Key, ObjectId};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let kv = MockKv::default();
/// # let bucket = Bucket::new("carts").unwrap();
/// # for key in ["a/1", "b/1", "b/2"] {
/// #     let id = ObjectId::new(bucket.clone(), Key::new(key.as_bytes().to_vec()).unwrap());
/// #     kv.put(id, "x".to_owned().into(), WriteOptions::default()).await.unwrap();
/// # }
/// // `kv` is a node in this process, or a client of one elsewhere.
/// let options = ListOptions { prefix: "b/".into(), limit: 1, ..ListOptions::default() };
/// let mut pages = Pages::new(&kv, bucket, options);
/// let mut keys = Vec::new();
/// while let Some(page) = pages.next().await {
///     let page = page.unwrap();
///     assert!(page.gaps.is_empty(), "keys are missing from this page");
///     keys.extend(page.keys.into_iter().map(|key| key.key));
/// }
/// assert_eq!(keys.len(), 2);
/// # });
/// ```
pub struct Pages<'a> {
    kv: &'a dyn Kv,
    bucket: Bucket,
    options: ListOptions,
    is_done: bool,
}

impl fmt::Debug for Pages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("bucket", &self.bucket).field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Pages<'a> {
    /// The pages from where `options` begins.
    #[must_use]
    pub fn new(kv: &'a dyn Kv, bucket: Bucket, options: ListOptions) -> Self {
        Self { kv, bucket, options, is_done: false }
    }

    /// The next page, which may be empty; none after the last. After an error the same page may be asked for once more.
    pub async fn next(&mut self) -> Option<Result<KeyPage, Error>> {
        if self.is_done {
            return None;
        }
        let page = self.kv.list(self.bucket.clone(), self.options.clone()).await;
        if let Ok(page) = &page {
            self.is_done = page.cursor.is_none();
            self.options.cursor.clone_from(&page.cursor);
        }
        Some(page)
    }

    /// Where the next page begins; none: at the first key, or there is none.
    #[must_use]
    pub fn cursor(&self) -> Option<&ListCursor> {
        self.options.cursor.as_ref()
    }

    /// Asks for at most so many keys on the pages from here on.
    pub fn limit(&mut self, limit: usize) {
        self.options.limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(name: &str) -> Bucket {
        Bucket::new(name).unwrap()
    }

    proptest! {
        #[test]
        fn a_cursor_is_good_for_its_bucket_and_prefix_alone(
            key in prop::collection::vec(any::<u8>(), 1..1024),
            prefix in prop::collection::vec(any::<u8>(), 0..8),
            flipped in any::<prop::sample::Index>(),
        ) {
            let cursor = ListCursor::behind(&bucket("b"), &prefix, &key);
            prop_assert_eq!(cursor.place(&bucket("b"), &prefix).unwrap(), &key[..]);
            prop_assert!(cursor.place(&bucket("c"), &prefix).is_err());
            prop_assert!(cursor.place(&bucket("b"), &[&prefix[..], b"x"].concat()).is_err());
            let mut bytes = URL_SAFE_NO_PAD.decode(&cursor.0).unwrap();
            bytes[flipped.index(key.len() + 9)] ^= 1;
            prop_assert!(ListCursor(URL_SAFE_NO_PAD.encode(bytes)).place(&bucket("b"), &prefix).is_err());
        }

        #[test]
        fn garbage_is_no_cursor(text in "[A-Za-z0-9_=+-]{0,40}") {
            prop_assert!(ListCursor(text).place(&bucket("b"), b"").is_err());
        }
    }

    #[test]
    fn cursors_never_change() {
        assert_eq!(ListCursor::behind(&bucket("b"), b"p", b"p1").0, GOLDEN);
    }
    const GOLDEN: &str = "AZOc72oKDOq5cDE";

    #[test]
    fn limits_and_prefixes_have_bounds() {
        let check = |limit, prefix: usize| {
            ListOptions { limit, prefix: vec![0; prefix].into(), ..ListOptions::default() }.check().is_ok()
        };
        assert!(check(1, 0) && check(10_000, 1024));
        assert!(!check(0, 0) && !check(10_001, 0) && !check(1, 1025));
    }
}
