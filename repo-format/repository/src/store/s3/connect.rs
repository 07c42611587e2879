//! A client of the SDK: credentials, region, TLS.

use std::path::Path;
use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider as Tls, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::clock::Clock;
use super::config::{S3Config, StaticCredentials};

/// Where requests go that no region was given for. The answer names the right one.
const FIRST_REGION: &str = "us-east-1";
/// A connection that was not used for so long is not trusted to be still there.
const IDLE: Duration = Duration::from_secs(20);

/// Makes a client. Credentials are looked for when the first request is sent.
///
/// * `clock`: set by every answer.
///
/// # Errors
///
/// The file of certificates cannot be read or holds none.
pub(super) async fn client(config: &S3Config, clock: &Clock) -> Result<Client, String> {
    let http = http_client(config.ca_file.as_deref())?;
    // Not the instance metadata service: asking it takes seconds where there is none.
    let region = RegionProviderChain::first_try(config.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(FIRST_REGION);
    let timeouts = TimeoutConfig::builder().connect_timeout(config.timeouts.connect).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(region)
        .timeout_config(timeouts);
    if let Some(given) = &config.credentials {
        loader = loader.credentials_provider(credentials(given));
    }
    let shared = loader.load().await;
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(config.quirks().path_style)
        .interceptor(clock.clone())
        // Tries, waits and stalls are counted here, in one place: `link`.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Checksums are ours, in headers: not every server knows trailers.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(builder.build()))
}

fn credentials(given: &StaticCredentials) -> Credentials {
    let token = given.session_token.as_ref().map(|token| token.as_str().to_owned());
    Credentials::new(&given.access_key_id, given.secret_access_key.as_str(), token, None, "salvor")
}

fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, String> {
    let mut trusted = TrustStore::default();
    if let Some(path) = ca_file {
        trusted = trusted.with_pem_certificate(certificates(path)?);
    }
    let context = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().pool_idle_timeout(IDLE);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector
            .tls_provider(Tls::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .proxy_config(ProxyConfig::from_env())
            .build()
    }))
}

/// The certificates of a PEM file, every one of which can be used.
fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let named = |what: String| format!("--ca-file {}: {what}", path.display());
    let pem = std::fs::read(path).map_err(|error| named(error.to_string()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| named(error.to_string()))?;
        RootCertStore::empty().add(certificate).map_err(|error| named(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(named("it holds no certificate in PEM".into()));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_good_certificate_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for content in ["", "no certificate", bad] {
            std::fs::write(&path, content).unwrap();
            let why = certificates(&path).unwrap_err();
            assert!(why.contains("ca.pem"), "{why}");
        }
        assert!(certificates(&folder.path().join("none")).unwrap_err().contains("none"));
    }
}
