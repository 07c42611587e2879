//! Sessions whose record or register is damaged.

use repo_format::id::SessionId;
use repo_format::key::ObjectKey;
use repo_format::session::{Commit, SegmentRef};

use super::Repair;
use crate::gc;
use crate::recover::readable_segments;
use crate::repository::now_s;
use crate::store::StoreError;
use crate::view::{self, Register, View};
use crate::{RepositoryError, session};

impl Repair<'_> {
    /// Folds what can be folded: a session whose register is damaged as if it had been fenced,
    /// its segments kept; a commit whose session record is gone as the commit that it is.
    pub(super) fn registers(&mut self) -> Result<(), RepositoryError> {
        let view = View::for_maintenance(self.repository)?;
        self.end_unreadable(&view)?;
        let mut view = View::for_maintenance(self.repository)?;
        let lone = self.lone_commits(&view)?;
        let damaged: Vec<SessionId> = view.damaged.iter().copied().collect();
        if lone.is_empty() && damaged.is_empty() {
            return Ok(());
        }
        let segments = readable_segments(self.repository, |name| damaged.contains(&name.session))?;
        gc::transition(self.repository, &mut view, |view, draft| {
            draft.fold(view, now_s());
            for (id, commit) in &lone {
                draft.settle(id, &commit.segments, commit.snapshot.as_ref(), now_s());
            }
            for id in damaged.iter().filter(|id| view.damaged.contains(*id)) {
                let of_session = |segment: &&SegmentRef| segment.name.session == *id;
                let segments: Vec<SegmentRef> =
                    segments.iter().filter(of_session).copied().collect();
                draft.settle(id, &segments, None, now_s());
            }
            Ok(())
        })?;
        for (id, _) in lone {
            self.report.done.push(format!("the commit of session {id} counts again"));
        }
        for id in damaged {
            self.report.lost.push(format!(
                "com/{id} is damaged: the snapshot that it held, if any, is lost. What the \
                 session stored is kept, so backing up the same source again stores little"
            ));
        }
        // Twice: the record goes first, and the register once that is seen.
        gc::clean_sessions(self.repository, &view)?;
        let view = View::for_maintenance(self.repository)?;
        gc::clean_sessions(self.repository, &view)
    }

    /// Ends sessions whose record cannot be read: a prune would wait for them for ever.
    fn end_unreadable(&mut self, view: &View) -> Result<(), RepositoryError> {
        let folded: Vec<SessionId> =
            view.head.catalog.folded.iter().map(|folded| folded.session).collect();
        for (id, record) in &view.sessions {
            let is_open = !folded.contains(id) && !view.registers.contains(id);
            if record.is_none() && is_open && self.exists(&ObjectKey::Session(*id))? {
                session::fence(self.repository, id)?;
                self.report.done.push(format!("session {id} was ended: its record is damaged"));
            }
        }
        let record_lost =
            |id: &&SessionId| !folded.contains(*id) && matches!(view.sessions.get(*id), Some(None));
        for id in view.unfolded.keys().filter(record_lost) {
            self.report.done.push(format!("session {id} was folded: its record is damaged"));
        }
        if view.sessions.iter().any(|(id, record)| record.is_none() && !folded.contains(id)) {
            let view = self.fold()?;
            gc::clean_sessions(self.repository, &view)?;
            let view = View::for_maintenance(self.repository)?;
            gc::clean_sessions(self.repository, &view)?;
        }
        Ok(())
    }

    fn exists(&self, key: &ObjectKey) -> Result<bool, RepositoryError> {
        match self.repository.store().size(key) {
            Ok(_) => Ok(true),
            Err(StoreError::Missing { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Commits without a session that the catalog never took in.
    fn lone_commits(&self, view: &View) -> Result<Vec<(SessionId, Commit)>, RepositoryError> {
        let folded: Vec<SessionId> =
            view.head.catalog.folded.iter().map(|folded| folded.session).collect();
        let mut lone = Vec::new();
        for id in &view.registers {
            let is_known = view.sessions.contains_key(id)
                || folded.contains(id)
                || view.head.snapshots.contains_key(id);
            if is_known {
                continue;
            }
            if let Some(Register::Commit(commit)) = view::read_register(self.repository, id)? {
                lone.push((*id, *commit));
            }
        }
        Ok(lone)
    }
}
