use proptest::prelude::*;

use super::*;
use crate::ring::{Chain, planner};

pub(in crate::ring) fn member(number: u128, region: &str, zone: &str, weight: u32) -> Member {
    Member {
        node: NodeId::from_bits(number),
        store: StoreId::from_bits(1000 - number),
        name: format!("n{number}"),
        region: region.into(),
        zone: zone.into(),
        weight,
        peer_address: format!("n{number}:1"),
        client_address: format!("n{number}:2"),
    }
}

fn found(q: u32, members: Vec<Member>) -> Layout {
    planner::found("test", Grid::new(q).unwrap(), 5, BucketSettings::default(), members).unwrap()
}

fn two_regions() -> Layout {
    let of =
        |region: &'static str, numbers: std::ops::Range<u128>| numbers.map(move |number| member(number, region, "", 1));
    let mut spec = found(16, of("eu", 1..5).chain(of("us", 5..7)).collect()).spec().clone();
    let settings = BucketSettings { id: 7, generation: 2, n: 2, mode: Mode::Lww, ..BucketSettings::default() };
    let only_eu = BucketSettings { id: 8, n_in_region: vec![("us".into(), 0)], role: Role::Cache, ..settings.clone() };
    spec.buckets.insert(Bucket::new("both").unwrap(), settings);
    spec.buckets.insert(Bucket::new("only-eu").unwrap(), only_eu);
    Layout::new(spec).unwrap()
}

#[test]
fn the_encoding_never_changes() {
    let mut spec = found(2, vec![member(1, "eu", "a", 1), member(2, "eu", "b", 3)]).spec().clone();
    spec.regions[0].owners = [0, 1, 1, 0].map(MemberIndex).to_vec();
    let layout = Layout::new(spec).unwrap();
    let hex: String = layout.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN.concat());
    assert_eq!(layout.hash().to_string(), GOLDEN_HASH);
    assert_eq!(layout.cluster().to_string().replace('-', ""), GOLDEN_HASH[..32]);
}

const GOLDEN: [&str; 13] = [
    "01",                                                               // format
    "0000000000000001",                                                 // version
    "0000000000000000000000000000000000000000000000000000000000000000", // parent
    "00",                                                               // no cluster id
    "0474657374",                                                       // cluster name
    "0000000205",                                                       // Q, replicas_max
    "00000002",                                                         // members
    "00000000000000000000000000000001000000000000000000000000000003e7", // node, store
    "00000001026e310265750161046e313a31046e313a32",                     // weight, name, labels, addresses
    "00000000000000000000000000000002000000000000000000000000000003e600000003026e320265750162046e323a31046e323a32",
    "0000000102657502\
     0000000100010000", // regions, label, width, owners
    "0000000000000000000000000000000003000000", // the default bucket: id, generation, n, no regions, mode, role
    "00000000",                                 // buckets
];
const GOLDEN_HASH: &str = "2c65dc077dc62eedc0694145e25680cb02476ba44a35e0858831a581f54382da";

#[test]
fn decoding_gives_back_what_was_encoded() {
    let first = two_regions();
    assert_eq!(Layout::decode(&first.encode()).unwrap().spec(), first.spec());
    let second = planner::plan(&first, first.members().to_vec()).unwrap();
    assert_eq!(Layout::decode(&second.encode()).unwrap().spec(), second.spec());
    assert_eq!(second.cluster(), first.cluster());
    assert_eq!(second.spec().parent, first.hash());
}

#[test]
fn every_cut_and_every_appended_byte_is_refused() {
    let bytes = two_regions().encode();
    for len in 0..bytes.len() {
        assert!(Layout::decode(&bytes[..len]).is_err(), "{len}");
    }
    assert_eq!(Layout::decode(&[&bytes[..], &[0]].concat()), Err(LayoutError::Trailing(1)));
    assert_eq!(Layout::decode(&[9]), Err(LayoutError::Format(9)));
}

