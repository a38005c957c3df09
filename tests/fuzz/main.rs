//! Readers of files against files that lie: whatever a file holds, a reader ends with a value or an error, in time, and without
//! more memory than files of that size have a use for.
//!
//! `FAIR_MOE_FUZZ=3600 cargo test --release --features cli,model --test fuzz -- --nocapture` does so for an hour; `FAIR_MOE_FUZZ_SEED`
//! chooses other files. A file that a reader fails on is left where the failure says.
#![cfg(all(feature = "cli", feature = "model"))]

mod allocator;
mod mutate;
mod readers;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use readers::Reader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The longest that a reader may take, even where nothing is optimised and other programs run.
const LONGEST: Duration = Duration::from_secs(30);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a whole number"))
}

#[test]
fn hostile_files_end_in_values_or_errors() {
    // One for each process: several may fuzz at once.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let readers = readers::all(&folder);
    let share = Duration::from_secs(number("FAIR_MOE_FUZZ", 12)) / readers.len() as u32;
    let watch = Watch::new();
    for reader in &readers {
        let mut random = Pcg64::seed_from_u64(number("FAIR_MOE_FUZZ_SEED", 0));
        let mut most = reader.seeds.iter().map(|whole| try_file(reader, whole, &watch)).max().unwrap();
        let (start, mut files) = (Instant::now(), 0);
        while start.elapsed() < share {
            let file = mutate::damaged(reader.format, &reader.seeds, &mut random);
            most = most.max(try_file(reader, &file, &watch));
            files += 1;
        }
        println!("{:<12} {files:>8} files, at most {:.1} MiB", reader.name, most as f64 / (1 << 20) as f64);
    }
    // What is left of a failure stays.
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Has a file read, and tells how many bytes were held for it.
fn try_file(reader: &Reader, file: &[u8], watch: &Watch) -> usize {
    std::fs::write(&reader.path, file).unwrap();
    let path = reader.path.display();
    let mut result = Ok(());
    watch.start();
    let held = allocator::peak(|| result = catch_unwind(AssertUnwindSafe(|| (reader.read)(&reader.path))));
    watch.stop();
    assert!(result.is_ok(), "the reader of {} panics at {path}", reader.name);
    let most = reader.room + 64 * file.len();
    assert!(held <= most, "the reader of {} holds {held} bytes for the {} of {path}; {most} are enough", reader.name, file.len());
    held
}

/// Ends the program when a reader takes too long.
struct Watch(Instant);

/// Milliseconds from the watch's beginning to when the reader must be done; 0 when none is at work.
static DUE: AtomicU64 = AtomicU64::new(0);

impl Watch {
    fn new() -> Self {
        let origin = Instant::now();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let due = DUE.load(SeqCst);
                if due != 0 && origin.elapsed().as_millis() as u64 > due {
                    eprintln!("a reader takes more than {LONGEST:?}; its file lies under {}", env!("CARGO_TARGET_TMPDIR"));
                    std::process::exit(1);
                }
            }
        });
        Self(origin)
    }

    fn start(&self) {
        DUE.store((self.0.elapsed() + LONGEST).as_millis() as u64, SeqCst);
    }

    fn stop(&self) {
        DUE.store(0, SeqCst);
    }
}
