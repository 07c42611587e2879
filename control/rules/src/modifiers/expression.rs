//! CEL conditions. In scope: `object`, `labels` (its labels, empty if it has none) and
//! `namespaceName` (of the one it was backed up from, empty for cluster-scoped objects; `namespace`
//! alone is a reserved word of CEL).
//!
//! An expression is as in the API server, without durations and timestamps. Its cost is bounded
//! before it runs: its length when it is read, its loops by the largest list or map of the object.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program};
use serde_json::Value;

use super::Subject;

/// The longest expression, in bytes.
pub(super) const LENGTH_BYTES_MAX: usize = 4096;
/// Loops within loops.
pub(super) const LOOP_DEPTH_MAX: u32 = 3;
/// The steps one expression may take on one object.
const STEPS_MAX: u64 = 10_000_000;
/// Steps that compiling and running a regular expression counts as.
const REGEX_STEPS: u64 = 1_000;

/// What expressions may name.
const VARIABLES: [&str; 3] = ["object", "namespaceName", "labels"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A condition, parsed and measured.
#[derive(Debug)]
pub(super) struct Expression {
    program: Program,
    nodes: u64,
    loop_depth: u32,
}

/// Why a condition cannot be used, or not be judged for an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Not an expression.
    #[error("the CEL expression does not parse: {0}")]
    Syntax(String),
    /// A variable nobody sets.
    #[error("the CEL expression names {0:?}; it may use object, labels and namespaceName")]
    Unknown(String),
    /// More than may be run.
    #[error("the CEL expression is too large: {0}")]
    TooLarge(&'static str),
    /// More than may be run on this object.
    #[error(
        "the CEL expression could take {steps} steps on this object; {STEPS_MAX} is the most. Nest \
         fewer loops"
    )]
    TooCostly {
        /// The bound that was computed.
        steps: u64,
    },
    /// It failed.
    #[error("the CEL expression failed: {0}. Guard what may be missing with has()")]
    Failed(String),
    /// It gave something else than true or false.
    #[error("the CEL expression gives {0}, not true or false")]
    NotBool(String),
}

impl Expression {
    pub(super) fn new(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > LENGTH_BYTES_MAX {
            return Err(ExpressionError::TooLarge("write at most 4096 bytes"));
        }
        let program = ENV.compile(text).map_err(|errors| {
            let messages = errors.errors.iter().map(|error| error.msg.trim().to_owned());
            ExpressionError::Syntax(messages.collect::<Vec<_>>().join("; "))
        })?;
        let mut measure = Measure::default();
        measure.visit(program.expression(), 0, &mut Vec::new());
        if let Some(name) = measure.unknown {
            return Err(ExpressionError::Unknown(name));
        }
        if measure.loop_depth > LOOP_DEPTH_MAX {
            return Err(ExpressionError::TooLarge("nest at most 3 loops"));
        }
        Ok(Self { program, nodes: measure.nodes, loop_depth: measure.loop_depth })
    }

    pub(super) fn holds(&self, subject: Subject<'_>) -> Result<bool, ExpressionError> {
        let widest = widest(subject.object).saturating_add(self.nodes);
        let steps = self.nodes.saturating_mul(widest.saturating_pow(self.loop_depth));
        if steps > STEPS_MAX {
            return Err(ExpressionError::TooCostly { steps });
        }
        let empty = Value::Object(serde_json::Map::new());
        let labels = subject.object.pointer("/metadata/labels").unwrap_or(&empty);
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.add_variable_from_value("object", to_cel(subject.object));
        context.add_variable_from_value("labels", to_cel(labels));
        context.add_variable_from_value("namespaceName", subject.namespace);
        match self.program.execute(&context) {
            Ok(cel::Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(ExpressionError::NotBool(other.type_of().to_string())),
            Err(error) => Err(ExpressionError::Failed(error.to_string())),
        }
    }
}

/// Walks an expression once: its size, its loops, its free variables.
#[derive(Default)]
struct Measure {
    nodes: u64,
    loop_depth: u32,
    unknown: Option<String>,
}

impl Measure {
    /// * `bound`: the variables of the loops around this node.
    fn visit<'e>(&mut self, node: &'e IdedExpr, depth: u32, bound: &mut Vec<&'e str>) {
        self.nodes += 1;
        match &node.expr {
            Expr::Ident(name) => self.name(name, bound),
            Expr::Call(call) => {
                if call.func_name == "matches" {
                    self.nodes += REGEX_STEPS;
                }
                for part in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
                    self.visit(part, depth, bound);
                }
            }
            Expr::Comprehension(each) => {
                self.loop_depth = self.loop_depth.max(depth + 1);
                self.visit(&each.iter_range, depth, bound);
                self.visit(&each.accu_init, depth, bound);
                let outer = bound.len();
                bound.extend([each.iter_var.as_str(), each.accu_var.as_str()]);
                bound.extend(each.iter_var2.as_deref());
                for part in [&each.loop_cond, &each.loop_step, &each.result] {
                    self.visit(part, depth + 1, bound);
                }
                bound.truncate(outer);
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element, depth, bound);
                }
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    self.entry(&entry.expr, depth, bound);
                }
            }
            Expr::Struct(fields) => {
                for entry in &fields.entries {
                    self.entry(&entry.expr, depth, bound);
                }
            }
            Expr::Select(select) => self.visit(&select.operand, depth, bound),
            _ => {}
        }
    }

    fn entry<'e>(&mut self, entry: &'e EntryExpr, depth: u32, bound: &mut Vec<&'e str>) {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key, depth, bound);
                self.visit(&entry.value, depth, bound);
            }
            EntryExpr::StructField(field) => self.visit(&field.value, depth, bound),
        }
    }

    /// Names of types (`int`, `string`) are values in CEL; they are told apart by not being
    /// unknown to the standard library.
    fn name(&mut self, name: &str, bound: &[&str]) {
        const TYPES: [&str; 10] = [
            "bool",
            "bytes",
            "double",
            "int",
            "list",
            "map",
            "null_type",
            "string",
            "type",
            "uint",
        ];
        let known = VARIABLES.contains(&name) || bound.contains(&name) || TYPES.contains(&name);
        if !known {
            self.unknown.get_or_insert_with(|| name.to_owned());
        }
    }
}

