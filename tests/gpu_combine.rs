//! Combine's kernel on an emulated device.
#![cfg(feature = "emulate")]
// SAFETY: every buffer is as long as its kernel takes it for; the emulation checks that.
#![allow(unsafe_code)]

mod support;

use fair_moe::gpu::{args::Combine, combine};
use fair_moe::*;
use half::{bf16, f16};
use support::gpu::Gpu;
use support::rows::*;
use support::{assert_close, uniform};

/// Which of its addends a case has, and how far its buffers are off 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    width: usize,
    top_k: usize,
    weighted: bool,
    shared: bool,
    plus: bool,
    minus: bool,
    some_needed: bool,
    gap: usize,
    shift: usize,
}

fn check<T: Element>(case: Case, seed: u64, bound: f64) {
    let Case { rows, width, top_k, gap, shift, .. } = case;
    let gpu = Gpu::new(seed);
    let narrowed = |seed, n| uniform(seed, n).into_iter().map(|v| T::from_f64(v).to_f64()).collect::<Vec<f64>>();
    // Of each row's pairs some are dropped; each pair belongs to one row.
    let count = rows * (top_k + 1);
    let drop = |i: usize| if (i * 7 + seed as usize).is_multiple_of(3) { -1 } else { ((i * 5 + 1) % count) as i32 };
    let row_pairs: Vec<i32> = (0..rows * top_k).map(drop).collect();
    let shared_pairs: Vec<i32> = (0..rows).map(|row| drop(rows * top_k + row)).collect();
    let needed: Vec<bool> = (0..rows).map(|row| row % 3 != 1).collect();
    let (pairs, minus) = (narrowed(seed, shift + count * width), narrowed(seed + 1, shift + rows * (width + gap)));
    let weight: Vec<f64> = uniform(seed + 2, count).into_iter().map(|v| v as f32 as f64).collect();
    let plus = narrowed(seed + 3, rows * width);

    let mut want = vec![0.0; rows * width];
    for row in 0..rows {
        let mut all = row_pairs[row * top_k..][..top_k].to_vec();
        all.extend(case.shared.then(|| shared_pairs[row]));
        for d in 0..width {
            let of = |&pair: &i32| {
                let value = pairs[shift + pair as usize * width + d];
                if case.weighted { weight[pair as usize] * value } else { value }
            };
            let mut sum: f64 = all.iter().filter(|&&pair| pair >= 0).map(of).sum();
            sum += if case.plus { plus[row * width + d] } else { 0.0 };
            let taken = case.minus && (!case.some_needed || needed[row]);
            want[row * width + d] = sum - if taken { minus[shift + row * (width + gap) + d] } else { 0.0 };
        }
    }

    let (pairs, minus) = (upload::<T>(&gpu, &pairs), upload::<T>(&gpu, &minus));
    let (weight, plus) = (upload::<f32>(&gpu, &weight), upload::<T>(&gpu, &plus));
    let (row_pairs, shared_pairs) = (gpu.put(&row_pairs), gpu.put(&shared_pairs));
    let needed = upload_mask(&gpu, Some(needed));
    let out = gpu.new_of::<T>(shift + rows * (width + gap) - gap);
    let bytes = (shift * size_of::<T>()) as u64;
    let when = |has: bool, pointer: u64| if has { pointer } else { 0 };
    let args = Combine {
        pairs: pairs.pointer() + bytes,
        weight: when(case.weighted, weight.pointer()),
        row_pairs: row_pairs.pointer(),
        shared_pairs: when(case.shared, shared_pairs.pointer()),
        plus: when(case.plus, plus.pointer()),
        minus: when(case.minus, minus.pointer() + bytes),
        needed: when(case.some_needed, needed.pointer()),
        out: out.pointer() + bytes,
        minus_stride: (width + gap) as i64,
        out_stride: (width + gap) as i64,
        rows: rows as i32,
        width: width as i32,
        top_k: top_k as i32,
    };
    unsafe { combine::rows(&gpu.queue(), T::DTYPE, &args) }.unwrap();
    let got = to_f64(&out);
    let got: Vec<f64> = got[shift..].chunks(width + gap).flat_map(|row| row[..width].to_vec()).collect();
    assert_close(&format!("{case:?} in {}", T::DTYPE), &got, &want, bound);
    out.free().unwrap();
}

#[test]
fn rows_are_sums_of_their_pairs_and_addends_in_any_width_and_alignment() {
    let sizes = [(1, 1, 1), (7, 13, 2), (33, 24, 3), (20, 264, 2), (5, 512, 10), (300, 3, 1)];
    for (i, &(rows, width, top_k)) in sizes.iter().enumerate() {
        for variant in 0..8 {
            let has = |bit: usize| (i * 8 + variant) >> bit & 1 == 1;
            let (weighted, shared, plus, minus, some_needed) = (has(0), has(1), has(2), variant % 2 == 0, has(3));
            let (gap, shift) = [(0, 0), (8, 0), (0, 1), (3, 0), (0, 8), (16, 0), (3, 1), (0, 1)][variant];
            let case = Case { rows, width, top_k, weighted, shared, plus, minus, some_needed, gap, shift };
            check::<f32>(case, variant as u64, 2e-6);
            check::<bf16>(case, variant as u64, 4e-3);
            check::<f16>(case, variant as u64, 5e-4);
        }
    }
}

#[test]
fn the_sum_is_rounded_once() {
    let gpu = Gpu::new(0);
    // 1 + 2^-9 + 2^-9 + 2^-8 is 1 + 2^-7 in bf16, but 1 where each addition rounds.
    let pairs = upload::<bf16>(&gpu, &[1.0, 2f64.powi(-9), 2f64.powi(-9), 2f64.powi(-8)]);
    let row_pairs = gpu.put(&[0, 1, 2, 3]);
    let out = gpu.new_of::<bf16>(1);
    let args = Combine {
        pairs: pairs.pointer(),
        row_pairs: row_pairs.pointer(),
        out: out.pointer(),
        rows: 1,
        width: 1,
        top_k: 4,
        out_stride: 1,
        ..Default::default()
    };
    unsafe { combine::rows(&gpu.queue(), DType::Bf16, &args) }.unwrap();
    assert_eq!(to_f64(&out), [1.0 + 2f64.powi(-7)]);
}
