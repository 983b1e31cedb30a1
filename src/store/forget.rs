//! Having everything on disk, and nothing in memory: so that a test knows where the next get finds its record.

use super::obstacle::Obstacle;
use super::{Shared, Store};
use crate::io::Io;

impl<I: Io> Store<I> {
    /// Returns when all records written so far are on stable media and none can be read from memory any more: whoever
    /// asks for one next reads the disk. It does not end as long as others go on writing.
    ///
    /// # Errors
    /// [`Obstacle::Room`], as long as records are on their way.
    pub fn try_forget_memory(&self) -> Result<(), Obstacle<I::File>> {
        if self.shared.forget_memory() { Ok(()) } else { Err(Obstacle::Room) }
    }

    /// As [`Self::try_forget_memory`], but waits.
    pub async fn forget_memory(&self) {
        self.shared.progress.until(|| self.shared.forget_memory()).await;
    }
}

impl<I: Io> Shared<I> {
    /// Says whether it is done. If not, what is missing is on its way.
    fn forget_memory(&self) -> bool {
        {
            let mut state = self.state.borrow_mut();
            if state.closing {
                return true;
            }
            if state.sync_done < state.sync_asked {
                return false;
            }
            if state.memtable.dirty_size() == 0 && !state.unsynced {
                state.memtable.forget_written();
                state.index.evict_all();
                return true;
            }
        }
        // The flusher tells of progress when it is done; whoever waits looks again then.
        let _ = self.flush_active(true);
        false
    }
}
