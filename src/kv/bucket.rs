//! Buckets as an edge sees them: the documents, and what may be asked of a node about them.
//!
//! A bucket's document is one; where its parts live is not: n, regions, mode, role and generation are decided in the
//! chain of layouts (`ring::buckets`), the rest is merged and gossiped ([`BucketValues`]). So a change may be decided in
//! one part and not yet flushed by a quorum in the other; the error then says so, and the same change again completes it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{BLIND_WRITES, BucketValues, Error, ErrorCode, Lifetime, LifetimeError, blind_word};
use crate::causality::BlindWrites;
use crate::env::BoxFuture;
use crate::quorum::{Level, LevelError};
use crate::ring::buckets::Wanted;
use crate::ring::{BucketSettings, Mode, Role};
use crate::types::Bucket;

/// The largest object a bucket may be told to take: with room for siblings that merge, peers carry it in one message.
pub const LARGEST_OBJECT: u64 = 16 << 20;

/// What a write or read of a bucket goes by where it says nothing itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BucketRules {
    /// R.
    pub r: Level,
    /// W.
    pub w: Level,
    /// What becomes of a write without a context.
    pub blind_writes: BlindWrites,
    /// How long a value lives; none for ever.
    pub ttl: Option<Duration>,
    /// Most bytes of a value.
    pub max_value: u64,
    /// Most siblings of an object.
    pub max_siblings: u32,
    /// Most bytes of an object.
    pub max_object: u64,
    /// Whether fallbacks count.
    pub sloppy: bool,
}

impl BucketRules {
    /// These, but for what a bucket says otherwise.
    #[must_use]
    pub fn with(self, own: &BucketValues) -> Self {
        Self {
            r: own.r.unwrap_or(self.r),
            w: own.w.unwrap_or(self.w),
            blind_writes: own.blind_writes.unwrap_or(self.blind_writes),
            ttl: own.ttl.or(self.ttl),
            max_value: own.max_value.unwrap_or(self.max_value),
            max_siblings: own.max_siblings.unwrap_or(self.max_siblings),
            max_object: own.max_object.unwrap_or(self.max_object),
            sloppy: own.sloppy.unwrap_or(self.sloppy),
        }
    }

    /// Whether a bucket whose objects have `replicas` in all may go by these; the text says what would be right.
    fn check(&self, own: &BucketValues, replicas: usize) -> Result<(), String> {
        let whose = |set: bool| if set { "" } else { ", the cluster's default" };
        for (name, level, set) in [("r", self.r, own.r.is_some()), ("w", self.w, own.w.is_some())] {
            if level.number().is_some_and(|count| count > replicas) {
                let whose = whose(set);
                return Err(format!("{name} is 1 to n ({replicas}), or quorum or all, got {level}{whose}"));
            }
        }
        let (value, object) = (self.max_value, self.max_object);
        if !(1..=LARGEST_OBJECT).contains(&value) {
            return Err(format!("max_value is 1 to {LARGEST_OBJECT} bytes, got {value}"));
        }
        if object > LARGEST_OBJECT {
            return Err(format!(
                "max_object is at most {LARGEST_OBJECT} bytes, which is what peers carry, got {object}"
            ));
        }
        if object < value {
            let whose = whose(own.max_object.is_some());
            return Err(format!("max_object is at least max_value ({value} bytes), got {object}{whose}"));
        }
        if self.max_siblings == 0 {
            return Err("max_siblings is at least 1, got 0".into());
        }
        Ok(())
    }
}

