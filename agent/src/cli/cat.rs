//! A volume, written out from its first byte to its last.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::volume::{Slot, VolumeRoot};
use repository::RepositoryError;
use repository::reader::Reader;

use super::batch::Batched;
use super::browse::page;
use super::error::CliError;
use crate::tree::BatchSource;

/// Bytes of the volume that are fetched together.
const GROUP_BYTES: usize = 16 << 20;

type Chunks = HashMap<ChunkId, Vec<u8>>;

/// Writes a volume to `out`, holes as zeroes.
pub(super) fn cat_volume(
    reader: &Reader,
    root: &VolumeRoot,
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<(), CliError> {
    let chunk_bytes = 1usize << root.chunk_log2;
    let mut writer = Writer { out, zeroes: vec![0; chunk_bytes], root, at: 0 };
    for reference in &root.pages {
        let page = page(reader, reference)?;
        let groups: Vec<&[Slot]> = page.slots.chunks((GROUP_BYTES / chunk_bytes).max(1)).collect();
        let mut fetched = groups.first().map(|group| fetch(reader, group));
        for (number, group) in groups.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(CliError::Interrupted("interrupted".into()));
            }
            let chunks = fetched.take().transpose()?.unwrap_or_default();
            let next = groups.get(number + 1);
            // The next group is fetched while this one is written.
            fetched =
                std::thread::scope(|scope| {
                    let ahead = next.map(|next| scope.spawn(|| fetch(reader, next)));
                    writer.write(group, &chunks)?;
                    let ahead = ahead.map(std::thread::ScopedJoinHandle::join);
                    Ok::<_, CliError>(ahead.map(|ahead| {
                        ahead.unwrap_or_else(|_| Err(RepositoryError::WorkerLost.into()))
                    }))
                })?;
        }
    }
    Ok(())
}

/// The chunks that some slots name.
fn fetch(reader: &Reader, slots: &[Slot]) -> Result<Chunks, CliError> {
    let data = |slot: &Slot| if let Slot::Data(id) = slot { Some(*id) } else { None };
    let ids: HashSet<ChunkId> = slots.iter().filter_map(data).collect();
    let ids: Vec<ChunkId> = ids.into_iter().collect();
    let (mut chunks, mut failure) = (Chunks::new(), None);
    Batched(reader).get_many(PackKind::Data, &ids, &mut |at, plain| {
        match (ids.get(at), plain) {
            (Some(id), Ok(plain)) => drop(chunks.insert(*id, plain.to_vec())),
            (_, Err(error)) => failure = Some(error),
            (None, Ok(_)) => {}
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(chunks), |failure| Err(failure.into()))
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    /// As long as a chunk.
    zeroes: Vec<u8>,
    root: &'a VolumeRoot,
    at: u64,
}

impl Writer<'_> {
    fn write(&mut self, group: &[Slot], chunks: &Chunks) -> Result<(), CliError> {
        let chunk_bytes = self.zeroes.len();
        for slot in group {
            let left = self.root.size_bytes - self.at;
            let len = usize::try_from(left).unwrap_or(chunk_bytes).min(chunk_bytes);
            if len == 0 {
                return Ok(());
            }
            let end = self.at + len as u64;
            let bytes = match slot {
                Slot::Data(id) => {
                    let chunk = chunks.get(id);
                    chunk.ok_or(RepositoryError::MissingChunk { id: *id })?.as_slice()
                }
                Slot::Hole | Slot::Zero => self.zeroes.get(..len).unwrap_or_default(),
                Slot::Missing => {
                    let message = format!("bytes {}..{end} are not in the snapshot", self.at);
                    return Err(CliError::Failed(message));
                }
            };
            self.out.write_all(bytes).map_err(CliError::io("cannot write to standard output"))?;
            self.at = end;
        }
        Ok(())
    }
}
