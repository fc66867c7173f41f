//! The timer of one connection, for hyper: how long it waits for a request's head.
//!
//! hyper makes a timer for every head and drops it when the head is there, which is nearly always at once: two visits to
//! the lock of the runtime's timers, and an allocation. Here a connection keeps one timer. It is set to the first head's
//! deadline and left alone while heads come in time; when it fires, it is set to the deadline of the head awaited then. So
//! a connection that is busy sets a timer once every [`ServeLimits::head_time`](super::ServeLimits::head_time), and a
//! deadline is kept as exactly as before.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

/// Makes what waits for the heads of one connection.
pub(super) struct HeadTimer {
    head_time: Duration,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// The timer that is kept.
struct Kept {
    until: Instant,
    sleep: Pin<Box<dyn Sleep>>,
    /// Whom it wakes.
    waker: Waker,
}

impl HeadTimer {
    /// For one connection whose heads may take `head_time`.
    pub(super) fn new(head_time: Duration) -> Self {
        Self { head_time, kept: Arc::default() }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + time)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        // hyper asks for nothing but the deadline of a head that is awaited from now on.
        let began = deadline.checked_sub(self.head_time).unwrap_or(deadline);
        Box::pin(HeadWait { began: Some(began), deadline, kept: Arc::clone(&self.kept) })
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}

/// Waits for one head.
struct HeadWait {
    /// When it began; none once it has been looked at.
    began: Option<Instant>,
    deadline: Instant,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl Sleep for HeadWait {}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut kept = this.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let began = this.began.take();
        if let (Some(kept), Some(began)) = (&*kept, began)
            && (began..=this.deadline).contains(&kept.until)
            && kept.waker.will_wake(cx.waker())
        {
            // It runs, and wakes this task in time to be set anew.
            return Poll::Pending;
        }
        let timer = TokioTimer::new();
        let kept = kept.get_or_insert_with(|| Kept {
            until: this.deadline,
            sleep: timer.sleep_until(this.deadline),
            waker: cx.waker().clone(),
        });
        if kept.until > this.deadline {
            kept.until = this.deadline;
            timer.reset(&mut kept.sleep, this.deadline);
        }
        kept.waker.clone_from(cx.waker());
        loop {
            ready!(kept.sleep.as_mut().poll(cx));
            if kept.until >= this.deadline {
                return Poll::Ready(());
            }
            kept.until = this.deadline;
            timer.reset(&mut kept.sleep, this.deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_TIME: Duration = Duration::from_secs(30);

    /// Awaits a head for `time`; whether it was too late.
    async fn late(timer: &HeadTimer, time: Duration) -> bool {
        let wait = timer.sleep_until(timer.now() + HEAD_TIME);
        tokio::select! {
            biased;
            () = wait => true,
            () = TokioTimer::new().sleep(time) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_head_has_all_of_its_time_and_no_more() {
        let timer = HeadTimer::new(HEAD_TIME);
        let began = timer.now();
        for seconds in [1, 29, 0, 20, 29, 29, 3] {
            assert!(!late(&timer, Duration::from_secs(seconds)).await, "{seconds} s");
        }
        let waited_from = timer.now();
        assert_eq!(waited_from - began, Duration::from_secs(111));
        assert!(late(&timer, Duration::from_secs(40)).await);
        let took = timer.now() - waited_from;
        assert!((HEAD_TIME..HEAD_TIME + Duration::from_millis(5)).contains(&took), "{took:?}");
        // A deadline that has passed is told at once, and the next head has its time again.
        assert!(!late(&timer, Duration::from_secs(29)).await);
        assert!(late(&timer, Duration::from_secs(31)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_before_the_kept_one_is_kept_too() {
        let timer = HeadTimer::new(HEAD_TIME);
        assert!(!late(&timer, Duration::from_secs(1)).await);
        let began = timer.now();
        timer.sleep_until(began + Duration::from_secs(2)).await;
        let took = timer.now() - began;
        assert!((2000..2005).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_is_woken_all_the_same() {
        let timer = Arc::new(HeadTimer::new(HEAD_TIME));
        assert!(!late(&timer, Duration::from_secs(1)).await);
        let other = Arc::clone(&timer);
        let tasks = tokio_util::task::TaskTracker::new();
        let found = tasks.spawn(async move { late(&other, Duration::from_secs(60)).await });
        assert!(found.await.unwrap());
    }
}
