//! What fixed and content-defined chunks of several sizes make of a series of disk images: how much
//! each image adds to the ones before it, and what cutting and hashing cost.
//!
//! ```sh
//! cargo run --release --package benches --example chunking -- first.img second.img...
//! ```
//!
//! Chunks of zeroes are left out, as a backup leaves them out. Sizes are of frames with zstd 1, without
//! what a pack adds. Content-defined chunks start anew every 64 MiB, as in the backup of a tree.
#![expect(clippy::unwrap_used, reason = "a measurement has nobody to tell but its user")]

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use repo_format::chunker::{ChunkSizes, Chunker};
use repo_format::frame::{Compression, FrameEncoder};
use repo_format::id::ChunkId;
use repo_format::keys::Keys;
use repo_format::pack::PackKind;

/// Read and cut at once.
const REGION_BYTES: usize = 64 << 20;

#[derive(Clone, Copy)]
enum Scheme {
    /// Chunks of this many bytes.
    Fixed(usize),
    /// Chunks of this many bytes on average, a quarter at least and four times at most.
    Content(u32),
}

/// What one image came to under one scheme.
#[derive(Default)]
struct Row {
    chunks: u64,
    new_chunks: u64,
    plain_bytes: u64,
    new_plain_bytes: u64,
    new_stored_bytes: u64,
    cutting: Duration,
    hashing: Duration,
}

struct Store {
    keys: Keys,
    chunker: Option<Chunker>,
    scheme: Scheme,
    known: HashSet<ChunkId>,
    encoder: FrameEncoder,
}

impl Store {
    fn new(scheme: Scheme) -> Self {
        let keys = benches::keys();
        let chunker = match scheme {
            Scheme::Fixed(_) => None,
            Scheme::Content(avg) => {
                let sizes = ChunkSizes { min: avg / 4, avg, max: avg * 4 };
                Some(Chunker::new(keys.gear(), sizes))
            }
        };
        let encoder = FrameEncoder::new(Compression::Zstd(1)).unwrap();
        Self { keys, chunker, scheme, known: HashSet::new(), encoder }
    }

    fn next_len(&self, rest: &[u8]) -> usize {
        match (self.scheme, &self.chunker) {
            (Scheme::Fixed(len), _) => len.min(rest.len()),
            (Scheme::Content(_), Some(chunker)) => chunker.next_cut(rest, true).unwrap(),
            (Scheme::Content(_), None) => unreachable!("made in new"),
        }
    }

    fn add(&mut self, path: &str) -> Row {
        let mut row = Row::default();
        let mut file = File::open(path).unwrap();
        let mut region = vec![0; REGION_BYTES];
        loop {
            let len = read_full(&mut file, &mut region);
            let mut rest = &region[..len];
            if rest.is_empty() {
                return row;
            }
            while !rest.is_empty() {
                let began = Instant::now();
                let len = self.next_len(rest);
                row.cutting += began.elapsed();
                let (chunk, after) = rest.split_at(len);
                rest = after;
                if chunk.iter().any(|byte| *byte != 0) {
                    self.put(chunk, &mut row);
                }
            }
        }
    }

    fn put(&mut self, chunk: &[u8], row: &mut Row) {
        let began = Instant::now();
        let id = self.keys.chunk_id(PackKind::Data, chunk);
        row.hashing += began.elapsed();
        row.chunks += 1;
        row.plain_bytes += chunk.len() as u64;
        if self.known.insert(id) {
            let [header, payload] = self.encoder.encode(chunk).parts().map(<[u8]>::len);
            row.new_chunks += 1;
            row.new_plain_bytes += chunk.len() as u64;
            row.new_stored_bytes += (header + payload) as u64;
        }
    }
}

fn read_full(file: &mut File, buf: &mut [u8]) -> usize {
    let mut len = 0;
    while len < buf.len() {
        match file.read(&mut buf[len..]).unwrap() {
            0 => break,
            got => len += got,
        }
    }
    len
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn print(name: &str, number: usize, row: &Row) {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let nanos = |time: Duration| time.as_nanos() as f64 / row.plain_bytes.max(1) as f64;
    println!(
        "| {name} | {} | {:.0} | {:.0} | {:.0} | {} | {:.2} | {:.2} |",
        number + 1,
        mb(row.plain_bytes),
        mb(row.new_plain_bytes),
        mb(row.new_stored_bytes),
        row.new_chunks,
        nanos(row.cutting),
        nanos(row.hashing),
    );
}

fn main() {
    let images: Vec<String> = std::env::args().skip(1).collect();
    println!("| chunks | image | MB | new MB | stored MB | new chunks | cut ns/B | hash ns/B |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let fixed = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 4 << 20];
    let content = [64 << 10, 256 << 10, 1 << 20];
    let schemes = fixed.map(Scheme::Fixed).into_iter().chain(content.map(Scheme::Content));
    for scheme in schemes {
        let name = match scheme {
            Scheme::Fixed(len) => format!("fixed {}K", len >> 10),
            Scheme::Content(avg) => format!("content {}K", avg >> 10),
        };
        let mut store = Store::new(scheme);
        for (number, image) in images.iter().enumerate() {
            print(&name, number, &store.add(image));
        }
    }
}
