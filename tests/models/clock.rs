//! The clock lease (semantics section 2, stamps): a restart never reads the clock where it was read before, whatever the
//! wall clock did meanwhile. So no dot is minted twice, even for keys of which nothing is held any more.

use quorate::causality::{Lease, NodeClock};
use quorate::types::{Stamp, Wall};

use super::explore::{Model, clean, finds};

struct Clocks {
    leased: bool,
}

#[derive(Clone, Hash)]
struct State {
    wall: u64,
    /// The clock's last reading; it is lost by a crash.
    last: Stamp,
    /// The flushed mark; it is not.
    until: Stamp,
    used: Vec<Stamp>,
    twice: bool,
    crashes: u8,
}

#[derive(Clone, Debug)]
enum Action {
    Mint,
    Crash,
    /// The wall clock goes, or is set, to this.
    Wall(u64),
}

impl Model for Clocks {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        State { wall: 20_000, last: Stamp(0), until: Stamp(0), used: Vec::new(), twice: false, crashes: 0 }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let walls = [0, 10_000, 20_000, 31_000].into_iter().filter(|wall| *wall != state.wall);
        let mut actions: Vec<Action> = walls.map(Action::Wall).collect();
        if state.used.len() < 5 {
            actions.push(Action::Mint);
        }
        if state.crashes < 3 {
            actions.push(Action::Crash);
        }
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Mint => {
                let reading = NodeClock::starting_after(state.last).next(Wall(state.wall));
                next.last = reading;
                if !(Lease { until: state.until }).covers(reading) {
                    next.until = Lease::next_mark(reading, Wall(state.wall));
                }
                next.twice |= state.used.contains(&reading);
                next.used.push(reading);
                next.used.sort();
            }
            Action::Crash => {
                next.crashes += 1;
                next.last = if self.leased { state.until } else { Stamp(0) };
            }
            Action::Wall(wall) => next.wall = wall,
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        let covered = !self.leased || state.used.iter().all(|used| *used <= state.until);
        if state.twice {
            Some("one reading was used twice".to_owned())
        } else {
            (!covered).then(|| "a reading beyond the flushed mark was used".to_owned())
        }
    }
}

#[test]
fn a_restart_with_the_clock_gone_back_mints_no_dot_twice() {
    assert!(clean("clock lease", &Clocks { leased: true }) > 300);
    finds("clock without lease", &Clocks { leased: false });
}
