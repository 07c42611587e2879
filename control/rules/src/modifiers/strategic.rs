//! Strategic merge patches: mappings merge, lists merge where the type says so, and directives
//! (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`) say otherwise.

use serde_json::{Map, Value};

use super::merge_keys::{self, List, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Why an object cannot be patched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A custom resource, whose type nobody here knows. Velero refuses it too.
    #[error(
        "{api_version} {kind} is not a built-in kind, so how its lists merge is not known; use \
         mergePatches or patches"
    )]
    UnknownKind {
        /// Of the object.
        api_version: String,
        /// Of the object.
        kind: String,
    },
    /// A patch that does not fit the type.
    #[error("at {path}: {reason}")]
    Misfit {
        /// Where, with dots; empty for the object itself.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Patches an object; `patch` is a mapping.
pub(super) fn merge_object(object: &Value, patch: &Value) -> Result<Value, StrategicError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(of) = merge_keys::of(group, kind) else {
        let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
        return Err(StrategicError::UnknownKind { api_version, kind });
    };
    let (Some(object), Some(patch)) = (object.as_object(), patch.as_object()) else {
        return Err(misfit("", "a patch and its object are mappings"));
    };
    merge_map(object.clone(), patch, of, "").map(Value::Object)
}

fn misfit(at: &str, reason: impl Into<String>) -> StrategicError {
    StrategicError::Misfit { path: at.to_owned(), reason: reason.into() }
}

fn merge_map(
    mut object: Map<String, Value>,
    patch: &Map<String, Value>,
    of: &'static Type,
    within: &str,
) -> Result<Map<String, Value>, StrategicError> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            return Ok(patch.iter().filter(|(key, _)| *key != PATCH).map(owned).collect());
        }
        Some("delete") => return Ok(Map::new()),
        Some(other) => {
            return Err(misfit(
                within,
                format!("$patch is {other:?}; it is merge, replace or delete"),
            ));
        }
    }
    retain_keys(&mut object, patch, within)?;
    for (key, wanted) in patch {
        if key == PATCH || key == RETAIN_KEYS || key.starts_with(ORDER) {
            continue;
        }
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut object, list, wanted, within)?;
            continue;
        }
        let at = join(within, key);
        if wanted.is_null() {
            object.remove(key);
            continue;
        }
        let merged = merge_field(object.get(key), wanted, of.field(key), &at)?;
        object.insert(key.clone(), merged);
    }
    order_lists(&mut object, patch, of, within)?;
    Ok(object)
}

