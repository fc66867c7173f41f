//! A batch as it is spelled over HTTP: the documents of `POST /v1/batch`. The edge reads what the client writes, and the
//! other way round.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Done, Operation};
use crate::kv::wire::{
    EnvelopeSibling, MAX_IDEMPOTENCY_KEY, MAX_META, ProblemDocument, from_base64, parse_etag, to_base64,
};
use crate::kv::{
    ContextToken, Counted, Error, ErrorCode, FloorToken, Lifetime, LifetimeError, Outcome, ReadAnswer, ReadOptions,
    RepairMode, SiblingView, Value, Word, WriteAnswer, WriteOptions, date,
};
use crate::quorum::{Explain, Level, LevelError};
use crate::types::{Bucket, Key, ObjectId};

/// What an operation in a document may say. What it means is what the parameter or header of that name means for one
/// request; `op` is `get`, `put` or `delete`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is what its name says: see the reference of HTTP")]
pub struct OperationDocument {
    pub op: String,
    pub bucket: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_b64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_b64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<FloorToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub w: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairMode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<bool>,
    #[serde(default, rename = "return", skip_serializing_if = "Option::is_none")]
    pub return_: Option<String>,
}

/// Every member that an [`OperationDocument`] may have.
pub const MEMBERS: [&str; 20] = [
    "op",
    "bucket",
    "key",
    "key_b64",
    "value",
    "value_b64",
    "content_type",
    "meta",
    "context",
    "floor",
    "idempotency_key",
    "consistency",
    "r",
    "w",
    "ttl",
    "durable",
    "sloppy",
    "repair",
    "hedge",
    "return",
];

/// The document that a batch is sent as.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchDocument {
    /// The operations.
    pub ops: Vec<OperationDocument>,
}

/// What operations ask for that do not say it: their request does, or their bucket.
#[derive(Clone, PartialEq, Debug)]
pub struct Unsaid {
    /// R.
    pub r: Level,
    /// W.
    pub w: Level,
    /// Whether fallbacks count, where nobody says so.
    pub sloppy: bool,
    /// What the request says of that.
    pub said_sloppy: Option<bool>,
    /// How many have to have flushed a write.
    pub durable: u32,
    /// How long to try, from the batch's beginning on.
    pub timeout: Duration,
    /// Whether to explain.
    pub explain: bool,
}

fn bad(detail: impl Into<String>) -> Error {
    Error::refused(ErrorCode::BadParameter, detail)
}

/// The Idempotency-Key of the operation at `at` (from 0) in a batch with this one: so a batch that is sent again is each
/// of its writes again. `batch/AT/` and the BLAKE3 hash of the batch's key in hexadecimal.
#[must_use]
pub fn key_of(batch: &[u8], at: usize) -> Bytes {
    format!("batch/{at}/{}", blake3::hash(batch).to_hex()).into()
}

impl OperationDocument {
    /// The object that it names.
    pub fn id(&self) -> Result<ObjectId, Error> {
        let bucket = Bucket::new(&self.bucket).map_err(|invalid| bad(invalid.to_string()))?;
        let key = match (&self.key, &self.key_b64) {
            (Some(_), Some(_)) => return Err(bad("the key is named twice: by key and by key_b64")),
            (None, None) => return Err(bad("no key: key, or key_b64 where it is not UTF-8")),
            (Some(text), None) => Bytes::from(text.clone()),
            (None, Some(text)) => from_base64(text).ok_or_else(|| bad("key_b64 is not base64url without padding"))?,
        };
        Ok(ObjectId::new(bucket, Key::new(key).map_err(|invalid| bad(invalid.to_string()))?))
    }

    /// What it asks for.
    pub fn operation(self, unsaid: &Unsaid) -> Result<Operation, Error> {
        let id = self.id()?;
        match self.op.as_str() {
            "get" => Ok(Operation::Get(id, self.read_options(unsaid)?)),
            "put" => {
                let options = self.write_options(unsaid)?;
                Ok(Operation::Put(id, self.value()?, options))
            }
            "delete" => {
                self.without("a delete", &["value", "value_b64", "content_type", "meta", "ttl"])?;
                Ok(Operation::Delete(id, self.write_options(unsaid)?))
            }
            other => Err(bad(format!("op is get, put or delete, got {other:?}"))),
        }
    }

