//! A budget for what is done beside the request itself: retries, hedges.

/// Every request earns a fraction of an extra one, every extra one spends a whole. So extras are at most that fraction of
/// the requests, beside a small reserve: a system that fails is not asked twice as often (anchor: Finagle's retry budget).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    per_mille: u64,
    reserve: u64,
    /// In thousandths of an extra.
    saved: u64,
}

impl Budget {
    /// At most `per_mille` extras in a thousand requests, beside `reserve` at once.
    #[must_use]
    pub const fn new(per_mille: u32, reserve: u32) -> Self {
        let reserve = reserve as u64 * 1000;
        Self { per_mille: per_mille as u64, reserve, saved: reserve }
    }

    /// Hedged reads: at most 5 % extra (semantics section 4).
    #[must_use]
    pub const fn hedging() -> Self {
        Self::new(50, 10)
    }

    /// A request was made.
    pub fn earn(&mut self) {
        self.saved = (self.saved + self.per_mille).min(self.reserve.max(1000));
    }

    /// Whether one extra may be made now; if so it is spent.
    pub fn spend(&mut self) -> bool {
        let enough = self.saved >= 1000;
        if enough {
            self.saved -= 1000;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_percent_after_the_reserve() {
        let mut budget = Budget::hedging();
        let mut spent = 0;
        for _ in 0..1000 {
            budget.earn();
            spent += u32::from(budget.spend());
        }
        assert_eq!(spent, 10 + 49, "the reserve, full when the first earned, and one in twenty");
    }

    proptest! {
        #[test]
        fn extras_are_a_fraction_of_requests(
            per_mille in 0u32..2000, reserve in 0u32..20, steps in proptest::collection::vec(any::<bool>(), 0..400),
        ) {
            let mut budget = Budget::new(per_mille, reserve);
            let (mut earned, mut spent) = (0u64, 0u64);
            for extra in steps {
                if extra {
                    spent += u64::from(budget.spend());
                } else {
                    budget.earn();
                    earned += 1;
                }
                prop_assert!(spent * 1000 <= u64::from(reserve) * 1000 + earned * u64::from(per_mille));
            }
        }

        #[test]
        fn quiet_times_save_no_more_than_the_reserve(reserve in 1u32..20, quiet in 0u32..10_000) {
            let mut budget = Budget::new(100, reserve);
            (0..quiet).for_each(|_| budget.earn());
            prop_assert_eq!((0..100).filter(|_| budget.spend()).count(), reserve as usize);
        }
    }
}
