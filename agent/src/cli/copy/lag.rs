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
