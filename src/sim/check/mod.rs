//! The judges: small, linear in the length of a history, shared by simulated and real clusters.
//!
//! [`lost`]: nothing acknowledged is missing at the end, nothing is there that nobody wrote, nothing deleted came back
//! (I-ACK, I-DELETE). [`overlap`]: every single read shows what it has to (I-OVERLAP), and what it does not show was
//! superseded by somebody who may (I-CONCUR); clients were given contexts of what they were shown only. [`mono`]:
//! quorum reads never go back (I-MONO). [`session`]: what one client sees only grows (I-SESSION). [`converge`]: all
//! replicas hold the same bytes (I-CONVERGE).
//!
//! [`excuse`] takes away what a directory that went back unnoticed explains: the one thing a run may suffer that the
//! promises about reads do not survive.
//!
//! [`collected`] gives the contexts of reads back what was collected, and sees that nothing deleted returns.
//!
//! A judge that never condemned is worth nothing: each rule has hand-made bad histories beside the good ones.

use std::collections::BTreeMap;
use std::fmt;

use super::history::{Answered, Event, Invoke, Line, Shown, Verb};
use crate::causality::{Dot, VersionVector};
use crate::types::Stamp;

pub mod collected;
pub mod excuse;
pub mod lost;
pub mod mono;
pub mod overlap;
pub mod session;

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Violation {
    /// Which rule: a short fixed name.
    pub rule: &'static str,
    /// `bucket/key`, or what else it is about.
    pub about: String,
    /// The operation at which it was seen, where there is one.
    pub op: Option<u64>,
    /// What was seen, for people.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.about)?;
        if let Some(op) = self.op {
            write!(f, ", operation {op}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    Ok(Answered),
    Failed,
    /// Unknown: info, or no end at all.
    Open,
}

/// One operation, its two ends joined.
struct Op<'a> {
    id: u64,
    invoke: &'a Invoke,
    end: End,
    /// Its dot: told by its answer, or learned because somebody was shown its value.
    dot: Option<Dot>,
}

impl Op<'_> {
    fn is_write(&self) -> bool {
        self.invoke.verb != Verb::Get
    }

    /// May have been applied.
    fn attempted(&self) -> bool {
        self.end != End::Failed
    }

    fn answered(&self) -> Option<&Answered> {
        if let End::Ok(answered) = &self.end { Some(answered) } else { None }
    }

    /// Supersedes what its coordinator sees, whatever its client knew.
    fn supersedes_seen(&self) -> bool {
        self.invoke.context.is_none() && (self.invoke.verb == Verb::Delete || self.invoke.overwrite)
    }

    /// What it is known to have superseded: its context, or what its coordinator saw; none where that is unknown.
    fn superseded(&self) -> Option<VersionVector> {
        if let Some(context) = &self.invoke.context {
            return Some(context.clone());
        }
        if !self.supersedes_seen() {
            return Some(VersionVector::new());
        }
        let (dot, seen) = (self.dot?, self.answered()?.seen.as_ref()?);
        Some(without(seen, dot))
    }
}

/// All that `vector` covers but `dot` itself: vectors are closed downwards, so the stamp before it takes its place.
fn without(vector: &VersionVector, dot: Dot) -> VersionVector {
    let step_back = |entry: Dot| if entry == dot { Dot::new(dot.actor, Stamp(dot.stamp.0 - 1)) } else { entry };
    vector.iter().filter(|entry| *entry != dot || dot.stamp.0 > 0).map(step_back).collect()
}

/// The name of an object in a history.
type Name<'a> = (&'a str, &'a str);

fn name(invoke: &Invoke) -> Name<'_> {
    (&invoke.bucket, &invoke.key)
}

fn about(invoke: &Invoke) -> String {
    format!("{}/{}", invoke.bucket, invoke.key)
}

