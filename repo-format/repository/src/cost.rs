//! What a repository costs in a bucket: arithmetic over list prices.
//!
//! Prices change, differ by region and contract, and have tiers: this is an estimate, and every
//! row can be replaced. Nothing here asks anybody.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::reader::RANGE_BYTES_MAX;

/// A gigabyte as most providers bill it.
const GIB: u64 = 1 << 30;

/// Prices of one storage class of one provider, in US dollars without tax.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// What it is chosen by.
    pub name: Cow<'static, str>,
    /// Of a gigabyte for a month.
    pub storage_gb_month: f64,
    /// Of 1,000 PUT, POST, COPY and LIST.
    #[serde(default)]
    pub put_1000: f64,
    /// Of 1,000 GET and HEAD.
    #[serde(default)]
    pub get_1000: f64,
    /// Of a gigabyte that leaves for the internet.
    #[serde(default)]
    pub egress_gb: f64,
    /// Of a gigabyte that is read at all.
    #[serde(default)]
    pub retrieval_gb: f64,
    /// What is deleted sooner is charged for so long.
    #[serde(default)]
    pub days_min: u32,
    /// Bytes of a gigabyte: 2^30 or 10^9.
    #[serde(default = "gib")]
    pub gb_bytes: u64,
    /// When the figures were right: a year and a month.
    #[serde(default)]
    pub as_of: Cow<'static, str>,
}

const fn gib() -> u64 {
    GIB
}

/// Nothing is free but what a row says.
const FREE: Price = Price {
    name: Cow::Borrowed(""),
    storage_gb_month: 0.0,
    put_1000: 0.0,
    get_1000: 0.0,
    egress_gb: 0.0,
    retrieval_gb: 0.0,
    days_min: 0,
    gb_bytes: GIB,
    as_of: Cow::Borrowed(""),
};

/// Out to the internet: the first 10 TB of a month.
const AWS: Price = Price { egress_gb: 0.09, as_of: Cow::Borrowed("2025-10"), ..FREE };

/// List prices without tax, the first tier of each, free allowances left out.
///
/// Only those of Cloudflare and Google were read on the provider's own page. AWS storage and the
/// requests of its standard class are from a copy of its price data; its egress is given there as
/// approximate; requests and retrieval of its other classes have no source that was read. Backblaze
/// and Wasabi are from third parties. The pages below are where to check them.
///
/// * AWS: US East (N. Virginia), <https://aws.amazon.com/s3/pricing/>.
/// * Backblaze: <https://www.backblaze.com/cloud-storage/transaction-pricing>. Uploads are free;
///   1,000 listings are $0.004, which is left out. Three times what is stored may leave for nothing
///   each month.
/// * Cloudflare: <https://developers.cloudflare.com/r2/pricing/>.
/// * Google: us-east1, <https://cloud.google.com/storage/pricing-examples>.
/// * Wasabi: <https://wasabi.com/pricing>. At least 1 TB is charged, and no more may leave in a month
///   than is stored.
pub const LIST: [Price; 9] = [
    Price {
        name: Cow::Borrowed("aws-standard"),
        storage_gb_month: 0.023,
        put_1000: 0.005,
        get_1000: 0.0004,
        ..AWS
    },
    Price {
        name: Cow::Borrowed("aws-standard-ia"),
        storage_gb_month: 0.0125,
        put_1000: 0.01,
        get_1000: 0.001,
        retrieval_gb: 0.01,
        days_min: 30,
        ..AWS
    },
    Price {
        name: Cow::Borrowed("aws-onezone-ia"),
        storage_gb_month: 0.01,
        put_1000: 0.01,
        get_1000: 0.001,
        retrieval_gb: 0.01,
        days_min: 30,
        ..AWS
    },
    Price {
        name: Cow::Borrowed("aws-glacier-ir"),
        storage_gb_month: 0.004,
        put_1000: 0.02,
        get_1000: 0.01,
        retrieval_gb: 0.03,
        days_min: 90,
        ..AWS
    },
    Price {
        name: Cow::Borrowed("backblaze-b2"),
        storage_gb_month: 0.006,
        get_1000: 0.0004,
        egress_gb: 0.01,
        gb_bytes: 1_000_000_000,
        as_of: Cow::Borrowed("2026-04"),
        ..FREE
    },
    Price {
        name: Cow::Borrowed("cloudflare-r2"),
        storage_gb_month: 0.015,
        put_1000: 0.0045,
        get_1000: 0.000_36,
        gb_bytes: 1_000_000_000,
        as_of: Cow::Borrowed("2026-08"),
        ..FREE
    },
    Price {
        name: Cow::Borrowed("cloudflare-r2-ia"),
        storage_gb_month: 0.01,
        put_1000: 0.009,
        get_1000: 0.0009,
        retrieval_gb: 0.01,
        days_min: 30,
        gb_bytes: 1_000_000_000,
        as_of: Cow::Borrowed("2026-08"),
        ..FREE
    },
    Price {
        name: Cow::Borrowed("google-standard"),
        storage_gb_month: 0.02,
        put_1000: 0.005,
        get_1000: 0.0004,
        egress_gb: 0.12,
        as_of: Cow::Borrowed("undated"),
        ..FREE
    },
    Price {
        name: Cow::Borrowed("wasabi"),
        storage_gb_month: 6.99 / 1024.0,
        days_min: 90,
        as_of: Cow::Borrowed("2024-07"),
        ..FREE
    },
];

