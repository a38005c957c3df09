//! The experts' grouped products against plain sums in f64, each with every kind of segment, width and address.
#![cfg(feature = "emulate")]
// SAFETY: each buffer is as long as the sizes beside it say.
#![allow(unsafe_code)]

mod support;

use fair_moe::DType;
use fair_moe::gpu::args::*;
use fair_moe::gpu::experts::{self, splits::Room};
use fair_moe::gpu::plan::{Engine, Tile};
use half::{bf16, f16};
use support::experts::{Case, Setup};
use support::gpu::{seeds, some_of};
use support::products::{backward, forward, gradients, merged};

/// Segments, widths on both sides of whole chunks and tiles, addresses and strides, over the seeds and modes; twice, unless only one
/// seed is asked for.
fn cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = vec![
        Case::new(&[1], 1, 1),
        Case::new(&[0, 37, 128, 0, 1], 64, 72),
        Case::new(&[200, 130], 136, 64),
        shared(130, Case::new(&[37, 0], 72, 136)),
        shared(5, Case::new(&[0], 13, 21)),
        Case { offset: 1, ..Case::new(&[128, 3, 0], 64, 64) },
        Case { offset: 3, gap: 5, bias: false, ..Case::new(&[37], 21, 133) },
        Case { gap: 8, ..Case::new(&[9, 130], 200, 8) },
        Case { gap: 3, ..Case::new(&[17, 0, 20], 64, 13) },
        Case { bias: false, ..Case::new(&[2, 2], 264, 200) },
        shared(0, Case::new(&[4, 40, 0, 3, 9], 328, 16)),
        Case::new(&[5], 21, 260),
    ];
    let (len, rounds) = (cases.len(), seeds().min(2) as usize);
    let vary = |(i, case): (usize, Case)| {
        // The second time round with gating turned about, and other seeds.
        let (again, seed) = (i >= len, i as u64 + if i >= len { 3 } else { 0 });
        Case { seed: seed % seeds(), activation: i % 4, gated: (i % 3 == 1) != again, ..case }
    };
    some_of(5, (0..rounds).flat_map(|_| cases.iter().cloned()).enumerate().map(vary)).collect()
}

#[test]
fn up_and_down_in_f32() {
    for case in cases() {
        forward::<f32>(&case);
    }
}

#[test]
fn up_and_down_in_f16() {
    for case in cases() {
        forward::<f16>(&case);
    }
}

#[test]
fn up_and_down_in_bf16() {
    for case in cases() {
        forward::<bf16>(&case);
    }
}

#[test]
fn dinner_and_dx_in_f32() {
    for case in cases() {
        backward::<f32>(&case);
    }
}

#[test]
fn dinner_and_dx_in_f16() {
    for case in cases() {
        backward::<f16>(&case);
    }
}

#[test]
fn dinner_and_dx_in_bf16() {
    for case in cases() {
        backward::<bf16>(&case);
    }
}

#[test]
fn gradients_in_f32() {
    cases().iter().enumerate().for_each(|(i, case)| gradients::<f32, f32>(case, i % 2 == 0));
}

#[test]
fn gradients_in_f16_or_f32() {
    cases().iter().enumerate().for_each(|(i, case)| {
        if i % 3 == 0 { gradients::<f16, f32>(case, i % 2 == 0) } else { gradients::<f16, f16>(case, i % 2 == 0) }
    });
}

#[test]
fn gradients_in_bf16_or_f32() {
    cases().iter().enumerate().for_each(|(i, case)| {
        if i % 3 == 1 { gradients::<bf16, f32>(case, i % 2 == 0) } else { gradients::<bf16, bf16>(case, i % 2 == 0) }
    });
}

/// Sizes in whole multiples of 16 bytes, with K of one to nine steps, so that tiles begin at every stage of the ring, and every end of a tile.
fn wgmma_cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = [
        Case::new(&[1], 8, 8),
        Case { offset: 8, ..Case::new(&[0, 37, 128, 0, 1], 64, 72) },
        Case::new(&[200, 130], 136, 64),
        shared(130, Case::new(&[37, 0], 200, 256)),
        Case { gap: 3, ..Case::new(&[300, 3, 0], 264, 136) },
        Case { gap: 8, bias: false, ..Case::new(&[70, 65], 328, 264) },
        shared(5, Case::new(&[0, 400], 24, 392)),
        Case::new(&[129], 520, 328),
        Case { bias: false, ..Case::new(&[64, 192], 392, 448) },
        shared(0, Case::new(&[448, 511], 128, 576)),
    ];
    let tile = |i: usize| Tile::new(Engine::Wgmma, 128, if i & 2 == 0 { 256 } else { 128 });
    let vary = |(i, case): (usize, &Case)| {
        let (gated, activation) = (i % 2 == 1, i % 4);
        let each = |more: usize| Case {
            seed: (i + more) as u64 % seeds(),
            activation,
            gated,
            tile: Some(tile(i + more)),
            ..case.clone()
        };
        [each(0), each(2)]
    };
    some_of(5, cases.iter().enumerate().flat_map(vary)).collect()
}

