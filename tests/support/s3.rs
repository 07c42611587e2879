//! A real S3 server: one for each test program, started when it is first needed, or another one
//! that the environment names. See `tests/s3/README.md`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_smithy_http_client::tls::Provider as Tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use repo_format::key::Prefix;
use repository::store::Store;
use repository::store::s3::{Provider, S3Config, S3Store, StaticCredentials};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{Rng, Stored};

/// A server that is not there after this is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// A place on a server, with the keys to it.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// URL of the server; `None` is AWS.
    pub endpoint: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// Of the server.
    pub region: String,
    /// If it cannot be told by the endpoint.
    pub provider: Option<String>,
    /// Access key id.
    pub key: String,
    /// Secret access key.
    pub secret: String,
    /// Of temporary credentials.
    pub token: Option<String>,
}

/// The bucket to test with.
pub fn bucket() -> Bucket {
    static SERVER: OnceLock<(Bucket, Option<Server>)> = OnceLock::new();
    let (bucket, _) = SERVER.get_or_init(|| {
        if let Ok(name) = std::env::var("SALVOR_TEST_S3_BUCKET") {
            return (named(name), None);
        }
        let server = Server::start();
        (server.bucket.clone(), Some(server))
    });
    bucket.clone()
}

fn named(bucket: String) -> Bucket {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    Bucket {
        endpoint: text("SALVOR_TEST_S3_ENDPOINT"),
        bucket,
        region: text("SALVOR_TEST_S3_REGION").unwrap_or_else(|| "us-east-1".into()),
        provider: text("SALVOR_TEST_S3_PROVIDER"),
        key: text("AWS_ACCESS_KEY_ID").unwrap_or_default(),
        secret: text("AWS_SECRET_ACCESS_KEY").unwrap_or_default(),
        token: text("AWS_SESSION_TOKEN"),
    }
}

impl Bucket {
    /// A prefix that nobody else uses.
    pub fn prefix(test: &str) -> String {
        let nonce = Rng::new(random()).number();
        format!("salvor-test/{test}-{nonce:016x}")
    }

    /// How to reach it.
    pub fn config(&self) -> S3Config {
        let provider = self.provider.as_ref().map(|name| name.parse::<Provider>().unwrap());
        S3Config {
            endpoint: self.endpoint.clone(),
            region: Some(self.region.clone()),
            provider,
            credentials: Some(StaticCredentials {
                access_key_id: self.key.clone(),
                secret_access_key: Zeroizing::new(self.secret.clone()),
                session_token: self.token.clone().map(Zeroizing::new),
            }),
            ..S3Config::default()
        }
    }

    /// The same place by another way, such as a proxy.
    pub fn through(&self, endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.into()), ..self.clone() }
    }

    /// An empty store under a prefix of its own.
    pub fn store(&self, test: &str) -> S3Store {
        self.store_at(&Self::prefix(test))
    }

    /// A store under this prefix.
    pub fn store_at(&self, prefix: &str) -> S3Store {
        S3Store::open(&self.bucket, prefix, &self.config()).unwrap()
    }

    /// The objects of a repository under this prefix.
    pub fn stored(&self, prefix: &str) -> Stored {
        let store = self.store_at(prefix);
        let mut stored = Stored::new();
        for folder in Prefix::ALL {
            let files = stored.entry(folder.folder().to_owned()).or_default();
            store
                .list(folder, &mut |listed| {
                    let path = listed.key.to_string();
                    let name = path.strip_prefix(folder.folder()).unwrap().trim_start_matches('/');
                    files.insert(name.to_owned(), listed.size_bytes);
                    Ok(())
                })
                .unwrap();
        }
        stored
    }

    /// The name of every object below this prefix, whoever made it, as the server lists it.
    pub fn names(&self, prefix: &str) -> BTreeSet<String> {
        let client = self.client();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let below = format!("{prefix}/");
        let request = client.list_objects_v2().bucket(&self.bucket).prefix(&below);
        let objects = request.into_paginator().send();
        let pages = runtime.block_on(objects.try_collect()).unwrap();
        let mut names = BTreeSet::new();
        for object in pages.iter().flat_map(ListObjectsV2Output::contents) {
            names.insert(object.key().unwrap().strip_prefix(&below).unwrap().to_owned());
        }
        names
    }

    /// A client of the SDK: nothing of ours.
    pub(super) fn client(&self) -> Client {
        let tls = Tls::Rustls(CryptoMode::Ring);
        let token = self.token.clone();
        let credentials = Credentials::new(&self.key, &self.secret, token, None, "test");
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
            .region(Region::new(self.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(self.endpoint.is_some());
        config.set_endpoint_url(self.endpoint.clone());
        Client::from_conf(config.build())
    }

    /// What the program has to have in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("AWS_ACCESS_KEY_ID", self.key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret.clone()),
            ("SALVOR_S3_REGION", self.region.clone()),
        ];
        let given = [
            ("SALVOR_S3_ENDPOINT", &self.endpoint),
            ("SALVOR_S3_PROVIDER", &self.provider),
            ("AWS_SESSION_TOKEN", &self.token),
        ];
        pairs.extend(given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        pairs
    }
}

pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// A server of our own. It ends when this process does, however that ends.
#[derive(Debug)]
pub struct Server {
    /// Where to reach it.
    pub bucket: Bucket,
    child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts one, with a bucket in it.
    pub fn start() -> Self {
        Self::start_with(None, &[])
    }

    /// The same, with TLS if there is a folder with `private.key` and `public.crt`, and with more in
    /// the server's environment.
    pub fn start_with(certificate: Option<&Path>, environment: &[(&str, &str)]) -> Self {
        let folder = super::scratch();
        fs::create_dir_all(folder.path().join("data/bucket")).unwrap();
        let mut rng = Rng::new(random());
        let (key, secret) = (
            format!("{:016x}", rng.number()),
            format!("{:016x}{:016x}", rng.number(), rng.number()),
        );
        for _ in 0..5 {
            // Another program may take the port in between; then the server ends at once.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = format!("127.0.0.1:{port}");
            let root = [("MINIO_ROOT_USER", key.as_str()), ("MINIO_ROOT_PASSWORD", &secret)];
            let all = [&root, environment].concat();
            let mut child = spawn(folder.path(), &address, &all, certificate);
            if wait_until_ready(&mut child, &address, certificate.is_some()) {
                let bucket = Bucket {
                    endpoint: Some(format!("http{}://{address}", certificate.map_or("", |_| "s"))),
                    bucket: "bucket".into(),
                    region: "us-east-1".into(),
                    provider: Some("minio".into()),
                    key,
                    secret,
                    token: None,
                };
                return Self { bucket, child, folder };
            }
            let said = log(folder.path());
            drop(child.stdin.take());
            drop(child.wait());
            assert!(said.contains("in use"), "the S3 server does not start: {said}");
            fs::create_dir_all(folder.path().join("data/bucket")).unwrap();
        }
        panic!("the S3 server does not start: {}", log(folder.path()));
    }

    /// Time of processors that it took so far.
    pub fn cpu(&self) -> Duration {
        // A child of the shell that we started.
        let shell = self.child.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.split_whitespace().map(|id| cpu_of(id.parse().unwrap())).sum()
    }

    /// The folder where it keeps the bucket.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// Time of processors that a process took so far.
pub fn cpu_of(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // User and system time are the 12th and 13th field behind the command in parentheses.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_secs(ticks) / ticks_per_second()
}

fn ticks_per_second() -> u32 {
    // SAFETY: it takes a number and gives one.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        // The shell in between sees the end of its input, and ends the server.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("SALVOR_TEST_S3_SERVER") {
        return path.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("s3/build");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the S3 server of the tests cannot be built: see above");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// The server, and a shell that ends it and clears up when our end of the pipe is closed.
fn spawn(
    folder: &Path,
    address: &str,
    environment: &[(&str, &str)],
    certificate: Option<&Path>,
) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    // $0 is the folder.
    let watch = "\"$@\" & server=$!; read -r _; kill $server; wait $server; rm -rf \"$0\"";
    Command::new("sh")
        .args(["-c", watch])
        .arg(folder)
        .arg(program())
        .args(["server", "--quiet", "--address", address])
        .arg(folder.join("data"))
        .arg("--certs-dir")
        .arg(certificate.unwrap_or(&folder.join("none")))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .envs(environment.iter().copied())
        .envs([("MINIO_BROWSER", "off"), ("MINIO_UPDATE", "off"), ("MINIO_CI_CD", "1")])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

fn wait_until_ready(child: &mut Child, address: &str, tls: bool) -> bool {
    let late = Instant::now() + PATIENCE;
    while Instant::now() < late && child.try_wait().unwrap().is_none() {
        // Over TLS an open port has to do; what comes too early is tried again.
        if is_ready(address) || tls && TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn is_ready(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let ask = "GET /minio/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut line = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(ask.as_bytes()).is_ok()
        && BufReader::new(stream).read_line(&mut line).is_ok()
        && line.contains(" 200 ")
}
