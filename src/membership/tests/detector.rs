//! The failure detector: phi's figures, and when it may judge.

use proptest::collection::vec;

use super::*;
use crate::types::StoreId;

const PEER: StoreId = StoreId::from_bits(1);

fn at(ms: u64) -> Mono {
    Mono(ms * 1000)
}

/// Heard regularly, `every` so many milliseconds, until `until`.
fn heard(every: u64, until: u64) -> FailureDetector {
    let mut detector = FailureDetector::new(PhiRules::default());
    detector.watch(PEER, at(0));
    for ms in (0..=until).step_by(50) {
        if ms % every == 0 {
            detector.heartbeat(PEER, at(ms));
        }
        assert_eq!(detector.judge(at(ms)), [], "{every} ms, at {ms}");
    }
    detector
}

/// After how many milliseconds of silence it is down.
fn down_after(mut detector: FailureDetector, last: u64) -> u64 {
    (1..).find(|ms| !detector.judge(at(last + ms)).is_empty()).unwrap()
}

#[test]
fn phi_in_figures() {
    let detector = heard(250, 50_000);
    // Silence in ms, and phi: mean 250, deviation not less than 200.
    for (silence, phi) in [(0, 0.05), (250, 0.30), (450, 0.80), (650, 1.63), (850, 2.92), (1_050, 4.73), (1_250, 7.31)]
    {
        let got = detector.phi(PEER, at(50_000 + silence)).unwrap();
        assert!((got - phi).abs() < 0.06, "{silence} ms: {got}");
    }
    assert_eq!(detector.phi(StoreId::from_bits(9), at(0)), None);
}

#[test]
fn a_regular_peer_a_slow_one_and_one_never_heard() {
    // Mean and 5.226 deviations: 250 + 5.226 * 200 ms.
    assert_eq!(down_after(heard(250, 50_000), 50_000), 1_296);
    let slow = down_after(heard(800, 160_000), 160_000);
    assert!((1_700..1_900).contains(&slow), "{slow}");
    let mut silent = FailureDetector::new(PhiRules::default());
    silent.watch(PEER, at(0));
    assert_eq!(silent.opinion(PEER), Opinion::Unheard);
    assert_eq!(down_after(silent, 0), 1_296);
}

#[test]
fn a_broken_connection_is_believed_at_once_and_a_heartbeat_too() {
    let mut detector = heard(250, 5_000);
    assert!(detector.broke(PEER) && !detector.broke(PEER));
    assert_eq!((detector.opinion(PEER), detector.judge(at(5_050))), (Opinion::Down, vec![]), "said once");
    assert!(detector.heartbeat(PEER, at(5_100)) && !detector.heartbeat(PEER, at(5_200)));
    assert_eq!(detector.opinion(PEER), Opinion::Up);
    detector.forget(PEER);
    assert!(!detector.heartbeat(PEER, at(5_300)) && !detector.broke(PEER));
    assert_eq!(detector.opinion(PEER), Opinion::Unheard);
}

#[test]
fn an_outage_teaches_nothing() {
    let mut detector = heard(250, 10_000);
    (0..1_000).for_each(|n| drop(detector.judge(at(10_000 + n * 100))));
    assert_eq!(detector.opinion(PEER), Opinion::Down);
    for n in 0..40 {
        detector.heartbeat(PEER, at(110_000 + n * 250));
        detector.judge(at(110_000 + n * 250));
    }
    assert_eq!(down_after(detector, 110_000 + 39 * 250), 1_296);
}

#[test]
fn what_was_queued_during_a_stall_teaches_nothing() {
    let mut detector = heard(250, 20_000);
    assert!((0..200).all(|_| !detector.heartbeat(PEER, at(60_000))), "up all the time");
    for n in 1..40 {
        detector.heartbeat(PEER, at(60_000 + n * 250));
        assert_eq!(detector.judge(at(60_000 + n * 250)), []);
    }
    assert_eq!(down_after(detector, 60_000 + 39 * 250), 1_296);
}

#[test]
fn a_stall_brings_nobody_back_either() {
    let mut detector = heard(250, 5_000);
    detector.broke(PEER);
    assert_eq!(detector.judge(at(60_000)), []);
    assert_eq!(detector.opinion(PEER), Opinion::Down, "only being heard does");
}

proptest! {
    #[test]
    fn phi_only_rises_in_silence(
        intervals in vec(1_u64..3_000, 0..300), mut silences in vec(0_u64..100_000_000, 2..20),
    ) {
        let mut detector = FailureDetector::new(PhiRules::default());
        detector.watch(PEER, at(0));
        let mut now = 0;
        for interval in intervals {
            for ms in (now..now + interval).step_by(400) {
                detector.judge(at(ms));
            }
            now += interval;
            detector.heartbeat(PEER, at(now));
        }
        silences.sort_unstable();
        let phis: Vec<f64> = silences.iter().map(|ms| detector.phi(PEER, at(now + ms)).unwrap()).collect();
        let rises = phis.windows(2).all(|pair| pair[0] <= pair[1]);
        prop_assert!(rises && phis.iter().all(|phi| phi.is_finite()), "{phis:?}");
        // However irregular it was, four seconds are enough.
        let down = (0..=40).any(|n| { detector.judge(at(now + n * 100)); detector.opinion(PEER) == Opinion::Down });
        prop_assert!(down);
    }

    #[test]
    fn nobody_is_judged_for_a_stall_of_ones_own(
        stalls in vec((501_u64..600_000, 0_u64..1_000, 1_u64..60), 1..6),
    ) {
        let mut detector = heard(250, 20_000);
        let mut now = 20_000;
        for (stall, catch_up, beats) in stalls {
            now += stall;
            // What was sent meanwhile arrives late, in one go; then all is as before.
            let resumed = now;
            while now <= resumed + catch_up {
                prop_assert_eq!(detector.judge(at(now)), []);
                now += 100;
            }
            (0..5).for_each(|_| { detector.heartbeat(PEER, at(now)); });
            for _ in 0..beats {
                now += 250;
                prop_assert!(!detector.heartbeat(PEER, at(now)), "it was up all the time");
                prop_assert_eq!(detector.judge(at(now)), []);
            }
        }
        // And a true silence is still seen, as soon as before.
        (0..20).for_each(|_| { now += 250; detector.heartbeat(PEER, at(now)); });
        let seen = down_after(detector, now);
        prop_assert!((1_200..1_400).contains(&seen), "{seen}");
    }
}
