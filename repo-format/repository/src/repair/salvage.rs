//! Copying chunks that snapshots need out of packs that cannot be relied on.

use repo_format::id::{ChunkId, ClusterId};
use repo_format::limits::CHUNK_BYTES_MAX;
use repo_format::pack::PackKind;
use repo_format::snapshot::Snapshot;

use super::Repair;
use crate::RepositoryError;
use crate::effort::Effort;
use crate::packer::PackOptions;
use crate::reader::Reader;
use crate::recover::is_lost;
use crate::view::View;
use crate::walk::{self, Context, Seen, Visitor};
use crate::writer::{Writer, WriterOptions, sync_index};

/// Memory for packs being filled, chunks of the greatest length apart.
const PACK_MEMORY_BYTES: usize = 40 << 20;
const BATCH: usize = 8192;

impl Repair<'_> {
    /// Writes again what is needed, can still be read, and is in no pack that may be counted on.
    pub(super) fn salvage(&mut self) -> Result<(), RepositoryError> {
        let view = View::for_maintenance(self.repository)?;
        sync_index(self.repository, self.index, &view)?;
        if view.head.catalog.bad.is_empty() {
            return Ok(());
        }
        let options = WriterOptions {
            effort: Effort::default(),
            packs: PackOptions::within(PACK_MEMORY_BYTES, CHUNK_BYTES_MAX),
            cluster: ClusterId::NONE,
        };
        let index = std::sync::Arc::clone(self.index);
        let (writer, _) = Writer::open(self.repository, index, &options)?;
        let snapshots: Vec<Snapshot> = writer.view().root_snapshots().cloned().collect();
        let reader = Reader::new(self.repository, std::sync::Arc::clone(self.index));
        let mut salvager =
            Salvager { repair: self, reader: &reader, writer: &writer, batch: Vec::new(), lost: 0 };
        let mut seen = Seen::over(self.index);
        for snapshot in &snapshots {
            walk::walk(&reader, snapshot, &mut seen, &mut salvager)?;
        }
        salvager.flush()?;
        let lost = salvager.lost;
        let counts = writer.counts();
        if counts.new_chunks > 0 {
            writer.finish_repack()?;
            self.report.salvaged_chunks += counts.new_chunks;
            self.report.salvaged_bytes += counts.new_plain_bytes;
            self.report
                .done
                .push(format!("{} chunks were copied out of damaged packs", counts.new_chunks));
            let view = self.fold()?;
            sync_index(self.repository, self.index, &view)?;
        }
        if lost > 0 {
            self.report.lost.push(format!(
                "{lost} references to chunks that cannot be read from anywhere: the next backup \
                 stores those that its source still has"
            ));
        }
        Ok(())
    }
}

struct Salvager<'a> {
    repair: &'a Repair<'a>,
    reader: &'a Reader,
    writer: &'a Writer,
    batch: Vec<(PackKind, ChunkId)>,
    lost: u64,
}

impl Salvager<'_> {
    fn flush(&mut self) -> Result<(), RepositoryError> {
        self.repair.check_cancelled()?;
        let batch = std::mem::take(&mut self.batch);
        let ids: Vec<ChunkId> = batch.iter().map(|(_, id)| *id).collect();
        let usable = self.repair.index.usable_many(&ids)?;
        let mut plain = Vec::new();
        for ((kind, id), place) in batch.into_iter().zip(usable) {
            if place.is_some() || self.writer.knows(&id)? {
                continue;
            }
            match self.reader.fetch_one(&id, &mut plain) {
                Ok(()) => {
                    self.writer.put_identified(kind, &id, &plain)?;
                }
                Err(error) if is_lost(&error) => self.lost += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Visitor for Salvager<'_> {
    fn reference(
        &mut self,
        kind: PackKind,
        id: &ChunkId,
        _: &Context,
    ) -> Result<(), RepositoryError> {
        self.batch.push((kind, *id));
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn unreadable(&mut self, error: RepositoryError, _: &Context) -> Result<(), RepositoryError> {
        if is_lost(&error) { Ok(()) } else { Err(error) }
    }
}
