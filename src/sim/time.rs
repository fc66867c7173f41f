//! Virtual time: a runtime that runs by itself from one timer to the next, and a clock per node.
//!
//! tokio's timers count milliseconds. A simulation wants microseconds, so **one millisecond of the paused tokio clock
//! is one simulated microsecond**: a simulated second is a thousand tokio seconds, which cost nothing, because a paused
//! clock jumps to the next timer when every task waits.
//!
//! A node's [`SimClock`] has a monotonic clock that starts with its process, and a wall clock that can be wrong: skewed,
//! drifting, jumping. **Pause** (SIGSTOP): no timer of a paused node fires and `net` delivers nothing to or from it
//! until it is resumed; its monotonic clock runs on, as a stopped process finds it. What is not simulated: a task that
//! needs neither a timer nor a message (one of its own tasks woke it) still runs.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use crate::env::{BoxFuture, Clock};
use crate::types::{Mono, Wall};

/// What every wall clock shows when a simulation starts: 2026-01-01T00:00:00Z.
pub const START: Wall = Wall(1_767_225_600_000);

/// The build cannot simulate: a panic in a task would be swallowed and `select!` would be unseeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "this build cannot simulate: it lacks `--cfg tokio_unstable`, so a panic in a task would pass unseen and runs would \
     not repeat. The repository's .cargo/config.toml sets it; a RUSTFLAGS variable replaces that line silently: unset \
     it, or add `--cfg tokio_unstable` to it"
)]
pub struct CannotSimulate;

/// The one clock behind all simulated clocks: microseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub struct SimTime {
    origin: tokio::time::Instant,
}

impl SimTime {
    #[allow(clippy::disallowed_methods, reason = "the paused clock of a simulation")]
    fn start() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    /// Microseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until this many microseconds after the beginning.
    #[allow(clippy::disallowed_methods, reason = "the paused clock of a simulation")]
    pub async fn until(&self, micros: u64) {
        tokio::time::sleep_until(self.origin + Duration::from_millis(micros)).await;
    }

    /// Waits, in simulated time.
    pub async fn sleep(&self, time: Duration) {
        self.until(self.now().saturating_add(micros(time))).await;
    }
}

/// A duration in whole microseconds, rounded up: a wait is never cut short.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// Says which seed to blame if the run panics.
struct Blame(u64);

impl Drop for Blame {
    #[allow(clippy::print_stderr, reason = "the one line that makes a failure repeatable")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation failed: seed {}", self.0);
        }
    }
}

/// Runs `body` in virtual time until it completes. The seed decides the order of what is ready at once.
///
/// # Errors
/// [`CannotSimulate`] where the build lacks `--cfg tokio_unstable`.
///
/// # Panics
/// If any task panics, spawned ones included: a simulation has no panics to survive. The seed is printed.
///
/// ```
/// use std::time::Duration;
/// let micros = quorate::sim::time::run(1, |time| async move {
///     time.sleep(Duration::from_secs(3600)).await;
///     time.now()
/// });
/// assert_eq!(micros, Ok(3_600_000_000));
/// ```
pub fn run<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(SimTime) -> F) -> Result<T, CannotSimulate> {
    let runtime = runtime(seed)?;
    let _blame = Blame(seed);
    Ok(runtime.block_on(async { body(SimTime::start()).await }))
}

#[cfg(tokio_unstable)]
fn runtime(seed: u64) -> Result<tokio::runtime::Runtime, CannotSimulate> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .unhandled_panic(tokio::runtime::UnhandledPanic::ShutdownRuntime)
        .build();
    Ok(built.expect("a runtime of one thread without I/O needs nothing of the machine"))
}

#[cfg(not(tokio_unstable))]
fn runtime(_seed: u64) -> Result<tokio::runtime::Runtime, CannotSimulate> {
    Err(CannotSimulate)
}

/// How a wall clock runs: what it showed at some simulated time, and how fast it has gone since.
#[derive(Clone, Copy, Debug)]
struct Course {
    shown: i128,
    since: u64,
    drift_ppm: i64,
    born: u64,
}

impl Course {
    fn wall(&self, now: u64) -> i128 {
        let passed = i128::from(now.saturating_sub(self.since));
        self.shown + passed + passed * i128::from(self.drift_ppm) / 1_000_000
    }
}

/// One node's clocks. Shared by all lives of a node: its machine's wall clock survives a crash.
#[derive(Debug)]
pub struct SimClock {
    time: SimTime,
    course: Mutex<Course>,
    paused: watch::Sender<bool>,
}

