//! Comparisons that somebody asks for: begun here, followed, and remembered for a while.
//!
//! Bounds: [`AT_ONCE`] under way, one more is refused; the last [`KEPT`] are remembered, in memory.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Node, Workers};
use crate::kv::layouts::OperationView;
use crate::kv::{Error, ErrorCode, REPAIR_ID, RepairAdmin, RepairBegun, RepairRequest, RepairView, unknown_repair};
use crate::repair::{Repaired, Scope, Worker};
use crate::types::{Bucket, Mono, PartitionId};

/// Most under way: they take turns, pair by pair.
const AT_ONCE: usize = 4;
/// Most that are remembered.
const KEPT: usize = 32;
/// How long keys that are given up are waited for.
const GIVE_UP_FOR: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The repairs that this node began.
pub(super) type Repairs = Mutex<VecDeque<Arc<Operation>>>;

/// One of them.
#[derive(Debug)]
pub(super) struct Operation {
    id: String,
    dry_run: bool,
    /// Pairs to be compared.
    total: u64,
    began: Mono,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    done: Repaired,
    given_up: u64,
    /// Once it has ended: why it is not complete, where it is not.
    ended: Option<Option<String>>,
}

impl Operation {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RepairAdmin for Node {
    fn begin_repair(&self, request: RepairRequest) -> Result<RepairBegun, Error> {
        let workers = self.inner.workers.get();
        let workers = workers.ok_or_else(|| Error::refused(ErrorCode::NotServing, "this node does not serve yet"))?;
        let scope = self.scope_of(&request)?;
        if self.compares_no_more() {
            let detail = format!(
                "anti-entropy is paused on {}: resume it with `quorate workers resume anti-entropy`",
                self.inner.config.node.name
            );
            return Err(Error::refused(ErrorCode::Paused, detail));
        }
        let total = match workers.entropy.pairs(&scope) {
            Some(pairs) => pairs,
            // A change may wait for just that.
            None if request.accept_data_loss => 0,
            None => {
                let detail =
                    "layouts change: until that has ended transfers bring what differs, and nothing is compared";
                return Err(Error::refused(ErrorCode::LayoutRefused, detail));
            }
        };
        let Self { inner } = self;
        let operation = Arc::new(Operation {
            id: format!("{REPAIR_ID}{:016x}", inner.env.entropy.u64()),
            dry_run: scope.dry_run,
            total,
            began: inner.env.clock.now(),
            state: Mutex::default(),
        });
        {
            let mut repairs = self.repairs();
            let running = repairs.iter().filter(|repair| repair.state().ended.is_none()).count();
            if running >= AT_ONCE {
                let detail = format!("{running} repairs are under way on this node: wait for one of them");
                return Err(Error::refused(ErrorCode::Overloaded, detail));
            }
            if repairs.len() >= KEPT {
                let oldest = repairs.iter().position(|repair| repair.state().ended.is_some());
                oldest.map(|oldest| repairs.remove(oldest));
            }
            repairs.push_back(Arc::clone(&operation));
        }
        let id = operation.id.clone();
        let give_up = scope.partition.filter(|_| request.accept_data_loss);
        inner.env.tasks.spawn(self.clone().repair_as_asked(operation, scope, give_up));
        Ok(RepairBegun { id, node: inner.config.node.name.clone() })
    }

    fn repair_operation(&self, id: &str) -> Result<OperationView, Error> {
        let found = self.repairs().iter().find(|repair| repair.id == id).cloned();
        found.map(|operation| self.repair_view(&operation)).ok_or_else(|| unknown_repair(id))
    }
}

impl Node {
    fn repairs(&self) -> MutexGuard<'_, VecDeque<Arc<Operation>>> {
        self.inner.repairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scope_of(&self, request: &RepairRequest) -> Result<Scope, Error> {
        let RepairRequest { bucket, partition, dry_run, once, accept_data_loss } = request.clone();
        let bad = |detail: String| Error::refused(ErrorCode::BadParameter, detail);
        let bucket = bucket.map(|name| Bucket::new(&name).map_err(|wrong| bad(format!("bucket: {wrong}"))));
        let q = self.inner.config.cluster.partitions;
        if let Some(partition) = partition.filter(|partition| *partition >= q) {
            return Err(bad(format!("partition is 0 to {}, got {partition}", q - 1)));
        }
        if accept_data_loss && (partition.is_none() || dry_run || bucket.is_some()) {
            let detail = "accept_data_loss goes with one partition, and with neither dry_run nor bucket";
            return Err(bad(detail.to_owned()));
        }
        Ok(Scope { bucket: bucket.transpose()?, partition: partition.map(PartitionId), dry_run, once })
    }

