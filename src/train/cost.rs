//! What a training took: the one file that differs from run to run.

use crate::error::{Error, Result};
use crate::files::write_atomically;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;

/// Counts on where a killed training stopped.
pub(super) struct Cost {
    path: PathBuf,
    before: Figures,
    start: Instant,
}

/// `cost.json`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Figures {
    /// Of training and evaluation, up to the last checkpoint before each kill.
    seconds: f64,
    /// The most memory that the whole process has held, with all the models that it trained side by side or before; null where
    /// the system does not tell.
    peak_memory_bytes: Option<u64>,
}

impl Cost {
    /// Goes on with the file at `path`, if it is there.
    pub fn start(path: PathBuf) -> Self {
        let earlier = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, before: earlier.unwrap_or_default(), start: Instant::now() }
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> Result<()> {
        let Figures { seconds, peak_memory_bytes } = self.before;
        let seconds = seconds + self.start.elapsed().as_secs_f64();
        let figures = Figures { seconds, peak_memory_bytes: peak_memory_bytes.max(peak_memory()) };
        let text = serde_json::to_string_pretty(&figures).map_err(|e| Error::file(&self.path, e))?;
        write_atomically(&self.path, |file| writeln!(file, "{text}"))
    }
}

/// As Linux counts it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
