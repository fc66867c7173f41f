//! Between the ring's values and the documents of [`layouts`](super::layouts): what a request means, what a plan looks
//! like, which error a refusal is. And where plans are kept until they are committed.
//!
//! Plans are kept in memory, [`Plans::MOST`] of them, [`Plans::AGE`] long; what is dropped is planned again. Nothing is
//! reserved by a plan, so nothing is lost with it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::layouts::{
    Begun, CommitRequest, LabelsRequest, LayoutSummary, MoveView, PlanRequest, PlanView, PlannedMember, PlannedZone,
    RiskView,
};
use super::{Error, ErrorCode, Outcome};
use crate::ring::change::{self, Kind, NotNow};
use crate::ring::live::Awaited;
use crate::ring::operations::{
    self, BucketChange, Change, Changes, Consent, Facts, Labels, Plan, Refused, Replace, Risks,
};
use crate::ring::{Layout, LayoutHash, View};
use crate::types::{Mono, StoreId};

impl From<PlanRequest> for Changes {
    fn from(request: PlanRequest) -> Self {
        let PlanRequest { add, leave, remove, replace, weights, labels, abort, rebalance } = request;
        let label = |(name, LabelsRequest { zone, region })| (name, Labels { zone, region });
        Self {
            add,
            leave,
            remove,
            replace: replace.into_iter().map(|replace| Replace { old: replace.old, new: replace.new }).collect(),
            weights,
            labels: labels.into_iter().map(label).collect(),
            abort,
            rebalance,
        }
    }
}

impl From<CommitRequest> for Consent {
    fn from(CommitRequest { force, accept_data_loss, .. }: CommitRequest) -> Self {
        Self { force, accept_data_loss }
    }
}

/// The plans of one node, the newest last.
#[derive(Debug, Default)]
pub struct Plans(VecDeque<(Mono, Plan)>);

impl Plans {
    /// Most plans kept; the oldest goes first.
    pub const MOST: usize = 16;
    /// How long one is kept.
    pub const AGE: Duration = Duration::from_secs(600);

    /// Keeps a plan.
    pub fn keep(&mut self, now: Mono, plan: Plan) {
        self.0.retain(|(made, kept)| now.since(*made) < Self::AGE && kept.next != plan.next);
        self.0.push_back((now, plan));
        while self.0.len() > Self::MOST {
            self.0.pop_front();
        }
    }

    /// The plan with this id.
    pub fn get(&self, now: Mono, id: &str) -> Result<&Plan, Error> {
        let kept = |(made, plan): &&(Mono, Plan)| now.since(*made) < Self::AGE && plan_id(&plan.next) == id;
        self.0.iter().find(kept).map(|(_, plan)| plan).ok_or_else(|| {
            let detail = format!(
                "no plan {id:?} is kept here: it is kept for 10 minutes by the node that made it, the newest {} of them; \
                 plan again",
                Self::MOST
            );
            Error::refused(ErrorCode::NotKnown, detail)
        })
    }
}

/// What names a plan: its layout's hash, shortened.
#[must_use]
pub fn plan_id(next: &Layout) -> String {
    short(&next.hash())
}

/// What names the operation that puts a layout in force: the same at every node.
#[must_use]
pub fn operation_id(layout: &Layout) -> String {
    format!("layout-{}-{}", layout.version(), short(&layout.hash()))
}

/// Reads [`operation_id`]: the version, and the beginning of the hash.
#[must_use]
pub fn parse_operation(id: &str) -> Option<(u64, &str)> {
    let (version, hash) = id.strip_prefix("layout-")?.split_once('-')?;
    let plain = hash.len() == SHORT && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    version.parse().ok().filter(|_| plain).map(|version| (version, hash))
}

/// Digits of a hash in an id.
const SHORT: usize = 16;

fn short(hash: &LayoutHash) -> String {
    let mut text = hash.to_string();
    text.truncate(SHORT);
    text
}

