//! From text to rules. Nothing stops at the first problem.

use regex::RegexBuilder;

use super::conditions::{Conditions, Match};
use super::expression::Expression;
use super::patch::Operation;
use super::{Patches, Problem, Rule, merge_keys, value};
use crate::glob::Glob;
use crate::selector::{Is, Requirement, Selector, key_fault, value_fault};
use crate::yaml::{self, Kind, Node};

/// The most a compiled regular expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Reads rules. With problems, the rules are not complete and must not be used.
pub(super) fn rules(text: &str) -> (Vec<Rule>, Vec<Problem>, Vec<Problem>) {
    let mut reader = Reader::default();
    let rules = match yaml::parse(text) {
        Ok(root) => reader.modifiers(&root),
        Err(error) => {
            reader.fault(error.line, "", format!("not YAML: {}", error.message));
            Vec::new()
        }
    };
    (rules, reader.problems, reader.warnings)
}

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    rule: Option<usize>,
}

/// The fields of a mapping; an explicit `null` is as good as no field, as in Kubernetes.
struct Fields<'n>(Vec<(&'n str, &'n Node)>);

impl<'n> Fields<'n> {
    fn get(&self, name: &str) -> Option<&'n Node> {
        let field = self.0.iter().find(|(key, _)| *key == name).map(|(_, node)| *node);
        field.filter(|node| node.kind != Kind::Null)
    }
}

impl Reader {
    fn fault(&mut self, line: u64, path: &str, message: impl Into<String>) {
        let problem =
            Problem { rule: self.rule, line, path: path.to_owned(), message: message.into() };
        self.problems.push(problem);
    }

    fn warn(&mut self, line: u64, path: &str, message: impl Into<String>) {
        let problem =
            Problem { rule: self.rule, line, path: path.to_owned(), message: message.into() };
        self.warnings.push(problem);
    }

