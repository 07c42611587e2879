//! Reads the manifest, makes directories, and plans everything else.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use repo_format::tree::{Content, Entry, EntryKind, is_below};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::AtFlags;

use super::attributes::{What, apply_open};
use super::file::{FileJob, Start};
use super::plan::{Closing, Link, Window};
use super::special::Special;
use super::target::{
    NAMES_BYTES, Place, clear_place, existing, make_dir, open_target, remove_tree,
};
use super::work::{Countdown, Job, Shared, target_error, work};
use super::{RestoreJob, RestoreOutcome};
use crate::tree::beneath::{DIR_FLAGS, Stat, lock, open_beneath};
use crate::tree::error::{Issue, IssueKind, display_path};
use crate::tree::names::{Name, Names, NamesError};
use crate::tree::reader::TreeReader;
use crate::tree::slices::{Placer, Slices};
use crate::tree::{Issues, Progress, Stop, TreeError};

/// Workers per processor.
const WORKERS_PER_CPU: usize = 2;
/// Windows at work while the next one is planned, at least. A window may be little work, so there
/// are more of them if there are many workers.
const WINDOWS_MIN: usize = 2;
const WORKERS_PER_WINDOW: usize = 3;
/// Directories of the current path that stay open.
const KEPT_OPEN: usize = 48;
/// Links to files outside the restored subtree that are remembered.
const OUTSIDE_MAX: usize = 100_000;

/// Runs a restore.
pub(super) fn run(
    job: RestoreJob<'_>,
    on_issue: &mut dyn FnMut(&Issue),
) -> Result<RestoreOutcome, TreeError> {
    let reader = TreeReader::open(job.source, job.root)?;
    let top = reader.find(job.subtree)?;
    let is_empty_tree = reader.root().page.is_none() && job.subtree.is_empty();
    if top.is_none() && !is_empty_tree {
        return Err(TreeError::NoSuchPath { path: display_path(job.subtree) });
    }
    let is_dir = top.is_none_or(|top| top.kind == EntryKind::Dir);
    let (root, existed) = open_target(&job)?;
    let entries = TreeReader::open(job.source, job.root)?.below(job.subtree)?;
    let stop = Stop::new(job.cancel);
    let (issues_in, issues) = unbounded();
    let shared = Shared {
        source: job.source,
        options: job.options,
        progress: job.progress,
        stop: &stop,
        issues: issues_in,
        failure: Mutex::new(None),
    };
    let strip = if is_dir { job.subtree.len() } else { parent_len(job.subtree) };
    let found = std::thread::scope(|scope| {
        let (jobs_in, jobs) = bounded::<Job>(64);
        for _ in 0..worker_count(&job) {
            let (shared, jobs) = (&shared, jobs.clone());
            scope.spawn(move || work(shared, &jobs));
        }
        drop(jobs);
        let mut planner = Planner {
            shared: &shared,
            subtree: job.subtree,
            lookup: reader,
            strip,
            root: Arc::new(root),
            existed,
            stack: Vec::new(),
            window: Window::default(),
            at_work: VecDeque::new(),
            windows_max: (worker_count(&job) / WORKERS_PER_WINDOW).max(WINDOWS_MIN),
            jobs: jobs_in,
            issues,
            on_issue,
            found: Issues::default(),
            outside: HashMap::new(),
            link_dir: None,
        };
        if !is_dir {
            planner.push_bare_root();
        }
        let done = planner.restore_all(entries);
        if let Err(error) = done {
            shared.fail(error);
        }
        planner.report_issues();
        planner.found
    });
    if let Some(error) = lock(&shared.failure).take() {
        return Err(error);
    }
    Ok(RestoreOutcome { totals: job.progress.totals(), issues: found })
}

fn worker_count(job: &RestoreJob<'_>) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if job.options.workers == 0 { cpus * WORKERS_PER_CPU } else { job.options.workers }
}

/// Length of the path's parent, and of the slash after it.
fn parent_len(path: &[u8]) -> usize {
    path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
}

