//! A layer with its inputs and gradients from behind, in f64: from a recorded case, or random; and both ways to run it.

use super::Case;
use fair_moe::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Everything a forward and a backward pass take.
#[derive(Clone)]
pub struct Layer {
    pub config: MoeConfig,
    pub parameters: Parameters<Vec<f64>>,
    pub x: Vec<f64>,
    pub tokens: usize,
    pub samples: usize,
    pub layout: Layout,
    pub row_mask: Option<Vec<bool>>,
    pub rows_needed: Option<Vec<usize>>,
    pub dy: Vec<f64>,
    pub dweights: Option<Vec<f64>>,
    pub dprobabilities: Option<Vec<f64>>,
    pub dlogits: Option<Vec<f64>>,
}

/// Everything they give.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    pub y: Vec<f64>,
    pub routing: Routing<f64>,
    pub dx: Vec<f64>,
    pub gradients: Parameters<Vec<f64>>,
}

impl Layer {
    /// A recorded case of kind `token_moe` or `feature_moe`.
    pub fn recorded(case: &Case) -> Layer {
        let token = case.text("kind") == "token_moe";
        let (width, count) = (case.size("width"), case.size("experts"));
        let gate_hidden = case.shape("gate.fc1.weight")[0];
        let capacity = case.settings.get("capacity").and_then(|c| c.as_u64());
        let config = MoeConfig {
            width,
            gate: Gate {
                hidden: Some(GateHidden { width: gate_hidden, activation: case.text("gate_activation").parse().unwrap() }),
                bias: true,
            },
            experts: Experts {
                count,
                width: case.size("expert_width"),
                activation: case.text("expert_activation").parse().unwrap(),
                gated: false,
                bias: true,
            },
            top_k: if token { case.size("top_k") } else { count },
            renormalise: case.flag("renormalise"),
            capacity: capacity.map_or(Capacity::None, |c| Capacity::Fixed(c as usize)),
            capacity_scope: CapacityScope::Sample,
            shared_expert: false,
            subtract_input: case.flag("subtract_input"),
        };
        let optional = |name: &str| case.tensors.get(name).map(|t| t.1.clone());
        Layer {
            parameters: Parameters::from_fn(|p| optional(p.name()).unwrap_or_default()),
            x: case.get("x").to_vec(),
            tokens: if token { case.size("tokens") } else { 1 },
            samples: case.size("samples"),
            layout: Layout::TokensFirst,
            row_mask: None,
            rows_needed: None,
            dy: case.get("dy").to_vec(),
            dweights: optional("dweights"),
            dprobabilities: None,
            dlogits: optional("dlogits"),
            config,
        }
    }

    /// Random values that bf16 holds exactly, for a layer of any configuration.
    pub fn random(config: MoeConfig, tokens: usize, samples: usize, layout: Layout, seed: u64) -> Layer {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut values = |n: usize, scale: f64| -> Vec<f64> {
            (0..n).map(|_| half::bf16::from_f64((rng.random::<f64>() * 2.0 - 1.0) * scale).to_f64()).collect()
        };
        let mut parameters: Parameters<Vec<f64>> = Parameters::init(&config, seed);
        for p in Param::ALL {
            // A gate that is not near-uniform, as after training.
            let scale = if matches!(p, Param::GateFc2Weight) { 3.0 } else { 1.0 };
            parameters[p].iter_mut().for_each(|v| *v = half::bf16::from_f64(*v * scale).to_f64());
        }
        let (n, e) = (tokens * samples, config.experts.count);
        Layer {
            x: values(n * config.width, 1.0),
            dy: values(n * config.width, 1.0),
            dweights: Some(values(n * e, 1.0)),
            dprobabilities: Some(values(n * e, 0.5)),
            dlogits: Some(values(n * e, 0.1)),
            row_mask: None,
            rows_needed: None,
            config,
            parameters,
            tokens,
            samples,
            layout,
        }
    }

    pub fn input<'a, T>(&'a self, x: &'a [T]) -> MoeInput<'a, T> {
        let mut input = MoeInput::new(x, self.tokens, self.samples, self.layout);
        input.row_mask = self.row_mask.as_deref();
        input.rows_needed = self.rows_needed.as_deref();
        input
    }

    /// By the reference.
    pub fn reference(&self) -> Results {
        let parameters = self.parameters.as_slices();
        let input = self.input(&self.x);
        let forward = reference::moe_forward(&self.config, &parameters, &input).unwrap();
        let upstream = Upstream {
            dy: &self.dy,
            dweights: self.dweights.as_deref(),
            dprobabilities: self.dprobabilities.as_deref(),
            dlogits: self.dlogits.as_deref(),
        };
        let back = reference::moe_backward(&self.config, &parameters, &input, &forward.routing, &upstream).unwrap();
        Results { y: forward.y, routing: forward.routing, dx: back.dx, gradients: back.gradients }
    }

