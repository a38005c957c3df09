//! The facts of tensor maps and of matrix instructions. Entries are small whole numbers, of which products and sums are exact.

use super::{Answer, answer, compare};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::args::{FactProbe, TensorMap};
use crate::gpu::buffer::Buffer;
use crate::gpu::driver::{Shape, Tiled};
use crate::gpu::session::Session;
use bytemuck::Pod;
use half::{bf16, f16};

/// 64 rows of 64 elements.
const TILE: u32 = 64 * 128;

/// A 16-bit format.
pub trait Half: Pod {
    fn of(value: f32) -> Self;
}

impl Half for bf16 {
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

impl Half for f16 {
    fn of(value: f32) -> Self {
        f16::from_f32(value)
    }
}

/// -8 to 8, each in its turn so that no row or column is like another.
fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as f32 % 17.0 - 8.0
    };
    (0..count).map(|_| next()).collect()
}

/// Puts [rows, k] into memory by rows, or by columns.
fn put<T: Half>(session: &Session, values: &[f32], rows: usize, by_columns: bool) -> Result<Buffer<T>> {
    let k = values.len() / rows;
    let at = |i: usize| if by_columns { values[i % rows * k + i / rows] } else { values[i] };
    session.upload(&(0..values.len()).map(|i| T::of(at(i))).collect::<Vec<T>>())
}

/// a [m, k] times b [n, k] along k.
fn product(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let dot = |row: &[f32], column: &[f32]| row.iter().zip(column).map(|(x, y)| x * y).sum();
    a.chunks(k).flat_map(|row| b.chunks(k).map(move |column| dot(row, column))).collect()
}

fn compare_product(got: &[f32], want: &[f32], columns: usize) -> Option<String> {
    compare(got, want, |i| format!("row {}, column {}", i / columns, i % columns))
}

/// A map of [rows, columns] in bf16, whose boxes are [64, 64] and swizzled.
fn map(session: &Session, of: &Buffer<bf16>, rows: usize, columns: usize) -> Result<TensorMap> {
    let (dims, strides) = ([columns as u64, rows as u64], [columns as u64 * 2]);
    let (base, box_dims) = (of.pointer(), [64, 64]);
    let tensor = Tiled { dtype: DType::Bf16, base, dims: &dims, strides: &strides, box_dims: &box_dims, swizzle: true };
    session.queue().driver.tensor_map(&tensor)
}

fn multiply(session: &Session, kernel: &str, a: &[f32], b: &[f32], by_columns: [bool; 2]) -> Result<Vec<f32>> {
    let a = put::<bf16>(session, a, 64, by_columns[0])?;
    let columns = b.len() / 64;
    let b = put::<bf16>(session, b, columns, by_columns[1])?;
    let args = FactProbe { a: a.pointer(), b: b.pointer(), ..Default::default() };
    answer(session, kernel, Shape::blocks(1).shared((1 + columns as u32 / 64) * TILE), 64 * columns, args)
}

pub fn wgmma(session: &Session, kernel: &str, columns: usize, by_columns: [bool; 2]) -> Answer {
    let (a, b) = (numbers(64 * 64, 1), numbers(columns * 64, 2));
    let got = multiply(session, kernel, &a, &b, by_columns)?;
    Ok(compare_product(&got, &product(&a, &b, 64), columns))
}

/// Of operands alike along k, which no swizzle and no step along k changes.
pub fn accumulators(session: &Session) -> Answer {
    let a: Vec<f32> = (0..64 * 64).map(|i| (i / 64 + 1) as f32).collect();
    let b: Vec<f32> = (0..128 * 64).map(|i| (i / 64 + 3) as f32).collect();
    let got = multiply(session, "facts_wgmma_nn", &a, &b, [false; 2])?;
    Ok(compare_product(&got, &product(&a, &b, 64), 128))
}

pub fn scale(session: &Session) -> Answer {
    let (a, b) = (numbers(64 * 64, 3), numbers(128 * 64, 4));
    let got = multiply(session, "facts_wgmma_scale", &a, &b, [false; 2])?;
    // The first half of k counts twice.
    let doubled: Vec<f32> = a.iter().enumerate().map(|(i, v)| if i % 64 < 32 { v * 2.0 } else { *v }).collect();
    Ok(compare_product(&got, &product(&doubled, &b, 64), 128))
}

pub fn wgmma_from_maps(session: &Session) -> Answer {
    let (a, b) = (numbers(64 * 64, 5), numbers(128 * 64, 6));
    let (a_put, b_put) = (put(session, &a, 64, false)?, put(session, &b, 128, false)?);
    let args = FactProbe { a_map: map(session, &a_put, 64, 64)?, b_map: map(session, &b_put, 128, 64)?, ..Default::default() };
    let got: Vec<f32> = answer(session, "facts_wgmma_from_maps", Shape::blocks(1).shared(3 * TILE + 64), 64 * 128, args)?;
    Ok(compare_product(&got, &product(&a, &b, 64), 128))
}

