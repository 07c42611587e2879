//! `salvor init`.

use repo_format::limits::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN};
use repository::{InitOptions, Repository};
use serde_json::json;

use super::args::InitArgs;
use super::context::Context;
use super::error::{CliError, Exit};
use super::units;

pub(super) fn run(context: &Context, args: &InitArgs) -> Result<Exit, CliError> {
    let chunk_log2 = chunk_log2(args.chunk_size.0)?;
    let store = context.store(true)?;
    let place = store.describe();
    let secret = context.secret(true)?;
    let options = InitOptions { chunk_log2: Some(chunk_log2), label: args.label.clone() };
    let repository = Repository::init(store, &secret, &options)?;
    context.ui.say(&format!(
        "created repository {} at {place}\n\
         volumes are cut into chunks of {}\n\
         keep the passphrase or key file safe: without it nothing in the repository can be read",
        repository.id(),
        units::bytes(1 << chunk_log2),
    ));
    context.ui.object(&json!({
        "type": "init",
        "repository": repository.id().to_string(),
        "at": place,
        "chunk_bytes": 1u64 << chunk_log2,
    }));
    Ok(Exit::Done)
}

fn chunk_log2(bytes: u64) -> Result<u8, CliError> {
    let log2 = u8::try_from(bytes.max(1).ilog2()).unwrap_or(u8::MAX);
    if bytes.is_power_of_two() && (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&log2) {
        return Ok(log2);
    }
    Err(CliError::Usage("--chunk-size must be a power of two from 64K to 16M".into()))
}
