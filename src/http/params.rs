//! Query parameters and request headers -> options. Parsed by hand: an unknown parameter is refused, so that a typo in
//! `w` cannot weaken a write, and so is one that means nothing for the verb.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::RequestLimits;
use super::problem::Problem;
use super::uri::percent_decode;
use crate::causality::MAX_CONTEXT_LEN;
use crate::kv::batch::wire::Unsaid;
use crate::kv::{
    ContextToken, Error, ErrorCode, FloorToken, LIST_MOST, LifetimeError, ListCursor, ListOptions, ReadOptions,
    RepairMode, Value, WriteOptions, wire,
};
use crate::quorum::{Level, LevelError};
use crate::types::nearest;

/// Most bytes in a media type.
const MAX_CONTENT_TYPE: usize = 255;

/// The longest timeout a request may ask for.
const MAX_TIMEOUT: Duration = RequestLimits::MAX_TIMEOUT;

/// What a parameter is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    Both,
    /// For lists of keys alone.
    List,
}

/// Every parameter there is.
const KNOWN: [(&str, Use); 18] = [
    ("consistency", Use::Both),
    ("cursor", Use::List),
    ("durable", Use::Write),
    ("explain", Use::Both),
    ("hedge", Use::Read),
    ("key_b64", Use::Both),
    ("limit", Use::List),
    ("prefix", Use::List),
    ("prefix_b64", Use::List),
    ("r", Use::Read),
    ("repair", Use::Read),
    ("resolve", Use::Read),
    ("return", Use::Write),
    ("sloppy", Use::Both),
    ("timeout", Use::Both),
    ("ttl", Use::Write),
    ("values", Use::List),
    ("w", Use::Write),
];

