//! What of a bucket is gossiped: levels, limits, `blind_writes`. Nothing of it touches safety, so it is merged and not
//! decided: of two settings of one bucket the greater wins, everywhere, in whatever order they are heard.
//!
//! *Greater* is the later bucket of a name first (its id in the chain), then the stamp, then who said so, then the bytes:
//! a total order, so that merging is a join. The values stay the bytes that their author encoded: what a newer node says
//! and this one does not understand is passed on untouched, and counts in the hash.
//!
//! Bounds: as many entries as the chain knows names, [`VALUES_MAX`] bytes each; more is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::causality::BlindWrites;
use crate::quorum::Level;
use crate::ring::Layout;
use crate::ring::buckets::BUCKETS_MAX;
use crate::types::{Bucket, NodeId, Stamp};

/// Most bytes of one bucket's encoded values.
pub const VALUES_MAX: usize = 1024;

/// What requests of a bucket use where they say nothing; none: the cluster's default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BucketValues {
    /// R.
    pub r: Option<Level>,
    /// W.
    pub w: Option<Level>,
    /// What becomes of a write without a context.
    pub blind_writes: Option<BlindWrites>,
    /// How long a value lives.
    pub ttl: Option<Duration>,
    /// Most bytes of a value.
    pub max_value: Option<u64>,
    /// Most siblings of an object, as far as client writes go.
    pub max_siblings: Option<u32>,
    /// Most bytes of an object, as far as client writes go.
    pub max_object: Option<u64>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
}

/// The stored form. A number is never given a second meaning.
#[derive(Clone, PartialEq, Eq, Message)]
struct Encoded {
    #[prost(string, optional, tag = "1")]
    r: Option<String>,
    #[prost(string, optional, tag = "2")]
    w: Option<String>,
    #[prost(string, optional, tag = "3")]
    blind_writes: Option<String>,
    #[prost(uint64, optional, tag = "4")]
    max_value: Option<u64>,
    #[prost(uint32, optional, tag = "5")]
    max_siblings: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    max_object: Option<u64>,
    /// In milliseconds.
    #[prost(uint64, optional, tag = "7")]
    ttl: Option<u64>,
    #[prost(bool, optional, tag = "8")]
    sloppy: Option<bool>,
}

/// The words for what becomes of a write without a context.
pub const BLIND_WRITES: [(&str, BlindWrites); 3] =
    [("sibling", BlindWrites::Sibling), ("reject", BlindWrites::Reject), ("overwrite", BlindWrites::Overwrite)];

/// The word for it.
#[must_use]
pub fn blind_word(blind: BlindWrites) -> &'static str {
    BLIND_WRITES.into_iter().find(|(_, known)| *known == blind).map_or("sibling", |(word, _)| word)
}

/// Reads [`blind_word`].
#[must_use]
pub fn read_blind(text: &str) -> Option<BlindWrites> {
    BLIND_WRITES.into_iter().find(|(word, _)| *word == text).map(|(_, blind)| blind)
}

impl BucketValues {
    fn encode(&self) -> Bytes {
        let encoded = Encoded {
            r: self.r.map(|level| level.to_string()),
            w: self.w.map(|level| level.to_string()),
            blind_writes: self.blind_writes.map(|blind| blind_word(blind).to_owned()),
            max_value: self.max_value,
            max_siblings: self.max_siblings,
            max_object: self.max_object,
            ttl: self.ttl.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            sloppy: self.sloppy,
        };
        encoded.encode_to_vec().into()
    }

    /// What is understood of an encoding; what is not is as good as not said.
    fn read(bytes: &Bytes) -> Self {
        let Ok(encoded) = Encoded::decode(bytes.clone()) else { return Self::default() };
        let level = |text: Option<String>| text?.parse().ok();
        Self {
            r: level(encoded.r).filter(|level| *level != Level::Any),
            w: level(encoded.w),
            blind_writes: encoded.blind_writes.as_deref().and_then(read_blind),
            max_value: encoded.max_value,
            max_siblings: encoded.max_siblings,
            max_object: encoded.max_object,
            ttl: encoded.ttl.map(Duration::from_millis),
            sloppy: encoded.sloppy,
        }
    }
}

/// One bucket's settings, and whose word they are. Ordered by who wins.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Settings {
    /// The bucket's id in the chain: those of an earlier bucket of the name never pass for this one's.
    id: u64,
    stamp: Stamp,
    author: NodeId,
    encoded: Bytes,
}

impl Settings {
    /// Settings that `author` makes now.
    #[must_use]
    pub fn new(id: u64, stamp: Stamp, author: NodeId, values: &BucketValues) -> Self {
        Self { id, stamp, author, encoded: values.encode() }
    }

