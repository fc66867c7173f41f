//! The one encoding of a chain and of a tracker, stored and sent.
//!
//! Canonical, as the layouts in it are: fixed widths, big endian, a version byte in front, sets in ascending order.
//! What decodes has been checked whole ([`Chain::new`]), so that neither a disk nor a peer can bring in a layout that
//! follows nothing.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{Reader, put_count};
use super::layout::MEMBERS_MAX;
use super::{Chain, ChainError, Layout, LayoutError, Tracker};
use crate::types::StoreId;

const CHAIN_FORMAT: u8 = 1;
const TRACKER_FORMAT: u8 = 1;
/// Most layouts in a chain on the wire: live ones are a handful.
const LAYOUTS_MAX: usize = 1000;
/// Most stores that have ended; at one a day this is longer than anybody runs one cluster.
const ENDED_MAX: usize = 1_000_000;

/// Format | live from | count, ended store ids | count, length and encoding of each layout.
pub(super) fn encode(chain: &Chain) -> Bytes {
    let layouts: Vec<Bytes> = chain.layouts().iter().map(Layout::encode).collect();
    let size = layouts.iter().map(|layout| 4 + layout.len()).sum::<usize>() + 16 * chain.ended().len();
    let mut out = BytesMut::with_capacity(17 + size);
    out.put_u8(CHAIN_FORMAT);
    out.put_u64(chain.live_from());
    put_count(&mut out, chain.ended().len());
    chain.ended().iter().for_each(|store| out.put_slice(store.as_bytes()));
    put_count(&mut out, layouts.len());
    for layout in layouts {
        put_count(&mut out, layout.len());
        out.put_slice(&layout);
    }
    out.freeze()
}

/// Allocates no more than the bytes warrant.
pub(super) fn decode(bytes: &[u8]) -> Result<Chain, ChainError> {
    let mut from = Reader(bytes);
    format(&mut from, CHAIN_FORMAT)?;
    let live_from = from.u64()?;
    let mut ended = BTreeSet::new();
    for _ in 0..from.count(ENDED_MAX, "ended stores")? {
        ascends(&mut ended, StoreId::from_bits(u128::from_be_bytes(from.array()?)), "ended stores")?;
    }
    let mut layouts = Vec::new();
    for _ in 0..from.count(LAYOUTS_MAX, "chain")? {
        let length = from.u32()? as usize;
        layouts.push(Layout::decode(from.take(length)?)?);
    }
    end(&from)?;
    Chain::new(layouts, live_from, ended)
}

/// Format | ack | sync_ack | count, versions synced to.
pub(super) fn encode_tracker(tracker: &Tracker) -> Bytes {
    let mut out = BytesMut::with_capacity(21 + 8 * tracker.synced.len());
    out.put_u8(TRACKER_FORMAT);
    out.put_u64(tracker.ack);
    out.put_u64(tracker.sync_ack);
    put_count(&mut out, tracker.synced.len());
    tracker.synced.iter().for_each(|version| out.put_u64(*version));
    out.freeze()
}

pub(super) fn decode_tracker(bytes: &[u8]) -> Result<Tracker, LayoutError> {
    let mut from = Reader(bytes);
    format(&mut from, TRACKER_FORMAT)?;
    let (ack, sync_ack) = (from.u64()?, from.u64()?);
    let mut synced = BTreeSet::new();
    for _ in 0..from.count(MEMBERS_MAX, "tracker")? {
        ascends(&mut synced, from.u64()?, "tracker")?;
    }
    end(&from)?;
    Ok(Tracker { ack, synced, sync_ack })
}

fn format(from: &mut Reader<'_>, known: u8) -> Result<(), LayoutError> {
    let format = from.u8()?;
    if format == known { Ok(()) } else { Err(LayoutError::Format(format)) }
}

fn ascends<T: Ord>(set: &mut BTreeSet<T>, next: T, what: &'static str) -> Result<(), LayoutError> {
    if set.last().is_some_and(|last| *last >= next) {
        return Err(LayoutError::Unreadable(what));
    }
    set.insert(next);
    Ok(())
}