#[test]
fn up_and_down_by_wgmma() {
    for (i, case) in wgmma_cases().iter().enumerate() {
        if i % 3 == 0 {
            forward::<f16>(case)
        } else {
            forward::<bf16>(case)
        };
    }
}

#[test]
fn dinner_and_dx_by_wgmma() {
    for (i, case) in wgmma_cases().iter().enumerate() {
        if i % 3 == 1 {
            backward::<f16>(case)
        } else {
            backward::<bf16>(case)
        };
    }
}

#[test]
fn gradients_by_wgmma() {
    wgmma_cases().iter().enumerate().for_each(|(i, case)| match i % 3 {
        0 => gradients::<bf16, f32>(case, i % 2 == 0),
        1 => gradients::<bf16, bf16>(case, i % 4 == 0),
        _ => gradients::<f16, f16>(case, i % 2 == 0),
    });
}

#[test]
fn gradients_and_dx_in_one_launch_by_wgmma() {
    wgmma_cases().iter().enumerate().for_each(|(i, case)| match i % 3 {
        0 => merged::<bf16, bf16>(case, i % 2 == 0),
        1 => merged::<f16, f32>(case, i % 4 == 0),
        _ => merged::<bf16, f32>(case, i % 2 == 0),
    });
}

/// Tiles of 192 by 192, of layers whose weights are folded, with segments, columns and K on both sides of whole ones.
fn large_cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = [
        Case { offset: 8, ..Case::new(&[0, 37, 192, 0, 1], 64, 72) },
        Case::new(&[200, 130], 136, 64),
        shared(130, Case::new(&[65, 0], 200, 256)),
        Case { gap: 8, bias: false, ..Case::new(&[385, 3, 0], 264, 136) },
        Case::new(&[129, 400], 328, 392),
        shared(0, Case::new(&[448, 511], 192, 576)),
    ];
    let tile = Some(Tile::new(Engine::Wgmma, 192, 192));
    let vary = |(i, case): (usize, Case)| Case { seed: i as u64 % seeds(), activation: 0, tile, ..case };
    some_of(3, cases.into_iter().enumerate().map(vary)).collect()
}

#[test]
fn folded_products_by_wgmma_of_192_rows() {
    for case in large_cases() {
        forward::<bf16>(&case);
        backward::<bf16>(&case);
    }
}

#[test]
fn gradients_by_wgmma_of_192_rows() {
    large_cases().iter().enumerate().for_each(|(i, case)| match i % 3 {
        0 => gradients::<bf16, f32>(case, i % 2 == 0),
        1 => merged::<bf16, bf16>(case, i % 2 == 0),
        _ => merged::<bf16, f32>(case, i % 2 == 1),
    });
}

/// A list that was cut for tiles of 192 rows, where tensor maps turn out not to be possible: each is three of 64, of which some are empty.
#[test]
fn a_list_of_192_rows_is_taken_apart_by_tiles_of_64() {
    let tile = Some(Tile::new(Engine::Mma, 64, 128));
    for case in
        [Case::new(&[0, 37, 200, 64, 1], 64, 72), Case { shared: Some(130), offset: 1, ..Case::new(&[385, 0, 129], 40, 21) }]
    {
        let case = Case { tile, listed: Some(192), activation: 0, ..case };
        forward::<bf16>(&case);
        backward::<bf16>(&case);
    }
}