/// A history made ready for judging: operations by number, dots attributed.
struct Digested<'a> {
    ops: BTreeMap<u64, Op<'a>>,
    /// Who minted what.
    dots: BTreeMap<Name<'a>, BTreeMap<Dot, u64>>,
    /// Deletes whose dot no answer told, by object.
    open_deletes: BTreeMap<Name<'a>, Vec<u64>>,
    violations: Vec<Violation>,
}

impl<'a> Digested<'a> {
    /// Joins the ends of every operation and attributes every dot; what cannot be is a violation already:
    /// `dot-reused` (dots are unique per bucket and key), `from-nowhere` (a value nobody wrote, or whose write provably
    /// failed), `value-reused` (the history itself is no good).
    fn new(lines: &'a [Line]) -> Self {
        let mut this =
            Self { ops: BTreeMap::new(), dots: BTreeMap::new(), open_deletes: BTreeMap::new(), violations: Vec::new() };
        let mut values: BTreeMap<(Name<'a>, &'a str), u64> = BTreeMap::new();
        for line in lines {
            match &line.event {
                Event::Invoke(invoke) => {
                    this.ops.insert(line.op, Op { id: line.op, invoke, end: End::Open, dot: None });
                    if let Some(value) = &invoke.value
                        && let Some(other) = values.insert((name(invoke), value), line.op)
                    {
                        let detail =
                            format!("{value:?} was written by operation {other}, too: the check needs unique values");
                        this.violation("value-reused", invoke, line.op, detail);
                    }
                }
                Event::Ok(answered) => this.end(line.op, End::Ok(answered.clone())),
                Event::Fail { .. } => this.end(line.op, End::Failed),
                Event::Info { .. } => this.end(line.op, End::Open),
            }
        }
        this.attribute(&values);
        this
    }

    fn end(&mut self, op: u64, end: End) {
        if let Some(op) = self.ops.get_mut(&op) {
            op.end = end;
        }
    }

    fn violation(&mut self, rule: &'static str, invoke: &Invoke, op: u64, detail: String) {
        self.violations.push(Violation { rule, about: about(invoke), op: Some(op), detail });
    }

    fn attribute(&mut self, values: &BTreeMap<(Name<'a>, &'a str), u64>) {
        let told: Vec<(u64, Dot)> = self
            .ops
            .values()
            .filter_map(|op| op.is_write().then(|| op.answered()?.dot.map(|dot| (op.id, dot)))?)
            .collect();
        told.into_iter().for_each(|(op, dot)| self.claim(op, dot, op));
        for op in self.ops.values() {
            if op.invoke.verb == Verb::Delete && op.attempted() && op.dot.is_none() {
                self.open_deletes.entry(name(op.invoke)).or_default().push(op.id);
            }
        }
        let shown: Vec<(u64, Shown)> = self
            .ops
            .values()
            .flat_map(|op| op.answered().into_iter().flat_map(|a| a.shown.iter().map(|shown| (op.id, shown.clone()))))
            .collect();
        for (by, Shown { dot, value }) in shown {
            let invoke = self.ops[&by].invoke;
            match value {
                Some(value) => match values.get(&(name(invoke), value.as_str())).copied() {
                    Some(writer) if self.ops[&writer].attempted() => self.claim(writer, dot, by),
                    Some(writer) => {
                        let detail = format!("{value:?} at {dot} was shown, but operation {writer} provably failed");
                        self.violation("from-nowhere", invoke, by, detail);
                    }
                    None => self.violation("from-nowhere", invoke, by, format!("{value:?} at {dot}: nobody wrote it")),
                },
                None => self.tombstone(dot, by),
            }
        }
    }

    /// `writer` minted `dot`, as operation `by` says.
    fn claim(&mut self, writer: u64, dot: Dot, by: u64) {
        let invoke = self.ops[&writer].invoke;
        let owner = *self.dots.entry(name(invoke)).or_default().entry(dot).or_insert(writer);
        let known = self.ops.get_mut(&writer).map(|op| *op.dot.get_or_insert(dot));
        if owner != writer {
            let detail = format!("{dot} stands for operation {owner} and for operation {writer}");
            self.violation("dot-reused", invoke, by, detail);
        } else if known != Some(dot) {
            self.violation("dot-reused", invoke, by, format!("operation {writer} has {known:?} and {dot}"));
        }
    }

