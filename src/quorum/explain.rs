//! How an answer came about, for those who asked: what `explain=1` shows.
//!
//! The state machines keep a [`Recorder`] where one was handed in, else nothing. It knows replicas by store id; names,
//! zones and roles are put in once, at the end, by whoever knows them.

use serde::{Deserialize, Serialize};

use super::NoVote;
use crate::causality::Object;
use crate::types::{Mono, StoreId};

/// How an answer came about.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Explain {
    /// Every replica that counts or was asked, in the order in which they would be asked.
    pub replicas: Vec<ExplainedReplica>,
    /// When it was decided, in microseconds since the coordinator began; none if it is not.
    pub decided_us: Option<u64>,
    /// The nodes that were sent the merged object, because theirs was stale.
    pub repaired: Vec<String>,
    /// The nodes for which a hint was stored.
    pub hinted: Vec<String>,
    /// The nodes that were asked, but had not answered when it was decided.
    pub late: Vec<String>,
    /// Every owner was asked, since those that answered first had not seen what the request's floor names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub widened: bool,
}

/// One replica's part in an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedReplica {
    /// The node's name.
    pub node: String,
    /// Its zone.
    pub zone: String,
    /// What it is to the object.
    pub role: Role,
    /// When it was asked, in microseconds since the coordinator began; none if it was not.
    pub sent_us: Option<u64>,
    /// When it answered, or was given up.
    pub answered_us: Option<u64>,
    /// What it answered.
    pub result: Option<ReplicaResult>,
    /// The dots of the siblings it held, where it said so.
    pub dots: Vec<String>,
    /// Asked because another one was slow.
    pub hedged: bool,
    /// Its answer was among those by which it was decided.
    pub counted: bool,
}

/// What a replica is to an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It owns a copy.
    Owner,
    /// It will, once it is synced.
    Joining,
    /// It holds a hint for an owner.
    Fallback,
}

/// What a replica answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaResult {
    /// Its object.
    Value,
    /// It holds what the coordinator holds.
    Same,
    /// It holds nothing.
    NotFound,
    /// No answer in time.
    Timeout,
    /// It cannot read or write.
    Error,
    /// It does not do this.
    Refused,
    /// It is not completely synced.
    Syncing,
    /// It could not be reached.
    Down,
    /// It has the write.
    Acked,
    /// It has the write, flushed to its disk.
    Flushed,
}

impl From<NoVote> for ReplicaResult {
    fn from(why: NoVote) -> Self {
        match why {
            NoVote::Failed => Self::Error,
            NoVote::Refused => Self::Refused,
            NoVote::Syncing => Self::Syncing,
            NoVote::Unreachable => Self::Down,
            NoVote::TimedOut => Self::Timeout,
        }
    }
}

/// A replica as people know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The node's name.
    pub node: String,
    /// Its zone.
    pub zone: String,
    /// What it is to the object.
    pub role: Role,
}

/// What one replica did so far.
#[derive(Clone, Debug)]
struct Row {
    id: StoreId,
    sent: Option<Mono>,
    answered: Option<Mono>,
    result: Option<ReplicaResult>,
    dots: Vec<String>,
    hedged: bool,
    counted: bool,
    repaired: bool,
    hinted: bool,
    late: bool,
}

/// Takes down what happens, with times.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Mono,
    decided: Option<Mono>,
    widened: bool,
    rows: Vec<Row>,
}

impl Recorder {
    /// The request was taken up at `began`.
    #[must_use]
    pub const fn new(began: Mono) -> Self {
        Self { began, decided: None, widened: false, rows: Vec::new() }
    }

    /// These replicas will be mentioned, in this order, whatever happens.
    pub fn expect(&mut self, ids: impl IntoIterator<Item = StoreId>) {
        for id in ids {
            self.row(id);
        }
    }

    /// A replica was asked.
    pub fn sent(&mut self, now: Mono, id: StoreId, hedged: bool) {
        let row = self.row(id);
        row.sent = row.sent.or(Some(now));
        row.hedged |= hedged;
    }

    /// A replica answered, or was given up. Of several answers the last stands; what was decided without it is told by
    /// `late`.
    pub fn answered(&mut self, now: Mono, id: StoreId, result: ReplicaResult, held: Option<&Object>) {
        let row = self.row(id);
        row.answered = Some(now);
        row.result = Some(result);
        row.dots = held.map_or_else(Vec::new, |o| o.siblings().iter().map(|s| s.dot.to_string()).collect());
    }

