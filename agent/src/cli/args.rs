//! The command line: what can be typed, and what each word means.

#![expect(
    clippy::doc_markdown,
    reason = "these comments are the help texts, and terminals show no markup"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use repo_format::lock::LockMode;

use super::s3::S3Args;
use super::units::{Compression, Share, Size};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed; what was wrong is on standard error
  2    the command line was not understood
  3    done, but something could not be read or written, and is named
  4    damage was found in the repository
  130  interrupted; what is stored stays useful";

/// Backs up disk images, block devices and directory trees into an encrypted, deduplicated
/// repository, and brings them back.
#[derive(Debug, Parser)]
#[command(name = "salvor", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The repository: a directory, file:///DIRECTORY, or s3://BUCKET/PREFIX
    #[arg(long, short, env = "SALVOR_REPO", value_name = "URL", global = true)]
    pub(crate) repo: Option<String>,

    /// For a bucket that would let two creators overwrite one another: the directory, on a file system
    /// that all who use the repository share, where everything but the data is kept. Must be given
    /// with every command
    #[arg(long, env = "SALVOR_REGISTERS", value_name = "URL", global = true)]
    pub(crate) registers: Option<String>,

    /// A file whose first line is the passphrase. SALVOR_PASSPHRASE in the environment works too;
    /// without either, the terminal is asked
    #[arg(
        long,
        env = "SALVOR_PASSPHRASE_FILE",
        value_name = "FILE",
        global = true,
        conflicts_with = "key_file"
    )]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// A file of 32 or more random bytes that opens the repository instead of a passphrase
    #[arg(long, env = "SALVOR_KEY_FILE", value_name = "FILE", global = true)]
    pub(crate) key_file: Option<PathBuf>,

    /// The cluster this machine belongs to, where several share a repository: a UUID or any name.
    /// Snapshots of other clusters can be read, and are not forgotten
    #[arg(long, env = "SALVOR_CLUSTER", value_name = "NAME", global = true)]
    pub(crate) cluster: Option<String>,

    /// Where the local index cache is kept. It may be deleted at any time: that costs time, never
    /// data [default: $XDG_CACHE_HOME/salvor or ~/.cache/salvor]
    #[arg(long, env = "SALVOR_CACHE_DIR", value_name = "DIR", global = true)]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Memory to stay within, whatever the size of the data; at least 96M
    #[arg(long, env = "SALVOR_MEMORY", value_name = "SIZE", default_value = "256M", global = true)]
    pub(crate) memory: Size,

    /// Threads that hash, compress and encrypt [default: one per processor]
    #[arg(long, env = "SALVOR_THREADS", value_name = "N", global = true)]
    pub(crate) threads: Option<usize>,

    /// How volumes are read and written
    #[arg(
        long,
        env = "SALVOR_IO_ENGINE",
        value_name = "ENGINE",
        default_value = "auto",
        global = true
    )]
    pub(crate) io_engine: IoEngine,

    /// Print the result as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// With --json: also one line of progress a second
    #[arg(long, global = true)]
    pub(crate) progress: bool,

    /// Print nothing but errors and what was asked for
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) s3: S3Args,
}

/// An I/O engine by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoEngine {
    /// io_uring where the kernel and the seccomp profile allow it, else pread
    Auto,
    /// io_uring
    Uring,
    /// plain system calls in a few threads
    Pread,
}

/// A snapshot as a user names it.
const SNAPSHOT_HELP: &str =
    "A snapshot: its id, a unique beginning of it, `latest`, or NAME@latest";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a repository
    Init(InitArgs),
    /// Back up a disk image, a block device or a directory tree
    Backup(BackupArgs),
    /// List snapshots, newest last
    Snapshots(SnapshotsArgs),
    /// List what a snapshot holds
    Ls(LsArgs),
    /// Show what differs between two snapshots
    Diff(DiffArgs),
    /// Write one file of a snapshot to standard output
    Cat(CatArgs),
    /// Restore a snapshot, or a part of it
    Restore(RestoreArgs),
    /// Check that what is stored is whole and can be read
    Verify(VerifyArgs),
    /// Forget snapshots by a retention policy, or by name
    Forget(ForgetArgs),
    /// Reclaim the space that no snapshot needs
    Prune(PruneArgs),
    /// Copy snapshots into another repository: only what that one lacks
    #[command(after_long_help = COPY_HELP)]
    Copy(CopyArgs),
    /// Show what the repository holds, what deduplication and compression save, and about what it
    /// costs
    Stats(StatsArgs),
    /// Show or change how long objects are locked in the bucket, so that nobody can delete them
    #[command(after_long_help = LOCK_HELP)]
    Lock(LockArgs),
    /// Bring back what somebody deleted or wrote over in a bucket that keeps old versions
    #[command(after_long_help = RECOVER_HELP)]
    Recover,
    /// List and change the keys that open the repository
    Key(KeyArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Write salvor.1, salvor-backup.1 and so on into this directory
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Length of the chunks that volumes are cut into: a power of two from 64K to 16M. Smaller
    /// ones store less for scattered small writes and need a larger index
    #[arg(long, value_name = "SIZE", default_value = "1M")]
    pub(crate) chunk_size: Size,

    /// What to call the first key slot
    #[arg(long, value_name = "NAME", default_value = "first")]
    pub(crate) label: String,

    /// Create nothing: try every right and feature that a repository in this bucket needs, with
    /// objects that are removed again, and say what is missing
    #[arg(long)]
    pub(crate) check: bool,

    #[command(flatten)]
    pub(crate) lock: LockWish,
}

