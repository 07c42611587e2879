//! The real program, with a repository, cache and home of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use repository::store::{FsStore, Store};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::s3::Bucket;

/// No command of a test takes longer than this.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 1800 } else { 900 });

/// The program under test: `SALVOR_BIN`, or the one that belongs to this test program, built if
/// it is older than its source.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("SALVOR_BIN") {
        Some(path) => path.into(),
        None => build(&["--package", "salvor"]).join("salvor"),
    })
}

/// A helper program of this crate's `examples/`: in `SALVOR_TEST_EXAMPLES`, or built if it is older
/// than its source.
pub fn example(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("SALVOR_TEST_EXAMPLES") {
        return PathBuf::from(folder).join(name);
    }
    build(&["--package", "tests", "--example", name]).join("examples").join(name)
}

/// The library that gives a program a wrong clock: for `LD_PRELOAD`. How wrong it is, in seconds,
/// is in `SALVOR_TEST_CLOCK_SHIFT`.
pub fn shifted_clock() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| example("shifted_clock").with_file_name("libshifted_clock.so"))
}

/// Builds with the profile of this test program. Returns the folder of what was built.
fn build(what: &[&str]) -> PathBuf {
    // target/<profile>/deps/<test program>
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet"]).args(what).arg("--target-dir").arg(folder.parent().unwrap());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    // What cargo tells a test about its own package would make build scripts that look at it run
    // again, here and then in the next build by hand, and all that depends on them with them.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name == "OUT_DIR"
            || ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| name.starts_with(of))
        {
            cargo.env_remove(&*name);
        }
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(status.is_ok_and(|status| status.success()), "cargo cannot build {what:?}");
    folder.to_owned()
}

/// A repository and all that the program keeps for it.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
    repo: PathBuf,
    bucket: Option<(Bucket, String)>,
}

