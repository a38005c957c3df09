//! What this machine has for CUDA, in words.

use super::driver::Facts;
use super::driver::compiler::Compiler;
use super::driver::cuda::Cuda;

/// (what, what there is of it or why there is none), a line each: GPUs, NVRTC, cache.
pub fn describe() -> Vec<(String, String)> {
    let devices = Cuda::devices();
    let driver = devices.as_ref().ok().and_then(|all| Some(all.first()?.driver));
    let mut lines = vec![];
    match &devices {
        Err(why) => lines.push(("cuda".into(), why.to_string())),
        Ok(all) if all.is_empty() => lines.push(("cuda".into(), "there is no GPU".into())),
        Ok(all) => lines.extend(all.iter().enumerate().map(|(number, facts)| (format!("cuda:{number}"), name(facts)))),
    }
    let compiler = Compiler::find(driver);
    let nvrtc = compiler.nvrtc.map(|nvrtc| format!("{}, {}", nvrtc.version, nvrtc.path.display()));
    lines.push(("nvrtc".into(), nvrtc.unwrap_or_else(|why| why)));
    let cache = compiler.cache.map(|cache| {
        let (count, size) = cache.size();
        format!("{}: {count} kernels, {}", cache.folder().display(), bytes(size))
    });
    lines.push(("cache".into(), cache.unwrap_or_else(|| "off".into())));
    lines
}

fn name(facts: &Facts) -> String {
    let Facts { name, arch, multiprocessors, shared_bytes, memory_bytes, cache_bytes, driver } = facts;
    let [memory, cache, shared] = [*memory_bytes, *cache_bytes, u64::from(*shared_bytes)].map(bytes);
    let version = format!("{}.{}", driver / 1000, driver % 1000 / 10);
    format!(
        "{name}, {arch}, {memory}, cache {cache}, {multiprocessors} multiprocessors, {shared} shared a block, driver of CUDA {version}"
    )
}

/// 5242880 as "5.0 MiB".
fn bytes(count: u64) -> String {
    let unit = count.checked_ilog2().map_or(0, |bits| bits / 10).min(4);
    let value = count as f64 / f64::from(1u32 << (10 * unit.min(3))) / if unit == 4 { 1024.0 } else { 1.0 };
    let digits = if unit == 0 { 0 } else { 1 };
    format!("{value:.digits$} {}", ["bytes", "KiB", "MiB", "GiB", "TiB"][unit as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::driver::Arch;

    #[test]
    fn there_is_a_line_of_gpus_of_nvrtc_and_of_the_cache() {
        let lines = describe();
        let what: Vec<&str> = lines.iter().map(|line| line.0.split(':').next().unwrap()).collect();
        assert_eq!((what[0], &what[what.len() - 2..]), ("cuda", &["nvrtc", "cache"][..]));
        assert!(lines.iter().all(|line| !line.1.is_empty() && line.1.lines().count() == 1), "{lines:?}");
    }

    #[test]
    fn a_gpu_is_named_with_what_it_has() {
        let facts = Facts {
            name: "Some GPU".into(),
            arch: Arch(90),
            multiprocessors: 132,
            shared_bytes: 227 << 10,
            memory_bytes: 141 << 30,
            cache_bytes: 50 << 20,
            driver: 12080,
        };
        let text =
            "Some GPU, sm_90a, 141.0 GiB, cache 50.0 MiB, 132 multiprocessors, 227.0 KiB shared a block, driver of CUDA 12.8";
        assert_eq!(name(&facts), text);
        let sizes = [0, 1023, 1536, 3 << 40].map(bytes);
        assert_eq!(sizes, ["0 bytes", "1023 bytes", "1.5 KiB", "3.0 TiB"]);
    }
}