#[test]
fn unsound_layouts_are_refused() {
    let sound = two_regions();
    let refused = |change: &dyn Fn(&mut LayoutSpec), why: &str| {
        let mut spec = sound.spec().clone();
        change(&mut spec);
        let error = Layout::decode(&codec::encode(&spec)).expect_err(why).to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    };
    refused(&|s| s.version = 0, "versions count from 1");
    refused(&|s| s.version = 2, "makes the cluster id");
    refused(&|s| s.parent = LayoutHash([1; 32]), "no parent");
    refused(&|s| s.q = 3, "power of two");
    refused(&|s| s.replicas_max = 17, "replicas_max");
    refused(&|s| s.members.clear(), "members, not 0");
    refused(&|s| s.members.swap(0, 1), "sorted by node id");
    refused(&|s| s.members[1].store = s.members[0].store, "another has its store id");
    refused(&|s| s.members[1].name = s.members[0].name.clone(), "another has its name");
    refused(&|s| s.members[1].peer_address = s.members[0].peer_address.clone(), "another has its peer address");
    refused(&|s| s.members[1].weight = 0, "nobody does in layout 1");
    refused(&|s| s.members[5].region = "eu".into(), "no member there");
    refused(&|s| s.regions.swap(0, 1), "regions are not exactly");
    refused(&|s| s.regions[0].owners[0] = MemberIndex(99), "no member there");
    refused(&|s| s.regions[0].owners[0] = MemberIndex(5), "no member there");
    refused(&|s| s.regions[0].owners[0] = s.regions[0].owners[1], "listed twice");
    refused(&|s| (s.regions[0].width, s.regions[0].owners) = (0, Vec::new()), "wrong length");
    refused(&|s| s.default_bucket.n = 0, "settings of bucket id 0");
    refused(&|s| s.default_bucket.id = 5, "default bucket's id is 0");
    refused(&|s| s.buckets.values_mut().for_each(|settings| settings.id = 7), "its id is taken");
}

#[test]
fn who_leaves_owns_nothing_and_is_a_member_all_the_same() {
    let sound = two_regions();
    let with = |change: &dyn Fn(&mut Vec<Member>)| {
        let mut members = sound.members().to_vec();
        change(&mut members);
        planner::plan(&sound, members)
    };
    let one = with(&|members| members[1].weight = 0).unwrap();
    assert_eq!(Layout::decode(&one.encode()).unwrap().spec(), one.spec());
    assert_eq!(one.leaving().map(|member| &*member.name).collect::<Vec<_>>(), ["n2"]);
    assert_eq!(one.partitions_of(one.members()[1].store), []);
    for partition in one.grid().partitions() {
        assert!(!one.fallbacks("eu", partition, 5).contains(&MemberIndex(1)), "nor does it stand in for anybody");
    }
    let region = with(&|members| members[4..].iter_mut().for_each(|member| member.weight = 0)).unwrap();
    assert_eq!((region.regions().collect::<Vec<_>>(), region.members().len()), (vec!["eu"], 6));
    let all = with(&|members| members.iter_mut().for_each(|member| member.weight = 0)).unwrap_err();
    assert!(all.to_string().contains("somebody has to stay"), "{all}");
    let mut spec = one.spec().clone();
    spec.regions[0].owners[0] = MemberIndex(1);
    let owns = Layout::new(spec).unwrap_err();
    assert!(owns.to_string().contains("n2 is leaving"), "{owns}");
}

#[test]
fn owners_are_counted_per_region_and_never_more_than_there_are() {
    let layout = two_regions();
    let settings = |name: &str| layout.settings(&Bucket::new(name).unwrap()).clone();
    for partition in layout.grid().partitions() {
        let counts = |name: &str| -> Vec<(String, usize)> {
            let settings = settings(name);
            layout.owners(partition, &settings).map(|(region, owners)| (region.to_owned(), owners.len())).collect()
        };
        assert_eq!(counts("unconfigured"), [("eu".to_owned(), 3), ("us".to_owned(), 2)]);
        assert_eq!(counts("both"), [("eu".to_owned(), 2), ("us".to_owned(), 2)]);
        assert_eq!(counts("only-eu"), [("eu".to_owned(), 2)]);
        let far_first = layout.preference_list("us", partition, &settings("both"));
        let regions: Vec<&str> = far_first.iter().map(|owner| layout.member(*owner).region.as_str()).collect();
        assert_eq!(regions, ["us", "us", "eu", "eu"]);
        assert!(far_first.iter().all(|owner| layout.owns(*owner, partition, &settings("both"))));
        assert_eq!(layout.owners_in("mars", partition, 3), []);
    }
    assert_eq!(layout.settings(&Bucket::new("unconfigured").unwrap()), &BucketSettings::default());
}