/// The parameters of one request, decoded.
pub(super) struct Query<'a>(Vec<(&'static str, Use, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Takes a raw query apart.
    pub(super) fn parse(raw: Option<&'a str>) -> Result<Self, Problem> {
        let mut found: Vec<(&'static str, Use, Cow<'a, str>)> = Vec::with_capacity(usize::from(raw.is_some()));
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
            let known = KNOWN.iter().find(|(known, _)| *known == name);
            let Some((name, used)) = known else {
                return Err(unknown(name));
            };
            if found.iter().any(|(earlier, ..)| earlier == name) {
                return Err(Problem::bad_parameter(format!("the parameter {name} is given twice")));
            }
            // A prefix may be any bytes.
            let value = if *name == "prefix" { Cow::Borrowed(raw_value) } else { decode(name, raw_value)? };
            found.push((*name, *used, value));
        }
        Ok(Self(found))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, ..)| *known == name).map(|(.., value)| &**value)
    }

    /// Refuses parameters that mean nothing here.
    pub(super) fn only(&self, used: Use) -> Result<(), Problem> {
        match self.0.iter().find(|(_, theirs, _)| *theirs != Use::Both && *theirs != used) {
            None => Ok(()),
            Some((name, Use::List, _)) => {
                Err(Problem::bad_parameter(format!("the parameter {name} is for lists of keys")))
            }
            Some((name, Use::Read, _)) => Err(Problem::bad_parameter(format!("the parameter {name} is for reads"))),
            Some((name, ..)) => Err(Problem::bad_parameter(format!("the parameter {name} is for writes"))),
        }
    }

    /// Refuses every parameter but `key_b64`.
    pub(super) fn only_key(&self) -> Result<(), Problem> {
        match self.0.iter().find(|(name, ..)| *name != "key_b64") {
            None => Ok(()),
            Some((name, ..)) => Err(Problem::bad_parameter(format!("the parameter {name} means nothing here"))),
        }
    }

    /// How long to try, and nothing else.
    pub(super) fn only_timeout(&self, unsaid: Duration) -> Result<Duration, Problem> {
        match self.0.iter().find(|(name, ..)| *name != "timeout") {
            None => self.timeout(unsaid),
            Some((name, ..)) => Err(Problem::bad_parameter(format!("the parameter {name} means nothing here"))),
        }
    }

    /// One of the words a parameter may be.
    fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(Problem::bad_parameter(format!("{name} is one of {}, got {value:?}", words.join(", "))))
            }
        }
    }

    fn level(&self, own: &str, unsaid: Level) -> Result<Level, Problem> {
        let mut level = unsaid;
        for name in ["consistency", own] {
            let Some(text) = self.get(name) else {
                continue;
            };
            level = text.parse().map_err(|wrong: LevelError| Problem::bad_parameter(format!("{name}: {wrong}")))?;
        }
        if (level, own) == (Level::Any, "r") {
            return Err(Problem::bad_parameter(LevelError::AnyReads.to_string()));
        }
        Ok(level)
    }

    fn duration(&self, name: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s').unwrap_or_default(), 1_000),
        };
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        let ms = number.parse::<u64>().ok().filter(|ms| plain && *ms > 0).and_then(|ms| ms.checked_mul(unit));
        match ms {
            Some(ms) => Ok(Some(Duration::from_millis(ms))),
            None => Err(Problem::bad_parameter(format!("{name} is a time such as 250ms or 2s, got {text:?}"))),
        }
    }

    fn timeout(&self, unsaid: Duration) -> Result<Duration, Problem> {
        match self.duration("timeout")? {
            None => Ok(unsaid),
            Some(time) if time <= MAX_TIMEOUT => Ok(time),
            Some(_) => Err(Problem::bad_parameter(format!("timeout is at most {}s", MAX_TIMEOUT.as_secs()))),
        }
    }

    fn sloppy(&self) -> Result<Option<bool>, Problem> {
        self.word("sloppy", &[("on", true), ("off", false)])
    }

    fn explain(&self) -> Result<bool, Problem> {
        Ok(self.word("explain", &[("1", true), ("0", false)])?.unwrap_or(false))
    }

    /// How to read.
    pub(super) fn read_options(&self, headers: &HeaderMap, unsaid: &RequestLimits) -> Result<ReadOptions, Problem> {
        self.only(Use::Read)?;
        let modes = [("sync", RepairMode::Sync), ("async", RepairMode::Async), ("off", RepairMode::Off)];
        Ok(ReadOptions {
            r: self.level("r", unsaid.r)?,
            timeout: self.timeout(unsaid.timeout)?,
            repair: self.word("repair", &modes)?,
            hedge: self.word("hedge", &[("on", true), ("off", false)])?.unwrap_or(true),
            explain: self.explain()?,
            sloppy: self.sloppy()?.unwrap_or(unsaid.sloppy),
            floor: floor(headers)?,
        })
    }

    /// What the operations of a batch ask for that do not say it. Only what means the same for all of them is taken here.
    pub(super) fn batch_options(&self, unsaid: &RequestLimits) -> Result<Unsaid, Problem> {
        const TAKEN: [&str; 7] = ["consistency", "durable", "explain", "r", "sloppy", "timeout", "w"];
        if let Some((name, ..)) = self.0.iter().find(|(name, ..)| !TAKEN.contains(name)) {
            return Err(Problem::bad_parameter(format!(
                "the parameter {name} means nothing for a whole batch: an operation may say it"
            )));
        }
        // Whether `any` is wrong depends on what an operation does: that is for it to say.
        let r = match (self.get("r"), self.get("consistency")) {
            (None, Some("any")) => Level::Any,
            _ => self.level("r", unsaid.r)?,
        };
        Ok(Unsaid {
            r,
            w: self.level("w", unsaid.w)?,
            sloppy: unsaid.sloppy,
            said_sloppy: self.sloppy()?,
            durable: self.durable()?.into(),
            timeout: self.timeout(unsaid.timeout)?,
            explain: self.explain()?,
        })
    }

    fn durable(&self) -> Result<u8, Problem> {
        let Some(text) = self.get("durable") else { return Ok(0) };
        let number = text.parse::<u8>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        number.ok_or_else(|| Problem::bad_parameter(format!("durable is a number of replicas, got {text:?}")))
    }

    /// How to list keys; `lines`: line by line, as many as the limit says, however many pages that takes. Gives the limit
    /// that was said.
    pub(super) fn list_options(&self, lines: bool) -> Result<(ListOptions, Option<u64>), Problem> {
        const MEANT: [&str; 8] = ["consistency", "cursor", "limit", "prefix", "prefix_b64", "r", "timeout", "values"];
        if let Some((name, ..)) = self.0.iter().find(|(name, ..)| !MEANT.contains(name)) {
            return Err(Problem::bad_parameter(format!("the parameter {name} means nothing for a list of keys")));
        }
        let unsaid = ListOptions::default();
        let prefix = match (self.get("prefix"), self.get("prefix_b64")) {
            (None, None) => Bytes::new(),
            (Some(_), Some(_)) => {
                return Err(Problem::bad_parameter("the prefix is given twice: as prefix and as prefix_b64"));
            }
            (Some(raw), None) => percent_decode(raw)
                .ok_or_else(|| Problem::bad_parameter("a % in prefix is not followed by two hexadecimal digits"))?,
            (None, Some(text)) => wire::from_base64(text)
                .ok_or_else(|| Problem::bad_parameter("prefix_b64 is not base64url without padding"))?,
        };
        let most = if lines { u64::MAX } else { LIST_MOST as u64 };
        let limit = match self.get("limit") {
            None => None,
            Some(text) => {
                let plain = text.bytes().all(|byte| byte.is_ascii_digit());
                let limit = text.parse::<u64>().ok().filter(|limit| plain && (1..=most).contains(limit));
                let wrong = || Problem::bad_parameter(format!("limit is a number from 1 to {most}, got {text:?}"));
                Some(limit.ok_or_else(wrong)?)
            }
        };
        let options = ListOptions {
            prefix,
            limit: limit.map_or(unsaid.limit, |limit| usize::try_from(limit).unwrap_or(LIST_MOST).min(LIST_MOST)),
            cursor: self.get("cursor").map(|text| ListCursor(text.to_owned())),
            values: self.word("values", &[("1", true), ("0", false)])?.unwrap_or(false),
            r: self.level("r", unsaid.r)?,
            timeout: self.timeout(unsaid.timeout)?,
        };
        options.check()?;
        Ok((options, limit))
    }

    /// Whether the greatest stamp settles siblings.
    pub(super) fn resolve_latest(&self) -> Result<bool, Problem> {
        Ok(self.word("resolve", &[("latest", true)])?.unwrap_or(false))
    }

    /// How to write.
    pub(super) fn write_options(&self, headers: &HeaderMap, unsaid: &RequestLimits) -> Result<WriteOptions, Problem> {
        self.only(Use::Write)?;
        let w = self.level("w", unsaid.w)?;
        let sloppy = match self.sloppy()? {
            Some(false) if w == Level::Any => {
                return Err(Problem::bad_parameter(
                    "the level any counts hints, which sloppy=off does not: one is near",
                ));
            }
            said => said.unwrap_or(unsaid.sloppy),
        };
        let ttl = self.get("ttl").map(str::parse).transpose();
        let ttl = ttl.map_err(|wrong: LifetimeError| Problem::bad_parameter(format!("ttl: {wrong}")))?;
        Ok(WriteOptions {
            w,
            sloppy,
            durable: self.durable()?.into(),
            timeout: self.timeout(unsaid.timeout)?,
            context: context(headers)?,
            idempotency_key: idempotency_key(headers)?,
            ttl: ttl.unwrap_or_default(),
            return_body: self.word("return", &[("body", true)])?.unwrap_or(false),
            explain: self.explain()?,
            floor: floor(headers)?,
        })
    }
}

