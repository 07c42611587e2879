//! Reading objects. A read that breaks off goes on from where it was, but for heartbeats: what
//! comes then may be of another beat.

use std::ops::ControlFlow;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::S3Store;
use super::body::{Progress, download};
use super::failure::{Class, Failure};
use super::link::Call;
use super::object::Object;
use crate::store::traffic::Action;
use crate::store::{Op, StoreError};

/// What an answer to GET is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    start: u64,
    len: u64,
    /// Length of the whole object.
    whole: u64,
}

impl S3Store {
    pub(super) async fn read_whole(
        &self,
        op: Op,
        object: &Object,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, StoreError> {
        let mut call = self.call(op, Action::GetObject, object);
        // How long it is becomes known with the answer; what may be read at all bounds the time.
        call.body_bytes = limit_bytes.min(1 << 30);
        let (mut bytes, mut filled) = (Vec::new(), 0);
        let read = async |client: &Client, progress: &Progress| {
            if !object.goes_on() {
                filled = 0;
            }
            let range = (filled > 0).then_some((filled as u64, bytes.len() as u64));
            let answer = self.ask(client, &call, object, range).await?;
            let extent = extent(&answer, range)?;
            if extent.whole > limit_bytes {
                return Ok(ControlFlow::Break(extent.whole));
            }
            let whole = usize::try_from(extent.whole).unwrap_or(usize::MAX);
            if bytes.len() != whole {
                bytes.resize(whole, 0);
            }
            download(answer.body, progress, &mut bytes, &mut filled).await?;
            if filled < whole {
                return Err(Failure::passing(format!("{filled} of {whole} bytes came")));
            }
            Ok(ControlFlow::Continue(()))
        };
        match self.link.send(&call, &mut false, read).await? {
            ControlFlow::Continue(()) => Ok(bytes),
            ControlFlow::Break(size_bytes) => {
                Err(StoreError::TooLarge { at: call.at, size_bytes, limit_bytes })
            }
        }
    }

    pub(super) async fn read_range(
        &self,
        object: &Object,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        let end_bytes = offset_bytes.saturating_add(buf.len() as u64);
        // No range of HTTP is empty, and lengths are signed in many servers.
        if buf.is_empty() || i64::try_from(end_bytes).is_err() {
            return self.check_end(object, end_bytes).await;
        }
        let mut call = self.call(Op::GetRange, Action::GetObject, object);
        call.body_bytes = buf.len() as u64;
        let mut filled = 0;
        let read = async |client: &Client, progress: &Progress| {
            if !object.goes_on() {
                filled = 0;
            }
            let from = offset_bytes + filled as u64;
            let answer = match self.ask(client, &call, object, Some((from, end_bytes))).await {
                Err(failure) if failure.class == Class::Beyond => return Ok(None),
                answer => answer?,
            };
            let extent = extent(&answer, Some((from, end_bytes)))?;
            if extent.whole < end_bytes {
                return Ok(Some(extent.whole));
            }
            download(answer.body, progress, buf, &mut filled).await?;
            if filled < buf.len() {
                return Err(Failure::passing(format!("{filled} of {} bytes came", buf.len())));
            }
            Ok(Some(extent.whole))
        };
        match self.link.send(&call, &mut false, read).await? {
            Some(size_bytes) if size_bytes < end_bytes => {
                Err(StoreError::Short { at: call.at, end_bytes, size_bytes })
            }
            Some(_) => Ok(()),
            None => self.check_end(object, end_bytes).await,
        }
    }

    /// Whether an object reaches as far as `end_bytes`.
    async fn check_end(&self, object: &Object, end_bytes: u64) -> Result<(), StoreError> {
        let size_bytes = self.length(Op::GetRange, object).await?;
        if size_bytes < end_bytes {
            let at = self.place.url(&object.name);
            return Err(StoreError::Short { at, end_bytes, size_bytes });
        }
        Ok(())
    }

    pub(super) async fn length(&self, op: Op, object: &Object) -> Result<u64, StoreError> {
        let call = self.call(op, Action::HeadObject, object);
        let head = async |client: &Client, _: &_| {
            let request = client.head_object().bucket(call.bucket).key(&object.name);
            let answer = request.set_request_payer(self.payer()).send().await;
            let answer = answer.map_err(|error| Failure::from_sdk(&error, &call))?;
            positive(answer.content_length())
        };
        self.link.send(&call, &mut false, head).await
    }

    /// * `range`: where it starts and ends.
    async fn ask(
        &self,
        client: &Client,
        call: &Call<'_>,
        object: &Object,
        range: Option<(u64, u64)>,
    ) -> Result<GetObjectOutput, Failure> {
        let range = range.map(|(start, end)| format!("bytes={start}-{}", end.saturating_sub(1)));
        let request = client.get_object().bucket(call.bucket).key(&object.name);
        let answer = request.set_range(range).set_request_payer(self.payer()).send().await;
        answer.map_err(|error| Failure::from_sdk(&error, call))
    }
}

fn positive(length: Option<i64>) -> Result<u64, Failure> {
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| Failure::passing("the answer has no length"))
}

/// What part of the object an answer brings, if it is what was asked for.
fn extent(answer: &GetObjectOutput, range: Option<(u64, u64)>) -> Result<Extent, Failure> {
    let len = positive(answer.content_length())?;
    let extent = match answer.content_range() {
        Some(text) => content_range(text).filter(|extent| extent.len == len),
        None => Some(Extent { start: 0, len, whole: len }),
    };
    let extent = extent.ok_or_else(|| Failure::passing("the answer has a wrong Content-Range"))?;
    let Some((start, end)) = range else {
        let whole = extent.start == 0 && extent.len == extent.whole;
        return if whole { Ok(extent) } else { Err(wrong()) };
    };
    // Cut only by the end of the object.
    let fits = extent.start == start && start + extent.len == end.min(extent.whole);
    if fits { Ok(extent) } else { Err(wrong()) }
}

fn wrong() -> Failure {
    Failure::passing("the answer brings another range than the one that was asked for")
}

/// Reads `bytes 5-9/20`.
fn content_range(text: &str) -> Option<Extent> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let len = last.checked_sub(start)?.checked_add(1)?;
    let whole = whole.parse().ok()?;
    (start + len <= whole).then_some(Extent { start, len, whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: i64, range: Option<&str>) -> GetObjectOutput {
        let range = range.map(ToOwned::to_owned);
        GetObjectOutput::builder().content_length(length).set_content_range(range).build()
    }

    #[test]
    fn only_the_range_that_was_asked_for_is_taken() {
        let asked = Some((5, 10));
        let right = Extent { start: 5, len: 5, whole: 20 };
        assert_eq!(extent(&answer(5, Some("bytes 5-9/20")), asked).unwrap(), right);
        let cut = Extent { start: 5, len: 3, whole: 8 };
        assert_eq!(extent(&answer(3, Some("bytes 5-7/8")), asked).unwrap(), cut);
        for (length, range) in [
            (5, Some("bytes 4-8/20")),
            (4, Some("bytes 5-8/20")),
            (5, Some("bytes 5-9/8")),
            (4, Some("bytes 5-9/20")),
            (5, Some("octets 5-9/20")),
            (20, None),
            (-1, None),
        ] {
            assert!(extent(&answer(length, range), asked).is_err(), "{length} {range:?}");
        }
        assert!(extent(&answer(20, None), None).is_ok());
        assert!(extent(&answer(5, Some("bytes 5-9/20")), None).is_err());
    }
}
