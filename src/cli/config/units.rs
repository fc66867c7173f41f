//! Values as people write them: times, sizes, addresses, words.

use std::net::IpAddr;
use std::time::Duration;

use crate::replica::Reserve;

/// A time with its unit: `250ms`, `2s`, `10m`, `3h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("is a time such as 250ms, 2s, 10m or 3h, got {text:?}");
    let (number, unit) = split(text);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// A size with its unit, in powers of 1,024: `512B`, `4KiB`, `1MiB`, `1GiB`.
pub fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("is a size such as 512B, 4KiB, 1MiB or 1GiB, got {text:?}");
    let (number, unit) = split(text);
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1_usize << 30,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(bytes).ok_or_else(wrong)
}

/// What is kept back of a disk: a share such as `5%`, or a size.
pub(super) fn reserve(text: &str) -> Result<Reserve, String> {
    let wrong = || format!("is a share such as 5% or a size such as 10GiB, got {text:?}");
    match text.strip_suffix('%') {
        Some(share) => share.parse().map(Reserve::Percent).map_err(|_| wrong()),
        None => size(text).map(|bytes| Reserve::Bytes(bytes as u64)).map_err(|_| wrong()),
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The host and the port of `host:port`; a host in brackets is an IPv6 address.
pub fn host_port(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("is host:port, such as 127.0.0.1:7400, got {address:?}");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.is_empty() || (bare.contains(':') && bare.len() == host.len()) { Err(wrong()) } else { Ok((bare, port)) }
}

/// Whether only this machine reaches what listens there. A name is taken for the outside, `localhost` aside.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether this is every address of the machine, and so none that others could be told.
pub(super) fn is_wildcard(host: &str) -> bool {
    host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        let good = [("250ms", 250), ("2s", 2_000), ("10m", 600_000), ("3h", 10_800_000)];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for (text, bytes) in [("1B", 1), ("4KiB", 4096), ("1MiB", 1 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "2", "s", "-1s", "1.5s", "2 s", "2S", "99999999999999999999h", "99999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "2", "KiB", "1kb", "1MB", "-1B", "99999999999999999GiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reserve_is_a_share_or_a_size() {
        assert_eq!(reserve("5%"), Ok(Reserve::Percent(5)));
        assert_eq!(reserve("1GiB"), Ok(Reserve::Bytes(1 << 30)));
        for bad in ["", "%", "5", "5 %", "-1%", "300%", "1.5%", "1GB"] {
            assert!(reserve(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(host_port("127.0.0.1:7400"), Ok(("127.0.0.1", 7400)));
        assert_eq!(host_port("[::1]:7400"), Ok(("::1", 7400)));
        assert_eq!(host_port("alpha.example.net:1"), Ok(("alpha.example.net", 1)));
        for bad in ["7400", ":7400", "a:", "a:0", "a:65536", "::1:7400"] {
            assert!(host_port(bad).is_err(), "{bad:?}");
        }
        assert!(is_loopback("127.9.9.9") && is_loopback("::1") && is_loopback("localhost"));
        assert!(!is_loopback("0.0.0.0") && !is_loopback("10.0.0.1") && !is_loopback("example.net"));
        assert!(is_wildcard("0.0.0.0") && is_wildcard("::") && !is_wildcard("127.0.0.1"));
    }
}
