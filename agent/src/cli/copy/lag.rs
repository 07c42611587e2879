//! How far the target is behind the source.

use std::collections::BTreeMap;

use repo_format::snapshot::Snapshot;
use repository::copy::Counterparts;
use serde_json::{Value, json};

/// Of one name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NameLag {
    /// Snapshots that the target lacks.
    missing: u64,
    /// Ages, in nanoseconds: of the newest snapshot that the target lacks,
    lag_ns: Option<i64>,
    /// of the newest one,
    newest_ns: i64,
    /// and of the newest that the target has.
    copied_ns: Option<i64>,
}

/// By name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Lag(BTreeMap<String, NameLag>);

#[expect(clippy::cast_precision_loss, reason = "a time for people and graphs")]
fn seconds(ns: i64) -> f64 {
    (ns as f64 / 1e9 * 1000.0).round() / 1000.0
}

fn ceil_seconds(ns: i64) -> String {
    let seconds = u64::try_from(ns / 1_000_000_000).unwrap_or(0);
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

impl Lag {
    /// Of the chosen snapshots, at the time `now_ns` since 1970. A snapshot of the future is of age 0.
    pub(super) fn of(chosen: &[Snapshot], counterparts: &Counterparts, now_ns: i64) -> Self {
        let mut names: BTreeMap<String, NameLag> = BTreeMap::new();
        for snapshot in chosen {
            let age_ns = now_ns.saturating_sub(snapshot.finished_ns).max(0);
            let blank = NameLag { missing: 0, lag_ns: None, newest_ns: age_ns, copied_ns: None };
            let lag = names.entry(snapshot.name.clone()).or_insert(blank);
            let youngest =
                |known: Option<i64>| Some(known.map_or(age_ns, |known| known.min(age_ns)));
            lag.newest_ns = lag.newest_ns.min(age_ns);
            if counterparts.of(&snapshot.id).is_some() {
                lag.copied_ns = youngest(lag.copied_ns);
            } else {
                lag.missing += 1;
                lag.lag_ns = youngest(lag.lag_ns);
            }
        }
        Self(names)
    }

    pub(super) fn to_json(&self) -> Value {
        let names: Vec<Value> = self
            .0
            .iter()
            .map(|(name, lag)| {
                json!({
                    "name": name,
                    "missing": lag.missing,
                    "lag_seconds": seconds(lag.lag_ns.unwrap_or(0)),
                    "newest_seconds": seconds(lag.newest_ns),
                    "newest_copied_seconds": lag.copied_ns.map(seconds),
                })
            })
            .collect();
        let worst = self.0.values().filter_map(|lag| lag.lag_ns).max().unwrap_or(0);
        json!({
            "type": "lag",
            "missing": self.0.values().map(|lag| lag.missing).sum::<u64>(),
            "lag_seconds": seconds(worst),
            "newest_seconds": self.0.values().map(|lag| lag.newest_ns).min().map(seconds),
            "names": names,
        })
    }
}

impl std::fmt::Display for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let behind = self.0.iter().filter_map(|(name, lag)| Some((name, lag, lag.lag_ns?)));
        let behind: Vec<String> = behind
            .map(|(name, lag, age_ns)| {
                format!("{name} by {}, the newest {} old", lag.missing, ceil_seconds(age_ns))
            })
            .collect();
        let newest = self.0.values().map(|lag| lag.newest_ns).min();
        match (behind.is_empty(), newest) {
            (false, _) => write!(f, "behind: {}", behind.join("; ")),
            (true, Some(age_ns)) => {
                write!(f, "in step; the source's newest is {} old", ceil_seconds(age_ns))
            }
            (true, None) => f.write_str("in step; the source has no snapshots"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(missing: u64, lag_s: Option<i64>, newest_s: i64, copied_s: Option<i64>) -> NameLag {
        let ns = |seconds: i64| seconds * 1_000_000_000;
        let (lag_ns, copied_ns) = (lag_s.map(ns), copied_s.map(ns));
        NameLag { missing, lag_ns, newest_ns: ns(newest_s), copied_ns }
    }

    fn lag(names: &[(&str, NameLag)]) -> Lag {
        Lag(names.iter().map(|(name, lag)| ((*name).to_owned(), *lag)).collect())
    }

    #[test]
    fn the_worst_name_is_the_lag_and_the_youngest_snapshot_the_newest() {
        let behind = lag(&[
            ("disk", name(2, Some(75), 75, Some(300))),
            ("home", name(0, None, 12, Some(12))),
            ("new", name(1, Some(90), 90, None)),
        ]);
        let text = "behind: disk by 2, the newest 1m 15s old; new by 1, the newest 1m 30s old";
        assert_eq!(behind.to_string(), text);
        let json = behind.to_json();
        assert_eq!((&json["missing"], &json["lag_seconds"]), (&json!(3), &json!(90.0)));
        assert_eq!(json["newest_seconds"], json!(12.0));
        assert_eq!(json["names"][0]["newest_copied_seconds"], json!(300.0));
        assert_eq!(json["names"][2]["newest_copied_seconds"], Value::Null);
    }

    #[test]
    fn when_all_is_copied_the_lag_is_nothing_and_the_age_of_the_newest_is_told() {
        let in_step = lag(&[("disk", name(0, None, 3700, Some(3700)))]);
        assert_eq!(in_step.to_string(), "in step; the source's newest is 1h 1m 40s old");
        assert_eq!(in_step.to_json()["lag_seconds"], json!(0.0));
        assert_eq!(in_step.to_json()["newest_seconds"], json!(3700.0));
        assert_eq!(lag(&[]).to_string(), "in step; the source has no snapshots");
        assert_eq!(lag(&[]).to_json()["newest_seconds"], Value::Null);
    }
}
