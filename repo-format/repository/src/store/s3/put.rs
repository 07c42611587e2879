//! Writing objects: only if there is none, or over a heartbeat.
//!
//! Each creation carries a number of its own in the object's metadata. When the server says that
//! the object exists, that number tells whether it is this creation that made it: its answer was
//! lost and it was sent again, or something on the way sent it twice.

use std::time::Duration;

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::{RequestPayer, ServerSideEncryption, StorageClass};
use repo_format::key::ObjectKey;

use super::S3Store;
use super::body::upload;
use super::checksum::Sum;
use super::config::{Creation, Encryption};
use super::failure::{Failure, chain};
use super::lock::{LOCKED_PUT, header_date, header_mode};
use super::object::{Object, nonce};
use super::signing::signed;
use crate::store::traffic::Action;
use crate::store::{Op, StoreError};

/// Under what name the number of a creation is in the metadata.
pub(super) const CREATION: &str = "salvor-creation";

/// How an object is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode<'a> {
    /// Only if there is none; the number of this creation.
    Create(&'a str),
    Replace,
}

impl S3Store {
    /// Creates an object; see [`crate::store::Store::put_new`].
    pub(super) async fn create_key(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let object = self.object(key);
        if self.link.config.creation == Creation::Plain {
            return self
                .put_whole(Op::PutNew, &object, body, Mode::Replace, None, &mut false)
                .await;
        }
        self.require_create_once().await?;
        // Only now is the server's clock known for sure, which locks go by.
        let object = self.object(key);
        let whole = body.len() <= self.link.config.multipart.threshold_bytes;
        if whole || !self.parts_create_once().await? {
            return self.create_whole(Op::PutNew, &object, body, None).await;
        }
        self.create_in_parts(&object, body).await
    }

    /// Creates an object with one request.
    ///
    /// * `pause`: between pieces of the body; for probes.
    pub(super) async fn create_whole(
        &self,
        op: Op,
        object: &Object,
        body: &[u8],
        pause: Option<Duration>,
    ) -> Result<(), StoreError> {
        let number = nonce(op, &self.place.url(&object.name))?;
        let mut doubt = false;
        let mode = Mode::Create(&number);
        match self.put_whole(op, object, body, mode, pause, &mut doubt).await {
            Err(exists @ StoreError::Exists { .. }) => {
                self.claim(op, object, body, &number, doubt, exists).await
            }
            Err(error) if doubt => Err(in_doubt(op, error)),
            put => put,
        }
    }

    pub(super) async fn put_whole(
        &self,
        op: Op,
        object: &Object,
        body: &[u8],
        mode: Mode<'_>,
        pause: Option<Duration>,
        doubt: &mut bool,
    ) -> Result<(), StoreError> {
        let mut call = self.call(op, Action::PutObject, object);
        call.body_bytes = body.len() as u64;
        if object.lock.is_some() {
            call.right = LOCKED_PUT;
        }
        let sum = Sum::of(self.checksum_for(object), body);
        let put = async |client: &aws_sdk_s3::Client, progress: &_| {
            let request = client
                .put_object()
                .bucket(call.bucket)
                .key(&object.name)
                .content_length(i64::try_from(body.len()).unwrap_or(i64::MAX))
                .set_checksum_crc32_c(sum.crc32c())
                .set_content_md5(sum.md5());
            let request = self.with_wishes(request, object, mode);
            let sent = upload(body, progress, pause, |stream| {
                request.body(stream).customize().interceptor(signed(&sum)).send()
            });
            sent.await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        self.link.send(&call, doubt, put).await.map(drop)
    }

    /// There is an object already. Did this creation make it?
    pub(super) async fn claim(
        &self,
        op: Op,
        object: &Object,
        body: &[u8],
        number: &str,
        doubt: bool,
        exists: StoreError,
    ) -> Result<(), StoreError> {
        match self.creation_of(op, object).await {
            Ok(Some(there)) if there == number => Ok(()),
            // A server or gateway that keeps no metadata: the bytes decide, if an answer is missing.
            Ok(None) if doubt => match self.read_whole(op, object, body.len() as u64).await {
                Ok(there) if there == body => Ok(()),
                Ok(_) | Err(StoreError::TooLarge { .. } | StoreError::Missing { .. }) => {
                    Err(exists)
                }
                Err(error) => Err(in_doubt(op, error)),
            },
            Ok(_) | Err(StoreError::Missing { .. }) => Err(exists),
            Err(error) if doubt => Err(in_doubt(op, error)),
            // Whoever made it: nothing of ours can be there but by a request that was sent twice.
            Err(_) => Err(exists),
        }
    }

    /// The number of the creation that made an object, if it has one.
    pub(super) async fn creation_of(
        &self,
        op: Op,
        object: &Object,
    ) -> Result<Option<String>, StoreError> {
        let call = self.call(op, Action::HeadObject, object);
        let head = async |client: &aws_sdk_s3::Client, _: &_| {
            let request = client.head_object().bucket(call.bucket).key(&object.name);
            let answer = request.set_request_payer(self.payer()).send().await;
            answer.map_err(|error| Failure::from_sdk(&error, &call))
        };
        let head = self.link.send(&call, &mut false, head).await?;
        Ok(head.metadata().and_then(|metadata| metadata.get(CREATION)).cloned())
    }

    fn with_wishes(
        &self,
        request: PutObjectFluentBuilder,
        object: &Object,
        mode: Mode<'_>,
    ) -> PutObjectFluentBuilder {
        let (encryption, key) = self.encryption();
        let request = request
            .set_storage_class(object.storage_class.as_deref().map(StorageClass::from))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(key)
            .set_object_lock_mode(object.lock.map(|lock| header_mode(lock.mode)))
            .set_object_lock_retain_until_date(object.lock.map(|lock| header_date(lock.until_s)))
            .set_request_payer(self.payer());
        match mode {
            Mode::Create(number) => request.if_none_match("*").metadata(CREATION, number),
            Mode::Replace => request,
        }
    }

    /// The same for an upload in parts.
    pub(super) fn with_wishes_in_parts(
        &self,
        request: CreateMultipartUploadFluentBuilder,
        object: &Object,
        number: &str,
    ) -> CreateMultipartUploadFluentBuilder {
        let (encryption, key) = self.encryption();
        request
            .set_storage_class(object.storage_class.as_deref().map(StorageClass::from))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(key)
            .set_object_lock_mode(object.lock.map(|lock| header_mode(lock.mode)))
            .set_object_lock_retain_until_date(object.lock.map(|lock| header_date(lock.until_s)))
            .set_request_payer(self.payer())
            .metadata(CREATION, number)
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.link.config.encryption {
            Encryption::Bucket => (None, None),
            Encryption::Server => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms(key) => (Some(ServerSideEncryption::AwsKms), key.clone()),
        }
    }

    pub(super) fn payer(&self) -> Option<RequestPayer> {
        self.link.config.requester_pays.then_some(RequestPayer::Requester)
    }
}

/// An earlier try may have taken effect, whatever the last one was answered with.
pub(super) fn in_doubt(op: Op, error: StoreError) -> StoreError {
    match error {
        StoreError::Refused { ref at, .. } | StoreError::Full { ref at, .. } => {
            let at = at.clone();
            StoreError::Unavailable { op, at, source: std::io::Error::other(chain(&error)) }
        }
        error => error,
    }
}
