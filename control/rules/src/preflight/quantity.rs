//! Kubernetes quantities, in thousandths.

use crate::quantity::Quantity;

/// Reads `500m`, `2`, `1.5Gi`, `1e3`. Thousandths, rounded up; nothing if it is no quantity, or a
/// negative one.
pub(super) fn milli(text: &str) -> Option<u128> {
    let nano = u128::try_from(Quantity::parse(text).ok()?.nano()).ok()?;
    Some(nano.div_ceil(1_000_000))
}

/// Thousandths as a person reads them: whole numbers with a binary unit where it fits.
pub(super) fn show(milli: u128) -> String {
    if !milli.is_multiple_of(1_000) {
        return format!("{milli}m");
    }
    let whole = milli / 1_000;
    let unit = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let fits = unit.iter().find(|(_, bits)| whole >= 1 << bits && whole.is_multiple_of(1 << bits));
    fits.map_or_else(|| whole.to_string(), |(unit, bits)| format!("{}{unit}", whole >> bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        let table = [
            ("0", Some(0)),
            ("500m", Some(500)),
            ("2", Some(2_000)),
            ("1.5", Some(1_500)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("1E3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("5e-1", Some(500)),
            ("100n", Some(1)),
            ("", None),
            ("x", None),
            ("1Zi", None),
            ("-1", None),
            ("99999999999999999999999999999999", None),
        ];
        for (text, wanted) in table {
            assert_eq!(milli(text), wanted, "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_were_written() {
        for text in ["500m", "2", "3Gi", "100Mi", "1500m", "7"] {
            assert_eq!(show(milli(text).unwrap()), text);
        }
    }
}
