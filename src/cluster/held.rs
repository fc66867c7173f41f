//! What is in flight, and how old: the writes that this node coordinates or has accepted and not finished.
//!
//! A node acks a layout only once nothing of its own is in flight on anything older (`ring::live::View::may_ack`).
//! Whoever begins a write takes a [`Guard`] *first* and looks at the layouts afterwards: so what it uses is at least as
//! new as its guard says, whatever happens in between.
//!
//! Bound: one counter for each layout that something is still in flight on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The register. Clones are the same register.
#[derive(Clone, Debug, Default)]
pub struct Held {
    register: Arc<Mutex<Register>>,
}

#[derive(Debug, Default)]
struct Register {
    head: u64,
    held: BTreeMap<u64, usize>,
}

/// Something is in flight for as long as this lives.
#[derive(Debug)]
pub struct Guard {
    register: Arc<Mutex<Register>>,
    head: u64,
}

impl Held {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A newer layout has been published: what begins from here on uses it.
    pub(super) fn published(&self, head: u64) {
        let mut register = self.register();
        register.head = register.head.max(head);
    }

    /// Something begins.
    #[must_use]
    pub fn take(&self) -> Guard {
        let mut register = self.register();
        let head = register.head;
        *register.held.entry(head).or_default() += 1;
        Guard { register: Arc::clone(&self.register), head }
    }

    /// The newest layout known to the oldest that is still in flight; none while nothing is.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.register().held.keys().next().copied()
    }

    /// How many are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.register().held.values().sum()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = register.held.get_mut(&self.head) {
            *count -= 1;
            if *count == 0 {
                register.held.remove(&self.head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_in_flight_is_told_until_it_has_ended() {
        let held = Held::default();
        held.published(1);
        let (one, two) = (held.take(), held.take());
        held.published(3);
        held.published(2);
        let three = held.take();
        assert_eq!((held.oldest(), held.count()), (Some(1), 3));
        drop(one);
        assert_eq!(held.oldest(), Some(1), "the other one is as old");
        drop(two);
        assert_eq!(held.oldest(), Some(3), "a head never goes back");
        drop(three);
        assert_eq!((held.oldest(), held.count()), (None, 0));
    }
}
