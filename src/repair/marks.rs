//! Which of the partitions that hints were dropped of are to be compared now. Pure: the marks themselves are the replica's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{Mono, PartitionId};

/// How long nothing was dropped in a partition that is marked, before it is compared.
const RIPENS: Duration = Duration::from_secs(25);

/// Partitions of which hints were dropped.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// What was last told of each, and since when that is so.
    seen: BTreeMap<PartitionId, (u64, Mono)>,
    /// The one compared last.
    last: Option<PartitionId>,
}

impl Marks {
    /// Those of which nothing was dropped for a while, from the one after the last that was compared: what was written just
    /// now is left out of comparisons, and a partition that cannot be compared stops no other.
    pub(super) fn ripe(&mut self, told: &BTreeMap<PartitionId, u64>, now: Mono) -> Vec<(PartitionId, u64)> {
        self.seen.retain(|partition, _| told.contains_key(partition));
        for (partition, told) in told {
            let seen = self.seen.entry(*partition).or_insert((*told, now));
            if seen.0 != *told {
                *seen = (*told, now);
            }
        }
        let ripe = self.seen.iter().filter(|(_, (_, since))| now.since(*since) >= RIPENS);
        let (before, behind): (Vec<_>, Vec<_>) = ripe
            .map(|(partition, (told, _))| (*partition, *told))
            .partition(|(partition, _)| self.last.is_some_and(|last| *partition <= last));
        behind.into_iter().chain(before).collect()
    }

    /// This one is compared now: it comes last next time.
    pub(super) const fn compared(&mut self, partition: PartitionId) {
        self.last = Some(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_ripen_and_take_turns() {
        let at = |seconds: u64| Mono(seconds * 1_000_000);
        let told = |counts: &[(u32, u64)]| counts.iter().map(|(p, told)| (PartitionId(*p), *told)).collect();
        let mut marks = Marks::default();
        assert_eq!(marks.ripe(&told(&[(1, 1), (2, 1)]), at(0)), []);
        assert_eq!(marks.ripe(&told(&[(1, 1), (2, 2)]), at(20)), [], "something was dropped in 2 since");
        assert_eq!(marks.ripe(&told(&[(1, 1), (2, 2)]), at(30)), [(PartitionId(1), 1)]);
        marks.compared(PartitionId(1));
        let both = [(PartitionId(2), 2), (PartitionId(1), 1)];
        assert_eq!(marks.ripe(&told(&[(1, 1), (2, 2)]), at(60)), both, "the one that was compared comes last");
        assert_eq!(marks.ripe(&told(&[]), at(61)), []);
    }
}
