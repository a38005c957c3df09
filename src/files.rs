//! Files that appear whole or not at all.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file by writing another beside it, and renaming that at the end. After an error nothing of it is left, and what stood
/// at `path` before stands there still; a leftover of a killed process, `.NUMBER.partial`, is overwritten by the next write of the
/// same file.
///
/// A link stays a link: the file that it names is written, whether it is there or not. What was there is replaced by a new file,
/// with a new file's permissions, even where it was read-only: what counts is that its folder may be written to. Whatever at
/// `path` is neither a file nor a folder, such as a device or a pipe, is written to as it is.
///
/// # Errors
/// When a write fails, or `path` is a folder or lies in none.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let failed = |why: io::Error| Error::file(path, why);
    let whole = |file: File| {
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)
    };
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return File::options().write(true).open(path).and_then(whole).map(drop).map_err(failed);
    }
    let target = resolve(path).map_err(failed)?;
    let Some(partial) = partial(&target).filter(|_| !target.is_dir()) else {
        return Err(Error::file(path, "must be the name of a file, but is a folder"));
    };
    let _ = fs::remove_file(&partial);
    let written = File::create_new(&partial).and_then(whole).and_then(|file| file.sync_all());
    written.and_then(|()| fs::rename(&partial, &target)).map_err(|why| {
        let _ = fs::remove_file(&partial);
        failed(why)
    })
}

/// Writes a value as JSON, as [`write_atomically`] writes.
///
/// # Errors
/// When the value cannot be told in JSON, or the file cannot be written.
#[cfg(any(feature = "cli", feature = "model"))]
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomically(path, |file| writeln!(file, "{text}"))
}

/// Makes a folder by filling another beside it, and renaming that at the end. After an error nothing of it is left; a leftover of a
/// killed process, `.NUMBER.partial`, is removed by the next try. What stands at `path` already must be an empty folder: it is
/// replaced at the end, and stays what it is after an error.
///
/// # Errors
/// What `fill` says, or that the folder cannot be made.
pub fn create_folder_atomically(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |why: io::Error| Error::file(path, why);
    let target = resolve(path).map_err(failed)?;
    let is_taken = match fs::read_dir(&target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(why) => why.kind() != io::ErrorKind::NotFound,
    };
    if is_taken {
        return Err(Error::file(path, "must be a new or an empty folder"));
    }
    let partial = partial(&target).ok_or_else(|| Error::file(path, "must end in the name of a folder"))?;
    let _ = fs::remove_dir_all(&partial);
    let made = fs::create_dir_all(&partial).map_err(failed).and_then(|()| fill(&partial));
    // A rename replaces an empty folder, and no other.
    made.and_then(|()| fs::rename(&partial, &target).map_err(failed)).inspect_err(|_| {
        let _ = fs::remove_dir_all(&partial);
    })
}

/// What a path names in the end: links are followed, the last one even to where nothing is yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&target) else { return Ok(fs::canonicalize(&target).unwrap_or(target)) };
        target.pop();
        target.push(next);
    }
    Err(io::Error::other("its links go round in a circle"))
}

/// Where the file or folder `target` is made: beside it, under a name of its own that is short however long that of the target is.
fn partial(target: &Path) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    target.file_name()?.hash(&mut hasher);
    Some(target.with_file_name(format!(".{:016x}.partial", hasher.finish())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, |w| w.write_all(b"first")).unwrap();
        write_atomically(&path, |w| w.write_all(b"half").and(Err(io::Error::other("full")))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        write_atomically(&path, |w| w.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }

    #[test]
    fn a_folder_and_a_path_under_a_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        write_atomically(&file, |w| w.write_all(b"a")).unwrap();
        for path in [folder.path(), &file.join("b")] {
            write_atomically(path, |w| w.write_all(b"b")).unwrap_err();
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_name_as_long_as_names_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a".repeat(255));
        write_atomically(&path, |w| w.write_all(b"a")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a");
        write_atomically(&folder.path().join("a".repeat(256)), |w| w.write_all(b"a")).unwrap_err();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("under")).unwrap();
        symlink("under/other", at("link")).unwrap();
        symlink(at("under/file"), at("under/other")).unwrap();
        for text in ["nothing was there", "the first was"] {
            write_atomically(&at("link"), |w| w.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(at("under/file")).unwrap(), text);
            assert!(at("link").is_symlink() && at("under/other").is_symlink());
        }
        assert_eq!(fs::read_dir(at("under")).unwrap().count(), 2);
        symlink("circle", at("circle")).unwrap();
        write_atomically(&at("circle"), |w| w.write_all(b"a")).unwrap_err();
        assert!(at("circle").is_symlink());
    }

    #[test]
    fn a_folder_is_replaced_when_it_is_filled_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::create_dir(&path).unwrap();
        let full = |_: &Path| Err(Error::Refused("full".into()));
        create_folder_atomically(&path, full).unwrap_err();
        create_folder_atomically(&other, full).unwrap_err();
        assert!(path.is_dir() && !other.exists() && fs::read_dir(&folder).unwrap().count() == 1);
        let fill = |folder: &Path| fs::write(folder.join("file"), "").map_err(|why| Error::file(folder, why));
        // The same folder by another name.
        create_folder_atomically(&folder.path().join("a/../a/."), fill).unwrap();
        create_folder_atomically(&other, fill).unwrap();
        assert!(path.join("file").is_file() && other.join("file").is_file());
        create_folder_atomically(&path, fill).unwrap_err();
        assert!(path.join("file").is_file() && fs::read_dir(&folder).unwrap().count() == 2);
    }
}
