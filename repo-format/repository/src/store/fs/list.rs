//! Listing, one folder at a time, with memory for one block of names.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use repo_format::key::{ObjectKey, Prefix};
use rustix::fs::{AtFlags, FileType, RawDir, statat};
use rustix::io::Errno;

use super::FsStore;
use crate::store::{Listed, Op, StoreError, Strangers};

/// Room for the names that one call to the kernel returns: a few hundred of ours.
const NAMES_BYTES: usize = 64 << 10;

impl FsStore {
    pub(super) fn list_objects(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        let registers = matches!(prefix, Prefix::Catalogs | Prefix::Commits);
        let mut seen = Vec::new();
        let mut others = Strangers::default();
        let mut strangers = self.walk(Op::List, prefix, &mut |folder, name, key| {
            match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    if registers && seen.len() < super::DURABLE_MAX {
                        seen.push(key);
                    }
                    visit(Listed { key, size_bytes: u64::try_from(stat.st_size).unwrap_or(0) })
                }
                Ok(_) => {
                    others.add(self.at(&key.to_string()));
                    Ok(())
                }
                // Deleted since the folder was read.
                Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(self.error(Op::List, &key.to_string(), errno)),
            }
        })?;
        // One sync for all, so that reading each of them needs none. If it fails, reading reports it.
        if !seen.is_empty() && self.sync_folder(Op::List, prefix.folder()).is_ok() {
            self.remember_durable(seen);
        }
        strangers.count += others.count;
        strangers.example = strangers.example.or(others.example);
        Ok(strangers)
    }

    pub(super) fn first_object(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        let mut first: Option<(String, ObjectKey)> = None;
        self.walk(Op::ListFirst, prefix, &mut |_, _, key| {
            let path = key.to_string();
            if first.as_ref().is_none_or(|(smallest, _)| path < *smallest) {
                first = Some((path, key));
            }
            Ok(())
        })?;
        Ok(first.map(|(_, key)| key))
    }

    /// Shows `visit` every name under `prefix` that is an object's, with the open folder it is in.
    fn walk(
        &self,
        op: Op,
        prefix: Prefix,
        visit: &mut dyn FnMut(&OwnedFd, &CStr, ObjectKey) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        let mut strangers = Strangers::default();
        if prefix != Prefix::Packs {
            self.walk_folder(op, prefix.folder(), &mut strangers, visit)?;
            return Ok(strangers);
        }
        let mut fan_outs = [false; 256];
        self.each_name(op, prefix.folder(), &mut |_, name, kind| {
            match name.to_str().ok().filter(|name| is_fan_out(name)) {
                Some(name) if matches!(kind, FileType::Directory | FileType::Unknown) => {
                    let number = u8::from_str_radix(name, 16).unwrap_or_default();
                    fan_outs[usize::from(number)] = true;
                }
                _ => strangers.add(self.at_name(prefix.folder(), name)),
            }
            Ok(())
        })?;
        for number in (0..=u8::MAX).filter(|number| fan_outs[usize::from(*number)]) {
            let folder = format!("{}/{number:02x}", prefix.folder());
            self.walk_folder(op, &folder, &mut strangers, visit)?;
        }
        Ok(strangers)
    }

    fn walk_folder(
        &self,
        op: Op,
        folder: &str,
        strangers: &mut Strangers,
        visit: &mut dyn FnMut(&OwnedFd, &CStr, ObjectKey) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.each_name(op, folder, &mut |open, name, kind| {
            let key = name.to_str().ok().and_then(|name| format!("{folder}/{name}").parse().ok());
            match key {
                Some(key) if matches!(kind, FileType::RegularFile | FileType::Unknown) => {
                    visit(open, name, key)
                }
                _ => {
                    strangers.add(self.at_name(folder, name));
                    Ok(())
                }
            }
        })
    }

    /// Shows `visit` every name in a folder except the two dots. A folder that is not there is
    /// empty.
    pub(super) fn each_name(
        &self,
        op: Op,
        folder: &str,
        visit: &mut dyn FnMut(&OwnedFd, &CStr, FileType) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let open = match self.open_folder(op, folder) {
            Ok(open) => open,
            Err(StoreError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        Self::refresh_open(&open);
        let mut buffer = Vec::with_capacity(NAMES_BYTES);
        let mut names = RawDir::new(&open, buffer.spare_capacity_mut());
        while let Some(entry) = names.next() {
            let entry = entry.map_err(|errno| self.error(op, folder, errno))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                visit(&open, entry.file_name(), entry.file_type())?;
            }
        }
        Ok(())
    }

    fn at_name(&self, folder: &str, name: &CStr) -> String {
        self.at(&format!("{folder}/{}", name.to_string_lossy()))
    }
}

fn is_fan_out(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}
