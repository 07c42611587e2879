//! Kubernetes quantities: `500m`, `1Gi`, `1e3`; equal if they say the same amount.

use std::cmp::Ordering;

use thiserror::Error;

/// The digits an amount may have: more than any quantity the API server takes.
const DIGITS: usize = 38;

/// An amount, in billionths of its unit: the API server knows nothing smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    nano: i128,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no quantity; write a number with a suffix such as m, k, Mi or e3")]
pub struct NotAQuantity(pub String);

impl Quantity {
    /// Reads a quantity. What is smaller than a billionth is rounded up, as the API server does.
    ///
    /// # Errors
    ///
    /// If it is none, or too large to be one.
    pub fn parse(text: &str) -> Result<Self, NotAQuantity> {
        parse(text).ok_or_else(|| NotAQuantity(text.to_owned()))
    }

    /// The amount in billionths.
    pub const fn nano(self) -> i128 {
        self.nano
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

fn parse(text: &str) -> Option<Quantity> {
    let (is_negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let length = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = unsigned.split_at(length);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > DIGITS || fraction.contains('.') {
        return None;
    }
    let digits: i128 = digits.parse().ok()?;
    let shift = i32::try_from(fraction.len()).ok()?;
    let (exponent, factor) = scale(suffix)?;
    let scaled = digits.checked_mul(factor)?;
    let nano = ten_to(scaled, 9 + exponent - shift)?;
    Some(Quantity { nano: if is_negative { -nano } else { nano } })
}

/// A power of ten, and a factor, that a suffix stands for.
fn scale(suffix: &str) -> Option<(i32, i128)> {
    Some(match suffix {
        "" => (0, 1),
        "n" => (-9, 1),
        "u" => (-6, 1),
        "m" => (-3, 1),
        "k" => (3, 1),
        "M" => (6, 1),
        "G" => (9, 1),
        "T" => (12, 1),
        "P" => (15, 1),
        "E" => (18, 1),
        "Ki" => (0, 1 << 10),
        "Mi" => (0, 1 << 20),
        "Gi" => (0, 1 << 30),
        "Ti" => (0, 1 << 40),
        "Pi" => (0, 1 << 50),
        "Ei" => (0, 1 << 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            (exponent.parse().ok().filter(|exponent| (-30..=30).contains(exponent))?, 1)
        }
    })
}

/// `number` times ten to the `exponent`, rounded up; none if it is too large.
fn ten_to(number: i128, exponent: i32) -> Option<i128> {
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 {
        return number.checked_mul(power);
    }
    Some(number / power + i128::from(number % power != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_equal_by_amount() {
        let groups: [&[&str]; 6] = [
            &["1", "1000m", "1e0", "1.0", "+1", "1000000u"],
            &["1Gi", "1024Mi", "1073741824"],
            &["0.5", "500m", ".5"],
            &["1k", "1e3", "1000", "1E3"],
            &["-1", "-1000m"],
            &["0", "0m", "0Gi"],
        ];
        for (at, group) in groups.iter().enumerate() {
            for text in *group {
                let value = Quantity::parse(text).unwrap();
                assert_eq!(value, Quantity::parse(group[0]).unwrap(), "{text}");
                for other in groups.iter().skip(at + 1) {
                    assert_ne!(value, Quantity::parse(other[0]).unwrap(), "{text}");
                }
            }
        }
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
        assert_eq!(Quantity::parse("0.1n").unwrap().nano(), 1);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", "Gi", "1 Gi", "1gi", "1.2.3", "--1", "1e99", "1e", "9999999999999999999E", "ä"]
        {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }
}