    /// Refuses members that mean nothing for this operation: a typo may not weaken it.
    fn without(&self, what: &str, names: &[&str]) -> Result<(), Error> {
        let said = |name: &&&str| match **name {
            "value" => self.value.is_some(),
            "value_b64" => self.value_b64.is_some(),
            "content_type" => self.content_type.is_some(),
            "meta" => !self.meta.is_empty(),
            "context" => self.context.is_some(),
            "idempotency_key" => self.idempotency_key.is_some(),
            "ttl" => self.ttl.is_some(),
            "durable" => self.durable.is_some(),
            "return" => self.return_.is_some(),
            "r" => self.r.is_some(),
            "w" => self.w.is_some(),
            "repair" => self.repair.is_some(),
            "hedge" => self.hedge.is_some(),
            _ => false,
        };
        match names.iter().find(said) {
            None => Ok(()),
            Some(name) => Err(bad(format!("{name} means nothing for {what}"))),
        }
    }

    fn level(&self, own: Option<&Word>, unsaid: Level) -> Result<Level, Error> {
        let Some(word) = own.or(self.consistency.as_ref()) else { return Ok(unsaid) };
        word.to_string().parse().map_err(|wrong: LevelError| bad(wrong.to_string()))
    }

    fn read_options(&self, unsaid: &Unsaid) -> Result<ReadOptions, Error> {
        const OF_WRITES: [&str; 9] =
            ["value", "value_b64", "content_type", "meta", "context", "ttl", "durable", "return", "w"];
        self.without("a get", &OF_WRITES)?;
        self.without("a get", &["idempotency_key"])?;
        let r = self.level(self.r.as_ref(), unsaid.r)?;
        if r == Level::Any {
            return Err(bad(LevelError::AnyReads.to_string()));
        }
        Ok(ReadOptions {
            r,
            timeout: unsaid.timeout,
            repair: self.repair,
            hedge: self.hedge.unwrap_or(true),
            explain: unsaid.explain,
            sloppy: self.sloppy.or(unsaid.said_sloppy).unwrap_or(unsaid.sloppy),
            floor: self.floor.clone(),
        })
    }

