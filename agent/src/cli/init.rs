//! `salvor init`.

use repo_format::limits::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN};
use repo_format::lock::LockMode;
use repository::store::s3::{Creation, S3Store, Tried};
use repository::store::{Location, Store, Versions};
use repository::{InitOptions, Repository, lock};
use serde_json::json;

use super::args::InitArgs;
use super::context::Context;
use super::error::{CliError, Exit};
use super::{locks, units};

pub(super) fn run(context: &Context, args: &InitArgs) -> Result<Exit, CliError> {
    let lock = locks::wish(&args.lock);
    if args.check {
        return check(context, lock.map(|lock| lock.mode));
    }
    let chunk_log2 = chunk_log2(args.chunk_size.0)?;
    if lock.is_some() && !matches!(context.location()?, Location::S3 { .. }) {
        let message = "--lock is about buckets with object lock: give an s3:// URL";
        return Err(CliError::Usage(message.into()));
    }
    if lock.is_some() && context.global.registers.is_some() {
        let message = "--lock and --registers do not go together: what is elsewhere is not locked";
        return Err(CliError::Usage(message.into()));
    }
    let store = context.store(true)?;
    let place = store.describe();
    let secret = context.secret(true)?;
    let options = InitOptions { chunk_log2: Some(chunk_log2), label: args.label.clone(), lock };
    let repository = Repository::init(store, &secret, &options)?;
    context.ui.say(&format!(
        "created repository {} at {place}\n\
         volumes are cut into chunks of {}\n\
         keep the passphrase or key file safe: without it nothing in the repository can be read",
        repository.id(),
        units::bytes(1 << chunk_log2),
    ));
    let lock = lock::current(&repository)?;
    if let Some(lock) = &lock {
        context.ui.say(&locks::line(lock));
    }
    context.ui.object(&json!({
        "type": "init",
        "repository": repository.id().to_string(),
        "at": place,
        "chunk_bytes": 1u64 << chunk_log2,
        "lock": lock.as_ref().map(|lock| locks::of_lock(lock, None)),
    }));
    Ok(Exit::Done)
}

/// Tries what a repository in this bucket needs. Nothing is created, and one that is there is not
/// touched.
///
/// * `lock`: how objects are to be locked, if they are.
fn check(context: &Context, lock: Option<LockMode>) -> Result<Exit, CliError> {
    let Location::S3 { bucket, prefix } = context.location()? else {
        return Err(CliError::Usage("--check is about buckets: give an s3:// URL".into()));
    };
    let mut config = context.s3();
    if context.global.registers.is_some() {
        config.creation = Creation::Plain;
    }
    let store = S3Store::open(&bucket, &prefix, &config)?;
    let tried = store.preflight(lock)?;
    for one in &tried {
        let outcome = match (&one.trouble, one.needed) {
            (None, _) => "yes".into(),
            (Some(trouble), true) => format!("NO: {trouble}"),
            (Some(trouble), false) => format!("no, but it can do without: {trouble}"),
        };
        context.ui.say(&format!("{:<32} {outcome}", one.what));
    }
    if let Ok(bucket) = store.lockable() {
        context.ui.say(&locks::bucket_line(bucket));
    }
    let fit = tried.iter().all(|one| one.trouble.is_none() || !one.needed);
    let place = store.describe();
    context.ui.object(&json!({ "type": "check", "at": place, "fit": fit, "tried": tried }));
    if fit {
        context.ui.say(&format!("{place} is fit for a repository"));
        return Ok(Exit::Done);
    }
    Err(CliError::Failed(format!("{place} is not fit for a repository: {}", missing(&tried))))
}

/// What is missing, with the rights that it needs.
fn missing(tried: &[Tried]) -> String {
    let needed = tried.iter().filter(|one| one.needed && one.trouble.is_some());
    let named = needed.map(|one| format!("cannot {} ({})", one.what, one.rights.join(", ")));
    named.collect::<Vec<_>>().join("; ")
}

fn chunk_log2(bytes: u64) -> Result<u8, CliError> {
    let log2 = u8::try_from(bytes.max(1).ilog2()).unwrap_or(u8::MAX);
    if bytes.is_power_of_two() && (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&log2) {
        return Ok(log2);
    }
    Err(CliError::Usage("--chunk-size must be a power of two from 64K to 16M".into()))
}
