//! The command line of the tool: arguments in, messages and an exit code out.

mod allocator;
mod args;
mod backup;
mod batch;
mod browse;
mod budget;
mod cat;
mod context;
mod copy;
mod error;
mod fetched;
mod init;
mod keys;
mod locks;
mod maintain;
mod paced;
mod requests;
mod restore;
mod s3;
mod snapshots;
mod stats;
mod ui;
mod units;
mod verify;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use context::Context;
use error::{CliError, Exit};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    allocator::settle();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            let asked_for_help = !error.use_stderr();
            return ExitCode::from(if asked_for_help { 0 } else { Exit::Usage.code() });
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            let message = error.chain();
            let exit = error.exit();
            if json {
                let object =
                    serde_json::json!({ "type": "error", "message": message, "exit": exit.code() });
                drop(writeln!(std::io::stdout(), "{object}"));
            }
            eprintln!("salvor: {message}");
            ExitCode::from(exit.code())
        }
    }
}

fn run(cli: Cli) -> Result<Exit, CliError> {
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "salvor", &mut script);
            // A reader that went away wants no more of it.
            drop(std::io::stdout().write_all(&script));
            return Ok(Exit::Done);
        }
        Command::Man { out } => return manual(out.as_deref()),
        _ => {}
    }
    let context = Context::new(cli.global)?;
    match cli.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Backup(args) => backup::run(&context, &args),
        Command::Snapshots(args) => snapshots::run(&context, &args),
        Command::Ls(args) => browse::list(&context, &args),
        Command::Diff(args) => browse::diff(&context, &args),
        Command::Cat(args) => browse::cat(&context, &args),
        Command::Restore(args) => restore::run(&context, &args),
        Command::Verify(args) => verify::run(&context, &args),
        Command::Forget(args) => maintain::forget(&context, &args),
        Command::Prune(args) => maintain::prune(&context, &args),
        Command::Copy(args) => copy::run(&context, &args),
        Command::Stats(args) => stats::run(&context, &args),
        Command::Lock(args) => locks::run(&context, &args),
        Command::Recover => locks::recover(&context),
        Command::Key(args) => keys::run(&context, &args),
        Command::Completion { .. } | Command::Man { .. } => Ok(Exit::Done),
    }
}

/// The manual page on standard output, or those of all commands in a directory.
fn manual(out: Option<&Path>) -> Result<Exit, CliError> {
    let command = Cli::command().disable_help_subcommand(true);
    let written = match out {
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout()),
        Some(dir) => clap_mangen::generate_to(command, dir),
    };
    written.map_err(CliError::io("cannot write the manual"))?;
    Ok(Exit::Done)
}