struct Planner<'a, 'h> {
    shared: &'a Shared<'a>,
    subtree: &'a [u8],
    /// Finds the first entries of links whose group starts outside the subtree.
    lookup: TreeReader<'a>,
    /// Bytes of the snapshot's paths that are not part of the target's.
    strip: usize,
    root: Arc<OwnedFd>,
    existed: bool,
    stack: Vec<Frame>,
    window: Window,
    at_work: VecDeque<AtWork>,
    windows_max: usize,
    jobs: Sender<Job>,
    issues: Receiver<Issue>,
    on_issue: &'h mut dyn FnMut(&Issue),
    found: Issues,
    /// Path in the snapshot of a file outside the subtree → where it was restored to.
    outside: HashMap<Vec<u8>, Vec<u8>>,
    /// The directory that the last link's first entry is in.
    link_dir: Option<(Vec<u8>, OwnedFd)>,
}

/// A directory being filled.
struct Frame {
    /// `None` if it is too high up to be kept open, or could not be made.
    dir: Option<Arc<OwnedFd>>,
    has_failed: bool,
    /// Below the target.
    path: Vec<u8>,
    /// `None` for a target that takes a single file.
    entry: Option<Entry>,
    existed: bool,
    /// What was in it and was not met in the snapshot, if that is to be removed.
    extra: Option<(Names, Option<Name>)>,
}

/// A window whose jobs were handed out.
struct AtWork {
    countdown: Arc<Countdown>,
    links: Vec<Link>,
    closings: Vec<Closing>,
}

impl Planner<'_, '_> {
    fn restore_all(&mut self, mut entries: TreeReader<'_>) -> Result<(), TreeError> {
        while let Some(entry) = entries.next_entry()? {
            if self.shared.stop.is_set() {
                break;
            }
            Progress::add(&self.shared.progress.found, 1);
            self.plan(entry)?;
            if self.window.is_full() {
                self.submit()?;
            }
        }
        if !self.shared.stop.is_set() {
            while !self.stack.is_empty() {
                self.leave();
            }
            self.submit()?;
        }
        while !self.at_work.is_empty() {
            self.finish_oldest();
        }
        if self.shared.stop.is_cancelled() {
            return Err(TreeError::Cancelled);
        }
        if self.shared.options.sync && !self.shared.stop.is_set() {
            rustix::fs::syncfs(&*self.root)
                .map_err(|errno| target_error(display_path(b""), errno.into()))?;
        }
        Ok(())
    }

    /// The target as the directory of a single file.
    fn push_bare_root(&mut self) {
        self.stack.push(Frame {
            dir: Some(Arc::clone(&self.root)),
            has_failed: false,
            path: Vec::new(),
            entry: None,
            existed: self.existed,
            extra: None,
        });
    }

    fn plan(&mut self, entry: Entry) -> Result<(), TreeError> {
        let path = self.target_path(&entry.path);
        if entry.kind == EntryKind::Dir && path.is_empty() {
            return self.enter_root(entry);
        }
        let parent = path.get(..parent_len(&path)).unwrap_or_default();
        while self.stack.last().is_some_and(|frame| frame.path != parent) {
            self.leave();
        }
        let name_at = if parent.is_empty() { 0 } else { parent.len() + 1 };
        let name = path.get(name_at..).unwrap_or_default().to_vec();
        let Some((dir, dir_existed)) = self.current_dir()? else {
            let detail = "its directory was not restored".to_owned();
            self.shared.issue(&entry.path, IssueKind::NotRestored, detail);
            return Ok(());
        };
        self.remove_extra(&dir, Some(&name));
        if entry.kind == EntryKind::Dir {
            return self.enter(&dir, dir_existed, &name, path, entry);
        }
        self.plan_leaf(dir, dir_existed, name, &path, entry)
    }

    /// A path of the snapshot as one of the target.
    fn target_path(&self, path: &[u8]) -> Vec<u8> {
        let rest = path.get(self.strip..).unwrap_or_default();
        rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
    }

