//! JSON merge patches (RFC 7386).

use serde_json::{Map, Value};

/// The merge patch from one object to another. It cannot set a null.
pub fn merge_patch(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for (key, value) in to {
        match from.get(key) {
            Some(before) if before == value => {}
            Some(before @ Value::Object(_)) if value.is_object() => {
                patch.insert(key.clone(), merge_patch(before, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// `object` after a merge patch.
pub fn apply(object: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut patched = object.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            patched.remove(key);
        } else {
            let before = patched.get(key).unwrap_or(&Value::Null);
            let after = apply(before, value);
            patched.insert(key.clone(), after);
        }
    }
    Value::Object(patched)
}
