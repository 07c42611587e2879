//! Paths of objects: one path for one object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::id::{ChunkId, ObjectName, SessionId};
use repo_format::key::ObjectKey;

fuzz_target!(|path: &str| {
    if let Ok(key) = path.parse::<ObjectKey>() {
        assert_eq!(key.to_string(), path);
    }
    if let Ok(name) = path.parse::<ObjectName>() {
        assert_eq!(name.to_string(), path);
    }
    if let Ok(id) = path.parse::<ChunkId>() {
        assert_eq!(id.to_string(), path);
    }
    if let Ok(id) = path.parse::<SessionId>() {
        assert_eq!(id.to_string(), path);
    }
});
