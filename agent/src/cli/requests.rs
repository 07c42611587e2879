//! What a command asked of a server: numbers for programs, one line for people.

use repository::store::{Store, Totals};
use serde_json::{Value, json};

use super::context::Context;
use super::units;

/// Requests and bytes so far; `None` where there is no server.
fn totals(store: &dyn Store) -> Option<Totals> {
    store.traffic().map(|traffic| traffic.totals())
}

/// Adds `requests` to a result, if there is a server.
pub(super) fn add(object: &mut Value, store: &dyn Store) {
    if let (Some(map), Some(totals)) = (object.as_object_mut(), totals(store)) {
        map.insert("requests".into(), json!(totals));
    }
}

/// For a result about two stores: what was asked of each that is a server.
pub(super) fn of_both(source: &dyn Store, target: &dyn Store) -> Value {
    json!({ "source": totals(source), "target": totals(target) })
}

/// Tells people, if there is a server.
///
/// * `whose`: which store, where a command has two; else empty.
pub(super) fn say(context: &Context, whose: &str, store: &dyn Store) {
    if let Some(totals) = totals(store) {
        context.ui.say(&format!("  {whose}{}", line(&totals)));
    }
}

fn line(totals: &Totals) -> String {
    format!(
        "requests: {} PUT/LIST, {} GET, {} DELETE; {} up, {} down",
        units::count(totals.put_class),
        units::count(totals.get_class),
        units::count(totals.delete),
        units::bytes(totals.sent_bytes),
        units::bytes(totals.received_bytes),
    )
}

#[cfg(test)]
mod tests {
    use repository::store::Memory;

    use super::*;

    #[test]
    fn a_store_without_a_server_reports_no_requests() {
        let mut object = json!({ "type": "backup" });
        add(&mut object, &Memory::default());
        assert_eq!(object, json!({ "type": "backup" }));
        let both = of_both(&Memory::default(), &Memory::default());
        assert!(both["source"].is_null() && both["target"].is_null());
    }

    #[test]
    fn people_get_one_line() {
        let totals = Totals {
            put_class: 1200,
            get_class: 3,
            delete: 1,
            sent_bytes: 1 << 20,
            received_bytes: 512,
        };
        let wanted = "requests: 1,200 PUT/LIST, 3 GET, 1 DELETE; 1.00 MiB up, 512 B down";
        assert_eq!(line(&totals), wanted);
    }
}
