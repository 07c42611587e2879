//! Both repositories of a copy, opened.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use repository::copy::{Copier, CopyOptions, Endpoint};
use repository::store::Location;
use repository::{Repository, RepositoryError, UnlockSecret};

use crate::cli::args::CopyArgs;
use crate::cli::budget::CopyBudget;
use crate::cli::context::{Ask, Context, read_secret};
use crate::cli::error::CliError;

/// A checkpoint is due when this much was stored since the last one, whatever the time.
const CHECKPOINT_BYTES: u64 = 8 << 30;
const TARGET_VARIABLE: &str = "SALVOR_TO_PASSPHRASE";

/// What opens both repositories.
pub(super) struct Secrets {
    source: UnlockSecret,
    /// `None`: what opens the source.
    target: Option<UnlockSecret>,
}

impl Secrets {
    pub(super) fn read(context: &Context, args: &CopyArgs) -> Result<Self, CliError> {
        let (passphrase, key_file) = (args.to_passphrase_file.as_ref(), args.to_key_file.as_ref());
        let is_given = passphrase.is_some()
            || key_file.is_some()
            || std::env::var_os(TARGET_VARIABLE).is_some();
        let target = if is_given {
            Some(read_secret(passphrase, key_file, TARGET_VARIABLE, Ask::Once)?)
        } else {
            None
        };
        Ok(Self { source: context.secret(false)?, target })
    }

    fn open_target(&self, context: &Context, args: &CopyArgs) -> Result<Repository, CliError> {
        let registers = args.to_registers.as_deref();
        let store = || context.store_at(&Location::parse(&args.to)?, registers, false);
        let secret = self.target.as_ref().unwrap_or(&self.source);
        match Repository::open(store()?, secret) {
            Err(RepositoryError::WrongSecret { .. })
                if self.target.is_none() && std::io::stdin().is_terminal() =>
            {
                context.ui.note("the target needs a passphrase of its own");
                let secret = read_secret(None, None, TARGET_VARIABLE, Ask::Once)?;
                Ok(Repository::open(store()?, &secret)?)
            }
            opened => Ok(opened?),
        }
    }
}

/// Both repositories, and what copies between them.
pub(super) struct Link {
    pub(super) source: Arc<Repository>,
    pub(super) target: Arc<Repository>,
    pub(super) copier: Copier,
}

impl Link {
    pub(super) fn open(
        context: &Context,
        args: &CopyArgs,
        secrets: &Secrets,
    ) -> Result<Self, CliError> {
        let source_store = context.store(false)?;
        let source = Arc::new(Repository::open(source_store, &secrets.source)?);
        let target = Arc::new(secrets.open_target(context, args)?);
        if source.store().describe() == target.store().describe() {
            return Err(CliError::Usage("--to names the repository that is copied from".into()));
        }
        let chunk_log2 = source.config().chunk_log2.max(target.config().chunk_log2);
        let budget = CopyBudget::new(context.global.memory.0, 1 << chunk_log2);
        let endpoint = |repository: &Arc<Repository>| -> Result<Endpoint, CliError> {
            let index = context.index_within(repository, budget.index_bytes)?;
            Ok(Endpoint { repository: Arc::clone(repository), index })
        };
        let options = CopyOptions {
            threads: budget.fetchers,
            packs: budget.packs,
            cluster: context.cluster(),
            checkpoint_every: Duration::from_secs(args.checkpoint_seconds),
            checkpoint_bytes: CHECKPOINT_BYTES,
            dictionary_bytes: budget.index_bytes,
        };
        let ends = (endpoint(&source)?, endpoint(&target)?);
        let (copier, notice) = Copier::new(ends.0, ends.1, &context.cache_dir(), options);
        if let Some(notice) = notice {
            context.ui.note(&notice);
        }
        Ok(Self { source, target, copier })
    }
}
