//! A disk image and a tree made of this machine's own files, and what happens to them.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::report::bytes;
use crate::{Outcome, Stop, While};

const IMAGE_BYTES: u64 = 1 << 30;
const IMAGE_FILES_BYTES: u64 = 448 << 20;
const TREE_FILES_BYTES: u64 = 128 << 20;
/// Nothing compresses it, and nobody keeps it.
pub(crate) const RANDOM_BYTES: u64 = 64 << 20;
/// Room for the originals, what is set aside, what is restored, and the repository.
const FREE_BYTES_MIN: u64 = 4 << 30;
/// Longer files are left out, so that there are many.
const FILE_BYTES_MAX: u64 = 48 << 20;
/// Of the image, 1 % in all.
const CHANGED_EXTENTS: u64 = 8;

/// A file that is restored alone; in `tree`.
pub(crate) const SINGLE_FILE: &str = "mine/notes, of today.txt";

/// The folder with `disk.img`, `tree` and `random.bin`.
pub(crate) struct Playground {
    folder: PathBuf,
}

/// What [`Playground::change`] did.
pub(crate) struct Changes {
    pub(crate) image_bytes: u64,
    extents: u64,
    appended: usize,
    removed: usize,
    added: usize,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "disk.img: {} overwritten, in {} extents, listed in changed.json\n  \
             tree: {} files grown, {} removed, {} added; a folder renamed, a link turned, a mode \
             and a time set",
            bytes(self.image_bytes),
            self.extents,
            self.appended,
            self.removed,
            self.added
        )
    }
}

impl Playground {
    /// A new folder, on a file system with enough room.
    pub(crate) fn folder() -> Outcome<tempfile::TempDir> {
        let base = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        let stat = rustix::fs::statvfs(&base).while_(base.display())?;
        let free = stat.f_bavail * stat.f_frsize;
        if free < FREE_BYTES_MIN {
            let (base, free, min) = (base.display(), bytes(free), bytes(FREE_BYTES_MIN));
            return Err(format!("{base} has {free} free, and {min} are needed: set TMPDIR"));
        }
        tempfile::Builder::new().prefix("salvor-demo.").tempdir_in(&base).while_(base.display())
    }

    /// Makes image and tree.
    pub(crate) fn fill(folder: &Path, stop: &Stop) -> Outcome<Self> {
        let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
        let [toolchains, crates] =
            [".rustup/toolchains", ".cargo/registry/src"].map(|name| home.join(name));
        let staging = folder.join("staging");
        let sources = ["/usr/lib", "/usr/bin", "/usr/share"].map(PathBuf::from);
        let mut copy = Copy::new(IMAGE_FILES_BYTES, stop);
        copy.all(sources.iter().chain([&toolchains]), &staging)?;
        make_image(&staging, &folder.join("disk.img"))?;
        fs::remove_dir_all(&staging).while_(staging.display())?;
        let allocated = allocated(&folder.join("disk.img"))?;
        println!(
            "  disk.img: {} of ext4 with {} files of this machine, {} allocated",
            bytes(IMAGE_BYTES),
            copy.files,
            bytes(allocated)
        );
        let sources = ["/usr/include", "/usr/share", "/usr/lib"].map(PathBuf::from);
        let mut copy = Copy::new(TREE_FILES_BYTES, stop);
        copy.file_bytes_max = 1 << 20;
        copy.all(sources[..2].iter().chain([&crates, &sources[2]]), &folder.join("tree"))?;
        println!("  tree: {} files of this machine, {}", copy.files, bytes(copy.bytes));
        let special = make_special_files(&folder.join("tree/mine"))?;
        println!("        and {special}");
        let random = folder.join("random.bin");
        fs::write(&random, Chance(1).bytes(RANDOM_BYTES)).while_(random.display())?;
        println!("  random.bin: {} that nothing compresses", bytes(RANDOM_BYTES));
        Ok(Self { folder: folder.to_owned() })
    }

    /// Copies image and tree to `before`, then changes them. `changed.json` lists what changed in
    /// the image.
    pub(crate) fn change(&self) -> Outcome<Changes> {
        let before = self.folder.join("before");
        fs::create_dir(&before).while_(before.display())?;
        let originals = ["disk.img", "tree"].map(|name| self.folder.join(name));
        command(Command::new("cp").args(["-a", "--sparse=always"]).args(originals).arg(&before))?;
        let (extents, image_bytes) = self.change_image()?;
        let [appended, removed, added] = change_tree(&self.folder.join("tree"))?;
        Ok(Changes { image_bytes, extents, appended, removed, added })
    }