fn decode<'a>(name: &str, raw: &'a str) -> Result<Cow<'a, str>, Problem> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    percent_decode(raw)
        .and_then(|bytes| String::from_utf8(bytes.into()).ok())
        .map(Cow::Owned)
        .ok_or_else(|| Problem::bad_parameter(format!("the value of {name} is badly encoded")))
}

fn unknown(name: &str) -> Problem {
    let nearest = nearest(name, KNOWN.iter().map(|(known, _)| *known));
    let shown: String = name.chars().take(64).collect();
    Problem::bad_parameter(format!("unknown parameter {shown:?}: did you mean {}?", nearest.unwrap_or_default()))
}

/// The one value of a header, as text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::bad_parameter(format!("the header {name} is given twice"))),
        (Some(value), None) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Problem::bad_parameter(format!("the header {name} is not UTF-8"))),
        },
    }
}

fn context(headers: &HeaderMap) -> Result<Option<ContextToken>, Problem> {
    match text(headers, wire::CONTEXT)? {
        Some(token) if token.len() > MAX_CONTEXT_LEN => {
            let detail = format!(
                "the context has {} bytes, a header takes {MAX_CONTEXT_LEN}: a batch takes longer ones",
                token.len()
            );
            Err(Error::refused(ErrorCode::ContextTooLarge, detail).into())
        }
        token => Ok(token.map(|token| ContextToken(token.to_owned()))),
    }
}

