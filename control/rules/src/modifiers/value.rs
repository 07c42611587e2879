//! What the `value` of a JSON patch means. Velero pastes it into JSON: raw if it looks like JSON,
//! between quotes otherwise. Whatever that yields there, it yields here; text that breaks Velero's
//! JSON (a quote in it, say) is taken as it stands.

use serde_json::Value;

/// Text that looks like a JSON value and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is read as {looks_like} and is not valid JSON; for the text itself write '\"{text}\"'"
)]
pub(super) struct ValueFault {
    text: String,
    looks_like: &'static str,
}

/// Reads a value.
///
/// * empty: the empty text;
/// * in double quotes: text, whatever is inside;
/// * `null`, truth values, numbers, `{…` and `[…`: JSON;
/// * anything else: text.
pub(super) fn parse(text: &str) -> Result<Value, ValueFault> {
    if let Some(rest) = text.strip_prefix('"')
        && text.ends_with('"')
    {
        return Ok(quoted(rest.strip_suffix('"').unwrap_or(rest)));
    }
    let looks_like = if text == "null" {
        "null"
    } else if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
        "a boolean"
    } else if text.starts_with('{') {
        "an object"
    } else if text.starts_with('[') {
        "a list"
    } else if is_number(text) {
        "a number"
    } else {
        return Ok(quoted(text));
    };
    serde_json::from_str(text).map_err(|_| ValueFault { text: text.to_owned(), looks_like })
}

/// Text put between quotes as it is: its JSON escapes are read, as Velero's reader does.
fn quoted(text: &str) -> Value {
    let as_json = serde_json::from_str::<String>(&format!("\"{text}\""));
    Value::String(as_json.unwrap_or_else(|_| text.to_owned()))
}

/// What Go's `ParseFloat` takes for a number, hexadecimal ones aside.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    text.parse::<f64>()
        .is_ok_and(|number| number.is_finite() || unsigned.starts_with(['i', 'I', 'n', 'N']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_quoted_as_velero_does() {
        let table = [
            ("", json!("")),
            ("premium", json!("premium")),
            ("a b", json!("a b")),
            (" 5", json!(" 5")),
            ("5", json!(5)),
            ("-1.5e3", json!(-1500.0)),
            ("\"5\"", json!("5")),
            ("true", json!(true)),
            ("\"true\"", json!("true")),
            ("null", json!(null)),
            ("\"null\"", json!("null")),
            ("{}", json!({})),
            ("\"{}\"", json!("{}")),
            ("[]", json!([])),
            ("{\"a\": [1, null]}", json!({"a": [1, null]})),
            ("\"\"", json!("")),
            ("\"", json!("")),
            ("1Gi", json!("1Gi")),
            ("1e999", json!("1e999")),
            (r"tab\tbed", json!("tab\tbed")),
            (r"c:\windows", json!(r"c:\windows")),
            ("say \"hi\" now", json!("say \"hi\" now")),
            ("two\nlines", json!("two\nlines")),
        ];
        for (text, wanted) in table {
            assert_eq!(parse(text), Ok(wanted), "{text:?}");
        }
    }

    #[test]
    fn what_velero_pastes_into_json_and_breaks_is_refused_before_the_restore() {
        for text in ["True", "FALSE", "{a: b}", "{}, {}", "[1,", "007", "+5", ".5", "NaN", "inf"] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(text), "{fault}");
        }
    }
}
