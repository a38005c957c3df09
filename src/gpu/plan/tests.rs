use super::cost::{LAUNCH, waves};
use super::product::Segment;
use super::*;
use crate::config::{Activation, Capacity, Experts, Gate};
use crate::gpu::driver::Arch;
use crate::gpu::kernels::{KERNELS, find};

fn named(name: &str) -> Facts {
    CARDS.iter().find(|card| card.name == name).unwrap().facts()
}

/// What PyTorch's published layer runs: E = 10, K = 3, C = 47, experts 4 D wide.
fn sizes(config: &MoeConfig, tokens: usize, samples: usize, pruned: bool) -> Sizes {
    Sizes::new(config, tokens, samples, if pruned { samples } else { tokens * samples }).unwrap()
}

/// A language model's: gated experts, nothing dropped.
fn swiglu(width: usize, expert_width: usize, count: usize, top_k: usize) -> MoeConfig {
    let experts = Experts { count, width: expert_width, activation: Activation::Silu, gated: true, bias: false };
    let gate = Gate { hidden: None, bias: false };
    MoeConfig { experts, gate, top_k, capacity: Capacity::None, subtract_input: false, ..MoeConfig::token_authors(width) }
}

fn plan_of(card: &str, config: &MoeConfig, dtype: DType, tokens: usize, samples: usize, pruned: bool) -> Plan {
    Plan::new(&named(card), config, dtype, &sizes(config, tokens, samples, pruned))
}

fn load(experts: usize, pairs: usize, width: usize, expert_width: usize) -> Load {
    let segments = [Segment { experts, pairs }, Segment::default(), Segment::default()];
    Load {
        width,
        expert_width,
        gated: false,
        activation: Activation::Relu,
        folded: false,
        element: 2,
        rows: experts * pairs,
        segments,
    }
}

/// Up, down and dinner, and what follows as the plan has it.
fn experts_seconds(chooser: &Chooser<'_>, plan: &Plan) -> f64 {
    let before = [Product::Up, Product::Down, Product::Dinner].map(|product| chooser.cost(product, plan.tile(product)).seconds);
    before.iter().sum::<f64>() + chooser.after_dinner(plan)
}

/// Useful work over what the waves have room for.
fn filled(load: &Load, product: Product, columns: usize) -> f64 {
    let tile = Tile::new(Engine::Wgmma, 128, columns);
    let work = load.work(product, tile);
    let room = waves(work.tiles, 132) * 132.0 * 2.0 * 128.0 * columns as f64 * work.depth;
    (work.flops / room * 1000.0).round() / 10.0
}

#[test]
fn waves_are_as_full_as_they_come_out_by_hand() {
    let large = load(10, 3008, 768, 3072);
    assert_eq!(large.work(Product::Up, Tile::new(Engine::Wgmma, 128, 256)).tiles, 2880.0);
    assert_eq!(filled(&large, Product::Up, 256), 97.1);
    assert_eq!(filled(&large, Product::Dinner, 256), 97.1);
    assert_eq!(filled(&large, Product::Down, 256), 89.0);
    assert_eq!(filled(&large, Product::Down, 128), 97.1);
    assert_eq!(filled(&large, Product::Dx, 128), 97.1);
    for product in [Product::Dfc1, Product::Dfc2] {
        assert_eq!((filled(&large, product, 256), filled(&large, product, 128)), (90.9, 99.2));
    }
    assert_eq!(filled(&load(10, 1504, 768, 3072), Product::Up, 256), 97.1);
    assert_eq!(filled(&load(10, 1952, 1024, 4096), Product::Up, 256), 92.4);
}

