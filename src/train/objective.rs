//! What a step makes smaller: the loss of a batch and its groups, over all attributes.

use super::settings::{LossSettings, Settings};
use crate::candle::{FolInput, TensorGroups, fol};
use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::error::Result;
use crate::fol::{Fol, FolConfig};
use crate::model::{ClipOutput, GateChoice, GateScores};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The terms of a loss, each already multiplied by its weight; `total` is their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// The sum of the others.
    pub total: f64,
    /// Cross entropy of images and texts.
    pub clip: f64,
    /// Distances of the groups.
    pub distance: f64,
    /// Dispersions of the groups.
    pub dispersion: f64,
    /// The batch's own dispersion, as a negative number.
    pub batch_variance: f64,
    /// Cross entropy of gates and groups.
    pub gate_ce: f64,
}

/// What one group's figures are, before any weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupTerms {
    /// Its distance from the batch.
    pub distance: f64,
    /// Its dispersion from the batch's, over all gates.
    pub dispersion: f64,
}

/// Figures by attribute and group.
pub type ByGroup<T> = BTreeMap<String, BTreeMap<String, T>>;

/// A step's loss.
pub(super) struct Loss {
    /// What gradients flow back from.
    pub total: Tensor,
    pub terms: Terms,
    /// Of the groups that the step has samples of.
    pub groups: ByGroup<GroupTerms>,
    /// What a reader should know of terms that are switched on, in plain sentences.
    pub warnings: BTreeSet<String>,
}

/// Where a step's groups are, attribute by attribute.
pub(super) enum StepGroups {
    /// `[B]` of the batch, -1 for none.
    Ids(Vec<Vec<i64>>),
    /// What the model says of each group's own batch.
    Separate(Vec<Vec<ClipOutput>>),
}

/// The loss of some settings.
pub(super) struct Objective {
    attributes: Vec<Attribute>,
    choice: GateChoice,
}

struct Attribute {
    place: usize,
    /// How many groups it has, and the first of their experts in a feature mixture.
    groups: usize,
    first: usize,
    fol: Fol,
    gate_ce: f64,
}

impl Objective {
    /// Of these settings, with another loss.
    ///
    /// # Errors
    /// When a weight is out of range.
    pub fn new(settings: &Settings, loss: &LossSettings) -> Result<Self> {
        let mut first = 0;
        let mut attributes = vec![];
        for ((place, groups), attribute) in settings.places()?.into_iter().zip(&settings.attributes) {
            // What knows nothing of groups counts once.
            let once = if attributes.is_empty() { 1.0 } else { 0.0 };
            let config = loss.config();
            let fol = Fol::new(FolConfig {
                lambda_clip: once * config.lambda_clip,
                lambda_batch_variance: once * config.lambda_batch_variance,
                lambda_distance: attribute.weight * config.lambda_distance,
                lambda_dispersion: attribute.weight * config.lambda_dispersion,
                ..config
            })?;
            attributes.push(Attribute { place, groups, first, fol, gate_ce: attribute.weight * loss.gate_ce_weight });
            first += groups;
        }
        Ok(Self { attributes, choice: loss.choice() })
    }

    /// The loss of what a model says of a batch; `ids` [attributes][B] are the batch's groups.
    ///
    /// # Errors
    /// As [`fol`].
    pub fn of(&self, out: &ClipOutput, ids: &[Vec<i64>], groups: &StepGroups) -> Result<Loss> {
        let input = out.loss_input(&self.choice)?;
        let (total, terms) = (input.scale.zeros_like()?, Terms::default());
        let mut loss = Loss { total, terms, groups: ByGroup::new(), warnings: BTreeSet::new() };
        for (i, attribute) in self.attributes.iter().enumerate() {
            let separate: Vec<FolInput>;
            let groups = match groups {
                StepGroups::Ids(ids) => TensorGroups::Ids { ids: &ids[i], count: attribute.groups },
                StepGroups::Separate(outs) => {
                    let inputs = outs[i].iter().map(|out| out.loss_input(&self.choice));
                    separate = inputs.collect::<candle_core::Result<_>>()?;
                    TensorGroups::Separate(&separate)
                }
            };
            loss.add(attribute, fol(&attribute.fol, &input, groups)?)?;
            if let Some(gates) = gate_ce(attribute, out, &ids[i])? {
                loss.terms.gate_ce += gates.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                loss.total = (loss.total + gates)?;
            }
        }
        let Terms { clip, distance, dispersion, batch_variance, gate_ce, .. } = loss.terms;
        loss.terms.total = clip + distance + dispersion + batch_variance + gate_ce;
        Ok(loss)
    }
}

impl Loss {
    fn add(&mut self, attribute: &Attribute, found: crate::candle::FolLoss) -> Result<()> {
        self.total = (&self.total + &found.total)?;
        let state = found.state()?;
        self.terms.clip += state.terms.clip;
        self.terms.distance += state.terms.distance;
        self.terms.dispersion += state.terms.dispersion;
        self.terms.batch_variance += state.terms.batch_variance;
        let config = attribute.fol.config();
        if config.lambda_distance != 0.0 || config.lambda_dispersion != 0.0 {
            let name = ATTRIBUTES[attribute.place];
            self.warnings.extend(state.warnings.iter().map(|warning| format!("{name}: {warning}")));
        }
        let names = GROUP_NAMES[attribute.place];
        let own = self.groups.entry(ATTRIBUTES[attribute.place].into()).or_default();
        for (name, group) in names.iter().zip(&state.groups) {
            let Some(group) = group else { continue };
            let dispersion = config.dispersion.between(&state.variance, &group.variance);
            own.insert((*name).into(), GroupTerms { distance: group.distance, dispersion });
        }
        Ok(())
    }
}

