//! What a bucket with versions and object lock really holds, seen and changed with a client of
//! the SDK: nothing of ours. Also what an attacker does with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketVersioningStatus, DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled,
    ObjectLockMode, ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
};
use aws_smithy_http_client::tls::Provider as Tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::Rng;
use super::s3::{Bucket, random};

/// One version of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Below the prefix.
    pub path: String,
    /// Of the version.
    pub id: String,
    /// Seconds since 1970.
    pub at_s: i64,
    /// Whether it hides what is below.
    pub is_marker: bool,
    /// Whether it is what a plain GET finds.
    pub is_latest: bool,
}

/// How a bucket is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// With versions only.
    Versions,
    /// With object lock.
    Lock,
    /// With object lock and a default of a day in governance mode.
    Default,
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

impl Bucket {
    fn run<T>(&self, work: impl AsyncFnOnce(aws_sdk_s3::Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(self.client()))
    }

    /// Another bucket of the same server.
    pub fn sibling(&self, made: Made) -> Self {
        let name = format!("salvor-{:016x}", Rng::new(random()).number());
        self.run(async |client| {
            let create = client.create_bucket().bucket(&name);
            create.object_lock_enabled_for_bucket(made != Made::Versions).send().await.unwrap();
            if made == Made::Versions {
                let status = BucketVersioningStatus::Enabled;
                let kept = VersioningConfiguration::builder().status(status).build();
                let put = client.put_bucket_versioning().bucket(&name);
                put.versioning_configuration(kept).send().await.unwrap();
            }
            if made == Made::Default {
                let governance = ObjectLockRetentionMode::Governance;
                let default = DefaultRetention::builder().mode(governance).days(1).build();
                let rule = ObjectLockRule::builder().default_retention(default).build();
                let rules = ObjectLockConfiguration::builder()
                    .object_lock_enabled(ObjectLockEnabled::Enabled)
                    .rule(rule)
                    .build();
                let put = client.put_object_lock_configuration().bucket(&name);
                put.object_lock_configuration(rules).send().await.unwrap();
            }
        });
        Self { bucket: name, ..self.clone() }
    }

    /// The same place for somebody who may do there only these things, by temporary credentials.
    pub fn with_rights(&self, rights: &[&str]) -> Self {
        let rights: Vec<String> = rights.iter().map(|right| format!("\"{right}\"")).collect();
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":[{}],"Resource":["arn:aws:s3:::{}","arn:aws:s3:::{}/*"]}}]}}"#,
            rights.join(","),
            self.bucket,
            self.bucket,
        );
        let tls = Tls::Rustls(CryptoMode::Ring);
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
            .region(aws_sdk_sts::config::Region::new(self.region.clone()))
            .credentials_provider(Credentials::new(&self.key, &self.secret, None, None, "test"))
            .endpoint_url(self.endpoint.as_ref().unwrap())
            .build();
        let client = aws_sdk_sts::Client::from_conf(config);
        let assume = client.assume_role().role_arn("arn:xxx:xxx:xxx:xxxx").policy(policy);
        let assume = assume.role_session_name("test").duration_seconds(3600).send();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(assume).unwrap();
        let given = answer.credentials().unwrap();
        Self {
            key: given.access_key_id().to_owned(),
            secret: given.secret_access_key().to_owned(),
            token: Some(given.session_token().to_owned()),
            ..self.clone()
        }
    }

    /// Every version and marker below a prefix.
    pub fn versions(&self, prefix: &str) -> Vec<Row> {
        let below = format!("{prefix}/");
        self.run(async |client| {
            let mut rows = Vec::new();
            let (mut key, mut id) = (None, None);
            loop {
                let list = client.list_object_versions().bucket(&self.bucket).prefix(&below);
                let list = list.set_key_marker(key).set_version_id_marker(id);
                let page = list.send().await.unwrap();
                let path = |name: &str| name.strip_prefix(&below).unwrap().to_owned();
                rows.extend(page.versions().iter().map(|version| Row {
                    path: path(version.key().unwrap()),
                    id: version.version_id().unwrap().to_owned(),
                    at_s: version.last_modified().unwrap().secs(),
                    is_marker: false,
                    is_latest: version.is_latest().unwrap(),
                }));
                rows.extend(page.delete_markers().iter().map(|marker| Row {
                    path: path(marker.key().unwrap()),
                    id: marker.version_id().unwrap().to_owned(),
                    at_s: marker.last_modified().unwrap().secs(),
                    is_marker: true,
                    is_latest: marker.is_latest().unwrap(),
                }));
                if page.is_truncated() != Some(true) {
                    return rows;
                }
                key = page.next_key_marker().map(ToOwned::to_owned);
                id = page.next_version_id_marker().map(ToOwned::to_owned);
            }
        })
    }

    /// Mode and end of a version's lock.
    pub fn retention(&self, prefix: &str, row: &Row) -> Option<(String, i64)> {
        self.run(async |client| {
            let name = format!("{prefix}/{}", row.path);
            let get = client.get_object_retention().bucket(&self.bucket).key(name);
            let held = get.version_id(&row.id).send().await.ok()?;
            let held = held.retention()?;
            Some((held.mode()?.as_str().to_owned(), held.retain_until_date()?.secs()))
        })
    }

    /// The ends of the locks of all objects that can be seen, by path, with their mode.
    pub fn locks(&self, prefix: &str) -> BTreeMap<String, Option<(String, i64)>> {
        let rows = self.versions(prefix).into_iter();
        rows.filter(|row| row.is_latest && !row.is_marker)
            .map(|row| (row.path.clone(), self.retention(prefix, &row)))
            .collect()
    }

    /// Deletes names as anybody with the right `s3:DeleteObject` can.
    pub fn hide(&self, prefix: &str, paths: &[String]) {
        self.run(async |client| {
            for path in paths {
                let delete = client.delete_object().bucket(&self.bucket);
                delete.key(format!("{prefix}/{path}")).send().await.unwrap();
            }
        });
    }

    /// Writes over a name; with a lock of an hour if it is `locked`.
    pub fn overwrite(&self, prefix: &str, path: &str, locked: bool) {
        self.run(async |client| {
            let until = DateTime::from_secs(now_s() + 3600);
            let put = client.put_object().bucket(&self.bucket).key(format!("{prefix}/{path}"));
            let put = put.body(b"your files are encrypted".to_vec().into());
            let put = put
                .set_object_lock_mode(locked.then_some(ObjectLockMode::Governance))
                .set_object_lock_retain_until_date(locked.then_some(until));
            put.send().await.unwrap();
        });
    }

    /// Whether a version can be removed for good.
    pub fn removes(&self, prefix: &str, row: &Row) -> bool {
        self.run(async |client| {
            let name = format!("{prefix}/{}", row.path);
            let delete = client.delete_object().bucket(&self.bucket).key(name);
            delete.version_id(&row.id).send().await.is_ok()
        })
    }
}

/// Waits until the clock has passed this time.
pub fn wait_until(at_s: i64) {
    let late = Instant::now() + Duration::from_mins(10);
    while now_s() <= at_s && Instant::now() < late {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Seconds since 1970, by the clock that the server of the tests has, too.
pub fn clock_s() -> i64 {
    now_s()
}
