//! Bodies that are sent in parts, several at once. The object appears when the upload is
//! completed, and only if there is none.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use futures_util::stream::{StreamExt, TryStreamExt, iter};

use super::S3Store;
use super::body::upload;
use super::checksum::Sum;
use super::config::PART_BYTES_MIN;
use super::failure::Failure;
use super::lock::LOCKED_PUT;
use super::object::{Object, nonce};
use super::put::in_doubt;
use super::quirks::Checksum;
use super::signing::signed;
use crate::store::traffic::Action;
use crate::store::{Op, StoreError};

/// Servers take no more.
const PARTS_MAX: usize = 10_000;
/// A whole upload is begun again at most so often. That is needed if the server forgot it.
const UPLOADS_MAX: u32 = 3;

/// An upload that was begun.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) id: String,
    /// Of this creation, as the object's metadata will have it.
    pub(super) number: String,
}

/// How an upload was completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Completed {
    Created,
    /// The server knows no such upload: it was completed by an earlier try, or is gone.
    Unknown,
}

impl S3Store {
    pub(super) async fn create_in_parts(
        &self,
        object: &Object,
        body: &[u8],
    ) -> Result<(), StoreError> {
        for _ in 0..UPLOADS_MAX {
            let upload = self.begin(object).await?;
            let mut doubt = false;
            let done = match self.send_parts(object, body, &upload).await {
                Ok(parts) => self.complete(object, &upload, parts, &mut doubt).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(Completed::Created) => return Ok(()),
                Ok(Completed::Unknown) => {
                    match self.creation_of(Op::PutNew, object).await {
                        Ok(Some(there)) if there == upload.number => return Ok(()),
                        // Not ours; nor is it known that there was one before it was completed.
                        Ok(_) => return Err(self.exists(object)),
                        Err(StoreError::Missing { .. }) => {}
                        Err(error) => return Err(in_doubt(Op::PutNew, error)),
                    }
                }
                Err(error) => {
                    self.abort(object, &upload).await;
                    return self.judge(object, body, &upload, error, doubt).await;
                }
            }
        }
        Err(StoreError::Unavailable {
            op: Op::PutNew,
            at: self.place.url(&object.name),
            source: std::io::Error::other("the server forgot the upload again and again"),
        })
    }

    async fn judge(
        &self,
        object: &Object,
        body: &[u8],
        upload: &Upload,
        error: StoreError,
        doubt: bool,
    ) -> Result<(), StoreError> {
        match error {
            exists @ StoreError::Exists { .. } => {
                self.claim(Op::PutNew, object, body, &upload.number, doubt, exists).await
            }
            error if doubt => Err(in_doubt(Op::PutNew, error)),
            error => Err(error),
        }
    }

    fn exists(&self, object: &Object) -> StoreError {
        StoreError::Exists { at: self.place.url(&object.name) }
    }

    pub(super) async fn begin(&self, object: &Object) -> Result<Upload, StoreError> {
        let mut call = self.call(Op::PutNew, Action::CreateMultipartUpload, object);
        if object.lock.is_some() {
            call.right = LOCKED_PUT;
        }
        let number = nonce(Op::PutNew, &call.at)?;
        let sum = matches!(self.quirks.checksum, Checksum::Crc32c);
        let begin = async |client: &Client, _: &_| {
            let request = client
                .create_multipart_upload()
                .bucket(call.bucket)
                .key(&object.name)
                .set_checksum_algorithm(sum.then_some(ChecksumAlgorithm::Crc32C));
            let request = self.with_wishes_in_parts(request, object, &number);
            let answer = request.send().await.map_err(|error| Failure::from_sdk(&error, &call))?;
            let id = answer.upload_id().filter(|id| !id.is_empty()).map(ToOwned::to_owned);
            id.ok_or_else(|| Failure::passing("the answer has no upload id"))
        };
        let id = self.link.send(&call, &mut false, begin).await?;
        Ok(Upload { id, number })
    }

    async fn send_parts(
        &self,
        object: &Object,
        body: &[u8],
        upload: &Upload,
    ) -> Result<Vec<CompletedPart>, StoreError> {
        let options = self.link.config.multipart;
        let least = body.len().div_ceil(PARTS_MAX);
        let part_bytes = options.part_bytes.max(PART_BYTES_MIN).max(least);
        let parts = (1i32..).zip(body.chunks(part_bytes));
        iter(parts)
            .map(|(number, part)| self.send_part(object, upload, number, part))
            .buffered(options.parallel.max(1))
            .try_collect()
            .await
    }

    pub(super) async fn send_part(
        &self,
        object: &Object,
        begun: &Upload,
        number: i32,
        part: &[u8],
    ) -> Result<CompletedPart, StoreError> {
        let mut call = self.call(Op::PutNew, Action::UploadPart, object);
        call.body_bytes = part.len() as u64;
        let sum = Sum::of(self.quirks.checksum, part);
        let put = async |client: &Client, progress: &_| {
            let request = client
                .upload_part()
                .bucket(call.bucket)
                .key(&object.name)
                .upload_id(&begun.id)
                .part_number(number)
                .content_length(i64::try_from(part.len()).unwrap_or(i64::MAX))
                .set_checksum_crc32_c(sum.crc32c())
                .set_content_md5(sum.md5())
                .set_request_payer(self.payer());
            let sent = upload(part, progress, None, |stream| {
                request.body(stream).customize().interceptor(signed(&sum)).send()
            });
            sent.await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        let answer = self.link.send(&call, &mut false, put).await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag().map(ToOwned::to_owned))
            .set_checksum_crc32_c(sum.crc32c())
            .build())
    }

    pub(super) async fn complete(
        &self,
        object: &Object,
        begun: &Upload,
        parts: Vec<CompletedPart>,
        doubt: &mut bool,
    ) -> Result<Completed, StoreError> {
        let call = self.call(Op::PutNew, Action::CompleteMultipartUpload, object);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = async |client: &Client, _: &_| {
            let request = client
                .complete_multipart_upload()
                .bucket(call.bucket)
                .key(&object.name)
                .upload_id(&begun.id)
                .if_none_match("*")
                .multipart_upload(parts.clone())
                .set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        match self.link.send(&call, doubt, complete).await {
            Ok(_) => Ok(Completed::Created),
            Err(StoreError::Missing { .. }) => Ok(Completed::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Gives an upload up. If that fails, what was sent lies there until the sweep.
    pub(super) async fn abort(&self, object: &Object, begun: &Upload) {
        let call = self.call(Op::PutNew, Action::AbortMultipartUpload, object);
        let abort = async |client: &Client, _: &_| {
            let request = client.abort_multipart_upload().bucket(call.bucket).key(&object.name);
            let request = request.upload_id(&begun.id).set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        drop(self.link.send(&call, &mut false, abort).await);
    }
}
