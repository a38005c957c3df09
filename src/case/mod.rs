//! Recorded cases: the inputs of a layer or a loss, and the results that they should give, in one `.safetensors` file.
//!
//! The header's metadata holds `kind` and the settings of that kind, each a JSON value. Floats may be f16, bf16, f32 or f64, integers
//! of any width. Parameters are named as [`Param::name`](crate::Param::name) says, `d.NAME` is the gradient of NAME, rows are in the
//! order `[T, B]`. `scripts/record_case.py` records a layer or a model in PyTorch this way:
//!
//! | kind | inputs | results |
//! |---|---|---|
//! | `token_moe` | `x [T,B,D]`, parameters, `dy [T,B,D]`, `dweights`, `dprobabilities`, `dlogits [T,B,E]` | `y`, `weights`, `probabilities`, `logits`, `dx`, `d.*` |
//! | `feature_moe` | `x [B,D]`, parameters, `dy [B,D]`, `dweights`, `dprobabilities`, `dlogits [B,E]` | the same |
//! | `fol` | `logits [B,B]`, `weights{i} [rows,E]`, `group{g}.logits`, `group{g}.weights{i}` | `correlation`, `clip_loss`, `dispersion{i}`, `group{g}.*`, `fol`, `d.*` |
//! | `group_moments` | `x [N,M]`, `group [N]`, `dmean`, `dvariance [G,M]` | `count`, `mean`, `variance`, `dx` |
//! | `metrics` | `probability [S]`, `label [S]`, `attributes [A,S]` | `auc`, `accuracy`, `attr{i}.*` |
//! | `preprocess` | `image [H,W]` | `pixels [3,S,S]` |
//! | `clip` | parameters of a whole CLIP, `image [B,3,S,S]`, `ids [B,T]` | `image_embeds`, `text_embeds [B,embed]`, `logits [B,B]` |
//! | `fair_moe_step` | the same with four mixtures, `group{g}.image`, `group{g}.ids` | the same, `gate.{image,text}_token [T,B,E]`, `gate.{image,text}_feature [B,E]`, `loss`, `loss.*`, `d.*` |
//!
//! Upstream gradients may be absent: those count as zero, and without any of them there are no gradients.

mod file;
mod layer;
mod loss;
#[cfg(feature = "model")]
mod model;
mod results;
#[cfg(feature = "model")]
mod scores;
pub use file::Case;
pub use results::Results;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result, product};
use half::{bf16, f16};

/// Computes the results that `case` asks for on that device, a layer in `dtype`. The loss and moments are computed in f64 for `f64`, and in f32
/// for the other dtypes; metrics and preprocessing in their own precision whatever the dtype. A model has its parameters in f64 for
/// `f64`, and in f32 for the others; its layers and its loss run on the device, the rest of it on the CPU.
///
/// # Errors
/// When the case is of no known kind, lacks an input or a setting, has one of the wrong shape or value, or asks for a result that
/// its kind does not have.
pub fn replay(mut case: Case, dtype: DType, device: &Device) -> Result<Results> {
    let kind = case.text("kind")?;
    let wide = dtype == DType::F64;
    let computed = match kind.as_str() {
        "token_moe" | "feature_moe" => match dtype {
            DType::F64 => layer::replay::<f64>(&mut case, device),
            DType::F32 => layer::replay::<f32>(&mut case, device),
            DType::F16 => layer::replay::<f16>(&mut case, device),
            DType::Bf16 => layer::replay::<bf16>(&mut case, device),
        },
        "fol" if wide => loss::fol::<f64>(&mut case, device),
        "fol" => loss::fol::<f32>(&mut case, device),
        "group_moments" if wide => loss::group_moments::<f64>(&mut case, device),
        "group_moments" => loss::group_moments::<f32>(&mut case, device),
        #[cfg(feature = "model")]
        "metrics" => scores::metrics(&mut case),
        #[cfg(feature = "model")]
        "preprocess" => scores::preprocess(&mut case),
        #[cfg(feature = "model")]
        "clip" => model::clip(&mut case, dtype, device),
        #[cfg(feature = "model")]
        "fair_moe_step" => model::step(&mut case, dtype, device),
        #[cfg(not(feature = "model"))]
        "metrics" | "preprocess" | "clip" | "fair_moe_step" => {
            Err(Error::Refused(format!("cases of kind {kind} need the feature `model`")))
        }
        _ => {
            let known = "token_moe, feature_moe, fol, group_moments, metrics, preprocess, clip or fair_moe_step";
            Err(Error::config("the case's kind", known, format!("{kind:?}")))
        }
    }?;
    computed.keep_wanted(&case)
}

/// Refuses work with a buffer of these many `T` if this machine has no room for it and its copies on the way to a file: settings can
/// ask for far more than the file holds.
fn check_room<T>(what: &'static str, sizes: &[usize]) -> Result<()> {
    const COPIES: usize = 8;
    let reserved = Vec::<T>::new().try_reserve_exact(product(what, &[sizes, &[COPIES]].concat())?);
    reserved.map_err(|_| Error::Refused(format!("{what}, of shape {sizes:?}, has no room in this machine's memory")))
}
