//! What can be asked of a store before the keys are known.

use std::collections::BTreeSet;

use repo_format::id::SessionId;
use repo_format::key::{ObjectKey, Prefix};
use repo_format::limits::RECORD_BYTES_MAX;

use crate::parallel::both;
use crate::store::{Store, StoreError};
use crate::view::list_ids;

/// Where most commands begin: the newest catalog as it is stored, and what registers and sessions
/// there are. It is taken while the key slots are read and a passphrase is stretched, which spares
/// who is far from the server some round trips. [`crate::view::View::of_glance`] makes a view of
/// it.
#[derive(Debug)]
pub struct Glance {
    /// Number of the newest catalog when this was begun.
    pub(crate) n: u64,
    pub(crate) sealed: Vec<u8>,
    /// Listed after the catalogs.
    pub(crate) registers: BTreeSet<SessionId>,
    /// Listed after the registers.
    pub(crate) sessions: BTreeSet<SessionId>,
}

impl Glance {
    /// `None` if there is no catalog.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub(crate) fn take(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let Some(ObjectKey::Catalog(n)) = store.list_first(Prefix::Catalogs)? else {
            return Ok(None);
        };
        // The order of the listings is a rule of the protocol (O4). What is in a catalog never
        // changes, so it may be read beside them.
        let (sealed, listed) = both(
            || store.get(&ObjectKey::Catalog(n), RECORD_BYTES_MAX),
            || {
                let registers = list_ids(store, Prefix::Commits)?;
                Ok::<_, StoreError>((registers, list_ids(store, Prefix::Sessions)?))
            },
        );
        let (registers, sessions) = listed?;
        Ok(Some(Self { n, sealed: sealed?, registers, sessions }))
    }
}
