//! What a transport counts. Plain atomics: the node's metrics registry reads them by [`Counters::snapshot`].

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that only grow, but for the gauges `open_*`.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Reads all of them. Not one atomic cut: each is read by itself.
            #[must_use]
            pub fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Frames read.
    frames_in,
    /// Frames written.
    frames_out,
    /// Bytes read.
    bytes_in,
    /// Bytes written.
    bytes_out,
    /// Reads that returned bytes.
    reads,
    /// Writes that took bytes; `frames_out / writes` says how well they are coalesced.
    writes,
    /// Connections closed because a checksum did not match.
    bad_checksums,
    /// Connections closed for another [`super::frame::FrameError`].
    bad_frames,
    /// Frames of an unknown kind, answered by a refusal.
    unknown_frames,
    /// Requests that could not be decoded, answered by a refusal.
    malformed_requests,
    /// Handshakes that ended in a refusal, by us or by the peer.
    rejected_handshakes,
    /// Handshakes that broke off or took too long.
    failed_handshakes,
    /// Calls not sent because a bound was reached: in flight, or bytes queued.
    in_flight_bound_hits,
    /// Connections not taken because there were too many.
    inbound_bound_hits,
    /// Replies that came after their call had ended.
    late_replies,
    /// Connections closed because the peer was silent.
    silent_peers,
    /// Attempts to connect.
    dials,
    /// Attempts to connect that failed before the handshake.
    failed_dials,
    /// Connections accepted and open now.
    open_inbound,
    /// Connections dialled and open now.
    open_outbound,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `n`.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// A gauge that is one higher while this lives.
#[derive(Debug)]
pub(super) struct Gauge<F: Fn(&Counters) -> &AtomicU64>(std::sync::Arc<Counters>, F);

impl<F: Fn(&Counters) -> &AtomicU64> Gauge<F> {
    pub(super) fn raise(counters: std::sync::Arc<Counters>, which: F) -> Self {
        which(&counters).fetch_add(1, Ordering::Relaxed);
        Self(counters, which)
    }
}

impl<F: Fn(&Counters) -> &AtomicU64> Drop for Gauge<F> {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}
