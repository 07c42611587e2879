//! Bodies on their way: sent from a borrowed slice and received into one, in small pieces, so that
//! an object in flight takes no memory of its own.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::failure::{Failure, chain};

/// One piece; a few of them are between a slice and the connection.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 2;
/// Shorter bodies are copied whole.
const SMALL_BYTES: usize = 256 << 10;

/// Bytes that have moved, in either direction, during one try.
#[derive(Debug, Default)]
pub(super) struct Progress(Cell<u64>);

impl Progress {
    pub(super) fn moved(&self) -> u64 {
        self.0.get()
    }

    fn add(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes as u64);
    }
}

/// The receiving end of a body that is being fed.
#[derive(Debug)]
struct Pieces {
    queue: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.queue.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(None) if self.left == 0 => Poll::Ready(None),
            // The try was given up: the request must not look whole.
            Poll::Ready(None) => Poll::Ready(Some(Err(std::io::Error::other("given up")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Hands `body` to `send` as a stream of its length, and feeds it until `send` has an answer.
///
/// * `pause`: waited for before each piece; for probes that have to be slow.
pub(super) async fn upload<T, F: Future<Output = T>>(
    body: &[u8],
    progress: &Progress,
    pause: Option<std::time::Duration>,
    send: impl FnOnce(ByteStream) -> F,
) -> T {
    if body.len() <= SMALL_BYTES && pause.is_none() {
        let answer = send(ByteStream::from(body.to_vec())).await;
        progress.add(body.len());
        return answer;
    }
    let (feed, queue) = mpsc::channel(PIECES);
    let pieces = Pieces { queue, left: body.len() as u64 };
    let answer = send(ByteStream::new(SdkBody::from_body_1_x(pieces)));
    let feeding = async {
        let piece_bytes = if pause.is_some() { body.len().div_ceil(8).max(1) } else { PIECE_BYTES };
        for piece in body.chunks(piece_bytes) {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            if feed.send(Bytes::copy_from_slice(piece)).await.is_err() {
                // An early answer.
                break;
            }
            progress.add(piece.len());
        }
        drop(feed);
        pending::<Infallible>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = feeding => match never {},
    }
}

/// Copies a body into `buf` from `filled` on, and moves `filled`. More bytes than there is room
/// for are an error; fewer are not.
pub(super) async fn download(
    mut body: ByteStream,
    progress: &Progress,
    buf: &mut [u8],
    filled: &mut usize,
) -> Result<(), Failure> {
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| Failure::passing(chain(&error)))?;
        progress.add(piece.len());
        let room = buf.get_mut(*filled..*filled + piece.len());
        let room = room.ok_or_else(|| Failure::passing("more bytes came than were asked for"))?;
        room.copy_from_slice(&piece);
        *filled += piece.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_slice_goes_through_a_stream_and_comes_out_the_same() {
        for len in [0, 1, SMALL_BYTES, SMALL_BYTES + 1, 3 * PIECE_BYTES + 7] {
            let body: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut back = vec![0; len];
            let (up, down) = (Progress::default(), Progress::default());
            let mut filled = 0;
            let result = run(upload(&body, &up, None, async |stream| {
                download(stream, &down, &mut back, &mut filled).await
            }));
            assert!(result.is_ok() && filled == len, "{len} bytes: {result:?}, {filled}");
            assert!(back == body, "{len} bytes are not the same");
            assert_eq!(down.moved(), len as u64);
        }
    }

    #[test]
    fn a_body_that_is_longer_than_announced_is_no_success() {
        let mut buf = [0; 4];
        let mut filled = 0;
        let stream = ByteStream::from(vec![1; 5]);
        let progress = Progress::default();
        assert!(run(download(stream, &progress, &mut buf, &mut filled)).is_err());
    }

    #[test]
    fn an_early_answer_ends_the_feeding() {
        let body = vec![7; 8 << 20];
        let progress = Progress::default();
        let answer = run(upload(&body, &progress, None, async |stream| {
            drop(stream);
            412
        }));
        assert_eq!(answer, 412);
        assert!(progress.moved() < 8 << 20);
    }
}
