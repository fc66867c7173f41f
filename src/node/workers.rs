//! What a node says of its workers, and what they are told through it.

use tracing::info;

use super::Node;
use crate::kv::{Error, ScrubView, Steer, WorkerAdmin, WorkerView, WorkersView, date, unknown_worker};
use crate::repair::{Log, Report, Worker};

impl WorkerAdmin for Node {
    fn workers_view(&self) -> WorkersView {
        let workers = self.inner.roster.all().iter().map(view).collect();
        WorkersView { node: self.inner.config.node.name.clone(), workers, scrub: self.scrub_view() }
    }

    fn steer(&self, name: &str, steer: Steer) -> Result<WorkerView, Error> {
        let worker = self.inner.roster.named(name).ok_or_else(|| unknown_worker(name, &self.workers_view()))?;
        info!(worker = name, told = steer.as_str(), "a worker is told what to do");
        match steer {
            Steer::Pause => worker.pause(),
            Steer::Resume => worker.resume(),
            Steer::Run => worker.run(),
        }
        self.tell_mood();
        Ok(view(&worker))
    }
}

impl Node {
    /// What the last scrub came to, or the one under way; none before the first.
    pub(super) fn scrub_view(&self) -> Option<ScrubView> {
        let report = self.inner.workers.get()?.scrub.as_ref()?.report();
        let Report { began, ended, keys, bytes, found, waiting, index, disagreed, leaves, gaps, .. } = report;
        Some(ScrubView {
            began: date::rfc3339(began?),
            ended: ended.map(date::rfc3339),
            keys,
            bytes,
            found,
            mended: found.saturating_sub(waiting),
            waiting,
            index_entries: index,
            disagreeing: disagreed,
            leaves,
            gaps,
        })
    }
}

fn view(worker: &Worker) -> WorkerView {
    let Log { progress, runs, ended, error, .. } = worker.log();
    WorkerView {
        name: worker.name().into(),
        about: worker.about().into(),
        state: worker.state().into(),
        done: progress.map(|(done, _)| done),
        total: progress.map(|(_, total)| total),
        rate: worker.rate(),
        runs,
        ended: ended.map(date::rfc3339),
        error: error.as_ref().map(|(why, _)| why.clone()),
        error_at: error.map(|(_, at)| date::rfc3339(at)),
    }
}
