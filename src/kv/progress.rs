//! How far a change has come, as documents: made from what one node knows, so that every node can be asked.

use std::time::Duration;

use super::layouts::{CandidateView, LayoutView, OperationView, TrackerView, WaitView};
use super::plans::{awaited_word, parse_operation, summary};
use super::{Error, ErrorCode};
use crate::ring::operations::follow::{Stage, stage, steps};
use crate::ring::{Chain, Layout, Member, View};
use crate::types::{NodeId, StoreId};

/// What a node adds to what the ring knows.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// A member's state, in a word: `up`, `down`, `syncing`.
    pub state: &'a dyn Fn(&Member) -> String,
    /// Since when a change waits for a member (RFC 3339).
    pub waiting_since: &'a dyn Fn(StoreId) -> Option<String>,
    /// Since when a layout has been known (RFC 3339).
    pub known_since: &'a dyn Fn(u64) -> Option<String>,
    /// What the transfers of the change under way have done, and have to do, in whatever they count; none where that is
    /// not known. The trackers alone tell of steps, not of bytes.
    pub transferred: Option<(u64, u64)>,
}

/// For whom the change under way waits.
#[must_use]
pub fn waits(view: View<'_>, beside: Beside<'_>) -> Vec<WaitView> {
    let newest = view.chain.newest();
    let wait = |(store, awaited)| {
        let member = newest.member(newest.member_by_store(store)?);
        Some(WaitView {
            member: member.name.clone(),
            awaited: awaited_word(awaited).to_owned(),
            state: (beside.state)(member),
            since: (beside.waiting_since)(store),
        })
    };
    view.waits_for().into_iter().filter_map(wait).collect()
}

/// The layouts there are, and how far everybody has come.
#[must_use]
pub fn layout_view(view: View<'_>, beside: Beside<'_>, candidates: &[Member]) -> LayoutView {
    let chain = view.chain;
    let newest = chain.newest();
    let summarise = |layout: &Layout| summary(parent(chain, layout), layout, (beside.known_since)(layout.version()));
    let awaited = view.waits_for();
    let tracker = |member: &Member| {
        let tracker = view.trackers.of(member.store);
        let synced = tracker.synced.iter().filter(|version| chain.is_live(**version));
        let awaited = awaited.iter().find(|(store, _)| *store == member.store);
        TrackerView {
            member: member.name.clone(),
            id: member.node.to_string(),
            ack: tracker.ack,
            synced: synced.copied().collect(),
            sync_ack: tracker.sync_ack,
            awaited: awaited.map(|(_, what)| awaited_word(*what).to_owned()),
        }
    };
    let candidate = |member: &Member| CandidateView {
        name: member.name.clone(),
        id: member.node.to_string(),
        region: member.region.clone(),
        zone: member.zone.clone(),
        weight: member.weight,
        peer_address: member.peer_address.clone(),
    };
    let mut trackers: Vec<TrackerView> = newest.members().iter().map(tracker).collect();
    trackers.sort_by(|one, other| one.member.cmp(&other.member));
    let (done, total) = progress(view, beside);
    let decides = |(_, store): &(NodeId, StoreId)| Some(newest.member(newest.member_by_store(*store)?).name.clone());
    let mut deciders: Vec<String> = chain.deciders().iter().filter_map(decides).collect();
    deciders.sort();
    LayoutView {
        deciders,
        head: Some(summarise(newest)),
        complete: view.is_complete(),
        live: chain.live().iter().rev().map(summarise).collect(),
        reads_in: view.read_layout().version(),
        history: chain.layouts().iter().rev().map(summarise).collect(),
        trackers,
        waits_for: waits(view, beside),
        done,
        total,
        leaving: newest.leaving().map(|member| member.name.clone()).collect(),
        candidates: candidates.iter().map(candidate).collect(),
    }
}

fn parent<'a>(chain: &'a Chain, layout: &Layout) -> Option<&'a Layout> {
    chain.get(layout.version().checked_sub(1)?)
}

/// Steps, and what is transferred where that is known.
fn progress(view: View<'_>, beside: Beside<'_>) -> (u64, u64) {
    let (done, total) = steps(view);
    let (moved, to_move) = beside.transferred.unwrap_or_default();
    (done as u64 + moved, total as u64 + to_move)
}

/// The word for a stage.
#[must_use]
pub const fn stage_word(stage: Stage) -> &'static str {
    match stage {
        Stage::Unheard => "unheard",
        Stage::Lost => "lost",
        Stage::Running => "running",
        Stage::Superseded(_) => "superseded",
        Stage::Done => "done",
    }
}

/// Where the layout of an operation stands; an error if `id` is none.
pub fn operation_stage(view: View<'_>, id: &str) -> Result<Stage, Error> {
    let unreadable = || {
        let detail = format!("{id:?} is no operation: they are called layout-VERSION-HASH, as a commit answers");
        Error::refused(ErrorCode::NotKnown, detail)
    };
    let (version, hash) = parse_operation(id).ok_or_else(unreadable)?;
    let held = view.chain.get(version).map(Layout::hash);
    let same = held.is_none_or(|held| held.to_string().starts_with(hash));
    Ok(if same { stage(view, version, None) } else { Stage::Lost })
}

/// An operation at this stage. `running_for`: how long this node has seen it run, none where it has not.
#[must_use]
pub fn operation_view(
    view: View<'_>,
    beside: Beside<'_>,
    id: &str,
    at: Stage,
    running_for: Option<Duration>,
) -> OperationView {
    let runs = at == Stage::Running;
    let (done, total) = progress(view, beside);
    let (done, total) = if at == Stage::Unheard { (0, total) } else { (done, total) };
    let left = |time: Duration| time.as_secs_f64() * (total - done) as f64 / done as f64;
    let eta = running_for.filter(|_| runs && (1..total).contains(&done)).map(left);
    let error = match at {
        Stage::Lost => Some("another layout was decided in its place: `quorate layout show`".to_owned()),
        Stage::Superseded(by) => Some(format!("layout {by} followed before it was complete")),
        _ => None,
    };
    OperationView {
        id: id.to_owned(),
        state: stage_word(at).to_owned(),
        done: if at == Stage::Done { total } else { done },
        total,
        eta_s: eta.map(|seconds| seconds.ceil() as u64),
        error,
        waits_for: if runs { waits(view, beside) } else { Vec::new() },
        repair: None,
    }
}