/// That a layout is on its way.
#[must_use]
pub fn begun(layout: &Layout) -> Begun {
    Begun { id: operation_id(layout), version: layout.version(), hash: layout.hash().to_string(), warnings: Vec::new() }
}

/// A plan for people and programs.
#[must_use]
pub fn plan_view(plan: &Plan) -> PlanView {
    let count = |n: usize| n as u64;
    let report = &plan.report;
    let names: BTreeMap<StoreId, &str> =
        report.members.iter().map(|row| (row.member.store, row.member.name.as_str())).collect();
    let name = |store: StoreId| names.get(&store).copied().unwrap_or_default().to_owned();
    let members = report.members.iter().map(|row| PlannedMember {
        name: row.member.name.clone(),
        id: row.member.node.to_string(),
        region: row.member.region.clone(),
        zone: row.member.zone.clone(),
        weight: row.member.weight,
        changes: row.changes.iter().map(change_words).collect(),
        before: count(row.before),
        after: count(row.after),
        gains: count(row.gains),
        bytes: row.bytes,
    });
    let moves = report.moved.iter().map(|moved| MoveView {
        from: moved.from.map(name),
        to: name(moved.to),
        partitions: count(moved.partitions),
    });
    let zones = report.zones.iter().map(|zone| PlannedZone {
        region: zone.region.clone(),
        zone: zone.zone.clone(),
        members: count(zone.members),
        before: count(zone.before),
        after: count(zone.after),
    });
    let rounded = |ratio: Option<f64>| (ratio.unwrap_or(0.0) * 1000.0).round() / 1000.0;
    let version = plan.next.version();
    PlanView {
        id: plan_id(&plan.next),
        version,
        hash: plan.next.hash().to_string(),
        parent: version - 1,
        kind: kind_word(plan.kind).to_owned(),
        n: report.n,
        members: members.collect(),
        moves: moves.collect(),
        zones: zones.collect(),
        copied: count(report.copied),
        least_copied: report.least_copied.map(count),
        bytes: report.bytes,
        max_over_mean_before: rounded(report.before.map(|at| at.max_over_mean)),
        max_over_mean: rounded(report.after.map(|at| at.max_over_mean)),
        zone_violations: report.after.map_or(0, |at| count(at.zone_violations)),
        risks: risk_views(&plan.risks),
        command: commit_command(plan),
    }
}

/// The command that commits a plan, with what it needs.
fn commit_command(plan: &Plan) -> String {
    let mut command = format!("quorate layout commit {} --version {}", plan_id(&plan.next), plan.next.version());
    for risk in risk_views(&plan.risks) {
        let flag = format!(" --{}", risk.needs.replace('_', "-"));
        if !command.contains(&flag) {
            command += &flag;
        }
    }
    command
}

/// A word of a command line, quoted where a shell would take it apart.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn risk_views(risks: &Risks) -> Vec<RiskView> {
    let view = |code: &str, needs: &str| {
        let (code, needs) = (code.to_owned(), needs.to_owned());
        move |short: &crate::ring::risk::Short| RiskView {
            code: code.clone(),
            text: short.to_string(),
            needs: needs.clone(),
        }
    };
    let thin = risks.thin.iter().map(view("too_thin", "force"));
    thin.chain(risks.loses.iter().map(view("may_lose_data", "accept_data_loss"))).collect()
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Change => "change",
        Kind::Same => "same",
        Kind::Abort => "abort",
        Kind::Skip => "skip",
    }
}

/// What is awaited of a member, in a word.
#[must_use]
pub fn awaited_word(awaited: Awaited) -> &'static str {
    match awaited {
        Awaited::Ack => "ack",
        Awaited::Synced => "synced",
        Awaited::SyncAck => "sync_ack",
    }
}

fn change_words(change: &Change) -> String {
    match change {
        Change::Joins => "joins".into(),
        Change::Replaces(old) => format!("replaces {old}"),
        Change::Leaves => "leaves".into(),
        Change::Stays => "stays after all".into(),
        Change::LeftOut => "has left".into(),
        Change::Removed => "removed".into(),
        Change::ReplacedBy(new) => format!("replaced by {new}"),
        Change::Weight { from, to } => format!("weight {from} to {to}"),
        Change::Zone { from, to } => format!("zone {} to {}", label(from), label(to)),
        Change::Region { from, to } => format!("region {} to {}", label(from), label(to)),
    }
}