/// Objects of a repository by folder (`p`, `x`, `ses`, …): path below the folder and length.
pub type Stored = BTreeMap<String, BTreeMap<String, u64>>;

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// An empty repository with chunks of 64 KiB, so that little data is many chunks.
    pub fn new() -> Self {
        let lab = Self::bare();
        lab.ok(&["init", "--chunk-size", "64K"]);
        lab
    }

    /// No repository yet.
    pub fn bare() -> Self {
        Self::within(super::scratch())
    }

    /// No repository yet; everything in `folder`.
    pub fn within(folder: TempDir) -> Self {
        let repo = folder.path().join("repo");
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        fs::write(folder.path().join("key"), [7; 64]).unwrap();
        Self { folder, repo, bucket: None }
    }

    /// No repository yet, and it will be in a bucket.
    pub fn in_bucket(bucket: &Bucket, test: &str) -> Self {
        Self::bare().moved_to(bucket, &Bucket::prefix(test))
    }

    /// The same lab, but for the program the repository is there.
    #[must_use]
    pub fn moved_to(self, bucket: &Bucket, prefix: &str) -> Self {
        let repo = format!("s3://{}/{prefix}", bucket.bucket).into();
        Self { repo, bucket: Some((bucket.clone(), prefix.to_owned())), ..self }
    }

    /// No repository yet, and it will be in `repo`.
    pub fn at(repo: &Path) -> Self {
        Self { repo: repo.to_owned(), ..Self::bare() }
    }

    /// Fills the repository with so many chunks that are not there; see `examples/many_chunks.rs`.
    pub fn fill_with_chunks(&self, chunks: u64, chunks_a_pack: u64) {
        let mut program = Command::new(example("many_chunks"));
        match &self.bucket {
            None => program.arg(&self.repo),
            Some((bucket, prefix)) => program
                .arg(format!("s3:{prefix}"))
                .env("SALVOR_TEST_S3_BUCKET", &bucket.bucket)
                .env("SALVOR_TEST_S3_ENDPOINT", bucket.endpoint.as_deref().unwrap_or_default())
                .env("SALVOR_TEST_S3_REGION", &bucket.region)
                .env("SALVOR_TEST_S3_PROVIDER", bucket.provider.as_deref().unwrap_or_default())
                .env("AWS_ACCESS_KEY_ID", &bucket.key)
                .env("AWS_SECRET_ACCESS_KEY", &bucket.secret)
                .env("AWS_SESSION_TOKEN", bucket.token.as_deref().unwrap_or_default()),
        };
        program.args([chunks, chunks_a_pack].map(|number| number.to_string()));
        assert!(program.status().unwrap().success());
    }

    /// Removes what the program keeps between runs.
    pub fn forget_cache(&self) {
        let cache = self.path("home/.cache");
        if cache.exists() {
            fs::remove_dir_all(cache).unwrap();
        }
    }

    /// A path in the lab's folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the repository is.
    pub fn repo(&self) -> &Path {
        &self.repo
    }

    /// The program with `args`, to be run in the lab: nothing of the environment reaches it.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("SALVOR_REPO", &self.repo)
            .env("SALVOR_KEY_FILE", self.path("key"))
            .stdin(Stdio::null());
        if let Some((bucket, _)) = &self.bucket {
            command.envs(bucket.environment());
        }
        command
    }

    /// Runs the program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        Running::start(self.command(args)).wait()
    }

    /// Runs the program, which must end with 0.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        self.run(args).expect(0)
    }

    /// As [`Self::ok`], with `--json`; the last object printed.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        let mut all: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        all.push("--json".as_ref());
        self.ok(&all).last_json()
    }

    /// Starts the program.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        Running::start(self.command(args))
    }

    /// Ids of all snapshots, oldest first.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let list = self.json(&["snapshots"]);
        let rows = list["snapshots"].as_array().unwrap();
        rows.iter().map(|row| row["snapshot"].as_str().unwrap().to_owned()).collect()
    }

    /// Everything that the repository's folder or its prefix holds.
    pub fn stored(&self) -> Stored {
        if let Some((bucket, prefix)) = &self.bucket {
            return bucket.stored(prefix);
        }
        let mut stored = Stored::new();
        for entry in fs::read_dir(&self.repo).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                list_files(&path, &path, stored.entry(name).or_default());
            }
        }
        stored
    }

    /// Whether the repository is in a bucket.
    pub const fn is_in_bucket(&self) -> bool {
        self.bucket.is_some()
    }

    /// The repository's store.
    pub fn store(&self) -> Arc<dyn Store> {
        match &self.bucket {
            Some((bucket, prefix)) => Arc::new(bucket.store_at(prefix)),
            None => Arc::new(FsStore::open(&self.repo).unwrap()),
        }
    }

    /// Everything that is where the repository is, whoever made it: paths of files, or names of
    /// objects.
    pub fn names(&self) -> BTreeSet<String> {
        if let Some((bucket, prefix)) = &self.bucket {
            return bucket.names(prefix);
        }
        let mut files = BTreeMap::new();
        list_files(&self.repo, &self.repo, &mut files);
        files.into_keys().collect()
    }

    /// Bytes of all stored packs.
    pub fn pack_bytes(&self) -> u64 {
        self.stored().get("p").map_or(0, |packs| packs.values().sum())
    }

    /// Checks every stored byte.
    #[track_caller]
    pub fn verify(&self) {
        let ended = self.run(&["verify", "--read-data", "--json"]);
        assert!(ended.code == Some(0), "verify found damage\n{ended}");
    }

    /// Prunes until nothing is left over, and checks that nothing is: no pack and no segment that
    /// the catalog does not list, no session, no unfinished write. Two passes must do.
    #[track_caller]
    pub fn assert_tidy(&self) {
        for _ in 0..2 {
            self.json(&["prune"]);
        }
        let stats = self.json(&["stats"]);
        let stored = self.stored();
        let count = |folder: &str| stored.get(folder).map_or(0, BTreeMap::len) as u64;
        let listed = stats["data_packs"].as_u64().unwrap() + stats["meta_packs"].as_u64().unwrap();
        assert_eq!(count("p"), listed, "packs that nothing lists: {:?}", stored["p"]);
        assert_eq!(count("x"), stats["segments"].as_u64().unwrap(), "index segments");
        for folder in ["ses", "com", "hb", "tmp"] {
            assert_eq!(count(folder), 0, "{folder}: {:?}", stored[folder]);
        }
    }
}