    /// It was decided, by the votes of those for whom `counted` holds.
    pub fn decided(&mut self, now: Mono, counted: impl Fn(StoreId) -> bool) {
        if self.decided.is_none() {
            self.decided = Some(now);
            for row in &mut self.rows {
                row.counted = counted(row.id);
                row.late = row.sent.is_some() && row.answered.is_none();
            }
        }
    }

    /// Every owner was asked, for the sake of a floor.
    pub const fn widened(&mut self) {
        self.widened = true;
    }

    /// A stale replica was sent the merged object.
    pub fn repaired(&mut self, id: StoreId) {
        self.row(id).repaired = true;
    }

    /// A hint was stored for an owner.
    pub fn hinted(&mut self, id: StoreId) {
        self.row(id).hinted = true;
    }

    /// What is known by now, each replica named by `describe`.
    #[must_use]
    pub fn explain(&self, describe: impl Fn(StoreId) -> Described) -> Explain {
        let since = |at: Mono| u64::try_from(at.since(self.began).as_micros()).unwrap_or(u64::MAX);
        let names = |wanted: fn(&Row) -> bool| {
            self.rows.iter().filter(|row| wanted(row)).map(|row| describe(row.id).node).collect()
        };
        let replica = |row: &Row| {
            let Described { node, zone, role } = describe(row.id);
            ExplainedReplica {
                node,
                zone,
                role,
                sent_us: row.sent.map(since),
                answered_us: row.answered.map(since),
                result: row.result,
                dots: row.dots.clone(),
                hedged: row.hedged,
                counted: row.counted,
            }
        };
        Explain {
            replicas: self.rows.iter().map(replica).collect(),
            decided_us: self.decided.map(since),
            repaired: names(|row| row.repaired),
            hinted: names(|row| row.hinted),
            late: names(|row| row.late),
            widened: self.widened,
        }
    }

    fn row(&mut self, id: StoreId) -> &mut Row {
        let at = self.rows.iter().position(|row| row.id == id).unwrap_or_else(|| {
            self.rows.push(Row {
                id,
                sent: None,
                answered: None,
                result: None,
                dots: Vec::new(),
                hedged: false,
                counted: false,
                repaired: false,
                hinted: false,
                late: false,
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_with_names_and_times() {
        let id = StoreId::from_bits;
        let mut recorder = Recorder::new(Mono(1_000));
        recorder.expect([id(1), id(2), id(3), id(4)]);
        recorder.sent(Mono(1_010), id(1), false);
        recorder.sent(Mono(1_020), id(2), false);
        recorder.answered(Mono(1_015), id(1), ReplicaResult::NotFound, None);
        recorder.sent(Mono(1_200), id(3), true);
        recorder.answered(Mono(1_300), id(3), ReplicaResult::Same, None);
        recorder.decided(Mono(1_310), |of| of != id(2));
        recorder.repaired(id(1));
        recorder.hinted(id(2));
        recorder.widened();
        recorder.answered(Mono(1_400), id(2), NoVote::TimedOut.into(), None);
        let explain =
            recorder.explain(|of| Described { node: format!("n{}", of.bits()), zone: "z".into(), role: Role::Owner });
        let json = serde_json::to_value(&explain).unwrap();
        assert_eq!(json["decided_us"], 310);
        assert_eq!(json["late"], serde_json::json!(["n2"]));
        assert_eq!(json["repaired"], serde_json::json!(["n1"]));
        assert_eq!(json["hinted"], serde_json::json!(["n2"]));
        assert_eq!(json["widened"], true);
        assert_eq!(
            json["replicas"][2],
            serde_json::json!({"node": "n3", "zone": "z", "role": "owner", "sent_us": 200, "answered_us": 300,
                "result": "same", "dots": [], "hedged": true, "counted": true})
        );
        assert_eq!(json["replicas"][1]["result"], "timeout");
        assert_eq!(json["replicas"][3]["sent_us"], serde_json::Value::Null);
        assert_eq!(serde_json::from_value::<Explain>(json).unwrap(), explain);
    }
}