    /// By the layer, in T, with parameter gradients in G.
    pub fn run<T: Element, G: Element>(&self) -> Results {
        let narrow = |v: &[f64]| v.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let wide = |v: &Option<Vec<f64>>| v.as_ref().map(|v| v.iter().map(|&v| T::Wide::from_f64(v)).collect::<Vec<_>>());
        let parameters = Parameters::from_fn(|p| narrow(&self.parameters[p]));
        let (x, dy) = (narrow(&self.x), narrow(&self.dy));
        let (dweights, dprobabilities, dlogits) = (wide(&self.dweights), wide(&self.dprobabilities), wide(&self.dlogits));
        let moe = Moe::new(self.config.clone()).unwrap();
        let (mut state, mut y, mut dx) = (MoeState::default(), vec![T::default(); x.len()], vec![T::default(); x.len()]);
        let (parameters, input) = (parameters.as_slices(), self.input(&x));
        moe.forward(&parameters, &input, &mut y, &mut state).unwrap();
        let upstream = Upstream {
            dy: &dy,
            dweights: dweights.as_deref(),
            dprobabilities: dprobabilities.as_deref(),
            dlogits: dlogits.as_deref(),
        };
        // What stands in a gradient buffer before an overwriting pass must not matter.
        let mut gradients = Parameters::from_fn(|p| vec![G::from_f64(f64::NAN); p.len(&self.config)]);
        let mode = GradientMode::Overwrite;
        moe.backward(&parameters, &input, &state, &upstream, &mut dx, &mut gradients.as_mut_slices(), mode).unwrap();
        Results {
            y: to_f64(&y),
            routing: routing_f64(state.routing()),
            dx: to_f64(&dx),
            gradients: Parameters::from_fn(|p| to_f64(&gradients[p])),
        }
    }
}

pub fn to_f64<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

fn routing_f64<W: Element>(r: &Routing<W>) -> Routing<f64> {
    Routing {
        hidden: to_f64(&r.hidden),
        logits: to_f64(&r.logits),
        probabilities: to_f64(&r.probabilities),
        chosen: r.chosen.clone(),
        weights: to_f64(&r.weights),
        expert_offsets: r.expert_offsets.clone(),
        pair_row: r.pair_row.clone(),
        pair_weight: to_f64(&r.pair_weight),
        row_pairs: r.row_pairs.clone(),
    }
}

/// Every axis of the layer at least once in each of its values, with odd sizes.
pub fn every_axis() -> Vec<(&'static str, Layer)> {
    let base = || {
        let mut c = MoeConfig::token_paper(13);
        c.experts.width = 21;
        c.experts.count = 5;
        c.top_k = 2;
        c
    };
    let random = |config, seed| Layer::random(config, 11, 3, Layout::TokensFirst, seed);
    let with = |change: &dyn Fn(&mut MoeConfig), seed| {
        let mut config = base();
        change(&mut config);
        random(config, seed)
    };
    let mut cases = vec![
        ("paper", with(&|_| {}, 1)),
        ("samples first", Layer { layout: Layout::SamplesFirst, ..with(&|_| {}, 2) }),
        ("linear gate", with(&|c| c.gate.hidden = None, 3)),
        ("no biases", with(&|c| (c.gate.bias, c.experts.bias) = (false, false), 4)),
        ("renormalised", with(&|c| c.renormalise = true, 5)),
        ("renormalised, capacity 1", with(&|c| (c.renormalise, c.capacity) = (true, Capacity::Fixed(1)), 6)),
        ("no capacity", with(&|c| c.capacity = Capacity::None, 7)),
        ("capacity per batch", with(&|c| c.capacity_scope = CapacityScope::Batch, 8)),
        ("shared expert", with(&|c| c.shared_expert = true, 9)),
        ("input subtracted", with(&|c| c.subtract_input = true, 10)),
        ("gated", with(&|c| (c.experts.gated, c.experts.activation) = (true, Activation::Silu), 11)),
        ("gated, shared, no biases", with(&|c| (c.experts.gated, c.shared_expert, c.experts.bias) = (true, true, false), 12)),
        ("gelu", with(&|c| c.experts.activation = Activation::Gelu, 13)),
        ("relu", with(&|c| c.experts.activation = Activation::Relu, 14)),
        ("one expert", with(&|c| (c.experts.count, c.top_k) = (1, 1), 15)),
        ("k = E", with(&|c| (c.top_k, c.capacity) = (5, Capacity::None), 16)),
        ("one token", Layer::random(base(), 1, 1, Layout::TokensFirst, 17)),
        ("width 1", Layer::random(MoeConfig { width: 1, ..base() }, 7, 2, Layout::SamplesFirst, 18)),
        ("feature", Layer::random(MoeConfig::feature_paper(24, 3), 1, 9, Layout::TokensFirst, 19)),
        (
            "many experts, some without rows",
            Layer::random(
                {
                    let mut c = base();
                    c.experts.count = 40;
                    c
                },
                3,
                2,
                Layout::TokensFirst,
                20,
            ),
        ),
    ];
    let mut masked = with(&|c| (c.shared_expert, c.subtract_input) = (true, true), 21);
    masked.row_mask = Some((0..33).map(|row| row % 4 != 1).collect());
    cases.push(("row mask", masked.clone()));
    masked.rows_needed = Some(vec![0, 1, 2, 17, 32]);
    cases.push(("rows needed and masked", masked));
    cases.push(("rows needed", Layer { rows_needed: Some(vec![0, 11, 22]), layout: Layout::SamplesFirst, ..with(&|_| {}, 22) }));
    cases.push(("no row needed", Layer { rows_needed: Some(vec![]), ..with(&|_| {}, 23) }));
    cases
}
