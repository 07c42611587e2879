//! Resource modifiers: Velero's `ConfigMap` format, checked as a whole before a restore begins and
//! applied to one object at a time.
//!
//! What differs from Velero, on purpose:
//!
//! * A patch that fails blocks its object. Velero creates the object without the patch.
//! * Everything that could fail for every object alike (globs, regular expressions, selectors,
//!   values, patch texts) is refused before the restore, all of it at once and with its line.
//! * `conditions.cel` narrows a rule by an expression.
//!
//! What is the same although it may surprise: with several rules, conditions look at the object as
//! it was before any rule; a `test` operation that does not hold skips its rule (that is how Velero
//! documents a conditional patch; [`FailedTest::Blocks`] is there for who wants it strict);
//! Namespace objects are never modified.

mod conditions;
mod expression;
mod merge_keys;
mod parse;
mod patch;
mod strategic;
mod value;

use std::fmt;

use serde_json::Value;

use conditions::Conditions;
pub use expression::ExpressionError;

pub use patch::PatchFault;
pub use strategic::StrategicError;

/// A checked set of rules.
#[derive(Debug)]
pub struct Modifiers {
    rules: Vec<Rule>,
    warnings: Vec<Problem>,
    /// What a `test` operation that does not hold means.
    pub on_failed_test: FailedTest,
}

/// What a `test` operation that does not hold does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailedTest {
    /// Its rule is left out for this object, and the outcome says so: Velero's meaning.
    #[default]
    SkipsRule,
    /// The object is blocked.
    Blocks,
}

/// One rule: where it applies and what it does.
#[derive(Debug)]
struct Rule {
    /// Counted from 1, as in every message.
    number: usize,
    line: u64,
    conditions: Conditions,
    patches: Patches,
}

/// The one kind of patch a rule has.
#[derive(Debug)]
enum Patches {
    Json(Vec<patch::Operation>),
    Merge(Vec<Value>),
    Strategic(Vec<Value>),
}

/// Something wrong with a set of modifiers, or with what one does to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The rule, counted from 1; none if the whole set is meant.
    pub rule: Option<usize>,
    /// The line in the `ConfigMap`'s text, counted from 1; 0 if there is none.
    pub line: u64,
    /// The field, such as `patches[0].value`; empty for the rule itself.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = self.rule {
            write!(formatter, "rule {rule}, ")?;
        }
        if self.line > 0 {
            write!(formatter, "line {}, ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Every problem of a set of modifiers. Nothing may be restored with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} problem(s) in the resource modifiers: {}", problems.len(), join(problems))]
pub struct Invalid {
    /// In the order of the text.
    pub problems: Vec<Problem>,
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// An object on its way to be created, before its namespace is mapped.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The object. Its status is not looked at by anyone else, but a condition may.
    pub object: &'a Value,
    /// `resource.group` in the plural, such as `deployments.apps`; the core group has no suffix.
    pub group_resource: &'a str,
    /// The namespace it was backed up from; empty for a cluster-scoped object.
    pub namespace: &'a str,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The object, modified.
    pub object: Value,
    /// The rules that were applied, counted from 1, in order.
    pub applied: Vec<usize>,
    /// Rules that matched, and were left out because a `test` did not hold.
    pub skipped: Vec<Problem>,
}

/// Why an object must not be restored: a rule matched it, and could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "resource modifier {0}; the object is not restored without it: correct the rule or narrow its conditions"
)]
pub struct Blocked(pub Problem);

impl Modifiers {
    /// Reads the one data key of a `ConfigMap`, whatever its name.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with every problem there is.
    pub fn from_config_map(config_map: &Value) -> Result<Self, Invalid> {
        let name = config_map.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let data = config_map.get("data").and_then(Value::as_object);
        let texts: Vec<&Value> = data.into_iter().flat_map(serde_json::Map::values).collect();
        match texts.as_slice() {
            [Value::String(text)] => Self::parse(text),
            _ => Err(Invalid {
                problems: vec![Problem {
                    rule: None,
                    line: 0,
                    path: String::new(),
                    message: format!(
                        "ConfigMap {name:?} has {} data keys; it must have exactly one, with the rules",
                        texts.len()
                    ),
                }],
            }),
        }
    }

    /// Reads the rules.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with every problem there is.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (rules, problems, warnings) = parse::rules(text);
        if problems.is_empty() {
            return Ok(Self { rules, warnings, on_failed_test: FailedTest::default() });
        }
        Err(Invalid { problems })
    }

    /// What is allowed, and yet will hardly do what was meant.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// How many rules there are.
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule; never so for one that was parsed.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Applies every rule that matches, in order. Does all or, if one fails, nothing.
    ///
    /// # Errors
    ///
    /// [`Blocked`] by the first rule that cannot be judged or applied.
    pub fn apply(&self, subject: Subject<'_>) -> Result<Outcome, Blocked> {
        let mut outcome =
            Outcome { object: subject.object.clone(), applied: Vec::new(), skipped: Vec::new() };
        if subject.group_resource == "namespaces" {
            return Ok(outcome);
        }
        for rule in &self.rules {
            let blocked = |path: &str, message: String| Blocked(rule.problem(path, message));
            let matches = rule.conditions.hold(subject);
            if !matches.map_err(|error| blocked("conditions", error.to_string()))? {
                continue;
            }
            match rule.patches.apply(&outcome.object) {
                Ok(object) => {
                    check_identity(&object).map_err(|message| blocked("", message))?;
                    outcome.object = object;
                    outcome.applied.push(rule.number);
                }
                Err(Failure::Test(fault)) if self.on_failed_test == FailedTest::SkipsRule => {
                    outcome.skipped.push(rule.problem("patches", fault.to_string()));
                }
                Err(failure) => {
                    return Err(blocked(rule.patches.field(), failure.to_string()));
                }
            }
        }
        Ok(outcome)
    }
}

impl Rule {
    fn problem(&self, path: &str, message: String) -> Problem {
        Problem { rule: Some(self.number), line: self.line, path: path.to_owned(), message }
    }
}

/// Why a rule was not applied.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Test(PatchFault),
    #[error(transparent)]
    Patch(PatchFault),
    #[error(transparent)]
    Strategic(#[from] StrategicError),
}

impl Patches {
    const fn field(&self) -> &'static str {
        match self {
            Self::Json(_) => "patches",
            Self::Merge(_) => "mergePatches",
            Self::Strategic(_) => "strategicPatches",
        }
    }

    fn apply(&self, object: &Value) -> Result<Value, Failure> {
        match self {
            Self::Json(operations) => patch::apply(object, operations).map_err(|fault| {
                if fault.is_failed_test() { Failure::Test(fault) } else { Failure::Patch(fault) }
            }),
            Self::Merge(patches) => {
                let mut object = object.clone();
                for patch in patches {
                    json_patch::merge(&mut object, patch);
                }
                Ok(object)
            }
            Self::Strategic(patches) => {
                let mut object = object.clone();
                for patch in patches {
                    object = strategic::merge_object(&object, patch)?;
                }
                Ok(object)
            }
        }
    }
}

/// A modifier may change what an object is called or is; it must still be an object.
fn check_identity(object: &Value) -> Result<(), String> {
    for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
        let text = object.pointer(pointer).and_then(Value::as_str);
        if text.is_none_or(str::is_empty) {
            return Err(format!("its patches leave the object without {pointer}"));
        }
    }
    Ok(())
}
