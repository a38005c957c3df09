//! What a loss is given: one batch, and where its groups are.

use crate::error::{Error, Result, expect_shape};
use crate::moe::Layout;

/// One gate's final weights over a batch.
#[derive(Clone, Copy, Debug)]
pub struct GateWeights<'a, W> {
    /// `[rows, E]`.
    pub weights: &'a [W],
    /// E.
    pub experts: usize,
    /// The order of the rows: tells which sample a row belongs to.
    pub layout: Layout,
    /// `[rows]`: false leaves a row (padding) out of the dispersion; none: all count.
    pub row_mask: Option<&'a [bool]>,
}

/// One batch: what the cross entropy, transport and dispersion read.
#[derive(Clone, Copy, Debug)]
pub struct FolBatch<'a, W> {
    /// `[B, B]` similarity of image i (row) and text j (column): cosines, or logits with a `scale` of 1.
    pub similarity: &'a [W],
    /// What multiplies the similarity to give logits.
    pub scale: f64,
    /// B.
    pub samples: usize,
    /// The gates whose dispersion counts.
    pub gates: &'a [GateWeights<'a, W>],
}

/// Where the groups are.
#[derive(Clone, Copy, Debug)]
pub enum Groups<'a, W> {
    /// Each a batch of its own, with as many gates of the same widths (as published). One of no samples is left out.
    Separate(&'a [FolBatch<'a, W>]),
    /// In the batch itself. A group's correlation uses only its own rows and columns of the similarity, as if it were the batch;
    /// its gate rows are all rows of its samples, so a gate's rows must be a multiple of B.
    Ids {
        /// `[B]`, each from 0 to `count` - 1, or -1 for a sample that belongs to none.
        ids: &'a [i64],
        /// G, at most 65,536.
        count: usize,
    },
}

/// A typing error in the number of groups is to be an error, not an attempt to hold that many groups.
const MOST_GROUPS: usize = 1 << 16;

impl<W> GateWeights<'_, W> {
    fn check(&self) -> Result<()> {
        check_gate(self.experts, self.weights.len(), self.row_mask.map(<[bool]>::len))
    }

    /// `[rows]` 0, or -1 for a row that the mask leaves out.
    pub(crate) fn rows_counted(&self) -> Vec<i64> {
        match self.row_mask {
            Some(mask) => mask.iter().map(|&counts| if counts { 0 } else { -1 }).collect(),
            None => vec![0; self.weights.len() / self.experts],
        }
    }

    /// `[rows]` the group of each row's sample, or -1 for a row that the mask leaves out.
    pub(crate) fn rows_grouped(&self, ids: &[i64]) -> Vec<i64> {
        let mut rows = self.rows_counted();
        let tokens = rows.len() / ids.len();
        for (row, group) in rows.iter_mut().enumerate().filter(|(_, group)| **group == 0) {
            *group = match self.layout {
                Layout::TokensFirst => ids[row % ids.len()],
                Layout::SamplesFirst => ids[row / tokens],
            };
        }
        rows
    }
}

impl<W> FolBatch<'_, W> {
    fn check(&self) -> Result<()> {
        expect_shape("the similarity", &[self.samples, self.samples], self.similarity.len())?;
        self.gates.iter().try_for_each(GateWeights::check)
    }
}

impl<'a, W> Groups<'a, W> {
    /// The batch that group `g` lies in.
    pub(crate) fn batch_of<'b>(&'b self, g: usize, batch: &'b FolBatch<'a, W>) -> &'b FolBatch<'a, W> {
        match self {
            Groups::Separate(batches) => &batches[g],
            Groups::Ids { .. } => batch,
        }
    }

    /// The samples of each group: numbers of its own batch where groups are separate, else of the one batch.
    pub(crate) fn members(&self) -> Vec<Vec<usize>> {
        match self {
            Groups::Separate(batches) => batches.iter().map(|batch| (0..batch.samples).collect()).collect(),
            Groups::Ids { ids, count } => {
                let mut members = vec![vec![]; *count];
                for (sample, &id) in ids.iter().enumerate().filter(|(_, id)| **id >= 0) {
                    members[id as usize].push(sample);
                }
                members
            }
        }
    }

    /// Checks every shape and id: nothing after this can meet a wrong one.
    pub(crate) fn check(&self, batch: &FolBatch<'_, W>) -> Result<()> {
        if batch.samples == 0 {
            return Err(Error::config("the number of samples", "at least 1", 0));
        }
        batch.check()?;
        match self {
            Groups::Separate(batches) => batches.iter().try_for_each(|group| {
                let same = group.gates.iter().map(|g| g.experts).eq(batch.gates.iter().map(|g| g.experts));
                if same { group.check() } else { Err(Error::Refused(unlike(group, batch))) }
            }),
            Groups::Ids { ids, count } => {
                expect_shape("the group ids", &[batch.samples], ids.len())?;
                check_ids(ids, *count)?;
                batch.gates.iter().try_for_each(|gate| match (gate.weights.len() / gate.experts) % batch.samples {
                    0 => Ok(()),
                    _ => Err(Error::config(
                        "with group ids, the number of a gate's rows",
                        format!("a multiple of the {} samples", batch.samples),
                        gate.weights.len() / gate.experts,
                    )),
                })
            }
        }
    }
}

fn unlike<W>(group: &FolBatch<'_, W>, batch: &FolBatch<'_, W>) -> String {
    let experts = |b: &FolBatch<'_, W>| b.gates.iter().map(|g| g.experts).collect::<Vec<_>>();
    format!("a group must have the batch's gates, of {:?} experts, but has gates of {:?} experts", experts(batch), experts(group))
}

/// Checks the lengths of a gate's weights and of its mask of rows, if any.
pub(crate) fn check_gate(experts: usize, weights: usize, row_mask: Option<usize>) -> Result<()> {
    if experts == 0 {
        return Err(Error::config("a gate's number of experts", "at least 1", 0));
    }
    let rows = weights / experts;
    expect_shape("a gate's weights", &[rows, experts], weights)?;
    row_mask.map_or(Ok(()), |len| expect_shape("a gate's row mask", &[rows], len))
}

/// Checks that there are not too many groups, and that every id is that of a group, or -1.
pub(crate) fn check_ids(ids: &[i64], groups: usize) -> Result<()> {
    if groups > MOST_GROUPS {
        return Err(Error::config("the number of groups", format!("at most {MOST_GROUPS}"), groups));
    }
    let bad = ids.iter().position(|&id| id < -1 || (id >= 0 && id as u64 >= groups as u64));
    bad.map_or(Ok(()), |index| {
        let expected = match groups {
            0 => "-1, for there are no groups".into(),
            _ => format!("from 0 to {}, or -1 for none", groups - 1),
        };
        Err(Error::Value { what: "the group ids", expected, index, got: ids[index].to_string() })
    })
}