#[test]
fn members_are_found_by_store_and_node() {
    let layout = two_regions();
    for (index, member) in (0..).map(MemberIndex).zip(layout.members()) {
        assert_eq!(layout.member_by_store(member.store), Some(index));
        assert_eq!(layout.member_by_node(member.node), Some(index));
        assert!(layout.lists(member.node, member.store));
        let owned = layout.partitions_of(member.store);
        let region = &member.region;
        for partition in layout.grid().partitions() {
            let listed = layout.owners_in(region, partition, 5).contains(&index);
            assert_eq!(owned.contains(&partition), listed);
        }
    }
    assert_eq!(layout.member_by_store(StoreId::from_bits(5)), None);
    assert!(!layout.lists(NodeId::from_bits(1), StoreId::from_bits(998)), "another member's store");
}

#[test]
fn fallbacks_follow_the_owners_and_are_spread() {
    let layout = found(256, (1..=10).map(|number| member(number, "home", "", 1)).collect());
    let mut load = [0usize; 10];
    for partition in layout.grid().partitions() {
        for n in 1..=5 {
            let (owners, fallbacks) = (layout.owners_in("home", partition, n), layout.fallbacks("home", partition, n));
            assert_eq!(fallbacks.len(), usize::from(n));
            let all: BTreeSet<_> = owners.iter().chain(&fallbacks).collect();
            assert_eq!(all.len(), 2 * usize::from(n), "nobody twice");
            assert_eq!(fallbacks[0], layout.fallbacks("home", partition, n)[0]);
        }
        layout.fallbacks("home", partition, 5).iter().for_each(|index| load[index.get()] += 1);
    }
    assert_eq!(load.iter().sum::<usize>(), 5 * 256);
    assert!(load.iter().all(|load| (90..=166).contains(load)), "{load:?}");
    let small = found(8, (1..=4).map(|number| member(number, "home", "", 1)).collect());
    assert_eq!(small.fallbacks("home", PartitionId(0), 3).len(), 1, "only one is left");
}

#[test]
fn fallbacks_use_the_zones_evenly() {
    // Four zones of three; five are listed, and there are others in every zone.
    let zone = |number: u128| format!("z{}", number % 4);
    let layout = found(64, (1..=12).map(|number| member(number, "home", &zone(number), 1)).collect());
    let (settings, chain) = (BucketSettings::default(), Chain::founded(layout.clone()));
    for partition in layout.grid().partitions() {
        let fallbacks = layout.fallbacks("home", partition, 3);
        let listed = layout.owners_in("home", partition, 5);
        let zone_of = |index: &MemberIndex| &*layout.member(*index).zone;
        assert_eq!(fallbacks[..2], listed[3..], "the owner list goes on first");
        assert!(fallbacks[..2].iter().all(|before| zone_of(before) != zone_of(&fallbacks[2])));
        let five = layout.fallbacks("home", partition, 5);
        let zones: BTreeSet<&str> = five.iter().map(zone_of).collect();
        assert_eq!((zones.len(), five.len()), (4, 5), "no zone twice while others are free");
        let stores: Vec<_> = chain.fallback_stores(partition, &settings).collect();
        assert!(stores.iter().map(|(_, store)| *store).eq(fallbacks.iter().map(|at| layout.member(*at).store)));
    }
    let regions = two_regions();
    let chain = Chain::founded(regions.clone());
    for partition in regions.grid().partitions() {
        let stores: Vec<_> = chain.fallback_stores(partition, &settings).collect();
        for (region, store) in stores {
            let at = regions.member_by_store(store).unwrap();
            assert_eq!(regions.member(at).region, region);
            assert!(!regions.owners_in(region, partition, 3).contains(&at));
        }
    }
}

#[test]
fn a_thousand_members_stay_small() {
    let members = (1..=999).map(|number| member(number, "home", &format!("z{}", number % 5), 1)).collect();
    let bytes = found(1024, members).encode();
    assert!(bytes.len() < 100 * 1024, "{}", bytes.len());
    assert_eq!(Layout::decode(&bytes).unwrap().encode(), bytes);
}

proptest! {
    #[test]
    fn bytes_decode_to_what_encodes_to_them_or_not_at_all(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = two_regions().encode().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(layout) = Layout::decode(&bytes) {
            prop_assert_eq!(&layout.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn garbage_is_refused(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Layout::decode(&[&[1u8][..], &tail].concat()).is_err());
    }
}
