//! Reads extended attributes, ACLs among them.

use std::io;

use repo_format::limits::XATTRS_MAX;
use repo_format::tree::Xattr;
use rustix::fd::BorrowedFd;

/// Sum of the extended attributes of one file.
const XATTRS_BYTES_MAX: usize = 2 << 20;

/// Reads extended attributes, of an open file or by a path that is not followed.
pub(super) enum Xattrs<'a> {
    Open(BorrowedFd<'a>),
    Path(Vec<u8>),
}

impl Xattrs<'_> {
    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Path(path) => rustix::fs::llistxattr(path.as_slice(), buffer),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Path(path) => rustix::fs::lgetxattr(path.as_slice(), name, buffer),
        }
    }

    /// All attributes, ascending by name; none where the file system has no such thing.
    pub(super) fn read(&self) -> io::Result<Vec<Xattr>> {
        use rustix::io::Errno;
        let names = match grow(&|buffer: &mut [u8]| self.list(buffer)) {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut xattrs = Vec::new();
        let mut bytes = 0;
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = match grow(&|buffer: &mut [u8]| self.get(name, buffer)) {
                Ok(value) => value,
                // Removed since it was listed, or listed by a file system that does not give it.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
                Err(errno) => return Err(errno.into()),
            };
            bytes += name.len() + value.len();
            if bytes > XATTRS_BYTES_MAX || xattrs.len() as u64 >= XATTRS_MAX {
                return Err(io::Error::other("they are too large for the format"));
            }
            xattrs.push(Xattr { name: name.to_vec(), value });
        }
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(xattrs)
    }
}

/// Calls with a larger and larger buffer until the answer fits; the kernel's limit is 64 KiB.
fn grow(call: &dyn Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0u8; 512];
    match call(&mut small) {
        Ok(len) => return Ok(small.get(..len).unwrap_or_default().to_vec()),
        Err(rustix::io::Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    let mut large = vec![0u8; 64 << 10];
    let len = call(&mut large)?;
    large.truncate(len);
    Ok(large)
}
