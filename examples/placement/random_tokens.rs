//! What the planner is compared with: consistent hashing with random tokens (Dynamo's strategy 1, Cassandra's virtual
//! nodes). Every node draws tokens on the ring of 2^64; a key belongs to the first n different nodes clockwise.

/// Splitmix64: the figures must be the same wherever they are computed.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// Greatest load over mean load of `nodes` equal nodes that drew `tokens` tokens each, `n` replicas.
pub(crate) fn max_over_mean(nodes: usize, tokens: usize, n: usize, seed: u64) -> f64 {
    let loads = loads(nodes, tokens, n, seed);
    loads.iter().fold(0.0, |most: f64, load| most.max(*load)) * nodes as f64 / n.min(nodes) as f64
}

/// What the last of `nodes` nodes takes over when it joins, relative to the mean share: all that moves, because a token
/// more or less changes nothing between other nodes.
pub(crate) fn moved_by_a_joiner(nodes: usize, tokens: usize, n: usize, seed: u64) -> f64 {
    let loads = loads(nodes, tokens, n, seed);
    loads.last().map_or(0.0, |load| load * nodes as f64 / n.min(nodes) as f64)
}

/// Per node, the part of all keys it holds a replica of.
fn loads(nodes: usize, tokens: usize, n: usize, seed: u64) -> Vec<f64> {
    // A stream per node, so that a node's tokens do not depend on how many others there are.
    let mut ring: Vec<(u64, usize)> = (0..nodes)
        .flat_map(|node| {
            let mut drawn = Seeded(Seeded(seed ^ (node as u64) << 20).next());
            (0..tokens).map(move |_| (drawn.next(), node)).collect::<Vec<_>>()
        })
        .collect();
    ring.sort_unstable();
    let mut loads = vec![0.0; nodes];
    for (at, (token, _)) in ring.iter().enumerate() {
        let before = ring[(at + ring.len() - 1) % ring.len()].0;
        let arc = if ring.len() == 1 { 1.0 } else { token.wrapping_sub(before) as f64 / 2f64.powi(64) };
        let mut owners: Vec<usize> = Vec::with_capacity(n);
        for (_, node) in ring[at..].iter().chain(&ring[..at]) {
            if !owners.contains(node) {
                owners.push(*node);
                loads[*node] += arc;
                if owners.len() == n.min(nodes) {
                    break;
                }
            }
        }
    }
    loads
}
