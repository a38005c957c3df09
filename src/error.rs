//! What can go wrong, in plain sentences: what was expected, and what came.

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure of this crate. None of them leaves anything half-written behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that no layer or loss can have, such as a top-k of 0.
    #[error("{what} must be {expected}, but is {got}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A buffer whose length disagrees with the shape that it stands for.
    #[error("{what} must have shape {expected:?} ({} elements), but has {got} elements", elements(.expected))]
    Shape {
        /// The buffer.
        what: String,
        /// The shape that was expected.
        expected: Vec<usize>,
        /// How many elements came.
        got: usize,
    },
    /// A value that its place does not allow, such as a group id beyond the last group.
    #[error("{what} must be {expected}, but number {index} is {got}")]
    Value {
        /// The array.
        what: &'static str,
        /// What its elements may be.
        expected: String,
        /// Where the first bad element stands.
        index: usize,
        /// What it is.
        got: String,
    },
    /// Sizes whose product does not fit the machine's integers.
    #[error("{what} is too large: the product of {sizes:?} overflows")]
    TooLarge {
        /// What was to be sized.
        what: &'static str,
        /// The factors.
        sizes: Vec<usize>,
    },
    /// A file or a folder that could not be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something that this machine lacks, or that is too old or too new here, such as a GPU or NVRTC.
    #[error("{what} cannot be used: {why}")]
    Unavailable {
        /// What it is.
        what: String,
        /// Why not.
        why: String,
    },
    /// A CUDA program that NVRTC refuses.
    #[error("{program} does not compile for {arch}: {}", log.trim())]
    Compile {
        /// Its name.
        program: String,
        /// For which architecture.
        arch: String,
        /// What the compiler says.
        log: String,
    },
    /// A call of CUDA's driver that failed; or work that was launched before, of which a later call tells.
    #[error("{call} failed: {name} ({code})")]
    Cuda {
        /// What was called.
        call: String,
        /// CUDA's number of the error.
        code: u32,
        /// CUDA's name of it.
        name: String,
    },
    /// Anything else that was asked for and cannot be had, in a whole sentence.
    #[error("{0}")]
    Refused(String),
}

/// The product of a shape, as far as it can be told.
fn elements(shape: &[usize]) -> String {
    shape.iter().try_fold(1usize, |p, &n| p.checked_mul(n)).map_or("too many".into(), |n| n.to_string())
}

impl Error {
    /// A setting that is not allowed.
    pub fn config(what: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Config { what, expected: expected.into(), got: got.to_string() }
    }

    /// Something wrong with a file or a folder.
    pub fn file(path: impl AsRef<std::path::Path>, why: impl ToString) -> Self {
        Self::File { path: path.as_ref().display().to_string(), why: why.to_string() }
    }
}

/// The product of `sizes`, or an error that names `what`. Leaves room for a few such products in bytes, added up.
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<usize> {
    let whole = sizes.iter().try_fold(1usize, |p, &n| p.checked_mul(n)).filter(|&n| n <= isize::MAX as usize / 128);
    whole.ok_or_else(|| Error::TooLarge { what, sizes: sizes.to_vec() })
}

/// Checks that a buffer has exactly the elements of `shape`.
pub(crate) fn expect_shape(what: impl AsRef<str>, shape: &[usize], got: usize) -> Result<()> {
    let fits = shape.iter().try_fold(1usize, |p, &n| p.checked_mul(n)) == Some(got);
    if fits { Ok(()) } else { Err(Error::Shape { what: what.as_ref().to_owned(), expected: shape.to_vec(), got }) }
}

/// All of them, or the first error.
pub(crate) fn all<S, const N: usize>(each: [Result<S>; N]) -> Result<[S; N]> {
    let all = each.into_iter().collect::<Result<Vec<S>>>()?;
    all.try_into().map_err(|_| Error::Refused(format!("{N} results are no longer {N}")))
}
