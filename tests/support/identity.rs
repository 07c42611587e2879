//! An identity provider that a server can trust, as a cluster is one: its keys over HTTP, and tokens
//! signed with them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

/// What tokens are for.
pub const AUDIENCE: &str = "salvor-test";

/// The provider. It answers for as long as the process lives.
#[derive(Debug)]
pub struct Identity {
    key: PathBuf,
    issuer: String,
}

impl Identity {
    /// Makes a key in `folder`, and answers on a port of its own.
    pub fn start(folder: &Path) -> Self {
        let key = folder.join("identity.pem");
        super::run("openssl", &["genrsa", "-out", key.to_str().unwrap(), "2048"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let about = json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/keys"),
            "authorization_endpoint": format!("{issuer}/none"),
            "token_endpoint": format!("{issuer}/none"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        });
        let modulus = Self::modulus(&key);
        let keys = json!({ "keys": [{
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "n": modulus, "e": "AQAB",
        }] });
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                answer(&client, &about.to_string(), &keys.to_string());
            }
        });
        Self { key, issuer }
    }

    /// Where a server reads about it.
    pub fn discovery(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.issuer)
    }

    /// A token that is good for an hour and carries the server's policy of that name.
    pub fn token(&self, policy: &str) -> String {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let head = json!({ "alg": "RS256", "typ": "JWT", "kid": "1" });
        let claims = json!({
            "iss": self.issuer, "sub": "agent", "aud": AUDIENCE, "azp": AUDIENCE,
            "iat": now_s, "exp": now_s + 3600, "policy": policy,
        });
        let signed = [head, claims].map(|part| base64url(part.to_string().as_bytes())).join(".");
        let line = ["dgst", "-sha256", "-sign", self.key.to_str().unwrap()];
        let signature = through("openssl", &line, signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }

    fn modulus(key: &Path) -> String {
        let line = ["rsa", "-in", key.to_str().unwrap(), "-noout", "-modulus"];
        let printed = String::from_utf8(through("openssl", &line, b"")).unwrap();
        let digits = printed.trim().strip_prefix("Modulus=").unwrap();
        let bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        base64url(&bytes)
    }
}

/// What a program prints when it is given `input`.
fn through(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

/// RFC 4648, 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

fn answer(mut client: &TcpStream, about: &str, keys: &str) {
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let asked = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let body = if asked.contains("/keys") { keys } else { about };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    drop(write!(client, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
}

/// The token service of the server at `endpoint`, which says what role was assumed, as that of AWS
/// does and the one of `MinIO` does not: the SDK of AWS demands it. Returns its URL.
pub fn roles_named(endpoint: &str) -> String {
    let server = endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let (_, request) = read_message(&client);
            let mut upstream = TcpStream::connect(&server).unwrap();
            write_message(&mut upstream, "POST / HTTP/1.1", &server, &request);
            let (first, answer) = read_message(&upstream);
            let role = "<Arn>arn:aws:sts::000000000000:assumed-role/salvor/test</Arn>";
            write_message(&mut client, &first, "sts", &answer.replace("<Arn></Arn>", role));
        }
    });
    url
}

/// First line and body of a message that says how long it is.
fn read_message(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut len) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                len = value.trim().parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    (first.trim().to_owned(), String::from_utf8(body).unwrap())
}

fn write_message(stream: &mut TcpStream, first: &str, host: &str, body: &str) {
    let kind = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close";
    let len = body.len();
    let head = format!("{first}\r\nHost: {host}\r\n{kind}\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}