/// How a new repository is to be locked.
#[derive(Debug, Clone, Args)]
pub(crate) struct LockWish {
    /// Lock what snapshots need for at least so long from any moment on (`30d`), so that nobody can
    /// destroy it before you notice. Takes a bucket with object lock
    #[arg(long, value_name = "PERIOD", value_parser = period)]
    pub(crate) lock: Option<Duration>,

    /// governance: who has the right to bypass it may delete all the same; compliance: nobody can,
    /// not even the owner of the account, and nothing can be taken back [default: governance]
    #[arg(long, value_name = "MODE", requires = "lock")]
    pub(crate) lock_mode: Option<LockMode>,

    /// Lock for so much longer at first: locks are extended once in about so long a time [default:
    /// half the period, at most 30d]
    #[arg(long, value_name = "TIME", requires = "lock", value_parser = period)]
    pub(crate) lock_slack: Option<Duration>,
}

const LOCK_HELP: &str = "\
Without options it shows what is locked, and until when at least.

A longer period is applied to all that snapshots need at once, with a request for each pack. A shorter
one, another mode, and --off change what is stored or extended from now on: no lock is ever shortened.

Examples:
  salvor init --lock 30d
  salvor lock
  salvor lock --period 60d";

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// Lock what snapshots need for at least so long from any moment on, such as `30d`
    #[arg(long, value_name = "PERIOD", value_parser = period)]
    pub(crate) period: Option<Duration>,

    /// governance or compliance [default: as it is]
    #[arg(long, value_name = "MODE", requires = "period")]
    pub(crate) mode: Option<LockMode>,

    /// Lock for so much longer at first [default: half the period, at most 30d]
    #[arg(long, value_name = "TIME", requires = "period", value_parser = period)]
    pub(crate) slack: Option<Duration>,

    /// Lock nothing any more. What is locked stays so until its lock ends
    #[arg(long, conflicts_with = "period")]
    pub(crate) off: bool,
}

fn period(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        Ok(_) => Err("it is shorter than a second".into()),
        Err(error) => Err(error.to_string()),
    }
}

const RECOVER_HELP: &str = "\
In a bucket with versions, deleting an object only hides it behind a delete marker, and writing over it
puts a new version on top. Objects of a repository are written once, so the oldest version is the true
one. This brings back the true version of everything that the newest catalog and the commits after it
need: config, catalogs, index, packs, and, if none of those that are left opens the repository, key
slots. What was deleted by a prune stays deleted.

