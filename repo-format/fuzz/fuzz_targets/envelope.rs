//! Sealed records: what is not ours is refused, what is ours comes back, and a key holder's
//! nonsense is refused too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::envelope;
use repo_format::id::{RepositoryId, SessionId};
use repo_format::key::ObjectKey;
use repo_format::limits::RECORD_PLAIN_MAX;
use repo_format_fuzz::{SMALL, keys, within};

const REPOSITORY: RepositoryId = RepositoryId([3; 16]);
const KEY: ObjectKey = ObjectKey::Session(SessionId([4; 16]));

fuzz_target!(|bytes: &[u8]| {
    let keys = keys();
    let open = |bytes: Vec<u8>| within(SMALL, || envelope::open(&keys, &REPOSITORY, &KEY, bytes));
    assert!(open(bytes.to_vec()).is_err(), "a forgery was opened");
    let sealed = envelope::seal(&keys, &REPOSITORY, &KEY, [5; 32], bytes).unwrap();
    assert!(open(sealed.clone()).unwrap() == bytes);
    if let Some(first) = bytes.first() {
        let mut damaged = sealed;
        let at = usize::from(*first) % damaged.len();
        damaged[at] ^= 1;
        assert!(open(damaged).is_err(), "damage to byte {at} was not noticed");
    }
    let _ = within(RECORD_PLAIN_MAX + SMALL, || repo_format::fuzzing::record(bytes));
});