pub fn pipeline(session: &Session, kernel: &str, steps: usize) -> Answer {
    let k = steps * 64;
    let (a, b) = (numbers(64 * k, 7), numbers(64 * k, 8));
    let (a_put, b_put) = (put::<bf16>(session, &a, 64, false)?, put(session, &b, 64, false)?);
    let b_map = map(session, &b_put, 64, k)?;
    let args = FactProbe { a: a_put.pointer(), b_map, count: steps as i32, ..Default::default() };
    let got: Vec<f32> = answer(session, kernel, Shape::blocks(1).shared(4 * TILE + 64), 64 * 64, args)?;
    Ok(compare_product(&got, &product(&a, &b, k), 64))
}

/// Where a swizzled tile's element comes from: the 16-byte chunk c of row r lies where chunk c ^ (r % 8) would.
fn unswizzled(i: usize) -> usize {
    i / 64 * 64 + ((i / 8 % 8) ^ (i / 64 % 8)) * 8 + i % 8
}

/// One swizzled tile.
pub fn swizzle(session: &Session) -> Answer {
    let stored: Vec<u16> = (0..64 * 64).collect();
    let tensor = session.upload(bytemuck::cast_slice::<u16, bf16>(&stored))?;
    let args = FactProbe { a_map: map(session, &tensor, 64, 64)?, count: TILE as i32, ..Default::default() };
    let got: Vec<u16> = answer(session, "facts_tma", Shape::blocks(1).shared(TILE + 64), 64 * 64, args)?;
    let want: Vec<u16> = (0..64 * 64).map(|i| stored[unswizzled(i)]).collect();
    Ok(compare(&got, &want, |i| format!("byte {} of row {}", i % 64 * 2, i / 64)))
}

/// A box of [rows, 16] of f32 from (x, y) of a tensor of `dims` (x, y), unswizzled; got and wanted.
fn load(session: &Session, dims: [usize; 2], rows: usize, [x, y]: [i32; 2]) -> Result<[Vec<f32>; 2]> {
    let stored: Vec<f32> = (0..dims[0] * dims[1]).map(|i| (i + 1) as f32).collect();
    let tensor = session.upload(&stored)?;
    let lengths = dims.map(|dim| dim as u64);
    let (strides, box_dims) = ([lengths[0] * 4], [16, rows as u32]);
    let base = tensor.pointer();
    let map = Tiled { dtype: DType::F32, base, dims: &lengths, strides: &strides, box_dims: &box_dims, swizzle: false };
    let a_map = session.queue().driver.tensor_map(&map)?;
    let bytes = rows as i32 * 64;
    let args = FactProbe { a_map, count: bytes, x, y, ..Default::default() };
    let got = answer(session, "facts_tma", Shape::blocks(1).shared(bytes as u32 + 64), rows * 16, args)?;
    let inside = |at: i32, dim: usize| (0..dim as i32).contains(&at);
    let value = |i: usize| {
        let (column, row) = (x + (i % 16) as i32, y + (i / 16) as i32);
        if inside(column, dims[0]) && inside(row, dims[1]) { stored[row as usize * dims[0] + column as usize] } else { 0.0 }
    };
    Ok([got, (0..rows * 16).map(value).collect()])
}

pub fn bounds(session: &Session, first: [i32; 2]) -> Answer {
    let [got, want] = load(session, [20, 40], 48, first)?;
    Ok(compare_product(&got, &want, 16))
}

pub fn rows(session: &Session, rows: usize) -> Answer {
    let [got, want] = load(session, [16, rows], rows, [0, 0])?;
    Ok(compare_product(&got, &want, 16))
}

