//! What a training took: the one file that differs from run to run.

use crate::error::Result;
use crate::files::write_json;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// `cost.json`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Of training and evaluation, up to the last checkpoint before each kill.
    pub seconds: f64,
    /// The most memory that the whole process has held, with all the models that it trained side by side or before; null where
    /// the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

/// Counts on where a killed training stopped.
pub(super) struct Clock {
    path: PathBuf,
    before: Cost,
    start: Instant,
}

impl Clock {
    /// Goes on with the file at `path`, if it is there.
    pub fn start(path: PathBuf) -> Self {
        let earlier = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, before: earlier.unwrap_or_default(), start: Instant::now() }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<Cost> {
        let Cost { seconds, peak_memory_bytes } = self.before;
        let seconds = seconds + self.start.elapsed().as_secs_f64();
        let cost = Cost { seconds, peak_memory_bytes: peak_memory_bytes.max(peak_memory()) };
        write_json(&self.path, &cost)?;
        Ok(cost)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.seconds)?;
        let Some(bytes) = self.peak_memory_bytes else { return Ok(()) };
        write!(f, ", and at most {:.2} GB of memory in the whole process", bytes as f64 / 1e9)
    }
}

/// The most memory that this process has held, in bytes, as Linux counts it; none where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
