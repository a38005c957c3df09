//! Number types: what a layer's tensors hold, and the wider type that its gate and its sums are computed in.

use crate::cpu::Gemm;
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::{fmt, str::FromStr};

/// The number type of a layer's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE double precision: for tests and for recorded cases.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision: 11 bits of precision, largest value 65,504.
    F16,
    /// bfloat16: 8 bits of precision, the range of f32.
    Bf16,
}

impl DType {
    /// All of them, the most precise first.
    pub const ALL: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::Bf16];

    /// The name used on the command line and in files: `f64`, `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// Bytes an element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| Error::config("dtype", "f64, f32, f16 or bf16", s))
    }
}

/// An element of a tensor: `f64`, `f32`, [`struct@f16`] or [`struct@bf16`].
pub trait Element: Gemm + bytemuck::Pod + Send + Sync + PartialEq + fmt::Debug + Default {
    /// The type that sums, gates and losses of this element are computed in: `f64` for `f64`, else `f32`.
    type Wide: Float;
    /// Its run-time name.
    const DTYPE: DType;
    /// Exact.
    fn wide(self) -> Self::Wide;
    /// Rounded once, to nearest.
    fn narrow(wide: Self::Wide) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Rounded once, to nearest.
    fn from_f64(x: f64) -> Self;
}

/// An [`Element`] that arithmetic is done in: `f32` or `f64`.
pub trait Float:
    Element<Wide = Self>
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + std::iter::Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// e to the power of self.
    fn exp(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// Not a number.
    fn is_nan(self) -> bool;
}

macro_rules! float {
    ($t:ident, $name:ident, $erf:path) => {
        impl Element for $t {
            type Wide = $t;
            const DTYPE: DType = DType::$name;
            fn wide(self) -> $t {
                self
            }
            fn narrow(wide: $t) -> $t {
                wide
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn from_f64(x: f64) -> $t {
                x as $t
            }
        }
        impl Float for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn is_nan(self) -> bool {
                $t::is_nan(self)
            }
        }
    };
}
float!(f64, F64, libm::erf);
float!(f32, F32, libm::erff);

macro_rules! half {
    ($t:ident, $name:ident) => {
        impl Element for $t {
            type Wide = f32;
            const DTYPE: DType = DType::$name;
            fn wide(self) -> f32 {
                $t::to_f32(self)
            }
            fn narrow(wide: f32) -> $t {
                $t::from_f32(wide)
            }
            fn to_f64(self) -> f64 {
                $t::to_f64(self)
            }
            fn from_f64(x: f64) -> $t {
                $t::from_f64(x)
            }
        }
    };
}
half!(f16, F16);
half!(bf16, Bf16);