/// The weighted cross entropy between the logits of both feature gates and the samples' groups, over those that have one; none
/// where it is switched off, or nobody has.
fn gate_ce(attribute: &Attribute, out: &ClipOutput, ids: &[i64]) -> Result<Option<Tensor>> {
    let (Some(image), Some(text)) = (&out.image.gates, &out.text.gates) else { return Ok(None) };
    let known: Vec<u32> = (0u32..).zip(ids).filter(|(_, id)| **id >= 0).map(|(i, _)| i).collect();
    if attribute.gate_ce == 0.0 || known.is_empty() {
        return Ok(None);
    }
    let device = out.cosine.device();
    let groups: Vec<u32> = known.iter().map(|&i| ids[i as usize] as u32).collect();
    let (known, groups) = (Tensor::new(known, device)?, Tensor::new(groups, device)?);
    let one = |gate: &GateScores| {
        let own = gate.logits.narrow(1, attribute.first, attribute.groups)?.contiguous()?.index_select(&known, 0)?;
        candle_nn::loss::cross_entropy(&own, &groups)
    };
    let both = (one(&image.feature)? + one(&text.feature)?)?;
    Ok(Some((both * (0.5 * attribute.gate_ce))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Encoded, Gates};
    use crate::train::{Arch, Preset};
    use candle_core::{Device, Var};

    const IMAGE: [[f64; 5]; 5] = [
        [0.3, -1.2, 0.7, 0.1, 2.0],
        [1.5, 0.2, -0.4, 0.9, -0.3],
        [-0.6, 0.8, 0.05, -1.1, 0.4],
        [0.25, -0.75, 1.25, 0.6, -0.2],
        [2.1, 0.3, -0.9, 0.45, 1.05],
    ];

    /// PyTorch's `cross_entropy` gives these figures, race in the first three experts and gender, with half the weight, in the
    /// last two; the text's logits are half the image's in the opposite order.
    #[test]
    fn the_gates_cross_entropy_is_pytorchs() {
        let image = Var::new(&IMAGE, &Device::Cpu).unwrap();
        let mut text = IMAGE.map(|row| row.map(|z| z / 2.0));
        text.reverse();
        let side = |logits: Tensor| {
            let none = || GateScores { weights: logits.clone(), probabilities: logits.clone(), logits: logits.clone() };
            Encoded {
                feature: logits.clone(),
                embedding: logits.clone(),
                gates: Some(Gates { token: none(), feature: none() }),
                text_rows: None,
            }
        };
        let cosine = Tensor::zeros((5, 5), DType::F64, &Device::Cpu).unwrap();
        let (image_side, text_side) = (side(image.as_tensor().clone()), side(Tensor::new(&text, &Device::Cpu).unwrap()));
        let out = ClipOutput { image: image_side, text: text_side, scale: cosine.sum_all().unwrap(), cosine };
        let mut settings = Settings::of(Preset::Paper, Arch::Tiny);
        settings.attributes = ["race", "gender=0.5"].map(|a| a.parse().unwrap()).to_vec();
        settings.loss.gate_ce_weight = 0.1;
        let objective = Objective::new(&settings, &settings.loss).unwrap();
        let ids = [vec![2, 0, -1, 1, 2], vec![1, -1, 0, 0, 1]];
        let parts = objective.attributes.iter().zip(&ids).map(|(a, ids)| gate_ce(a, &out, ids).unwrap().unwrap());
        let total = parts.reduce(|a, b| (a + b).unwrap()).unwrap();
        approx::assert_abs_diff_eq!(total.to_scalar::<f64>().unwrap(), 0.179_524_193_667_991_38, epsilon = 1e-14);
        let want = [
            [0.0046041281180551575, 0.0010273198443255362, -0.005631447962380694, 0.0008131779647687368, -0.0008131779647687368],
            [-0.0037101846731311438, 0.002395504131469415, 0.0013146805416617297, 0.0, 0.0],
            [0.0, 0.0, 0.0, -0.0051098404762102735, 0.0051098404762102735],
            [0.0030591058881849708, -0.011374617835370245, 0.008315511947185272, -0.001937659492952422, 0.001937659492952422],
            [0.010287338053914703, 0.0017004855430717198, -0.01198782359698642, 0.002214648086088778, -0.002214648086088779],
        ];
        let gradient = total.backward().unwrap().get(&image).unwrap().to_vec2::<f64>().unwrap();
        for (got, want) in gradient.concat().iter().zip(want.concat()) {
            approx::assert_abs_diff_eq!(*got, want, epsilon = 1e-14);
        }
    }

    #[test]
    fn attributes_add_up_by_their_weights_and_what_knows_no_groups_counts_once() {
        let with = |attributes: &[&str]| {
            let mut settings = Settings::of(Preset::Authors, Arch::Tiny);
            settings.attributes = attributes.iter().map(|a| a.parse().unwrap()).collect();
            let objective = Objective::new(&settings, &settings.loss).unwrap();
            objective.attributes.iter().map(|a| a.fol.config().clone()).collect::<Vec<_>>()
        };
        let both = with(&["race=3", "gender=0.5"]);
        let alone = with(&["race"]).remove(0);
        assert_eq!(both[0], FolConfig { lambda_distance: 3.0 * 1e-4, lambda_dispersion: 3.0 * 1e-4, ..alone.clone() });
        let rest = FolConfig { lambda_clip: 0.0, lambda_batch_variance: 0.0, ..alone };
        assert_eq!(both[1], FolConfig { lambda_distance: 5e-5, lambda_dispersion: 5e-5, ..rest });
    }
}
