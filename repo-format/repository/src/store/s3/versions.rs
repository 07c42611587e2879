//! Old versions: listing, removing and bringing them back.

use std::cmp::Reverse;
use std::sync::PoisonError;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use repo_format::lock::LockMode;

use super::S3Store;
use super::failure::Failure;
use super::list::decoded;
use super::lock::{header_date, header_mode, seconds};
use crate::store::traffic::Action;
use crate::store::versions::{Held, Lockable, Protection, Refused, Version, Versions};
use crate::store::{Op, StoreError};

/// Versions that one request may name.
const BATCH: usize = 1000;
/// Requests at once where each names one version.
const SINGLE_AT_ONCE: usize = 16;
const REMOVE_RIGHT: &str = "s3:DeleteObjectVersion";

/// A page of versions, ascending by name, the newest of a name first.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) versions: Vec<Version>,
    next: Option<Marker>,
}

/// After which name and which version a page begins.
type Marker = (String, Option<String>);

impl S3Store {
    pub(super) async fn versions_after(
        &self,
        under: &str,
        after: Option<&Marker>,
    ) -> Result<Page, StoreError> {
        let call = self.call_all(Op::List, Action::ListObjectVersions, None);
        let prefix = format!("{}{under}", self.place.prefix);
        let list = async |client: &Client, _: &_| {
            let request = client
                .list_object_versions()
                .bucket(call.bucket)
                .prefix(&prefix)
                .encoding_type(EncodingType::Url)
                .set_key_marker(after.map(|(name, _)| name.clone()))
                .set_version_id_marker(after.and_then(|(_, id)| id.clone()))
                .set_request_payer(self.payer());
            let answer = request.send().await.map_err(|error| Failure::from_sdk(&error, &call))?;
            page_of(&answer, &self.place.prefix)
        };
        self.link.send(&call, &mut false, list).await
    }

    /// See [`Versions::remove_versions`].
    pub(super) async fn remove_each(
        &self,
        versions: &[Version],
    ) -> Result<Vec<Refused>, StoreError> {
        let mut refused = Vec::new();
        for batch in versions.chunks(BATCH) {
            if batch.len() > 1 && self.batches.load(std::sync::atomic::Ordering::Relaxed) {
                refused.extend(self.remove_version_batch(batch).await?);
            } else {
                let singles = iter(batch).map(|version| self.remove_version(version));
                let kept: Vec<Option<Refused>> =
                    singles.buffer_unordered(SINGLE_AT_ONCE).try_collect().await?;
                refused.extend(kept.into_iter().flatten());
            }
        }
        Ok(refused)
    }