/// Boxes [1, 64, 64] as the experts' maps have them, of [3, 80, 96] without a zero, from each of `firsts` (x, y, z).
pub fn slices(session: &Session, firsts: &[[i32; 3]]) -> Answer {
    const DIMS: [i32; 3] = [96, 80, 3];
    let stored: Vec<u16> = (1..=DIMS.iter().product::<i32>() as u16).collect();
    let tensor = session.upload(&stored)?;
    let dims = DIMS.map(|dim| dim as u64);
    let (strides, box_dims) = ([dims[0] * 2, dims[0] * dims[1] * 2], [64, 64, 1]);
    let base = tensor.pointer();
    let map = Tiled { dtype: DType::Bf16, base, dims: &dims, strides: &strides, box_dims: &box_dims, swizzle: true };
    let a_map = session.queue().driver.tensor_map(&map)?;
    for &[x, y, z] in firsts {
        let args = FactProbe { a_map, count: TILE as i32, x, y, z, ..Default::default() };
        let got: Vec<u16> = answer(session, "facts_tma_3d", Shape::blocks(1).shared(TILE + 64), 64 * 64, args)?;
        let value = |i: usize| {
            let at = [x + (i % 64) as i32, y + (i / 64) as i32, z];
            let inside = at.iter().zip(DIMS).all(|(i, dim)| (0..dim).contains(i));
            if inside { stored[((at[2] * DIMS[1] + at[1]) * DIMS[0] + at[0]) as usize] } else { 0 }
        };
        let want: Vec<u16> = (0..64 * 64).map(|i| value(unswizzled(i))).collect();
        let place = |i: usize| format!("byte {} of row {} of the box from ({x}, {y}, {z})", i % 64 * 2, i / 64);
        if let Some(difference) = compare(&got, &want, place) {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

/// Register m of lane l holds two elements of row l / 4 of the m-th 8 by 8 matrix; transposed, of its column.
pub fn ldmatrix(session: &Session) -> Answer {
    let stored: Vec<u16> = (0..256).map(|i| i * 3 + 1).collect();
    let a = session.upload(&stored)?;
    let args = FactProbe { a: a.pointer(), ..Default::default() };
    let got: Vec<u16> = answer(session, "facts_ldmatrix", Shape::blocks(1).shared(512), 512, args)?;
    let element = |i: usize| {
        let (lane, register, half) = (i / 16, i / 2 % 8, i % 2);
        let (along, across) = (lane % 4 * 2 + half, lane / 4);
        let (row, column) = if register < 4 { (across, along) } else { (along, across) };
        stored[(register % 4 * 8 + row) * 8 + column]
    };
    let want: Vec<u16> = (0..512).map(element).collect();
    Ok(compare(&got, &want, |i| format!("lane {}, register {}", i / 16, i / 2 % 8)))
}

/// Lane l gives word l % 4 of row l / 4 of each matrix, and row l % 8 of matrix l / 8 its place.
pub fn stmatrix(session: &Session) -> Answer {
    let got: Vec<u32> = answer(session, "facts_stmatrix", Shape::blocks(1).shared(512), 128, FactProbe::default())?;
    let want: Vec<u32> = (0..128).map(|i| (i / 4 % 8 * 4 + i % 4) * 4 + i / 32).collect();
    Ok(compare(&got, &want, |i| format!("matrix {}, row {}, word {}", i / 32, i / 4 % 8, i % 4)))
}

pub fn mma<T: Half>(session: &Session, kernel: &str) -> Answer {
    let (a, b) = (numbers(16 * 16, 9), numbers(8 * 16, 10));
    let (a_put, b_put) = (put::<T>(session, &a, 16, false)?, put::<T>(session, &b, 8, false)?);
    let args = FactProbe { a: a_put.pointer(), b: b_put.pointer(), ..Default::default() };
    let got: Vec<f32> = answer(session, kernel, Shape::blocks(1), 16 * 8, args)?;
    Ok(compare_product(&got, &product(&a, &b, 16), 8))
}

/// Whole numbers with bits set that tf32 does not have: the upper 19 are what counts.
pub fn tf32(session: &Session) -> Answer {
    let below = |values: Vec<f32>| -> Vec<f32> {
        let set =
            |(i, v): (usize, &f32)| f32::from_bits(v.to_bits() | if *v == 0.0 { 0 } else { [0x1000, 0x1fff, 0, 0x0001][i % 4] });
        values.iter().enumerate().map(set).collect()
    };
    let (a, b) = (numbers(16 * 8, 11), numbers(8 * 8, 12));
    let (a_put, b_put) = (session.upload(&below(a.clone()))?, session.upload(&below(b.clone()))?);
    let args = FactProbe { a: a_put.pointer(), b: b_put.pointer(), ..Default::default() };
    let got: Vec<f32> = answer(session, "facts_mma_tf32", Shape::blocks(1), 16 * 8, args)?;
    Ok(compare_product(&got, &product(&a, &b, 8), 8))
}

/// What one mma.sync makes of 1 and addends that are no whole last place u = 2^-23 each: 3/4 u, which a rounded sum makes u and one that
/// is cut off nothing; and 2 halves, 4 quarters and 8 eighths, which are u wherever as many bits below the last place are kept.
pub fn addition(session: &Session) -> Answer {
    const PLACE: f32 = f32::EPSILON;
    let addends: [(usize, f32); 4] = [(1, 0.75), (2, 0.5), (4, 0.25), (8, 0.125)];
    let entry = |i: usize| match (addends.get(i / 16), i % 16) {
        (_, 0) => 1.0,
        (Some(&(count, size)), k) if k <= count => size * PLACE,
        _ => 0.0,
    };
    let a: Vec<f32> = (0..16 * 16).map(entry).collect();
    let (a, b) = (put::<bf16>(session, &a, 16, false)?, put::<bf16>(session, &[1.0; 8 * 16], 8, false)?);
    let args = FactProbe { a: a.pointer(), b: b.pointer(), ..Default::default() };
    let got: Vec<f32> = answer(session, "facts_mma_bf16", Shape::blocks(1), 16 * 8, args)?;
    let sums = [0, 1, 2, 3].map(|row| (got[row * 8] - 1.0) / PLACE);
    let bits = sums[1..].iter().take_while(|&&sum| sum == 1.0).count();
    let end = if sums[0] == 1.0 { "rounded" } else { "cut off" };
    let or_more = if bits == 3 { " or more" } else { "" };
    Ok(Some(format!("a sum is {end}, and {bits}{or_more} bits below its last place are kept until then")))
}
