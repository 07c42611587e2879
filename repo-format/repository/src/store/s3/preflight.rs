//! Trying out every right and feature that a repository needs, and saying what is missing.

use aws_sdk_s3::Client;
use repo_format::key::Prefix;
use repo_format::lock::LockMode;

use super::S3Store;
use super::config::Creation;
use super::failure::{Failure, chain};
use super::object::{Object, nonce};
use super::put::Mode;
use crate::store::traffic::Action;
use crate::store::{Lockable, Op, StoreError};

/// What one thing that was tried came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Tried {
    /// What it is, in words.
    pub what: &'static str,
    /// The rights that it needs, as a policy names them.
    pub rights: &'static [&'static str],
    /// Whether a repository cannot do without it.
    pub needed: bool,
    /// What is wrong and what to do; `None` if all is well.
    pub trouble: Option<String>,
}

const BODY: &[u8] = b"written by `salvor init --check` and removed again";

impl S3Store {
    /// Writes, reads, lists and removes objects of its own below `tmp/` and `p/`, and touches no
    /// others. Whether there is a repository makes no difference.
    ///
    /// * `lock`: how objects are to be locked. Where they can be, that is tried in any case.
    ///
    /// # Errors
    ///
    /// The system gave no random bytes. What the server refuses is in the answer.
    pub fn preflight(&self, lock: Option<LockMode>) -> Result<Vec<Tried>, StoreError> {
        self.wait_for(async {
            let name = format!("check-{}", nonce(Op::Open, &self.describe_place())?);
            let mut tried = Vec::new();
            self.try_objects(&name, &mut tried).await;
            self.try_creation(&mut tried).await;
            self.try_removal(&name, &mut tried).await;
            self.try_locks(lock, &mut tried).await;
            Ok(tried)
        })
    }

    async fn try_objects(&self, name: &str, tried: &mut Vec<Tried>) {
        let object = self.listed_scratch(name);
        let put = match self.link.config.creation {
            Creation::Once => self.create_whole(Op::PutNew, &object, BODY, None).await,
            Creation::Plain => {
                let mode = Mode::Replace;
                self.put_whole(Op::PutNew, &object, BODY, mode, None, &mut false).await
            }
        };
        note(tried, "write an object", &["s3:PutObject"], true, put);
        let mut part = [0; 7];
        let read = self.read_range(&object, 11, &mut part).await.and_then(|()| {
            let same = BODY.get(11..18) == Some(&part[..]);
            same.then_some(()).ok_or_else(|| self.wrong("the range that was read is not the one"))
        });
        note(tried, "read a range of it", &["s3:GetObject"], true, read);
        if self.link.config.creation == Creation::Once {
            self.try_metadata(&object, tried).await;
        }
        self.try_listing(name, tried).await;
    }

    async fn try_metadata(&self, object: &Object, tried: &mut Vec<Tried>) {
        let kept = self.creation_of(Op::Size, object).await.and_then(|number| {
            number.map(drop).ok_or_else(|| {
                self.wrong("the metadata is not kept, so that a lost answer costs a whole read")
            })
        });
        note(tried, "keep metadata", &["s3:GetObject"], false, kept);
    }

    async fn try_listing(&self, name: &str, tried: &mut Vec<Tried>) {
        let listed = self.is_listed(name).await.and_then(|listed| {
            listed.then_some(()).ok_or_else(|| {
                self.wrong(
                    "an object that was just written is not listed: reads must follow writes",
                )
            })
        });
        note(tried, "list objects", &["s3:ListBucket"], true, listed);
    }

    async fn try_creation(&self, tried: &mut Vec<Tried>) {
        if self.link.config.creation == Creation::Plain {
            return self.try_sweep(tried).await;
        }
        let once = self.require_create_once().await;
        note(tried, "refuse a second creation", &["s3:PutObject"], true, once);
        let rights = &["s3:PutObject", "s3:GetObject", "s3:DeleteObject"];
        note(tried, "let one of eight creators win", rights, true, self.probe_race().await);
        let parts = self.parts_create_once().await.and_then(|once| {
            once.then_some(()).ok_or_else(|| {
                self.wrong("long bodies will be sent whole, which works but takes longer")
            })
        });
        let rights = &["s3:PutObject", "s3:AbortMultipartUpload"];
        note(tried, "the same for uploads in parts", rights, false, parts);
        self.try_sweep(tried).await;
    }

    async fn try_sweep(&self, tried: &mut Vec<Tried>) {
        let swept = self.sweep_uploads().await.map(drop);
        let rights = &["s3:ListBucketMultipartUploads", "s3:AbortMultipartUpload"];
        note(tried, "list unfinished uploads", rights, false, swept);
    }

    async fn try_removal(&self, name: &str, tried: &mut Vec<Tried>) {
        let object = self.listed_scratch(name);
        let removed = match self.remove(&object).await {
            Ok(()) => match self.is_listed(name).await {
                Ok(false) => Ok(()),
                Ok(true) => Err(self.wrong("an object that was just removed is still listed")),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        note(tried, "remove it", &["s3:DeleteObject"], true, removed);
    }

    async fn try_locks(&self, wanted: Option<LockMode>, tried: &mut Vec<Tried>) {
        let needed = wanted.is_some();
        let lockable = self.ask_lockable().await;
        let cannot = matches!(lockable, Ok(Lockable::No));
        if !needed && !matches!(lockable, Ok(Lockable::Yes { .. })) {
            return;
        }
        let known = lockable.and_then(|lockable| match lockable {
            Lockable::Yes { .. } => Ok(()),
            Lockable::No => Err(self.wrong("the bucket has no object lock")),
        });
        let rights = &["s3:GetBucketObjectLockConfiguration"];
        note(tried, "say whether it locks objects", rights, needed, known);
        if cannot {
            return;
        }
        let listed = self.versions_after("tmp/", None).await.map(drop);
        note(tried, "list old versions", &["s3:ListBucketVersions"], needed, listed);
        let rights = &[
            "s3:PutObjectRetention",
            "s3:GetObjectRetention",
            "s3:ListBucketVersions",
            "s3:DeleteObjectVersion",
        ];
        let held = self.trial(wanted.unwrap_or_default(), true).await;
        note(tried, "lock an object, and let it go then", rights, needed, held);
    }

    async fn is_listed(&self, name: &str) -> Result<bool, StoreError> {
        let call = self.call_all(Op::List, Action::ListObjectsV2, Some(Prefix::Packs));
        let wanted = self.listed_scratch(name).name;
        let list = async |client: &Client, _: &_| {
            let request = client.list_objects_v2().bucket(call.bucket).prefix(&wanted);
            let answer = request.set_request_payer(self.payer()).send().await;
            let answer = answer.map_err(|error| Failure::from_sdk(&error, &call))?;
            Ok(answer.contents().iter().any(|object| object.key() == Some(&wanted)))
        };
        self.link.send(&call, &mut false, list).await
    }

    fn wrong(&self, why: &str) -> StoreError {
        StoreError::Server {
            op: Op::Open,
            at: self.describe_place(),
            source: std::io::Error::other(why.to_owned()),
        }
    }
}

fn note(
    tried: &mut Vec<Tried>,
    what: &'static str,
    rights: &'static [&'static str],
    needed: bool,
    outcome: Result<(), StoreError>,
) {
    let trouble = outcome.err().map(|error| chain(&error));
    tried.push(Tried { what, rights, needed, trouble });
}
