//! Changed extents that somebody else found: a hypervisor, CSI, a file system.

use std::io::BufRead;

use serde::Deserialize;

/// Why a list of changed extents cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum ChangedError {
    #[error("cannot read the list of changed extents")]
    Read(#[source] std::io::Error),
    #[error(
        "line {line} of the list of changed extents is not an object with `offset` and `length` in bytes: {source}"
    )]
    Line { line: u64, source: serde_json::Error },
    #[error(
        "line {line} of the list of changed extents reaches to byte {end}, beyond the volume's {size_bytes} bytes"
    )]
    Beyond { line: u64, end: u64, size_bytes: u64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    offset: u64,
    length: u64,
}

/// Extents of a volume that may differ from its parent: ascending, apart from one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedExtents {
    /// Half-open ranges of bytes.
    ranges: Vec<(u64, u64)>,
}

impl ChangedExtents {
    /// Reads JSON lines of `{"offset": …, "length": …}`, in any order, overlapping or not.
    ///
    /// # Errors
    ///
    /// A line that is not of that form or reaches beyond the volume: better no backup than one
    /// that trusts a list made for another volume.
    pub fn read(input: impl BufRead, size_bytes: u64) -> Result<Self, ChangedError> {
        let mut ranges = Vec::new();
        for (number, text) in (1u64..).zip(input.lines()) {
            let text = text.map_err(ChangedError::Read)?;
            if text.trim().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_str(&text)
                .map_err(|source| ChangedError::Line { line: number, source })?;
            let end = line.offset.saturating_add(line.length);
            if end > size_bytes {
                return Err(ChangedError::Beyond { line: number, end, size_bytes });
            }
            if line.length > 0 {
                ranges.push((line.offset, end));
            }
        }
        Ok(Self::new(ranges))
    }

    fn new(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        Self { ranges: joined }
    }

    /// Whether any byte of `start..end` may have changed.
    pub fn touches(&self, start: u64, end: u64) -> bool {
        let first = self.ranges.partition_point(|range| range.1 <= start);
        self.ranges.get(first).is_some_and(|range| range.0 < end)
    }

    /// Bytes named in all.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_in_any_order_become_disjoint_and_ascending() {
        let text = "{\"offset\":10,\"length\":5}\n\n{\"offset\":0,\"length\":4}\n{\"length\":3,\"offset\":12}\n{\"offset\":4,\"length\":0}\n";
        let changed = ChangedExtents::read(text.as_bytes(), 100).unwrap();
        assert_eq!(changed.ranges, [(0, 4), (10, 15)]);
        assert_eq!(changed.bytes(), 9);
        for (start, end, touched) in
            [(0, 1, true), (4, 10, false), (3, 4, true), (14, 20, true), (15, 100, false)]
        {
            assert_eq!(changed.touches(start, end), touched, "{start}..{end}");
        }
    }

    #[test]
    fn a_list_that_does_not_fit_the_volume_is_refused_by_line() {
        let beyond = ChangedExtents::read("{\"offset\":99,\"length\":2}".as_bytes(), 100);
        assert!(matches!(beyond, Err(ChangedError::Beyond { line: 1, end: 101, .. })));
        let junk = ChangedExtents::read("\n{\"offset\":1}".as_bytes(), 100);
        assert!(matches!(junk, Err(ChangedError::Line { line: 2, .. })));
    }
}