/// Puts `rows` over `list`: a row replaces the one of its name, or is added.
pub fn overridden(list: &[Price], rows: Vec<Price>) -> Vec<Price> {
    let mut table = list.to_vec();
    for row in rows {
        match table.iter_mut().find(|old| old.name == row.name) {
            Some(old) => *old = row,
            None => table.push(row),
        }
    }
    table
}

/// What is in a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Index segments.
    pub segments: u64,
    /// Bytes of all objects.
    pub bytes: u64,
}

/// What is asked of a server, as it is charged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// PUT, POST, COPY and LIST.
    pub put_class: u64,
    /// GET and HEAD.
    pub get_class: u64,
    /// Bytes that are read and leave.
    pub received_bytes: u64,
}

/// What a backup needs besides its packs and index: opening, a session, a commit.
const BACKUP: Work = Work { put_class: 12, get_class: 10, received_bytes: 0 };
/// What a restore needs besides the ranges it reads.
const RESTORE: Work = Work { put_class: 12, get_class: 10, received_bytes: 0 };
/// How long a range is on average: chunks are not cut to fit.
const RANGE_BYTES: u64 = RANGE_BYTES_MAX / 4 * 3;

impl Holding {
    /// A first backup of all that is stored.
    pub const fn first_backup(&self) -> Work {
        Work { put_class: self.packs + self.segments + BACKUP.put_class, ..BACKUP }
    }

    /// A backup that stores `1 / part` of it anew: its share of the packs, at least one of content
    /// and one of manifests, and one index segment.
    pub fn incremental(&self, part: u64) -> Work {
        let packs = self.packs.div_ceil(part.max(1)).max(2);
        Work { put_class: packs + 1 + BACKUP.put_class, ..BACKUP }
    }

    /// A restore that reads every pack once.
    pub const fn restore(&self) -> Work {
        Work {
            get_class: self.pack_bytes.div_ceil(RANGE_BYTES) + RESTORE.get_class,
            received_bytes: self.pack_bytes,
            ..RESTORE
        }
    }
}

/// For sums of money, where a part in 2^53 does not matter.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
const fn real(number: u64) -> f64 {
    number as f64
}

impl Price {
    fn gigabytes(&self, bytes: u64) -> f64 {
        real(bytes) / real(self.gb_bytes.max(1))
    }

    /// Of keeping `bytes` for a month.
    pub fn month(&self, bytes: u64) -> f64 {
        self.gigabytes(bytes) * self.storage_gb_month
    }

    /// Of the requests of `work`.
    pub fn requests(&self, work: &Work) -> f64 {
        real(work.put_class) / 1000.0 * self.put_1000
            + real(work.get_class) / 1000.0 * self.get_1000
    }

    /// Of reading the bytes of `work`, if they stay with the provider.
    pub fn retrieval(&self, work: &Work) -> f64 {
        self.gigabytes(work.received_bytes) * self.retrieval_gb
    }