    /// A tombstone was shown: of a known delete, or of one whose end is unknown.
    fn tombstone(&mut self, dot: Dot, by: u64) {
        let invoke = self.ops[&by].invoke;
        let known = self.dots.get(&name(invoke)).and_then(|dots| dots.get(&dot)).copied();
        match known.map(|op| self.ops[&op].invoke.verb) {
            Some(Verb::Delete) => {}
            Some(_) => self.violation("dot-reused", invoke, by, format!("{dot} is a value and a tombstone")),
            None => {
                let open = self.open_deletes.get(&name(invoke)).into_iter().flatten().copied();
                let mut open = open.filter(|op| self.ops[op].dot.is_none());
                match (open.next(), open.next()) {
                    (None, _) => self.violation("from-nowhere", invoke, by, format!("{dot}: nobody deleted that")),
                    (Some(only), None) => self.claim(only, dot, by),
                    // Which of them it is cannot be told; none of them is assumed.
                    (Some(_), Some(_)) => {}
                }
            }
        }
    }
}

/// I-CONVERGE: `dumps` holds what each replica stores, by key; whatever a key's owners hold must be equal bytes.
/// `owners` says how many replicas have to hold a key.
#[must_use]
pub fn converge(
    dumps: &BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    owners: impl Fn(&[u8]) -> usize,
) -> Vec<Violation> {
    let mut copies: BTreeMap<&[u8], Vec<(&str, &[u8])>> = BTreeMap::new();
    for (node, dump) in dumps {
        for (key, record) in dump {
            copies.entry(key).or_default().push((node, record));
        }
    }
    let mut violations = Vec::new();
    for (key, copies) in copies {
        let violation = |rule, detail| Violation { rule, about: key.escape_ascii().to_string(), op: None, detail };
        let (first, record) = copies[0];
        if let Some((other, _)) = copies.iter().find(|(_, bytes)| *bytes != record) {
            violations.push(violation("diverged", format!("{first} and {other} hold different objects")));
        }
        let owners = owners(key);
        if copies.len() != owners {
            violations.push(violation("copies", format!("{} replicas hold it, not {owners}", copies.len())));
        }
    }
    violations
}

/// Histories by hand: `a1` is the dot of actor 0xa at stamp 1, `"a1 b2"` a vector, `"a1=x b2=-"` shown siblings.
#[cfg(test)]
pub(super) mod hand {
    use super::super::history::{Answered, Event, Invoke, Line, Recorder, Shown, Verb, parse_dot};
    use crate::causality::{Dot, VersionVector};

    pub(crate) fn dot(text: &str) -> Dot {
        let (actor, stamp) = text.split_at(1);
        parse_dot(&format!("{actor}@{stamp}")).unwrap()
    }

    pub(crate) fn vector(text: &str) -> VersionVector {
        text.split_whitespace().map(dot).collect()
    }

    #[derive(Default)]
    pub(crate) struct Hand(Recorder, std::cell::Cell<u64>);

    impl Hand {
        /// What follows happens at this time.
        pub(crate) fn at(&self, time: u64) {
            self.1.set(time);
        }

        fn invoke(&self, client: u32, verb: Verb, level: u8, context: Option<&str>) -> Invoke {
            let (bucket, key) = ("b".to_owned(), "k".to_owned());
            let context = context.map(vector);
            Invoke {
                client,
                node: 0,
                bucket,
                key,
                verb,
                level,
                value: None,
                context,
                overwrite: false,
                expires: false,
                last: false,
            }
        }

        /// A PUT begins; W = 2.
        pub(crate) fn put(&self, client: u32, value: &str, context: Option<&str>) -> u64 {
            self.put_at(client, value, context, 2)
        }

