//! `salvor ls`, `salvor cat`, `salvor diff`.

use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use repo_format::limits::PAGE_SLOTS;
use repo_format::pack::PackKind;
use repo_format::snapshot::{Snapshot, VolumeKind};
use repo_format::tree::{Content, Entry, EntryKind};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::chunks::ChunkSource;
use repository::index::Index;
use repository::reader::Reader;
use repository::session::OpenSession;
use repository::view::View;
use repository::writer::sync_index;
use repository::{Repository, RepositoryError};
use serde_json::json;

use super::args::{CatArgs, DiffArgs, LsArgs};
use super::batch::Batched;
use super::cat::cat_volume;
use super::context::Context;
use super::error::{CliError, Exit};
use super::units;
use crate::tree::diff::{Difference, What};
use crate::tree::reader::TreeReader;
use crate::tree::restore::restore_file;

/// A snapshot held open for reading: collected by nobody meanwhile.
pub(super) struct Opened {
    pub(super) repository: Arc<Repository>,
    pub(super) snapshot: Snapshot,
    pub(super) reader: Reader,
    // Held for its drop.
    _session: Option<OpenSession>,
}

impl Opened {
    fn new(
        context: &Context,
        snapshot: Snapshot,
        reader: Reader,
        session: Option<OpenSession>,
        problems: &[String],
    ) -> Self {
        for problem in problems {
            context.ui.warn(problem);
        }
        let repository = Arc::clone(reader.repository());
        Self { repository, snapshot, reader, _session: session }
    }
}

/// Finds a snapshot and pins it. A repository that cannot be written to is read without a pin.
pub(super) fn open(context: &Context, wanted: &str) -> Result<Opened, CliError> {
    let (repository, glance) = context.open_with_glance(true)?;
    let index = context.index(&repository)?;
    if let Some(seen) = glance.and_then(|glance| View::of_glance(&repository, &glance))
        && let Some(opened) = open_seen(context, &repository, &index, wanted, &seen)?
    {
        return Ok(opened);
    }
    let view = View::for_reading(&repository)?;
    let snapshot = view.find(wanted, context.cluster())?.clone();
    let (session, view) = pin(context, &repository, &snapshot, view)?;
    let problems = sync_index(&repository, &index, &view)?;
    let reader = Reader::new(&repository, index);
    Ok(Opened::new(context, snapshot, reader, session, &problems))
}