/// Tiles of few rows, whole and split among blocks, of which there are more than steps in some; on segments around those rows, all pairs in
/// one of them or none in most, and on widths and addresses of every kind.
fn small_cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = [
        Case::new(&[1], 1, 1),
        Case::new(&[19, 0, 40, 1], 136, 72),
        shared(33, Case::new(&[17, 0], 72, 328)),
        Case { offset: 1, ..Case::new(&[128, 3, 0], 64, 200) },
        Case { offset: 3, gap: 5, bias: false, ..Case::new(&[37], 21, 133) },
        Case { gap: 8, ..Case::new(&[9, 65, 16, 32], 200, 8) },
        shared(0, Case::new(&[0, 70, 0, 0, 0], 264, 16)),
        Case { bias: false, ..Case::new(&[64], 13, 520) },
    ];
    let tiles = [16, 32, 64].into_iter().flat_map(|rows| [1, 2, 3, 5].map(|splits| (rows, splits))).enumerate();
    let all = tiles.flat_map(|(t, (rows, splits))| {
        let vary = move |(i, case): (usize, &Case)| Case {
            seed: (i + t) as u64 % seeds(),
            activation: i % 4,
            gated: (i + t / 2) % 2 == 1,
            tile: Some(Tile { splits, ..Tile::new(Engine::Mma, rows, 128) }),
            ..case.clone()
        };
        cases.iter().enumerate().skip(t % 2).step_by(2).map(vary).collect::<Vec<_>>()
    });
    some_of(5, all).collect()
}

#[test]
fn up_and_down_by_tiles_of_few_rows() {
    for (i, case) in small_cases().iter().enumerate() {
        if i % 3 == 0 {
            forward::<f16>(case)
        } else {
            forward::<bf16>(case)
        };
    }
}

#[test]
fn dinner_and_dx_by_tiles_of_few_rows() {
    for (i, case) in small_cases().iter().enumerate() {
        if i % 3 == 1 {
            backward::<f16>(case)
        } else {
            backward::<bf16>(case)
        };
    }
}

/// Three parts or more, whose sum depends on their order.
#[test]
fn split_sums_have_the_same_bits_whoever_comes_last() {
    for (rows, splits) in [(32, 3), (16, 5)] {
        let tile = Some(Tile { splits, ..Tile::new(Engine::Mma, rows, 128) });
        let case = |schedule: u64| Case { tile, schedule, ..Case::new(&[40, 23], 400, 328) };
        let (out, dx) = (forward::<f16>(&case(0)), backward::<f16>(&case(0)));
        for schedule in 1..seeds() {
            assert_eq!(forward::<f16>(&case(schedule)), out, "down");
            assert_eq!(backward::<f16>(&case(schedule)), dx, "dx");
        }
    }
}

/// Every tensor over rows or pairs has more than 2^31 elements here, nearly all of them in memory that nobody touches.
#[test]
fn offsets_beyond_2_to_31() {
    for case in [Case::new(&[0, 3], 64, 64), Case { offset: 1, gated: true, ..Case::new(&[2, 2], 64, 64) }] {
        let case = Case { before: 1 << 25, ..case };
        forward::<bf16>(&case);
        backward::<bf16>(&case);
        gradients::<bf16, f32>(&case, false);
    }
}

#[test]
fn no_pairs_at_all_write_zeros_to_gradients_alone() {
    let case = Case { shared: Some(0), ..Case::new(&[0, 0], 24, 40) };
    forward::<f32>(&case);
    backward::<bf16>(&case);
    gradients::<bf16, bf16>(&case, false);
    gradients::<f32, f32>(&case, true);
    merged::<bf16, f32>(&Case { tile: Some(Tile::new(Engine::Wgmma, 128, 256)), ..case }, true);
}

