//! Compiled kernels on disk, one file each: found again without NVRTC, ignored and written anew when damaged.

use super::nvrtc::{Image, Version};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the folder, or is `off`.
pub const VARIABLE: &str = "FAIR_MOE_CACHE";

/// What every entry begins with; a change of the format changes it.
const MAGIC: &[u8; 8] = b"fairmoe2";

/// A folder of compiled kernels. Several processes may share it.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In that folder, which is made when something is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The user's, or none where it is off or there is no home.
    pub fn of_user() -> Option<Self> {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match path(VARIABLE) {
            Some(off) if off.as_os_str() == "off" => None,
            Some(folder) => Some(Self { folder }),
            None => {
                let caches = path("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
                let caches = caches.or_else(|| path("HOME").map(|home| home.join(".cache")))?;
                Some(Self { folder: caches.join("fair-moe") })
            }
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many entries it has, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let cubins = entries.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "cubin"));
        cubins.filter_map(|entry| entry.metadata().ok()).fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.len()))
    }

    /// The entry of that key which that compiler wrote.
    pub fn get(&self, key: &blake3::Hash, nvrtc: Version) -> Option<Image> {
        decode(&fs::read(self.path(key, nvrtc)).ok()?, key).filter(|image| image.nvrtc == nvrtc)
    }

    /// The entry of that key by the newest compiler whose major is at most that.
    pub fn newest(&self, key: &blake3::Hash, major: u32) -> Option<Image> {
        let start = format!("{}-", key.to_hex());
        let version = |name: OsString| {
            let (major, minor) = name.to_str()?.strip_prefix(&start)?.strip_suffix(".cubin")?.split_once('.')?;
            Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
        };
        let entries = fs::read_dir(&self.folder).ok()?.flatten();
        let mut versions: Vec<Version> =
            entries.filter_map(|entry| version(entry.file_name())).filter(|v| v.major <= major).collect();
        versions.sort();
        versions.iter().rev().find_map(|&version| self.get(key, version))
    }

    /// Keeps an entry: written under a name of its own, then renamed, so that nobody ever sees half of it.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn put(&self, key: &blake3::Hash, image: &Image) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let partial = self.folder.join(format!(".{}-{number}.partial", std::process::id()));
        let written = fs::write(&partial, encode(image, key)).and_then(|()| fs::rename(&partial, self.path(key, image.nvrtc)));
        written.inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })
    }

    fn path(&self, key: &blake3::Hash, nvrtc: Version) -> PathBuf {
        self.folder.join(format!("{}-{nvrtc}.cubin", key.to_hex()))
    }
}

/// MAGIC, the checksum of all that follows, the key, the compiler's version and seconds, the log's length, the log, the cubin.
fn encode(image: &Image, key: &blake3::Hash) -> Vec<u8> {
    let mut body = key.as_bytes().to_vec();
    body.extend(image.nvrtc.major.to_le_bytes());
    body.extend(image.nvrtc.minor.to_le_bytes());
    body.extend(image.seconds.to_le_bytes());
    body.extend((image.log.len() as u64).to_le_bytes());
    body.extend(image.log.as_bytes());
    body.extend(&image.cubin);
    [&MAGIC[..], blake3::hash(&body).as_bytes(), &body].concat()
}

/// None for anything that `encode` has not written for this key.
fn decode(bytes: &[u8], key: &blake3::Hash) -> Option<Image> {
    let (checksum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if blake3::hash(body) != *checksum {
        return None;
    }
    let (of, rest) = body.split_first_chunk::<32>()?;
    let (major, rest) = rest.split_first_chunk()?;
    let (minor, rest) = rest.split_first_chunk()?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (log, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let nvrtc = Version { major: u32::from_le_bytes(*major), minor: u32::from_le_bytes(*minor) };
    let image =
        Image { cubin: cubin.to_vec(), log: str::from_utf8(log).ok()?.to_owned(), seconds: f64::from_le_bytes(*seconds), nvrtc };
    (key == of).then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(minor: u32) -> Image {
        let log = "ptxas info    : Used 38 registers\n".into();
        Image { cubin: vec![minor as u8; 1000], log, seconds: 0.25, nvrtc: Version { major: 13, minor } }
    }

    #[test]
    fn the_folder_is_the_users_choice() {
        let of = |set: &[(&str, &str)]| {
            let cache = Cache::of(|name| set.iter().find(|one| one.0 == name).map(|one| one.1.into()));
            cache.map(|cache| cache.folder().to_str().unwrap().to_owned())
        };
        assert_eq!(of(&[("HOME", "/h")]).as_deref(), Some("/h/.cache/fair-moe"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).as_deref(), Some("/x/fair-moe"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), (VARIABLE, "/c")]).as_deref(), Some("/c"));
        assert_eq!(of(&[("HOME", "/h"), (VARIABLE, "off")]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn an_entry_is_found_by_its_compiler_or_as_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("made/when/needed"));
        let (key, other) = (blake3::hash(b"one"), blake3::hash(b"other"));
        assert_eq!(cache.newest(&key, 13), None);
        for minor in [9, 10, 2] {
            cache.put(&key, &image(minor)).unwrap();
        }
        assert_eq!(cache.get(&key, image(2).nvrtc), Some(image(2)));
        assert_eq!(cache.newest(&key, 13), Some(image(10)));
        assert_eq!(cache.newest(&key, 12), None, "a driver of CUDA 12 cannot run what NVRTC 13 made");
        assert_eq!(cache.newest(&other, 13), None);
        assert_eq!(cache.size().0, 3);
    }

    #[test]
    fn damaged_and_foreign_entries_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let key = blake3::hash(b"one");
        cache.put(&key, &image(2)).unwrap();
        let path = cache.path(&key, image(2).nvrtc);
        let whole = fs::read(&path).unwrap();
        let ignored = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            assert_eq!(cache.get(&key, image(2).nvrtc), None);
            assert_eq!(cache.newest(&key, 13), None);
        };
        for length in 0..whole.len() {
            ignored(&whole[..length]);
        }
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            ignored(&changed);
        }
        ignored(&[&whole[..], b"more"].concat());
        ignored(&encode(&image(2), &blake3::hash(b"other")));
        ignored(&encode(&image(1), &key));
        cache.put(&key, &image(2)).unwrap();
        assert_eq!(cache.get(&key, image(2).nvrtc), Some(image(2)), "and written anew");
    }

    #[test]
    fn writers_at_the_same_time_leave_whole_entries_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let key = blake3::hash(b"one");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        cache.put(&key, &image(2)).unwrap();
                        assert_eq!(cache.get(&key, image(2).nvrtc), Some(image(2)));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_and_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = Cache::new(file.join("below"));
        assert!(cache.put(&blake3::hash(b"one"), &image(2)).is_err());
        assert_eq!(cache.newest(&blake3::hash(b"one"), 13), None);
        assert_eq!(cache.size(), (0, 0));
    }
}
