//! Places in objects: `spec.volumes[].secret.secretName` and the JSON pointers it stands for.

use serde_json::Value;

/// The places of `object` that `path` stands for, as JSON pointers. A step `name[]` stands for each
/// element of the array, `name{}` for each value of the map, `""` alone for the object itself.
pub fn resolve(object: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(object, path, &mut String::new(), &mut found);
    found
}

/// Calls `change` with each text that `path` stands for; what it returns takes the text's place.
/// Gives each place that changed, with the text from before.
pub fn rewrite(
    object: &mut Value,
    path: &str,
    mut change: impl FnMut(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let mut changed = Vec::new();
    for pointer in resolve(object, path) {
        let Some(place) = object.pointer_mut(&pointer) else { continue };
        let Some(before) = place.as_str().map(str::to_owned) else { continue };
        if let Some(after) = change(&before).filter(|after| *after != before) {
            *place = Value::from(after);
            changed.push((pointer, before));
        }
    }
    changed
}

/// Removes the value at a pointer, and gives it back.
pub fn remove(object: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, last) = pointer.rsplit_once('/')?;
    match object.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&unescape(last)),
        Value::Array(items) => {
            let at = last.parse::<usize>().ok().filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

/// One step of a JSON pointer.
pub fn escape(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn walk(value: &Value, path: &str, at: &mut String, found: &mut Vec<String>) {
    if path.is_empty() {
        found.push(at.clone());
        return;
    }
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let name = step.trim_end_matches("[]").trim_end_matches("{}");
    let Some(inner) = value.get(name) else { return };
    let length = at.len();
    at.push('/');
    at.push_str(&escape(name));
    if step.ends_with("[]") {
        for (number, item) in inner.as_array().into_iter().flatten().enumerate() {
            within(item, &number.to_string(), rest, at, found);
        }
    } else if step.ends_with("{}") {
        for (key, item) in inner.as_object().into_iter().flatten() {
            within(item, &escape(key), rest, at, found);
        }
    } else {
        walk(inner, rest, at, found);
    }
    at.truncate(length);
}

fn within(value: &Value, step: &str, rest: &str, at: &mut String, found: &mut Vec<String>) {
    let length = at.len();
    at.push('/');
    at.push_str(step);
    walk(value, rest, at, found);
    at.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_stands_for_every_place_that_exists() {
        let object = json!({"a": [{"b": {"x/y": "1", "z": "2"}}, {"c": 1}, {"b": {"w": "3"}}]});
        assert_eq!(resolve(&object, "a[].b{}"), ["/a/0/b/x~1y", "/a/0/b/z", "/a/2/b/w"]);
        assert_eq!(resolve(&object, "a[].none"), [""; 0]);
        assert_eq!(resolve(&object, "a.b"), [""; 0]);
    }

    #[test]
    fn rewriting_tells_what_was_there() {
        let mut object = json!({"a": [{"b": "1"}, {"b": "2"}]});
        let changed = rewrite(&mut object, "a[].b", |text| (text == "2").then(|| "3".into()));
        assert_eq!(changed, [("/a/1/b".into(), "2".into())]);
        assert_eq!(object, json!({"a": [{"b": "1"}, {"b": "3"}]}));
    }

    #[test]
    fn removing_what_is_not_there_does_nothing() {
        let mut object = json!({"a": [1], "b/c": 2});
        for pointer in ["/a/1", "/a/x", "/c/d", "", "/a/0/q"] {
            assert_eq!(remove(&mut object, pointer), None, "{pointer}");
        }
        assert_eq!(remove(&mut object, "/b~1c"), Some(json!(2)));
        assert_eq!(remove(&mut object, "/a/0"), Some(json!(1)));
    }
}