fn floor(headers: &HeaderMap) -> Result<Option<FloorToken>, Problem> {
    Ok(text(headers, wire::FLOOR)?.map(|token| FloorToken(token.to_owned())))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Bytes>, Problem> {
    let mut values = headers.get_all(wire::IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(key), None) if (1..=wire::MAX_IDEMPOTENCY_KEY).contains(&key.len()) => {
            Ok(Some(Bytes::copy_from_slice(key.as_bytes())))
        }
        _ => Err(Problem::bad_parameter(format!("one Idempotency-Key of 1 to {} bytes", wire::MAX_IDEMPOTENCY_KEY))),
    }
}

/// Refuses what a GET could not say in its headers: of a value that comes in a document.
pub(super) fn check_described(value: &Value) -> Result<(), Problem> {
    let is_header = |text: &str| HeaderValue::from_str(text).is_ok();
    if value.content_type.as_ref().is_some_and(|kind| kind.len() > MAX_CONTENT_TYPE || !is_header(kind)) {
        let detail = format!("a content_type has at most {MAX_CONTENT_TYPE} bytes, none of them a control character");
        return Err(Problem::bad_parameter(detail));
    }
    // As the name of a header arrives: in lower case.
    let is_name = |name: &str| HeaderName::from_bytes(name.as_bytes()).is_ok_and(|header| header.as_str() == name);
    match value.meta.iter().find(|(name, text)| !is_name(name) || !is_header(text)) {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(64).collect();
            Err(Problem::bad_parameter(format!(
                "meta {name:?}: names are lower case, as of headers, and values have no control characters"
            )))
        }
    }
}