    /// The bucket's id in the chain.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// When they were made.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// What they say.
    #[must_use]
    pub fn values(&self) -> BucketValues {
        BucketValues::read(&self.encoded)
    }

    /// The one encoding, for the disk and for the wire: id (u64) | stamp (u64) | author (16) | values.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.encoded.len());
        out.put_u64(self.id);
        out.put_u64(self.stamp.0);
        out.put_slice(self.author.as_bytes());
        out.put_slice(&self.encoded);
        out.freeze()
    }

    /// Reads [`Settings::encode`]; none where it is not that, or longer than may be.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let author = NodeId::from_slice(bytes.get(16..32)?)?;
        let encoded = bytes.slice(32..);
        let whole = Self { id: number(0)?, stamp: Stamp(number(8)?), author, encoded };
        (whole.encoded.len() <= VALUES_MAX).then_some(whole)
    }
}

/// The settings of all buckets, as far as they are known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SettingsTable(BTreeMap<Bucket, (Settings, BucketValues)>);

impl SettingsTable {
    /// What is known of a name, whichever bucket of that name it is about.
    #[must_use]
    pub fn get(&self, bucket: &Bucket) -> Option<&Settings> {
        self.0.get(bucket).map(|(settings, _)| settings)
    }

    /// What requests of the bucket with this id use where they say nothing.
    #[must_use]
    pub fn values(&self, bucket: &Bucket, id: u64) -> BucketValues {
        let known = self.0.get(bucket).filter(|(settings, _)| settings.id == id);
        known.map_or_else(BucketValues::default, |(_, values)| *values)
    }

