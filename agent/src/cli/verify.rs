//! `salvor verify`.

use super::args::VerifyArgs;
use super::context::Context;
use super::error::{CliError, Exit};

pub(super) fn run(context: &Context, args: &VerifyArgs) -> Result<Exit, CliError> {
    let _ = (context, args);
    Ok(Exit::Failed)
}