    fn fields<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Fields<'n> {
        let Kind::Map(entries) = &node.kind else {
            self.fault(node.line, path, format!("is {}, not a mapping", node.describe()));
            return Fields(Vec::new());
        };
        for (key, value) in entries {
            if !known.contains(&key.as_str()) {
                let known = known.join(", ");
                self.fault(value.line, &join(path, key), format!("unknown field; known: {known}"));
            }
        }
        Fields(entries.iter().map(|(key, value)| (key.as_str(), value)).collect())
    }

    fn items<'n>(&mut self, node: Option<&'n Node>, path: &str) -> &'n [Node] {
        match node.map(|node| (node, &node.kind)) {
            None => &[],
            Some((_, Kind::List(items))) => items,
            Some((node, _)) => {
                self.fault(node.line, path, format!("is {}, not a list", node.describe()));
                &[]
            }
        }
    }

    /// Text, or a plain number or truth value as text, which Kubernetes' YAML reader allows too.
    fn text(&mut self, node: &Node, path: &str) -> String {
        match &node.kind {
            Kind::Text(text) => text.clone(),
            Kind::Bool(truth) => truth.to_string(),
            Kind::Number(number) => number.to_string(),
            Kind::Null => String::new(),
            Kind::List(_) | Kind::Map(_) => {
                let is = node.describe();
                self.fault(node.line, path, format!("is {is}, not text; put it in quotes: '{{}}'"));
                String::new()
            }
        }
    }

    fn optional_text(&mut self, fields: &Fields<'_>, name: &str, path: &str) -> Option<String> {
        let node = fields.get(name)?;
        Some(self.text(node, &join(path, name)))
    }

    fn modifiers(&mut self, root: &Node) -> Vec<Rule> {
        let fields = self.fields(root, "", &["version", "resourceModifierRules"]);
        let version = self.optional_text(&fields, "version", "").unwrap_or_default();
        if !version.eq_ignore_ascii_case("v1") {
            let line = fields.get("version").map_or(root.line, |node| node.line);
            self.fault(line, "version", format!("is {version:?}; it must be v1"));
        }
        let items = self.items(fields.get("resourceModifierRules"), "resourceModifierRules");
        if items.is_empty() && self.problems.is_empty() {
            self.fault(root.line, "resourceModifierRules", "is empty; there must be a rule");
        }
        let mut rules = Vec::new();
        for (index, node) in items.iter().enumerate() {
            self.rule = Some(index + 1);
            rules.extend(self.rule(node, index + 1));
        }
        self.rule = None;
        rules
    }

    fn rule(&mut self, node: &Node, number: usize) -> Option<Rule> {
        const KINDS: [&str; 3] = ["patches", "mergePatches", "strategicPatches"];
        let known = ["conditions", "patches", "mergePatches", "strategicPatches"];
        let fields = self.fields(node, "", &known);
        let conditions = if let Some(conditions) = fields.get("conditions") {
            self.conditions(conditions)
        } else {
            self.fault(node.line, "conditions", "is missing; it needs at least groupResource");
            None
        };
        let given: Vec<&str> = KINDS
            .into_iter()
            .filter(|kind| !self.items(fields.get(kind), kind).is_empty())
            .collect();
        let patches = match given.as_slice() {
            ["patches"] => Some(Patches::Json(self.operations(fields.get("patches")))),
            ["mergePatches"] => {
                Some(Patches::Merge(self.patch_data(fields.get("mergePatches"), "mergePatches")))
            }
            ["strategicPatches"] => {
                let patches = self.patch_data(fields.get("strategicPatches"), "strategicPatches");
                self.check_strategic_kind(&fields);
                Some(Patches::Strategic(patches))
            }
            [] => {
                let message = "has no patch; give patches, mergePatches or strategicPatches";
                self.fault(node.line, "", message);
                None
            }
            several => {
                let message =
                    format!("has {}; a rule has one kind of patch", several.join(" and "));
                self.fault(node.line, "", message);
                None
            }
        };
        Some(Rule { number, line: node.line, conditions: conditions?, patches: patches? })
    }

    /// A strategic patch for a group that no glob hides and that is not built in cannot succeed.
    fn check_strategic_kind(&mut self, fields: &Fields<'_>) {
        let Some(Node { kind: Kind::Map(conditions), .. }) = fields.get("conditions") else {
            return;
        };
        let resource = conditions.iter().find(|(key, _)| key == "groupResource");
        let Some((_, Node { kind: Kind::Text(resource), line })) = resource else { return };
        let group = resource.split_once('.').map_or("", |(_, group)| group);
        let is_plain = !resource.contains(['*', '?', '[', '{', '\\']);
        if is_plain && !merge_keys::is_known_group(group) {
            let message = format!(
                "{resource} is not a built-in kind, so how its lists merge is not known; use \
                 mergePatches or patches"
            );
            self.fault(*line, "strategicPatches", message);
        }
    }

    fn conditions(&mut self, node: &Node) -> Option<Conditions> {
        const PATH: &str = "conditions";
        let known =
            ["groupResource", "resourceNameRegex", "namespaces", "labelSelector", "matches", "cel"];
        let fields = self.fields(node, PATH, &known);
        let resource = self.optional_text(&fields, "groupResource", PATH).unwrap_or_default();
        let line = fields.get("groupResource").map_or(node.line, |node| node.line);
        if resource.is_empty() {
            self.fault(
                line,
                "conditions.groupResource",
                "is missing; for example deployments.apps",
            );
        } else if resource == "namespaces" {
            let message = "Namespace objects are never modified; this rule does nothing";
            self.warn(line, "conditions.groupResource", message);
        }
        let group_resource = self.glob(&resource, Some('.'), line, "conditions.groupResource");
        let mut namespaces = Vec::new();
        let namespaces_path = "conditions.namespaces";
        for item in self.items(fields.get("namespaces"), namespaces_path) {
            let pattern = self.text(item, namespaces_path);
            namespaces.extend(self.glob(&pattern, None, item.line, namespaces_path));
        }
        let name = self.name_regex(&fields);
        let selector = fields.get("labelSelector");
        let labels = selector.map(|node| self.selector(node)).unwrap_or_default();
        let matches = self.matches(fields.get("matches"));
        let cel = self.expression(&fields);
        Some(Conditions { group_resource: group_resource?, namespaces, name, labels, matches, cel })
    }

    fn glob(&mut self, text: &str, separator: Option<char>, line: u64, path: &str) -> Option<Glob> {
        Glob::new(text, separator).map_err(|error| self.fault(line, path, error.to_string())).ok()
    }

    fn name_regex(&mut self, fields: &Fields<'_>) -> Option<regex::Regex> {
        const PATH: &str = "conditions.resourceNameRegex";
        let node = fields.get("resourceNameRegex")?;
        let text = self.text(node, PATH);
        if text.is_empty() {
            return None;
        }
        let regex = RegexBuilder::new(&text).size_limit(REGEX_BYTES_MAX).build();
        regex.map_err(|error| self.fault(node.line, PATH, one_line(&error.to_string()))).ok()
    }

    fn expression(&mut self, fields: &Fields<'_>) -> Option<Expression> {
        const PATH: &str = "conditions.cel";
        let node = fields.get("cel")?;
        let text = self.text(node, PATH);
        let expression = Expression::new(&text);
        expression.map_err(|error| self.fault(node.line, PATH, one_line(&error.to_string()))).ok()
    }

    fn matches(&mut self, node: Option<&Node>) -> Vec<Match> {
        const PATH: &str = "conditions.matches";
        let mut matches = Vec::new();
        for (index, item) in self.items(node, PATH).iter().enumerate() {
            let at = format!("{PATH}[{index}]");
            let fields = self.fields(item, &at, &["path", "value"]);
            let path = self.pointer(&fields, "path", item, &at);
            let value = self.value(&fields, &at);
            matches.extend(path.zip(value).map(|(path, value)| Match { path, value }));
        }
        matches
    }

    fn pointer(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        node: &Node,
        at: &str,
    ) -> Option<String> {
        let path = self.optional_text(fields, name, at).unwrap_or_default();
        let line = fields.get(name).map_or(node.line, |node| node.line);
        let escapes_well = path.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if path.starts_with('/') && escapes_well {
            return Some(path);
        }
        let message = format!(
            "is {path:?}; it must be a JSON pointer such as /spec/replicas (~1 is a slash in a key, \
             ~0 a tilde)"
        );
        self.fault(line, &join(at, name), message);
        None
    }

    fn value(&mut self, fields: &Fields<'_>, at: &str) -> Option<serde_json::Value> {
        let text = self.optional_text(fields, "value", at).unwrap_or_default();
        let line = fields.get("value").map_or(0, |node| node.line);
        let parsed = value::parse(&text);
        parsed.map_err(|fault| self.fault(line, &join(at, "value"), fault.to_string())).ok()
    }

    fn operations(&mut self, node: Option<&Node>) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (index, item) in self.items(node, "patches").iter().enumerate() {
            let at = format!("patches[{index}]");
            let fields = self.fields(item, &at, &["operation", "from", "path", "value"]);
            operations.extend(self.operation(&fields, item, &at));
        }
        operations
    }

    fn operation(&mut self, fields: &Fields<'_>, node: &Node, at: &str) -> Option<Operation> {
        let name = self.optional_text(fields, "operation", at).unwrap_or_default();
        let path = self.pointer(fields, "path", node, at);
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "add" | "replace" | "test" => {
                let (path, value) = (path?, self.value(fields, at)?);
                Some(match name.as_str() {
                    "add" => Operation::Add { path, value },
                    "replace" => Operation::Replace { path, value },
                    _ => Operation::Test { path, value },
                })
            }
            "remove" => Some(Operation::Remove { path: path? }),
            "move" | "copy" => {
                let from = self.pointer(fields, "from", node, at);
                let (from, path) = (from?, path?);
                Some(match name.as_str() {
                    "move" => Operation::Move { from, path },
                    _ => Operation::Copy { from, path },
                })
            }
            _ => {
                let line = fields.get("operation").map_or(node.line, |node| node.line);
                let known = "add, remove, replace, move, copy or test";
                self.fault(
                    line,
                    &join(at, "operation"),
                    format!("is {name:?}; it must be {known}"),
                );
                None
            }
        }
    }

    fn patch_data(&mut self, node: Option<&Node>, kind: &str) -> Vec<serde_json::Value> {
        let mut patches = Vec::new();
        for (index, item) in self.items(node, kind).iter().enumerate() {
            let at = format!("{kind}[{index}]");
            let fields = self.fields(item, &at, &["patchData"]);
            let text = self.optional_text(&fields, "patchData", &at).unwrap_or_default();
            let (line, at) =
                (fields.get("patchData").map_or(item.line, |n| n.line), join(&at, "patchData"));
            match yaml::parse_value(&text) {
                Ok(patch) if patch.is_object() => patches.push(patch),
                Ok(_) => self.fault(line, &at, "is not a mapping in JSON or YAML"),
                Err(error) => {
                    self.fault(line, &at, format!("is neither JSON nor YAML: {}", error.message));
                }
            }
        }
        patches
    }

    fn selector(&mut self, node: &Node) -> Selector {
        const PATH: &str = "conditions.labelSelector";
        let fields = self.fields(node, PATH, &["matchLabels", "matchExpressions"]);
        let mut requirements = Vec::new();
        let labels_path = join(PATH, "matchLabels");
        if let Some(labels) = fields.get("matchLabels") {
            match &labels.kind {
                Kind::Map(entries) => {
                    for (key, node) in entries {
                        let value = self.text(node, &join(&labels_path, key));
                        self.check_label(
                            key,
                            std::slice::from_ref(&value),
                            node.line,
                            &labels_path,
                        );
                        let is = Is::In([value].into());
                        requirements.push(Requirement { key: key.clone(), is });
                    }
                }
                _ => self.fault(labels.line, &labels_path, "is not a mapping of labels"),
            }
        }
        let expressions_path = join(PATH, "matchExpressions");
        for item in self.items(fields.get("matchExpressions"), &expressions_path) {
            requirements.extend(self.requirement(item, &expressions_path));
        }
        Selector { requirements }
    }

    fn requirement(&mut self, node: &Node, path: &str) -> Option<Requirement> {
        let fields = self.fields(node, path, &["key", "operator", "values"]);
        let key = self.optional_text(&fields, "key", path).unwrap_or_default();
        let operator = self.optional_text(&fields, "operator", path).unwrap_or_default();
        let mut values = Vec::new();
        for item in self.items(fields.get("values"), &join(path, "values")) {
            values.push(self.text(item, &join(path, "values")));
        }
        self.check_label(&key, &values, node.line, path);
        let is = match (operator.as_str(), values.is_empty()) {
            ("In", false) => Is::In(values.into_iter().collect()),
            ("NotIn", false) => Is::NotIn(values.into_iter().collect()),
            ("Exists", true) => Is::Exists,
            ("DoesNotExist", true) => Is::DoesNotExist,
            ("In" | "NotIn", true) => {
                self.fault(node.line, path, format!("{operator} needs values"));
                return None;
            }
            ("Exists" | "DoesNotExist", false) => {
                self.fault(node.line, path, format!("{operator} takes no values"));
                return None;
            }
            _ => {
                let known = "In, NotIn, Exists or DoesNotExist";
                self.fault(node.line, path, format!("operator {operator:?}; it must be {known}"));
                return None;
            }
        };
        Some(Requirement { key, is })
    }

    fn check_label(&mut self, key: &str, values: &[String], line: u64, path: &str) {
        if let Some(fault) = key_fault(key) {
            self.fault(line, path, format!("{key:?}: {fault}"));
        }
        for value in values {
            if let Some(fault) = value_fault(value) {
                self.fault(line, path, format!("{key}: {value:?}: {fault}"));
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