It takes the rights s3:ListBucketVersions, s3:DeleteObjectVersion (to remove the markers, which cannot be
locked), s3:GetObjectVersion and s3:PutObject.";

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// What to back up: a raw image, a block device or a directory
    pub(crate) path: PathBuf,

    /// Name of the series of snapshots this one belongs to [default: HOST:PATH]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Label the snapshot; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<String>,

    /// Leave out what matches; may be given several times. `*.o` and `a/b` match at any depth,
    /// `/a` only at the top, `dir/` directories only, `**` crosses directories
    #[arg(long = "exclude", value_name = "GLOB")]
    pub(crate) excludes: Vec<String>,

    /// Leave out the content of directories that hold a CACHEDIR.TAG
    #[arg(long)]
    pub(crate) exclude_caches: bool,

    /// Do not descend into other file systems
    #[arg(long, short = 'x')]
    pub(crate) one_file_system: bool,

    /// The snapshot to compare with: `auto` is the newest of the same name, `none` reads
    /// everything
    #[arg(long, value_name = "auto|none|SNAPSHOT", default_value = "auto")]
    pub(crate) parent: String,

    /// Read only these extents and take the rest from the parent: JSON lines of
    /// {"offset": BYTES, "length": BYTES}. Needs --parent SNAPSHOT or an earlier snapshot of the
    /// same name; what is not listed is trusted to be as it was then
    #[arg(long, value_name = "FILE")]
    pub(crate) changed_blocks: Option<PathBuf>,

    /// Read no faster than this, in bytes a second
    #[arg(long, value_name = "SIZE")]
    pub(crate) bandwidth: Option<Size>,

    /// How hard to compress: a zstd level; `auto`: from 1 up to 12 while the repository's storage
    /// is what the backup waits for; or `off`
    #[arg(long, value_name = "1..19|auto|off", default_value = "1", allow_hyphen_values = true)]
    pub(crate) compression: Compression,

    /// Begin at the latest after so many seconds though the index is not here yet: a machine that
    /// has no cache of it reads it first. Until all of it is read, what the repository has already
    /// may be stored again
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub(crate) index_wait: u64,

    /// Make what is stored safe from being stored again at least this often, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        env = "SALVOR_CHECKPOINT_SECONDS",
        hide = true
    )]
    pub(crate) checkpoint_seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotsArgs {
    /// Only those of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Only those with this label; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<String>,

    /// What backups that go on or were killed have stored so far, instead of snapshots. The next run of
    /// the same backup goes on from it
    #[arg(long)]
    pub(crate) unfinished: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[arg(help = SNAPSHOT_HELP)]
    pub(crate) snapshot: String,

    /// Only this path and what is below it
    pub(crate) path: Option<PathBuf>,

    /// Show mode, owner, size and time
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older snapshot
    pub(crate) a: String,
    /// The newer snapshot
    pub(crate) b: String,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    #[arg(help = SNAPSHOT_HELP)]
    pub(crate) snapshot: String,

    /// Path of a regular file in a tree. Left out for a volume, whose bytes are written
    pub(crate) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of a command line")]
pub(crate) struct RestoreArgs {
    #[arg(help = SNAPSHOT_HELP)]
    pub(crate) snapshot: String,

    /// Where to: a new file or an existing block device for a volume, a directory for a tree
    pub(crate) target: PathBuf,

    /// Only this path of a tree and what is below it
    #[arg(long, value_name = "SUBTREE")]
    pub(crate) path: Option<PathBuf>,

    /// Overwrite an existing target, writing only what differs
    #[arg(long)]
    pub(crate) in_place: bool,

    /// With --in-place: remove from the target what the snapshot does not have
    #[arg(long, requires = "in_place")]
    pub(crate) delete: bool,

    /// Give holes and zeroes space on disk
    #[arg(long)]
    pub(crate) no_sparse: bool,

    /// Leave owner and group as they come. Without this, and without being root, files of other
    /// owners are named, and the exit code is 3
    #[arg(long)]
    pub(crate) no_owner: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only these snapshots; all if none is named
    pub(crate) snapshots: Vec<String>,

    /// Also read, decrypt and compare stored data: all of it, or a random share of the packs
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "100%", require_equals = true)]
    pub(crate) read_data: Option<Share>,

    /// Rebuild what can be rebuilt: a lost index from the packs, a lost catalog from what is left
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Forget these snapshots, or unfinished ones of runs that were killed, instead of applying a policy
    #[arg(conflicts_with_all = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"])]
    pub(crate) snapshots: Vec<String>,

    /// Keep the newest N of each name
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep_last: u32,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep_hourly: u32,
    /// Likewise days
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep_daily: u32,
    /// Likewise weeks (ISO, from Monday)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep_weekly: u32,
    /// Likewise months
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep_monthly: u32,
    /// Likewise years
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep_yearly: u32,

    /// With snapshots by id: also those of other clusters
    #[arg(long, requires = "snapshots")]
    pub(crate) adopt: bool,

    /// Apply the policy to this name only
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Only say what would be forgotten, and why the others are kept
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Prune afterwards
    #[arg(long)]
    pub(crate) prune: bool,

    #[command(flatten)]
    pub(crate) pruning: Pruning,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only say what would be reclaimed
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) pruning: Pruning,
}

#[derive(Debug, Args)]
pub(crate) struct Pruning {
    /// Write at most this share of the repository again to reclaim space inside packs [default: 10%]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) max_repack: Option<Share>,

    /// Forget what a killed backup left if no run has gone on from it for so many days [default: 7]
    #[arg(long, value_name = "DAYS")]
    pub(crate) unfinished_days: Option<u64>,

    /// Take a session on another machine for dead if it shows no sign of life for this long, in
    /// minutes
    #[arg(long, value_name = "MINUTES", default_value = "15", hide = true)]
    pub(crate) fence_minutes: u64,
}

const COPY_HELP: &str = "\
Every chunk is decrypted, verified, and sealed again under the target's own keys; it is not compressed
again. A copy keeps its name, host, path, labels and times, is a snapshot like any other, and carries
the label copied-from=REPOSITORY/SNAPSHOT, by which a second copy of it is recognised and left out,
also if it is copied on to a third repository or back.

Snapshots are copied oldest first and committed one by one. A copy that is killed or interrupted goes
on from its last checkpoint when it is run again. A snapshot that is damaged in the source is named,
the others are copied, and the exit code is 4.

