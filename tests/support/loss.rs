//! A loss with what it is given, in f64: from a recorded case, or random; and a way to run it in any type.

use super::{Case, uniform};
use fair_moe::*;

#[derive(Clone)]
pub struct GateData {
    pub weights: Vec<f64>,
    pub experts: usize,
    pub layout: Layout,
    pub row_mask: Option<Vec<bool>>,
}

#[derive(Clone)]
pub struct BatchData {
    pub similarity: Vec<f64>,
    pub scale: f64,
    pub samples: usize,
    pub gates: Vec<GateData>,
}

#[derive(Clone)]
pub enum Grouping {
    Separate(Vec<BatchData>),
    Ids(Vec<i64>, usize),
}

/// Everything that a forward pass takes.
#[derive(Clone)]
pub struct Loss {
    pub config: FolConfig,
    pub batch: BatchData,
    pub groups: Grouping,
}

impl GateData {
    /// Random weights, about a third of them 0 as a top-k leaves them.
    pub fn random(seed: u64, rows: usize, experts: usize, layout: Layout) -> Self {
        let weights = uniform(seed, rows * experts).iter().map(|v| (v + 0.3).max(0.0)).collect();
        Self { weights, experts, layout, row_mask: None }
    }

    /// The rows of some samples alone.
    fn part(&self, samples: usize, members: &[usize]) -> Self {
        let rows = self.weights.len() / self.experts;
        let tokens = rows / samples;
        let of = |t: usize, b: usize| match self.layout {
            Layout::TokensFirst => t * samples + b,
            Layout::SamplesFirst => b * tokens + t,
        };
        let chosen: Vec<usize> = match self.layout {
            Layout::TokensFirst => (0..tokens).flat_map(|t| members.iter().map(move |&b| of(t, b))).collect(),
            Layout::SamplesFirst => members.iter().flat_map(|&b| (0..tokens).map(move |t| of(t, b))).collect(),
        };
        Self {
            weights: chosen.iter().flat_map(|r| &self.weights[r * self.experts..(r + 1) * self.experts]).copied().collect(),
            row_mask: self.row_mask.as_ref().map(|mask| chosen.iter().map(|&r| mask[r]).collect()),
            ..*self
        }
    }
}

impl BatchData {
    /// Two gates: `tokens` rows a sample in five experts, and one row a sample in three.
    pub fn random(seed: u64, samples: usize, tokens: usize) -> Self {
        Self {
            similarity: uniform(seed, samples * samples),
            scale: 1.3,
            samples,
            gates: vec![
                GateData::random(seed + 1, tokens * samples, 5, Layout::TokensFirst),
                GateData::random(seed + 2, samples, 3, Layout::SamplesFirst),
            ],
        }
    }

    /// Some samples alone: their rows and columns of the similarity, and their rows of every gate.
    pub fn part(&self, members: &[usize]) -> Self {
        Self {
            similarity: members.iter().flat_map(|i| members.iter().map(move |j| self.similarity[i * self.samples + j])).collect(),
            scale: self.scale,
            samples: members.len(),
            gates: self.gates.iter().map(|gate| gate.part(self.samples, members)).collect(),
        }
    }

    fn numbers(&self) -> Vec<f64> {
        let gates = self.gates.iter().flat_map(|gate| gate.weights.iter().copied());
        self.similarity.iter().copied().chain([self.scale]).chain(gates).collect()
    }

    fn set(&mut self, from: &mut impl Iterator<Item = f64>) {
        self.similarity.fill_with(|| from.next().unwrap());
        self.scale = from.next().unwrap();
        self.gates.iter_mut().for_each(|gate| gate.weights.fill_with(|| from.next().unwrap()));
    }
}

impl Loss {
    /// A recorded case of kind `fol`.
    pub fn recorded(case: &Case) -> Loss {
        let batch = |prefix: &str, samples: usize| BatchData {
            similarity: case.get(&format!("{prefix}logits")).to_vec(),
            scale: 1.0,
            samples,
            gates: (0..case.size("layers"))
                .map(|i| format!("{prefix}weights{i}"))
                .map(|name| GateData {
                    weights: case.get(&name).to_vec(),
                    experts: case.shape(&name)[1],
                    layout: Layout::TokensFirst,
                    row_mask: None,
                })
                .collect(),
        };
        let group = |g: usize| batch(&format!("group{g}."), case.size("group_samples"));
        let config = FolConfig {
            lambda_clip: 0.0,
            lambda_distance: case.number("lambda_distance"),
            lambda_dispersion: case.number("lambda_dispersion"),
            lambda_batch_variance: case.number("lambda_dispersion"),
            distance: Distance::Sinkhorn { blur: case.number("blur"), scaling: case.number("scaling") },
            ..FolConfig::authors()
        };
        let groups = Grouping::Separate((0..case.size("groups")).map(group).collect());
        Loss { config, batch: batch("", case.size("samples")), groups }
    }

