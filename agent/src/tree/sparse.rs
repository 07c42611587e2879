//! Where the data of a sparse file is.

use std::io;

use repo_format::limits::EXTENTS_MAX;
use repo_format::tree::Extent;
use rustix::fd::OwnedFd;
use rustix::fs::SeekFrom;

/// Extents above which small gaps are stored as zeros.
const DATA_EXTENTS_MAX: usize = 32_768;

const _: () = assert!(DATA_EXTENTS_MAX as u64 * 2 <= EXTENTS_MAX);

/// Appends an extent, joining it to the last one if they touch.
pub(super) fn add_extent(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        _ if extent.len == 0 => {}
        Some(last) if last.offset + last.len == extent.offset => last.len += extent.len,
        _ => extents.push(extent),
    }
}

/// Where the kernel says that data is. All of the file if it does not say.
pub(super) fn data_extents(fd: &OwnedFd, size: u64) -> io::Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut gap_min = 1;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                return Ok(vec![Extent { offset: 0, len: size }]);
            }
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(fd, SeekFrom::Hole(start)).map_or(size, |end| end.min(size));
        if end <= start {
            break;
        }
        match extents.last_mut() {
            Some(last) if start - (last.offset + last.len) < gap_min => {
                last.len = end - last.offset;
            }
            _ => add_extent(&mut extents, Extent { offset: start, len: end - start }),
        }
        while extents.len() > DATA_EXTENTS_MAX {
            gap_min *= 2;
            close_gaps(&mut extents, gap_min);
        }
        at = end;
    }
    Ok(extents)
}

fn close_gaps(extents: &mut Vec<Extent>, gap_min: u64) {
    extents.dedup_by(|next, last| {
        let is_near = next.offset - (last.offset + last.len) < gap_min;
        if is_near {
            last.len = next.offset + next.len - last.offset;
        }
        is_near
    });
}

/// Data extents as an entry records them, of a file that should have had `size` bytes and ended
/// at `end` if that is given.
pub(super) fn recorded_extents(mut data: Vec<Extent>, size: u64, end: Option<u64>) -> Vec<Extent> {
    let size = end.unwrap_or(size);
    for extent in &mut data {
        extent.len = extent.len.min(size.saturating_sub(extent.offset));
    }
    data.retain(|extent| extent.len > 0);
    match data.as_slice() {
        [] if size > 0 => vec![Extent { offset: size, len: 0 }],
        [only] if only.offset == 0 && only.len == size => Vec::new(),
        _ => data,
    }
}