/// The most items a list or map in it has.
fn widest(value: &Value) -> u64 {
    let (own, inner) = match value {
        Value::Array(items) => (items.len(), items.iter().map(widest).max()),
        Value::Object(fields) => (fields.len(), fields.values().map(widest).max()),
        _ => (0, None),
    };
    inner.unwrap_or(0).max(u64::try_from(own).unwrap_or(u64::MAX))
}

/// Whole numbers become `int`, as they are in the API server.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(truth) => cel::Value::Bool(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), ..) => cel::Value::Int(int),
            (_, Some(uint), _) => cel::Value::UInt(uint),
            (.., float) => cel::Value::Float(float.unwrap_or_default()),
        },
        Value::String(text) => cel::Value::from(text.as_str()),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (Key::from(key.as_str()), to_cel(value)));
            cel::Value::Map(Map { map: Arc::new(fields.collect::<HashMap<_, _>>()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(text: &str, object: &Value) -> Result<bool, ExpressionError> {
        let subject = Subject { object, group_resource: "deployments.apps", namespace: "shop" };
        Expression::new(text)?.holds(subject)
    }

    #[test]
    fn an_expression_sees_the_object_its_labels_and_its_namespace() {
        let object = json!({
            "metadata": {"name": "web", "labels": {"tier": "front"}},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [
                {"name": "a", "image": "quay.io/a:1"}, {"name": "b", "image": "docker.io/b:1"}]}}},
        });
        let table = [
            ("object.spec.replicas > 2", true),
            ("object.spec.replicas + 1 == 4", true),
            ("labels.tier == 'front'", true),
            ("has(labels.absent)", false),
            ("'tier' in labels", true),
            ("namespaceName.startsWith('sh')", true),
            ("namespaceName == 'other'", false),
            ("object.metadata.name.matches('^w.b$')", true),
            (
                "object.spec.template.spec.containers.exists(c, c.image.startsWith('quay.io/'))",
                true,
            ),
            ("object.spec.template.spec.containers.all(c, c.image.startsWith('quay.io/'))", false),
            ("size(object.spec.template.spec.containers.map(c, c.name)) == 2", true),
            ("type(object.spec.replicas) == int", true),
        ];
        for (text, wanted) in table {
            assert_eq!(holds(text, &object), Ok(wanted), "{text}");
        }
        assert_eq!(holds("size(labels) == 0", &json!({"metadata": {}})), Ok(true));
    }

    #[test]
    fn what_cannot_be_used_is_refused_when_it_is_read() {
        assert!(matches!(Expression::new("object.spec ="), Err(ExpressionError::Syntax(_))));
        let unknown = Expression::new("oldObject.spec == 1").unwrap_err();
        assert_eq!(unknown, ExpressionError::Unknown("oldObject".into()));
        let long = format!("true{}", " || true".repeat(600));
        assert!(matches!(Expression::new(&long), Err(ExpressionError::TooLarge(_))));
        let nested = "labels.all(a, labels.all(b, labels.all(c, labels.all(d, true))))";
        assert!(matches!(Expression::new(nested), Err(ExpressionError::TooLarge(_))));
        let deep = format!("{}true{}", "(".repeat(2000), ")".repeat(2000));
        assert!(Expression::new(&deep).is_err());
    }

    #[test]
    fn an_expression_that_fails_or_is_no_condition_is_an_error_and_not_a_no() {
        let object = json!({"spec": {}});
        let failed = holds("object.spec.replicas > 1", &object);
        assert!(matches!(failed, Err(ExpressionError::Failed(_))), "{failed:?}");
        let not_bool = holds("object.spec", &object);
        assert!(matches!(not_bool, Err(ExpressionError::NotBool(_))), "{not_bool:?}");
    }

    #[test]
    fn the_cost_of_loops_is_bounded_by_the_object_before_they_run() {
        let items: Vec<u32> = (0..2_000).collect();
        let object = json!({"items": items});
        let once = "object.items.all(a, a < 2000)";
        assert_eq!(holds(once, &object), Ok(true));
        let twice = "object.items.all(a, object.items.all(b, a * b < 4000000))";
        assert!(matches!(holds(twice, &object), Err(ExpressionError::TooCostly { .. })));
    }
}
