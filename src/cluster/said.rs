//! What a node says of itself in gossip: names and values, written and read in one place.
//!
//! Values are text, so that they can be read wherever they turn up. A name that is not known here is carried on by the
//! view untouched; a value that cannot be read is as good as not said, for a newer node may say more than this one
//! understands. What changes often is told in coarse steps: a cluster in which nothing happens has nothing to tell.

use std::fmt;

use bytes::Bytes;

use crate::membership::{Name, State};
use crate::ring::{Layout, Tracker};
use crate::types::{Incarnation, StoreId, Wall};

/// How a node's disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// Takes writes.
    Ok,
    /// Filled up to its reserve: deletes only.
    DeletesOnly,
    /// Failed: reads only.
    ReadOnly,
}

impl DiskState {
    const WORDS: [(Self, &str); 3] =
        [(Self::Ok, "ok"), (Self::DeletesOnly, "deletes_only"), (Self::ReadOnly, "read_only")];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.into_iter().find(|(state, _)| *state == self).map_or("ok", |(_, word)| word)
    }

    fn read(text: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|(_, word)| *word == text).map(|(state, _)| state)
    }
}

/// The newest layout a node knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its version.
    pub version: u64,
    /// The hash of its contents.
    pub hash: String,
}

impl Head {
    /// The head of somebody who holds this layout.
    #[must_use]
    pub fn of(layout: &Layout) -> Self {
        Self { version: layout.version(), hash: layout.hash().to_string() }
    }
}

/// What a node says of itself. None: it did not say, or not so that it is understood here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// Its name.
    pub name: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Where nodes reach it.
    pub peer_address: Option<String>,
    /// Where clients reach it.
    pub client_address: Option<String>,
    /// Its data directory's contents.
    pub store: Option<StoreId>,
    /// The life it mints in.
    pub incarnation: Option<Incarnation>,
    /// The newest layout it knows.
    pub head: Option<Head>,
    /// How far it follows the layouts.
    pub tracker: Option<Tracker>,
    /// Stands for all settings of buckets that it has heard.
    pub buckets: Option<String>,
    /// The oldest and the newest protocol version it speaks.
    pub protocol: Option<(u16, u16)>,
    /// The version of the software it runs.
    pub software: Option<String>,
    /// Bytes in use on its data directory's file system, in steps of a hundredth of its size.
    pub used_bytes: Option<u64>,
    /// How its disk is.
    pub disk: Option<DiskState>,
    /// When it started, by its wall clock.
    pub started_at: Option<Wall>,
}

const NAME: &str = "name";
const REGION: &str = "region";
const ZONE: &str = "zone";
const PEER_ADDRESS: &str = "peer_address";
const CLIENT_ADDRESS: &str = "client_address";
const STORE: &str = "store";
const INCARNATION: &str = "incarnation";
const HEAD: &str = "layout";
const TRACKER: &str = "tracker";
const BUCKETS: &str = "buckets";
const PROTOCOL: &str = "protocol";
const SOFTWARE: &str = "version";
const USED: &str = "used_bytes";
const DISK: &str = "disk";
const STARTED: &str = "started_ms";

