//! Removing objects, one or a thousand with one request, and unfinished uploads.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, MultipartUpload, ObjectIdentifier};
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use repo_format::key::ObjectKey;

use super::S3Store;
use super::failure::Failure;
use super::object::Object;
use super::parts::Upload;
use crate::store::traffic::Action;
use crate::store::{Op, Refusal, StoreError, Swept};

/// Objects that one request may name.
const BATCH: usize = 1000;
/// Requests at once where each names one object.
const SINGLE_AT_ONCE: usize = 16;
/// After this an upload is taken for dead, whoever began it. If its writer lives all the same, its
/// `put_new` fails; no object is touched.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

impl S3Store {
    pub(super) async fn remove(&self, object: &Object) -> Result<(), StoreError> {
        let call = self.call(Op::Delete, Action::DeleteObject, object);
        let delete = async |client: &Client, _: &_| {
            let request = client.delete_object().bucket(call.bucket).key(&object.name);
            let answer = request.set_request_payer(self.payer()).send().await;
            answer.map_err(|error| Failure::from_sdk(&error, &call))
        };
        match self.link.send(&call, &mut false, delete).await {
            Ok(_) | Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn remove_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        for batch in keys.chunks(BATCH) {
            let objects: Vec<Object> = batch.iter().map(|key| self.object(key)).collect();
            let left = if objects.len() > 1 && self.batches.load(Ordering::Relaxed) {
                self.remove_batch(objects).await?
            } else {
                objects
            };
            iter(&left)
                .map(|object| self.remove(object))
                .buffer_unordered(SINGLE_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// Removes all of them with one request. Returns those that it could not remove: asked for
    /// one by one they are tried again, or give an error that says why.
    async fn remove_batch(&self, objects: Vec<Object>) -> Result<Vec<Object>, StoreError> {
        let kind = objects.first().and_then(|object| object.kind);
        let call = self.call_all(Op::Delete, Action::DeleteObjects, kind);
        let identify = |object: &Object| ObjectIdentifier::builder().key(&object.name).build();
        let all = objects.iter().filter_map(|object| identify(object).ok()).collect();
        let Ok(batch) = Delete::builder().set_objects(Some(all)).quiet(true).build() else {
            return Ok(objects);
        };
        let delete = async |client: &Client, _: &_| {
            let request = client.delete_objects().bucket(call.bucket).delete(batch.clone());
            let answer = request.set_request_payer(self.payer()).send().await;
            answer.map_err(|error| Failure::from_sdk(&error, &call))
        };
        let answer = match self.link.send(&call, &mut false, delete).await {
            Ok(answer) => answer,
            // Not known there, or not in this form.
            Err(StoreError::Server { .. }) => return Ok(self.without_batches(objects)),
            Err(StoreError::Refused { refusal, .. }) if *refusal == Refusal::Unsupported => {
                return Ok(self.without_batches(objects));
            }
            Err(error) => return Err(error),
        };
        let failed =
            |object: &Object| answer.errors().iter().any(|error| error.key() == Some(&object.name));
        Ok(objects.into_iter().filter(failed).collect())
    }

    fn without_batches(&self, objects: Vec<Object>) -> Vec<Object> {
        self.batches.store(false, Ordering::Relaxed);
        objects
    }

    /// Aborts uploads that were begun long ago.
    pub(super) async fn sweep_uploads(&self) -> Result<Swept, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before_s = now.saturating_sub(ABANDONED_AFTER).as_secs();
        let before_s = i64::try_from(before_s).unwrap_or(0);
        let mut swept = Swept::default();
        let mut after = (None, None);
        loop {
            let (uploads, next) = self.uploads_after(after).await?;
            for upload in uploads {
                let begun_s = upload.initiated().map_or(i64::MAX, DateTime::secs);
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                if begun_s < before_s && key.starts_with(&self.place.prefix) {
                    let name = key.into();
                    let object = Object { name, kind: None, storage_class: None, lock: None };
                    let upload = Upload { id: id.into(), number: String::new() };
                    self.abort(&object, &upload).await;
                    swept.count += 1;
                }
            }
            match next {
                Some(next) => after = next,
                None => return Ok(swept),
            }
        }
    }

    /// A page of unfinished uploads, and what to ask for the next one with.
    async fn uploads_after(
        &self,
        (key, id): Marker,
    ) -> Result<(Vec<MultipartUpload>, Option<Marker>), StoreError> {
        let call = self.call_all(Op::SweepTemporary, Action::ListMultipartUploads, None);
        let list = async |client: &Client, _: &_| {
            let request = client
                .list_multipart_uploads()
                .bucket(call.bucket)
                .prefix(&self.place.prefix)
                .set_key_marker(key.clone())
                .set_upload_id_marker(id.clone())
                .set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        let answer = match self.link.send(&call, &mut false, list).await {
            Ok(answer) => answer,
            // Where there are no uploads in parts none is left over.
            Err(StoreError::Refused { refusal, .. }) if *refusal == Refusal::Unsupported => {
                return Ok((Vec::new(), None));
            }
            Err(error) => return Err(error),
        };
        let next = (answer.is_truncated() == Some(true)).then(|| {
            let text = |text: Option<&str>| text.map(ToOwned::to_owned);
            (text(answer.next_key_marker()), text(answer.next_upload_id_marker()))
        });
        Ok((answer.uploads().to_vec(), next.filter(|(key, _)| key.is_some())))
    }
}

/// After which key and which upload a page begins.
type Marker = (Option<String>, Option<String>);