What the target has forgotten by a retention of its own is copied again, unless --new-only is given.

Standby: --watch INTERVAL follows the source until SIGTERM or SIGINT. After every round it prints
the lag: of each name, how many snapshots the target lacks, the age of the newest of them, and the
age of the newest snapshot that it has. With --json it is an object of type `lag`:
  lag_seconds            age of the newest snapshot that is not at the target yet; 0: none is missing
  newest_seconds         age of the newest snapshot of the source
  newest_copied_seconds  age of the newest snapshot that is at the target, too
A repository that cannot be reached is tried again, less and less often up to every 5 minutes.

Examples:
  salvor init --repo /mnt/standby
  salvor copy --to /mnt/standby
  salvor copy --to /mnt/standby --name disk disk@latest
  salvor copy --to /mnt/standby --bandwidth 50M --watch 5m --json";

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The repository to copy to, made by `salvor init`: a directory, file:///DIRECTORY, or
    /// s3://BUCKET/PREFIX
    #[arg(long, env = "SALVOR_TO_REPO", value_name = "URL")]
    pub(crate) to: String,

    /// Where the target's registers are kept, if not in its bucket; see --registers
    #[arg(long, env = "SALVOR_TO_REGISTERS", value_name = "URL")]
    pub(crate) to_registers: Option<String>,

    /// Snapshots to copy: each an id, a unique beginning of one, `latest`, or NAME@latest. All of
    /// this cluster if none is named
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,

    /// A file whose first line is the target's passphrase. SALVOR_TO_PASSPHRASE in the environment
    /// works too. Without any of these, what opens the source must open the target
    #[arg(
        long,
        env = "SALVOR_TO_PASSPHRASE_FILE",
        value_name = "FILE",
        conflicts_with = "to_key_file"
    )]
    pub(crate) to_passphrase_file: Option<PathBuf>,

    /// A key file that opens the target
    #[arg(long, env = "SALVOR_TO_KEY_FILE", value_name = "FILE")]
    pub(crate) to_key_file: Option<PathBuf>,

    /// Only snapshots of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Only snapshots with this label; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<String>,

    /// Only snapshots newer than the newest that the target has of the same name. Always so with
    /// --watch
    #[arg(long)]
    pub(crate) new_only: bool,

    /// Fetch from the source no faster than this, in bytes a second
    #[arg(long, value_name = "SIZE")]
    pub(crate) bandwidth: Option<Size>,

    /// Go on for ever: look for new snapshots this often (`30s`, `5m`, `1h`), copy them, and print
    /// how far the target lags behind
    #[arg(long, value_name = "INTERVAL", value_parser = humantime::parse_duration, conflicts_with = "snapshots")]
    pub(crate) watch: Option<Duration>,

    /// Begin at the latest after so many seconds though the index is not here yet: a machine that
    /// has no cache of it reads it first. Until all of it is read, what the repository has already
    /// may be stored again
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub(crate) index_wait: u64,

    /// Make what is stored safe from being stored again at least this often, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        env = "SALVOR_CHECKPOINT_SECONDS",
        hide = true
    )]
    pub(crate) checkpoint_seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Estimate what storage and requests cost by this row of the price table, such as
    /// aws-standard-ia or backblaze-b2 [default: by the provider and --storage-class, for buckets]
    #[arg(long, value_name = "NAME")]
    pub(crate) price: Option<String>,

    /// Prices to put over the built-in ones: a JSON list of {"name": …, "storage_gb_month": …,
    /// "put_1000": …, "get_1000": …, "egress_gb": …, "retrieval_gb": …}, in US dollars
    #[arg(long, env = "SALVOR_PRICE_TABLE", value_name = "FILE")]
    pub(crate) price_table: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the key slots
    List,
    /// Add a slot: another passphrase or key file that opens the repository
    Add {
        /// What to call it
        #[arg(long, value_name = "NAME", default_value = "")]
        label: String,
        /// A file whose first line is the new passphrase; SALVOR_NEW_PASSPHRASE works too
        #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
        new_passphrase_file: Option<PathBuf>,
        /// A file of 32 or more random bytes
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
    },
    /// Remove a slot. The last one cannot be removed
    Remove {
        /// Its label, or the beginning of its id
        slot: String,
    },
    /// Seal everything from now on under a new key, in a new slot, and remove all other slots.
    /// What is stored is not rewritten and stays readable; who has only an old slot's secret
    /// cannot read what is written from now on
    Rotate {
        /// What to call the new slot
        #[arg(long, value_name = "NAME", default_value = "rotated")]
        label: String,
        /// A file whose first line is the new passphrase; SALVOR_NEW_PASSPHRASE works too
        #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
        new_passphrase_file: Option<PathBuf>,
        /// A file of 32 or more random bytes
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
    },
}
