//! Listing, page by page.

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use repo_format::key::{ObjectKey, Prefix};

use super::S3Store;
use super::failure::Failure;
use super::link::Call;
use crate::store::location::percent_decoded;
use crate::store::traffic::Action;
use crate::store::{Listed, Op, StoreError, Strangers};

/// Names on one page: what all servers give at most.
const PAGE: i32 = 1000;

/// A page of names, in the order of the server.
#[derive(Debug, Default)]
struct Page {
    names: Vec<(String, u64)>,
    next: Option<String>,
}

impl S3Store {
    pub(super) fn list_objects(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        let mut strangers = Strangers::default();
        self.each_name(Op::List, prefix, PAGE, &mut |name, size_bytes| {
            match self.key_of(name, prefix) {
                Some(key) => visit(Listed { key, size_bytes })?,
                None => strangers.add(self.place.url(name)),
            }
            Ok(true)
        })?;
        Ok(strangers)
    }

    pub(super) fn first_object(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        let mut first = None;
        self.each_name(Op::ListFirst, prefix, 1, &mut |name, _| {
            first = self.key_of(name, prefix);
            Ok(first.is_none())
        })?;
        Ok(first)
    }

    fn key_of(&self, name: &str, prefix: Prefix) -> Option<ObjectKey> {
        let path = name.strip_prefix(&self.place.prefix)?;
        let key: ObjectKey = path.parse().ok()?;
        (key.prefix() == Some(prefix)).then_some(key)
    }

    /// Shows `visit` names and sizes under `prefix` until it answers `false`. What comes twice or
    /// out of order ends the listing: nothing that such a server lists can be relied on.
    ///
    /// * `first_page`: how many names to ask for at first.
    fn each_name(
        &self,
        op: Op,
        prefix: Prefix,
        first_page: i32,
        visit: &mut dyn FnMut(&str, u64) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let folder = format!("{}{}/", self.place.prefix, prefix.folder());
        let call = self.call_all(op, Action::ListObjectsV2, Some(prefix));
        let (mut last, mut next, mut page) = (String::new(), None, first_page);
        loop {
            let listed = self.wait_for(self.page(&call, &folder, next.as_deref(), page))?;
            for (name, size_bytes) in listed.names {
                if name <= last || !name.starts_with(&folder) {
                    let why = format!("the server listed `{name}` behind `{last}`");
                    let source = std::io::Error::other(why);
                    return Err(StoreError::Server { op, at: call.at, source });
                }
                if !visit(&name, size_bytes)? {
                    return Ok(());
                }
                last = name;
            }
            if listed.next.is_none() {
                return Ok(());
            }
            (next, page) = (listed.next, PAGE);
        }
    }

    async fn page(
        &self,
        call: &Call<'_>,
        folder: &str,
        next: Option<&str>,
        count: i32,
    ) -> Result<Page, StoreError> {
        let list = async |client: &Client, _: &_| {
            let request = client
                .list_objects_v2()
                .bucket(call.bucket)
                .prefix(folder)
                .max_keys(count)
                // Without it a name that XML cannot hold would spoil the whole page.
                .encoding_type(EncodingType::Url)
                .set_continuation_token(next.map(ToOwned::to_owned))
                .set_request_payer(self.payer());
            let answer = request.send().await.map_err(|error| Failure::from_sdk(&error, call))?;
            page_of(&answer)
        };
        self.link.send(call, &mut false, list).await
    }

    /// One name that is there, whatever it is, but none that this program may have left before a
    /// config was written. `None` in a place that is fit for a new repository.
    pub(super) async fn foreign_name(&self) -> Result<Option<String>, StoreError> {
        let call = self.call_all(Op::Open, Action::ListObjectsV2, None);
        let list = async |client: &Client, _: &_| {
            let request = client
                .list_objects_v2()
                .bucket(call.bucket)
                .prefix(&self.place.prefix)
                .delimiter("/")
                .encoding_type(EncodingType::Url)
                .set_request_payer(self.payer());
            let answer = request.send().await.map_err(|error| Failure::from_sdk(&error, &call))?;
            let folders = answer.common_prefixes().iter().filter_map(|folder| folder.prefix());
            let folders: Result<Vec<String>, Failure> = folders.map(decoded).collect();
            let mut names = folders?;
            names.extend(page_of(&answer)?.names.into_iter().map(|(name, _)| name));
            Ok(names)
        };
        let names = self.link.send(&call, &mut false, list).await?;
        let ours = |name: &str| {
            let name = name.strip_prefix(&self.place.prefix).unwrap_or(name);
            let folder = name.trim_end_matches('/');
            folder.is_empty()
                || folder == "tmp"
                || Prefix::ALL.iter().any(|prefix| prefix.folder() == folder)
        };
        Ok(names.into_iter().find(|name| !ours(name)))
    }
}

fn page_of(answer: &ListObjectsV2Output) -> Result<Page, Failure> {
    let mut page = Page::default();
    for object in answer.contents() {
        let name = object.key().ok_or_else(|| Failure::passing("a listed object has no name"))?;
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| Failure::passing("a listed object has no size"))?;
        page.names.push((decoded(name)?, size));
    }
    if answer.is_truncated() == Some(true) {
        let next = answer.next_continuation_token().filter(|token| !token.is_empty());
        let none = || Failure::passing("the listing goes on, but does not say where");
        page.next = Some(next.ok_or_else(none)?.to_owned());
    }
    Ok(page)
}

/// A name as `encoding-type=url` has it.
pub(super) fn decoded(name: &str) -> Result<String, Failure> {
    let bytes = percent_decoded(&name.replace('+', " "));
    let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.ok_or_else(|| Failure::passing(format!("the listed name `{name}` cannot be read")))
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::Object;

    use super::*;

    #[test]
    fn names_are_decoded_and_a_page_that_does_not_say_where_it_goes_on_is_refused() {
        let object = |key: &str| Object::builder().key(key).size(7).build();
        let answer = ListObjectsV2Output::builder()
            .contents(object("a%2Fb%20c"))
            .contents(object("d+e"))
            .build();
        let page = page_of(&answer).unwrap();
        assert_eq!(page.names, [("a/b c".to_owned(), 7), ("d e".to_owned(), 7)]);
        let cut = ListObjectsV2Output::builder().is_truncated(true).build();
        assert!(page_of(&cut).is_err());
        let more = ListObjectsV2Output::builder().is_truncated(true).next_continuation_token("t");
        assert_eq!(page_of(&more.build()).unwrap().next.as_deref(), Some("t"));
    }
}