        pub(crate) fn put_at(&self, client: u32, value: &str, context: Option<&str>, w: u8) -> u64 {
            let invoke = self.invoke(client, Verb::Put, w, context);
            self.0.invoke(self.1.get(), Invoke { value: Some(value.to_owned()), ..invoke })
        }

        pub(crate) fn overwrite(&self, client: u32, value: &str) -> u64 {
            let invoke = self.invoke(client, Verb::Put, 2, None);
            self.0.invoke(self.1.get(), Invoke { value: Some(value.to_owned()), overwrite: true, ..invoke })
        }

        pub(crate) fn expiring(&self, client: u32, value: &str, context: Option<&str>) -> u64 {
            let invoke = self.invoke(client, Verb::Put, 2, context);
            self.0.invoke(self.1.get(), Invoke { value: Some(value.to_owned()), expires: true, ..invoke })
        }

        pub(crate) fn delete(&self, client: u32, context: Option<&str>) -> u64 {
            self.0.invoke(self.1.get(), self.invoke(client, Verb::Delete, 2, context))
        }

        /// A write is answered: its dot, the context given, all that the object has seen.
        pub(crate) fn wrote(&self, op: u64, its: &str, context: Option<&str>, seen: &str) {
            let (context, seen) = (context.map(vector), Some(vector(seen)));
            self.0.end(self.1.get(), op, Event::Ok(Answered { dot: Some(dot(its)), context, seen, shown: Vec::new() }));
        }

        pub(crate) fn fail(&self, op: u64) {
            self.0.end(self.1.get(), op, Event::Fail { error: "refused".to_owned() });
        }

        pub(crate) fn info(&self, op: u64) {
            self.0.end(self.1.get(), op, Event::Info { error: "no answer in time".to_owned() });
        }

        pub(crate) fn get_at(&self, client: u32, r: u8) -> u64 {
            self.0.invoke(self.1.get(), self.invoke(client, Verb::Get, r, None))
        }

        /// A whole GET at R = 2.
        pub(crate) fn get(&self, client: u32, context: &str, shown: &str) {
            self.read(self.get_at(client, 2), context, shown);
        }

        /// A whole last GET.
        pub(crate) fn last(&self, context: &str, shown: &str) {
            let op = self.0.invoke(self.1.get(), Invoke { last: true, ..self.invoke(99, Verb::Get, 3, None) });
            self.read(op, context, shown);
        }

        /// A last GET that begins.
        pub(crate) fn last_begins(&self) -> u64 {
            self.0.invoke(self.1.get(), Invoke { last: true, ..self.invoke(99, Verb::Get, 3, None) })
        }

        pub(crate) fn read(&self, op: u64, context: &str, shown: &str) {
            let shown = shown.split_whitespace().map(|pair| pair.split_once('=').unwrap());
            let value = |value: &str| (value != "-").then(|| value.to_owned());
            let shown = shown.map(|(its, v)| Shown { dot: dot(its), value: value(v) }).collect();
            let (context, seen) = (Some(vector(context)), Some(vector(context)));
            self.0.end(self.1.get(), op, Event::Ok(Answered { dot: None, context, seen, shown }));
        }

        pub(crate) fn lines(&self) -> Vec<Line> {
            self.0.lines()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_converge_when_all_hold_the_same_bytes() {
        let dump = |value: &str| BTreeMap::from([(b"k".to_vec(), value.as_bytes().to_vec())]);
        let mut dumps = BTreeMap::from([("a".to_owned(), dump("v")), ("b".to_owned(), dump("v"))]);
        assert_eq!(converge(&dumps, |_| 2), []);
        dumps.insert("b".to_owned(), dump("w"));
        assert_eq!(converge(&dumps, |_| 2)[0].rule, "diverged");
        dumps.insert("b".to_owned(), BTreeMap::new());
        assert_eq!(converge(&dumps, |_| 2)[0].rule, "copies");
    }
}
