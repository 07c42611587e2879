//! Index segments: headers of any bytes, plain blocks of any bytes split anywhere, and segments of
//! our own with a byte changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::fuzzing;
use repo_format::id::{ObjectName, SessionId};
use repo_format::segment::{Row, SegmentBuilder, SegmentDecoder};
use repo_format_fuzz::{SMALL, keys, within};

const NAME: ObjectName = ObjectName { session: SessionId([1; 16]), counter: 2 };

fuzz_target!(|input: (u16, u64, &[u8])| {
    let (split, len, bytes) = input;
    if let Some(header) = bytes.first_chunk() {
        let _ = SegmentDecoder::new(&keys(), &NAME, header, len);
    }
    let (front, back) = bytes.split_at(usize::from(split).min(bytes.len()));
    let read = |blocks: &[&[u8]]| {
        let mut rows = Vec::new();
        within(SMALL, || fuzzing::segment(blocks, &mut |row| rows.push(row))).map(|()| rows)
    };
    let whole = read(&[bytes]);
    if let Ok(rows) = &whole {
        assert_eq!(encode(rows), bytes);
    }
    if !back.is_empty() {
        let split = read(&[front, back]);
        assert_eq!(split.is_ok(), whole.is_ok());
    }
});

/// The plain bytes of a segment of `rows`, by way of a sealed one.
fn encode(rows: &[Row]) -> Vec<u8> {
    let keys = keys();
    let packs: Vec<_> = rows
        .iter()
        .filter_map(|row| if let Row::Pack(pack) = row { Some(*pack) } else { None })
        .collect();
    let mut builder = SegmentBuilder::new(&keys, NAME, [3; 32], &packs);
    for row in rows {
        if let Row::Entry(entry) = row {
            builder.push(entry);
        }
    }
    fuzzing::segment_plain(builder)
}