/// A bucket, as a node answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BucketView {
    /// Its name.
    pub bucket: String,
    /// Whether somebody configured it; else all of this is the cluster's default.
    pub configured: bool,
    /// Replicas of an object in every region that `regions` does not name.
    pub n: u8,
    /// Replicas by region.
    pub regions: BTreeMap<String, u8>,
    /// `siblings` or `lww`.
    pub mode: String,
    /// `store` or `cache`.
    pub role: String,
    /// R, where a request does not say.
    pub r: String,
    /// W, where a request does not say.
    pub w: String,
    /// `sibling`, `reject` or `overwrite`.
    pub blind_writes: String,
    /// Whether fallbacks count.
    pub sloppy: bool,
    /// How long a value lives, where a request does not say.
    pub ttl: Option<String>,
    /// Most bytes of a value.
    pub max_value: u64,
    /// Most siblings of an object.
    pub max_siblings: u32,
    /// Most bytes of an object.
    pub max_object: u64,
    /// Which of these follow the cluster's defaults, since nobody set them.
    pub defaults: Vec<String>,
    /// How often it was emptied or deleted.
    pub generation: u64,
    /// The layout it was read from.
    pub layout: u64,
    /// Members that do not use that layout alone yet; empty once the change is complete everywhere.
    pub waits_for: Vec<String>,
    /// What a change names in `If-Match`; none where it is not configured.
    pub etag: Option<String>,
}

/// What of a [`BucketView`] is an answer, and no setting.
pub const ANSWERED: [&str; 7] = ["bucket", "configured", "defaults", "generation", "layout", "waits_for", "etag"];

/// All configured buckets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Buckets {
    /// By name.
    pub buckets: Vec<BucketView>,
}

/// What somebody wants of a bucket: all of it. What is left out is as the cluster's default; mode and role stay as they
/// are. What only an answer carries is taken and not looked at, so that an answer can be changed and sent back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BucketWish {
    /// Replicas of an object in every region that `regions` does not name.
    pub n: Option<u32>,
    /// Replicas by region.
    pub regions: BTreeMap<String, u32>,
    /// `siblings` or `lww`.
    pub mode: Option<String>,
    /// `store` or `cache`.
    pub role: Option<String>,
    /// R, where a request does not say: a word or a number.
    pub r: Option<Word>,
    /// W, where a request does not say: a word or a number.
    pub w: Option<Word>,
    /// `sibling`, `reject` or `overwrite`.
    pub blind_writes: Option<String>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
    /// How long a value lives, where a request does not say.
    pub ttl: Option<String>,
    /// Most bytes of a value.
    pub max_value: Option<u64>,
    /// Most siblings of an object.
    pub max_siblings: Option<u32>,
    /// Most bytes of an object.
    pub max_object: Option<u64>,
    bucket: IgnoredAny,
    configured: IgnoredAny,
    defaults: IgnoredAny,
    generation: IgnoredAny,
    layout: IgnoredAny,
    waits_for: IgnoredAny,
    etag: IgnoredAny,
}

/// A level in a document: `"quorum"`, `"2"` or `2`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn bad(detail: impl Into<String>) -> Error {
    Error::refused(ErrorCode::BadParameter, detail)
}

fn not_yet(what: &str) -> Error {
    Error::refused(ErrorCode::NotYet, format!("{what} is part of the interface, but not built yet"))
}

fn one_of<T: Copy>(name: &str, text: &str, words: &[(&str, T)]) -> Result<T, Error> {
    words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        bad(format!("{name} is one of {}, got {text:?}", words.join(", ")))
    })
}

impl BucketWish {
    /// What of it the chain decides; `now` is the bucket as it is, `default` as it would be without a word.
    pub fn wanted(&self, now: &BucketSettings, default: &BucketSettings) -> Result<Wanted, Error> {
        let replicas = |name: &str, n: u32| {
            u8::try_from(n).map_err(|_| bad(format!("{name} is a small number of replicas, got {n}")))
        };
        let modes = [("siblings", Mode::Siblings), ("lww", Mode::Lww)];
        let roles = [("store", Role::Store), ("cache", Role::Cache)];
        let role = self.role.as_deref().map_or(Ok(now.role), |text| one_of("role", text, &roles))?;
        if role == Role::Cache {
            return Err(not_yet("role = cache"));
        }
        let n_in_region = self.regions.iter().map(|(region, n)| Ok((region.clone(), replicas("a region's n", *n)?)));
        Ok(Wanted {
            n: self.n.map_or(Ok(default.n), |n| replicas("n", n))?,
            n_in_region: n_in_region.collect::<Result<_, Error>>()?,
            mode: self.mode.as_deref().map_or(Ok(now.mode), |text| one_of("mode", text, &modes))?,
            role,
        })
    }