#[test]
fn what_a_product_moves_and_multiplies_is_as_by_hand() {
    let load = load(10, 3008, 768, 3072);
    let tile = Tile::new(Engine::Wgmma, 128, 256);
    let (p, weight) = (30080.0, 10.0 * 768.0 * 3072.0);
    for product in Product::ALL {
        assert_eq!(load.work(product, tile).flops, 2.0 * p * 768.0 * 3072.0);
    }
    assert_eq!(load.work(Product::Up, tile).bytes, 2.0 * (weight + p * 768.0 + 2.0 * p * 3072.0));
    assert_eq!(load.work(Product::Down, tile).bytes, 2.0 * (weight + p * 768.0 + p * 3072.0));
    assert_eq!(load.work(Product::Dinner, tile).bytes, 2.0 * (weight + p * 768.0 + 3.0 * p * 3072.0));
    let gated = Load { gated: true, ..load };
    assert_eq!(gated.work(Product::Up, tile).tiles, 2.0 * load.work(Product::Up, tile).tiles);
    assert_eq!(gated.work(Product::Dx, tile).depth, 2.0 * 3072.0);
}

#[test]
fn every_tile_that_is_offered_has_its_kernels_and_every_kernel_is_offered() {
    let alone = Product::ALL
        .into_iter()
        .flat_map(|product| candidates(product).flat_map(move |tile| [false, true].map(|gated| (tile, product.name(gated)))));
    let together = candidates(Product::Dx).filter(|tile| tile.engine == Engine::Wgmma).map(|tile| (tile, "merged"));
    let mut offered = vec![];
    for (tile, what) in alone.chain(together) {
        let dtypes: &[&str] = match tile.engine {
            Engine::Ffma => &["f32"],
            Engine::Wgmma if tile.rows == 192 => &["bf16"],
            _ => &["bf16", "f16"],
        };
        if tile.rows == 192 && what.ends_with("gated") {
            continue;
        }
        for dtype in dtypes {
            let name = format!("{}_{dtype}", tile.kernel(what));
            assert!(find(&name).is_some(), "{name}");
            offered.push(name);
        }
    }
    let kernels = KERNELS.iter().filter(|kernel| kernel.name.starts_with("experts_"));
    kernels.for_each(|kernel| assert!(offered.iter().any(|name| name == kernel.name), "{}", kernel.name));
}

