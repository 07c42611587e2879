//! Frames: any bytes are decoded within the limit or refused, and what is encoded comes back.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use repo_format::frame::{Compression, FrameDecoder, FrameEncoder};
use repo_format::limits::CHUNK_BYTES_MAX;
use repo_format_fuzz::{SMALL, within};

thread_local! {
    static CODEC: RefCell<(FrameEncoder, FrameDecoder)> = RefCell::new((
        FrameEncoder::new(Compression::Zstd(1)).unwrap(),
        FrameDecoder::new().unwrap(),
    ));
}

fuzz_target!(|bytes: &[u8]| {
    CODEC.with_borrow_mut(|(encoder, decoder)| {
        let mut plain = Vec::new();
        let decoded = within(CHUNK_BYTES_MAX + SMALL, || decoder.decode(bytes, &mut plain));
        if decoded.is_ok() {
            assert_eq!(Some(plain.len()), FrameDecoder::plain_len(bytes, CHUNK_BYTES_MAX).ok());
        }
        let frame = encoder.encode(bytes).to_vec();
        decoder.decode(&frame, &mut plain).unwrap();
        assert!(plain == bytes);
    });
});
