//! The activation functions and their slopes.

use crate::config::Activation;
use crate::dtype::Float;

fn sigmoid<W: Float>(x: W) -> W {
    W::ONE / (W::ONE + (-x).exp())
}

impl Activation {
    /// The function at x. NaN stays NaN.
    pub fn value<W: Float>(self, x: W) -> W {
        self.value_and_slope(x).0
    }

    /// Its derivative at x; 0 at ReLU's corner, as PyTorch has it.
    pub fn slope<W: Float>(self, x: W) -> W {
        self.value_and_slope(x).1
    }

    /// Inlined, so that what a caller does not use is not computed.
    #[inline(always)]
    fn value_and_slope<W: Float>(self, x: W) -> (W, W) {
        match self {
            // Not a maximum: that would turn NaN into 0.
            Activation::Relu => {
                if x <= W::ZERO {
                    (W::ZERO, W::ZERO)
                } else {
                    (x, W::ONE)
                }
            }
            Activation::QuickGelu => {
                let (k, s) = (W::from_f64(1.702), sigmoid(W::from_f64(1.702) * x));
                (x * s, s + k * x * s * (W::ONE - s))
            }
            Activation::Gelu => {
                let (s, density) = (normal(x), W::from_f64(0.398_942_280_401_432_7) * (-(x * x) * W::from_f64(0.5)).exp());
                (x * s, s + x * density)
            }
            Activation::Silu => {
                let s = sigmoid(x);
                (x * s, s + x * s * (W::ONE - s))
            }
        }
    }

    /// [`Activation::value`] of each element.
    pub(crate) fn values<W: Float>(self, x: &[W], value: &mut [W]) {
        self.each(|act| value.iter_mut().zip(x).for_each(|(v, &x)| *v = act.value(x)));
    }

    /// [`Activation::value`] and [`Activation::slope`] of each element.
    pub(crate) fn values_and_slopes<W: Float>(self, x: &[W], value: &mut [W], slope: &mut [W]) {
        self.each(|act| {
            let to = value.iter_mut().zip(slope.iter_mut());
            to.zip(x).for_each(|((v, s), &x)| (*v, *s) = act.value_and_slope(x));
        });
    }

    /// Runs a loop with the activation as a constant, so that the loop holds no branch and becomes vector code.
    #[inline(always)]
    fn each(self, mut run: impl FnMut(Activation)) {
        match self {
            Activation::Relu => run(Activation::Relu),
            Activation::QuickGelu => run(Activation::QuickGelu),
            Activation::Gelu => run(Activation::Gelu),
            Activation::Silu => run(Activation::Silu),
        }
    }
}

/// Φ, the standard normal distribution's cumulative function.
fn normal<W: Float>(x: W) -> W {
    W::from_f64(0.5) * (W::ONE + (x * W::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
}