    fn change_image(&self) -> Outcome<(u64, u64)> {
        let path = self.folder.join("disk.img");
        let image = File::options().write(true).open(&path).while_(path.display())?;
        let (mut list, mut sum) = (Vec::new(), 0);
        let mut chance = Chance(2024);
        for number in 0..CHANGED_EXTENTS {
            let length = (1 + chance.below(640)) * 4096;
            // Each in a part of its own, so that they never overlap.
            let part = IMAGE_BYTES / CHANGED_EXTENTS;
            let offset = number * part + chance.below((part - length) / 4096) * 4096;
            let offset = offset / 4096 * 4096;
            image.write_all_at(&chance.bytes(length), offset).while_(path.display())?;
            list.push(format!("{{\"offset\": {offset}, \"length\": {length}}}\n"));
            sum += length;
        }
        fs::write(self.folder.join("changed.json"), list.concat()).while_("changed.json")?;
        Ok((CHANGED_EXTENTS, sum))
    }
}

/// Numbers and bytes that do not compress, the same in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

fn command(command: &mut Command) -> Outcome<()> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().while_(&shown)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn make_image(files: &Path, image: &Path) -> Outcome<()> {
    // Where those who are not root do not look for programs.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).args([files, image]);
    command(mke2fs.arg(format!("{}k", IMAGE_BYTES >> 10)).env("PATH", path))
}

fn allocated(path: &Path) -> Outcome<u64> {
    Ok(fs::metadata(path).while_(path.display())?.blocks() * 512)
}

/// Copies files until there are enough.
struct Copy<'a> {
    stop: &'a Stop,
    budget_bytes: u64,
    file_bytes_max: u64,
    bytes: u64,
    files: u64,
}

impl<'a> Copy<'a> {
    fn new(budget_bytes: u64, stop: &'a Stop) -> Self {
        Self { stop, budget_bytes, file_bytes_max: FILE_BYTES_MAX, bytes: 0, files: 0 }
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.budget_bytes
    }

    /// Each of `sources` to the same path below `target`.
    fn all<'p>(
        &mut self,
        sources: impl Iterator<Item = &'p PathBuf>,
        target: &Path,
    ) -> Outcome<()> {
        for source in sources.filter(|source| source.is_dir()) {
            let below = source.strip_prefix("/").unwrap_or(source);
            self.folder(source, &target.join(below))?;
        }
        if self.bytes < self.budget_bytes / 4 {
            return Err(format!("only {} of files were found to copy", bytes(self.bytes)));
        }
        Ok(())
    }

    /// What cannot be read is left out: this makes data to back up, it is not a backup.
    fn folder(&mut self, from: &Path, to: &Path) -> Outcome<()> {
        self.stop.check()?;
        let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
        fs::create_dir_all(to).while_(to.display())?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if self.is_full() {
                break;
            }
            let (Ok(meta), Some(name)) = (fs::symlink_metadata(&path), path.file_name()) else {
                continue;
            };
            let target = to.join(name);
            if meta.is_dir() {
                self.folder(&path, &target)?;
            } else if meta.is_symlink() {
                let link = fs::read_link(&path).while_(path.display())?;
                symlink(link, &target).while_(target.display())?;
            } else if meta.is_file() && meta.len() <= self.file_bytes_max {
                self.file(&path, &target, &meta)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path, meta: &fs::Metadata) -> Outcome<()> {
        if File::open(from).is_err() {
            return Ok(());
        }
        self.bytes += fs::copy(from, to).while_(to.display())?;
        self.files += 1;
        set_time(to, meta.mtime(), meta.mtime_nsec())
    }
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) -> Outcome<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).while_(path.display())
}

