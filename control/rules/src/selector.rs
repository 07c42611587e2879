//! Label selectors in the form of `metav1.LabelSelector`.

use std::collections::BTreeSet;

use serde_json::Value;

/// All of its requirements must hold; without any it takes everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) requirements: Vec<Requirement>,
}

/// What one label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    pub(crate) is: Is,
}

/// The operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Is {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is taken. An absent label satisfies `NotIn`.
    pub(crate) fn matches(&self, labels: Option<&Value>) -> bool {
        self.requirements.iter().all(|requirement| {
            let label = labels.and_then(|labels| labels.get(&requirement.key)?.as_str());
            match &requirement.is {
                Is::In(values) => label.is_some_and(|label| values.contains(label)),
                Is::NotIn(values) => label.is_none_or(|label| !values.contains(label)),
                Is::Exists => label.is_some(),
                Is::DoesNotExist => label.is_none(),
            }
        })
    }
}

/// Why `key` cannot be a label's key.
pub(crate) fn key_fault(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    if prefix.is_some_and(|prefix| prefix.is_empty() || prefix.len() > 253) {
        return Some("a label key's prefix must be a DNS name");
    }
    if name.is_empty() || !is_label_text(name) {
        return Some(
            "a label key's name is 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit \
             at both ends",
        );
    }
    None
}

/// Why `value` cannot be a label's value.
pub(crate) fn value_fault(value: &str) -> Option<&'static str> {
    (!value.is_empty() && !is_label_text(value)).then_some(
        "a label value is at most 63 letters, digits, '-', '_' or '.', with a letter or digit at \
         both ends",
    )
}

fn is_label_text(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.starts_with(|char: char| char.is_ascii_alphanumeric())
        && text.ends_with(|char: char| char.is_ascii_alphanumeric())
}

/// The form in an API object.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Wire {
    match_labels: std::collections::BTreeMap<String, String>,
    match_expressions: Vec<WireRequirement>,
}

#[derive(serde::Deserialize)]
struct WireRequirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: BTreeSet<String>,
}

impl<'de> serde::Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let wire = Wire::deserialize(deserializer)?;
        let mut requirements = Vec::new();
        for (key, value) in wire.match_labels {
            requirements.push(Requirement { key, is: Is::In([value].into()) });
        }
        for WireRequirement { key, operator, values } in wire.match_expressions {
            let is = match (operator.as_str(), values.is_empty()) {
                ("In", false) => Is::In(values),
                ("NotIn", false) => Is::NotIn(values),
                ("Exists", true) => Is::Exists,
                ("DoesNotExist", true) => Is::DoesNotExist,
                _ => {
                    return Err(D::Error::custom(format!(
                        "label selector: operator {operator:?} of {key:?} has {} values; In and NotIn \
                     need some, Exists and DoesNotExist take none",
                        values.len()
                    )));
                }
            };
            requirements.push(Requirement { key, is });
        }
        Ok(Self { requirements })
    }
}
