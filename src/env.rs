//! The seams for time, entropy, tasks and rare-path switches: handed in, never reached for.
//!
//! Whoever replaces these (and storage and transport) gets a whole cluster inside one deterministic, seeded process:
//! that is what `sim/` does. So nobody below the edges calls `tokio::time`, `Instant::now`, a random number generator
//! or `tokio::spawn`; clippy refuses it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use rand::{
    Rng, RngExt, SeedableRng,
    rngs::{StdRng, SysRng},
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::types::{Mono, Wall};

/// A boxed future that owns what it needs.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Monotonic and wall time.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic clock.
    fn now(&self) -> Mono;
    /// The wall clock, right or wrong.
    fn wall(&self) -> Wall;
    /// Waits.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
}

/// Random bits. One source a node, so that a seed decides all of them.
#[derive(Debug)]
pub struct Entropy(Mutex<StdRng>);

impl Entropy {
    /// Bits that follow from `seed` alone.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Bits seeded by the operating system: the one place where real entropy enters.
    ///
    /// # Panics
    /// If the operating system has no entropy to give: ids would not be unique then.
    #[must_use]
    pub fn system() -> Self {
        let rng = StdRng::try_from_rng(&mut SysRng).expect("the operating system gives entropy");
        Self(Mutex::new(rng))
    }

    /// 64 random bits.
    #[must_use]
    pub fn u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// 128 random bits.
    #[must_use]
    pub fn u128(&self) -> u128 {
        u128::from(self.u64()) << 64 | u128::from(self.u64())
    }

    /// A number below `bound`, which must not be zero.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..bound)
    }

    /// True with probability `p` (0 to 1).
    #[must_use]
    pub fn chance(&self, p: f64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_bool(p.clamp(0.0, 1.0))
    }
}

/// The tasks of one node: spawned through here, so that a node can be stopped whole (and, in a simulation, crash).
///
/// Unbounded by itself: whoever spawns per request bounds the requests.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    stopping: Arc<AtomicBool>,
}

impl Tasks {
    /// Runs `future` until it ends or [`Tasks::cancel`] is called, whichever comes first.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let (stop, stopping) = (self.stop.clone(), Arc::clone(&self.stopping));
        self.tracker.spawn(async move {
            let (mut stop, mut future) = (pin!(stop.cancelled_owned()), pin!(future));
            let mut listens = false;
            // All tasks of a node share the token and its locks: it is asked once, to be woken by it, and not again
            // before it has something to say.
            std::future::poll_fn(|cx| {
                if (!listens || stopping.load(Ordering::Acquire)) && stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                listens = true;
                future.as_mut().poll(cx)
            })
            .await;
        });
    }

    /// Drops every task at its next await, and every later one before it starts.
    pub fn cancel(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// Completes when [`Tasks::cancel`] has been called.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// Cancels, then waits until every task is gone.
    pub async fn shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Tasks that have not ended yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}

/// How a node runs its synchronous storage work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocking {
    /// On threads of its own: real disks.
    Threads,
    /// Inline in a task, the disk's latency as a sleep: simulated disks.
    Inline,
}

/// Decides whether a switch is on now, given its name.
type Decide = Arc<dyn Fn(&'static str) -> bool + Send + Sync>;

/// Switches that force rare paths in simulations. Off unless a simulation turns them on: what is off is false and draws no
/// random bits.
///
/// A rare path keeps every promise. [`Buggify::breaks`] does not: it is for the few rules, about who mints and which layouts
/// count, that nothing between a node and its seams can break, so that a simulation can show that they are needed.
#[derive(Clone, Default)]
pub struct Buggify {
    decide: Option<Decide>,
    broken: Option<&'static str>,
}

impl Buggify {
    /// Asks `decide` at every switch, which is given the switch's name.
    #[must_use]
    pub fn new(decide: impl Fn(&'static str) -> bool + Send + Sync + 'static) -> Self {
        Self { decide: Some(Arc::new(decide)), broken: None }
    }

    /// The same switches, and the rule called `rule` is not kept.
    #[must_use]
    pub fn breaking(self, rule: Option<&'static str>) -> Self {
        Self { broken: rule, ..self }
    }

    /// Whether the rare path called `name` is to be taken now.
    #[must_use]
    pub fn at(&self, name: &'static str) -> bool {
        self.decide.as_ref().is_some_and(|decide| decide(name))
    }

    /// Whether the rule called `rule` is broken on purpose.
    #[must_use]
    pub fn breaks(&self, rule: &'static str) -> bool {
        self.broken == Some(rule)
    }
}

impl std::fmt::Debug for Buggify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.decide.is_some() || self.broken.is_some() { "Buggify(on)" } else { "Buggify(off)" })
    }
}

/// Everything a node is handed in place of the machine it runs on.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Random bits.
    pub entropy: Arc<Entropy>,
    /// This node's tasks.
    pub tasks: Tasks,
    /// Where synchronous work runs.
    pub blocking: Blocking,
    /// Rare paths, forced.
    pub buggify: Buggify,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("tasks", &self.tasks.len())
            .field("blocking", &self.blocking)
            .finish_non_exhaustive()
    }
}

/// A wait ended before what was waited for came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

impl Env {
    /// The real machine: its clocks, its entropy, threads for the disk.
    #[must_use]
    pub fn real() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(Entropy::system()),
            tasks: Tasks::default(),
            blocking: Blocking::Threads,
            buggify: Buggify::default(),
        }
    }

    /// Waits for `future` for at most `time`.
    pub async fn timeout<T>(&self, time: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        tokio::select! {
            biased;
            value = future => Ok(value),
            () = self.clock.sleep(time) => Err(Elapsed),
        }
    }
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where real time enters")]
    fn default() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        Mono(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place where real time enters")]
    fn wall(&self) -> Wall {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Wall(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place where real time enters")]
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}
