//! What a person or a program sees while a command runs.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::args::Global;
use super::units;

const DRAW_EVERY: Duration = Duration::from_millis(200);
const JSON_EVERY: Duration = Duration::from_secs(1);

/// Where messages go: results to standard output, everything else to standard error.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent choices of the user")]
pub(crate) struct Ui {
    pub(crate) json: bool,
    verbose: bool,
    json_progress: bool,
    quiet: bool,
    bar: bool,
}

/// How far a run is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// Of `total`.
    pub(crate) done: u64,
    /// Zero: not known yet.
    pub(crate) total: u64,
    /// Whether `done` and `total` are bytes, else things.
    pub(crate) in_bytes: bool,
    /// A few words more.
    pub(crate) message: String,
    /// Further numbers for programs.
    pub(crate) extra: Value,
}

impl Ui {
    pub(crate) fn new(global: &Global) -> Self {
        let bar = std::io::stderr().is_terminal() && !global.quiet && !global.json;
        Self {
            json: global.json,
            verbose: std::env::var_os("SALVOR_LOG").is_some(),
            json_progress: global.json && global.progress,
            quiet: global.quiet,
            bar,
        }
    }

    /// A result for people. With `--json` the caller prints an object instead.
    pub(crate) fn say(&self, text: &str) {
        if !self.json && !self.quiet {
            self.print(text);
        }
    }

    /// What was asked for: printed even when quiet.
    #[expect(clippy::unused_self, reason = "one way to say things, wherever they go")]
    pub(crate) fn print(&self, text: &str) {
        // A reader that went away (`salvor ls | head`) is no reason to complain.
        drop(writeln!(std::io::stdout().lock(), "{text}"));
    }

    /// A result for programs.
    pub(crate) fn object(&self, value: &Value) {
        if self.json {
            self.print(&value.to_string());
        }
    }

    /// Something worth knowing that is nobody's fault.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }

    /// Something that is not as it should be.
    #[expect(clippy::unused_self, reason = "one way to say things, wherever they go")]
    pub(crate) fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }

    /// For who looks into a problem: shown if `SALVOR_LOG` is set.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            eprintln!("detail: {text}");
        }
    }

    /// Runs `work` while showing what `status` says, until it ends.
    pub(crate) fn watch<T>(
        &self,
        what: &str,
        status: impl Fn() -> Status + Sync,
        work: impl FnOnce() -> T,
    ) -> T {
        if !self.bar && !self.json_progress {
            return work();
        }
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let drawer = scope.spawn(|| self.draw(what, &status, &ended));
            let result = work();
            ended.store(true, Ordering::Release);
            drawer.thread().unpark();
            result
        })
    }

    fn draw(&self, what: &str, status: &(impl Fn() -> Status + Sync), ended: &AtomicBool) {
        let started = Instant::now();
        let every = if self.json_progress { JSON_EVERY } else { DRAW_EVERY };
        let bar = self.bar.then(|| new_bar(what));
        loop {
            std::thread::park_timeout(every);
            if ended.load(Ordering::Acquire) {
                break;
            }
            let status = status();
            match &bar {
                Some(bar) => update(bar, &status),
                None => self.print(&progress_line(what, &status, started).to_string()),
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}

fn progress_line(what: &str, status: &Status, started: Instant) -> Value {
    json!({
        "type": "progress",
        "what": what,
        "seconds": started.elapsed().as_secs_f64(),
        "done": status.done,
        "total": status.total,
        "unit": if status.in_bytes { "bytes" } else { "items" },
        "counters": status.extra,
    })
}

fn new_bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what.to_owned());
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    bar
}

fn update(bar: &ProgressBar, status: &Status) {
    let template = match (status.in_bytes, status.total > 0) {
        (true, true) => {
            "{prefix}{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} eta {eta}"
        }
        (true, false) => "{spinner} {bytes} {binary_bytes_per_sec} {msg} {elapsed}",
        (false, true) => "{prefix}{wide_bar} {human_pos}/{human_len} {msg} eta {eta}",
        (false, false) => "{spinner} {human_pos} {msg} {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_length(status.total.max(status.done));
    bar.set_position(status.done);
    bar.set_message(status.message.clone());
}

/// How new data relates to all data, for a progress line.
pub(crate) fn saved_so_far(read: u64, new: u64, stored: u64) -> String {
    format!(
        "new {} stored {} of {} read",
        units::bytes(new),
        units::bytes(stored),
        units::bytes(read)
    )
}