    fn write_options(&self, unsaid: &Unsaid) -> Result<WriteOptions, Error> {
        self.without("a write", &["r", "repair", "hedge"])?;
        let w = self.level(self.w.as_ref(), unsaid.w)?;
        let said = self.sloppy.or(unsaid.said_sloppy);
        if (w, said) == (Level::Any, Some(false)) {
            return Err(bad("the level any counts hints, which sloppy=off does not: one is near"));
        }
        let ttl = self.ttl.as_deref().map(str::parse).transpose();
        let key = self.idempotency_key.clone().map(Bytes::from);
        if key.as_ref().is_some_and(|key| !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())) {
            return Err(bad(format!("an idempotency_key has 1 to {MAX_IDEMPOTENCY_KEY} bytes")));
        }
        Ok(WriteOptions {
            w,
            durable: self.durable.unwrap_or(unsaid.durable),
            timeout: unsaid.timeout,
            context: self.context.clone(),
            idempotency_key: key,
            ttl: ttl.map_err(|wrong: LifetimeError| bad(format!("ttl: {wrong}")))?.unwrap_or_default(),
            return_body: match self.return_.as_deref() {
                None => false,
                Some("body") => true,
                Some(other) => return Err(bad(format!("return is body, got {other:?}"))),
            },
            explain: unsaid.explain,
            sloppy: said.unwrap_or(unsaid.sloppy),
            floor: self.floor.clone(),
        })
    }

    fn value(self) -> Result<Value, Error> {
        let bytes = match (self.value, self.value_b64) {
            (Some(_), Some(_)) => return Err(bad("the value is given twice: by value and by value_b64")),
            (None, None) => return Err(bad("no value: value, or value_b64 where it is not UTF-8")),
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => {
                from_base64(&text).ok_or_else(|| bad("value_b64 is not base64url without padding"))?
            }
        };
        let size: usize = self.meta.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_META {
            return Err(bad(format!("meta has at most {MAX_META} bytes in all, got {size}")));
        }
        Ok(Value { bytes, content_type: self.content_type, meta: self.meta })
    }

    /// How an operation is spelled. Everything is said: nothing hangs on what the bucket says. Times and explanations are
    /// the request's.
    pub fn of(operation: Operation) -> Result<Self, Error> {
        let (op, id, value) = match &operation {
            Operation::Get(id, _) => ("get", id, None),
            Operation::Put(id, value, _) => ("put", id, Some(value)),
            Operation::Delete(id, _) => ("delete", id, None),
        };
        let mut document = Self {
            op: op.to_owned(),
            bucket: id.bucket.to_string(),
            key_b64: Some(to_base64(id.key.as_bytes())),
            value_b64: value.map(|value| to_base64(&value.bytes)),
            content_type: value.and_then(|value| value.content_type.clone()),
            meta: value.map(|value| value.meta.clone()).unwrap_or_default(),
            ..Self::default()
        };
        match operation {
            Operation::Get(_, options) => {
                document.r = Some(Word::Text(options.r.to_string()));
                document.repair = options.repair;
                document.hedge = (!options.hedge).then_some(false);
                document.sloppy = Some(options.sloppy);
                document.floor = options.floor;
            }
            Operation::Put(_, _, options) | Operation::Delete(_, options) => {
                let key = options.idempotency_key.map(|key| String::from_utf8(key.into()));
                document.idempotency_key =
                    key.transpose().map_err(|_| bad("an Idempotency-Key in a batch over HTTP is UTF-8"))?;
                document.w = Some(Word::Text(options.w.to_string()));
                document.durable = (options.durable > 0).then_some(options.durable);
                document.sloppy = (options.sloppy || options.w != Level::Any).then_some(options.sloppy);
                document.ttl = (options.ttl != Lifetime::Unsaid).then(|| options.ttl.to_string());
                document.return_ = options.return_body.then(|| "body".to_owned());
                document.context = options.context;
                document.floor = options.floor;
            }
        }
        Ok(document)
    }
}

/// What became of one operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ResultDocument {
    /// The status that the operation would have had as a request of its own.
    pub status: u16,
    /// Whether it was done.
    pub outcome: Outcome,
    /// As the header of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextToken>,
    /// As the header of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<FloorToken>,
    /// The object's tag, without quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The value that was read, in base64url; where there are several it is in `siblings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_b64: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Its metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// When it expires (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// All siblings: of a read that found several, of a write with `return`, and of every read where the envelope's media
    /// type is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub siblings: Option<Vec<EnvelopeSibling>>,
    /// How many siblings a write left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sibling_count: Option<u32>,
    /// How the quorum was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Counted>,
    /// The write had been done before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// How the answer came about, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
    /// What was wrong: the document that the operation as a request of its own would have been answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ProblemDocument>,
}

/// What a batch is answered with: one result for each operation, in their order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The results.
    pub results: Vec<ResultDocument>,
}

impl ResultDocument {
    /// What is told of a failure.
    #[must_use]
    pub fn of_problem(error: ProblemDocument) -> Self {
        Self { status: error.status, outcome: error.outcome, error: Some(error), ..Self::nothing() }
    }

    fn nothing() -> Self {
        Self {
            status: 200,
            outcome: Outcome::Applied,
            context: None,
            floor: None,
            etag: None,
            value_b64: None,
            content_type: None,
            meta: BTreeMap::new(),
            expires_at: None,
            siblings: None,
            sibling_count: None,
            replicas: None,
            replayed: false,
            explain: None,
            error: None,
        }
    }

