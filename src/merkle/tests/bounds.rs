//! Nothing is without bound: messages, what is listed, how often is asked.

use super::*;

fn name(len: usize, n: u32) -> Vec<u8> {
    let mut name = vec![b'k'; len - 4];
    name.extend(n.to_be_bytes());
    name
}

#[test]
fn a_side_that_holds_nothing_gets_all_names_in_messages_of_bounded_size() {
    for (len, keys, leaves) in [(1100, 3000, 1), (1100, 3000, 256), (30, 20_000, 1), (30, 20_000, 256)] {
        for side in [A, B] {
            let mut maps = Maps::default();
            for n in 0..keys {
                maps.put(side, 0, (n % leaves) as u8, &name(len, n), 1);
            }
            let told = round(&mut maps, 1, &terms(5, Width::Full));
            let exchange = if side == A { Exchange::Send } else { Exchange::Fetch };
            assert_eq!(told.found.len(), keys as usize);
            assert!(told.found.values().all(|found| *found == exchange));
            assert!(told.largest.0 <= REQUEST_MAX && told.largest.1 <= REPLY_MAX, "{:?}", told.largest);
            let names = if side == A { 0 } else { len + 6 };
            assert!(told.walk_bytes < keys as usize * (names + 60), "{} bytes for {keys} keys", told.walk_bytes);
        }
    }
}

#[test]
fn however_much_differs_few_nodes_are_open() {
    let (partitions, keys) = (16, 100_000_u32);
    let mut maps = Maps::default();
    for n in 0..keys {
        maps.put(A, n % partitions, (n / partitions) as u8, &n.to_be_bytes(), 1);
    }
    let told = round(&mut maps, partitions, &terms(5, Width::Full));
    assert_eq!(told.found.len(), keys as usize);
    println!(
        "{} requests, at most {} nodes open, {} bytes a key",
        told.requests,
        told.most_open,
        told.walk_bytes as u32 / keys
    );
    assert!(told.most_open < 4 * NODES_MAX * 7, "{}", told.most_open);
}

#[test]
fn a_survey_without_room_lists_some_nodes_and_says_of_the_others_that_it_had_none() {
    let terms = terms(1, Width::Short);
    let nodes: Vec<(Node, usize)> = (256..512).map(|number| (Node::new(number).unwrap(), 4)).collect();
    let mut maps = Maps::default();
    for n in 0..2000_u32 {
        // Leaf 0 has one key, 1 has six, the others eight.
        let leaf = if n == 0 {
            0
        } else if n < 7 {
            1
        } else {
            2 + (n % 250) as u8
        };
        maps.put(B, 0, leaf, &name(36, n), 1);
    }
    let mut survey = Survey::new(&terms, &nodes, 300);
    maps.each(B, PartitionId(0), &mut |entry| survey.offer(entry));
    let said: Vec<&super::super::survey::Keys> =
        nodes.iter().map(|(node, _)| &survey.node(*node).unwrap().keys).collect();
    use super::super::survey::Keys;
    assert!(said.iter().filter(|keys| matches!(keys, Keys::Listed(keys) if !keys.is_empty())).count() >= 1);
    assert!(said.iter().filter(|keys| matches!(keys, Keys::NoRoom)).count() > 200);
    let listed: usize = said.iter().map(|keys| if let Keys::Listed(keys) = keys { keys.len() } else { 0 }).sum();
    assert!(listed * 104 <= 300, "{listed}");
    // With room, by how many there are.
    let mut survey = Survey::new(&terms, &nodes, 1 << 20);
    maps.each(B, PartitionId(0), &mut |entry| survey.offer(entry));
    let keys = |number| &survey.node(Node::new(number).unwrap()).unwrap().keys;
    assert!(matches!(keys(256), Keys::Listed(keys) if keys.len() == 1));
    assert!(matches!(keys(257), Keys::TooMany));
}

#[test]
fn what_had_no_room_in_a_reply_is_asked_again_and_found() {
    let mut maps = Maps::default();
    // 200 leaves with names of 4 KiB in all each: far more than one reply takes.
    for n in 0..800 {
        maps.put(B, 0, (n % 200) as u8, &name(1100, n), 1);
    }
    let told = round(&mut maps, 1, &terms(9, Width::Short));
    assert_eq!(told.found.len(), 800);
    assert!(told.requests > 14 && told.requests < 40, "{}", told.requests);
    assert!(told.largest.1 <= REPLY_MAX);
}
