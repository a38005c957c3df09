//! Finds NVRTC wherever users have it.

// SAFETY: libraries are loaded that lie beside NVRTC and bear its name; they do nothing when they are loaded.
#![allow(unsafe_code)]

use super::nvrtc::{Nvrtc, Version};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Names the file or the folder to be used instead of any other.
pub const VARIABLE: &str = "FAIR_MOE_NVRTC";

/// What the system's loader may know it by.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// The newest NVRTC on this machine that a driver of that version (13000 for 13.0) can be given code of; without a driver, the newest.
///
/// # Errors
/// In one sentence, why there is none.
pub fn find(driver: Option<u32>) -> Result<Nvrtc> {
    find_in(|name| std::env::var_os(name), driver)
}

/// As [`find`], with environment variables from `variable`.
///
/// # Errors
/// As [`find`].
pub fn find_in(variable: impl Fn(&str) -> Option<OsString>, driver: Option<u32>) -> Result<Nvrtc> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let files = match variable(VARIABLE).map(PathBuf::from) {
        Some(file) if file.is_file() => vec![file],
        Some(folder) => match libraries(&folder, "libnvrtc.so") {
            none if none.is_empty() => {
                let why = format!("{VARIABLE} is {}, where there is no libnvrtc.so", folder.display());
                return Err(Error::Unavailable { what: "NVRTC".into(), why });
            }
            some => some,
        },
        None => {
            let in_folders = folders(&variable).into_iter().flat_map(|folder| libraries(&folder, "libnvrtc.so"));
            loaded().into_iter().chain(in_folders).chain(NAMES.iter().map(PathBuf::from)).collect()
        }
    };
    let mut tried: Vec<PathBuf> = vec![];
    let (mut found, mut refused) = (vec![], vec![]);
    for file in files {
        // Several names of one file, such as a link.
        let whole = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
        if tried.contains(&whole) {
            continue;
        }
        open_builtins(&whole);
        match Nvrtc::open(&file) {
            Ok(nvrtc) => found.push(nvrtc),
            // That the loader does not know a name is no news.
            Err(why) if whole.is_absolute() => refused.push(why.to_string()),
            Err(_) => {}
        }
        tried.push(whole);
    }
    let versions: Vec<Version> = found.iter().map(|nvrtc| nvrtc.version).collect();
    match newest(&versions, driver) {
        Some(number) => Ok(found.swap_remove(number)),
        None => Err(Error::Unavailable { what: "NVRTC".into(), why: why_none(&found, &refused, driver) }),
    }
}

/// The first of the newest versions whose major the driver supports.
fn newest(versions: &[Version], driver: Option<u32>) -> Option<usize> {
    let fits = |version: &Version| driver.is_none_or(|driver| version.major <= driver / 1000);
    let fitting = || versions.iter().filter(|version| fits(version));
    versions.iter().position(|version| Some(version) == fitting().max())
}

fn why_none(found: &[Nvrtc], refused: &[String], driver: Option<u32>) -> String {
    let advice = format!("`pip install nvidia-cuda-nvrtc` brings one, and {VARIABLE} names one that lies elsewhere");
    match (found.first(), refused.first(), driver) {
        (Some(nvrtc), _, Some(driver)) => {
            let (major, minor) = (driver / 1000, driver % 1000 / 10);
            format!("{nvrtc:?} is too new for the driver, which is of CUDA {major}.{minor}; {VARIABLE} names another")
        }
        (_, Some(why), _) => format!("{why}; {advice}"),
        _ => format!("there is none on this machine; {advice}"),
    }
}

/// Those that this process has loaded already, as PyTorch's.
fn loaded() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])));
    let mut paths: Vec<PathBuf> = paths.filter(|path| is_library(path, "libnvrtc.so")).collect();
    paths.dedup();
    paths
}

