//! What the command line's own settings may be: those that the node itself does not know.

use std::time::Duration;

use super::Settings;
use super::units::host_port;
use crate::http::RequestLimits;
use crate::node::ConfigError;

const SHORTEST: Duration = Duration::from_millis(1);
/// What a client may take to send its headers, or a body.
const SLOWEST_CLIENT: Duration = Duration::from_secs(600);
const LONGEST_STOP: Duration = Duration::from_secs(3600);
/// More than any machine has ports for.
const MOST_CONNECTIONS: usize = 1_000_000;

/// Checks each of them.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    let times = [
        ("node.timeout", settings.requests.timeout, RequestLimits::MAX_TIMEOUT),
        ("node.shutdown_timeout", settings.shutdown_timeout, LONGEST_STOP),
        ("node.limits.header_timeout", settings.serve.head_time, SLOWEST_CLIENT),
        ("node.limits.body_timeout", settings.requests.body_time, SLOWEST_CLIENT),
    ];
    for (entry, time, longest) in times {
        if !(SHORTEST..=longest).contains(&time) {
            return Err(ConfigError::new(entry, format!("is {SHORTEST:?} to {}s, got {time:?}", longest.as_secs())));
        }
    }
    let connections = settings.serve.max_connections;
    if !(1..=MOST_CONNECTIONS).contains(&connections) {
        let problem = format!("is 1 to {MOST_CONNECTIONS}, got {connections}");
        return Err(ConfigError::new("node.limits.connections", problem));
    }
    listeners(settings)
}

/// Three listeners need three places.
fn listeners(settings: &Settings) -> Result<(), ConfigError> {
    let all = [
        ("node.client_listen", &settings.client_listen),
        ("node.admin_listen", &settings.admin_listen),
        ("node.peer_listen", &settings.peer_listen),
    ];
    for (at, (entry, address)) in all.iter().enumerate() {
        for (other, taken) in &all[..at] {
            if let (Ok(one), Ok(two)) = (host_port(address), host_port(taken))
                && one == two
            {
                let problem = format!("is another address than {other}, got {address} for both");
                return Err(ConfigError::new(entry, problem).against(other));
            }
        }
    }
    Ok(())
}