fn merge_field(
    object: Option<&Value>,
    patch: &Value,
    (of, list): (&'static Type, List),
    at: &str,
) -> Result<Value, StrategicError> {
    match (object, patch) {
        (Some(Value::Object(object)), Value::Object(patch)) => {
            merge_map(object.clone(), patch, of, at).map(Value::Object)
        }
        (_, Value::Object(patch)) => merge_map(Map::new(), patch, of, at).map(Value::Object),
        (Some(Value::Array(object)), Value::Array(patch)) => match list {
            List::ByKey(key) => merge_items(object, patch, key, of, at).map(Value::Array),
            List::Set => Ok(Value::Array(union(object, patch))),
            List::Replace => Ok(Value::Array(patch.iter().map(without_directives).collect())),
        },
        (_, Value::Array(patch)) => match list {
            List::ByKey(key) => merge_items(&[], patch, key, of, at).map(Value::Array),
            List::Set => Ok(Value::Array(union(&[], patch))),
            List::Replace => Ok(Value::Array(patch.iter().map(without_directives).collect())),
        },
        (_, scalar) => Ok(scalar.clone()),
    }
}

/// Merges two lists whose items are told apart by `key`.
fn merge_items(
    object: &[Value],
    patch: &[Value],
    key: &'static str,
    of: &'static Type,
    at: &str,
) -> Result<Vec<Value>, StrategicError> {
    let directive = |item: &Value| item.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    let replaces = patch.iter().any(|item| directive(item).as_deref() == Some("replace"));
    let mut items: Vec<Value> = if replaces { Vec::new() } else { object.to_vec() };
    for item in patch {
        let fields = item.as_object().ok_or_else(|| misfit(at, "an item is not a mapping"))?;
        let place = |items: &[Value]| {
            let id = fields.get(key)?;
            items.iter().position(|item| item.get(key) == Some(id))
        };
        match directive(item).as_deref() {
            Some("replace") => continue,
            Some("delete") if fields.contains_key(key) => {
                while let Some(index) = place(&items) {
                    items.remove(index);
                }
                continue;
            }
            Some(other) if other != "delete" => {
                return Err(misfit(at, format!("$patch {other:?} has no meaning in a list")));
            }
            _ => {}
        }
        if !fields.contains_key(key) {
            return Err(misfit(at, format!("an item has no {key:?}, which tells its items apart")));
        }
        match place(&items) {
            Some(index) => {
                let known = items[index].as_object().cloned().unwrap_or_default();
                items[index] = Value::Object(merge_map(known, fields, of, at)?);
            }
            None => items.push(Value::Object(merge_map(Map::new(), fields, of, at)?)),
        }
    }
    Ok(items)
}

/// `$retainKeys`: of the object's fields only these stay.
fn retain_keys(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    within: &str,
) -> Result<(), StrategicError> {
    let Some(retain) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let retain = retain.as_array().ok_or_else(|| misfit(within, "$retainKeys is not a list"))?;
    let kept = |key: &str| retain.iter().any(|name| name.as_str() == Some(key));
    let stray = patch.keys().find(|key| !key.starts_with('$') && !kept(key));
    if let Some(key) = stray {
        return Err(misfit(
            within,
            format!("the patch sets {key:?}, which its $retainKeys leaves out"),
        ));
    }
    object.retain(|key, _| kept(key));
    Ok(())
}

/// `$deleteFromPrimitiveList/…`: these values go.
fn delete_from(
    object: &mut Map<String, Value>,
    list: &str,
    gone: &Value,
    within: &str,
) -> Result<(), StrategicError> {
    let at = join(within, list);
    let gone = gone.as_array().ok_or_else(|| misfit(&at, "what is deleted is not a list"))?;
    if let Some(Value::Array(items)) = object.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// `$setElementOrder/…`: the named items in this order; others keep their place among themselves,
/// and before a named one that they preceded.
fn order_lists(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    of: &'static Type,
    within: &str,
) -> Result<(), StrategicError> {
    for (directive, order) in patch {
        let Some(list) = directive.strip_prefix(ORDER) else { continue };
        let at = join(within, list);
        let order = order.as_array().ok_or_else(|| misfit(&at, "its order is not a list"))?;
        let key = match of.field(list).1 {
            List::ByKey(key) => Some(key),
            List::Set => None,
            List::Replace => return Err(misfit(&at, "this list is replaced, not merged")),
        };
        let id = |item: &Value| key.map_or_else(|| item.clone(), |key| item[key].clone());
        let Some(Value::Array(items)) = object.get_mut(list) else { continue };
        let rank = |item: &Value| order.iter().position(|wanted| id(wanted) == id(item));
        let (mut named, others): (Vec<_>, Vec<_>) =
            items.drain(..).enumerate().partition(|(_, item)| rank(item).is_some());
        named.sort_by_key(|(_, item)| rank(item));
        let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
        while let (Some((named_at, _)), Some((other_at, _))) = (named.peek(), others.peek()) {
            let next = if other_at < named_at { others.next() } else { named.next() };
            items.extend(next.map(|(_, item)| item));
        }
        items.extend(named.chain(others).map(|(_, item)| item));
    }
    Ok(())
}

fn union(object: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::with_capacity(object.len() + patch.len());
    for item in object.iter().chain(patch) {
        if !items.contains(item) {
            items.push(item.clone());
        }
    }
    items
}

/// A value as it is put where nothing was: without directives and nulls.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept =
                fields.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key.clone(), without_directives(value))).collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(without_directives).collect()),
        scalar => scalar.clone(),
    }
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn join(within: &str, key: &str) -> String {
    if within.is_empty() { key.to_owned() } else { format!("{within}.{key}") }
}
