//! One number of bytes, divided among everything that grows.

use repository::packer::PackOptions;

/// What a run may use. Pure: the same number gives the same division on every machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Buffers of one chunk each.
    pub(crate) slabs: usize,
    /// Packs on their way to the repository.
    pub(crate) packs: PackOptions,
    /// Cache and tables of the index.
    pub(crate) index_bytes: usize,
    /// Small files, names and entries of a tree.
    pub(crate) tree_bytes: usize,
}

/// The least that a run gets along with.
pub(crate) const MEMORY_MIN: u64 = 96 << 20;

/// The program itself, thread stacks, compressor tables.
const BASE_BYTES: usize = 32 << 20;
/// Longest chunk of a file tree.
const FILE_CHUNK_BYTES: usize = 4 << 20;

impl Budget {
    /// Divides `memory_bytes`; `chunk_bytes` is the chunk length of volumes.
    pub(crate) fn new(memory_bytes: u64, chunk_bytes: usize) -> Self {
        let memory = usize::try_from(memory_bytes.max(MEMORY_MIN)).unwrap_or(usize::MAX);
        let left = memory - BASE_BYTES;
        let index_bytes = (left / 8).clamp(8 << 20, 64 << 20);
        // Slabs and tree buffers are never in use at once.
        let slab_bytes = left / 6;
        let slabs = (slab_bytes / chunk_bytes).clamp(8, 64);
        let pack_bytes = left - index_bytes - slab_bytes;
        let packs = PackOptions::within(pack_bytes, chunk_bytes.max(FILE_CHUNK_BYTES));
        Self { slabs, packs, index_bytes, tree_bytes: slab_bytes.max(16 << 20) }
    }
}

/// What a copy may use: two repositories are open at once, and no volume is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyBudget {
    /// Threads that each hold a range of a pack and a chunk.
    pub(crate) fetchers: usize,
    /// Packs on their way to the target.
    pub(crate) packs: PackOptions,
    /// Cache and tables of each index, and of the memory of which chunk is which.
    pub(crate) index_bytes: usize,
}

impl CopyBudget {
    /// Divides `memory_bytes`; `chunk_bytes` is the greater chunk length of the two repositories.
    pub(crate) fn new(memory_bytes: u64, chunk_bytes: usize) -> Self {
        const RANGE_BYTES: usize = 4 << 20;
        const TABLES_BYTES: usize = 1 << 20;
        let memory = usize::try_from(memory_bytes.max(MEMORY_MIN)).unwrap_or(usize::MAX);
        let left = memory - BASE_BYTES;
        let chunk_bytes = chunk_bytes.max(FILE_CHUNK_BYTES);
        let index_bytes = (left / 16).clamp(4 << 20, 32 << 20);
        let each = RANGE_BYTES.max(chunk_bytes) + chunk_bytes + TABLES_BYTES;
        let fetchers = (left / 4 / each).clamp(2, 16);
        let rest = left.saturating_sub(3 * index_bytes + fetchers * each);
        Self { fetchers, packs: PackOptions::within(rest, chunk_bytes), index_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_stay_within_the_whole() {
        for memory in [96usize, 128, 256, 512, 1024] {
            let budget = Budget::new((memory as u64) << 20, 1 << 20);
            let packs =
                budget.packs.buffers * budget.packs.data_bytes + 2 * budget.packs.meta_bytes;
            let sum = packs + budget.index_bytes + (budget.slabs << 20) + BASE_BYTES;
            assert!(sum <= memory << 20, "{memory} MiB: {sum} bytes");
        }
    }

    #[test]
    fn the_parts_of_a_copy_stay_within_the_whole() {
        for memory in [96usize, 128, 256, 512, 1024] {
            let budget = CopyBudget::new((memory as u64) << 20, 1 << 20);
            let packs =
                budget.packs.buffers * budget.packs.data_bytes + 2 * budget.packs.meta_bytes;
            let sum = packs + 3 * budget.index_bytes + budget.fetchers * (6 << 20) + BASE_BYTES;
            assert!(sum <= memory << 20, "{memory} MiB: {sum} bytes");
        }
    }
}