    /// What of it is gossiped, for a bucket whose objects have `replicas` in all.
    pub fn values(&self, defaults: &BucketRules, replicas: usize) -> Result<BucketValues, Error> {
        let level = |name: &str, word: &Option<Word>| {
            // Who reads has to be answered by somebody who knows.
            let Some(word) = word else { return Ok(None) };
            match word.to_string().parse() {
                Ok(Level::Any) if name == "r" => Err(bad(format!("r: {}", LevelError::AnyReads))),
                Ok(level) => Ok(Some(level)),
                Err(wrong) => Err(bad(format!("{name}: {}", LevelError::to_string(&wrong)))),
            }
        };
        let blind = self.blind_writes.as_deref().map(|text| one_of("blind_writes", text, &BLIND_WRITES));
        let own = BucketValues {
            r: level("r", &self.r)?,
            w: level("w", &self.w)?,
            blind_writes: blind.transpose()?,
            ttl: match self.ttl.as_deref().map(str::parse).transpose() {
                Ok(life) => life.and_then(|life: Lifetime| life.within(None)),
                Err(wrong) => return Err(bad(format!("ttl: {}", LifetimeError::to_string(&wrong)))),
            },
            max_value: self.max_value,
            max_siblings: self.max_siblings,
            max_object: self.max_object,
            // Off is as good as not said: the cluster has no other default.
            sloppy: self.sloppy.filter(|sloppy| *sloppy),
        };
        defaults.with(&own).check(&own, replicas).map_err(bad)?;
        Ok(own)
    }
}

impl BucketView {
    /// The document of a bucket that is so.
    #[must_use]
    pub fn new(bucket: &Bucket, chained: &BucketSettings, own: &BucketValues, defaults: &BucketRules) -> Self {
        let rules = defaults.with(own);
        let unset = [
            ("r", own.r.is_none()),
            ("w", own.w.is_none()),
            ("blind_writes", own.blind_writes.is_none()),
            ("max_value", own.max_value.is_none()),
            ("max_siblings", own.max_siblings.is_none()),
            ("max_object", own.max_object.is_none()),
        ];
        Self {
            bucket: bucket.as_str().to_owned(),
            configured: chained.is_configured(),
            n: chained.n,
            regions: chained.n_in_region.iter().cloned().collect(),
            mode: chained.mode.word().to_owned(),
            role: chained.role.word().to_owned(),
            r: rules.r.to_string(),
            w: rules.w.to_string(),
            blind_writes: blind_word(rules.blind_writes).to_owned(),
            ttl: rules.ttl.map(|time| Lifetime::For(time).to_string()),
            max_value: rules.max_value,
            max_siblings: rules.max_siblings,
            max_object: rules.max_object,
            sloppy: rules.sloppy,
            defaults: unset.into_iter().filter(|(_, unset)| *unset).map(|(name, _)| name.to_owned()).collect(),
            generation: chained.generation,
            ..Self::default()
        }
    }
}

/// What a change takes for granted of the bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Guard {
    /// It is as this tag says; `*`: it is configured.
    pub matches: Option<String>,
    /// It is not configured.
    pub absent: bool,
}

impl Guard {
    /// Whether a bucket with this tag (none: not configured) is as it was taken for. `replaces`: a change of one that is
    /// configured has to say what it knows of it.
    pub fn check(&self, bucket: &Bucket, etag: Option<&str>, replaces: bool) -> Result<(), Error> {
        let failed = |detail: String| Err(Error::refused(ErrorCode::PreconditionFailed, detail));
        match (etag, &self.matches) {
            (Some(_), _) if self.absent => failed(format!("bucket {bucket} is configured already")),
            (None, Some(_)) => failed(format!("bucket {bucket} is not configured")),
            (Some(etag), Some(known)) if known != "*" && known != etag => failed(format!(
                "bucket {bucket} was changed meanwhile: its ETag is \"{etag}\"; read it again, then change that"
            )),
            (Some(etag), None) if replaces => {
                let detail = format!(
                    "bucket {bucket} is configured: send If-Match with the ETag that you have read (it is \"{etag}\"), so \
                     that nobody's change is lost"
                );
                Err(Error::refused(ErrorCode::PreconditionRequired, detail))
            }
            _ => Ok(()),
        }
    }
}

