//! Progress on standard error: a bar with rate and time left, only where a person can see it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netweight_pack::Progress;

use crate::ui::Ui;

const BAR: &str = "{msg:<10} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
const COUNT: &str = "{msg:<10} {spinner} {decimal_bytes} {decimal_bytes_per_sec}, {elapsed}";

/// A progress bar that goes away when it is dropped.
pub struct Bar {
    bar: ProgressBar,
    is_shown: bool,
}

impl Bar {
    /// For a verb that goes through all the bytes it announces.
    pub fn new(ui: &Ui, doing: &'static str) -> Bar {
        Bar::with_template(ui, doing, BAR)
    }

    /// For a verb that stops when it knows enough.
    pub fn counting(ui: &Ui, doing: &'static str) -> Bar {
        Bar::with_template(ui, doing, COUNT)
    }

    fn with_template(ui: &Ui, doing: &'static str, template: &str) -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_message(doing);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Bar { bar, is_shown: ui.shows_progress() }
    }
}

impl Progress for Bar {
    fn start(&self, total_bytes: u64) {
        if self.is_shown {
            self.bar.set_length(total_bytes);
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.reset();
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
    }

    fn advance(&self, bytes: u64) {
        if self.is_shown {
            self.bar.inc(bytes);
        }
    }

    fn note(&self, text: &str) {
        if self.is_shown {
            self.bar.println(text);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
