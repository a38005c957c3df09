//! The specification as code: plain loops, f64 inside.
