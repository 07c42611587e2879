//! `salvor key`.

use std::path::PathBuf;

use repository::UnlockSecret;
use serde_json::json;

use super::args::{KeyArgs, KeyCommand};
use super::context::{Ask, Context, read_secret};
use super::error::{CliError, Exit};
use super::snapshots::new_table;
use super::{locks, units};

pub(super) fn run(context: &Context, args: &KeyArgs) -> Result<Exit, CliError> {
    match &args.command {
        KeyCommand::List => list(context),
        KeyCommand::Add { label, new_passphrase_file, new_key_file } => {
            let repository = context.open()?;
            let secret = new_secret(new_passphrase_file.as_ref(), new_key_file.as_ref())?;
            let id = repository.add_slot(&secret, label)?.to_string();
            context.ui.say(&format!("added key slot {}", id.get(..8).unwrap_or(&id)));
            context.ui.object(&json!({ "type": "key-add", "slot": id }));
            Ok(Exit::Done)
        }
        KeyCommand::Remove { slot } => {
            let repository = context.open()?;
            let removed = repository.remove_slot(slot)?;
            let label = &removed.label;
            context.ui.say(&format!("removed key slot {} `{label}`", removed.short_id()));
            context.ui.object(&json!({ "type": "key-remove", "slot": removed.id }));
            locks::warn_of_old_slots(context, &repository);
            Ok(Exit::Done)
        }
        KeyCommand::Rotate { label, new_passphrase_file, new_key_file } => {
            let repository = context.open()?;
            let secret = new_secret(new_passphrase_file.as_ref(), new_key_file.as_ref())?;
            let removed = repository.rotate(&secret, label)?;
            context.ui.say(&format!(
                "new data is sealed under a new key from now on. Removed {} old slots: add one for \
                 everybody else who needs access",
                removed.len()
            ));
            context.ui.object(&json!({ "type": "key-rotate", "removed": removed }));
            locks::warn_of_old_slots(context, &repository);
            Ok(Exit::Done)
        }
    }
}

fn new_secret(
    passphrase_file: Option<&PathBuf>,
    key_file: Option<&PathBuf>,
) -> Result<UnlockSecret, CliError> {
    read_secret(passphrase_file, key_file, "SALVOR_NEW_PASSPHRASE", Ask::Twice)
}

fn list(context: &Context) -> Result<Exit, CliError> {
    let slots = context.open()?.slots()?;
    let mut table = new_table(&["", "ID", "Label", "Kind", "Created"]);
    for slot in &slots {
        let created_ns = i64::try_from(slot.created_s).unwrap_or(0).saturating_mul(1_000_000_000);
        table.add_row([
            if slot.current { "*" } else { "" }.to_owned(),
            slot.short_id().to_owned(),
            slot.label.clone(),
            slot.kind.to_owned(),
            if slot.problem.is_none() { units::time(created_ns) } else { String::new() },
        ]);
    }
    context.ui.say(&table.to_string());
    context.ui.object(&json!({ "type": "keys", "slots": slots }));
    let mut exit = Exit::Done;
    for slot in &slots {
        if let Some(problem) = &slot.problem {
            let id = slot.short_id();
            context.ui.warn(&format!(
                "key slot {id} cannot be read ({problem}): it opens nothing. `salvor key remove {id}` \
                 removes it, `salvor key add` makes a new one"
            ));
            exit = Exit::Damaged;
        }
    }
    Ok(exit)
}