#[test]
fn each_shape_gets_the_tiles_written_here() {
    let tile = |text: &str| {
        let (engine, sizes) = text.split_once(' ').unwrap();
        let (sizes, splits) = sizes.split_once('/').unwrap_or((sizes, "1"));
        let (rows, columns) = sizes.split_once('x').unwrap();
        let engines = [Engine::Ffma, Engine::Mma, Engine::Wgmma];
        let engine = engines.into_iter().find(|e| e.name() == engine).unwrap();
        Tile { engine, rows: rows.parse().unwrap(), columns: columns.parse().unwrap(), splits: splits.parse().unwrap() }
    };
    // up, down, dinner, dx, dfc1, dfc2
    let (large, wide, narrow, general) = ("wgmma 192x192", "wgmma 128x256", "wgmma 128x128", "mma 128x128");
    let few = |rows: usize, splits: usize| [format!("mma {rows}x128"), format!("mma {rows}x128/{splits}")];
    let pruned = |rows: usize, splits: usize, weights: &str| {
        let ([over_d, over_f], weights) = (few(rows, splits), weights.to_owned());
        [over_d.clone(), over_f.clone(), over_d, over_f, weights.clone(), weights]
    };
    let all = |tile: &str| [(); 6].map(|()| tile.to_owned());
    let vit = MoeConfig::token_authors;
    let cases = vec![
        ("H200", vit(768), 197, 32, false, all(wide)),
        ("H200", vit(768), 197, 64, false, all(large)),
        ("H200", vit(512), 77, 32, false, all(wide)),
        ("H200", vit(512), 77, 64, false, all(large)),
        ("H200", vit(1024), 257, 32, false, all(wide)),
        ("H200", vit(1024), 257, 64, false, all(wide)),
        ("H200", vit(768), 77, 64, false, all(wide)),
        ("H200", vit(768), 197, 32, true, pruned(16, 4, narrow)),
        ("H200", vit(768), 197, 64, true, pruned(32, 4, narrow)),
        ("H200", vit(512), 77, 64, true, pruned(32, 3, narrow)),
        ("H200", vit(1024), 257, 64, true, pruned(32, 3, narrow)),
        ("H200", MoeConfig::feature_authors(512, 4), 64, 1, false, pruned(32, 4, narrow)),
        ("H200", swiglu(768, 1024, 32, 2), 40960, 1, false, all(wide)),
        ("H200", swiglu(4096, 1024, 128, 8), 32768, 1, false, all(wide)),
        ("A100", vit(768), 197, 64, false, all(general)),
        ("A100", vit(768), 197, 64, true, pruned(32, 1, general)),
        ("RTX 4090", vit(768), 197, 64, false, all(general)),
    ];
    let mut wrong = vec![];
    for (card, config, tokens, samples, pruned, want) in cases {
        let got = plan_of(card, &config, DType::Bf16, tokens, samples, pruned);
        let want = want.map(|text| tile(&text));
        if got != Plan::of(want[0].rows, want) {
            let tiles = Product::ALL.map(|p| (got.tile(p).kernel(p.name(config.experts.gated)), got.tile(p).splits));
            wrong.push(format!("{card} D={} {tokens}x{samples} {pruned}: {tiles:?}", config.width));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_an_engine_cannot_do_is_left_to_another() {
    let engine = |card: &str, config: &MoeConfig, dtype: DType| plan_of(card, config, dtype, 197, 64, false).up.engine;
    let config = MoeConfig::token_authors(768);
    assert_eq!(engine("H200", &config, DType::F32), Engine::Ffma);
    assert_eq!(engine("H200", &config, DType::F16), Engine::Wgmma);
    assert_eq!(engine("H200", &MoeConfig::token_authors(772), DType::F16), Engine::Mma);
    assert_eq!(engine("B200", &config, DType::Bf16), Engine::Mma);
    let narrow = Facts { shared_bytes: 99 << 10, ..named("H200") };
    assert_eq!(Plan::new(&narrow, &config, DType::Bf16, &sizes(&config, 197, 64, false)).up.engine, Engine::Mma);
    let plan = plan_of("H200", &config, DType::Bf16, 197, 64, false);
    let without = plan.without_maps();
    assert!(Product::ALL.into_iter().all(|product| without.tile(product).engine == Engine::Mma));
    assert_eq!(without.rows, plan.rows, "the list of tiles is the same");
    let one = Plan::new(&Facts { multiprocessors: 0, ..named("H200") }, &config, DType::Bf16, &sizes(&config, 1, 1, false));
    assert!(one.rows >= Tile::FEWEST_ROWS);
}

#[test]
fn more_pairs_never_take_less_time() {
    let config = MoeConfig { capacity: Capacity::None, ..MoeConfig::token_authors(768) };
    for card in &CARDS {
        let mut before = [0.0; 7];
        for rows in (1..40).chain((64..20_000).step_by(997)) {
            let facts = card.facts();
            let chooser = Chooser::new(&facts, &config, DType::Bf16, &Sizes::new(&config, rows, 1, rows).unwrap());
            let plan = chooser.plan();
            // Each with one tile, and all with the plan's.
            let mut now = [0.0; 7];
            for (now, product) in now.iter_mut().zip(Product::ALL) {
                *now = chooser.cost(product, Tile::new(Engine::Mma, 128, 128)).seconds;
            }
            now[6] = experts_seconds(&chooser, &plan);
            assert!(
                now.iter().zip(before).all(|(now, before)| *now >= before * 0.999),
                "{} at {rows}: {before:?} {now:?}",
                card.name
            );
            before = now;
        }
    }
}

/// Of ViT-B and 64 images each of the three has 720 tiles, of which the busiest of 132 multiprocessors has 6: 18 one by one. In one launch
/// they are 2160, of which those from the first to the 48th have 17. The first 60 have 6 of dfc2's and, for 1440 are 10 times 132 and 120,
/// 5 of dfc1's; so that those 48 have 6 of dx's.
#[test]
fn products_in_one_launch_take_as_long_as_by_hand() {
    let (facts, config) = (named("H200"), MoeConfig::token_authors(768));
    let tile = Tile::new(Engine::Wgmma, 128, 256);
    let chooser = Chooser::new(&facts, &config, DType::Bf16, &sizes(&config, 197, 64, false));
    // At 790 TFLOP/s, 92 % of them, 91.5 % of that where rows are gathered along K. An epilogue of 2.5 instructions an element takes one
    // group less than a step of the other.
    let (elements, tensor) = (128.0 * 256.0, 790e12 / 132.0 * 0.92);
    let of_weights = 2.0 * elements * 3008.0 / (tensor * 0.915);
    let of_dx = 2.0 * elements * 3072.0 / tensor;
    // The first step, and a launch.
    let by_hand = 11.0 * of_weights + 6.0 * of_dx + 1e-6 + LAUNCH;
    let merged = chooser.merged(tile).seconds;
    assert!((merged / by_hand - 1.0).abs() < 1e-9, "{merged} {by_hand}");
    let apart: f64 = Product::MERGED.iter().map(|&product| chooser.cost(product, tile).seconds).sum();
    let [one_by_one, together] = [apart, merged].map(|seconds| (seconds * 1e6).round());
    assert_eq!((one_by_one, together), (696.0, 652.0));
}

#[test]
fn one_launch_is_never_slower_than_three() {
    let configs = [
        MoeConfig::token_authors(768),
        MoeConfig::token_authors(1024),
        MoeConfig { shared_expert: true, ..MoeConfig::token_paper(512) },
        MoeConfig::feature_authors(512, 4),
        swiglu(768, 1024, 32, 2),
        MoeConfig { shared_expert: true, ..swiglu(4096, 256, 256, 16) },
    ];
    let tiles = || candidates(Product::Dx).filter(|tile| tile.engine == Engine::Wgmma);
    for (card, config) in
        CARDS.iter().filter(|card| card.arch == Arch::HOPPER).flat_map(|card| configs.iter().map(move |c| (card, c)))
    {
        for rows in (1..40).chain((64..20_000).step_by(997)) {
            let facts = card.facts();
            let chooser = Chooser::new(&facts, config, DType::Bf16, &Sizes::new(config, rows, 1, rows).unwrap());
            for tile in tiles() {
                let apart: f64 = Product::MERGED.iter().map(|&product| chooser.cost(product, tile).seconds).sum();
                let merged = chooser.merged(tile).seconds;
                assert!(merged <= apart, "{} D={} {rows} {tile:?}: {merged} {apart}", card.name, config.width);
            }
        }
    }
}

#[test]
fn a_plan_for_an_even_load_is_not_far_from_the_best_of_a_skewed_one() {
    for pruned in [false, true] {
        let config = MoeConfig::token_authors(768);
        let facts = named("H200");
        let even = Chooser::new(&facts, &config, DType::Bf16, &sizes(&config, 197, 64, pruned));
        let pairs = even.load.pairs();
        let segments = [Segment { experts: 1, pairs }, Segment { experts: 9, pairs: 0 }, Segment::default()];
        let skewed = Chooser { load: Load { segments, ..even.load }, card: even.card, ..even };
        let chosen = experts_seconds(&skewed, &plan_of("H200", &config, DType::Bf16, 197, 64, pruned));
        let best = experts_seconds(&skewed, &skewed.plan());
        assert!(chosen <= best * 1.3, "{chosen} {best}");
    }
}

#[test]
fn a_pass_is_predicted_kernel_by_kernel_and_none_beats_the_card() {
    let config = MoeConfig::token_authors(768);
    for card in &CARDS {
        let all = predict(&card.facts(), &config, DType::Bf16, 197, 64, 197 * 64, false).unwrap();
        // Of Hopper the last three products are one.
        let (listed, launched) = if card.arch == Arch::HOPPER { (14, 11) } else { (13, 13) };
        assert_eq!((all.len(), all.iter().filter(|p| p.launched).count()), (listed, launched));
        assert_eq!(all.iter().filter(|p| !p.backward).count(), 5);
        let given = predict(&card.facts(), &config, DType::Bf16, 197, 64, 197 * 64, true).unwrap();
        assert_eq!((given.len(), given.iter().filter(|p| p.kernel.starts_with("gate")).count()), (listed - 3, 0));
        for p in &all {
            assert!(find(&p.kernel).is_some(), "{}", p.kernel);
            let floor = (p.flops / card.tensor).max(p.bytes / card.memory) + LAUNCH;
            assert!(p.seconds >= floor, "{}: {p:?}", card.name);
        }
    }
    // ViT-B, 64 images: 364 and 728 us of multiplications alone.
    let h200 = predict(&named("H200"), &config, DType::Bf16, 197, 64, 197 * 64, false).unwrap();
    let launched = |backward: bool| h200.iter().filter(move |p| p.launched && p.backward == backward);
    let microseconds = |backward: bool| launched(backward).map(|p| p.seconds * 1e6).sum::<f64>();
    let (forward, backward) = (microseconds(false), microseconds(true));
    assert!((400.0..650.0).contains(&forward) && (800.0..1300.0).contains(&backward), "{forward} {backward}");
    let up = h200.iter().find(|p| p.kernel == "experts_up_wgmma_192x192_bf16").unwrap();
    assert_eq!(up.flops, 2.0 * 30080.0 * 768.0 * 3072.0);
    let bytes = |kernels: &[Prediction], backward: bool, stem: &str| {
        kernels.iter().find(|p| p.backward == backward && p.kernel.starts_with(stem)).unwrap().bytes
    };
    // The gate's gradient, of every row.
    let given = predict(&named("H200"), &config, DType::Bf16, 197, 64, 197 * 64, true).unwrap();
    let rows = 197.0 * 64.0 * 768.0;
    assert_eq!(bytes(&h200, true, "combine") - bytes(&given, true, "combine"), 2.0 * rows);
    // y, each pair's row, and x of the rows that are needed.
    let pruned = predict(&named("H200"), &config, DType::Bf16, 197, 64, 64, false).unwrap();
    assert_eq!(bytes(&pruned, false, "combine"), 2.0 * (rows + (64.0 * 3.0 + 64.0) * 768.0));
    // dy and the biases of ten experts.
    let unbiased = MoeConfig { experts: Experts { bias: false, ..config.experts }, ..config.clone() };
    let unbiased = predict(&named("H200"), &unbiased, DType::Bf16, 197, 64, 197 * 64, false).unwrap();
    let (of_route, without) = (bytes(&h200, true, "route"), bytes(&unbiased, true, "route"));
    assert_eq!(of_route - without, 2.0 * (rows + 10.0 * 768.0));
    assert!(predict(&named("H200"), &config, DType::F64, 2, 2, 4, false).is_err());
}

#[test]
fn a_card_is_known_by_its_name_or_by_its_architecture() {
    let of = |name: &str, arch: u32, multiprocessors: u32| {
        Card::of(&Facts { name: name.into(), arch: Arch(arch), multiprocessors, ..named("H200") })
    };
    assert_eq!(of("NVIDIA H200", 90, 132), CARDS[0]);
    assert_eq!(of("NVIDIA H100 80GB HBM3", 90, 132).memory, 2.9e12);
    // Another card, whose name has this one's letters.
    assert_eq!(of("NVIDIA GH200 480GB", 90, 66), of("something new", 90, 66));
    assert!(!card::is_called("NVIDIA GH200 480GB", "H200") && card::is_called("NVIDIA H200 NVL", "H200"));
    assert!(card::is_called("NVIDIA A100-SXM4-80GB", "A100") && !card::is_called("NVIDIA L40", "L40S"));
    let half = of("something new", 90, 66);
    assert_eq!((half.tensor, half.multiprocessors), (395e12, 66));
    assert_eq!(of("NVIDIA GeForce RTX 4090", 89, 128).name, "RTX 4090");
}
