//! Values as a user types and reads them: sizes, shares, rates, times.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repo_format::frame;
use repository::effort::Effort;

/// A number of bytes: `200M`, `1.5G`, `4096`. Units are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as 200M, 1.5G or 4096");
        let upper = text.trim().to_ascii_uppercase();
        let number = upper.trim_end_matches("IB").trim_end_matches('B');
        let (digits, power) = match number.chars().last() {
            Some('K') => (&number[..number.len() - 1], 1),
            Some('M') => (&number[..number.len() - 1], 2),
            Some('G') => (&number[..number.len() - 1], 3),
            Some('T') => (&number[..number.len() - 1], 4),
            Some('0'..='9') => (number, 0),
            _ => return Err(wrong()),
        };
        let unit = 1u64 << (10 * power);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 9);
        let scale = 10u64.pow(places.ok_or_else(wrong)?);
        let fraction: u64 = fraction.parse().map_err(|_| wrong())?;
        let fraction_bytes = u128::from(fraction) * u128::from(unit) / u128::from(scale);
        whole
            .checked_mul(unit)
            .and_then(|bytes| bytes.checked_add(u64::try_from(fraction_bytes).ok()?))
            .map(Self)
            .ok_or_else(wrong)
    }
}

/// A share, typed as a percentage: `10%` or `10`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim()
            .trim_end_matches('%')
            .parse::<f64>()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Self(percent / 100.0))
            .ok_or_else(|| format!("`{text}` is not a percentage from 0% to 100%"))
    }
}

/// How hard to compress, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compression(pub(crate) Effort);

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let compression = match text {
            "off" => Effort::Fixed(frame::Compression::Off),
            "auto" => Effort::Auto,
            level => level
                .parse()
                .ok()
                .filter(|level| (-7..=19).contains(level))
                .map(|level| Effort::Fixed(frame::Compression::Zstd(level)))
                .ok_or_else(|| format!("`{text}` is neither a level from 1 to 19, auto nor off"))?,
        };
        Ok(Self(compression))
    }
}

/// A compression for people and programs, e.g. `zstd 1`.
pub(crate) fn compression(compression: frame::Compression) -> String {
    match compression {
        frame::Compression::Off => "off".into(),
        frame::Compression::Zstd(level) => format!("zstd {level}"),
    }
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Bytes a second for people.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people"
)]
pub(crate) fn rate(bytes: u64, seconds: f64) -> String {
    format!("{}/s", indicatif::HumanBytes((bytes as f64 / seconds.max(1e-3)) as u64))
}

/// A count with separators.
pub(crate) fn count(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// A count of things that are called `one` or `many`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Local time of a snapshot for people.
pub(crate) fn time(ns: i64) -> String {
    let zone = TimeZone::system();
    Timestamp::from_nanosecond(ns.into())
        .map(|time| time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

/// Time for programs: RFC 3339, UTC.
pub(crate) fn rfc3339(ns: i64) -> String {
    Timestamp::from_nanosecond(ns.into()).map(|time| time.to_string()).unwrap_or_default()
}

/// `part / whole` for people, e.g. `2.9`.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn ratio(whole: u64, part: u64) -> f64 {
    if part == 0 { 1.0 } else { whole as f64 / part as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1 << 10),
            ("200M", 200 << 20),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
            ("7MB", 7 << 20),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for wrong in ["", "M", "1X", "-1", "1.5.2G", "99999999999T", "1.0000000001G"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_and_levels_outside_their_range_are_refused() {
        assert_eq!("10%".parse::<Share>(), Ok(Share(0.1)));
        assert!("101%".parse::<Share>().is_err() && "x".parse::<Share>().is_err());
        assert!("20".parse::<Compression>().is_err() && "best".parse::<Compression>().is_err());
        assert_eq!(
            "19".parse::<Compression>().map(|level| level.0),
            Ok(Effort::Fixed(frame::Compression::Zstd(19)))
        );
    }
}
