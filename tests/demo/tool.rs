//! Running `salvor`, and reading what it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::report::Report;
use crate::{Outcome, Stop, While};

/// A `salvor` with a repository of its own.
pub(crate) struct Salvor {
    program: PathBuf,
    folder: PathBuf,
    stop: Stop,
    pub(crate) report: Report,
}

/// What a command said, and how long it took.
pub(crate) struct Result {
    pub(crate) json: Value,
    pub(crate) seconds: f64,
    /// Length of all files of the repository afterwards.
    pub(crate) repository_bytes: u64,
}

impl Result {
    /// A number by name; 0 if there is none.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.json[name].as_u64().unwrap_or(0)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.json[name].as_bool().unwrap_or(false)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.json[name].as_str().unwrap_or_default().to_owned()
    }

    /// The object called `name`, as a result.
    pub(crate) fn at(&self, name: &str) -> Self {
        Self { json: self.json[name].clone(), ..*self }
    }
}

impl Salvor {
    pub(crate) fn new(program: &Path, folder: &Path, stop: Stop) -> Outcome<Self> {
        let program = fs::canonicalize(program).while_(program.display())?;
        fs::create_dir(folder.join("restored")).while_("making a folder")?;
        Ok(Self { program, folder: folder.to_owned(), stop, report: Report::default() })
    }

    /// Runs `salvor ARGUMENTS` in the folder, shows it, and says in one line what came of it.
    pub(crate) fn run(
        &mut self,
        arguments: &[&str],
        say: impl FnOnce(&Result) -> String,
    ) -> Outcome<Result> {
        self.stop.check()?;
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        let shown = format!("salvor {}", words.join(" "));
        println!("  $ {shown}");
        let start = Instant::now();
        let output = Command::new(&self.program)
            .args(arguments)
            .args(["--json", "--repo", "repository"])
            .current_dir(&self.folder)
            .env("SALVOR_PASSPHRASE", "correct horse battery staple")
            .env("SALVOR_CACHE_DIR", self.folder.join("cache"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .while_(self.program.display())?;
        let seconds = start.elapsed().as_secs_f64();
        self.stop.check()?;
        let lines = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("`{shown}` ended with {}\n{lines}", output.status));
        }
        let last = lines.lines().last().unwrap_or("null");
        let json = serde_json::from_str(last).while_(format!("`{shown}` said `{last}`"))?;
        let repository_bytes = length(&self.folder.join("repository"))?;
        let result = Result { json, seconds, repository_bytes };
        let said = say(&result);
        if !said.is_empty() {
            println!("      {said}; {seconds:.1} s");
        }
        Ok(result)
    }

    pub(crate) fn into_report(self) -> Report {
        self.report
    }
}

/// As it would be typed.
fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

/// Sum of the lengths of all files below `path`.
fn length(path: &Path) -> Outcome<u64> {
    let mut sum = 0;
    let mut open = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).while_(folder.display())? {
            let entry = entry.while_(folder.display())?;
            let meta = entry.metadata().while_(entry.path().display())?;
            if meta.is_dir() {
                open.push(entry.path());
            } else {
                sum += meta.len();
            }
        }
    }
    Ok(sum)
}
