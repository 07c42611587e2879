//! `make demo`: backs up a real disk image and a real tree, changes both, backs them up again,
//! verifies, restores everything old and new, and compares it with what it was made from.
//!
//! The first argument is the `salvor` to use. Works in a folder below `TMPDIR` (else `/var/tmp`)
//! that is removed at the end. The last line is `identical`, or else the exit code is not 0.

mod compare;
mod data;
mod report;
mod tool;

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data::{Changes, Playground};
use report::{Report, bytes};
use tool::Salvor;

/// What went wrong, for a person.
type Outcome<T> = Result<T, String>;

/// Adds to an error what was being done.
trait While<T> {
    fn while_(self, doing: impl Display) -> Outcome<T>;
}

impl<T, E: Display> While<T> for Result<T, E> {
    fn while_(self, doing: impl Display) -> Outcome<T> {
        self.map_err(|error| format!("{doing}: {error}"))
    }
}

/// Set by Ctrl-C, so that the folder is removed all the same.
#[derive(Clone)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn watch() -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).while_("watching for Ctrl-C")?;
        }
        Ok(Self(stop))
    }

    fn check(&self) -> Outcome<()> {
        if self.0.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
}

fn main() -> ExitCode {
    let Some(program) = std::env::args_os().nth(1) else {
        eprintln!("usage: salvor-demo PATH/TO/salvor");
        return ExitCode::from(2);
    };
    match run(Path::new(&program)) {
        Ok(report) => {
            println!("\n{report}\nidentical");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nFAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: &Path) -> Outcome<Report> {
    let stop = Stop::watch()?;
    let folder = Playground::folder()?;
    println!("Working in {}, which is removed at the end.", folder.path().display());
    title("Real data");
    let place = Playground::fill(folder.path(), &stop)?;
    let mut salvor = Salvor::new(program, folder.path(), stop)?;
    println!("\nEvery command below runs with --json, where the figures come from.");

    title("An encrypted repository, and the first backups");
    salvor.run(&["init"], |_| String::new())?;
    let first_disk = backup(&mut salvor, "disk image, first", &["disk.img", "--name", "disk"])?;
    let first_tree = backup(&mut salvor, "tree, first", &["tree", "--name", "tree"])?;
    let random = backup(&mut salvor, "random bytes", &["random.bin", "--name", "random"])?;

    title("Image and tree change; copies of how they were are set aside for comparison");
    let changes = place.change()?;
    println!("  {changes}");

    title("The second backups");
    second_backups(&mut salvor, &changes)?;
    verify(&mut salvor, "verify everything")?;

    title("What was backed up last, restored and compared");
    restore_newest(&mut salvor, folder.path())?;

    title("What was backed up first, restored and compared");
    let image = ["restore", &first_disk, "restored/disk.img", "--in-place"];
    restore(&mut salvor, "disk image, first, in place", &image)?;
    compare::image(folder.path(), "before/disk.img", "restored/disk.img")?;
    restore(&mut salvor, "tree, first", &["restore", &first_tree, "restored/before"])?;
    compare::tree(folder.path(), "before/tree", "restored/before")?;

    title("The old snapshots go, their space is reclaimed, and the new ones are as they were");
    reclaim(&mut salvor, &random)?;
    verify(&mut salvor, "verify what is left")?;
    let image = ["restore", "disk@latest", "restored/disk.img", "--in-place"];
    restore(&mut salvor, "disk image, newest, in place", &image)?;
    compare::image(folder.path(), "disk.img", "restored/disk.img")?;
    Ok(salvor.into_report())
}

fn title(text: &str) {
    println!("\n{text}");
}

/// Backs up; returns the snapshot's id.
fn backup(salvor: &mut Salvor, what: &str, arguments: &[&str]) -> Outcome<String> {
    let arguments = [&["backup"], arguments].concat();
    let result = salvor.run(&arguments, |result| {
        let [read, new, stored] =
            ["read_bytes", "new_bytes", "stored_bytes"].map(|name| bytes(result.number(name)));
        format!("read {read}, new {new}, stored {stored}")
    })?;
    if !result.flag("complete") {
        return Err(format!("the backup of the {what} is incomplete: {}", result.json));
    }
    salvor.report.backup(what, &result);
    // Any unique beginning of an id will do.
    Ok(result.text("snapshot").chars().take(12).collect())
}

fn second_backups(salvor: &mut Salvor, changes: &Changes) -> Outcome<()> {
    let listed = ["disk.img", "--name", "disk", "--changed-blocks", "changed.json"];
    backup(salvor, "disk image, changed extents", &listed)?;
    backup(salvor, "tree, changed", &["tree", "--name", "tree"])?;
    println!("  Once more without the list of changed extents: nothing new may be found.");
    backup(salvor, "disk image, all read again", &["disk.img", "--name", "disk"])?;
    let found = salvor.report.last_new_bytes();
    if found > changes.image_bytes / 10 {
        return Err(format!("the backup by changed extents had missed {}", bytes(found)));
    }
    Ok(())
}

fn verify(salvor: &mut Salvor, what: &str) -> Outcome<()> {
    let result = salvor.run(&["verify", "--read-data"], |result| {
        let checked = result.at("checked");
        let [read, chunks] = ["bytes_read", "chunks_read"].map(|name| checked.number(name));
        format!("read {} and verified {chunks} chunks: no damage", bytes(read))
    })?;
    let read = result.at("checked").number("bytes_read");
    salvor.report.add(what, read, &result);
    Ok(())
}

fn restore(salvor: &mut Salvor, what: &str, arguments: &[&str]) -> Outcome<()> {
    let moved = |result: &tool::Result| {
        result.number("written_bytes") + result.at("totals").number("moved_bytes")
    };
    let result = salvor.run(arguments, |result| {
        let right = result.number("same_bytes");
        let right = (right > 0).then(|| format!(", {} were right already", bytes(right)));
        format!("wrote {}{}", bytes(moved(result)), right.unwrap_or_default())
    })?;
    salvor.report.add(&format!("restore: {what}"), moved(&result), &result);
    Ok(())
}

fn restore_newest(salvor: &mut Salvor, folder: &Path) -> Outcome<()> {
    restore(salvor, "disk image, newest", &["restore", "disk@latest", "restored/disk.img"])?;
    compare::image(folder, "disk.img", "restored/disk.img")?;
    restore(salvor, "tree, newest", &["restore", "tree@latest", "restored/tree"])?;
    compare::tree(folder, "tree", "restored/tree")?;
    let one = data::SINGLE_FILE;
    let arguments = ["restore", "tree@latest", "restored/one", "--path", one];
    restore(salvor, "one file", &arguments)?;
    let name = one.rsplit('/').next().unwrap_or(one);
    compare::tree(folder, &format!("tree/{one}"), &format!("restored/one/{name}"))
}

/// Forgets `unwanted` and what is not the newest of its name.
fn reclaim(salvor: &mut Salvor, unwanted: &str) -> Outcome<()> {
    for arguments in [["forget", "--keep-last", "1"].as_slice(), &["forget", unwanted]] {
        let result = salvor.run(arguments, |_| String::new())?;
        if result.number("forgotten") == 0 {
            return Err(format!("nothing was forgotten: {}", result.json));
        }
    }
    let result = salvor.run(&["prune"], |result| {
        let [deleted, again] = ["deleted_bytes", "repacked_bytes"].map(|name| result.number(name));
        format!("deleted {}, wrote {} again", bytes(deleted), bytes(again))
    })?;
    if result.number("deleted_bytes") < data::RANDOM_BYTES {
        return Err(format!("what was forgotten is still there: {}", result.json));
    }
    salvor.report.add("prune", result.number("deleted_bytes"), &result);
    Ok(())
}