fn list_files(root: &Path, folder: &Path, files: &mut BTreeMap<String, u64>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_files(root, &path, files);
        } else if let Ok(meta) = entry.metadata() {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            files.insert(name, meta.len());
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was run.
    pub line: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that did.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    /// Most memory it had at once; see wait4(2).
    pub peak_bytes: u64,
    /// Time of processors that it took, the system's on its behalf included.
    pub cpu: Duration,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = |text: &str| text.chars().take(6000).collect::<String>();
        let Self { line, code, signal, took, .. } = self;
        writeln!(f, "{line}\nended with {code:?}, signal {signal:?}, after {took:?}")?;
        write!(f, "--- stdout\n{}--- stderr\n{}", cut(&self.stdout), cut(&self.stderr))
    }
}

impl Ended {
    /// The same, if it ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(self.code == Some(code), "{code} was expected of: {self}");
        assert!(!self.stderr.contains("panicked at"), "it panicked: {self}");
        self
    }

    /// Checks that standard error has each of `words`, whatever their case.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let text = self.stderr.to_lowercase();
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "`{word}` is missing from: {self}");
        }
        self
    }

    /// Every line of standard output, as JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("`{line}` is no JSON ({error}): {self}"),
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The last line of standard output, as JSON.
    #[track_caller]
    pub fn last_json(&self) -> Value {
        match self.json_lines().pop() {
            Some(value) => value,
            None => panic!("it printed nothing: {self}"),
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Option<Child>,
    started: Instant,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a command; what it prints is collected.
    pub fn start(mut command: Command) -> Self {
        let line = format!("{command:?}");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self {
            line,
            child: Some(child),
            started: Instant::now(),
            stdout: Some(std::thread::spawn(move || read_all(stdout))),
            stderr: Some(std::thread::spawn(move || read_all(stderr))),
        }
    }

    /// Sends a signal; one that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        // Nobody has waited for the child yet: the number is still its own.
        let _ = kill_process(Pid::from_raw(id).unwrap(), signal);
    }

    /// Waits `delay`, or less if it ends before, and kills it. Whether it was killed.
    pub fn kill_after(self, delay: Duration) -> (bool, Ended) {
        let until = self.started + delay;
        while Instant::now() < until && !self.has_ended() {
            std::thread::sleep(Duration::from_millis(1).min(until - Instant::now().min(until)));
        }
        self.signal(Signal::KILL);
        let ended = self.wait();
        (ended.signal == Some(9), ended)
    }

    /// Whether it has ended, and waits to be waited for.
    pub fn has_ended(&self) -> bool {
        let id = self.child.as_ref().unwrap().id();
        // Behind the command in parentheses comes the state.
        fs::read_to_string(format!("/proc/{id}/stat"))
            .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let late = self.started + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > late {
                self.signal(Signal::KILL);
                panic!("it hangs: {}", self.line);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = self.started.elapsed();
        let (status, usage) = wait_measured(&self.child.take().unwrap());
        let join = |thread: Option<JoinHandle<String>>| thread.unwrap().join().unwrap();
        Ended {
            line: std::mem::take(&mut self.line),
            code: status.code(),
            signal: status.signal(),
            stdout: join(self.stdout.take()),
            stderr: join(self.stderr.take()),
            took,
            peak_bytes: u64::try_from(usage.ru_maxrss).unwrap() * 1024,
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn read_all(stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let mut stream = BufReader::new(stream);
    while stream.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {}
    String::from_utf8_lossy(&bytes).into_owned()
}

fn duration(time: libc::timeval) -> Duration {
    let micros = u64::try_from(time.tv_usec).unwrap();
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap()) + Duration::from_micros(micros)
}

/// Waits for a child and tells what it took. Of its memory the kernel counts what this process had
/// when it made the child, too: tests that measure must be small themselves.
fn wait_measured(child: &Child) -> (std::process::ExitStatus, libc::rusage) {
    let id = libc::pid_t::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: `rusage` is numbers only, so that all zeroes are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables of the right types.
    let waited = unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, id, "{}", std::io::Error::last_os_error());
    (std::process::ExitStatus::from_raw(status), usage)
}
