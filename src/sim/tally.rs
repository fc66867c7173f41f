//! What happened in a run. A run in which nothing went wrong proves little: whoever sums tallies over many seeds can
//! say that no rare path was never taken.

use std::collections::BTreeMap;
use std::fmt;

use super::rare;
use crate::metrics::Metrics;

/// Counts of rare things, summed over all lives of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Operations that clients began.
    pub operations: u64,
    /// Of those, answered.
    pub answered: u64,
    /// Of those, of unknown outcome.
    pub unknown: u64,
    /// Processes that ended.
    pub lives: u64,
    /// Processes that mint as somebody else than the one before.
    pub incarnations: u64,
    /// Writes that left siblings.
    pub siblings: u64,
    /// Replicas mended by reads.
    pub read_repairs: u64,
    /// Reads sent to one more replica.
    pub hedges: u64,
    /// Operations handed over to an owner.
    pub handovers: u64,
    /// Keys put into quarantine.
    pub quarantines: u64,
    /// Proofs that a directory went back.
    pub rollbacks: u64,
    /// Writes answered as the first time.
    pub replays: u64,
    /// Commits that failed.
    pub commit_failures: u64,
    /// Dots met with two values.
    pub clashes: u64,
    /// Directories wiped.
    pub wipes: u64,
    /// Processes started on a copy of another's directory.
    pub copies: u64,
    /// Clean stops.
    pub stops: u64,
    /// Exchanges of gossip that nodes opened.
    pub exchanges: u64,
    /// Of those, between nodes that knew the same.
    pub equals: u64,
    /// News of nodes that gossip brought.
    pub changes: u64,
    /// Layouts that were asked for and decided.
    pub layouts: u64,
    /// Of those, changes of a bucket's n.
    pub replicas: u64,
    /// Records damaged while layouts changed.
    pub damaged: u64,
    /// Machines that lost power, and what they had not flushed, while layouts changed.
    pub unflushed: u64,
    /// Directories that went back while layouts changed.
    pub rolled_back: u64,
    /// Operations that went on under other layouts than they began with.
    pub retries: u64,
    /// Requests refused because of layouts.
    pub refused: u64,
    /// Partitions merged whole from one source.
    pub transfers: u64,
    /// Hints left for owners that missed a write.
    pub hints: u64,
    /// Of those, sent.
    pub hints_replayed: u64,
    /// Of those, dropped.
    pub hints_dropped: u64,
    /// Hints of fallbacks that counted in the place of owners.
    pub stand_ins: u64,
    /// Writes that fallbacks coordinated.
    pub stood_in: u64,
    /// Reads that fallbacks were asked for.
    pub sloppy_reads: u64,
    /// Floors that had to be looked for at every owner, and were found.
    pub widened: u64,
    /// Floors that were not met.
    pub unmet: u64,
    /// Objects deleted where they are not owned any more, or not yet.
    pub forgotten: u64,
    /// Deleted objects that rounds of collection removed for good.
    pub collected: u64,
    /// Object states refused because they were read before such a round. Rare: none in dozens of seeds is no surprise.
    pub too_old: u64,
    /// Rare paths forced, by name.
    pub forced: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds what one process counted.
    pub fn add_life(&mut self, metrics: &Metrics) {
        let Metrics { quorum, sessions, replica, gossip, layout, hints, collect, .. } = metrics;
        self.add(&Self {
            lives: 1,
            siblings: quorum.sibling_writes.get(),
            read_repairs: quorum.read_repairs.get(),
            hedges: quorum.hedges.get(),
            handovers: quorum.handovers.get(),
            replays: quorum.replays.get(),
            quarantines: replica.quarantines.get(),
            rollbacks: replica.rollback_proofs.get(),
            commit_failures: replica.commit_failures.get(),
            clashes: replica.dot_clashes.get(),
            exchanges: gossip.exchanges.get(),
            equals: gossip.equal.get(),
            changes: gossip.changes.get(),
            retries: layout.retries.get(),
            refused: layout.refused.get(),
            transfers: layout.transfers.get(),
            forgotten: replica.forgotten.get(),
            collected: collect.dropped.get(),
            too_old: collect.refused.get(),
            hints: hints.left.get(),
            hints_replayed: hints.replayed.get(),
            hints_dropped: hints.all_dropped(),
            stand_ins: quorum.stand_ins.get(),
            stood_in: quorum.stood_in.get(),
            sloppy_reads: quorum.sloppy_reads.get(),
            widened: sessions.widened.get(),
            unmet: sessions.unmet.get(),
            ..Self::default()
        });
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.lives += other.lives;
        self.incarnations += other.incarnations;
        self.siblings += other.siblings;
        self.read_repairs += other.read_repairs;
        self.hedges += other.hedges;
        self.handovers += other.handovers;
        self.quarantines += other.quarantines;
        self.rollbacks += other.rollbacks;
        self.replays += other.replays;
        self.commit_failures += other.commit_failures;
        self.clashes += other.clashes;
        self.wipes += other.wipes;
        self.copies += other.copies;
        self.stops += other.stops;
        self.exchanges += other.exchanges;
        self.equals += other.equals;
        self.changes += other.changes;
        self.layouts += other.layouts;
        self.replicas += other.replicas;
        self.damaged += other.damaged;
        self.unflushed += other.unflushed;
        self.rolled_back += other.rolled_back;
        self.retries += other.retries;
        self.refused += other.refused;
        self.transfers += other.transfers;
        self.forgotten += other.forgotten;
        self.collected += other.collected;
        self.too_old += other.too_old;
        self.hints += other.hints;
        self.hints_replayed += other.hints_replayed;
        self.hints_dropped += other.hints_dropped;
        self.stand_ins += other.stand_ins;
        self.stood_in += other.stood_in;
        self.sloppy_reads += other.sloppy_reads;
        self.widened += other.widened;
        self.unmet += other.unmet;
        for (name, times) in &other.forced {
            *self.forced.entry(name).or_default() += times;
        }
    }

    /// What should sometimes happen while layouts change, in so many seeds, and never did. Losses are rare, for a run stops
    /// at the copies that the promises need: twenty seeds without any are not unlikely, two hundred are.
    #[must_use]
    pub fn never_moved(&self, seeds: u64) -> Vec<&'static str> {
        let often = [
            ("layouts", self.layouts),
            ("another n", self.replicas),
            ("retries", self.retries),
            ("refused requests", self.refused),
            ("transfers", self.transfers),
            ("forgotten objects", self.forgotten),
        ];
        let rare = [
            ("damaged records", self.damaged),
            ("quarantines", self.quarantines),
            ("power cuts without a flush", self.unflushed),
            ("directories that went back", self.rolled_back),
            ("rollback proofs", self.rollbacks),
        ];
        let counted = often.into_iter().chain(rare.into_iter().filter(|_| seeds >= 200));
        counted.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// What should sometimes happen in sloppy runs and never did.
    #[must_use]
    pub fn never_sloppy(&self) -> Vec<&'static str> {
        let counted = [
            ("hints in the place of owners", self.stand_ins),
            ("writes coordinated by fallbacks", self.stood_in),
            ("sloppy reads", self.sloppy_reads),
            ("replayed hints", self.hints_replayed),
        ];
        counted.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// What should sometimes happen in runs with sessions and never did.
    #[must_use]
    pub fn never_in_sessions(&self) -> Vec<&'static str> {
        let counted = [("widened reads", self.widened), ("unmet floors", self.unmet), ("hand-overs", self.handovers)];
        counted.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// What should sometimes happen and never did.
    #[must_use]
    pub fn never(&self) -> Vec<&'static str> {
        let counted = [
            ("siblings", self.siblings),
            ("read repairs", self.read_repairs),
            ("hedges", self.hedges),
            ("hand-overs", self.handovers),
            ("quarantines", self.quarantines),
            ("incarnation changes", self.incarnations),
            ("rollback proofs", self.rollbacks),
            ("replays", self.replays),
            ("failed commits", self.commit_failures),
            ("unknown outcomes", self.unknown),
            ("clean stops", self.stops),
            ("gossip exchanges", self.exchanges),
            ("exchanges between equals", self.equals),
            ("news by gossip", self.changes),
            ("hints", self.hints),
            ("replayed hints", self.hints_replayed),
            ("collected tombstones", self.collected),
        ];
        let forced = rare::PATHS.iter().map(|(name, _)| *name).chain([rare::LAG]);
        let forced = forced.map(|name| (name, self.forced.get(name).copied().unwrap_or(0)));
        counted.into_iter().chain(forced).filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations ({} answered, {} unknown), {} lives, {} new incarnations, {} sibling writes, {} read \
             repairs, {} hedges, {} hand-overs, {} quarantines, {} rollback proofs, {} replays, {} failed commits, {} \
             dot clashes, {} wipes, {} copies, {} clean stops, {} gossip exchanges ({} between equals, {} news), {} \
             layouts asked for ({} of them for another n), {} records damaged, {} power cuts and {} directories gone \
             back meanwhile, {} retries under others, {} requests refused for them, {} transfers, {} objects forgotten, \
             {} collected, {} states too old for that, {} hints ({} replayed, {} dropped), {} stand-ins ({} of them for \
             writes of their own), {} sloppy reads, {} floors found elsewhere, {} unmet; forced: {:?}",
            self.operations,
            self.answered,
            self.unknown,
            self.lives,
            self.incarnations,
            self.siblings,
            self.read_repairs,
            self.hedges,
            self.handovers,
            self.quarantines,
            self.rollbacks,
            self.replays,
            self.commit_failures,
            self.clashes,
            self.wipes,
            self.copies,
            self.stops,
            self.exchanges,
            self.equals,
            self.changes,
            self.layouts,
            self.replicas,
            self.damaged,
            self.unflushed,
            self.rolled_back,
            self.retries,
            self.refused,
            self.transfers,
            self.forgotten,
            self.collected,
            self.too_old,
            self.hints,
            self.hints_replayed,
            self.hints_dropped,
            self.stand_ins,
            self.stood_in,
            self.sloppy_reads,
            self.widened,
            self.unmet,
            self.forced
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_named() {
        let mut all = Tally { siblings: 1, read_repairs: 1, hedges: 1, handovers: 1, ..Tally::default() };
        all.add(&Tally { quarantines: 1, incarnations: 1, rollbacks: 1, unknown: 2, ..Tally::default() });
        all.add(&Tally { hints: 2, hints_replayed: 1, collected: 1, ..Tally::default() });
        all.add(&Tally { exchanges: 2, equals: 1, changes: 1, ..Tally::default() });
        all.add(&Tally { stops: 1, forced: rare::PATHS.map(|(name, _)| (name, 1)).into(), ..Tally::default() });
        all.add(&Tally { stand_ins: 1, sloppy_reads: 2, ..Tally::default() });
        all.add(&Tally { widened: 1, ..Tally::default() });
        assert_eq!(all.never_in_sessions(), ["unmet floors"]);
        assert_eq!(all.never_sloppy(), ["writes coordinated by fallbacks"]);
        assert_eq!(all.never(), ["replays", "failed commits", rare::LAG]);
    }
}
