//! What an operation waits for.
//!
//! As many futures as an object has replicas, so all of them are looked at whenever one wakes the task: that costs less
//! than a waker and an allocation for each, which is what telling them apart takes.

use std::future::poll_fn;
use std::task::Poll;

use crate::env::BoxFuture;

/// Futures under way, in no order.
pub(super) struct Pending<T>(Vec<BoxFuture<'static, T>>);

impl<T> Pending<T> {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(2))
    }

    pub(super) fn push(&mut self, future: BoxFuture<'static, T>) {
        self.0.push(future);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the next one to end says; none if there is none. May be dropped and asked for again.
    pub(super) fn next(&mut self) -> impl Future<Output = Option<T>> + '_ {
        poll_fn(|cx| {
            for at in 0..self.0.len() {
                if let Poll::Ready(said) = self.0[at].as_mut().poll(cx) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(Some(said));
                }
            }
            if self.0.is_empty() { Poll::Ready(None) } else { Poll::Pending }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn each_ends_once_in_whatever_order_and_then_there_is_none() {
        let mut pending = Pending::new();
        assert_eq!(pending.next().await, None);
        let mut ends = Vec::new();
        for number in 0..3 {
            let (end, ended) = oneshot::channel::<()>();
            ends.push(end);
            pending.push(Box::pin(async move {
                ended.await.unwrap();
                number
            }));
        }
        let first = ends.remove(1);
        let (next, ()) = tokio::join!(pending.next(), async move { first.send(()).unwrap() });
        assert_eq!(next, Some(1));
        ends.into_iter().for_each(|end| end.send(()).unwrap());
        let mut rest = [pending.next().await, pending.next().await];
        rest.sort_unstable();
        assert_eq!(rest, [Some(0), Some(2)]);
        assert!(pending.is_empty());
        assert_eq!(pending.next().await, None);
    }
}
