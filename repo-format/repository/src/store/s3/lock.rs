//! Locks: on what is created, on what is there, and whether the server keeps them.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    DefaultRetention, ObjectLockEnabled, ObjectLockMode, ObjectLockRetention,
    ObjectLockRetentionMode,
};
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use repo_format::lock::LockMode;

use super::S3Store;
use super::failure::Failure;
use super::object::{Object, nonce};
use super::quirks::Checksum;
use crate::store::traffic::Action;
use crate::store::versions::{Held, Lockable, Protection, Version};
use crate::store::{Op, Refusal, StoreError};

/// What a policy has to grant for creating an object with a lock.
pub(super) const LOCKED_PUT: &str = "s3:PutObject, or s3:PutObjectRetention beside it";
/// Requests at once, each about one version.
const AT_ONCE: usize = 32;
/// How long a scratch object is locked, and how much longer then.
const TRIAL_S: u64 = 6;
const TRIAL_MORE_S: u64 = 2;
/// Some servers refuse to extend what was stored just now.
const TRIAL_PAUSE: Duration = Duration::from_secs(2);
const DAY_S: u64 = 24 * 3600;

pub(super) const fn header_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

const fn retention_mode(mode: LockMode) -> ObjectLockRetentionMode {
    match mode {
        LockMode::Governance => ObjectLockRetentionMode::Governance,
        LockMode::Compliance => ObjectLockRetentionMode::Compliance,
    }
}

pub(super) fn header_date(at_s: u64) -> DateTime {
    DateTime::from_secs(i64::try_from(at_s).unwrap_or(i64::MAX))
}

/// A mode that is not known here is taken for the stricter one.
fn mode_of(mode: Option<&ObjectLockRetentionMode>) -> LockMode {
    match mode {
        Some(ObjectLockRetentionMode::Governance) => LockMode::Governance,
        _ => LockMode::Compliance,
    }
}

pub(super) fn seconds(at: Option<&DateTime>) -> u64 {
    at.map_or(0, |at| u64::try_from(at.secs()).unwrap_or(0))
}

impl S3Store {
    /// What a new object is locked with now.
    pub(super) fn lock_of_new(&self) -> Option<Held> {
        let protection = *self.protection.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Protection { mode, keep_s } = protection?;
        Some(Held { mode, until_s: self.link.clock.now_s().saturating_add(keep_s) })
    }

    /// With a lock a checksum in a header is demanded, not only one in the signature.
    pub(super) fn checksum_for(&self, object: &Object) -> Checksum {
        match self.quirks.checksum {
            Checksum::Sha256 if object.lock.is_some() => Checksum::Md5,
            checksum => checksum,
        }
    }