/// Finds and pins it in what was seen at first, and brings the index in line meanwhile. `None` if the
/// snapshot was not seen or there is a newer catalog: all is to be asked anew then.
fn open_seen(
    context: &Context,
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    wanted: &str,
    seen: &View,
) -> Result<Option<Opened>, CliError> {
    let Ok(snapshot) = seen.find(wanted, context.cluster()).cloned() else { return Ok(None) };
    let reader = Reader::new(repository, Arc::clone(index));
    let (synced, pinned) = std::thread::scope(|scope| {
        let synced = scope.spawn(|| {
            let problems = sync_index(repository, index, seen)?;
            // Whatever comes of it: the reader keeps what is around it, and asks again for what it
            // could not get.
            drop(reader.get(PackKind::Meta, &snapshot.root, &mut Vec::new()));
            Ok(problems)
        });
        let pinned = OpenSession::reader(repository, context.cluster(), snapshot.id, Some(seen));
        (synced.join().unwrap_or(Err(RepositoryError::WorkerLost)), pinned)
    });
    match pinned {
        Ok((session, view)) if view.head.catalog.n == seen.head.catalog.n => {
            Ok(Some(Opened::new(context, snapshot, reader, Some(session), &synced?)))
        }
        Ok(_) | Err(RepositoryError::NoSnapshot { .. } | RepositoryError::Store(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a session that holds `snapshot`, and the view to read with: `view` itself where no
/// session can be made.
fn pin(
    context: &Context,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    view: View,
) -> Result<(Option<OpenSession>, View), CliError> {
    match OpenSession::reader(repository, context.cluster(), snapshot.id, Some(&view)) {
        Ok((session, view)) => Ok((Some(session), view)),
        Err(RepositoryError::Store(error)) => {
            context.ui.detail(&format!("reading without a session: {error}"));
            Ok((None, view))
        }
        Err(error) => Err(error.into()),
    }
}

/// The path of a tree as the manifest has it: relative, without a trailing slash.
pub(super) fn tree_path(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => parts.push(name.as_bytes()),
            std::path::Component::RootDir | std::path::Component::CurDir => {}
            _ => {
                let message = format!("{} is not a path inside a snapshot", path.display());
                return Err(CliError::Usage(message));
            }
        }
    }
    Ok(parts.join(&b'/'))
}

fn volume_root(opened: &Opened) -> Result<VolumeRoot, CliError> {
    let mut plain = Vec::new();
    opened.reader.get(PackKind::Meta, &opened.snapshot.root, &mut plain)?;
    let what = format!("manifest of snapshot {}", opened.snapshot.id);
    VolumeRoot::decode(&plain).map_err(|error| RepositoryError::format(what, error).into())
}

pub(super) fn page(reader: &Reader, page: &PageRef) -> Result<Page, CliError> {
    match page {
        PageRef::Hole => Ok(Page::default()),
        PageRef::Missing => Ok(Page { slots: vec![Slot::Missing; PAGE_SLOTS] }),
        PageRef::Page(id) => {
            let mut plain = Vec::new();
            reader.get(PackKind::Meta, id, &mut plain)?;
            Page::decode(&plain).map_err(|error| {
                RepositoryError::format(format!("manifest page {id}"), error).into()
            })
        }
    }
}

pub(super) fn list(context: &Context, args: &LsArgs) -> Result<Exit, CliError> {
    let opened = open(context, &args.snapshot)?;
    if opened.snapshot.kind == VolumeKind::Block {
        return list_volume(context, &opened);
    }
    let below = args.path.as_deref().map(tree_path).transpose()?.unwrap_or_default();
    let source = Batched(&opened.reader);
    let tree = TreeReader::open(&source, &opened.snapshot.root)?;
    if !below.is_empty() && tree.find(&below)?.is_none() {
        let path = args.path.clone().unwrap_or_default();
        return Err(crate::tree::TreeError::NoSuchPath { path }.into());
    }
    let mut tree = tree.below(&below)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    while let Some(entry) = tree.next_entry()? {
        let line = if context.ui.json {
            entry_json(&entry).to_string()
        } else if args.long {
            long_line(&entry)
        } else {
            shown(&entry.path)
        };
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    Ok(Exit::Done)
}

fn list_volume(context: &Context, opened: &Opened) -> Result<Exit, CliError> {
    let root = volume_root(opened)?;
    let sizes = &opened.snapshot.sizes;
    context.ui.object(&json!({
        "type": "volume",
        "size_bytes": root.size_bytes,
        "allocated_bytes": sizes.allocated,
        "chunk_bytes": 1u64 << root.chunk_log2,
        "chunks": root.chunks(),
    }));
    context.ui.say(&format!(
        "a volume of {} ({} allocated), {} chunks of {}",
        units::bytes(root.size_bytes),
        units::bytes(sizes.allocated),
        units::count(root.chunks()),
        units::bytes(1 << root.chunk_log2),
    ));
    Ok(Exit::Done)
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".into() } else { String::from_utf8_lossy(path).into_owned() }
}

const fn letter(kind: EntryKind) -> char {
    match kind {
        EntryKind::File => '-',
        EntryKind::Dir => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    }
}

fn long_line(entry: &Entry) -> String {
    let meta = &entry.meta;
    let time_ns =
        meta.mtime.sec.saturating_mul(1_000_000_000).saturating_add(meta.mtime.nsec.into());
    let line = format!(
        "{}{:04o} {:>6} {:>6} {:>12} {} {}",
        letter(entry.kind),
        meta.mode,
        meta.uid,
        meta.gid,
        meta.size,
        units::time(time_ns),
        shown(&entry.path)
    );
    match &entry.content {
        Content::Symlink(target) => format!("{line} -> {}", shown(target)),
        Content::HardLink(first) => format!("{line} = {}", shown(first)),
        _ => line,
    }
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    let meta = &entry.meta;
    let link = match &entry.content {
        Content::Symlink(target) | Content::HardLink(target) => Some(shown(target)),
        _ => None,
    };
    json!({
        "type": "entry",
        "path": shown(&entry.path),
        "kind": format!("{:?}", entry.kind).to_lowercase(),
        "mode": format!("{:04o}", meta.mode),
        "uid": meta.uid,
        "gid": meta.gid,
        "size": meta.size,
        "mtime_s": meta.mtime.sec,
        "mtime_ns": meta.mtime.nsec,
        "link": link,
    })
}

pub(super) fn cat(context: &Context, args: &CatArgs) -> Result<Exit, CliError> {
    let opened = open(context, &args.snapshot)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match (opened.snapshot.kind, &args.path) {
        (VolumeKind::Tree, Some(path)) => {
            let source = Batched(&opened.reader);
            let root = &opened.snapshot.root;
            restore_file(&source, root, &tree_path(path)?, &mut out, &context.cancel)?;
        }
        (VolumeKind::Block, None) => {
            cat_volume(&opened.reader, &volume_root(&opened)?, &mut out, &context.cancel)?;
        }
        (VolumeKind::Tree, None) => {
            return Err(CliError::Usage("name the file of the tree to write".into()));
        }
        (VolumeKind::Block, Some(_)) => {
            let message = "a volume has no paths: leave the path out to write all of it";
            return Err(CliError::Usage(message.into()));
        }
    }
    out.flush().map_err(CliError::io("cannot write to standard output"))?;
    Ok(Exit::Done)
}

pub(super) fn diff(context: &Context, args: &DiffArgs) -> Result<Exit, CliError> {
    let a = open(context, &args.a)?;
    let view = View::for_reading(a.reader.repository())?;
    let other = view.find(&args.b, context.cluster())?.clone();
    if a.snapshot.kind != other.kind {
        return Err(CliError::Failed("a volume and a tree cannot be compared".into()));
    }
    let (pin, view) = pin(context, a.reader.repository(), &other, view)?;
    sync_index(a.reader.repository(), a.reader.index(), &view)?;
    let exit = match other.kind {
        VolumeKind::Tree => diff_trees(context, &a, &other)?,
        VolumeKind::Block => diff_volumes(context, &a, &other)?,
    };
    drop(pin);
    Ok(exit)
}

fn diff_trees(context: &Context, a: &Opened, other: &Snapshot) -> Result<Exit, CliError> {
    let source = Batched(&a.reader);
    let before = TreeReader::open(&source, &a.snapshot.root)?;
    let after = TreeReader::open(&source, &other.root)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (mut added, mut removed, mut changed) = (0u64, 0u64, 0u64);
    for difference in crate::tree::diff::diff(before, after) {
        let (sign, path, what) = match &difference? {
            Difference::Added(entry) => {
                added += 1;
                ('+', shown(&entry.path), String::new())
            }
            Difference::Removed(entry) => {
                removed += 1;
                ('-', shown(&entry.path), String::new())
            }
            Difference::Changed { after, what, .. } => {
                changed += 1;
                ('M', shown(&after.path), words(*what))
            }
        };
        let line = if context.ui.json {
            json!({ "type": "difference", "change": sign.to_string(), "path": path, "what": what })
                .to_string()
        } else if what.is_empty() {
            format!("{sign} {path}")
        } else {
            format!("{sign} {path} ({what})")
        };
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    drop(out);
    let totals = json!({ "type": "diff", "added": added, "removed": removed, "changed": changed });
    context.ui.object(&totals);
    context.ui.say(&format!("{added} added, {removed} removed, {changed} changed"));
    Ok(Exit::Done)
}

fn words(what: What) -> String {
    [
        (what.kind, "kind"),
        (what.content, "content"),
        (what.mode, "mode"),
        (what.owner, "owner"),
        (what.mtime, "time"),
        (what.xattrs, "attributes"),
    ]
    .iter()
    .filter(|(changed, _)| *changed)
    .map(|(_, word)| *word)
    .collect::<Vec<_>>()
    .join(", ")
}

/// Lists the extents in which two volumes differ, in the form that `--changed-blocks` reads.
fn diff_volumes(context: &Context, a: &Opened, other: &Snapshot) -> Result<Exit, CliError> {
    let before = volume_root(a)?;
    let mut plain = Vec::new();
    a.reader.get(PackKind::Meta, &other.root, &mut plain)?;
    let after = VolumeRoot::decode(&plain)
        .map_err(|error| RepositoryError::format(format!("manifest of {}", other.id), error))?;
    if before.chunk_log2 != after.chunk_log2 {
        return Err(CliError::Failed("the volumes are cut into chunks of different length".into()));
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (mut run, mut total): (Option<(u64, u64)>, u64) = (None, 0);
    let mut emit = |start: u64, end: u64| {
        drop(writeln!(out, "{}", json!({ "offset": start, "length": end - start })));
    };
    for (number, new) in (0u64..).zip(&after.pages) {
        let old = before.pages.get(usize::try_from(number).unwrap_or(usize::MAX));
        if old == Some(new) && *new != PageRef::Missing {
            continue;
        }
        let old = old.map(|old| page(&a.reader, old)).transpose()?;
        let new = page(&a.reader, new)?;
        for (slot, index) in new.slots.iter().zip(0u64..) {
            let start = (number * PAGE_SLOTS as u64 + index) << after.chunk_log2;
            let end = (start + (1 << after.chunk_log2)).min(after.size_bytes);
            let same = old
                .as_ref()
                .and_then(|old| old.slots.get(usize::try_from(index).ok()?))
                .is_some_and(|old| reads_alike(old, slot));
            if same || start >= end {
                continue;
            }
            total += end - start;
            match &mut run {
                Some(last) if last.1 == start => last.1 = end,
                other => {
                    if let Some((start, end)) = other.replace((start, end)) {
                        emit(start, end);
                    }
                }
            }
        }
    }
    if let Some((start, end)) = run {
        emit(start, end);
    }
    context.ui.note(&format!(
        "{} of {} differ, in chunks of {}",
        units::bytes(total),
        units::bytes(after.size_bytes),
        units::bytes(1 << after.chunk_log2)
    ));
    Ok(Exit::Done)
}

/// Holes and zeroes read the same.
fn reads_alike(a: &Slot, b: &Slot) -> bool {
    let blank = |slot: &Slot| matches!(slot, Slot::Hole | Slot::Zero);
    a == b || (blank(a) && blank(b))
}
