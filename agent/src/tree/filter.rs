//! Which paths a backup leaves out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use super::TreeError;

/// Exclude patterns, compiled.
///
/// * `*.o` and `build/*.o` match at any depth; `/etc/fstab` only below the tree's root, which is
///   `/` here, whatever it is called outside.
/// * `cache/` matches directories only.
/// * `*`, `?` and `[…]` do not match a `/`; `**` does. `{a,b}` is either. `\` takes the next
///   character as it is.
///
/// Upper and lower case differ. A directory that matches is left out with all that it holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    any: GlobSet,
    dirs: GlobSet,
}

impl Filter {
    /// Compiles `patterns`.
    ///
    /// # Errors
    ///
    /// [`TreeError::Pattern`] for the first that is not a pattern.
    pub(super) fn new(patterns: &[String]) -> Result<Self, TreeError> {
        let (mut any, mut dirs) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let wrong = |reason: String| TreeError::Pattern { pattern: pattern.clone(), reason };
            let (body, only_dirs) = match pattern.strip_suffix('/') {
                Some(body) => (body, true),
                None => (pattern.as_str(), false),
            };
            let glob = match body.strip_prefix('/') {
                Some(anchored) => anchored.to_owned(),
                None => format!("**/{body}"),
            };
            if glob.is_empty() || body.is_empty() {
                return Err(wrong("it matches nothing".to_owned()));
            }
            let glob = GlobBuilder::new(&glob)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| wrong(error.kind().to_string()))?;
            if only_dirs {
                dirs.add(glob)
            } else {
                any.add(glob)
            };
        }
        let too_many = |error: globset::Error| TreeError::Pattern {
            pattern: patterns.join(" "),
            reason: error.to_string(),
        };
        Ok(Self { any: any.build().map_err(too_many)?, dirs: dirs.build().map_err(too_many)? })
    }

    /// Whether there is no pattern at all.
    pub(super) fn is_empty(&self) -> bool {
        self.any.is_empty() && self.dirs.is_empty()
    }

    /// Whether `path`, relative to the root, is left out.
    pub(super) fn excludes(&self, path: &[u8], is_dir: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let candidate = Candidate::new(OsStr::from_bytes(path));
        self.any.is_match_candidate(&candidate)
            || (is_dir && self.dirs.is_match_candidate(&candidate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, path: &[u8], is_dir: bool, wanted: bool) {
        let filter = Filter::new(&[pattern.to_owned()]).unwrap();
        assert_eq!(filter.excludes(path, is_dir), wanted, "{pattern} on {path:?}");
    }

    #[test]
    fn patterns_mean_what_their_description_says() {
        check("*.o", b"a.o", false, true);
        check("*.o", b"x/y/a.o", false, true);
        check("*.o", b"x/a.o/c", false, false);
        check("*.o", b"\xff\xfe.o", false, true);
        check("/a", b"a", false, true);
        check("/a", b"b/a", false, false);
        check("/a/*/c", b"a/b/c", false, true);
        check("/a/*/c", b"a/b/b/c", false, false);
        check("/a/**/c", b"a/b/b/c", false, true);
        check("a/b", b"x/a/b", false, true);
        check("cache/", b"x/cache", true, true);
        check("cache/", b"x/cache", false, false);
        check("/cache/", b"cache", true, true);
        check("{a,b}.txt", b"q/b.txt", false, true);
        check("A", b"a", false, false);
        check("a?c", b"a/c", false, false);
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for wrong in ["[", "/", "{a"] {
            let error = Filter::new(&[wrong.to_owned()]).unwrap_err();
            assert!(matches!(error, TreeError::Pattern { pattern, .. } if pattern == wrong));
        }
    }
}