/// Everything that a tree may hold besides plain files, as far as this user and this file system
/// allow. Returns what was made, in words.
fn make_special_files(folder: &Path) -> Outcome<String> {
    fs::create_dir_all(folder.join("empty folder")).while_(folder.display())?;
    let single = folder.join("notes, of today.txt");
    fs::write(&single, "What is reported saved can be restored.\n").while_(single.display())?;
    set_time(&single, 486_000_000, 123_456_789)?;
    fs::write(folder.join("empty"), "").while_("an empty file")?;
    let strange = folder.join(OsStr::from_bytes(b"not UTF-8: \xff\xfe, and\na new line"));
    fs::write(&strange, "x").while_("a strange name")?;
    fs::set_permissions(&strange, fs::Permissions::from_mode(0o4751)).while_("a set-uid bit")?;
    symlink("notes, of today.txt", folder.join("link")).while_("a symbolic link")?;
    symlink("/nowhere/at/all", folder.join("dangling")).while_("a symbolic link")?;
    for name in ["second name", "empty folder/third name"] {
        fs::hard_link(folder.join("empty"), folder.join(name)).while_("a hard link")?;
    }
    let sparse = File::create(folder.join("sparse")).while_("a sparse file")?;
    for offset in [0, 10 << 20, (32 << 20) - 4096] {
        sparse.write_all_at(&[7; 4096], offset).while_("a sparse file")?;
    }
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, folder.join("fifo"), FileType::Fifo, mode, 0).while_("a FIFO")?;
    let always = "symbolic and hard links, a sparse file, a FIFO, a set-uid file, a name that is \
                not UTF-8";
    Ok(make_what_is_allowed(folder)
        .into_iter()
        .fold(always.to_owned(), |all, next| format!("{all}, {next}")))
}

/// What needs root, or a file system that can.
fn make_what_is_allowed(folder: &Path) -> Vec<&'static str> {
    let single = folder.join("notes, of today.txt");
    let attribute = |name, value: &[u8]| {
        rustix::fs::setxattr(&single, name, value, XattrFlags::empty()).is_ok()
    };
    let private = Mode::from_raw_mode(0o600);
    let null = rustix::fs::makedev(1, 3);
    let device = folder.join("device");
    let made = [
        ("an extended attribute", attribute("user.origin", b"made by hand\0\xff")),
        ("an access control list", attribute("system.posix_acl_access", &access_control_list())),
        ("a socket", UnixListener::bind(folder.join("socket")).is_ok()),
        (
            "a device",
            rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, private, null).is_ok(),
        ),
    ];
    made.into_iter().filter(|(_, made)| *made).map(|(what, _)| what).collect()
}

/// rw for the owner, r for the user 65534, r for the group, nothing for others; as Linux stores it.
fn access_control_list() -> Vec<u8> {
    const NOBODY: u32 = 65534;
    const NONE: u32 = u32::MAX;
    let mut list = 2u32.to_le_bytes().to_vec();
    let entries: [(u16, u16, u32); 5] =
        [(0x01, 6, NONE), (0x02, 4, NOBODY), (0x04, 4, NONE), (0x10, 4, NONE), (0x20, 0, NONE)];
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// Returns how many files were appended to, removed and added.
fn change_tree(tree: &Path) -> Outcome<[usize; 3]> {
    let files = plain_files(&tree.join("usr"))?;
    let (mut appended, mut removed, added) = (0, 0, 40);
    for (number, path) in files.iter().enumerate() {
        if number % 101 == 7 {
            fs::remove_file(path).while_(path.display())?;
            removed += 1;
        } else if number % 53 == 3 {
            let mut file = File::options().append(true).open(path).while_(path.display())?;
            file.write_all(b"one more line\n").while_(path.display())?;
            appended += 1;
        }
    }
    let mine = tree.join("mine");
    let mut chance = Chance(7);
    fs::create_dir(mine.join("new")).while_("a new folder")?;
    for number in 0..added {
        let len = chance.below(200 << 10);
        let path = mine.join(format!("new/{number}"));
        fs::write(&path, chance.bytes(len)).while_(path.display())?;
    }
    fs::rename(mine.join("empty folder"), mine.join("renamed")).while_("renaming")?;
    fs::remove_file(mine.join("link")).while_("a link")?;
    symlink("new/0", mine.join("link")).while_("a link")?;
    let mode = fs::Permissions::from_mode(0o4700);
    let strange = mine.join(OsStr::from_bytes(b"not UTF-8: \xff\xfe, and\na new line"));
    fs::set_permissions(strange, mode).while_("a mode")?;
    set_time(&mine.join("sparse"), 1_000_000_000, 1)?;
    Ok([appended, removed, added])
}

/// All plain files below `folder`, sorted.
fn plain_files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).while_(folder.display())? {
            let entry = entry.while_(folder.display())?;
            let kind = entry.file_type().while_(folder.display())?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
