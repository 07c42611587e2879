//! YAML whose every value knows its line, so that a whole document is judged and each of its
//! problems named at once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The line of its first character, counted from 1.
    pub line: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a YAML value is, after type inference as in YAML 1.1 (`yes` and `on` are true), which is
/// what Kubernetes tools read.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in written order. A key stands once: the parser refuses duplicates.
    Map(Vec<(String, Node)>),
}

/// Text that is not YAML, or that a parser's limit against alias bombs refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    /// Where, counted from 1; 0 if the parser did not say.
    pub line: u64,
    /// Why.
    pub message: String,
}

impl Node {
    /// The value without its lines.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(truth) => Value::Bool(*truth),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Kind::Map(fields) => {
                let fields = fields.iter().map(|(key, value)| (key.clone(), value.to_value()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// What it is, for a message.
    pub const fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Reads one document; an empty one is [`Kind::Null`].
///
/// # Errors
///
/// [`YamlError`] if it is not one YAML document.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    if text.trim().is_empty() {
        return Ok(Node { line: 1, kind: Kind::Null });
    }
    let spanned = serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options());
    spanned.map(Node::from).map_err(|error| YamlError::from(&error))
}

/// Reads a stream of documents; empty ones are left out.
///
/// # Errors
///
/// [`YamlError`] if any of them is not YAML.
pub fn parse_stream(text: &str) -> Result<Vec<Node>, YamlError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let documents = serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options());
    let documents = documents.map_err(|error| YamlError::from(&error))?;
    Ok(documents.into_iter().map(Node::from).collect())
}

/// Reads one document where lines do not matter.
///
/// # Errors
///
/// [`YamlError`] if it is not one YAML document.
pub fn parse_value(text: &str) -> Result<Value, YamlError> {
    parse(text).map(|node| node.to_value())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false }
}

impl From<&serde_saphyr::Error> for YamlError {
    fn from(error: &serde_saphyr::Error) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        Self { line, message: error.without_snippet().to_string() }
    }
}

impl From<Spanned<Raw>> for Node {
    fn from(spanned: Spanned<Raw>) -> Self {
        Self { line: spanned.referenced.line(), kind: spanned.value.0 }
    }
}

/// A value on its way from the parser.
struct Raw(Kind);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor).map(Self)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Kind;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Kind, E> {
        Ok(Kind::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Kind, E> {
        Ok(Kind::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Kind, E> {
        let finite = Number::from_f64(number);
        finite.map(Kind::Number).ok_or_else(|| E::custom("a number JSON cannot hold"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Kind, E> {
        Ok(Kind::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Raw>>()? {
            list.push(Node::from(item));
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Kind, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = fields.next_key::<String>()? {
            map.push((key, Node::from(fields.next_value::<Spanned<Raw>>()?)));
        }
        Ok(Kind::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_value_knows_its_line() {
        let node = parse("a: 1\nb:\n- x\n- {c: true}\n").unwrap();
        let Kind::Map(fields) = &node.kind else { panic!("{node:?}") };
        assert_eq!(fields[0].1.line, 1);
        let Kind::List(items) = &fields[1].1.kind else { panic!("{fields:?}") };
        assert_eq!((items[0].line, items[1].line), (3, 4));
        assert_eq!(node.to_value(), json!({"a": 1, "b": ["x", {"c": true}]}));
    }

    #[test]
    fn words_of_yaml_1_1_are_truth_values_and_quoted_ones_are_text() {
        let value = parse_value("{a: yes, b: off, c: \"yes\", d: \"5\", e: ~, f: 1.5}").unwrap();
        let wanted = json!({"a": true, "b": false, "c": "yes", "d": "5", "e": null, "f": 1.5});
        assert_eq!(value, wanted);
    }

    #[test]
    fn a_stream_gives_each_document_with_its_lines_and_leaves_out_empty_ones() {
        let nodes = parse_stream("a: 1\n---\n---\nb: 2\n").unwrap();
        assert_eq!(nodes.len(), 2);
        let Kind::Map(fields) = &nodes[1].kind else { panic!("{nodes:?}") };
        assert_eq!(fields[0].1.line, 4);
        assert!(parse_stream("").unwrap().is_empty());
    }

    #[test]
    fn a_key_given_twice_and_broken_text_are_refused_with_their_line() {
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().line, 2);
        assert!(parse("a: [1").is_err());
    }
}
