//! What a command read of the repository's index because its cache lacked it: numbers for
//! programs, one line for people.

use repository::index::{Fetched, Index};
use serde_json::{Value, json};

use super::context::Context;
use super::units;

/// Less than this is not worth a line.
const BYTES_TOLD: u64 = 1 << 20;

/// Adds `index` to a result.
pub(super) fn add(object: &mut Value, index: &Index) {
    if let Some(map) = object.as_object_mut() {
        map.insert("index".into(), json!(index.fetched()));
    }
}

/// Tells people, if it was much.
pub(super) fn say(context: &Context, index: &Index) {
    if let Some(line) = line(&index.fetched()) {
        context.ui.say(&line);
    }
}

fn line(fetched: &Fetched) -> Option<String> {
    if fetched.bytes < BYTES_TOLD {
        return None;
    }
    let why = if fetched.was_cold { ": the index cache was cold" } else { "" };
    let left = if fetched.segments_left > 0 {
        format!(
            ". {} of {} segments are still to come: what they list may be stored again until they \
             are here, and the next prune reclaims it",
            units::count(fetched.segments_left),
            units::count(fetched.segments + fetched.segments_left)
        )
    } else {
        String::new()
    };
    Some(format!(
        "fetched {} of index for {}{why}{left}",
        units::bytes(fetched.bytes),
        units::counted(fetched.entries, "chunk", "chunks"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_was_fetched_why_and_what_is_to_come() {
        let all = Fetched {
            segments: 25,
            entries: 10_000_000,
            bytes: 400 << 20,
            was_cold: true,
            segments_left: 0,
        };
        let wanted = "fetched 400.00 MiB of index for 10,000,000 chunks: the index cache was cold";
        assert_eq!(line(&all).unwrap(), wanted);
        let some = line(&Fetched { segments_left: 175, was_cold: false, ..all }).unwrap();
        assert!(some.contains("chunks. 175 of 200 segments are still to come"), "{some}");
        assert_eq!(line(&Fetched { bytes: 1000, ..all }), None);
    }
}