    /// The directory on top, opened again if it had to be closed, and whether it was there.
    fn current_dir(&mut self) -> Result<Option<(Arc<OwnedFd>, bool)>, TreeError> {
        let Some(frame) = self.stack.last_mut().filter(|frame| !frame.has_failed) else {
            return Ok(None);
        };
        if frame.dir.is_none() {
            let fd = open_beneath(self.root.as_fd(), &frame.path, DIR_FLAGS)
                .map_err(|error| target_error(display_path(&frame.path), error))?;
            frame.dir = Some(Arc::new(fd));
        }
        Ok(frame.dir.clone().map(|dir| (dir, frame.existed)))
    }

    fn enter_root(&mut self, entry: Entry) -> Result<(), TreeError> {
        let (dir, existed) = (Arc::clone(&self.root), self.existed);
        self.push_frame(Some(dir), Vec::new(), entry, existed)
    }

    /// Makes or opens a directory and goes on inside it.
    fn enter(
        &mut self,
        dir: &OwnedFd,
        dir_existed: bool,
        name: &[u8],
        path: Vec<u8>,
        entry: Entry,
    ) -> Result<(), TreeError> {
        match make_dir(dir, dir_existed, name) {
            Ok((fd, existed)) => {
                self.window.count_dir();
                self.push_frame(Some(Arc::new(fd)), path, entry, existed)
            }
            Err(error) => {
                if !self.shared.is_fatal(&entry.path, &error) {
                    let kind = IssueKind::NotRestored;
                    self.shared.issue(&entry.path, kind, error.to_string());
                }
                self.push_frame(None, path, entry, false)
            }
        }
    }

    fn push_frame(
        &mut self,
        dir: Option<Arc<OwnedFd>>,
        path: Vec<u8>,
        entry: Entry,
        existed: bool,
    ) -> Result<(), TreeError> {
        let options = self.shared.options;
        let mut extra = None;
        if let Some(dir) = dir.as_ref().filter(|_| existed && options.in_place && options.delete) {
            let scratch = |source| TreeError::Scratch { path: options.scratch.clone(), source };
            match Names::read(&**dir, NAMES_BYTES, &options.scratch) {
                Ok(mut names) => {
                    let first = names.next().unwrap_or(None);
                    extra = Some((names, first));
                }
                Err(NamesError::Scratch(error)) => return Err(scratch(error)),
                Err(NamesError::Directory(error)) => {
                    self.shared.issue(&entry.path, IssueKind::NotRestored, error.to_string());
                }
            }
        }
        if let Some(high) = self.stack.len().checked_sub(KEPT_OPEN)
            && let Some(frame) = self.stack.get_mut(high)
        {
            frame.dir = None;
        }
        let has_failed = dir.is_none();
        self.stack.push(Frame { dir, has_failed, path, entry: Some(entry), existed, extra });
        Ok(())
    }

    /// Everything in the directory on top was planned.
    fn leave(&mut self) {
        if let Ok(Some((dir, _))) = self.current_dir_if_extra() {
            self.remove_extra(&dir, None);
        }
        let Some(frame) = self.stack.pop().filter(|frame| !frame.has_failed) else { return };
        let Frame { dir, path, entry, existed, .. } = frame;
        if let Some(entry) = entry {
            self.window.closings.push(Closing { dir, path, entry, existed });
        }
    }

    fn current_dir_if_extra(&mut self) -> Result<Option<(Arc<OwnedFd>, bool)>, TreeError> {
        if self.stack.last().is_some_and(|frame| frame.extra.is_some()) {
            return self.current_dir();
        }
        Ok(None)
    }