    /// Whether nothing is known: then nothing has to be looked up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Bucket, &Settings)> {
        self.0.iter().map(|(bucket, (settings, _))| (bucket, settings))
    }

    /// Takes settings where they are greater than what is known; tells whether they were. Where there is no room for
    /// another name they are left out.
    pub fn merge(&mut self, bucket: &Bucket, settings: &Settings) -> bool {
        let room = self.0.len() < BUCKETS_MAX || self.0.contains_key(bucket);
        let news = room && self.get(bucket).is_none_or(|known| known < settings);
        if news {
            self.0.insert(bucket.clone(), (settings.clone(), settings.values()));
        }
        news
    }

    /// Forgets the settings of buckets that are gone as `layout` knows them; those of a bucket that a later layout made
    /// stay. Gives the names.
    pub fn prune(&mut self, layout: &Layout) -> Vec<Bucket> {
        let past = |bucket: &Bucket, settings: &Settings| {
            settings.id <= layout.version() && layout.settings(bucket).id != settings.id
        };
        let gone: Vec<Bucket> = self.iter().filter(|(bucket, s)| past(bucket, s)).map(|(b, _)| b.clone()).collect();
        gone.iter().for_each(|bucket| drop(self.0.remove(bucket)));
        gone
    }

    /// Equal where all is equal.
    #[must_use]
    pub fn hash(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        for (bucket, settings) in self.iter() {
            let encoded = settings.encode();
            for part in [bucket.as_str().as_bytes(), &encoded] {
                hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
            }
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        half
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ring::buckets::{Wanted, delete, set};
    use crate::ring::{BucketSettings, Grid, Member, Mode, Role, planner};
    use crate::types::StoreId;

    fn bucket(name: &str) -> Bucket {
        Bucket::new(name).unwrap()
    }

    fn settings() -> impl Strategy<Value = Settings> {
        let values = (proptest::option::of(1u8..5), proptest::option::of(0usize..3), proptest::option::of(1u64..9));
        (0u64..3, 0u64..4, 0u128..3, values).prop_map(|(id, stamp, author, (w, blind, max_value))| {
            let values = BucketValues {
                w: w.map(Level::Count),
                blind_writes: blind.map(|at| BLIND_WRITES[at].1),
                max_value,
                ..BucketValues::default()
            };
            Settings::new(id, Stamp(stamp), NodeId::from_bits(author), &values)
        })
    }

    fn table_of(all: &[(&str, Settings)]) -> SettingsTable {
        let mut table = SettingsTable::default();
        for (name, settings) in all {
            table.merge(&bucket(name), settings);
        }
        table
    }

    proptest! {
        #[test]
        fn the_greatest_wins_in_any_order_and_however_often_it_is_heard(
            heard in proptest::collection::vec(("[ab]", settings()), 0..8),
            order in any::<prop::sample::Index>(),
        ) {
            let all: Vec<(&str, Settings)> = heard.iter().map(|(name, s)| (name.as_str(), s.clone())).collect();
            let forth = table_of(&all);
            let mut other = all.clone();
            if !other.is_empty() {
                let by = order.index(other.len());
                other.rotate_left(by);
                other.extend(all.iter().take(by).cloned());
            }
            other.reverse();
            let back = table_of(&other);
            prop_assert_eq!(&forth, &back);
            prop_assert_eq!(forth.hash(), back.hash());
            for (name, settings) in &all {
                prop_assert!(forth.get(&bucket(name)).unwrap() >= settings);
                prop_assert!(!forth.clone().merge(&bucket(name), settings), "nothing is news twice");
            }
            let both: Vec<_> = forth.iter().map(|(b, s)| (b.as_str(), s.clone())).collect();
            prop_assert_eq!(table_of(&both), forth, "what it holds makes it anew");
        }

        #[test]
        fn settings_survive_their_encoding_and_garbage_is_none_or_survives(
            settings in settings(),
            garbage in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let decoded = Settings::decode(&settings.encode()).unwrap();
            prop_assert_eq!(decoded.values(), settings.values());
            prop_assert_eq!(decoded, settings);
            let garbage = Bytes::from(garbage);
            if let Some(read) = Settings::decode(&garbage) {
                prop_assert_eq!(read.encode(), garbage);
                prop_assert_eq!(read.values(), BucketValues::read(&read.encoded));
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_passed_on_and_as_good_as_not_said() {
        let newer = Encoded {
            r: Some("most".into()),
            w: Some("every".into()),
            blind_writes: Some("queue".into()),
            max_siblings: Some(3),
            ..Encoded::default()
        };
        let mut bytes = newer.encode_to_vec();
        bytes.extend([0x52, 0x01, 0x07]); // a field of tag 10, which nobody has yet
        let newer = Settings { id: 1, stamp: Stamp(1), author: NodeId::from_bits(1), encoded: bytes.into() };
        let read = Settings::decode(&newer.encode()).unwrap();
        assert_eq!(read, newer);
        assert_eq!(read.values(), BucketValues { max_siblings: Some(3), ..BucketValues::default() });
        let long = Settings { encoded: vec![0; VALUES_MAX + 1].into(), ..newer };
        assert_eq!(Settings::decode(&long.encode()), None);
    }

    #[test]
    fn every_value_survives() {
        let all = BucketValues {
            r: Some(Level::One),
            w: Some(Level::Count(2)),
            blind_writes: Some(BlindWrites::Reject),
            ttl: Some(Duration::from_secs(60)),
            max_value: Some(1),
            max_siblings: Some(2),
            max_object: Some(3),
            sloppy: Some(true),
        };
        assert_eq!(Settings::new(1, Stamp(1), NodeId::from_bits(1), &all).values(), all);
    }

    #[test]
    fn settings_are_of_one_bucket_and_leave_with_it() {
        let member = Member {
            node: NodeId::from_bits(1),
            store: StoreId::from_bits(1),
            name: "n1".into(),
            region: "home".into(),
            zone: String::new(),
            weight: 1,
            peer_address: "n1:1".into(),
            client_address: "n1:2".into(),
        };
        let b = bucket("b");
        let first = planner::found("test", Grid::new(1).unwrap(), 5, BucketSettings::default(), vec![member]).unwrap();
        let wanted = Wanted { n: 3, n_in_region: Vec::new(), mode: Mode::Siblings, role: Role::Store };
        let made = set(&first, &b, &wanted).unwrap().unwrap();
        let id = made.settings(&b).id;
        let values = BucketValues { max_siblings: Some(3), ..BucketValues::default() };
        let mut table = SettingsTable::default();
        let author = NodeId::from_bits(1);
        assert!(table.merge(&b, &Settings::new(id, Stamp(9), author, &values)));
        assert_eq!(table.values(&b, id), values);
        assert_eq!(table.values(&b, 0), BucketValues::default(), "the cluster's defaults have none of it");
        assert_eq!(table.prune(&first), [], "a later layout made it");
        assert_eq!(table.prune(&made), []);
        let gone = delete(&made, &b).unwrap();
        let anew = set(&gone, &b, &wanted).unwrap().unwrap();
        assert_eq!(table.values(&b, anew.settings(&b).id), BucketValues::default());
        let earlier = table.get(&b).unwrap().clone();
        assert!(table.merge(&b, &Settings::new(anew.settings(&b).id, Stamp(1), author, &values)));
        assert!(!table.merge(&b, &earlier), "an earlier bucket's never come back, whatever their stamp");
        table = table_of(&[("b", earlier)]);
        assert_eq!(table.prune(&gone), [b]);
        assert!(table.is_empty());
    }
}
