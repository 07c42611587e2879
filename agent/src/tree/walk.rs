//! Meets everything below a directory, in path order.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use repo_format::limits::PATH_BYTES_MAX;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

use super::beneath::{DIR_FLAGS, DirBudget, OpenDir, Stat, open_beneath};
use super::error::{Issue, IssueKind};
use super::filter::Filter;
use super::names::{Name, Names, NamesError};
use super::scout::Hints;
use super::{Stop, TreeError};

/// Directories of the current path that stay open; those above are opened again when needed.
const KEPT_OPEN: usize = 48;
/// Directories open at once, those that queued entries wait in included.
const OPEN_MAX: usize = 400;
/// Every directory gets this much memory for its names, however little is left.
const NAMES_BYTES_MIN: usize = 16 << 10;

/// What the walk met.
#[derive(Debug)]
pub(super) struct Found {
    /// Below the root.
    pub(super) path: Vec<u8>,
    /// Where the last name starts in `path`.
    pub(super) name_at: usize,
    /// The directory it is in; `None` for the root.
    pub(super) parent: Option<Arc<OpenDir>>,
    /// Itself, if it is a directory that could be opened.
    pub(super) own: Option<Arc<OpenDir>>,
    /// Known for directories.
    pub(super) stat: Option<Stat>,
    /// The directory listing says that it is a regular file.
    pub(super) is_file: bool,
}

impl Found {
    /// The last component of its path.
    pub(super) fn name(&self) -> &[u8] {
        self.path.get(self.name_at..).unwrap_or_default()
    }
}

/// A step of the walk.
#[derive(Debug)]
pub(super) enum Step {
    Found(Box<Found>),
    Issue(Issue),
}

/// How to walk.
pub(super) struct WalkOptions<'a> {
    pub(super) filter: &'a Filter,
    pub(super) one_file_system: bool,
    pub(super) exclude_caches: bool,
    /// Memory for names; a directory that needs more uses a file in `scratch`.
    pub(super) names_bytes: usize,
    pub(super) scratch: &'a Path,
    pub(super) stop: &'a Stop<'a>,
}

/// A depth-first walk without recursion.
pub(super) struct Walker<'a> {
    options: WalkOptions<'a>,
    budget: Arc<DirBudget>,
    root: Arc<OpenDir>,
    root_stat: Stat,
    stack: Vec<Frame>,
    path: Vec<u8>,
    ready: VecDeque<Step>,
    hints: Hints,
    /// Things left out.
    pub(super) excluded: u64,
}

struct Frame {
    dir: Option<Arc<OpenDir>>,
    stat: Stat,
    path_len: usize,
    names: Names,
}

impl<'a> Walker<'a> {
    /// Opens `root`, which may be a symbolic link to a directory.
    pub(super) fn new(
        root: &Path,
        options: WalkOptions<'a>,
        hints: Hints,
    ) -> Result<Self, TreeError> {
        let failed = |source: io::Error| TreeError::Source { path: root.to_owned(), source };
        let flags = DIR_FLAGS.difference(OFlags::NOFOLLOW);
        let fd =
            rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let root_stat = Stat::of(&fd).map_err(failed)?;
        let budget = DirBudget::new(OPEN_MAX);
        let dir = Arc::new(budget.admit(fd, &|| true));
        let mut walker = Self {
            options,
            budget,
            root: Arc::clone(&dir),
            root_stat: root_stat.clone(),
            stack: Vec::new(),
            path: Vec::new(),
            ready: VecDeque::new(),
            hints,
            excluded: 0,
        };
        walker.enter(dir, root_stat, None)?;
        Ok(walker)
    }