impl Said {
    /// As values of a state; what is not said is left out.
    #[must_use]
    pub fn values(&self) -> Vec<(Name, Bytes)> {
        fn text<T: fmt::Display>(value: Option<T>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        let all = [
            (NAME, self.name.clone()),
            (REGION, self.region.clone()),
            (ZONE, self.zone.clone()),
            (PEER_ADDRESS, self.peer_address.clone()),
            (CLIENT_ADDRESS, self.client_address.clone()),
            (STORE, self.store.map(|store| format!("{:032x}", store.bits()))),
            (INCARNATION, self.incarnation.map(|incarnation| format!("{:032x}", incarnation.0))),
            (HEAD, self.head.as_ref().map(|head| format!("{} {}", head.version, head.hash))),
            (TRACKER, self.tracker.as_ref().map(tracker_text)),
            (BUCKETS, self.buckets.clone()),
            (PROTOCOL, self.protocol.map(|(oldest, newest)| format!("{oldest} {newest}"))),
            (SOFTWARE, self.software.clone()),
            (USED, text(self.used_bytes)),
            (DISK, self.disk.map(|disk| disk.word().to_owned())),
            (STARTED, text(self.started_at.map(|wall| wall.0))),
        ];
        let named = |(name, value): (&str, Option<String>)| Some((Name::new(name).ok()?, Bytes::from(value?)));
        all.into_iter().filter_map(named).collect()
    }

    /// What is understood of a state.
    #[must_use]
    pub fn read(state: &State) -> Self {
        let text = |name: &str| {
            let value = state.get(&Name::new(name).ok()?)?;
            String::from_utf8(value.to_vec()).ok()
        };
        let hex = |name| u128::from_str_radix(&text(name)?, 16).ok();
        let pair = |name| text(name)?.split_once(' ').map(|(one, two)| (one.to_owned(), two.to_owned()));
        let head = |(version, hash): (String, String)| Some(Head { version: version.parse().ok()?, hash });
        let versions = |(oldest, newest): (String, String)| Some((oldest.parse().ok()?, newest.parse().ok()?));
        Self {
            name: text(NAME),
            region: text(REGION),
            zone: text(ZONE),
            peer_address: text(PEER_ADDRESS),
            client_address: text(CLIENT_ADDRESS),
            store: hex(STORE).map(StoreId::from_bits),
            incarnation: hex(INCARNATION).map(Incarnation),
            head: pair(HEAD).and_then(head),
            tracker: text(TRACKER).and_then(|text| read_tracker(&text)),
            buckets: text(BUCKETS),
            protocol: pair(PROTOCOL).and_then(versions),
            software: text(SOFTWARE),
            used_bytes: text(USED).and_then(|text| text.parse().ok()),
            disk: text(DISK).and_then(|text| DiskState::read(&text)),
            started_at: text(STARTED).and_then(|text| text.parse().ok()).map(Wall),
        }
    }
}

/// Ack, sync_ack, and the layouts synced to, if there are any: `7 6 6,7`.
fn tracker_text(tracker: &Tracker) -> String {
    let synced: Vec<String> = tracker.synced.iter().map(u64::to_string).collect();
    format!("{} {} {}", tracker.ack, tracker.sync_ack, synced.join(","))
}

fn read_tracker(text: &str) -> Option<Tracker> {
    let mut words = text.split(' ');
    let (ack, sync_ack, synced) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    let versions = synced.split(',').filter(|version| !version.is_empty());
    let synced = versions.map(|version| version.parse().ok()).collect::<Option<_>>()?;
    words.next().is_none().then_some(Tracker { ack, synced, sync_ack })
}

/// Bytes in use, in steps of a hundredth of the size.
pub(super) fn in_steps(free: u64, total: u64) -> u64 {
    let step = (total / 100).max(1);
    total.saturating_sub(free) / step * step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Life, View};
    use crate::types::{Mono, NodeId};

    fn all() -> Said {
        Said {
            name: Some("n1".into()),
            region: Some("eu".into()),
            zone: Some("a".into()),
            peer_address: Some("10.0.0.1:7402".into()),
            client_address: Some("10.0.0.1:7400".into()),
            store: Some(StoreId::from_bits(1)),
            incarnation: Some(Incarnation(u128::MAX)),
            head: Some(Head { version: 7, hash: "abc".into() }),
            tracker: Some(Tracker { ack: 7, synced: [6, 7].into(), sync_ack: 6 }),
            buckets: Some("00".into()),
            protocol: Some((1, 2)),
            software: Some("0.1.0".into()),
            used_bytes: Some(10),
            disk: Some(DiskState::DeletesOnly),
            started_at: Some(Wall(5)),
        }
    }

    fn heard(values: Vec<(Name, Bytes)>) -> Said {
        let node = NodeId::from_bits(1);
        let mut view = View::new(node, Life { generation: 1, boot: 1 }, Mono(0));
        for (name, value) in values {
            assert_eq!(view.set(name, value), Ok(true));
        }
        Said::read(view.get(node).unwrap())
    }

    #[test]
    fn what_is_said_is_heard() {
        assert_eq!(all().values().len(), 15, "a name for everything");
        assert_eq!(heard(all().values()), all());
        assert_eq!(heard(Vec::new()), Said::default());
        for (state, word) in DiskState::WORDS {
            assert_eq!((state.word(), DiskState::read(word)), (word, Some(state)));
        }
    }

    #[test]
    fn what_is_not_understood_is_as_good_as_not_said() {
        let odd = |name, value: &'static [u8]| (Name::new(name).unwrap(), Bytes::from_static(value));
        let said = heard(vec![
            odd(NAME, b"n1"),
            odd(ZONE, &[0xff]),
            odd(HEAD, b"seven"),
            odd(PROTOCOL, b"1 2 3"),
            odd(TRACKER, b"1 2 3,x"),
            odd(DISK, b"on fire"),
            odd(INCARNATION, b"-"),
            odd("what newer nodes say", b"?"),
        ]);
        assert_eq!(said, Said { name: Some("n1".into()), ..Said::default() });
    }

    #[test]
    fn a_disk_that_fills_slowly_is_told_in_steps() {
        assert_eq!(in_steps(1000, 1000), 0);
        assert_eq!((in_steps(991, 1000), in_steps(990, 1000), in_steps(500, 1000)), (0, 10, 500));
        assert_eq!((in_steps(0, 0), in_steps(2, 1), in_steps(0, 50)), (0, 0, 50));
    }
}
