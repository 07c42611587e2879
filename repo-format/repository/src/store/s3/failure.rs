//! What went wrong with one request, sorted by what helps.

use std::error::Error;
use std::fmt::Write;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::{Op, Refusal, StoreError};

use super::link::Call;

/// One failed try.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// What the server or the layers below said.
    pub(super) text: String,
    /// The bucket's region, if the answer names it.
    pub(super) region: Option<String>,
    /// Whether the answer did not say why.
    pub(super) silent: bool,
}

/// What helps.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// An answer: there is no such object, upload or part.
    Missing,
    /// An answer: the object exists.
    Exists,
    /// An answer: the range begins behind the end.
    Beyond,
    /// Another creation of the same object is going on. This one did not take place.
    Conflict,
    /// To try again.
    Passing,
    /// To try again later, and to send less.
    SlowDown,
    /// To look for newer credentials.
    Expired,
    /// To sign with the server's time.
    Skewed,
    /// To sign for another region.
    Elsewhere,
    /// The server has no room.
    Full,
    /// Nothing.
    Refused(Refusal),
    /// Nothing that is known.
    Unknown,
}

impl Failure {
    /// Whether the same request may be answered if it is sent again.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.class, Class::Conflict | Class::Passing | Class::SlowDown)
    }

    /// Whether this try changed nothing at the server, for sure.
    pub(super) fn is_certain(&self) -> bool {
        !matches!(self.class, Class::Passing | Class::SlowDown | Class::Unknown)
    }

    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self::of(Class::Passing, text)
    }

    pub(super) fn of(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into(), region: None, silent: false }
    }

    /// As the caller of the store sees it.
    pub(super) fn into_error(self, call: &Call<'_>) -> StoreError {
        let (op, at) = (call.op, call.at.clone());
        let refused = |refusal| (Box::new(refusal), std::io::Error::other(self.text.clone()));
        let (refusal, source) = match self.class {
            Class::Missing => return StoreError::Missing { at },
            Class::Exists => return StoreError::Exists { at },
            Class::Conflict | Class::Passing | Class::SlowDown => {
                let source = std::io::Error::other(self.text);
                return StoreError::Unavailable { op, at, source };
            }
            Class::Full => {
                return StoreError::Full { op, at, source: std::io::Error::other(self.text) };
            }
            Class::Beyond | Class::Unknown => {
                return StoreError::Server { op, at, source: std::io::Error::other(self.text) };
            }
            Class::Expired => refused(Refusal::Expired),
            Class::Skewed => refused(Refusal::Clock),
            Class::Elsewhere => refused(Refusal::Elsewhere),
            Class::Refused(refusal) => (Box::new(refusal), std::io::Error::other(self.text)),
        };
        StoreError::Refused { op, at, refusal, source }
    }

    /// Sorts what the SDK reports about a request of this call.
    pub(super) fn from_sdk<E>(error: &SdkError<E, HttpResponse>, call: &Call<'_>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or_default();
                let message = service.err().message().unwrap_or_default();
                Self::from_answer(service.raw(), code, message, call)
            }
            SdkError::ResponseError(response) if response.raw().status().is_client_error() => {
                Self::from_answer(response.raw(), "", "", call)
            }
            SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) => {
                let text = chain(error);
                Self::of(below(&text), text)
            }
            _ => Self::passing(chain(error)),
        }
    }

    fn from_answer(raw: &HttpResponse, code: &str, message: &str, call: &Call<'_>) -> Self {
        let status = raw.status().as_u16();
        let header = |name: &str| raw.headers().get(name);
        let named = header("x-amz-bucket-region").map(ToOwned::to_owned);
        let region = named.or_else(|| region_in(message)).filter(|region| !region.is_empty());
        let mut text = format!("the server answered {status}");
        if !code.is_empty() {
            let _ = write!(text, " {code}");
        }
        if !message.is_empty() {
            let _ = write!(text, ": {message}");
        }
        if let Some(id) = header("x-amz-request-id") {
            let _ = write!(text, " (request {id})");
        }
        let class = about_locks(code, message)
            .unwrap_or_else(|| class_of(code, status, region.as_deref(), call));
        Self { class, text, region, silent: code.is_empty() }
    }
}

/// By the code where there is one; answers to HEAD have only a status.
fn class_of(code: &str, status: u16, region: Option<&str>, call: &Call<'_>) -> Class {
    match code {
        "NoSuchKey"
        | "NoSuchUpload"
        | "NotFound"
        | "NoSuchVersion"
        | "NoSuchObjectLockConfiguration"
        | "ObjectLockConfigurationNotFoundError" => Class::Missing,
        "NoSuchBucket" => Class::Refused(Refusal::NoBucket { bucket: call.bucket.into() }),
        "PreconditionFailed" => Class::Exists,
        "InvalidRange" => Class::Beyond,
        "ConditionalRequestConflict" | "OperationAborted" => Class::Conflict,
        "SlowDown"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ServiceUnavailable"
        | "SlowDownRead"
        | "SlowDownWrite" => Class::SlowDown,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Class::Expired,
        "RequestTimeTooSkewed" | "RequestExpired" => Class::Skewed,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException"
        | "AuthorizationHeaderMalformed" => Class::Elsewhere,
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "InsufficientStorage"
        | "EntityTooLarge"
        | "XMinioAdminBucketQuotaExceeded" => Class::Full,
        // The body did not arrive as it was sent, or the request did not: the next one may.
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody"
        | "XAmzContentChecksumMismatch"
        | "RequestTimeout"
        | "InternalError" => Class::Passing,
        "InvalidAccessKeyId" | "InvalidClientTokenId" => Class::Refused(Refusal::UnknownKey),
        "SignatureDoesNotMatch" => Class::Refused(Refusal::WrongSecret),
        "InvalidObjectState" => Class::Refused(Refusal::Archived),
        "NotImplemented" | "MethodNotAllowed" => Class::Refused(Refusal::Unsupported),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => no_right(call),
        _ => class_of_status(status, region, call),
    }
}