fn bucket_words(change: &BucketChange) -> String {
    match change {
        BucketChange::Configured => "configured".into(),
        BucketChange::Replicas { from, to } => format!("n {from} to {to}"),
        BucketChange::Emptied => "emptied".into(),
        BucketChange::Deleted => "deleted".into(),
    }
}

fn label(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// One layout in a list; `before` is its parent, where that is held.
#[must_use]
pub fn summary(before: Option<&Layout>, layout: &Layout, since: Option<String>) -> LayoutSummary {
    let changes = before.map_or_else(Vec::new, |before| {
        let members = operations::member_changes(before, layout);
        let members = members.iter().map(|(name, change)| format!("{name} {}", change_words(change)));
        let buckets = operations::bucket_changes(before, layout);
        let buckets = buckets.iter().map(|(name, change)| format!("bucket {name} {}", bucket_words(change)));
        let mut changes: Vec<String> = members.chain(buckets).collect();
        if changes.is_empty() && operations::owners_change(before, layout) {
            changes.push("partitions have other owners".into());
        }
        changes
    });
    LayoutSummary {
        version: layout.version(),
        hash: layout.hash().to_string(),
        members: layout.members().len() as u64,
        changes,
        since,
    }
}

/// Whether a plan may be committed now: by the version named, behind the newest layout, with the risks there are by now.
pub fn committable(view: View<'_>, facts: &Facts<'_>, plan: &Plan, request: CommitRequest) -> Result<(), Error> {
    let (newest, next) = (view.chain.newest(), &plan.next);
    if request.version != next.version() {
        let detail = format!("this plan makes layout {}, and version {} was named", next.version(), request.version);
        return Err(Error::refused(ErrorCode::BadParameter, detail));
    }
    if newest.hash() != next.spec().parent {
        return Err(conflict(newest, next));
    }
    if let Err(not_now) = change::judge_successor(view.chain, view.is_complete(), next) {
        return Err(refused(&not_now.into()));
    }
    operations::risks(view, facts, next).allow(request.into()).map_err(|why| refused(&why))
}

/// The error of whoever commits what does not follow the newest layout any more; names the one that does.
#[must_use]
pub fn conflict(winner: &Layout, mine: &Layout) -> Error {
    let (version, hash) = (winner.version(), winner.hash());
    let what = if version == mine.version() {
        format!("layout {version} was decided, and it is another one")
    } else {
        format!("layout {version} is in force by now, and this plan follows layout {}", mine.version() - 1)
    };
    let detail = format!("{what}: {hash}, {} members; plan again", winner.members().len());
    Error { layout: Some(version), ..Error::refused(ErrorCode::LayoutConflict, detail) }
}

/// The error that a refusal is.
#[must_use]
pub fn refused(why: &Refused) -> Error {
    let code = match why {
        Refused::NotNow(NotNow::Chain(_)) => ErrorCode::LayoutConflict,
        Refused::Unknown { .. }
        | Refused::Ambiguous { .. }
        | Refused::Twice { .. }
        | Refused::NoWeight { .. }
        | Refused::Nothing
        | Refused::NotWithAbort
        | Refused::NotNow(NotNow::NoLayout(_)) => ErrorCode::BadParameter,
        _ => ErrorCode::LayoutRefused,
    };
    Error::refused(code, why.to_string())
}

/// No majority answered in time: the layout may be decided all the same.
#[must_use]
pub fn undecided(next: &Layout, why: &str) -> Error {
    let detail = format!(
        "layout {} is not decided yet, and may still be: {why}; ask for operation {}",
        next.version(),
        operation_id(next)
    );
    let layout = Some(next.version());
    Error { layout, ..Error::new(ErrorCode::Undecided, Outcome::Unknown, detail) }
}