/// The value with what describes it. The limit on metadata is the one of the interface, not of this edge.
pub(super) fn value(headers: &HeaderMap, bytes: Bytes) -> Result<Value, Problem> {
    let mut value = Value::from(bytes);
    if let Some(media_type) = text(headers, header::CONTENT_TYPE.as_str())? {
        if media_type.len() > MAX_CONTENT_TYPE {
            return Err(Problem::headers_too_large(format!("a Content-Type has at most {MAX_CONTENT_TYPE} bytes")));
        }
        value.content_type = Some(media_type.to_owned());
    }
    let mut size = 0;
    for name in headers.keys().map(HeaderName::as_str) {
        let Some(short) = name.strip_prefix(wire::META_PREFIX) else {
            continue;
        };
        if short.is_empty() {
            return Err(Problem::bad_parameter("a Quorate-Meta- header has a name after the dash"));
        }
        let Some(content) = text(headers, name)? else {
            continue;
        };
        size += short.len() + content.len();
        value.meta.insert(short.to_owned(), content.to_owned());
    }
    if size > wire::MAX_META {
        let detail = format!("Quorate-Meta-* headers have at most {} bytes in all, got {size}", wire::MAX_META);
        return Err(Problem::headers_too_large(detail));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_header_of_a_get_is_refused() {
        let described = |kind: &str, meta: [(&str, &str); 1]| Value {
            content_type: Some(kind.to_owned()),
            meta: meta.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
            ..Value::default()
        };
        assert!(check_described(&described("text/plain", [("colour", "light blue")])).is_ok());
        for wrong in [("Colour", "x"), ("", "x"), ("a b", "x"), ("a", "x\ny")] {
            let refused = check_described(&described("text/plain", [wrong])).unwrap_err();
            assert!(refused.detail().contains("lower case"), "{wrong:?}");
        }
        for wrong in ["a\nb", &"x".repeat(256)] {
            let refused = check_described(&described(wrong, [("a", "b")])).unwrap_err();
            assert!(refused.detail().contains("at most 255 bytes"));
        }
    }
    use crate::kv::Lifetime;

    fn read(query: &str) -> Result<ReadOptions, String> {
        Query::parse(Some(query))
            .and_then(|query| query.read_options(&HeaderMap::new(), &RequestLimits::default()))
            .map_err(|problem| problem.detail().to_owned())
    }

    fn write(query: &str) -> Result<WriteOptions, String> {
        let parsed = Query::parse(Some(query))
            .and_then(|query| query.write_options(&HeaderMap::new(), &RequestLimits::default()));
        parsed.map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn own_levels_override_the_common_one() {
        assert_eq!(read("consistency=all&r=1").unwrap().r, Level::Count(1));
        assert_eq!(write("w=two&consistency=all").unwrap().w, Level::Two);
        assert_eq!(read("").unwrap(), ReadOptions::default());
        assert_eq!(write("").unwrap(), WriteOptions::default());
    }

    #[test]
    fn times_have_a_unit_and_a_bound() {
        assert_eq!(read("timeout=250ms").unwrap().timeout, Duration::from_millis(250));
        assert_eq!(read("timeout=30s").unwrap().timeout, MAX_TIMEOUT);
        for bad in ["", "1", "0s", "-1s", "+1s", "31s", "30001ms", "1.5s", "1m", "99999999999999999999s", "ms"] {
            assert!(read(&format!("timeout={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_typo_names_the_nearest_known_parameter() {
        assert!(write("ww=3").unwrap_err().contains("did you mean w?"));
        assert!(write("consistancy=all").unwrap_err().contains("did you mean consistency?"));
        assert!(read("W=1").is_err() && read("n=1").is_err() && read("r=1&r=2").is_err());
    }

    #[test]
    fn parameters_of_the_other_verb_are_refused() {
        assert!(read("w=1").unwrap_err().contains("for writes"));
        assert!(write("r=1").unwrap_err().contains("for reads"));
    }

    #[test]
    fn lists_have_parameters_of_their_own() {
        let list = |query: &str, lines: bool| {
            let parsed = Query::parse(Some(query)).and_then(|query| query.list_options(lines));
            parsed.map_err(|problem| problem.detail().to_owned())
        };
        assert_eq!(list("", false).unwrap(), (ListOptions::default(), None));
        assert_eq!(list("prefix=a%2Fb%FF&limit=7", false).unwrap().0.prefix, Bytes::from_static(b"a/b\xff"));
        assert_eq!(list("prefix_b64=YQ&r=quorum&values=1", false).unwrap().0.prefix, Bytes::from_static(b"a"));
        for bad in
            ["limit=0", "limit=10001", "limit=+1", "limit=", "prefix=%f", "prefix_b64=*", "prefix=a&prefix_b64=YQ"]
        {
            assert!(list(bad, false).is_err(), "{bad}");
        }
        assert_eq!(list("limit=10001", true).unwrap().1, Some(10_001), "lines go on from page to page");
        assert!(list("r=any", false).is_err() && list("w=1", false).is_err() && list("sloppy=on", false).is_err());
        assert!(list("perfix=a", false).unwrap_err().contains("did you mean prefix?"));
        assert!(read("prefix=a").unwrap_err().contains("for lists") && write("limit=1").is_err());
    }

    #[test]
    fn words_are_checked() {
        for bad in ["repair=maybe", "hedge=1", "explain=yes", "r=0", "r=256", "r=most"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for bad in ["return=all", "durable=-1", "durable=x", "ttl=soon"] {
            assert!(write(bad).is_err(), "{bad}");
        }
        assert!(read("r=any").unwrap_err().contains("level of writes"));
        assert!(read("consistency=any").is_err() && write("sloppy=off&consistency=any").is_err());
        assert!(write("sloppy=maybe").is_err());
        let asked = |query: &str| write(query).map(|options| (options.w, options.sloppy));
        assert_eq!(asked("w=any"), Ok((Level::Any, false)));
        assert_eq!(asked("sloppy=on"), Ok((Level::Quorum, true)));
        assert_eq!(asked("sloppy=off&durable=2"), Ok((Level::Quorum, false)));
        assert!(read("sloppy=on").unwrap().sloppy && !read("").unwrap().sloppy);
        assert_eq!(write("ttl=10m").unwrap().ttl, Lifetime::For(Duration::from_secs(600)));
        assert_eq!(write("ttl=never").unwrap().ttl, Lifetime::Forever);
        assert!(read("ttl=60s").is_err());
    }
}
