//! JSON patches (RFC 6902) with the two habits of Velero's library: a negative index counts from
//! the end of a list, and a `test` for `null` holds where nothing is.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, CopyOperation, MoveOperation, PatchErrorKind, PatchOperation, RemoveOperation,
    ReplaceOperation,
};
use serde_json::Value;

/// One operation, checked: pointers begin with a slash.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchFault {
    /// A `test` that does not hold.
    #[error("operation {number}, test {path}: found {found}, not {wanted}")]
    Test {
        /// Counted from 1.
        number: usize,
        /// Where.
        path: String,
        /// What stands there, as JSON, or `nothing`.
        found: String,
        /// What should, as JSON.
        wanted: String,
    },
    /// A path that leads nowhere.
    #[error("operation {number}, {name} {path}: {reason}")]
    Path {
        /// Counted from 1.
        number: usize,
        /// The operation.
        name: &'static str,
        /// Where.
        path: String,
        /// Why.
        reason: &'static str,
    },
}

impl PatchFault {
    /// Whether it is a `test` that does not hold, rather than a patch that does not fit.
    pub const fn is_failed_test(&self) -> bool {
        matches!(self, Self::Test { .. })
    }
}

/// Applies all operations, or none.
pub(super) fn apply(object: &Value, operations: &[Operation]) -> Result<Value, PatchFault> {
    let mut object = object.clone();
    for (index, operation) in operations.iter().enumerate() {
        apply_one(&mut object, operation, index + 1)?;
    }
    Ok(object)
}

/// Whether `value` stands at `path`.
pub(super) fn holds(object: &Value, path: &str, value: &Value) -> bool {
    let path = from_the_end(object, path, false);
    object.pointer(&path).unwrap_or(&Value::Null) == value
}

fn apply_one(object: &mut Value, operation: &Operation, number: usize) -> Result<(), PatchFault> {
    if let Operation::Test { path, value } = operation {
        return test(object, path, value, number);
    }
    let (name, path) = (operation.name(), operation.path());
    let fault = |reason| PatchFault::Path { number, name, path: path.to_owned(), reason };
    let operation = resolve(object, operation).ok_or_else(|| fault("not a JSON pointer"))?;
    json_patch::patch(object, &[operation]).map_err(|error| {
        fault(match error.kind {
            PatchErrorKind::InvalidFromPointer => "nothing is there to move or copy",
            PatchErrorKind::CannotMoveInsideItself => "a value cannot be moved into itself",
            _ => "the path leads nowhere: a parent is missing, or there is nothing to change",
        })
    })
}

fn test(object: &Value, path: &str, wanted: &Value, number: usize) -> Result<(), PatchFault> {
    if holds(object, path, wanted) {
        return Ok(());
    }
    let found = object.pointer(&from_the_end(object, path, false));
    Err(PatchFault::Test {
        number,
        path: path.to_owned(),
        found: found.map_or_else(|| "nothing".to_owned(), ToString::to_string),
        wanted: wanted.to_string(),
    })
}

/// The library's form of an operation, its indices counted from the front.
fn resolve(object: &Value, operation: &Operation) -> Option<PatchOperation> {
    let at = |path: &str, inserts| PointerBuf::parse(from_the_end(object, path, inserts)).ok();
    Some(match operation {
        Operation::Add { path, value } => {
            PatchOperation::Add(AddOperation { path: at(path, true)?, value: value.clone() })
        }
        Operation::Remove { path } => {
            PatchOperation::Remove(RemoveOperation { path: at(path, false)? })
        }
        Operation::Replace { path, value } => PatchOperation::Replace(ReplaceOperation {
            path: at(path, false)?,
            value: value.clone(),
        }),
        Operation::Move { from, path } => {
            PatchOperation::Move(MoveOperation { from: at(from, false)?, path: at(path, true)? })
        }
        Operation::Copy { from, path } => {
            PatchOperation::Copy(CopyOperation { from: at(from, false)?, path: at(path, true)? })
        }
        Operation::Test { .. } => return None,
    })
}

