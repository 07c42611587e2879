//! Real devices, file systems and users, for which a test must be root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this test may make devices and mount. If not it fails, unless somebody said with
/// `SALVOR_ALLOW_UNPRIVILEGED_TESTS=1` that this is known.
#[track_caller]
pub fn privileged(needs: &str) -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !able {
        let known = std::env::var_os("SALVOR_ALLOW_UNPRIVILEGED_TESTS").is_some();
        assert!(known, "needs root for {needs}; SALVOR_ALLOW_UNPRIVILEGED_TESTS=1 leaves it out");
        eprintln!("LEFT OUT, for want of root: {needs}");
    }
    able
}

/// Runs a helper program, which must succeed. Returns what it printed.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Vec<u8> {
    let out = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program}: {said}");
    out.stdout
}

/// The same command, run by the user `nobody`.
pub fn as_nobody(command: &Command) -> Command {
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]);
    other.arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            other.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        other.current_dir(folder);
    }
    other.stdin(std::process::Stdio::null());
    other
}

/// A block device over a file, as long as this lives.
#[derive(Debug)]
pub struct Device {
    /// The device.
    pub path: PathBuf,
}

impl Device {
    /// Over an existing file.
    #[track_caller]
    pub fn over(file: &Path) -> Self {
        let args = ["--find".as_ref(), "--show".as_ref(), file.as_os_str()];
        let mut path = run("losetup", &args);
        path.truncate(path.trim_ascii_end().len());
        Self { path: std::ffi::OsString::from_vec(path).into() }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("--detach").arg(&self.path).status());
    }
}

/// A mounted file system, as long as this lives.
#[derive(Debug)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
}

impl Mount {
    /// A file system in memory with so much space.
    #[track_caller]
    pub fn memory(path: &Path, size_bytes: u64) -> Self {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size_bytes}");
        let args = ["-t", "tmpfs", "-o", &options, "tmpfs", path.to_str().unwrap()];
        run("mount", &args);
        Self { path: path.to_owned() }
    }

    /// An ext4 of `size_bytes` in `file`.
    #[track_caller]
    pub fn ext4(path: &Path, file: &Path, size_bytes: u64) -> Self {
        fs::create_dir_all(path).unwrap();
        fs::File::create(file).unwrap().set_len(size_bytes).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", file.to_str().unwrap()]);
        run("mount", &["-o", "loop", file.to_str().unwrap(), path.to_str().unwrap()]);
        Self { path: path.to_owned() }
    }

    /// `folder` once more, at `path`, where nothing can be written.
    #[track_caller]
    pub fn read_only(path: &Path, folder: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        run("mount", &["--bind".as_ref(), folder.as_os_str(), path.as_os_str()]);
        let mount = Self { path: path.to_owned() };
        run("mount", &["-o", "remount,bind,ro", path.to_str().unwrap()]);
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.path).status());
    }
}