    pub(super) async fn ask_lockable(&self) -> Result<Lockable, StoreError> {
        let call = self.call_all(Op::Lock, Action::GetObjectLockConfiguration, None);
        let ask = async |client: &Client, _: &_| {
            let request = client.get_object_lock_configuration().bucket(call.bucket);
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        let answer = match self.link.send(&call, &mut false, ask).await {
            Ok(answer) => answer,
            Err(StoreError::Missing { .. } | StoreError::Server { .. }) => return Ok(Lockable::No),
            Err(StoreError::Refused { refusal, .. })
                if matches!(*refusal, Refusal::Unsupported | Refusal::NoObjectLock) =>
            {
                return Ok(Lockable::No);
            }
            Err(error) => return Err(error),
        };
        let Some(found) = answer.object_lock_configuration() else { return Ok(Lockable::No) };
        if found.object_lock_enabled() != Some(&ObjectLockEnabled::Enabled) {
            return Ok(Lockable::No);
        }
        let default = found.rule().and_then(|rule| rule.default_retention()).map(protection_of);
        Ok(Lockable::Yes { default })
    }

    /// The lock of a version; of the newest one if no version is named.
    async fn held_by(&self, version: &Version) -> Result<Option<Held>, StoreError> {
        let object = self.named(&version.path);
        let call = self.call(Op::Lock, Action::GetObjectRetention, &object);
        let id = Some(version.id.clone()).filter(|id| !id.is_empty());
        let ask = async |client: &Client, _: &_| {
            let request = client.get_object_retention().bucket(call.bucket).key(&object.name);
            let request = request.set_version_id(id.clone()).set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        match self.link.send(&call, &mut false, ask).await {
            Ok(answer) => Ok(answer.retention().map(|retention| Held {
                mode: mode_of(retention.mode()),
                until_s: seconds(retention.retain_until_date()),
            })),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn held_by_each(
        &self,
        versions: &[Version],
    ) -> Result<Vec<Option<Held>>, StoreError> {
        iter(versions).map(|version| self.held_by(version)).buffered(AT_ONCE).try_collect().await
    }

    async fn hold(&self, version: &Version, held: Held) -> Result<(), StoreError> {
        let object = self.named(&version.path);
        let call = self.call(Op::Lock, Action::PutObjectRetention, &object);
        let id = Some(version.id.clone()).filter(|id| !id.is_empty());
        let retention = ObjectLockRetention::builder()
            .mode(retention_mode(held.mode))
            .retain_until_date(header_date(held.until_s))
            .build();
        let put = async |client: &Client, _: &_| {
            let request = client.put_object_retention().bucket(call.bucket).key(&object.name);
            let request = request
                .set_version_id(id.clone())
                .retention(retention.clone())
                .set_request_payer(self.payer());
            request.send().await.map_err(|error| Failure::from_sdk(&error, &call))
        };
        self.link.send(&call, &mut false, put).await.map(drop)
    }

    async fn extend_one(&self, version: &Version, held: Held) -> Result<(), StoreError> {
        let refused = match self.hold(version, held).await {
            Ok(()) | Err(StoreError::Missing { .. }) => return Ok(()),
            Err(error @ StoreError::Refused { .. }) => error,
            Err(error) => return Err(error),
        };
        // Locked for longer already, or in another mode?
        match self.held_by(version).await? {
            Some(there) if there.until_s >= held.until_s => Ok(()),
            Some(there) if there.mode != held.mode => {
                self.hold(version, Held { mode: there.mode, ..held }).await
            }
            _ => Err(refused),
        }
    }

    pub(super) async fn extend_each(
        &self,
        versions: &[Version],
        held: Held,
    ) -> Result<(), StoreError> {
        iter(versions)
            .map(|version| self.extend_one(version, held))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// See [`crate::store::Versions::try_lock`].
    pub(super) async fn trial(&self, mode: LockMode, to_the_end: bool) -> Result<(), StoreError> {
        let mut object =
            self.scratch(&format!("lock-{}", nonce(Op::Lock, &self.describe_place())?));
        // So that the server's clock is known.
        self.creation_of(Op::Lock, &object).await.map(drop).or_else(missing_is_fine)?;
        let until_s = self.link.clock.now_s() + TRIAL_S;
        object.lock = Some(Held { mode, until_s });
        self.create_whole(Op::Lock, &object, b"tried out by `salvor init`", None).await?;
        let path = object.name.strip_prefix(&self.place.prefix).unwrap_or(&object.name).to_owned();
        let version = self.only_version(&path).await?;
        self.check_held(&version, Held { mode, until_s }).await?;
        if self.remove_each(std::slice::from_ref(&version)).await?.is_empty() {
            return Err(self.not_kept("a locked object could be deleted"));
        }
        tokio::time::sleep(TRIAL_PAUSE).await;
        let longer = Held { mode, until_s: until_s + TRIAL_MORE_S };
        self.extend_one(&version, longer).await?;
        self.check_held(&version, longer).await?;
        if !to_the_end {
            return self.remove(&object).await;
        }
        while self.link.clock.now_s() <= longer.until_s {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        match self.remove_each(&[version]).await?.first() {
            None => Ok(()),
            Some(refused) => Err(StoreError::Refused {
                op: Op::Delete,
                at: self.place.url(&object.name),
                refusal: Box::new(Refusal::NoRight { right: "s3:DeleteObjectVersion" }),
                source: std::io::Error::other(refused.why.clone()),
            }),
        }
    }

    async fn only_version(&self, path: &str) -> Result<Version, StoreError> {
        let mut listed = Vec::new();
        let page = self.versions_after(path, None).await?;
        listed.extend(page.versions);
        match listed.as_slice() {
            [version] if !version.is_marker => Ok(version.clone()),
            _ => Err(self.not_kept("it lists no version of an object that was just stored")),
        }
    }

    async fn check_held(&self, version: &Version, wanted: Held) -> Result<(), StoreError> {
        match self.held_by(version).await? {
            Some(held) if held.mode == wanted.mode && held.until_s >= wanted.until_s => Ok(()),
            _ => {
                Err(self.not_kept("an object that was stored with a lock has another one, or none"))
            }
        }
    }

    fn not_kept(&self, why: &'static str) -> StoreError {
        StoreError::Refused {
            op: Op::Lock,
            at: self.describe_place(),
            refusal: Box::new(Refusal::LockNotKept { why }),
            source: std::io::Error::other("a scratch object was locked for some seconds"),
        }
    }

    /// An object by its path below the repository's root.
    pub(super) fn named(&self, path: &str) -> Object {
        let name = format!("{}{path}", self.place.prefix);
        let key = path.parse::<repo_format::key::ObjectKey>().ok();
        Object {
            name,
            kind: key.and_then(|key| key.prefix()),
            storage_class: key
                .and_then(|key| self.link.config.storage_class(&key).map(ToOwned::to_owned)),
            lock: None,
        }
    }
}

fn missing_is_fine(error: StoreError) -> Result<(), StoreError> {
    match error {
        StoreError::Missing { .. } => Ok(()),
        error => Err(error),
    }
}

fn protection_of(rule: &DefaultRetention) -> Protection {
    let days = rule.days().unwrap_or(0).max(rule.years().unwrap_or(0).saturating_mul(365));
    Protection {
        mode: mode_of(rule.mode()),
        keep_s: u64::try_from(days).unwrap_or(0).saturating_mul(DAY_S),
    }
}
