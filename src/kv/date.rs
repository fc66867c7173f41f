//! Wall-clock readings as text: RFC 3339 for documents, RFC 9110 for `Last-Modified`. For display only.

use crate::types::Wall;

const DAY: u64 = 86_400_000;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// The last millisecond of the year 9999: what both formats can say at most.
const LAST: u64 = 253_402_300_799_999;

/// Year, month and day (both from 1) of a day counted from 1970 (Howard Hinnant's `civil_from_days`, for days >= 0).
fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The day, counted from 1970, of a date from then on.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)
}

/// `2026-01-01T00:00:00.000Z`. Times past the year 9999 read as its last moment.
#[must_use]
pub fn rfc3339(at: Wall) -> String {
    let at = at.0.min(LAST);
    let (year, month, day) = civil(at / DAY);
    let (ms, s) = (at % 1_000, at / 1_000);
    let (h, m, s) = (s / 3_600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// Reads what [`rfc3339`] writes, and nothing else.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Wall> {
    let shape = text.bytes().zip("0000-00-00T00:00:00.000Z".bytes());
    let fits = |(byte, like): (u8, u8)| if like == b'0' { byte.is_ascii_digit() } else { byte == like };
    if text.len() != 24 || !shape.clone().all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (h, m, s, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
    let whole = days(year, month, day).filter(|day_number| civil(*day_number) == (year, month, day))?;
    (h < 24 && m < 60 && s < 60).then(|| Wall(whole * DAY + ((h * 60 + m) * 60 + s) * 1_000 + ms))
}

/// `Thu, 01 Jan 1970 00:00:00 GMT`, in ASCII. Every answer with a value has one, so it is put together by hand.
#[must_use]
pub fn http_date(at: Wall) -> [u8; 29] {
    let at = at.0.min(LAST);
    let (year, month, day) = civil(at / DAY);
    let s = at / 1_000;
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(WEEKDAYS[(at / DAY % 7) as usize].as_bytes());
    text[8..11].copy_from_slice(MONTHS[(month - 1) as usize].as_bytes());
    let places = [(5, day), (12, year / 100), (14, year % 100), (17, s / 3_600 % 24), (20, s / 60 % 60), (23, s % 60)];
    for (place, number) in places {
        text[place] = b'0' + (number / 10 % 10) as u8;
        text[place + 1] = b'0' + (number % 10) as u8;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        // RFC 9110's own example, and a leap day.
        assert_eq!(http_date(Wall(784_111_777_000)), *b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(Wall(u64::MAX)), *b"Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(rfc3339(Wall(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Wall(951_782_400_123)), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(Wall(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            "",
            "2001-02-29T00:00:00.000Z",
            "2001-13-01T00:00:00.000Z",
            "2001-01-01T24:00:00.000Z",
            "é001-01-01T00:00:00.00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn dates_round_trip(ms in 0..=LAST) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(Wall(ms))), Some(Wall(ms)));
        }
    }
}
