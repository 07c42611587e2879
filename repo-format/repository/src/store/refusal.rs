//! Why a server refuses, in words for the person who can change it.

/// A refusal that trying again does not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum Refusal {
    #[error("there is no bucket `{bucket}`: check its name and --endpoint, or make the bucket")]
    NoBucket { bucket: String },

    /// `right` is a name such as `s3:PutObject`.
    #[error(
        "the credentials do not have the right {right} there: grant it by the user's or the bucket's policy (`salvor init --check` tries every right)"
    )]
    NoRight { right: &'static str },

    #[error("the server does not know the access key: check AWS_ACCESS_KEY_ID or the profile")]
    UnknownKey,

    #[error(
        "the signature is wrong: check the secret key, and that nothing between here and the server rewrites requests"
    )]
    WrongSecret,

    #[error("the credentials have expired, and no newer ones were found: renew them")]
    Expired,

    #[error(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is assigned"
    )]
    NoCredentials,

    #[error(
        "this machine's clock and the server's differ by more than it allows, and following the server's did not help: set both"
    )]
    Clock,

    #[error("the bucket is in another region: give it with --region")]
    Elsewhere,

    #[error(
        "the server's certificate is not trusted: give the certificate of its authority with --ca-file, and check that the name in the URL is one of the certificate's"
    )]
    Certificate,

    #[error(
        "the object is in an archive: restore it there to a storage class that can be read, and keep lifecycle rules away from the repository"
    )]
    Archived,

    #[error(
        "the server does not honour `If-None-Match: *` on PUT{how}, so two writers could overwrite one another and nothing can be stored safely. Use a server that does (see doc/s3.md) or a newer version of this one, or keep the registers elsewhere with --registers"
    )]
    NotOnce { how: &'static str },

    #[error(
        "it is locked, or was to be locked for less long than it is: nobody can delete it or shorten its lock before that ends"
    )]
    Locked,

    #[error(
        "the bucket has no object lock: make one with object lock enabled, or leave --lock away"
    )]
    NoObjectLock,

    #[error("the server does not keep object locks: {why}. Use a server that does (see doc/s3.md)")]
    LockNotKept { why: &'static str },

    #[error(
        "there was a repository here before: its objects were deleted, and are still kept as old versions. `salvor recover` brings it back; for a new one take another prefix"
    )]
    Buried,

    #[error("the server does not support it")]
    Unsupported,

    #[error("{why}")]
    Setup { why: String },
}
