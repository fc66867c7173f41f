//! The transport contract on the simulated transport: what TCP promises, the network of the simulation promises too.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate::env::{Blocking, BoxFuture, Buggify, Entropy, Env, Tasks};
use quorate::sim::net::{Death, Link, SimNet};
use quorate::sim::time::{SimClock, SimTime, run};
use quorate::sim::transport::SimTransport;

#[path = "transport_contract/suite.rs"]
mod suite;

struct Simulated {
    time: SimTime,
    net: SimNet,
    made: AtomicUsize,
    _tasks: Tasks,
}

impl suite::Bench for Simulated {
    fn endpoint(&self) -> BoxFuture<'_, suite::Endpoint> {
        Box::pin(async move {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            let clock = SimClock::new(self.time);
            let transport = SimTransport::new(&self.net, clock.clone());
            let env = Env {
                clock,
                entropy: Arc::new(Entropy::seeded(number as u64)),
                tasks: Tasks::default(),
                blocking: Blocking::Inline,
                buggify: Buggify::default(),
            };
            suite::Endpoint { transport, address: format!("host-{number}:1"), env }
        })
    }

    fn crash<'a>(&'a self, endpoint: &'a suite::Endpoint) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.net.crash(&endpoint.address, Death::Killed) })
    }

    fn nowhere(&self) -> String {
        "nowhere:1".into()
    }
}

#[test]
fn the_simulated_transport_keeps_the_contract() {
    run(1, |time| async move {
        let tasks = Tasks::default();
        let net = SimNet::new(time, 1, Link::default(), &tasks);
        suite::all(&Simulated { time, net, made: AtomicUsize::new(0), _tasks: tasks }).await;
    })
    .unwrap();
}
