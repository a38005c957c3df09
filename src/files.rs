//! Files that appear whole or not at all.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file by writing another beside it, `.NAME.partial`, and renaming that at the end. After an error nothing of it is
/// left, and what stood at `path` before stands there still; a leftover of a killed process is overwritten by the next write.
/// Whatever at `path` is neither a file nor a folder, such as a device or a pipe, is written to as it is.
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
    // A link stays a link: the file that it names is written.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return File::options().write(true).open(&target).and_then(whole).map(drop).map_err(failed);
    }
    let Some(name) = target.file_name().filter(|_| !target.is_dir()) else {
        return Err(Error::file(path, "must be the name of a file, but is a folder"));
    };
    let partial = target.with_file_name(format!(".{}.partial", name.to_string_lossy()));
    let _ = fs::remove_file(&partial);
    let written = File::create_new(&partial).and_then(whole).and_then(|file| file.sync_all());
    written.and_then(|()| fs::rename(&partial, &target)).map_err(|why| {
        let _ = fs::remove_file(&partial);
        failed(why)
    })
}

/// Makes a folder by filling another beside it, `.NAME.partial`, and renaming that at the end. After an error nothing of it is
/// left; a leftover of a killed process is removed by the next try. What stands at `path` already must be an empty folder.
///
/// # Errors
/// What `fill` says, or that the folder cannot be made.
pub fn create_folder_atomically(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |why: io::Error| Error::file(path, why);
    if path.exists() {
        // Fails unless it is an empty folder.
        fs::remove_dir(path).map_err(|_| Error::file(path, "must be a new or an empty folder"))?;
    }
    let name = path.file_name().ok_or_else(|| Error::file(path, "must end in the name of a folder"))?;
    let partial = path.with_file_name(format!(".{}.partial", name.to_string_lossy()));
    let _ = fs::remove_dir_all(&partial);
    let made = fs::create_dir_all(&partial).map_err(failed).and_then(|()| fill(&partial));
    made.and_then(|()| fs::rename(&partial, path).map_err(failed)).inspect_err(|_| {
        let _ = fs::remove_dir_all(&partial);
    })
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
}