fn end(from: &Reader<'_>) -> Result<(), LayoutError> {
    if from.0.is_empty() { Ok(()) } else { Err(LayoutError::Trailing(from.0.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ring::chain::tests::chain;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn three() -> Chain {
        let mut chain = chain(&[&[1, 2], &[1, 2, 3], &[1, 3]]);
        chain.drop_before(3);
        chain
    }

    #[test]
    fn the_encodings_never_change() {
        let chain = three();
        let layouts: Vec<_> = chain.layouts().iter().map(Layout::encode).collect();
        let lengths: Vec<_> = layouts.iter().map(|layout| format!("{:08x}", layout.len())).collect();
        let parts = [
            "01",                               // format
            "0000000000000003",                 // live from
            "00000001",                         // ended
            "000000000000000000000000000003e6", // the store of member 2
            "00000002",                         // layouts: the parent is kept
            &lengths[0],
            &hex(&layouts[0]),
            &lengths[1],
            &hex(&layouts[1]),
        ];
        assert_eq!(hex(&chain.encode()), parts.concat());
        assert_eq!(blake3::hash(&chain.encode()).to_string(), GOLDEN_HASH);
        let tracker = Tracker { ack: 3, synced: [2, 5].into(), sync_ack: 1 };
        let parts = ["01", "0000000000000003", "0000000000000001", "00000002", "0000000000000002", "0000000000000005"];
        assert_eq!(hex(&tracker.encode()), parts.concat());
    }

    const GOLDEN_HASH: &str = "69c00b308fe7fb4dfa202131af27ff04e807af23f9a3d86d5ec00a37fe3169e7";

    #[test]
    fn every_cut_every_appended_byte_and_every_disorder_is_refused() {
        let (chain, tracker) = (three().encode(), Tracker { ack: 3, synced: [2, 5].into(), sync_ack: 1 }.encode());
        for len in 0..chain.len() {
            assert!(Chain::decode(&chain[..len]).is_err(), "{len}");
        }
        for len in 0..tracker.len() {
            assert!(Tracker::decode(&tracker[..len]).is_err(), "{len}");
        }
        assert_eq!(Chain::decode(&[&chain[..], &[0]].concat()), Err(LayoutError::Trailing(1).into()));
        assert_eq!(Tracker::decode(&[&tracker[..], &[0]].concat()), Err(LayoutError::Trailing(1)));
        assert_eq!(Chain::decode(&[9]), Err(LayoutError::Format(9).into()));
        assert_eq!(Tracker::decode(&[9]), Err(LayoutError::Format(9)));
        let swapped = [&tracker[..21], &tracker[29..], &tracker[21..29]].concat();
        assert_eq!(Tracker::decode(&swapped), Err(LayoutError::Unreadable("tracker")));
        let many = [&[1][..], &[0; 16], &[0xff; 4]].concat();
        assert_eq!(Tracker::decode(&many), Err(LayoutError::Unreadable("tracker")), "nothing is allocated for it");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn bytes_decode_to_what_encodes_to_them_or_not_at_all(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            tracker in (any::<u64>(), proptest::collection::btree_set(any::<u64>(), 0..5), any::<u64>()),
        ) {
            let tracker = Tracker { ack: tracker.0, synced: tracker.1, sync_ack: tracker.2 };
            prop_assert_eq!(Tracker::decode(&tracker.encode()), Ok(tracker.clone()));
            prop_assert_eq!(Chain::decode(&three().encode()), Ok(three()));
            let (mut chain, mut tracker) = (three().encode().to_vec(), tracker.encode().to_vec());
            for (at, byte) in changes {
                let (in_chain, in_tracker) = (at.index(chain.len()), at.index(tracker.len()));
                (chain[in_chain], tracker[in_tracker]) = (byte, byte);
            }
            if let Ok(decoded) = Chain::decode(&chain) {
                prop_assert_eq!(&decoded.encode()[..], &chain[..]);
            }
            if let Ok(decoded) = Tracker::decode(&tracker) {
                prop_assert_eq!(&decoded.encode()[..], &tracker[..]);
            }
        }
    }
}
