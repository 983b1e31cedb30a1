//! The clients of a simulated store: each does one operation after the other and checks what comes of it.

use std::time::Duration;

use dma_alloc::Buffer;
use dmacached::clock::Seconds;
use dmacached::io::sim::{Sim, SimFile};
use dmacached::io::{File, Io};
use dmacached::record::Record;
use dmacached::store::{Changed, CommitOutcome, Condition, DiskRead, Held, Meta, Obstacle, Store, Stored, Update};

use crate::model::{Fault, Item, Wrong};
use crate::plan::{Level, Op};
use crate::run::Run;
use crate::value::{bits_of, key_bytes, observe, value_bytes};

/// A value that is about to be written.
struct Offer {
    key: u8,
    stamp: u32,
    size: u32,
    meta: Meta,
}

impl Offer {
    fn bytes(&self) -> Vec<u8> {
        value_bytes(self.key, self.stamp, self.size)
    }

    fn item(&self, version: u64) -> Item {
        let Meta { expiry, client_flags: flags, own_cas, .. } = self.meta;
        Item { stamp: self.stamp, size: self.size, version, expiry, flags, own_cas }
    }
}

/// A client of a store.
pub(crate) struct Client<'a> {
    pub(crate) run: &'a Run,
    pub(crate) sim: &'a Sim,
    pub(crate) store: &'a Store<Sim>,
    /// The version that it has seen last, of any key.
    pub(crate) seen: u64,
}

type Done = Result<(), Fault>;

