//! Workers: what runs in the background of a node, by name, so that whoever runs it sees what it does and may hold it.
//!
//! A worker's loop tells what it is at, and asks at its *safe points* whether it may go on: places where it holds no guard,
//! no lock and nothing half done. So a pause takes hold a moment after it was asked for, and breaks nothing; what a paused
//! worker leaves undone is done after it. A pause lives as long as the process: a node that starts works.
//!
//! To *run* one is to end its rest: what it would have begun later it begins now. Of a paused one it is remembered.
//!
//! Bounds: one entry a worker, each with one last error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::env::{Clock, Env};
use crate::types::Wall;

/// All workers of a node. Clones are the same roster.
#[derive(Clone)]
pub struct Roster {
    clock: Arc<dyn Clock>,
    workers: Arc<Mutex<Vec<Worker>>>,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Roster {
    /// Nobody works yet.
    #[must_use]
    pub fn new(env: &Env) -> Self {
        Self { clock: Arc::clone(&env.clock), workers: Arc::default() }
    }

    /// Another worker: its name, what it does in a sentence, and the most bytes a second that it moves, where it has such
    /// a budget (0: as many as it can).
    pub(super) fn register(&self, name: &'static str, about: &'static str, rate: Option<u64>) -> Worker {
        let (clock, orders, log) = (Arc::clone(&self.clock), watch::Sender::default(), Mutex::default());
        let worker = Worker { inner: Arc::new(Inner { name, about, rate, clock, orders, log }) };
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(worker.clone());
        worker
    }

    /// Everybody, in the order in which they began.
    #[must_use]
    pub fn all(&self) -> Vec<Worker> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Worker> {
        self.all().into_iter().find(|worker| worker.name() == name)
    }
}

/// What a worker is told to do.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    paused: bool,
    /// How often it was told to run.
    runs: u64,
}

/// What a worker says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// Runs under way.
    pub running: u32,
    /// How far they are, and of how much, where that can be said.
    pub progress: Option<(u64, u64)>,
    /// Runs that have ended since the node started.
    pub runs: u64,
    /// When the last one ended.
    pub ended: Option<Wall>,
    /// What went wrong last, and when.
    pub error: Option<(String, Wall)>,
}

/// One of them. Clones are the same worker.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    about: &'static str,
    rate: Option<u64>,
    clock: Arc<dyn Clock>,
    orders: watch::Sender<Orders>,
    log: Mutex<Log>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut worker = f.debug_struct("Worker");
        worker.field("name", &self.name()).field("paused", &self.is_paused()).field("log", &self.log()).finish()
    }
}

