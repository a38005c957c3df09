//! Records which commit a binary was built from, so that a measurement can name it. Builds nothing: kernels are compiled at run time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let git = |what: &[&str]| {
        let output = std::process::Command::new("git").args(what).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Only of a repository of our own: in a package that another one holds, its commit says nothing.
    let own = std::path::Path::new(".git").exists();
    let commit = own.then(|| git(&["rev-parse", "--short=12", "HEAD"])).flatten().unwrap_or_default();
    println!("cargo::rustc-env=FAIR_MOE_COMMIT={commit}");
    // A path that does not exist would build everything anew each time.
    let log = own.then(|| git(&["rev-parse", "--git-path", "logs/HEAD"])).flatten();
    if let Some(log) = log.filter(|log| std::path::Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}
