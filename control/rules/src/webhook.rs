//! Whether a webhook that starts a plan is genuine, fresh, new and not one too many.
//!
//! A caller signs `TIMESTAMP.NONCE.BODY` with the plan's secret (HMAC-SHA256) and sends three
//! headers beside the body. A request is judged in the order of [`Refusal`]; what it must remember
//! is in [`Memory`], which the caller keeps and writes where a restart finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::schedule::hex;

/// Seconds since 1970, in decimal digits.
pub const HEADER_TIMESTAMP: &str = "x-salvor-timestamp";
/// What makes the request unlike any other: [`NONCE_BYTES`] printable characters.
pub const HEADER_NONCE: &str = "x-salvor-nonce";
/// `sha256=` and the signature in hexadecimal digits.
pub const HEADER_SIGNATURE: &str = "x-salvor-signature";
/// How long a nonce may be.
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=128;
/// The shortest secret.
pub const SECRET_BYTES_MIN: usize = 32;
/// The largest body that is looked at.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// How many nonces are remembered for one plan. More genuine requests in one window are refused.
pub const NONCES_MAX: usize = 4096;

/// A request, its headers as they came.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// [`HEADER_TIMESTAMP`].
    pub timestamp: Option<&'a str>,
    /// [`HEADER_NONCE`].
    pub nonce: Option<&'a str>,
    /// [`HEADER_SIGNATURE`].
    pub signature: Option<&'a str>,
    /// The body, byte for byte.
    pub body: &'a [u8],
}

/// What a plan's webhook accepts.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// Any of these secrets signs: two while one replaces the other.
    pub secrets: &'a [&'a [u8]],
    /// Events that start the plan: `model.updated`, `model.*`, `*`. Empty: any event.
    pub events: &'a [String],
    /// How far a request's time may be from ours, either way.
    pub window: Duration,
    /// How many requests are accepted at once after a quiet time.
    pub burst: u32,
    /// After so long, one more is accepted.
    pub refill: Duration,
}

/// What was accepted, kept for each plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Nonces by the second of their request.
    nonces: BTreeMap<i64, BTreeSet<String>>,
    /// When the bucket of the rate limit would be full again, in milliseconds since 1970.
    full_at_ms: i64,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Such as `model.updated`; empty if the body names none.
    #[serde(default)]
    pub event: String,
    /// What it happened to, for the run's annotations; empty if the body does not say.
    #[serde(default)]
    pub subject: String,
}

/// Why a request starts nothing, in the order of the checks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The plan's own fault.
    #[error("the plan's webhook has no secret of 32 bytes or more; create one in its Secret")]
    NoSecret,
    /// A header is missing or malformed.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// The body is larger than [`BODY_BYTES_MAX`].
    #[error("the body is larger than 64 KiB")]
    TooLarge,
    /// Not signed with any of the plan's secrets.
    #[error("the signature does not match")]
    Signature,
    /// Its time is outside the window.
    #[error(
        "the request's time differs from ours by {by_s} s; {window_s} s is the most: set the clock, or sign it again"
    )]
    Stale {
        /// How far it is off.
        by_s: u64,
        /// What is allowed.
        window_s: u64,
    },
    /// It was accepted before.
    #[error("a request with this nonce was accepted before")]
    Replayed,
    /// The body is not the JSON object that it must be.
    #[error("the body is not a JSON object whose \"event\" and \"subject\" are text")]
    Body,
    /// Genuine, and not for this plan.
    #[error("event {0:?} does not start this plan")]
    OtherEvent(String),
    /// Too many.
    #[error("too many requests; the next is accepted in {retry_after_s} s")]
    TooMany {
        /// For the header `Retry-After`.
        retry_after_s: u64,
    },
}

impl Refusal {
    /// The HTTP status that says so.
    pub const fn status(&self) -> u16 {
        match self {
            Self::NoSecret => 503,
            Self::Header(_) | Self::Body => 400,
            Self::TooLarge => 413,
            Self::Signature | Self::Stale { .. } => 401,
            Self::Replayed => 409,
            Self::OtherEvent(_) => 202,
            Self::TooMany { .. } => 429,
        }
    }
}