/// Where it may lie: a toolkit's folders, conda's, and those of Python's wheels.
fn folders(variable: &impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from);
    let mut folders = vec![];
    for toolkit in [path("CUDA_PATH"), path("CUDA_HOME"), Some("/usr/local/cuda".into()), Some("/opt/cuda".into())] {
        let inside = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
        folders.extend(toolkit.iter().flat_map(|toolkit| inside.map(|folder| toolkit.join(folder))));
    }
    let conda = path("CONDA_PREFIX");
    folders.extend(conda.iter().map(|prefix| prefix.join("lib")));
    let mut prefixes = vec![path("VIRTUAL_ENV"), conda, path("HOME").map(|home| home.join(".local"))];
    let search = variable("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&search).filter(|bin| bin.is_absolute() && bin.join("python3").exists());
    prefixes.extend(pythons.map(|bin| bin.parent().map(Path::to_owned)));
    prefixes.push(Some("/usr/local".into()));
    for prefix in prefixes.into_iter().flatten() {
        for python in entries(&prefix.join("lib"), |name| name.starts_with("python3")) {
            for packages in ["site-packages", "dist-packages"] {
                // cu13 since CUDA 13, cuda_nvrtc before.
                folders.extend(
                    entries(&python.join(packages).join("nvidia"), |_| true).into_iter().map(|package| package.join("lib")),
                );
            }
        }
    }
    folders
}

/// NVRTC opens this one by its name alone, and finds it if it is loaded already.
fn open_builtins(nvrtc: &Path) {
    for builtins in nvrtc.parent().map(|folder| libraries(folder, "libnvrtc-builtins.so")).unwrap_or_default() {
        // SAFETY: as above. If it fails, NVRTC says so when it compiles.
        std::mem::forget(unsafe { libloading::Library::new(builtins) });
    }
}

/// The files of that library in a folder, longer version numbers last.
fn libraries(folder: &Path, name: &str) -> Vec<PathBuf> {
    entries(folder, |entry| entry.starts_with(name)).into_iter().filter(|path| is_library(path, name)).collect()
}

fn is_library(path: &Path, name: &str) -> bool {
    path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file == name || file.starts_with(&format!("{name}.")))
}

/// What a folder holds of such names, in their order; nothing where there is no such folder.
fn entries(folder: &Path, take: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = all.filter(|entry| entry.file_name().to_str().is_some_and(&take)).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_the_driver_supports_is_chosen() {
        let versions = [(12, 4), (13, 2), (12, 9), (13, 0), (13, 2)].map(|(major, minor)| Version { major, minor });
        assert_eq!(newest(&versions, None), Some(1));
        assert_eq!(newest(&versions, Some(13000)), Some(1));
        assert_eq!(newest(&versions, Some(12020)), Some(2));
        assert_eq!(newest(&versions[1..2], Some(12080)), None);
        assert_eq!(newest(&[], None), None);
    }

    #[test]
    fn folders_of_toolkits_conda_and_wheels_are_searched() {
        let root = tempfile::tempdir().unwrap();
        let wheel = root.path().join("venv/lib/python3.12/site-packages/nvidia/cu13/lib");
        let old = root.path().join("home/.local/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib");
        let system = root.path().join("usr/lib/python3/dist-packages/nvidia/cu13/lib");
        let bin = root.path().join("usr/bin");
        [&wheel, &old, &system, &bin].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        fs::write(bin.join("python3"), "").unwrap();
        let variable = |name: &str| {
            let below = |part: &str| Some(root.path().join(part).into_os_string());
            match name {
                "CUDA_PATH" => below("toolkit"),
                "CONDA_PREFIX" => below("conda"),
                "VIRTUAL_ENV" => below("venv"),
                "HOME" => below("home"),
                "PATH" => Some(bin.clone().into_os_string()),
                _ => None,
            }
        };
        let found = folders(&variable);
        for folder in [&root.path().join("toolkit/lib64"), &root.path().join("conda/lib"), &wheel, &old, &system] {
            assert!(found.contains(folder), "{} is not in {found:?}", folder.display());
        }
        assert!(found.contains(&"/usr/local/cuda/lib64".into()));
        assert!(found.iter().all(|folder| folder.is_absolute()));
    }

    #[test]
    fn what_the_variable_names_is_used_or_refused_in_one_sentence() {
        let root = tempfile::tempdir().unwrap();
        let refused = |value: &Path| {
            find_in(|name| (name == VARIABLE).then(|| value.as_os_str().to_owned()), None).unwrap_err().to_string()
        };
        let none = refused(root.path());
        assert!(none.contains(VARIABLE) && none.contains("no libnvrtc.so"), "{none}");
        assert!(refused(&root.path().join("nowhere")).contains("no libnvrtc.so"));
        let broken = root.path().join("libnvrtc.so.13");
        fs::write(&broken, "no library").unwrap();
        for path in [root.path(), &broken] {
            let why = refused(path);
            assert!(
                why.starts_with("NVRTC cannot be used") && why.contains("libnvrtc.so.13") && why.lines().count() == 1,
                "{why}"
            );
        }
    }
}
