//! Unfinished writes: how one becomes an object, and what becomes of those whose writer died.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, OFlags, RenameFlags, fsync, linkat, openat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::folder::TEMPORARY;
use super::{FILE_MODE, FsStore, direct};
use crate::store::{Op, StoreError, Swept};

/// After this a write is taken for dead, whoever made it. If its writer lives all the same, its
/// `put_new` fails; no object is touched.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// A file in `tmp/`, removed when dropped.
struct Temporary<'a> {
    store: &'a FsStore,
    path: String,
    file: OwnedFd,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // A failure leaves a file for the sweep.
        let _ = unlinkat(&self.store.root, &*self.path, AtFlags::empty());
    }
}

impl FsStore {
    /// Makes `path` stand for `body`, unless it stands for something: then `false`. The folder is
    /// left to be synced.
    pub(super) fn publish_new(&self, path: &str, body: &[u8]) -> Result<bool, StoreError> {
        let temporary = self.write_temporary(Op::PutNew, path, body)?;
        // A failed sync is final for this file: the kernel may have dropped the pages, and a
        // second sync would then report success. The file goes; nothing was published.
        fsync(&temporary.file).map_err(|errno| self.error(Op::PutNew, path, errno))?;
        match temporary.link_to(path) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::OPNOTSUPP) => Err(StoreError::Io {
                op: Op::PutNew,
                at: self.at(path),
                source: std::io::Error::other(
                    "its file system has neither hard links nor renames that replace nothing, \
                     so it cannot hold a repository",
                ),
            }),
            Err(errno) => Err(self.error(Op::PutNew, path, errno)),
        }
    }

    /// Makes `path` stand for `body` whatever it stood for. Not durable.
    pub(super) fn publish_over(&self, path: &str, body: &[u8]) -> Result<(), StoreError> {
        let temporary = self.write_temporary(Op::Put, path, body)?;
        renameat(&self.root, &*temporary.path, &self.root, path)
            .map_err(|errno| self.error(Op::Put, path, errno))
    }

    /// `path`: the object that it is for, for messages.
    fn write_temporary(
        &self,
        op: Op,
        path: &str,
        body: &[u8],
    ) -> Result<Temporary<'_>, StoreError> {
        let temporary = self.create_temporary(op, path)?;
        direct::write_whole(self, &temporary.file, body)
            .map_err(|errno| self.error(op, path, errno))?;
        Ok(temporary)
    }

    fn create_temporary(&self, op: Op, path: &str) -> Result<Temporary<'_>, StoreError> {
        loop {
            let nonce = getrandom::u64().map_err(|error| StoreError::Io {
                op,
                at: self.at(path),
                source: std::io::Error::other(error.to_string()),
            })?;
            let temporary = format!("{TEMPORARY}/{}-{nonce:016x}", Writer::this());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            match openat(&self.root, &*temporary, flags, FILE_MODE) {
                Ok(file) => return Ok(Temporary { store: self, path: temporary, file }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.error(op, &temporary, errno)),
            }
        }
    }

    pub(super) fn sweep(&self) -> Result<Swept, StoreError> {
        let op = Op::SweepTemporary;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let mut swept = Swept::default();
        self.each_name(op, TEMPORARY, &mut |folder, name, _| {
            let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(());
            }
            let age_s = now_s.saturating_sub(u64::try_from(stat.st_mtime).unwrap_or(0));
            let dead = name.to_str().ok().and_then(Writer::of).is_some_and(|it| it.is_dead());
            if !dead && age_s < ABANDONED_AFTER.as_secs() {
                return Ok(());
            }
            match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) => {
                    swept.count += 1;
                    swept.bytes += u64::try_from(stat.st_size).unwrap_or(0);
                    Ok(())
                }
                Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(self.error(op, TEMPORARY, errno)),
            }
        })?;
        Ok(swept)
    }
}

impl Temporary<'_> {
    fn link_to(&self, path: &str) -> Result<(), Errno> {
        let root = &self.store.root;
        match linkat(root, &*self.path, root, path, AtFlags::empty()) {
            // Over NFS the first answer may be lost, and the client's second request then finds
            // the name taken: by this very file.
            Err(Errno::EXIST) if self.is_at(path) => Ok(()),
            // No hard links here (exFAT, some FUSE file systems).
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => self.rename_to(path),
            linked => linked,
        }
    }

    /// The other atomic way; `EOPNOTSUPP` where there is neither.
    fn rename_to(&self, path: &str) -> Result<(), Errno> {
        let root = &self.store.root;
        match renameat_with(root, &*self.path, root, path, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::OPNOTSUPP),
            renamed => renamed,
        }
    }

    fn is_at(&self, path: &str) -> bool {
        let here = rustix::fs::fstat(&self.file);
        let there = statat(&self.store.root, path, AtFlags::SYMLINK_NOFOLLOW);
        matches!((here, there), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

/// Who wrote a temporary file: the start of its name. A process number means something only on one
/// boot of one machine and in one namespace, so both are part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Writer {
    /// `None` where it cannot be found out; then only age tells.
    boot: Option<String>,
    /// Likewise; 0.
    namespace: u64,
    process: u32,
}

impl Writer {
    fn this() -> &'static Self {
        static THIS: OnceLock<Writer> = OnceLock::new();
        THIS.get_or_init(|| {
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
            let boot = boot.map(|id| id.chars().filter(char::is_ascii_hexdigit).collect());
            let namespace = rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino);
            Self { boot, namespace, process: std::process::id() }
        })
    }

    /// Who wrote the file of this name, if the name says.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let boot = parts.next()?.to_string();
        let namespace = parts.next()?.parse().ok()?;
        let process = parts.next()?.parse().ok()?;
        let boot = Some(boot).filter(|boot| !boot.is_empty());
        Some(Self { boot, namespace, process })
    }

    /// Whether it is certain that this process has ended: a process of this boot and namespace
    /// that the kernel does not know.
    fn is_dead(&self) -> bool {
        let this = Self::this();
        let known = this.boot.is_some() && this.namespace != 0;
        let comparable = known && self.boot == this.boot && self.namespace == this.namespace;
        let process = i32::try_from(self.process).ok().and_then(Pid::from_raw);
        comparable && process.is_some_and(|process| test_kill_process(process) == Err(Errno::SRCH))
    }
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let boot = self.boot.as_deref().unwrap_or_default();
        write!(f, "{boot}-{}-{}", self.namespace, self.process)
    }
}

#[cfg(test)]
mod tests;