    /// Removes what was in the directory on top before `name` (or at all) and is not in the
    /// snapshot.
    fn remove_extra(&mut self, dir: &OwnedFd, name: Option<&[u8]>) {
        let Some(frame) = self.stack.last_mut() else { return };
        let path = frame.path.clone();
        let Some((names, next)) = &mut frame.extra else { return };
        let mut failed = Vec::new();
        while let Some(extra) = next.take() {
            match name {
                Some(name) if extra.bytes.as_slice() > name => {
                    *next = Some(extra);
                    break;
                }
                Some(name) if extra.bytes == name => {}
                _ if path.is_empty() && extra.bytes == b"lost+found" => {}
                _ => {
                    if let Err(error) = remove_tree(dir, &extra.bytes, self.shared) {
                        failed.push((extra.bytes.clone(), error));
                    }
                }
            }
            *next = names.next().unwrap_or(None);
        }
        for (name, error) in failed {
            let path = [path.as_slice(), b"/", &name].concat();
            let detail = format!("not in the snapshot, and cannot be removed: {error}");
            self.shared.issue(&path, IssueKind::NotRestored, detail);
        }
    }

    fn plan_leaf(
        &mut self,
        dir: Arc<OwnedFd>,
        dir_existed: bool,
        name: Vec<u8>,
        path: &[u8],
        mut entry: Entry,
    ) -> Result<(), TreeError> {
        if let Content::HardLink(first) = &entry.content {
            let first = first.clone();
            if let Some(first) = self.link_target(&first, path, &mut entry)? {
                self.window.links.push(Link { dir, name, entry, first });
                return Ok(());
            }
        }
        let start = match clear_place(self.shared, &dir, dir_existed, &name, &entry) {
            Ok(Place::Free) => Start::Fresh,
            Ok(Place::Similar) => Start::Update,
            Ok(Place::Same { only_attributes }) => {
                Progress::add(&self.shared.progress.unchanged_files, 1);
                if only_attributes {
                    let start = Start::Update;
                    self.window.special(Special { dir, name, entry, start, only_attributes });
                } else {
                    self.shared.count(&entry);
                }
                return Ok(());
            }
            Err(error) => {
                if !self.shared.is_fatal(&entry.path, &error) {
                    let kind = IssueKind::NotRestored;
                    self.shared.issue(&entry.path, kind, error.to_string());
                }
                return Ok(());
            }
        };
        match entry.content {
            Content::Slices(_) | Content::Indirect(_) => self.plan_file(dir, name, entry, start),
            _ => {
                let only_attributes = false;
                self.window.special(Special { dir, name, entry, start, only_attributes });
                Ok(())
            }
        }
    }

    /// Where in the target the first entry of a link is. If that is outside of what is restored,
    /// `entry` becomes a file of its own.
    fn link_target(
        &mut self,
        first: &[u8],
        path: &[u8],
        entry: &mut Entry,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        if is_below(first, self.subtree) {
            return Ok(Some(self.target_path(first)));
        }
        if let Some(restored) = self.outside.get(first) {
            return Ok(Some(restored.clone()));
        }
        let Some(original) = self.lookup.find(first)? else {
            return Err(TreeError::NoSuchPath { path: display_path(first) });
        };
        *entry = Entry { path: std::mem::take(&mut entry.path), ..original };
        if self.outside.len() < OUTSIDE_MAX {
            self.outside.insert(first.to_vec(), path.to_vec());
        }
        Ok(None)
    }

    fn plan_file(
        &mut self,
        dir: Arc<OwnedFd>,
        name: Vec<u8>,
        mut entry: Entry,
        start: Start,
    ) -> Result<(), TreeError> {
        let mut slices = Slices::new(self.shared.source, &entry.content);
        entry.content = Content::None;
        let mut placer = Placer::new(&entry);
        let file = Arc::new(FileJob::new(dir, name, entry, start));
        let mut count = 0;
        while let Some(slice) = slices.next()? {
            let (mut offset, mut left) = (slice.offset, slice.len);
            while left > 0 {
                let Some(place) = placer.take(left.into()) else {
                    let detail = "more bytes than the file is long".to_owned();
                    file.fail(self.shared, IssueKind::Damaged, detail);
                    break;
                };
                let len = u32::try_from(place.len).unwrap_or(left);
                self.window.announce(slice.chunk, &file, (offset, len, place.offset));
                offset += len;
                left -= len;
            }
            count += 1;
            if count == 2 {
                self.window.count_open_file();
            }
            if self.window.is_full() {
                self.submit()?;
                if self.shared.stop.is_set() {
                    break;
                }
            }
        }
        if placer.take(1).is_some() && !self.shared.stop.is_set() {
            let detail = "fewer bytes than the file is long".to_owned();
            file.fail(self.shared, IssueKind::Damaged, detail);
        }
        file.finish_write(self.shared);
        Ok(())
    }

