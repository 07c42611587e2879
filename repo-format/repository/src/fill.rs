//! Loading the index while a run that needs little of it goes on already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use repo_format::session::SegmentRef;

use crate::index::{Fill, Index, IndexView, SyncReport};
use crate::segments::Source;
use crate::view::View;
use crate::writer::problems;
use crate::{Repository, RepositoryError};

/// After so long what was loaded is made to count, and who waits for the index has a turn.
const STEP: Duration = Duration::from_secs(2);

/// Loads segments in a thread of its own, until it is done or dropped.
#[derive(Debug)]
pub(crate) struct Filler {
    index: Arc<Index>,
    fill: Fill,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Brings the index in line with a view for as long as `patience` lasts, and then goes on in
    /// the background if anything is left. Returns the segments that could not be read so far.
    pub(crate) fn start(
        repository: &Arc<Repository>,
        index: &Arc<Index>,
        view: &View,
        patience: Duration,
    ) -> Result<(Vec<String>, Option<Self>), RepositoryError> {
        let began = Instant::now();
        let mut view = view.index_view();
        // What is read first through a new cache is most likely of the latest backups.
        view.segments.reverse();
        let source = Source::new(repository);
        let mut is_in_time = |report: &SyncReport| report.loaded == 0 || began.elapsed() < patience;
        let (report, fill) = index.begin(&view, &source, &mut is_in_time)?;
        drop(source);
        let unreadable = problems(&report);
        let Some(fill) = fill else { return Ok((unreadable, None)) };
        leave_out(&mut view, &report);
        let ended = Arc::new(AtomicBool::new(false));
        let job = Job {
            repository: Arc::clone(repository),
            index: Arc::clone(index),
            fill,
            ended: Arc::clone(&ended),
        };
        let thread = spawn(move || job.run(view));
        if thread.is_none() {
            // Nobody will load the rest: nobody must wait for it.
            index.end_fill(fill);
        }
        Ok((unreadable, Some(Self { index: Arc::clone(index), fill, ended, thread })))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.index.end_fill(self.fill);
        if let Some(thread) = self.thread.take() {
            // The cache is sound whatever became of it.
            drop(thread.join());
        }
    }
}

fn spawn(job: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    // There, one thread at a time is an agent.
    #[cfg(test)]
    if crate::sim::here::is_simulated() {
        return None;
    }
    std::thread::Builder::new().name("index".into()).spawn(job).ok()
}

/// A segment that cannot be read now is left to the next sync.
fn leave_out(view: &mut IndexView, report: &SyncReport) {
    let lost = |segment: &SegmentRef| report.unreadable.iter().any(|(lost, _)| lost == segment);
    view.segments.retain(|segment| !lost(segment));
}

struct Job {
    repository: Arc<Repository>,
    index: Arc<Index>,
    fill: Fill,
    ended: Arc<AtomicBool>,
}

impl Job {
    fn run(&self, mut view: IndexView) {
        let source = Source::new(&self.repository);
        loop {
            let began = Instant::now();
            let mut goes_on =
                |_: &SyncReport| !self.ended.load(Ordering::Relaxed) && began.elapsed() < STEP;
            match self.index.fill(self.fill, &view, &source, &mut goes_on) {
                Ok(Some(report)) if report.left > 0 && !self.ended.load(Ordering::Relaxed) => {
                    leave_out(&mut view, &report);
                }
                Ok(_) => return,
                // Lookups find what there is; the next sync tells what is wrong.
                Err(_) => return self.index.end_fill(self.fill),
            }
        }
    }
}
