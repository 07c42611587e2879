//! Which crate may use which, and how long a file may be.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longer files are read by nobody.
const LINES_MAX: usize = 900;

/// The crates of this workspace and those of them that each may use. One that is not here must not
/// exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("repo-format", &[]),
    ("repository", &["repo-format"]),
    ("salvor", &["repo-format", "repository"]),
    ("rules", &[]),
    ("benches", &["repo-format", "repository", "salvor"]),
    ("tests", &["repo-format", "repository", "salvor"]),
];

/// What a crate must not have, however deep below it, and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("repo-format", &["tokio", "rocksdb", "librocksdb-sys", "rustix"], "it does no I/O"),
    ("repository", &["tokio-uring"], "its interface blocks; only the S3 store has a runtime"),
    ("repository", &["aws-lc-sys", "openssl-sys", "native-tls"], "TLS is rustls on ring"),
    ("salvor", &["kube", "kube-client", "k8s-openapi"], "the agent never sees Kubernetes"),
    ("rules", &["tokio", "kube", "kube-client", "rustix"], "it is pure"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// For each crate that is built here, by name: the crates that its product uses. What only its
/// tests, benchmarks or build script use does not count.
struct Graph {
    ours: BTreeSet<String>,
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read() -> Self {
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform"])
            .arg(platform)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: BTreeMap<&str, &str> = list(&metadata["packages"])
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let name_of = |id: &Value| names[text(id)].to_owned();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let deps = list(&node["deps"])
                .filter(|dep| list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()))
                .map(|dep| name_of(&dep["pkg"]));
            uses.entry(name_of(&node["id"])).or_default().extend(deps);
        }
        Self { ours: list(&metadata["workspace_members"]).map(name_of).collect(), uses }
    }

    /// `name` and all that it uses, and that uses.
    fn below(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if found.insert(name.clone()) {
                open.extend(self.uses.get(&name).into_iter().flatten().cloned());
            }
        }
        found
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn crates_use_only_those_below_them() {
    let graph = Graph::read();
    let known: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(graph.ours, known, "the crates of the workspace and those of ARROWS differ");
    for (name, allowed) in ARROWS {
        for used in graph.uses[*name].intersection(&graph.ours) {
            assert!(allowed.contains(&used.as_str()), "{name} uses {used}");
        }
    }
}

#[test]
fn nothing_forbidden_comes_in_through_a_dependency() {
    let graph = Graph::read();
    for (name, forbidden, why) in FORBIDDEN {
        let below = graph.below(name);
        assert!(below.len() > 5, "the graph of {name} was not read: {below:?}");
        for other in *forbidden {
            assert!(!below.contains(*other), "{name} uses {other}: {why}");
        }
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut open: Vec<PathBuf> = ["agent", "control", "repo-format", "deploy", "benches", "tests"]
        .iter()
        .map(|dir| root().join(dir))
        .filter(|dir| dir.is_dir())
        .collect();
    let (mut files, mut too_long) = (0, Vec::new());
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "target" {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|end| end == "rs" || end == "py") {
                files += 1;
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                if lines > LINES_MAX {
                    too_long.push(format!("{}: {lines} lines", path.display()));
                }
            }
        }
    }
    assert!(files > 100, "only {files} files were found");
    assert!(too_long.is_empty(), "longer than {LINES_MAX} lines: {too_long:#?}");
}
