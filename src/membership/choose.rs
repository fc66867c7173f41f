//! Whom to gossip with.

/// Whom to open an exchange with in this round, each once: up to `fanout` of the live ones, sometimes a dead one, and
/// sometimes a seed. None of the lists holds this node.
///
/// The dead one is how a node that came back is found by those who gave it up: the more are dead, the likelier. The
/// seed is how two halves of a cluster that know nothing of each other, or only think each other dead, become one
/// again; it is asked for certain while nobody is live, and else as rarely as keeps a seed from being everybody's
/// partner.
///
/// `roll(n)` gives a random number below n; it is never asked for one below 0.
pub fn choose<T: Clone + PartialEq>(
    live: &[T],
    dead: &[T],
    seeds: &[T],
    fanout: usize,
    mut roll: impl FnMut(usize) -> usize,
) -> Vec<T> {
    let mut pool: Vec<&T> = live.iter().collect();
    let mut chosen: Vec<T> = Vec::with_capacity(fanout + 2);
    while chosen.len() < fanout && !pool.is_empty() {
        let at = roll(pool.len());
        chosen.push(pool.swap_remove(at).clone());
    }
    let mut add = |from: &[T], roll: &mut dyn FnMut(usize) -> usize| {
        let one = &from[roll(from.len())];
        if !chosen.contains(one) {
            chosen.push(one.clone());
        }
    };
    // One of so many: dead / (live + 1), at most 1.
    if !dead.is_empty() && roll(live.len() + 1) < dead.len() {
        add(dead, &mut roll);
    }
    // One of so many: seeds / (live + dead), certain while nobody is live.
    if !seeds.is_empty() && (live.is_empty() || roll(live.len() + dead.len()) < seeds.len()) {
        add(seeds, &mut roll);
    }
    chosen
}
