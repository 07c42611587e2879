//! Index segments, read from the store to their end whatever the local cache holds.

use std::collections::BTreeMap;

use repo_format::id::SegmentName;
use repo_format::key::ObjectKey;
use repo_format::session::SegmentRef;

use super::Checker;
use crate::index::SegmentSource;
use crate::recover::{describe, is_lost};
use crate::{RepositoryError, segments};

impl Checker<'_> {
    pub(super) fn check_segments(&mut self) -> Result<(), RepositoryError> {
        let listed = self.listed_segments();
        let total_bytes: u64 = listed.values().map(|segment| segment.bytes).sum();
        let mut done_bytes = 0;
        let mut suspects = Vec::new();
        let source = segments::Source::new(self.repository);
        source.expect(&listed.values().copied().collect::<Vec<_>>());
        for segment in listed.into_values() {
            self.check_cancelled()?;
            self.report.checked.segments += 1;
            if self.test_segment(&source, &segment)?.is_some() {
                suspects.push(segment);
            }
            done_bytes += segment.bytes;
            self.watch.progress(done_bytes, total_bytes);
        }
        let guilty = self.confirm(suspects, |checker, segment| {
            // Merged into another meanwhile, and removed.
            if !checker.listed_segments().contains_key(&segment.name) {
                return Ok(None);
            }
            checker.test_segment(&segments::Source::new(checker.repository), segment)
        })?;
        for (segment, what) in guilty {
            self.findings.problem(ObjectKey::Segment(segment.name), what);
        }
        Ok(())
    }

    fn listed_segments(&self) -> BTreeMap<SegmentName, SegmentRef> {
        let segments = self.view.index_view().segments;
        segments.into_iter().map(|segment| (segment.name, segment)).collect()
    }

    /// What is wrong with a segment.
    fn test_segment(
        &self,
        source: &segments::Source<'_>,
        segment: &SegmentRef,
    ) -> Result<Option<String>, RepositoryError> {
        let key = ObjectKey::Segment(segment.name);
        let bytes = self.repository.store().size(&key).map_err(RepositoryError::from);
        let surveyed = bytes.and_then(|bytes| {
            // Its end shows whether the rest of it can be one.
            let found = source.survey(&SegmentRef { bytes, ..*segment })?;
            Ok((bytes, found))
        });
        match surveyed {
            Ok((_, found)) if found == *segment => Ok(None),
            Ok((bytes, _)) => Ok(Some(format!(
                "it has {bytes} bytes and is not the segment of {} bytes that is listed",
                segment.bytes
            ))),
            Err(error) if is_lost(&error) => Ok(Some(describe(&error))),
            Err(error) => Err(error),
        }
    }
}
