//! The simulated store as one process of an agent sees it.

use std::sync::Arc;

use repo_format::key::{ObjectKey, Prefix};

use super::request::{Request, Target, Write, unknown};
use super::world::{Who, World};
use crate::store::{Listed, Memory, Op, Store, StoreError, Strangers, Swept};

#[derive(Debug)]
pub(super) struct SimStore {
    world: Arc<World>,
    who: Who,
}

impl SimStore {
    /// The store for the agent's present process.
    pub(super) fn new(world: &Arc<World>, agent: usize) -> Self {
        Self { world: Arc::clone(world), who: world.who(agent) }
    }

    fn request<T>(
        &self,
        op: Op,
        target: Target,
        write: Option<&Write>,
        carry_out: impl FnOnce(&Memory) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let unknown = || unknown(op, format!("{target:?}"));
        let Ok(turn) = self.world.turn(self.who, Request { op, target }) else {
            return Err(unknown());
        };
        turn.finish(write, || carry_out(&self.world.objects), unknown)
    }

    fn read<T>(
        &self,
        op: Op,
        key: &ObjectKey,
        carry_out: impl FnOnce(&Memory) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.request(op, Target::Object(*key), None, carry_out)
    }

    fn write(&self, write: &Write) -> Result<(), StoreError> {
        let target = Target::Object(*write.key());
        self.request(write.op(), target, Some(write), |objects| write.apply(objects))
    }
}

impl Store for SimStore {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.read(Op::Get, key, |objects| objects.get(key, limit_bytes))
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        self.read(Op::GetRange, key, |objects| objects.get_range(key, offset_bytes, buf))
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.write(&Write::PutNew(*key, body.into()))
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.write(&Write::Put(*key, body.into()))
    }

    /// In pages, each of one moment, as a bucket is listed (A2).
    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        let mut last: Option<String> = None;
        loop {
            let page = self.request(Op::List, Target::All(prefix), None, |objects| {
                let mut rest = Vec::new();
                objects.list(prefix, &mut |listed| {
                    if last.as_ref().is_none_or(|last| listed.key.to_string() > *last) {
                        rest.push(listed);
                    }
                    Ok(())
                })?;
                Ok(rest)
            })?;
            let is_last = page.len() <= self.world.page();
            for listed in page.into_iter().take(self.world.page()) {
                last = Some(listed.key.to_string());
                visit(listed)?;
            }
            if is_last {
                return Ok(Strangers::default());
            }
        }
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.request(Op::ListFirst, Target::All(prefix), None, |objects| objects.list_first(prefix))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.write(&Write::Delete(*key))
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.read(Op::Size, key, |objects| objects.size(key))
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    fn describe(&self) -> String {
        "simulation".into()
    }
}