/// Replaces negative list indices by what they mean in `object`. Others, and those out of range,
/// stay: the patch then says that they lead nowhere.
///
/// * `inserts`: whether the last index names a gap rather than an item; -1 is then the end.
fn from_the_end(object: &Value, path: &str, inserts: bool) -> String {
    if !path.contains("/-") {
        return path.to_owned();
    }
    let mut resolved = String::with_capacity(path.len());
    let mut place = Some(object);
    let mut tokens = path.split('/').skip(1).peekable();
    while let Some(token) = tokens.next() {
        let length = place.and_then(Value::as_array).map(Vec::len);
        let places = length.map(|length| length + usize::from(inserts && tokens.peek().is_none()));
        let back = token.strip_prefix('-').and_then(|digits| digits.parse::<usize>().ok());
        let index = places.zip(back).and_then(|(places, back)| places.checked_sub(back));
        let token = index.map_or_else(|| token.to_owned(), |index| index.to_string());
        place = place.and_then(|place| place.pointer(&format!("/{token}")));
        resolved.push('/');
        resolved.push_str(&token);
    }
    resolved
}

impl Operation {
    const fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::Replace { .. } => "replace",
            Self::Move { .. } => "move",
            Self::Copy { .. } => "copy",
            Self::Test { .. } => "test",
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Add { path, .. }
            | Self::Remove { path }
            | Self::Replace { path, .. }
            | Self::Move { path, .. }
            | Self::Copy { path, .. }
            | Self::Test { path, .. } => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn add(path: &str, value: Value) -> Operation {
        Operation::Add { path: path.into(), value }
    }

    #[test]
    fn a_negative_index_counts_from_the_end_and_minus_one_appends() {
        let object = json!({"a": [1, 2, 3]});
        let remove = |path: &str| apply(&object, &[Operation::Remove { path: path.into() }]);
        assert_eq!(remove("/a/-1").unwrap(), json!({"a": [1, 2]}));
        assert_eq!(remove("/a/-3").unwrap(), json!({"a": [2, 3]}));
        assert!(remove("/a/-4").is_err());
        let added = |path: &str| apply(&object, &[add(path, json!(9))]).unwrap();
        assert_eq!(added("/a/-1"), json!({"a": [1, 2, 3, 9]}));
        assert_eq!(added("/a/-2"), json!({"a": [1, 2, 9, 3]}));
        assert_eq!(added("/a/-"), json!({"a": [1, 2, 3, 9]}));
    }

    #[test]
    fn a_key_that_looks_like_a_negative_index_is_a_key() {
        let object = json!({"labels": {"-1": "x"}});
        assert!(holds(&object, "/labels/-1", &json!("x")));
    }

    #[test]
    fn a_test_for_null_holds_where_nothing_is() {
        assert!(holds(&json!({"a": {}}), "/a/b", &Value::Null));
        assert!(!holds(&json!({"a": {"b": 1}}), "/a/b", &Value::Null));
        assert!(!holds(&json!({"a": {}}), "/a/b", &json!("")));
    }

    #[test]
    fn a_fault_names_the_operation_and_leaves_the_object_alone() {
        let object = json!({"a": 1});
        let operations = [add("/b", json!(2)), add("/c/d", json!(3))];
        let fault = apply(&object, &operations).unwrap_err();
        assert!(fault.to_string().starts_with("operation 2, add /c/d:"), "{fault}");
        assert!(!fault.is_failed_test());
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            "[a-c]{0,2}".prop_map(Value::String)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_added_can_be_tested_and_removed_again(fields in proptest::collection::btree_map("[a-c]", json_value(), 0..4), value in json_value()) {
            let object = Value::Object(fields.into_iter().collect());
            let patched = apply(&object, &[add("/new", value.clone())]).unwrap();
            prop_assert!(holds(&patched, "/new", &value));
            let undone = apply(&patched, &[Operation::Remove { path: "/new".into() }]).unwrap();
            prop_assert_eq!(undone, object);
        }

        #[test]
        fn a_merge_patch_applied_twice_changes_nothing_more(object in json_value(), patch in json_value()) {
            let mut once = object;
            json_patch::merge(&mut once, &patch);
            let mut twice = once.clone();
            json_patch::merge(&mut twice, &patch);
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn no_pointer_and_no_object_panics(object in json_value(), path in "(/[a-c0-9-]{0,2}){0,4}", value in json_value()) {
            let from = path.clone();
            let operations = [
                add(&path, value.clone()),
                Operation::Copy { from, path: "/a".into() },
                Operation::Replace { path: path.clone(), value: value.clone() },
                Operation::Test { path: path.clone(), value },
                Operation::Remove { path },
            ];
            for operation in operations {
                let _ = apply(&object, &[operation]);
            }
        }
    }
}