/// Judges a request. Only one that is accepted changes `memory`, so nobody without a secret can
/// fill it or use up the rate limit.
///
/// # Errors
///
/// [`Refusal`]. The caller shows it, but for [`Refusal::NoSecret`], to whoever asked.
pub fn judge(
    request: Request<'_>,
    rules: Rules<'_>,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Event, Refusal> {
    let signed = check_signature(request, rules.secrets)?;
    let now_s = now.as_second();
    let (by_s, window_s) = (now_s.abs_diff(signed.time_s), rules.window.as_secs());
    if by_s > window_s {
        return Err(Refusal::Stale { by_s, window_s });
    }
    let oldest_s = now_s.saturating_sub_unsigned(window_s);
    memory.nonces.retain(|time_s, _| *time_s >= oldest_s);
    if memory.nonces.values().any(|nonces| nonces.contains(signed.nonce)) {
        return Err(Refusal::Replayed);
    }
    let body: Map<String, Value> =
        serde_json::from_slice(request.body).map_err(|_| Refusal::Body)?;
    let event: Event = serde_json::from_value(body.into()).map_err(|_| Refusal::Body)?;
    if !matches_event(rules.events, &event.event) {
        return Err(Refusal::OtherEvent(event.event));
    }
    if memory.nonces.values().map(BTreeSet::len).sum::<usize>() >= NONCES_MAX {
        return Err(Refusal::TooMany { retry_after_s: window_s.max(1) });
    }
    memory.full_at_ms = take_token(memory.full_at_ms, rules, now.as_millisecond())?;
    memory.nonces.entry(signed.time_s).or_default().insert(signed.nonce.to_owned());
    Ok(event)
}

/// The signature that [`judge`] expects, for clients and their tests: what follows `sha256=`.
pub fn sign(secret: &[u8], timestamp: &str, nonce: &str, body: &[u8]) -> String {
    let digest = mac(secret, timestamp, nonce, body).finalize().into_bytes();
    hex(&digest)
}

/// Whether an event is one of those wanted: equal, or below a pattern that ends in `.*`, or `*`.
pub fn matches_event(wanted: &[String], event: &str) -> bool {
    wanted.is_empty()
        || wanted.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some("") => true,
            Some(prefix) if prefix.ends_with('.') => {
                event.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty())
            }
            _ => pattern == event,
        })
}

/// What a genuine request says of itself.
struct Signed<'a> {
    time_s: i64,
    nonce: &'a str,
}

fn check_signature<'a>(request: Request<'a>, secrets: &[&[u8]]) -> Result<Signed<'a>, Refusal> {
    let mut secrets = secrets.iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN).peekable();
    if secrets.peek().is_none() {
        return Err(Refusal::NoSecret);
    }
    if request.body.len() > BODY_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let is_digits =
        |text: &&str| text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp = request.timestamp.filter(is_digits).ok_or(Refusal::Header(HEADER_TIMESTAMP))?;
    let time_s = timestamp.parse().map_err(|_| Refusal::Header(HEADER_TIMESTAMP))?;
    // A dot would let a nonce pass for the beginning of a body.
    let is_nonce = |text: &&str| {
        NONCE_BYTES.contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.')
    };
    let nonce = request.nonce.filter(is_nonce).ok_or(Refusal::Header(HEADER_NONCE))?;
    let signature = request.signature.and_then(|text| text.strip_prefix("sha256=")).and_then(unhex);
    let signature = signature.ok_or(Refusal::Header(HEADER_SIGNATURE))?;
    let is_genuine = secrets
        .any(|secret| mac(secret, timestamp, nonce, request.body).verify_slice(&signature).is_ok());
    if is_genuine { Ok(Signed { time_s, nonce }) } else { Err(Refusal::Signature) }
}

fn mac(secret: &[u8], timestamp: &str, nonce: &str, body: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
    for part in [timestamp.as_bytes(), b".", nonce.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A bucket of `burst` tokens, one more each `refill`, kept as the time when it is full again.
fn take_token(full_at_ms: i64, rules: Rules<'_>, now_ms: i64) -> Result<i64, Refusal> {
    let refill_ms = i64::try_from(rules.refill.as_millis()).unwrap_or(i64::MAX).max(1);
    let depth_ms = refill_ms.saturating_mul(i64::from(rules.burst.max(1)));
    // A clock that was set back must not lock the plan for longer than an empty bucket does.
    let full_at_ms = full_at_ms.clamp(now_ms, now_ms.saturating_add(depth_ms));
    let next_ms = full_at_ms.saturating_add(refill_ms);
    let over_ms = next_ms.saturating_sub(now_ms).saturating_sub(depth_ms);
    if over_ms > 0 {
        return Err(Refusal::TooMany { retry_after_s: over_ms.unsigned_abs().div_ceil(1000) });
    }
    Ok(next_ms)
}
