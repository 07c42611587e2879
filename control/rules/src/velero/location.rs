//! `BackupStorageLocation`.

use serde_json::{Value, json};

use super::backup::empty;
use super::read::{Fields, Notes};
use super::{Fate, Options, new_object, put};

/// Nothing for a provider whose storage is not spoken here.
pub(super) fn repository(
    root: &mut Fields<'_>,
    options: &Options,
    notes: &mut Notes<'_>,
) -> Option<Value> {
    let mut object = new_object("Repository", root, options, notes);
    let mut spec = root.map("spec").unwrap_or_else(|| empty("spec"));
    let line = spec.line_of("provider");
    let provider = spec.text("provider").unwrap_or_default();
    let provider = provider.strip_prefix("velero.io/").unwrap_or(&provider);
    if provider != "aws" {
        let message = format!("{provider:?} is not spoken; S3 and file systems are");
        notes.add(Fate::Dropped, "spec.provider", line, message);
        return None;
    }
    bucket(&mut spec, &mut object, notes);
    let profile = config(&mut spec, &mut object, notes);
    if let Some(mut credential) = spec.map("credential") {
        let name = credential.text("name").unwrap_or_default();
        let key = credential.text("key").unwrap_or_else(|| "cloud".into());
        put(&mut object, "spec.credentials", json!({ "name": name, "fileKey": key }));
        let message = format!("copy Secret {name:?} to namespace {:?}", options.namespace);
        notes.add(Fate::ToDo, "spec.credential", credential.line(), message);
        credential.ignore(&["optional"]);
        credential.finish(notes);
    } else {
        let message = "Velero uses the Secret it was installed with; name one in spec.credentials, \
                       or leave it to the environment";
        notes.add(Fate::ToDo, "spec.credential", spec.line(), message);
    }
    if let Some((profile, line)) = profile {
        if object["spec"].get("credentials").is_some() {
            put(&mut object, "spec.credentials.profile", json!(profile));
        } else {
            let message = "profile belongs to the credentials; set spec.credentials.profile";
            notes.add(Fate::ToDo, "spec.config.profile", line, message);
        }
    }
    put(&mut object, "spec.key.name", json!(options.key_secret));
    let message = format!(
        "create Secret {:?} with a passphrase of your own: everything is encrypted here",
        options.key_secret
    );
    notes.add(Fate::ToDo, "", root.line(), message);
    rest(&mut spec, &mut object, notes);
    spec.finish(notes);
    std::mem::replace(root, empty("")).finish(notes);
    Some(object)
}

/// Beside Velero's files, never among them: it refuses a location with a folder it does not know.
fn bucket(spec: &mut Fields<'_>, object: &mut Value, notes: &mut Notes<'_>) {
    let mut storage = spec.map("objectStorage").unwrap_or_else(|| empty("spec.objectStorage"));
    let bucket = storage.text("bucket").unwrap_or_default();
    let prefix = storage.text("prefix").unwrap_or_default();
    let prefix = prefix.trim_matches('/');
    let url = match prefix {
        "" => format!("s3://{bucket}-salvor"),
        prefix => format!("s3://{bucket}/{prefix}-salvor"),
    };
    let message = match prefix {
        "" => format!(
            "Velero has the whole bucket and refuses to work beside others in it: create another \
             and name it in spec.url (written: {url})"
        ),
        _ => format!("backups go to {url}; what Velero stored stays where it is and is not read"),
    };
    let fate = if prefix.is_empty() { Fate::ToDo } else { Fate::Changed };
    notes.add(fate, "spec.objectStorage", storage.line(), message);
    put(object, "spec.url", json!(url));
    if let Some(mut reference) = storage.map("caCertRef") {
        let name = reference.text("name").unwrap_or_default();
        let key = reference.text("key").unwrap_or_else(|| "ca.crt".into());
        put(object, "spec.s3.caBundle", json!({ "name": name, "key": key }));
        reference.ignore(&["optional"]);
        reference.finish(notes);
    }
    if let Some(node) = storage.take("caCert") {
        let message = "put the certificate into a Secret and name it in spec.s3.caBundle";
        notes.add(Fate::ToDo, "spec.objectStorage.caCert", node.line, message);
    }
    storage.finish(notes);
}

/// The provider's own settings. Gives the profile and its line.
fn config(
    spec: &mut Fields<'_>,
    object: &mut Value,
    notes: &mut Notes<'_>,
) -> Option<(String, u64)> {
    let mut config = spec.map("config")?;
    if let Some(region) = config.text("region") {
        put(object, "spec.s3.region", json!(region));
    }
    if let Some(endpoint) = config.text("s3Url") {
        put(object, "spec.s3.endpoint", json!(endpoint.trim_end_matches('/')));
    }
    if config.truth("s3ForcePathStyle") == Some(true) {
        put(object, "spec.s3.pathStyle", json!(true));
    }
    let table = [
        ("publicUrl", "clients read through the control plane, never from the bucket"),
        (
            "serverSideEncryption",
            "everything is encrypted before it leaves; set it on the bucket too if you must",
        ),
        (
            "kmsKeyId",
            "everything is encrypted before it leaves; set it on the bucket too if you must",
        ),
        ("customerKeyEncryptionFile", "everything is encrypted before it leaves"),
        ("customerKeyEncryptionSecret", "everything is encrypted before it leaves"),
        ("checksumAlgorithm", "checksums are chosen by what the service takes"),
        ("signatureVersion", "version 4 is what there is"),
        ("insecureSkipTLSVerify", "certificates are always verified; use spec.s3.caBundle"),
        ("tagging", "objects carry no tags"),
        ("enableSharedConfig", "the credentials file and its profile are named instead"),
        ("credentialsFile", "credentials come from a Secret"),
    ];
    for (name, why) in table {
        config.drop(name, why, notes);
    }
    let line = config.line_of("profile");
    let profile = config.text("profile");
    config.finish(notes);
    profile.map(|profile| (profile, line))
}

fn rest(spec: &mut Fields<'_>, object: &mut Value, notes: &mut Notes<'_>) {
    if spec.truth("default") == Some(true) {
        put(object, "spec.default", json!(true));
    }
    if let Some(mode) = spec.text("accessMode") {
        put(object, "spec.accessMode", json!(mode));
    }
    let (field, line, was_set) =
        ("spec.backupSyncPeriod", spec.line_of("backupSyncPeriod"), spec.has("backupSyncPeriod"));
    match spec.span("backupSyncPeriod", notes) {
        Some(period) => put(object, "spec.syncInterval", json!(period)),
        None if was_set => {
            let message = "zero switches it off in Velero; here the repository is always looked at";
            notes.add(Fate::Dropped, field, line, message);
        }
        None => {}
    }
    spec.drop("validationFrequency", "the repository is watched all the time", notes);
}