    async fn remove_version(&self, version: &Version) -> Result<Option<Refused>, StoreError> {
        let object = self.named(&version.path);
        let mut call = self.call(Op::Delete, Action::DeleteObject, &object);
        call.right = REMOVE_RIGHT;
        let delete = async |client: &Client, _: &_| {
            let request = client.delete_object().bucket(call.bucket).key(&object.name);
            let request = request.version_id(&version.id).set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        match self.link.send(&call, &mut false, delete).await {
            Ok(_) | Err(StoreError::Missing { .. }) => Ok(None),
            Err(error @ StoreError::Refused { .. }) => {
                Ok(Some(Refused { path: version.path.clone(), why: super::failure::chain(&error) }))
            }
            Err(error) => Err(error),
        }
    }

    async fn remove_version_batch(&self, batch: &[Version]) -> Result<Vec<Refused>, StoreError> {
        let mut call = self.call_all(Op::Delete, Action::DeleteObjects, None);
        call.right = REMOVE_RIGHT;
        let identify = |version: &Version| {
            let name = format!("{}{}", self.place.prefix, version.path);
            ObjectIdentifier::builder().key(name).version_id(&version.id).build().ok()
        };
        let all = batch.iter().filter_map(identify).collect();
        let Ok(request) = Delete::builder().set_objects(Some(all)).quiet(true).build() else {
            return Ok(Vec::new());
        };
        let delete = async |client: &Client, _: &_| {
            let request = client.delete_objects().bucket(call.bucket).delete(request.clone());
            let answer = request.set_request_payer(self.payer()).send().await;
            answer.map_err(|error| Failure::from_sdk(&error, &call))
        };
        let answer = self.link.send(&call, &mut false, delete).await?;
        let refused = answer.errors().iter().map(|error| {
            let name = error.key().unwrap_or_default();
            let path = name.strip_prefix(&self.place.prefix).unwrap_or(name).to_owned();
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            Refused { path, why: format!("{}: {}", text(error.code()), text(error.message())) }
        });
        Ok(refused.collect())
    }

    async fn copy_up(&self, version: &Version) -> Result<(), StoreError> {
        let mut object = self.named(&version.path);
        object.lock = self.lock_of_new();
        let call = self.call(Op::Put, Action::CopyObject, &object);
        let source = format!("{}/{}?versionId={}", call.bucket, encoded(&object.name), version.id);
        let copy = async |client: &Client, _: &_| {
            let request = client
                .copy_object()
                .bucket(call.bucket)
                .key(&object.name)
                .copy_source(&source)
                .set_object_lock_mode(object.lock.map(|lock| header_mode(lock.mode)))
                .set_object_lock_retain_until_date(
                    object.lock.map(|lock| header_date(lock.until_s)),
                )
                .set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        self.link.send(&call, &mut false, copy).await.map(drop)
    }
}

impl Versions for S3Store {
    fn now_s(&self) -> u64 {
        self.link.clock.now_s()
    }

    fn protect(&self, protection: Option<Protection>) {
        *self.protection.write().unwrap_or_else(PoisonError::into_inner) = protection;
    }

    fn lockable(&self) -> Result<Lockable, StoreError> {
        self.wait_for(self.ask_lockable())
    }

    fn try_lock(&self, mode: LockMode, to_the_end: bool) -> Result<(), StoreError> {
        self.wait_for(self.trial(mode, to_the_end))
    }

    fn list_versions(
        &self,
        under: &str,
        visit: &mut dyn FnMut(&[Version]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut after, mut group) = (None, Vec::<Version>::new());
        loop {
            let page = self.wait_for(self.versions_after(under, after.as_ref()))?;
            for version in page.versions {
                if group.last().is_some_and(|last| last.path != version.path) {
                    visit(&group)?;
                    group.clear();
                }
                group.push(version);
            }
            match page.next {
                Some(next) => after = Some(next),
                None if group.is_empty() => return Ok(()),
                None => return visit(&group),
            }
        }
    }

    fn held(&self, versions: &[Version]) -> Result<Vec<Option<Held>>, StoreError> {
        self.wait_for(self.held_by_each(versions))
    }

    fn extend(&self, versions: &[Version], held: Held) -> Result<(), StoreError> {
        self.wait_for(self.extend_each(versions, held))
    }

    fn remove_versions(&self, versions: &[Version]) -> Result<Vec<Refused>, StoreError> {
        self.wait_for(self.remove_each(versions))
    }

    fn bring_back(&self, version: &Version) -> Result<(), StoreError> {
        self.wait_for(self.copy_up(version))
    }
}

/// The answer has objects and markers apart: they are put in one order. Of what was stored in the
/// same second the marker counts as the younger, for no name is used again after it was deleted.
fn page_of(answer: &ListObjectVersionsOutput, prefix: &str) -> Result<Page, Failure> {
    let mut rows = Vec::new();
    let version = |name: Option<&str>, id: Option<&str>, at: Option<&DateTime>| {
        let name = name.ok_or_else(|| Failure::passing("a listed version has no name"))?;
        let id = id.ok_or_else(|| Failure::passing("a listed version has no id"))?;
        let at = at.ok_or_else(|| Failure::passing("a listed version has no time"))?;
        let name = decoded(name)?;
        let path = name.strip_prefix(prefix).unwrap_or(&name).to_owned();
        let (id, at_s) = (id.to_owned(), seconds(Some(at)));
        let blank = Version { path, id, at_s, size_bytes: 0, tag: String::new(), is_marker: true };
        Ok::<_, Failure>((blank, at.as_nanos()))
    };
    for object in answer.versions() {
        let (blank, at) = version(object.key(), object.version_id(), object.last_modified())?;
        let size_bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let tag = object.e_tag().unwrap_or_default().to_owned();
        let version = Version { size_bytes, tag, is_marker: false, ..blank };
        rows.push((object.is_latest() == Some(true), at, version));
    }
    for marker in answer.delete_markers() {
        let (version, at) = version(marker.key(), marker.version_id(), marker.last_modified())?;
        rows.push((marker.is_latest() == Some(true), at, version));
    }
    rows.sort_by(|(a_latest, a_at, a), (b_latest, b_at, b)| {
        let key = |latest: &bool, at: &i128, version: &Version| {
            (Reverse(*latest), Reverse(*at), Reverse(version.is_marker))
        };
        a.path.cmp(&b.path).then_with(|| key(a_latest, a_at, a).cmp(&key(b_latest, b_at, b)))
    });
    let mut next = None;
    if answer.is_truncated() == Some(true) {
        let name = answer.next_key_marker().filter(|name| !name.is_empty());
        let none = || Failure::passing("the listing goes on, but does not say where");
        let id = answer.next_version_id_marker().filter(|id| !id.is_empty());
        next = Some((decoded(name.ok_or_else(none)?)?, id.map(ToOwned::to_owned)));
    }
    Ok(Page { versions: rows.into_iter().map(|(_, _, version)| version).collect(), next })
}

/// A name as a header may hold it.
fn encoded(name: &str) -> String {
    use std::fmt::Write;
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{DeleteMarkerEntry, ObjectVersion};

    use super::*;

    fn object(id: &str, at_s: i64, latest: bool) -> ObjectVersion {
        let at = DateTime::from_secs(at_s);
        ObjectVersion::builder()
            .key("r/p%2Fa")
            .version_id(id)
            .last_modified(at)
            .is_latest(latest)
            .build()
    }

    fn marker(id: &str, at_s: i64, latest: bool) -> DeleteMarkerEntry {
        let at = DateTime::from_secs(at_s);
        let marker = DeleteMarkerEntry::builder().key("r/p%2Fa").version_id(id);
        marker.last_modified(at).is_latest(latest).build()
    }

    #[test]
    fn objects_and_markers_come_in_one_order_the_newest_first() {
        let answer = ListObjectVersionsOutput::builder()
            .versions(object("new", 9, false))
            .versions(object("old", 5, false))
            .versions(object("oldest", 4, false))
            .delete_markers(marker("last", 9, true))
            .delete_markers(marker("first", 5, false))
            .build();
        let page = page_of(&answer, "r/").unwrap();
        let ids: Vec<&str> = page.versions.iter().map(|version| version.id.as_str()).collect();
        assert_eq!(ids, ["last", "new", "first", "old", "oldest"]);
        assert!(page.versions.iter().all(|version| version.path == "p/a"));
        assert!(page.versions[0].is_marker && !page.versions[1].is_marker);
    }

    #[test]
    fn a_page_that_does_not_say_where_it_goes_on_is_refused() {
        let cut = ListObjectVersionsOutput::builder().is_truncated(true);
        assert!(page_of(&cut.clone().build(), "").is_err());
        let page = page_of(&cut.next_key_marker("a%2Bb").build(), "").unwrap();
        assert_eq!(page.next, Some(("a+b".into(), None)));
    }

    #[test]
    fn a_name_in_a_header_is_plain_text() {
        assert_eq!(encoded("a/b c+d%"), "a/b%20c%2Bd%25");
    }
}