#[test]
fn wrong_arguments_are_refused_in_one_sentence() {
    let s = Setup::<f32>::new(&Case::new(&[3], 8, 8));
    let [experts_weights, _] = s.weights();
    let right = ExpertsDown {
        hidden: s.x.at(),
        experts_weights,
        pairs: s.list(),
        out: s.x.at(),
        width: 8,
        expert_width: 8,
        experts: 1,
        ..Default::default()
    };
    let down = |args: ExpertsDown, dtype: DType, pairs: usize| {
        unsafe { experts::down(&s.device.queue(), dtype, s.case.tile(dtype), &args, pairs) }.unwrap_err().to_string()
    };
    assert_eq!(down(ExpertsDown { out: 0, ..right }, DType::F32, 3), "out must be given, but is none");
    assert!(down(ExpertsDown { width: 0, ..right }, DType::F32, 3).starts_with("the width must be from 1"));
    assert!(down(right, DType::F64, 3).starts_with("the dtype on a GPU must be f32, f16 or bf16"));
    assert!(down(right, DType::F32, usize::MAX).starts_with("the number of pairs must be at most"));
    assert!(down(ExpertsDown { width: i32::MAX - 2000, ..right }, DType::F32, 1 << 30).contains("too large"));
    let split = |rows: usize, args: ExpertsDown| {
        let tile = Tile { splits: 2, ..Tile::new(Engine::Mma, rows, 128) };
        unsafe { experts::down(&s.device.queue(), DType::Bf16, tile, &args, 3) }.unwrap_err().to_string()
    };
    assert_eq!(split(128, right), "the splits of this product's tile must be 1, but is 2");
    assert_eq!(split(32, right), "a place for the parts of split tiles must be given, but is none");
    let parts = Splits { parts: s.x.at(), ..Default::default() };
    assert_eq!(split(32, ExpertsDown { splits: parts, ..right }), "the counters of split tiles must be given, but is none");
    let by_wgmma = |args: ExpertsDown| {
        unsafe { experts::down(&s.device.queue(), DType::Bf16, Tile::new(Engine::Wgmma, 128, 256), &args, 3) }
            .unwrap_err()
            .to_string()
    };
    let at = s.x.at() + 8;
    assert_eq!(by_wgmma(ExpertsDown { out: at, ..right }), format!("out must be at a multiple of 16 bytes, but is at {at:#x}"));
    let refused = by_wgmma(ExpertsDown { width: 12, ..right });
    assert_eq!(refused, "a width of tiles by wgmma must be a multiple of 8, but is 12");
    let listed = |rows: usize, listed: i32| {
        let tile = Tile::new(Engine::Mma, rows, 128);
        let args = ExpertsDown { pairs: Pairs { tile_rows: listed, ..s.list() }, ..right };
        unsafe { experts::down(&s.device.queue(), DType::Bf16, tile, &args, 3) }.unwrap_err().to_string()
    };
    assert_eq!(listed(128, 192), "the rows of the list's tiles must be 128, but is 192");
    assert_eq!(listed(64, 96), "the rows of the list's tiles must be 64, but is 96");
    assert_eq!(listed(16, 0), "the rows of the list's tiles must be 16, but is 0");
    let unfolded = ExpertsUp {
        x: s.x.at(),
        hidden: s.x.at(),
        experts_weights,
        pairs: s.list(),
        x_stride: 8,
        width: 8,
        expert_width: 8,
        experts: 1,
        ..Default::default()
    };
    let up =
        |args: &ExpertsUp| unsafe { experts::up(&s.device.queue(), DType::Bf16, Tile::new(Engine::Wgmma, 192, 192), args, 3) };
    let refused = up(&unfolded).unwrap_err().to_string();
    assert_eq!(refused, "tiles of 192 rows are of layers whose weights are folded, and this one's are not");
    let kept = up(&ExpertsUp { folded: 1, inner: s.x.at(), ..unfolded }).unwrap_err().to_string();
    assert_eq!(kept, "inner is not written where weights are folded: expected none");
    let merged = unsafe { experts::merged(&s.device.queue(), DType::Bf16, s.case.tile(DType::Bf16), &Default::default(), 3) };
    assert_eq!(merged.unwrap_err().to_string(), "the engine of merged products must be wgmma, but is mma");
    let parts = ExpertsDinner {
        dy: s.x.at(),
        experts_weights,
        pairs: s.list(),
        inner: s.x.at(),
        dinner: s.x.at(),
        weighted: s.x.at(),
        dweight_parts: s.x.at(),
        dy_stride: 8,
        width: 8,
        expert_width: 8,
        experts: 1,
        parts: 2,
        ..Default::default()
    };
    let refused =
        unsafe { experts::dinner(&s.device.queue(), DType::F32, s.case.tile(DType::F32), &parts, 3) }.unwrap_err().to_string();
    assert_eq!(refused, "the number of parts must be 1, but is 2");
    let counting = ExpertsDinner { parts: 1, counters: 3, ..parts };
    let refused =
        unsafe { experts::dinner(&s.device.queue(), DType::F32, s.case.tile(DType::F32), &counting, 3) }.unwrap_err().to_string();
    assert_eq!(refused, "the counters that this product's tile clears must be 0, but is 3");
}

/// 192 pairs of 10 experts make at most 6 whole tiles of 32 and 10 more; 768 columns are 6 tiles wide.
#[test]
fn split_tiles_need_room_for_parts_and_counters() {
    let tile = |splits: usize| Tile { splits, ..Tile::new(Engine::Mma, 32, 128) };
    let room = |splits: usize, pairs: usize| Room::new(tile(splits), pairs, 10, 768).unwrap();
    assert_eq!(room(4, 192), Room { parts: 4 * 192 * 768, counters: 16 * 6 });
    assert_eq!([room(1, 192), room(4, 0)], [Room::default(); 2]);
    assert!(Room::new(tile(usize::MAX), 192, 10, 768).unwrap_err().to_string().contains("too large"));
}