    /// What is told of a read that has an answer: all of its siblings.
    #[must_use]
    pub fn of_read(answer: ReadAnswer) -> Self {
        Self {
            context: Some(answer.context),
            floor: Some(answer.floor),
            etag: answer.etag.map(|etag| etag.to_string()),
            siblings: Some(answer.siblings.iter().map(EnvelopeSibling::from).collect()),
            replicas: Some(answer.counted),
            explain: answer.explain,
            ..Self::nothing()
        }
    }

    /// What is told of a write that is done.
    #[must_use]
    pub fn of_write(answer: WriteAnswer) -> Self {
        Self {
            status: if answer.siblings.is_some() { 200 } else { 204 },
            context: answer.context,
            floor: Some(answer.floor),
            etag: Some(answer.etag.to_string()),
            siblings: answer.siblings.map(|siblings| siblings.iter().map(EnvelopeSibling::from).collect()),
            sibling_count: Some(answer.sibling_count),
            expires_at: answer.expires_at.map(date::rfc3339),
            replicas: Some(answer.counted),
            replayed: answer.replayed,
            explain: answer.explain,
            ..Self::nothing()
        }
    }

    /// What became of an operation, as a client hears it; `read`: it was one.
    #[must_use]
    pub fn done(self, read: bool) -> Done {
        match (self.error, read) {
            (Some(problem), true) => Done::Read(Err(problem.error())),
            (Some(problem), false) => Done::Wrote(Err(problem.error())),
            (None, true) => Done::Read(Self { error: None, ..self }.read().ok_or_else(|| nonsense(Outcome::Unknown))),
            // It is done: that its answer makes no sense does not undo it.
            (None, false) => {
                Done::Wrote(Self { error: None, ..self }.wrote().ok_or_else(|| nonsense(Outcome::Applied)))
            }
        }
    }

    fn views(siblings: Vec<EnvelopeSibling>) -> Option<Vec<SiblingView>> {
        siblings.into_iter().map(EnvelopeSibling::view).collect()
    }

    fn read(self) -> Option<ReadAnswer> {
        let etag = match &self.etag {
            Some(text) => Some(parse_etag(text)?),
            None => None,
        };
        Some(ReadAnswer {
            siblings: Self::views(self.siblings?)?,
            context: self.context?,
            floor: self.floor?,
            etag,
            counted: self.replicas?,
            explain: self.explain,
        })
    }

    fn wrote(self) -> Option<WriteAnswer> {
        let siblings = match self.siblings {
            Some(siblings) => Some(Self::views(siblings)?),
            None => None,
        };
        Some(WriteAnswer {
            context: self.context,
            floor: self.floor?,
            etag: parse_etag(&self.etag?)?,
            sibling_count: self.sibling_count?,
            siblings,
            expires_at: self.expires_at.as_deref().and_then(date::parse_rfc3339),
            replayed: self.replayed,
            counted: self.replicas?,
            explain: self.explain,
        })
    }
}

