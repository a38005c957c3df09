//! What each term of the loss weighs before the first step: its share of the value, and of the gradient.

use super::objective::{Loss, Objective, StepGroups, Terms};
use super::saved::SavedModel;
use super::settings::{Arch, LossSettings, Module, SelectSplit, Settings};
use crate::error::Result;
use crate::model::{ClipOutput, ExpertsFrom, Weights};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A term whose gradient is smaller than this share of the cross entropy's changes nothing that can be told.
const NEGLIGIBLE: f64 = 1e-3;

/// `start.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The terms that are switched on.
    pub terms: BTreeMap<String, StartTerm>,
    /// The norm of the whole loss's gradient on each part of the model that moves.
    pub gradient_norms: BTreeMap<Module, f64>,
    /// What a reader should know before training, in plain sentences.
    pub warnings: Vec<String>,
}

/// One term, with its weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartTerm {
    /// Its value.
    pub value: f64,
    /// Its absolute value's share of all terms'.
    pub share: f64,
    /// The norm of its gradient on all parameters that move.
    pub gradient_norm: f64,
}

/// A term: its name, the setting that is its weight, and its value among the others.
type Term = (&'static str, &'static str, fn(&mut LossSettings) -> &mut f64, fn(&Terms) -> f64);

const TERMS: [Term; 5] = [
    ("clip", "loss.lambda_clip", |l| &mut l.lambda_clip, |t| t.clip),
    ("distance", "loss.lambda_distance", |l| &mut l.lambda_distance, |t| t.distance),
    ("dispersion", "loss.lambda_dispersion", |l| &mut l.lambda_dispersion, |t| t.dispersion),
    ("batch_variance", "loss.lambda_batch_variance", |l| &mut l.lambda_batch_variance, |t| t.batch_variance),
    ("gate_ce", "loss.gate_ce_weight", |l| &mut l.gate_ce_weight, |t| t.gate_ce),
];

impl Start {
    /// Weighs the terms of the first step's loss.
    ///
    /// # Errors
    /// As [`Objective::of`], and when gradients cannot be had.
    pub(super) fn of(
        settings: &Settings,
        model: &SavedModel,
        out: &ClipOutput,
        ids: &[Vec<i64>],
        groups: &StepGroups,
        whole: &Loss,
    ) -> Result<Self> {
        let moves = |module: &Module| settings.training.trainable.contains(module);
        let norms = |total: &Tensor| module_norms(model.clip.weights(), &total.backward()?);
        let sum: f64 = TERMS.iter().map(|(.., value)| value(&whole.terms).abs()).sum();
        let mut terms = BTreeMap::new();
        for (name, _, weight, value) in TERMS {
            let mut alone = settings.loss.clone();
            let own = *weight(&mut alone);
            TERMS.iter().for_each(|(_, _, weight, _)| *weight(&mut alone) = 0.0);
            *weight(&mut alone) = own;
            let value = value(&whole.terms);
            // Without mixtures some terms are 0 whatever their weight.
            if own == 0.0 || value == 0.0 {
                continue;
            }
            let norms = norms(&Objective::new(settings, &alone)?.of(out, ids, groups)?.total)?;
            let square: f64 = norms.iter().filter(|(module, _)| moves(module)).map(|(_, norm)| norm * norm).sum();
            terms.insert(name.to_owned(), StartTerm { value, share: value.abs() / sum, gradient_norm: square.sqrt() });
        }
        let mut gradient_norms = norms(&whole.total)?;
        gradient_norms.retain(|module, _| moves(module));
        let mut warnings = negligible(&terms);
        if settings.arch != Arch::Tiny && settings.model.weights.is_none() {
            warnings.push("fresh parameters meet settings that are published for pretrained ones: give it weights".into());
        }
        if settings.training.select_split == SelectSplit::Test {
            warnings.push("the test split chooses the epoch, as published: what is measured on it afterwards is too good".into());
        }
        if settings.model.mixtures && settings.model.weights.is_some() && !settings.model.feature_residual {
            warnings.push(
                "fresh feature mixtures stand between the pretrained towers and their comparison, as published: \
                 before training, zero-shot answers are chance"
                    .into(),
            );
        }
        let (theirs, ours) = (model.card.clip.hidden_act, settings.model.expert_activation);
        let copies = settings.model.weights.is_some() && settings.model.experts_from != ExpertsFrom::Fresh;
        if settings.model.mixtures && copies && theirs != ours {
            warnings.push(format!(
                "experts that are copies of the weights' MLPs compute with {ours}, but those were trained with {theirs}: \
                 set model.expert_activation={theirs}"
            ));
        }
        warnings.extend(whole.warnings.iter().cloned());
        Ok(Self { terms, gradient_norms, warnings })
    }
}

/// The terms beside the cross entropy whose gradient is next to nothing.
fn negligible(terms: &BTreeMap<String, StartTerm>) -> Vec<String> {
    let Some(clip) = terms.get("clip").map(|term| term.gradient_norm) else { return vec![] };
    let small = TERMS.iter().filter_map(|(name, setting, ..)| {
        let norm = terms.get(*name).filter(|term| term.gradient_norm < NEGLIGIBLE * clip)?.gradient_norm;
        let advice = match clip / norm {
            times if times.is_finite() => format!("{setting} would have to be some {times:.0e} times as large to equal it"),
            _ => "no weight changes that".to_owned(),
        };
        let share = norm / clip;
        Some(format!("the gradient of {name} is {share:.1e} of the cross entropy's, which is negligible: {advice}"))
    });
    small.collect()
}

/// The norm of the gradient on each part of the model.
fn module_norms(weights: &Weights, gradients: &GradStore) -> Result<BTreeMap<Module, f64>> {
    let mut squares = BTreeMap::<Module, f64>::new();
    for (name, var) in weights.iter() {
        let Some(gradient) = gradients.get(var) else { continue };
        // Squares of small f32 numbers vanish.
        let square = gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
        *squares.entry(Module::of(name)).or_default() += square;
    }
    Ok(squares.into_iter().map(|(module, square)| (module, square.sqrt())).collect())
}

impl fmt::Display for Start {
    /// One term a line, then the warnings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<16}{:>12}{:>9}{:>16}", "before training", "value", "share", "gradient norm")?;
        for (name, StartTerm { value, share, gradient_norm }) in &self.terms {
            writeln!(f, "  {name:<16}{value:>12.3e}{:>8.2}%{gradient_norm:>16.3e}", 100.0 * share)?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {warning}"))
    }
}