/// What may be asked of a node about buckets.
pub trait BucketAdmin: Send + Sync {
    /// What a bucket says of requests that say nothing themselves. At once, from snapshots.
    fn bucket_values(&self, bucket: &Bucket) -> BucketValues;
    /// A bucket, configured or not.
    fn bucket(&self, bucket: &Bucket) -> Result<BucketView, Error>;
    /// All that are configured.
    fn buckets(&self) -> Result<Buckets, Error>;
    /// Creates or changes a bucket, and says whether it was created.
    fn set_bucket(
        &self,
        bucket: Bucket,
        wish: BucketWish,
        guard: Guard,
        patience: Duration,
    ) -> BoxFuture<'_, Result<(BucketView, bool), Error>>;
    /// Empties a bucket for good, everywhere.
    fn purge_bucket(&self, bucket: Bucket, patience: Duration) -> BoxFuture<'_, Result<BucketView, Error>>;
    /// Takes a bucket away with all that is in it; what is written to its name later has the cluster's defaults.
    fn delete_bucket(
        &self,
        bucket: Bucket,
        guard: Guard,
        patience: Duration,
    ) -> BoxFuture<'_, Result<BucketView, Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: BucketRules = BucketRules {
        r: Level::Quorum,
        w: Level::Quorum,
        blind_writes: BlindWrites::Sibling,
        ttl: None,
        max_value: 1 << 20,
        max_siblings: 64,
        max_object: 4 << 20,
        sloppy: false,
    };

    fn wish(json: &str) -> Result<BucketWish, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn values(json: &str, n: usize) -> Result<BucketValues, Error> {
        wish(json).unwrap().values(&DEFAULTS, n)
    }

    #[test]
    fn what_is_wrong_says_what_would_be_right() {
        let says = |json: &str, n: usize, why: &str| {
            let error = values(json, n).expect_err(why).to_string();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        };
        says(r#"{"w":4}"#, 3, "w is 1 to n (3), or quorum or all, got 4");
        says(r#"{"r":"qourum"}"#, 3, "r: \"qourum\" is no consistency level");
        says(r#"{"w":"0"}"#, 3, "asks nobody");
        says(r#"{"blind_writes":"maybe"}"#, 3, "blind_writes is one of sibling, reject, overwrite, got \"maybe\"");
        says(r#"{"ttl":"a while"}"#, 3, "ttl: a time to live is 1ms to 3650d");
        says(r#"{"max_value":0}"#, 3, "max_value is 1 to 16777216 bytes, got 0");
        says(
            r#"{"max_value":5000000}"#,
            3,
            "max_object is at least max_value (5000000 bytes), got 4194304, the cluster's",
        );
        says(r#"{"max_object":16777217}"#, 3, "which is what peers carry, got 16777217");
        says(r#"{"max_siblings":0}"#, 3, "max_siblings is at least 1");
        let three = BucketRules { w: Level::Three, ..DEFAULTS };
        let error = wish("{}").unwrap().values(&three, 2).unwrap_err().to_string();
        assert_eq!(error, "w is 1 to n (2), or quorum or all, got three, the cluster's default");
        says(r#"{"r":"any"}"#, 3, "any is a level of writes");
        assert!(wish(r#"{"max_sibling":3}"#).unwrap_err().contains("max_siblings"), "a typo is told what there is");
    }

    #[test]
    fn what_is_left_out_is_the_default_but_mode_and_role_stay() {
        let now = BucketSettings { id: 4, n: 5, mode: Mode::Lww, ..BucketSettings::default() };
        let wanted = wish("{}").unwrap().wanted(&now, &BucketSettings::default()).unwrap();
        assert_eq!((wanted.n, wanted.mode, wanted.role), (3, Mode::Lww, Role::Store));
        let all = wish(r#"{"n":2,"regions":{"eu":1},"mode":"siblings","role":"store"}"#).unwrap();
        let wanted = all.wanted(&now, &BucketSettings::default()).unwrap();
        assert_eq!((wanted.n, wanted.n_in_region, wanted.mode), (2, vec![("eu".into(), 1)], Mode::Siblings));
        let code = |json: &str| wish(json).unwrap().wanted(&now, &now).unwrap_err().code;
        assert_eq!(code(r#"{"role":"cache"}"#), ErrorCode::NotYet);
        assert_eq!(code(r#"{"mode":"cas"}"#), ErrorCode::BadParameter);
        assert_eq!(code(r#"{"n":300}"#), ErrorCode::BadParameter);
        assert_eq!(values("{}", 3).unwrap(), BucketValues::default());
        let own = values(r#"{"r":1,"w":"all","blind_writes":"reject","max_value":10}"#, 3).unwrap();
        assert_eq!((own.r, own.w, own.max_value), (Some(Level::Count(1)), Some(Level::All), Some(10)));
        let sloppy = values(r#"{"w":"any","sloppy":true}"#, 3).unwrap();
        assert_eq!((sloppy.w, sloppy.sloppy, DEFAULTS.with(&sloppy).sloppy), (Some(Level::Any), Some(true), true));
        assert_eq!(values(r#"{"sloppy":false}"#, 3).unwrap(), BucketValues::default(), "off is the default");
    }

    #[test]
    fn an_answer_can_be_sent_back() {
        let bucket = Bucket::new("b").unwrap();
        let chained = BucketSettings { id: 2, n: 2, mode: Mode::Lww, ..BucketSettings::default() };
        let own =
            BucketValues { w: Some(Level::All), max_siblings: Some(9), sloppy: Some(true), ..BucketValues::default() };
        let view = BucketView::new(&bucket, &chained, &own, &DEFAULTS);
        assert_eq!(view.defaults, ["r", "blind_writes", "max_value", "max_object"]);
        let mut json = serde_json::to_value(&view).unwrap();
        let back: BucketWish = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(back.wanted(&chained, &BucketSettings::default()).unwrap().n, 2);
        let members = json.as_object_mut().unwrap();
        ANSWERED.iter().for_each(|name| assert!(members.remove(*name).is_some(), "{name}"));
        view.defaults.iter().for_each(|name| assert!(members.remove(name).is_some(), "{name}"));
        let back: BucketWish = serde_json::from_value(json).unwrap();
        assert_eq!(back.values(&DEFAULTS, 2).unwrap(), own, "without them it says what was set, no more");
    }

    #[test]
    fn who_changes_what_is_there_says_what_it_knows() {
        let b = Bucket::new("b").unwrap();
        let code = |guard: Guard, etag, replaces| guard.check(&b, etag, replaces).map_err(|error| error.code);
        let matches = |tag: &str| Guard { matches: Some(tag.into()), absent: false };
        let absent = Guard { matches: None, absent: true };
        assert_eq!(code(Guard::default(), None, true), Ok(()));
        assert_eq!(code(Guard::default(), Some("x"), true), Err(ErrorCode::PreconditionRequired));
        assert_eq!(code(Guard::default(), Some("x"), false), Ok(()));
        assert_eq!(code(matches("x"), Some("x"), true), Ok(()));
        assert_eq!(code(matches("*"), Some("x"), true), Ok(()));
        assert_eq!(code(matches("y"), Some("x"), false), Err(ErrorCode::PreconditionFailed));
        assert_eq!(code(matches("*"), None, true), Err(ErrorCode::PreconditionFailed));
        assert_eq!(code(absent.clone(), Some("x"), true), Err(ErrorCode::PreconditionFailed));
        assert_eq!(code(absent, None, true), Ok(()));
    }
}