    /// Of the same bytes leaving for the internet.
    pub fn egress(&self, work: &Work) -> f64 {
        self.gigabytes(work.received_bytes) * self.egress_gb
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1 << 40;
    /// A tebibyte in packs of 32 MiB.
    const STOCK: Holding =
        Holding { packs: 1 << 15, pack_bytes: TIB, segments: 40, bytes: TIB + (1 << 30) };

    fn row(name: &str) -> Price {
        LIST.iter().find(|row| row.name == name).unwrap().clone()
    }

    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() <= 1e-6 * wanted.abs().max(1.0)
    }

    #[test]
    fn a_month_is_charged_by_the_gigabytes_of_the_provider() {
        for (name, bytes, wanted) in [
            ("aws-standard", TIB, 23.552),
            ("aws-standard-ia", TIB, 12.8),
            ("aws-onezone-ia", TIB, 10.24),
            ("aws-glacier-ir", TIB, 4.096),
            ("backblaze-b2", 1_000_000_000_000, 6.0),
            ("cloudflare-r2", 1_000_000_000_000, 15.0),
            ("cloudflare-r2-ia", 1_000_000_000_000, 10.0),
            ("google-standard", TIB, 20.48),
            ("wasabi", TIB, 6.99),
        ] {
            let found = row(name).month(bytes);
            assert!(near(found, wanted), "{name}: {found}, not {wanted}");
        }
        assert_eq!(LIST.len(), 9);
    }

    #[test]
    fn a_terabyte_is_stored_with_a_request_for_each_pack() {
        let first = STOCK.first_backup();
        assert_eq!(first.put_class, (1 << 15) + 40 + BACKUP.put_class);
        for (name, wanted) in [("aws-standard", 0.164), ("aws-glacier-ir", 0.657), ("wasabi", 0.0)]
        {
            let found = row(name).requests(&first);
            assert!((found - wanted).abs() < 0.001, "{name}: {found}");
        }
    }

    #[test]
    fn an_incremental_costs_its_share_and_never_less_than_two_packs() {
        assert_eq!(STOCK.incremental(100).put_class, 328 + 1 + BACKUP.put_class);
        let small = Holding { packs: 3, ..Holding::default() };
        assert_eq!(small.incremental(100).put_class, 2 + 1 + BACKUP.put_class);
        assert_eq!(small.incremental(0).put_class, 3 + 1 + BACKUP.put_class);
    }

    #[test]
    fn a_restore_pays_for_ranges_retrieval_and_what_leaves() {
        let restore = STOCK.restore();
        assert_eq!(restore.get_class, 349_526 + RESTORE.get_class);
        for (name, requests, retrieval, egress) in [
            ("aws-standard", 0.140, 0.0, 92.16),
            ("aws-standard-ia", 0.350, 10.24, 92.16),
            ("aws-glacier-ir", 3.496, 30.72, 92.16),
            ("google-standard", 0.140, 0.0, 122.88),
            ("wasabi", 0.0, 0.0, 0.0),
        ] {
            let row = row(name);
            assert!((row.requests(&restore) - requests).abs() < 0.001, "{name}");
            assert!(near(row.retrieval(&restore), retrieval), "{name}");
            assert!(near(row.egress(&restore), egress), "{name}");
        }
    }

    #[test]
    fn a_row_of_ones_own_replaces_the_one_of_its_name_or_is_added() {
        let text = r#"[{"name":"wasabi","storage_gb_month":0.5},
                       {"name":"ours","storage_gb_month":0.001,"put_1000":1,"gb_bytes":1000}]"#;
        let table = overridden(&LIST, serde_json::from_str(text).unwrap());
        assert_eq!(table.len(), LIST.len() + 1);
        let wasabi = table.iter().find(|row| row.name == "wasabi").unwrap();
        assert!(near(wasabi.storage_gb_month, 0.5) && wasabi.gb_bytes == GIB);
        let ours = table.last().unwrap();
        assert!(near(ours.month(5000), 0.005) && near(ours.requests(&STOCK.restore()), 0.012));
        let wrong = r#"[{"name":"x","storage_gb_month":1,"storage":2}]"#;
        assert!(serde_json::from_str::<Vec<Price>>(wrong).is_err(), "a mistyped word is refused");
    }
}