impl SimClock {
    /// Clocks that are right.
    #[must_use]
    pub fn new(time: SimTime) -> Arc<Self> {
        let now = time.now();
        let course = Course { shown: true_wall(now), since: now, drift_ppm: 0, born: now };
        Arc::new(Self { time, course: Mutex::new(course), paused: watch::Sender::new(false) })
    }

    /// The clock behind it.
    #[must_use]
    pub const fn time(&self) -> SimTime {
        self.time
    }

    /// Sets the wall clock forward or back.
    pub fn jump(&self, by_millis: i64) {
        self.change(|course| course.shown += i128::from(by_millis) * 1_000);
    }

    /// Lets the wall clock gain (or lose) this many microseconds a second from now on.
    pub fn drift(&self, ppm: i64) {
        self.change(|course| course.drift_ppm = ppm);
    }

    /// Makes the wall clock right again.
    pub fn correct(&self) {
        let now = self.time.now();
        self.change(|course| (course.shown, course.drift_ppm) = (true_wall(now), 0));
    }

    /// A new process starts on this machine: its monotonic clock starts again, and it is not paused.
    pub fn reboot(&self) {
        self.course().born = self.time.now();
        self.resume();
    }

    /// Holds every timer of this node. Use `SimNet::pause`, which holds its messages, too.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Lets the timers that are due fire.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Whether its timers are held.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    fn change(&self, how: impl FnOnce(&mut Course)) {
        let now = self.time.now();
        let mut course = self.course();
        (course.shown, course.since) = (course.wall(now), now);
        how(&mut course);
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn true_wall(now: u64) -> i128 {
    i128::from(START.0) * 1_000 + i128::from(now)
}

impl Clock for SimClock {
    fn now(&self) -> Mono {
        Mono(self.time.now().saturating_sub(self.course().born))
    }

    fn wall(&self) -> Wall {
        let shown = self.course().wall(self.time.now());
        Wall(u64::try_from(shown.max(0) / 1_000).unwrap_or(u64::MAX))
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let (clock, until) = (self.time, self.time.now().saturating_add(micros(time)));
        let mut paused = self.paused.subscribe();
        Box::pin(async move {
            clock.until(until).await;
            // A clock that is gone holds nobody.
            let _ = paused.wait_for(|paused| !paused).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Tasks;

    #[test]
    fn a_second_is_a_million_microseconds_and_costs_none() {
        let end = run(1, |time| async move {
            let clock = SimClock::new(time);
            clock.sleep(Duration::from_nanos(1)).await;
            assert_eq!(clock.now(), Mono(1), "rounded up");
            clock.sleep(Duration::from_secs(86_400)).await;
            (clock.now(), clock.wall())
        });
        assert_eq!(end, Ok((Mono(86_400_000_001), Wall(START.0 + 86_400_000))));
    }

    #[test]
    fn a_wall_clock_jumps_drifts_and_is_corrected_while_the_monotonic_one_runs_on() {
        run(1, |time| async move {
            let clock = SimClock::new(time);
            clock.drift(-1_000);
            clock.sleep(Duration::from_secs(100)).await;
            assert_eq!(clock.wall(), Wall(START.0 + 99_900));
            clock.jump(-50_000);
            assert_eq!(clock.wall(), Wall(START.0 + 49_900));
            clock.correct();
            assert_eq!((clock.wall(), clock.now()), (Wall(START.0 + 100_000), Mono(100_000_000)));
            clock.reboot();
            assert_eq!((clock.wall(), clock.now()), (Wall(START.0 + 100_000), Mono(0)));
        })
        .unwrap();
    }

    #[test]
    fn no_timer_of_a_paused_node_fires_until_it_is_resumed() {
        run(1, |time| async move {
            let (clock, other) = (SimClock::new(time), SimClock::new(time));
            let sleep = clock.sleep(Duration::from_millis(5));
            clock.pause();
            let tasks = Tasks::default();
            let (tell, mut told) = tokio::sync::oneshot::channel();
            tasks.spawn(async move {
                sleep.await;
                let _ = tell.send(());
            });
            other.sleep(Duration::from_secs(1)).await;
            assert!(told.try_recv().is_err());
            clock.resume();
            told.await.unwrap();
            assert_eq!(clock.now(), Mono(1_000_000), "its monotonic clock ran on");
        })
        .unwrap();
    }

    #[test]
    fn a_panic_in_a_task_ends_the_run() {
        let ended = std::panic::catch_unwind(|| {
            run(7, |time| async move {
                Tasks::default().spawn(async { panic!("on purpose") });
                time.sleep(Duration::from_secs(1)).await;
            })
        });
        assert!(ended.is_err());
    }
}
