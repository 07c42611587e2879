//! What signatures say about bodies.

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::checksum::Sum;

/// Puts a body's SHA-256 into the signature, or says that the signature is not about the body: a
/// checksum in a signed header is then.
#[derive(Clone, Debug)]
pub(super) struct SignBody(PayloadSigningOverride);

pub(super) fn signed(sum: &Sum) -> SignBody {
    SignBody(match sum {
        Sum::Sha256(hex) => PayloadSigningOverride::Precomputed(hex.clone()),
        Sum::Crc32c(_) | Sum::Md5(_) => PayloadSigningOverride::unsigned_payload(),
    })
}

impl Intercept for SignBody {
    fn name(&self) -> &'static str {
        "SignBody"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.0.clone());
        Ok(())
    }
}