fn class_of_status(status: u16, region: Option<&str>, call: &Call<'_>) -> Class {
    match status {
        301 | 302 | 307 => Class::Elsewhere,
        400 if region.is_some() => Class::Elsewhere,
        401 | 403 => no_right(call),
        404 => Class::Missing,
        405 | 501 => Class::Refused(Refusal::Unsupported),
        408 | 500 | 502 | 504 => Class::Passing,
        409 => Class::Conflict,
        412 => Class::Exists,
        416 => Class::Beyond,
        429 | 503 => Class::SlowDown,
        507 => Class::Full,
        _ => Class::Unknown,
    }
}

fn no_right(call: &Call<'_>) -> Class {
    Class::Refused(Refusal::NoRight { right: call.right })
}

/// Refusals that have to do with object lock: the code is one that says little.
fn about_locks(code: &str, message: &str) -> Option<Class> {
    let message = message.to_ascii_lowercase();
    let has = |word: &str| message.contains(word);
    match code {
        "InvalidRequest" if has("missing") && (has("object lock") || has("objectlock")) => {
            Some(Class::Refused(Refusal::NoObjectLock))
        }
        "InvalidRequest" if has("worm") => Some(Class::Refused(Refusal::Locked)),
        "AccessDenied" if has("object lock") => Some(Class::Refused(Refusal::Locked)),
        "ObjectLocked" => Some(Class::Refused(Refusal::Locked)),
        _ => None,
    }
}

/// What it means that no answer came.
fn below(text: &str) -> Class {
    let text = text.to_ascii_lowercase();
    let has = |word: &str| text.contains(word);
    if has("certificate") && !has("certificate store") {
        return Class::Refused(Refusal::Certificate);
    }
    if has("no credentials found in chain") || has("no providers in chain") {
        return Class::Refused(Refusal::NoCredentials);
    }
    Class::Passing
}

/// The region that a message such as «the region 'a' is wrong; expecting 'b'» expects.
fn region_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| region.to_owned())
}

/// An error and its sources in one line, nothing said twice.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        let more = below.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        source = below.source();
    }
    text
}

/// The error of a store that could not even be set up.
pub(super) fn setup(at: &str, why: impl Into<String>) -> StoreError {
    let refusal = Box::new(Refusal::Setup { why: why.into() });
    let source = std::io::Error::other("nothing was asked of the server");
    StoreError::Refused { op: Op::Open, at: at.into(), refusal, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::traffic::Action;

    fn call() -> Call<'static> {
        Call {
            op: Op::PutNew,
            action: Action::PutObject,
            right: Action::PutObject.right(),
            at: "s3://b/x".into(),
            bucket: "b",
            kind: None,
            body_bytes: 0,
        }
    }

    #[test]
    fn a_code_says_more_than_a_status() {
        let class = |code, status| class_of(code, status, None, &call());
        assert_eq!(class("NoSuchKey", 404), Class::Missing);
        assert!(matches!(class("NoSuchBucket", 404), Class::Refused(Refusal::NoBucket { .. })));
        assert_eq!(class("", 404), Class::Missing);
        assert_eq!(class("RequestTimeTooSkewed", 403), Class::Skewed);
        assert_eq!(class("ExpiredToken", 400), Class::Expired);
        assert_eq!(class("RequestTimeout", 400), Class::Passing);
        assert_eq!(class("SlowDown", 503), Class::SlowDown);
        assert_eq!(class("", 503), Class::SlowDown);
        assert_eq!(class("", 412), Class::Exists);
        assert_eq!(class("ConditionalRequestConflict", 409), Class::Conflict);
        assert_eq!(class("SomethingNew", 500), Class::Passing);
        assert_eq!(class("SomethingNew", 400), Class::Unknown);
    }

    #[test]
    fn a_refusal_names_the_action_and_the_key() {
        let failure = Failure::of(class_of("AccessDenied", 403, None, &call()), "403");
        let message = failure.into_error(&call()).to_string();
        assert!(message.contains("s3://b/x") && message.contains("s3:PutObject"), "{message}");
    }

    #[test]
    fn a_lock_is_told_from_a_missing_right() {
        let locked = Some(Class::Refused(Refusal::Locked));
        let text = "Access Denied because object protected by object lock.";
        assert_eq!(about_locks("AccessDenied", text), locked);
        let text = "Object is WORM protected and cannot be overwritten";
        assert_eq!(about_locks("InvalidRequest", text), locked);
        let text = "Bucket is missing Object Lock Configuration";
        let none = Some(Class::Refused(Refusal::NoObjectLock));
        assert_eq!(about_locks("InvalidRequest", text), none);
        assert_eq!(about_locks("AccessDenied", "Access Denied"), None);
    }

    #[test]
    fn the_region_is_found_in_the_message() {
        let message = "The authorization header is malformed; the region 'us-east-1' is wrong; \
                       expecting 'eu-west-1'";
        assert_eq!(region_in(message).as_deref(), Some("eu-west-1"));
        assert_eq!(region_in("no"), None);
    }

    #[test]
    fn certificates_and_missing_credentials_are_no_passing_trouble() {
        let text = "io error: invalid peer certificate: UnknownIssuer";
        assert_eq!(below(text), Class::Refused(Refusal::Certificate));
        assert_eq!(below("connection refused"), Class::Passing);
        let text = "other: the credential provider was not enabled: no credentials found in chain";
        assert_eq!(below(text), Class::Refused(Refusal::NoCredentials));
    }
}