fn nonsense(outcome: Outcome) -> Error {
    Error::new(ErrorCode::Internal, outcome, "the result of an operation in a batch makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsaid() -> Unsaid {
        Unsaid {
            r: Level::Quorum,
            w: Level::Quorum,
            sloppy: false,
            said_sloppy: None,
            durable: 0,
            timeout: Duration::from_secs(1),
            explain: false,
        }
    }

    fn read(json: &str) -> Result<Operation, String> {
        let document: OperationDocument = serde_json::from_str(json).map_err(|wrong| wrong.to_string())?;
        document.operation(&unsaid()).map_err(|wrong| wrong.detail)
    }

    fn id() -> ObjectId {
        ObjectId::new(Bucket::new("b").unwrap(), Key::new(vec![0xff, b'/']).unwrap())
    }

    #[test]
    fn operations_read_as_they_were_written() {
        let (floor, context) = (Some(FloorToken("f".into())), Some(ContextToken("c".into())));
        let write = WriteOptions {
            w: Level::All,
            durable: 2,
            context,
            idempotency_key: Some("once".into()),
            ttl: Lifetime::For(Duration::from_secs(60)),
            return_body: true,
            sloppy: true,
            floor: floor.clone(),
            ..WriteOptions::default()
        };
        let value = Value {
            bytes: Bytes::from_static(&[0, 159]),
            content_type: Some("text/x".into()),
            meta: [("colour".to_owned(), "blue".to_owned())].into(),
        };
        let get = ReadOptions {
            r: Level::Count(3),
            repair: Some(RepairMode::Off),
            hedge: false,
            sloppy: true,
            floor,
            ..ReadOptions::default()
        };
        let any = WriteOptions { w: Level::Any, ..WriteOptions::default() };
        for operation in [
            Operation::Get(id(), get),
            Operation::Get(id(), ReadOptions::default()),
            Operation::Put(id(), value, write.clone()),
            Operation::Put(id(), Value::default(), any),
            Operation::Delete(id(), WriteOptions { ttl: Lifetime::Unsaid, ..write }),
        ] {
            let json = serde_json::to_value(OperationDocument::of(operation.clone()).unwrap()).unwrap();
            for name in json.as_object().unwrap().keys() {
                assert!(MEMBERS.contains(&name.as_str()), "{name}");
            }
            let document: OperationDocument = serde_json::from_value(json).unwrap();
            assert_eq!(document.operation(&unsaid()), Ok(operation));
        }
    }

    #[test]
    fn every_member_there_is_can_be_said() {
        let all: BTreeMap<&str, &str> = MEMBERS.into_iter().map(|name| (name, "")).collect();
        let wrong = serde_json::from_value::<OperationDocument>(serde_json::to_value(all).unwrap()).unwrap_err();
        assert!(!wrong.to_string().contains("unknown field"), "{wrong}");
        let unknown = read(r#"{"op":"get","bucket":"b","key":"k","ww":1}"#).unwrap_err();
        assert!(unknown.contains("unknown field"), "{unknown}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, says) in [
            (r#"{"op":"get","bucket":"b","key":"k","w":2}"#, "w means nothing for a get"),
            (r#"{"op":"get","bucket":"b","key":"k","consistency":"any"}"#, "level of writes"),
            (r#"{"op":"get","bucket":"b","key":"k","r":"most"}"#, "most"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","r":2}"#, "r means nothing for a write"),
            (r#"{"op":"put","bucket":"b","key":"k"}"#, "no value"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","value_b64":"dg"}"#, "twice"),
            (r#"{"op":"put","bucket":"b","key":"k","value_b64":"d+"}"#, "value_b64"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","ttl":"soon"}"#, "ttl"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","w":"any","sloppy":false}"#, "any"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","return":"all"}"#, "return is body"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","idempotency_key":""}"#, "1 to 255"),
            (r#"{"op":"delete","bucket":"b","key":"k","value":"v"}"#, "value means nothing for a delete"),
            (r#"{"op":"delete","bucket":"b"}"#, "no key"),
            (r#"{"op":"delete","bucket":"b","key":"k","key_b64":"aw"}"#, "twice"),
            (r#"{"op":"delete","bucket":"b","key_b64":"a+"}"#, "key_b64"),
            (r#"{"op":"delete","bucket":"b","key":""}"#, "key"),
            (r#"{"op":"delete","bucket":"b b","key":"k"}"#, "bucket"),
            (r#"{"op":"patch","bucket":"b","key":"k"}"#, "op is get, put or delete"),
        ] {
            let wrong = read(json).unwrap_err();
            assert!(wrong.contains(says), "{json}: {wrong}");
        }
    }

    #[test]
    fn keys_of_operations_differ_and_are_the_same_again() {
        assert_eq!(key_of(b"k", 1), key_of(b"k", 1));
        assert!(key_of(b"k", 1) != key_of(b"k", 11) && key_of(b"k", 1) != key_of(b"j", 1));
        assert!(key_of(&[0xff; 255], 99).len() <= MAX_IDEMPOTENCY_KEY);
    }
}