    /// The next step, or `None` at the end, or when cancelled.
    pub(super) fn next(&mut self) -> Result<Option<Step>, TreeError> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Ok(Some(step));
            }
            if self.options.stop.is_set() {
                return Ok(None);
            }
            let Some(frame) = self.stack.last_mut() else { return Ok(None) };
            self.path.truncate(frame.path_len);
            match frame.names.next() {
                Ok(Some(name)) => self.meet(&name)?,
                Ok(None) => {
                    self.stack.pop();
                }
                Err(error) => self.names_failed(error)?,
            }
        }
    }

    fn meet(&mut self, name: &Name) -> Result<(), TreeError> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        let name_at = self.path.len();
        self.path.extend_from_slice(&name.bytes);
        if self.path.len() as u64 > PATH_BYTES_MAX {
            self.issue(IssueKind::TooLarge, "its path is too long".to_owned());
            return Ok(());
        }
        let Some(parent) = self.current_dir() else { return Ok(()) };
        let is_dir = match name.is_dir {
            Some(is_dir) => is_dir,
            None => match Stat::at(&*parent, &name.bytes) {
                Ok(stat) => stat.kind == repo_format::tree::EntryKind::Dir,
                Err(error) => {
                    self.io_issue(&error);
                    return Ok(());
                }
            },
        };
        if self.options.filter.excludes(&self.path, is_dir) {
            self.excluded += 1;
            return Ok(());
        }
        if is_dir {
            return self.meet_dir(parent, name_at);
        }
        self.ready.push_back(Step::Found(Box::new(Found {
            path: self.path.clone(),
            name_at,
            parent: Some(parent),
            own: None,
            stat: None,
            is_file: name.is_file,
        })));
        Ok(())
    }

    fn meet_dir(&mut self, parent: Arc<OpenDir>, name_at: usize) -> Result<(), TreeError> {
        self.hints.start();
        let name = self.path.get(name_at..).unwrap_or_default();
        let opened = rustix::fs::openat(&*parent, name, DIR_FLAGS, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|fd| Ok((Stat::of(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.meet_closed_dir(parent, name_at, &error);
                return Ok(());
            }
        };
        let own = self.admit(fd);
        let found = Found {
            path: self.path.clone(),
            name_at,
            parent: Some(parent),
            own: Some(Arc::clone(&own)),
            stat: Some(stat.clone()),
            is_file: false,
        };
        let is_elsewhere = self.options.one_file_system && stat.meta.dev != self.root_stat.meta.dev;
        if is_elsewhere || (self.options.exclude_caches && is_cache(&own)) {
            self.excluded += 1;
            self.ready.push_back(Step::Found(Box::new(found)));
            return Ok(());
        }
        self.enter(own, stat, Some(found))
    }

    /// A directory that cannot be opened is recorded if it can be looked at.
    fn meet_closed_dir(&mut self, parent: Arc<OpenDir>, name_at: usize, error: &io::Error) {
        let name = self.path.get(name_at..).unwrap_or_default();
        let stat = Stat::at(&*parent, name);
        self.io_issue(error);
        if let Ok(stat) = stat
            && stat.kind == repo_format::tree::EntryKind::Dir
        {
            let path = self.path.clone();
            let (parent, stat) = (Some(parent), Some(stat));
            let found = Found { path, name_at, parent, own: None, stat, is_file: false };
            self.ready.push_back(Step::Found(Box::new(found)));
        }
    }

    /// Reads the names of `dir`, which is at the current path, and goes on inside it.
    fn enter(
        &mut self,
        dir: Arc<OpenDir>,
        stat: Stat,
        found: Option<Found>,
    ) -> Result<(), TreeError> {
        let found = found.unwrap_or_else(|| Found {
            path: Vec::new(),
            name_at: 0,
            parent: None,
            own: Some(Arc::clone(&dir)),
            stat: Some(stat.clone()),
            is_file: false,
        });
        self.ready.push_back(Step::Found(Box::new(found)));
        let used: usize = self.stack.iter().map(|frame| frame.names.used_bytes()).sum();
        let bytes_max = self.options.names_bytes.saturating_sub(used).max(NAMES_BYTES_MIN);
        match Names::read(&*dir, bytes_max, self.options.scratch) {
            Ok(names) => {
                self.hints.done(&dir, |max| names.dirs_ahead(max));
                if let Some(deep) = self.stack.len().checked_sub(KEPT_OPEN)
                    && let Some(frame) = self.stack.get_mut(deep)
                {
                    frame.dir = None;
                }
                let path_len = self.path.len();
                self.stack.push(Frame { dir: Some(dir), stat, path_len, names });
            }
            Err(NamesError::Directory(error)) => self.io_issue(&error),
            Err(NamesError::Scratch(source)) => return Err(self.scratch_failed(source)),
        }
        Ok(())
    }

    /// The directory of the top frame, opened again if it had to be closed.
    fn current_dir(&mut self) -> Option<Arc<OpenDir>> {
        let frame = self.stack.last()?;
        if let Some(dir) = &frame.dir {
            return Some(Arc::clone(dir));
        }
        let path = self.path.get(..frame.path_len).unwrap_or_default().to_vec();
        let opened = open_beneath(self.root.as_fd(), &path, DIR_FLAGS)
            .and_then(|fd| Ok((Stat::of(&fd)?, fd)));
        match opened {
            Ok((stat, fd)) if stat.is_same_inode(&frame.stat) => {
                let dir = self.admit(fd);
                self.stack.last_mut()?.dir = Some(Arc::clone(&dir));
                Some(dir)
            }
            opened => {
                self.path = path;
                match opened {
                    Ok(_) => self.issue(IssueKind::Vanished, "replaced by another".to_owned()),
                    Err(error) => self.io_issue(&error),
                }
                self.stack.pop();
                None
            }
        }
    }

    fn admit(&self, fd: OwnedFd) -> Arc<OpenDir> {
        let stop = self.options.stop;
        Arc::new(self.budget.admit(fd, &|| stop.is_set()))
    }

    fn names_failed(&mut self, error: NamesError) -> Result<(), TreeError> {
        self.stack.pop();
        match error {
            NamesError::Directory(error) => {
                self.io_issue(&error);
                Ok(())
            }
            NamesError::Scratch(source) => Err(self.scratch_failed(source)),
        }
    }

    fn scratch_failed(&self, source: io::Error) -> TreeError {
        TreeError::Scratch { path: self.options.scratch.to_owned(), source }
    }

    /// Names the current path.
    fn issue(&mut self, kind: IssueKind, detail: String) {
        let path = self.path.clone();
        self.ready.push_back(Step::Issue(Issue { path, kind, detail }));
    }

    fn io_issue(&mut self, error: &io::Error) {
        self.ready.push_back(Step::Issue(io_issue(self.path.clone(), error)));
    }
}

/// Names a path that the kernel refused.
pub(super) fn io_issue(path: Vec<u8>, error: &io::Error) -> Issue {
    // ELOOP and ENOTDIR: something else has taken its place since the directory was read.
    let gone = [libc::ENOENT, libc::ESTALE, libc::ELOOP, libc::ENOTDIR];
    let kind = match error.raw_os_error() {
        Some(code) if gone.contains(&code) => IssueKind::Vanished,
        _ => IssueKind::Unreadable,
    };
    Issue { path, kind, detail: error.to_string() }
}

/// Whether the directory says that its content can be made again (bford.info/cachedir).
fn is_cache(dir: &OpenDir) -> bool {
    const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir, "CACHEDIR.TAG", flags, Mode::empty()) else {
        return false;
    };
    let mut start = [0u8; SIGNATURE.len()];
    rustix::io::pread(&fd, &mut start, 0).is_ok_and(|read| start.get(..read) == Some(SIGNATURE))
}
