use crate::volume::{Engine, RingState, VolumeError, probe};

#[test]
fn there_is_always_an_engine_and_a_reason() {
    let choice = probe(None).unwrap();
    assert!(!choice.why.is_empty());
    assert_eq!(choice.engine == Engine::Uring, choice.ring == RingState::Works, "{choice:?}");
}

#[test]
fn a_wish_is_kept() {
    assert_eq!(probe(Some(Engine::Pread)).unwrap().engine, Engine::Pread);
    assert_eq!(Engine::parse("auto").unwrap(), None);
    for engine in super::kit::ENGINES {
        assert_eq!(Engine::parse(&engine.to_string()).unwrap(), Some(engine));
    }
    let error = Engine::parse("aio").unwrap_err();
    assert!(matches!(error, VolumeError::UnknownEngine { .. }));
}

/// As containerd's and Docker's default profiles do, for this thread and those it starts.
fn forbid_io_uring() {
    let load_number = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let if_setup = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: number };
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let returns = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut filter = [load_number, if_setup, returns(refuse), returns(libc::SECCOMP_RET_ALLOW)];
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: the calls copy what they are given and change the calling thread only.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(refused, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_seccomp_profile_without_io_uring_is_recognised() {
    std::thread::spawn(|| {
        forbid_io_uring();
        let choice = probe(None).unwrap();
        assert_eq!((choice.engine, choice.ring), (Engine::Pread, RingState::Forbidden));
        assert!(choice.why.contains("seccomp"), "{}", choice.why);
        let error = probe(Some(Engine::Uring)).unwrap_err().to_string();
        assert!(error.contains("seccomp") && error.contains("pread"), "{error}");
    })
    .join()
    .unwrap();
}
