//! Trying out whether the server keeps the one promise that everything rests on: of all who create
//! an object only one succeeds.
//!
//! A server that does not know `If-None-Match` on PUT ignores it, and then two writers overwrite
//! one another without a word. So nothing is created before it was seen to refuse.

use std::time::Duration;

use futures_util::future::join_all;
use repo_format::key::Prefix;

use super::S3Store;
use super::object::{Object, nonce};
use super::parts::Completed;
use super::put::Mode;
use crate::store::{Op, Refusal, StoreError};

/// It stays there: from the second process on, one request is the whole probe, and nobody needs
/// the right to delete.
const QUICK: &str = "create-once";
const QUICK_BODY: &[u8] = b"here as long as the repository; see doc/s3.md of Salvor";
/// Creators at once, and how long each takes for its body.
const CREATORS: usize = 8;
const CREATOR_BODY_BYTES: usize = 64 << 10;
const CREATOR_PAUSE: Duration = Duration::from_millis(40);

impl S3Store {
    /// Refuses a server that creates twice. Asks once in the life of this store.
    pub(super) async fn require_create_once(&self) -> Result<(), StoreError> {
        self.creates_once.get_or_try_init(|| self.probe_quickly()).await.copied()
    }

    async fn probe_quickly(&self) -> Result<(), StoreError> {
        let object = self.scratch(QUICK);
        for _ in 0..2 {
            let number = nonce(Op::Open, &self.place.url(&object.name))?;
            match self.put_quick(&object, &number).await {
                Err(StoreError::Exists { .. }) => return Ok(()),
                Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.not_once(""))
    }

    async fn put_quick(&self, object: &Object, number: &str) -> Result<(), StoreError> {
        let mode = Mode::Create(number);
        self.put_whole(Op::Open, object, QUICK_BODY, mode, None, &mut false).await
    }

    /// Several creators at once, each slow, so that all have begun before any is done: a server
    /// that looks first and writes later lets more than one through.
    pub(super) async fn probe_race(&self) -> Result<(), StoreError> {
        let object = self.scratch(&format!("race-{}", nonce(Op::Open, &self.describe_place())?));
        let bodies: Vec<Vec<u8>> =
            (0u8..).take(CREATORS).map(|n| vec![n; CREATOR_BODY_BYTES]).collect();
        let creations = bodies
            .iter()
            .map(|body| self.create_whole(Op::Open, &object, body, Some(CREATOR_PAUSE)));
        let answers = join_all(creations).await;
        let stored = self.read_whole(Op::Open, &object, CREATOR_BODY_BYTES as u64).await;
        self.remove(&object).await?;
        let mut winners = Vec::new();
        for (body, answer) in bodies.iter().zip(answers) {
            match answer {
                Ok(()) => winners.push(body),
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match (winners.as_slice(), stored) {
            ([winner], Ok(stored)) if stored == **winner => Ok(()),
            (_, Err(error)) => Err(error),
            _ => Err(self.not_once(" when several come at once")),
        }
    }

    /// Whether completing an upload in parts creates only once, too. Where it does not, bodies of
    /// any length are sent whole. Asked once in the life of this store.
    pub(super) async fn parts_create_once(&self) -> Result<bool, StoreError> {
        let asked = self.parts_once.get_or_try_init(|| self.probe_parts()).await;
        asked.copied()
    }

    /// Completes an upload to the name of an object that is there.
    async fn probe_parts(&self) -> Result<bool, StoreError> {
        self.require_create_once().await?;
        let object = self.scratch(QUICK);
        let number = nonce(Op::Open, &self.place.url(&object.name))?;
        // It may have been removed since; without it the probe would prove nothing.
        let there = self.put_quick(&object, &number).await;
        if !matches!(there, Ok(()) | Err(StoreError::Exists { .. })) {
            return there.map(|()| false);
        }
        let upload = match self.begin(&object).await {
            Ok(upload) => upload,
            Err(StoreError::Refused { refusal, .. }) if *refusal == Refusal::Unsupported => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let done = match self.send_part(&object, &upload, 1, QUICK_BODY).await {
            Ok(part) => self.complete(&object, &upload, vec![part], &mut false).await,
            Err(error) => Err(error),
        };
        match done {
            Err(StoreError::Exists { .. }) => {
                self.abort(&object, &upload).await;
                Ok(true)
            }
            // It was replaced; by the same bytes.
            Ok(Completed::Created) => Ok(false),
            Ok(Completed::Unknown)
            | Err(StoreError::Server { .. } | StoreError::Refused { .. }) => {
                self.abort(&object, &upload).await;
                Ok(false)
            }
            Err(error) => {
                self.abort(&object, &upload).await;
                Err(error)
            }
        }
    }

    fn not_once(&self, how: &'static str) -> StoreError {
        StoreError::Refused {
            op: Op::Open,
            at: self.describe_place(),
            refusal: Box::new(Refusal::NotOnce { how }),
            source: std::io::Error::other("a second creation was not refused with 412"),
        }
    }

    pub(super) fn describe_place(&self) -> String {
        self.place.to_string()
    }

    /// An object to try things out with, of a name that is listed under `p/`.
    pub(super) fn listed_scratch(&self, name: &str) -> Object {
        let name = format!("{}{}/{name}", self.place.prefix, Prefix::Packs.folder());
        Object { name, kind: None, storage_class: None, lock: None }
    }
}