impl Client<'_> {
    fn moment(&self) -> (Seconds, Duration) {
        (self.sim.now(), self.sim.monotonic())
    }

    /// The model and the moment, after the operation that has just ended.
    fn arrive(&self) -> (Seconds, Duration) {
        let (now, time) = self.moment();
        self.run.look_at_world(self.sim, self.store);
        self.run.model.borrow_mut().arrive(now, time);
        (now, time)
    }

    fn offer(&self, key: u8, size: u16, ttl: u8, own_cas: bool) -> Offer {
        let size = size.into();
        let stamp = self.run.model.borrow_mut().issue(key, size);
        let expiry = if ttl == 0 { 0 } else { self.sim.now() + Seconds::from(ttl) };
        let own_cas = own_cas.then_some(u64::from(stamp) << 20);
        Offer { key, stamp, size, meta: Meta { client_flags: stamp, expiry, bits: bits_of(stamp), own_cas } }
    }

    /// Does one operation.
    pub(crate) async fn perform(&mut self, op: Op) -> Done {
        match op {
            Op::Set { key, size, ttl, own_cas } => {
                let offer = self.offer(key, size, ttl, own_cas);
                self.put(offer, Condition::Always).await
            }
            Op::Add { key, size } => self.put(self.offer(key, size, 0, false), Condition::Absent).await,
            Op::Replace { key, size, ttl } => self.put(self.offer(key, size, ttl, false), Condition::Present).await,
            Op::Cas { key, size } => self.update(self.offer(key, size, 0, false), Some(self.seen)).await,
            Op::Update { key, size } => self.update(self.offer(key, size, 0, false), None).await,
            Op::Delete { key } => self.delete(key).await,
            Op::Touch { key, ttl } => self.touch(key, ttl).await,
            Op::Get { key } => self.get(key).await,
            Op::FlushAll => self.flush_all(None).await,
            Op::FlushLater { seconds } => self.flush_all(Some(self.sim.now() + Seconds::from(seconds))).await,
            Op::Sync => self.sync().await,
            Op::Forget => {
                self.store.forget_memory().await;
                Ok(())
            }
            Op::Sleep { millis } => {
                self.sim.sleep(Duration::from_millis(millis.into())).await;
                Ok(())
            }
        }
    }

    /// A write has happened. It is acknowledged now, or when it is stable.
    async fn acknowledge(&self) -> Done {
        match self.run.plan.level {
            Level::Memory => Ok(()),
            Level::Sync => self.commit().await,
        }
    }

    /// Waits until all that has happened is on stable media, as a server does before it answers.
    async fn commit(&self) -> Done {
        let seq = self.run.model.borrow().seq();
        let group = self.store.commit();
        while group.is_some_and(|group| self.store.commit_outcome(group) == CommitOutcome::Pending) {
            self.store.progressed().await;
        }
        self.run.look_at_world(self.sim, self.store);
        match group.map(|group| self.store.commit_outcome(group)) {
            Some(CommitOutcome::Failed) if self.run.plan.fault_count() == 0 => {
                Err(Fault::new(Wrong::Outcome, "a commit fails, and the disk has not"))
            }
            Some(CommitOutcome::Failed) => Ok(()),
            _ => {
                self.run.model.borrow_mut().promise(seq);
                Ok(())
            }
        }
    }

    /// Does a write when there is room. It happens at the moment in which this ends, whatever it is acknowledged for: so the
    /// model hears of writes in their order.
    async fn when_room<T>(&self, attempt: impl Fn() -> Result<T, Obstacle<SimFile>>, refused: T) -> T {
        loop {
            match attempt() {
                Ok(output) => return output,
                Err(Obstacle::Room) => self.store.progressed().await,
                Err(_) => return refused,
            }
        }
    }

    /// Updates a record, which may have to be read first: what it is when this ends is what it was when it was decided.
    async fn when_read<T>(
        &self,
        key: &[u8],
        mut change: impl FnMut(Option<Record<'_>>, &mut Vec<u8>) -> (Update, T),
    ) -> Option<(Option<Stored>, T)> {
        if self.run.plan.level == Level::Memory {
            return self.store.update(key, change).await.ok();
        }
        let mut brought: Option<(DiskRead<SimFile>, Option<Buffer>)> = None;
        loop {
            let held = brought.as_ref().map(|(read, buffer)| Held { read, bytes: buffer.as_deref() });
            match self.store.try_update(key, held.as_ref(), &mut change) {
                Ok(output) => return Some(output),
                Err(Obstacle::Room) => self.store.progressed().await,
                Err(Obstacle::Disk(read)) => {
                    self.store.read_begins();
                    let result = read.file().read_at(read.start(), read.size(), Buffer::zeroed(read.size())).await;
                    self.store.read_ended(&read, result.as_ref().map(|(_, count)| *count));
                    brought = Some((read, result.ok().map(|(buffer, _)| buffer)));
                }
                Err(Obstacle::ReadFailed) => return None,
            }
        }
    }

    async fn sync(&self) -> Done {
        let seq = self.run.model.borrow().seq();
        self.store.flush().await;
        self.run.look_at_world(self.sim, self.store);
        self.run.model.borrow_mut().promise(seq);
        Ok(())
    }

    async fn put(&mut self, offer: Offer, condition: Condition) -> Done {
        let key = offer.key;
        let (name, bytes) = (key_bytes(key), offer.bytes());
        let stored = match self.run.plan.level {
            Level::Memory => self.store.put(&name, &bytes, offer.meta, condition).await,
            Level::Sync => {
                let put = || self.store.try_put(&name, &bytes, offer.meta, condition);
                self.when_room(put, Stored::NoSpace).await
            }
        };
        let (now, time) = self.arrive();
        match (stored, condition) {
            (Stored::NoSpace, _) => return self.refused(),
            (Stored::TooLarge, _) => return Err(Fault::new(Wrong::Outcome, format!("key {key}: too large"))),
            (_, Condition::Always) => {}
            (stored, condition) => {
                let is_there = (condition == Condition::Present) == matches!(stored, Stored::Stored(_));
                self.run.model.borrow_mut().check_now(key, is_there, now, time)?;
            }
        }
        if let Stored::Stored(version) = stored {
            self.stored(&offer, version, time)?;
            return self.acknowledge().await;
        }
        Ok(())
    }

    fn stored(&mut self, offer: &Offer, version: u64, time: Duration) -> Done {
        self.seen = version;
        let mut model = self.run.model.borrow_mut();
        model.note_version(offer.key, version)?;
        model.set(offer.key, Some(offer.item(version)), time);
        Ok(())
    }

    /// A write was refused: only a store that may not evict, or whose disk has failed, says so.
    fn refused(&self) -> Done {
        self.run.tally.borrow_mut().refused += 1;
        if self.run.plan.evict && self.run.plan.fault_count() == 0 {
            return Err(Fault::new(Wrong::Outcome, "no space in a store that may evict"));
        }
        Ok(())
    }

    async fn update(&mut self, offer: Offer, wanted: Option<u64>) -> Done {
        let (key, bytes) = (offer.key, offer.bytes());
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else { return (Update::Keep, Ok(None)) };
            let item = observe(&self.run.model.borrow(), key, &record);
            let version = record.header.version;
            if wanted.is_some_and(|wanted| wanted != version) {
                return (Update::Keep, item.map(Some));
            }
            scratch.extend_from_slice(&bytes);
            (Update::Replace(offer.meta), item.map(Some))
        };
        let result = self.when_read(&key_bytes(key), change).await;
        let (now, time) = self.arrive();
        let Some((stored, found)) = result else { return self.read_failed(key) };
        let found = found?;
        let begun = self.run.model.borrow().begin_read(now);
        self.run.model.borrow_mut().check_read(key, begun, found, now, time)?;
        self.seen = found.map_or(self.seen, |found| found.version);
        match stored {
            Some(Stored::Stored(version)) => {
                self.stored(&offer, version, time)?;
                self.acknowledge().await
            }
            Some(Stored::NoSpace) => self.refused(),
            None => Ok(()),
            other => Err(Fault::new(Wrong::Outcome, format!("key {key}: an update ends with {other:?}"))),
        }
    }

    async fn delete(&mut self, key: u8) -> Done {
        let name = key_bytes(key);
        let changed = match self.run.plan.level {
            Level::Memory => self.store.delete(&name).await,
            Level::Sync => self.when_room(|| self.store.try_delete(&name), Changed::NoSpace).await,
        };
        let (now, time) = self.arrive();
        self.changed(key, changed, None, now, time).await
    }

    async fn touch(&mut self, key: u8, ttl: u8) -> Done {
        let expiry = if ttl == 0 { 0 } else { self.sim.now() + Seconds::from(ttl) };
        let name = key_bytes(key);
        let changed = match self.run.plan.level {
            Level::Memory => self.store.touch(&name, expiry).await,
            Level::Sync => self.when_room(|| self.store.try_touch(&name, expiry), Changed::NoSpace).await,
        };
        let (now, time) = self.arrive();
        let item = self.run.model.borrow().item(key, now).map(|item| Item { expiry, ..item });
        self.changed(key, changed, item, now, time).await
    }

    async fn changed(&mut self, key: u8, changed: Changed, item: Option<Item>, now: Seconds, time: Duration) -> Done {
        if changed == Changed::NoSpace {
            return self.refused();
        }
        let is_done = changed == Changed::Done;
        self.run.model.borrow_mut().check_now(key, is_done, now, time)?;
        if is_done {
            self.run.model.borrow_mut().set(key, item, time);
            return self.acknowledge().await;
        }
        Ok(())
    }

    async fn flush_all(&mut self, due: Option<Seconds>) -> Done {
        let is_at_once = usize::from(due.is_none());
        self.run.model.borrow_mut().flushing += is_at_once;
        let changed = match self.run.plan.level {
            Level::Memory => self.store.flush_all(due).await,
            Level::Sync => self.when_room(|| self.store.try_flush_all(due), Changed::NoSpace).await,
        };
        self.run.model.borrow_mut().flushing -= is_at_once;
        let (now, time) = self.arrive();
        if changed == Changed::NoSpace {
            if due.is_none() {
                self.run.model.borrow_mut().forget(time);
            }
            return self.refused();
        }
        self.run.model.borrow_mut().flush(due.filter(|due| *due > now), time);
        self.acknowledge().await
    }

    /// Reads a key and compares.
    pub(crate) async fn get(&mut self, key: u8) -> Done {
        self.arrive();
        let begun = self.run.model.borrow().begin_read(self.sim.now());
        let found = self.look(key).await?;
        let (now, time) = self.arrive();
        let Some(found) = found else { return self.read_failed(key) };
        self.seen = found.map_or(self.seen, |found| found.version);
        self.run.model.borrow_mut().check_read(key, begun, found, now, time)
    }

    /// What a key is; `None` when the device does not deliver it.
    pub(crate) async fn look(&self, key: u8) -> Result<Option<Option<Item>>, Fault> {
        let key_name = key_bytes(key);
        let visit = |record: Record<'_>| observe(&self.run.model.borrow(), key, &record);
        match self.store.read(&key_name, visit).await {
            Ok(found) => found.transpose().map(Some),
            Err(_) => Ok(None),
        }
    }

    fn read_failed(&self, key: u8) -> Done {
        if self.run.reads_may_fail.get() {
            return Ok(());
        }
        Err(Fault::new(Wrong::Outcome, format!("key {key}: a read fails, and the disk has not")))
    }
}