    async fn repair_as_asked(self, operation: Arc<Operation>, scope: Scope, give_up: Option<PartitionId>) {
        let Some(workers) = self.inner.workers.get() else { return };
        let mut left = None;
        if let Some(partition) = give_up {
            let given_up;
            (given_up, left) = self.give_up(workers, partition).await;
            operation.state().given_up = given_up;
        }
        let told = |done: &Repaired| operation.state().done = *done;
        let (done, why) = match workers.entropy.pairs(&scope) {
            // While layouts change nothing is compared.
            None if give_up.is_some() => (Repaired::default(), None),
            _ => workers.entropy.repair_and_tell(&scope, &told).await,
        };
        let mut state = operation.state();
        state.done = done;
        let unfinished = || {
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            format!("{} pairs could not be compared to the end{why}", done.unfinished)
        };
        let compared = match (done.unfinished, done.failed) {
            (1.., _) => Some(unfinished()),
            (0, 1..) => Some(format!("{} keys that differ could not be made equal: the same again", done.failed)),
            (0, 0) => None,
        };
        let why: Vec<String> = left.into_iter().chain(compared).collect();
        state.ended = Some((!why.is_empty()).then(|| why.join("; ")));
    }

    /// Has the mending worker give up what no owner holds of a partition's quarantined keys; tells how many it did, and
    /// where some are left why.
    async fn give_up(&self, workers: &Workers, partition: PartitionId) -> (u64, Option<String>) {
        let Workers { mending, .. } = workers;
        let Self { inner } = self;
        let clock = &inner.env.clock;
        let (before, began) = (mending.given_up.load(Ordering::Relaxed), clock.wall());
        let accepted = mending.accept_loss(partition);
        let worker = inner.roster.named("mending");
        worker.iter().for_each(Worker::run);
        let until = clock.now() + GIVE_UP_FOR;
        let health = inner.replica.health();
        let left = || health.quarantined().iter().filter(|(at, _)| *at == partition).count();
        let unsynced = || !health.is_synced(partition);
        let paused = || worker.as_ref().is_some_and(Worker::is_paused);
        while (left() > 0 || unsynced()) && clock.now() < until && !paused() {
            clock.sleep(LOOK_EVERY).await;
        }
        let (left, unsynced) = (left(), unsynced());
        drop(accepted);
        let error = || worker.as_ref().and_then(|worker| worker.log().error).filter(|(_, at)| *at >= began);
        let why = (left > 0 || unsynced).then(|| match paused() {
            true => {
                let node = &inner.config.node.name;
                format!(
                    "mending is paused on {node}: resume it with `quorate workers resume mending`, then the same again"
                )
            }
            false => error().map_or_else(
                || "the other owners have not all been asked yet: the same again".to_owned(),
                |(why, _)| format!("{why}; once that is mended: the same again"),
            ),
        });
        let why = why.map(|why| match left {
            0 => format!("partition {partition} is not synced yet: {why}"),
            left => format!("{left} keys of partition {partition} still cannot be read: {why}"),
        });
        (mending.given_up.load(Ordering::Relaxed) - before, why)
    }

    /// Whether anti-entropy is paused here.
    fn compares_no_more(&self) -> bool {
        self.inner.roster.named("anti-entropy").is_some_and(|worker| worker.is_paused())
    }

    fn repair_view(&self, operation: &Operation) -> OperationView {
        let state = operation.state();
        let Repaired { compared, differed, keys, repaired, failed, bytes, unfinished } = state.done;
        let total = operation.total;
        let word = match &state.ended {
            None => "running",
            Some(None) => "done",
            Some(Some(_)) => "incomplete",
        };
        let paused = self.compares_no_more();
        let error = match &state.ended {
            Some(why) => why.clone(),
            None => paused.then(|| "anti-entropy is paused on this node: it goes on once that is resumed".to_owned()),
        };
        let running = self.inner.env.clock.now().since(operation.began).as_secs_f64();
        let eta = running * total.saturating_sub(compared) as f64 / compared as f64;
        OperationView {
            id: operation.id.clone(),
            state: word.to_owned(),
            done: if word == "done" { total } else { compared.min(total) },
            total,
            eta_s: (word == "running" && compared > 0).then_some(eta.ceil() as u64),
            error,
            repair: Some(RepairView {
                node: self.inner.config.node.name.clone(),
                dry_run: operation.dry_run,
                compared,
                differed,
                keys,
                repaired,
                failed,
                bytes,
                unfinished,
                given_up: state.given_up,
            }),
            ..OperationView::default()
        }
    }
}
