//! Random bytes from the kernel; the one source for ids, salts and nonces.

use crate::RepositoryError;

pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], RepositoryError> {
    let mut bytes = [0; N];
    #[cfg(test)]
    if crate::sim::here::fill(&mut bytes) {
        return Ok(bytes);
    }
    getrandom::fill(&mut bytes).map_err(RepositoryError::Random)?;
    Ok(bytes)
}