    /// Hands the window to the workers. Waits if too many are at work already.
    fn submit(&mut self) -> Result<(), TreeError> {
        while self.at_work.len() >= self.windows_max {
            self.finish_oldest();
        }
        self.report_issues();
        let tasks = self.window.take_tasks(self.shared.source)?;
        let window = std::mem::take(&mut self.window);
        let countdown = Arc::new(Countdown::default());
        countdown.add(tasks.len());
        for task in tasks {
            let job = Job { task, countdown: Arc::clone(&countdown) };
            if self.jobs.send(job).is_err() {
                return Err(TreeError::Cancelled);
            }
        }
        let Window { links, closings, .. } = window;
        self.at_work.push_back(AtWork { countdown, links, closings });
        Ok(())
    }

    /// Waits for the oldest window, then does what had to wait for it.
    fn finish_oldest(&mut self) {
        let Some(window) = self.at_work.pop_front() else { return };
        window.countdown.wait();
        for link in window.links {
            if self.shared.stop.is_set() {
                return;
            }
            match self.make_link(&link) {
                Ok(()) => self.shared.count(&link.entry),
                Err(error) if self.shared.is_fatal(&link.entry.path, &error) => return,
                Err(error) => {
                    let detail =
                        format!("link to {}: {error}", display_path(&link.first).display());
                    self.shared.issue(&link.entry.path, IssueKind::NotRestored, detail);
                }
            }
        }
        for closing in window.closings {
            if self.shared.stop.is_set() {
                return;
            }
            self.close_dir(&closing);
        }
    }

    fn make_link(&mut self, link: &Link) -> io::Result<()> {
        let parent_len = parent_len(&link.first);
        let parent = link.first.get(..parent_len).unwrap_or_default();
        let name_at = if parent.is_empty() { 0 } else { parent_len + 1 };
        let first = link.first.get(name_at..).unwrap_or_default();
        if self.link_dir.as_ref().is_none_or(|(path, _)| path != parent) {
            let fd = open_beneath(self.root.as_fd(), parent, DIR_FLAGS)?;
            self.link_dir = Some((parent.to_vec(), fd));
        }
        let Some((_, from)) = &self.link_dir else { return Ok(()) };
        let name = link.name.as_slice();
        if self.shared.options.in_place
            && let Some(stat) = existing(&link.dir, name)?
        {
            if stat.is_same_inode(&Stat::at(from, first)?) {
                return Ok(());
            }
            if stat.kind == EntryKind::Dir {
                return Err(io::Error::other("a directory is in its place"));
            }
            rustix::fs::unlinkat(&*link.dir, name, AtFlags::empty())?;
        }
        Ok(rustix::fs::linkat(from, first, &*link.dir, name, AtFlags::empty())?)
    }

    fn close_dir(&self, closing: &Closing) {
        let opened;
        let fd = match &closing.dir {
            Some(fd) => fd.as_fd(),
            None => match open_beneath(self.root.as_fd(), &closing.path, DIR_FLAGS) {
                Ok(fd) => {
                    opened = fd;
                    opened.as_fd()
                }
                Err(error) => {
                    return self.shared.attributes_done(&closing.entry, &[error.to_string()]);
                }
            },
        };
        let what = What { owner: self.shared.options.owner, existed: closing.existed };
        let failed = apply_open(fd, &closing.entry.meta, what);
        self.shared.attributes_done(&closing.entry, &failed);
        self.shared.count(&closing.entry);
    }

    fn report_issues(&mut self) {
        while let Ok(issue) = self.issues.try_recv() {
            (self.on_issue)(&issue);
            self.found.add(issue);
        }
    }
}
