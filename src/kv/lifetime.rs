//! How long values live: as requests and buckets say it, and as people write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// The longest time a value may be given: what should live longer lives for ever.
pub const LONGEST_TTL: Duration = Duration::from_secs(3650 * 86_400);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// How long a written value lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Lifetime {
    /// As its bucket says; for ever, where that says nothing.
    #[default]
    Unsaid,
    /// For ever, whatever its bucket says.
    Forever,
    /// So long from the write on.
    For(Duration),
}

impl Lifetime {
    /// The time, where a bucket whose values live for `bucket` (none: for ever) holds it.
    #[must_use]
    pub fn within(self, bucket: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Unsaid => bucket,
            Self::Forever => None,
            Self::For(time) => Some(time),
        }
    }
}

/// A text that says no time to live.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("a time to live is 1ms to 3650d, such as 500ms, 60s, 10m, 3h or 7d, or never; got {0:?}")]
pub struct LifetimeError(pub String);

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, LifetimeError> {
        if text == "never" {
            return Ok(Self::Forever);
        }
        let wrong = || LifetimeError(text.to_owned());
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis)).ok_or_else(wrong)?;
        let time = Duration::from_millis(millis);
        if time.is_zero() || time > LONGEST_TTL { Err(wrong()) } else { Ok(Self::For(time)) }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => f.write_str("as the bucket says"),
            Self::Forever => f.write_str("never"),
            Self::For(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let whole = UNITS.into_iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit));
                let (name, unit) = whole.unwrap_or(("ms", 1));
                write!(f, "{}{name}", millis / unit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_to_live_have_units_and_bounds() {
        let of = |ms| Ok(Lifetime::For(Duration::from_millis(ms)));
        for (text, ms) in
            [("1ms", 1), ("60s", 60_000), ("10m", 600_000), ("3h", 10_800_000), ("3650d", 315_360_000_000)]
        {
            assert_eq!(text.parse(), of(ms), "{text}");
        }
        assert_eq!("never".parse(), Ok(Lifetime::Forever));
        for bad in ["", "0s", "60", "s", "-1s", "1.5h", "1 d", "3651d", "1w", "Never", "99999999999999999999s"] {
            let error = bad.parse::<Lifetime>().expect_err(bad).to_string();
            assert!(error.contains("1ms to 3650d") && error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn a_request_goes_before_its_bucket() {
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        assert_eq!(Lifetime::Unsaid.within(Some(day)), Some(day));
        assert_eq!(Lifetime::Unsaid.within(None), None);
        assert_eq!(Lifetime::Forever.within(Some(day)), None);
        assert_eq!(Lifetime::For(hour).within(Some(day)), Some(hour));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(millis in 1..=315_360_000_000_u64) {
            let life = Lifetime::For(Duration::from_millis(millis));
            prop_assert_eq!(life.to_string().parse(), Ok(life));
        }
    }
}