    /// Everything that gradients can flow to: the batch's similarity, scale and gates, then those of separate groups.
    pub fn numbers(&self) -> Vec<f64> {
        let mut numbers = self.batch.numbers();
        if let (Grouping::Separate(groups), true) = (&self.groups, self.config.group_gradient) {
            numbers.extend(groups.iter().flat_map(BatchData::numbers));
        }
        numbers
    }

    /// The same loss of other [`Loss::numbers`].
    pub fn with(&self, numbers: &[f64]) -> Loss {
        let (mut loss, mut from) = (self.clone(), numbers.iter().copied());
        loss.batch.set(&mut from);
        if let (Grouping::Separate(groups), true) = (&mut loss.groups, self.config.group_gradient) {
            groups.iter_mut().for_each(|group| group.set(&mut from));
        }
        loss
    }

    /// Group ids turned into the separate batches that they stand for.
    pub fn separated(&self) -> Loss {
        let Grouping::Ids(ids, count) = &self.groups else { panic!("no ids") };
        let members = |g: usize| (0..ids.len()).filter(|&b| ids[b] == g as i64).collect::<Vec<_>>();
        Loss { groups: Grouping::Separate((0..*count).map(|g| self.batch.part(&members(g))).collect()), ..self.clone() }
    }

    pub fn forward<W: Float>(&self) -> Result<FolState> {
        self.run::<W, _>(|fol, batch, groups| fol.forward(batch, groups))
    }

    pub fn total(&self) -> f64 {
        self.forward::<f64>().unwrap().terms.total
    }

    /// The state, and `upstream` times the gradients.
    pub fn backward<W: Float>(&self, upstream: f64) -> Result<(FolState, FolGradients<W>)> {
        self.run::<W, _>(|fol, batch, groups| {
            let state = fol.forward(batch, groups)?;
            let gradients = fol.backward(batch, groups, &state, upstream)?;
            Ok((state, gradients))
        })
    }

    /// The gradients in the order of [`Loss::numbers`].
    pub fn gradients<W: Float>(&self, upstream: f64) -> Vec<f64> {
        let (_, gradients) = self.backward::<W>(upstream).unwrap();
        std::iter::once(&gradients).chain(&gradients.groups).flat_map(flat).collect()
    }

    /// Borrows everything, rounded to `W`, for a call of the loss.
    pub fn run<W: Float, R>(&self, call: impl FnOnce(&Fol, &FolBatch<'_, W>, &Groups<'_, W>) -> Result<R>) -> Result<R> {
        let fol = Fol::new(self.config.clone())?;
        let none = vec![];
        let separate = if let Grouping::Separate(batches) = &self.groups { batches } else { &none };
        let all: Vec<&BatchData> = std::iter::once(&self.batch).chain(separate).collect();
        let narrow = |values: &[f64]| values.iter().map(|&v| W::from_f64(v)).collect::<Vec<W>>();
        let similarities: Vec<Vec<W>> = all.iter().map(|batch| narrow(&batch.similarity)).collect();
        let weights: Vec<Vec<Vec<W>>> =
            all.iter().map(|batch| batch.gates.iter().map(|gate| narrow(&gate.weights)).collect()).collect();
        let gates: Vec<Vec<GateWeights<'_, W>>> =
            all.iter().zip(&weights).map(|(batch, weights)| gates_of(batch, weights)).collect();
        let batches: Vec<FolBatch<'_, W>> = (0..all.len())
            .map(|i| FolBatch { similarity: &similarities[i], scale: all[i].scale, samples: all[i].samples, gates: &gates[i] })
            .collect();
        let groups = match &self.groups {
            Grouping::Separate(_) => Groups::Separate(&batches[1..]),
            Grouping::Ids(ids, count) => Groups::Ids { ids, count: *count },
        };
        call(&fol, &batches[0], &groups)
    }
}

fn gates_of<'a, W>(batch: &'a BatchData, weights: &'a [Vec<W>]) -> Vec<GateWeights<'a, W>> {
    let one = |(gate, weights): (&'a GateData, &'a Vec<W>)| GateWeights {
        weights,
        experts: gate.experts,
        layout: gate.layout,
        row_mask: gate.row_mask.as_deref(),
    };
    batch.gates.iter().zip(weights).map(one).collect()
}

/// One batch's gradients: similarity, scale, gates.
pub fn flat<W: Float>(gradients: &FolGradients<W>) -> Vec<f64> {
    let wide = |values: &[W]| values.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    let mut all = wide(&gradients.dsimilarity);
    all.push(gradients.dscale);
    gradients.dweights.iter().for_each(|gate| all.extend(wide(gate)));
    all
}
