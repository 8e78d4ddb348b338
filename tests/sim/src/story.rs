//! What happened, for a person to read: one line for each fault and each thing worth knowing, with its time.

use parking_lot::Mutex;

use crate::clock;

/// More lines than this are not kept: a run that repeats itself is told by its beginning and its failures.
const LINES_MAX: usize = 2000;

/// The lines so far.
#[derive(Debug, Default)]
pub struct Story {
    lines: Mutex<Vec<(u64, String)>>,
    aloud: bool,
}

impl Story {
    /// An empty story. `aloud`: each line is printed at once, too.
    pub fn new(aloud: bool) -> Self {
        Self { lines: Mutex::default(), aloud }
    }

    /// Tells one thing.
    pub fn tell(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(target: "sim", "{text}");
        if self.aloud {
            println!("{}", line(clock::now_us(), &text));
        }
        let mut lines = self.lines.lock();
        if lines.len() < LINES_MAX {
            lines.push((clock::now_us(), text));
        }
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.lines.lock().iter().map(|(at, text)| line(*at, text) + "\n").collect()
    }
}

fn line(at_us: u64, text: &str) -> String {
    format!("{:>9}.{:03}  {text}", at_us / 1_000_000, at_us / 1000 % 1000)
}
