//! The globs of `groupResource` and `namespaces`, as Velero's library reads them.

use regex::Regex;

/// A glob, compiled.
#[derive(Debug, Clone)]
pub(crate) struct Glob(Regex);

/// Why a pattern is not a glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GlobError {
    /// A bracket or brace without its end.
    #[error("glob {0:?} has an opening bracket or brace without its end")]
    Open(String),
    /// A backslash with nothing after it.
    #[error("glob {0:?} ends in a backslash")]
    Escape(String),
    /// Anything else, such as a range that runs backwards.
    #[error("glob {0:?} cannot be used; check its ranges")]
    Unusable(String),
}

impl Glob {
    /// Compiles `pattern`: `*` any text, `?` one character, `[abc]`, `[a-z]`, `[!abc]`, `{a,b}`,
    /// `\` before a character for itself. With a separator, `*` and `?` stop at it and `**` does
    /// not.
    pub(crate) fn new(pattern: &str, separator: Option<char>) -> Result<Self, GlobError> {
        let expression = translate(pattern, separator)?;
        let regex = Regex::new(&expression);
        regex.map(Self).map_err(|_| GlobError::Unusable(pattern.to_owned()))
    }

    /// Whether all of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

fn translate(pattern: &str, separator: Option<char>) -> Result<String, GlobError> {
    let open = || GlobError::Open(pattern.to_owned());
    let one = separator.map_or_else(|| "(?s:.)".to_owned(), |c| format!("[^{}]", class_char(c)));
    let mut expression = String::from("^(?:");
    let mut depth = 0_usize;
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '*' if chars.next_if_eq(&'*').is_some() => expression.push_str("(?s:.)*"),
            '*' => expression.extend([one.as_str(), "*"]),
            '?' => expression.push_str(&one),
            '[' => expression.push_str(&class(&mut chars).ok_or_else(open)?),
            '{' => {
                depth += 1;
                expression.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                expression.push(')');
            }
            ',' if depth > 0 => expression.push('|'),
            '\\' => {
                let escaped = chars.next().ok_or_else(|| GlobError::Escape(pattern.to_owned()))?;
                expression.push_str(&regex::escape(escaped.encode_utf8(&mut [0; 4])));
            }
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    if depth > 0 {
        return Err(open());
    }
    expression.push_str(")$");
    Ok(expression)
}

/// The rest of `[…]`, or nothing if it has no end.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut expression = String::from("[");
    if chars.next_if_eq(&'!').is_some() {
        expression.push('^');
    }
    let empty = expression.len();
    loop {
        match chars.next()? {
            ']' if expression.len() > empty => break,
            '-' => expression.push('-'),
            '\\' => expression.push_str(&class_char(chars.next()?)),
            other => expression.push_str(&class_char(other)),
        }
    }
    expression.push(']');
    Some(expression)
}

fn class_char(char: char) -> String {
    if char.is_ascii_punctuation() { format!("\\{char}") } else { char.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_group_resource_stops_at_a_dot_and_two_do_not() {
        let table = [
            ("*", "pods", true),
            ("*", "deployments.apps", false),
            ("*.apps", "deployments.apps", true),
            ("*.apps", "apps", false),
            ("*.*", "deployments.apps", true),
            ("*.*", "ingresses.networking.k8s.io", false),
            ("**", "ingresses.networking.k8s.io", true),
            ("*.networking.k8s.io", "ingresses.networking.k8s.io", true),
            ("deployments.apps", "deployments.apps", true),
            ("deployments.apps", "deploymentsXapps", false),
            ("{pods,services}", "services", true),
            ("{pods,services}", "secrets", false),
            ("p?ds", "pods", true),
            ("[ps]ods", "pods", true),
            ("[!ps]ods", "pods", false),
            ("[a-p]ods", "pods", true),
            ("po\\*ds", "po*ds", true),
            ("pods", "PODS", false),
        ];
        for (pattern, text, wanted) in table {
            let glob = Glob::new(pattern, Some('.')).unwrap();
            assert_eq!(glob.matches(text), wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn without_a_separator_a_star_takes_everything() {
        assert!(Glob::new("team-*", None).unwrap().matches("team-a.b"));
        assert!(!Glob::new("team-?", None).unwrap().matches("team-ab"));
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        assert_eq!(Glob::new("{a,b", None).unwrap_err(), GlobError::Open("{a,b".into()));
        assert_eq!(Glob::new("[ab", None).unwrap_err(), GlobError::Open("[ab".into()));
        assert_eq!(Glob::new("a\\", None).unwrap_err(), GlobError::Escape("a\\".into()));
        assert_eq!(Glob::new("[z-a]", None).unwrap_err(), GlobError::Unusable("[z-a]".into()));
    }
}