impl Worker {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// What it does.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.inner.about
    }

    /// Most bytes a second that it moves, where it has such a budget; 0: as many as it can.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.inner.rate
    }

    /// What it says of itself.
    #[must_use]
    pub fn log(&self) -> Log {
        self.lock().clone()
    }

    /// Whether it was told to pause.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.inner.orders.borrow().paused
    }

    /// `paused`, `running` or `idle`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.is_paused(), self.lock().running) {
            (true, _) => "paused",
            (false, 0) => "idle",
            (false, _) => "running",
        }
    }

    /// Stops at its next safe point, until [`Worker::resume`] or a restart of the node.
    pub fn pause(&self) {
        self.inner.orders.send_modify(|orders| orders.paused = true);
    }

    /// Goes on.
    pub fn resume(&self) {
        self.inner.orders.send_modify(|orders| orders.paused = false);
    }

    /// Begins now what it would begin later; a paused one once it is resumed.
    pub fn run(&self) {
        self.inner.orders.send_modify(|orders| orders.runs += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.inner.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A safe point: waits while it is paused.
    pub(super) async fn allowed(&self) {
        if self.is_paused() {
            // The sender lives in the worker: it is never gone while this waits.
            let _ = self.inner.orders.subscribe().wait_for(|orders| !orders.paused).await;
        }
    }

    /// What tells a loop that it is to run; each loop of a worker has one.
    pub(super) fn bell(&self) -> Bell {
        let orders = self.inner.orders.subscribe();
        let heard = orders.borrow().runs;
        Bell { orders, heard }
    }

    /// Rests for so long, or until it is told to run, and then while it is paused; whether it was told to run.
    pub(super) async fn rest(&self, bell: &mut Bell, time: Duration) -> bool {
        let told = tokio::select! {
            biased;
            () = bell.rung() => true,
            () = self.inner.clock.sleep(time) => false,
        };
        self.allowed().await;
        told
    }

    /// A run begins; it ends where this is dropped.
    pub(super) fn begin(&self) -> Run {
        let mut log = self.lock();
        log.running += 1;
        log.progress = None;
        drop(log);
        Run { worker: self.clone() }
    }

    /// How far it is.
    pub(super) fn progress(&self, done: u64, total: u64) {
        self.lock().progress = Some((done, total));
    }

    /// What went wrong.
    pub(super) fn failed(&self, why: impl Into<String>) {
        self.lock().error = Some((why.into(), self.inner.clock.wall()));
    }
}

/// Rings when a worker is told to run.
pub(super) struct Bell {
    orders: watch::Receiver<Orders>,
    heard: u64,
}

impl Bell {
    /// Once for whatever it was told since it was last asked.
    pub(super) async fn rung(&mut self) {
        let heard = self.heard;
        match self.orders.wait_for(|orders| orders.runs != heard).await.map(|orders| orders.runs) {
            Ok(runs) => self.heard = runs,
            // Nobody is left who could tell it.
            Err(_) => std::future::pending().await,
        }
    }
}

/// A run under way.
pub(super) struct Run {
    worker: Worker,
}

impl Drop for Run {
    fn drop(&mut self) {
        let wall = self.worker.inner.clock.wall();
        let mut log = self.worker.lock();
        log.running -= 1;
        log.runs += 1;
        log.ended = Some(wall);
        if log.running == 0 {
            log.progress = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn worker() -> Worker {
        Roster::new(&Env::real()).register("digger", "Digs.", Some(7))
    }

    #[tokio::test]
    async fn a_paused_worker_waits_at_its_safe_points_and_goes_on_when_resumed() {
        let worker = worker();
        assert!(worker.allowed().now_or_never().is_some());
        let run = worker.begin();
        worker.progress(1, 3);
        assert_eq!((worker.state(), worker.log().progress), ("running", Some((1, 3))));
        worker.pause();
        assert_eq!(worker.state(), "paused", "whatever is under way");
        let mut waits = std::pin::pin!(worker.allowed());
        assert!(waits.as_mut().now_or_never().is_none());
        worker.resume();
        waits.await;
        worker.failed("broke");
        drop(run);
        let log = worker.log();
        assert_eq!((worker.state(), log.runs, log.running, log.progress), ("idle", 1, 0, None));
        assert!(log.ended.is_some() && log.error.is_some_and(|(why, _)| why == "broke"));
    }

    #[tokio::test]
    async fn told_to_run_it_rests_no_longer_and_a_paused_one_runs_once_it_is_resumed() {
        let (worker, long) = (worker(), Duration::from_secs(3600));
        let (mut bell, mut other) = (worker.bell(), worker.bell());
        assert!(worker.rest(&mut bell, long).now_or_never().is_none(), "nobody told it");
        worker.run();
        worker.run();
        assert!(worker.rest(&mut bell, long).await, "told");
        assert!(worker.rest(&mut bell, long).now_or_never().is_none(), "once for both");
        assert!(worker.rest(&mut other, long).await, "every loop of it is told");
        worker.pause();
        worker.run();
        let mut rests = std::pin::pin!(worker.rest(&mut bell, long));
        assert!(rests.as_mut().now_or_never().is_none(), "it is paused");
        worker.resume();
        assert!(rests.await);
    }

    #[test]
    fn a_roster_finds_its_workers() {
        let roster = Roster::new(&Env::real());
        roster.register("one", "Is the first.", None);
        roster.register("two", "Is the second.", Some(0));
        assert_eq!(roster.named("two").and_then(|worker| worker.rate()), Some(0));
        assert!(roster.named("three").is_none());
        assert_eq!(roster.all().iter().map(Worker::name).collect::<Vec<_>>(), ["one", "two"]);
    }
}
