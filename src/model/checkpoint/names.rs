//! The names that parameters have in OpenAI's, Hugging Face's and Fair-MoE's files, and ours.
//!
//! Ours are Hugging Face's, and beside them those of the mixtures.

use super::Fault;
use super::entry::Entry;
use super::stored::{Stored, kind};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fs::File;

/// What a file's key stands for.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A parameter of ours.
    Whole(String),
    /// A matrix that we keep the other way round.
    Transposed(String),
    /// Query, key and value behind each other.
    Attention([String; 3]),
    /// One expert's part of a parameter that holds all experts'.
    Expert(String, usize),
    /// A constant that the model has by itself.
    Buffer,
    /// Nothing of a CLIP or a Fair-MoE.
    Unknown,
}

/// A file's tensors under our names.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) buffers: Vec<String>,
    pub(super) unknown: Vec<String>,
}

/// Finds each tensor's place. A parameter may stand in a file under several keys; then their numbers must be equal.
pub(super) fn arrange(tensors: BTreeMap<String, Stored>, file: &File) -> Result<Arranged, Fault> {
    let last = LastBlocks::of(tensors.keys());
    let mut arranged = Arranged::default();
    let mut parts = Parts::new();
    for (key, stored) in tensors {
        let shape = stored.shape.clone();
        let places = match place(&key, &last) {
            Place::Buffer => {
                arranged.buffers.push(key);
                continue;
            }
            Place::Unknown => {
                arranged.unknown.push(key);
                continue;
            }
            Place::Whole(name) => Some(vec![((name, None), stored)]),
            Place::Expert(name, expert) => Some(vec![((name, Some(expert)), stored)]),
            Place::Transposed(name) => stored.transposed().map(|stored| vec![((name, None), stored)]),
            Place::Attention(names) => {
                stored.thirds().map(|thirds| names.into_iter().map(|name| (name, None)).zip(thirds).collect())
            }
        };
        for (place, stored) in places.ok_or_else(|| format!("{key} cannot have the shape {shape:?}"))? {
            match parts.entry(place) {
                Vacant(free) => drop(free.insert((vec![key.clone()], stored))),
                Occupied(mut taken) => {
                    let (keys, same) = taken.get_mut();
                    let equal = *same == stored
                        || (&same.shape, same.dtype) == (&stored.shape, stored.dtype)
                            && same.bytes(file)? == stored.bytes(file)?;
                    if !equal {
                        return Err(format!("{} and {key} are names of one parameter, but their numbers differ", keys[0]));
                    }
                    keys.push(key.clone());
                }
            }
        }
    }
    arranged.entries = gather(parts)?;
    Ok(arranged)
}

/// By our name, and an expert's number where each has a tensor of its own: the file's keys and what they stand for.
type Parts = BTreeMap<(String, Option<usize>), (Vec<String>, Stored)>;

/// Puts the parts of each parameter together.
fn gather(parts: Parts) -> Result<BTreeMap<String, Entry>, Fault> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for ((name, expert), (keys, stored)) in parts {
        let Some(expert) = expert else {
            entries.insert(name, Entry { keys, parts: vec![stored], stacked: false });
            continue;
        };
        let key = &keys[0];
        let entry = entries.entry(name).or_insert_with(|| Entry { keys: vec![], parts: vec![], stacked: true });
        if !entry.stacked || entry.parts.len() != expert {
            return Err(format!("{key} stands alone: the experts before it are missing, or in one tensor"));
        }
        if let Some(first) = entry.parts.first().filter(|first| (&first.shape, first.dtype) != (&stored.shape, stored.dtype)) {
            let [this, that] = [&stored, first].map(|s| format!("{:?} ({})", s.shape, kind(s.dtype)));
            return Err(format!("{key} must have the shape of the experts before it, {that}, but has {this}"));
        }
        entry.keys.extend(keys);
        entry.parts.push(stored);
    }
    Ok(entries)
}

/// The number of the last block of each tower: the published code names its mixtures a second time, without it.
#[derive(Default)]
struct LastBlocks {
    vision: usize,
    text: usize,
}

impl LastBlocks {
    fn of<'a>(keys: impl Iterator<Item = &'a String>) -> Self {
        let mut last = Self::default();
        for key in keys {
            if let Some((n, _)) = key.strip_prefix("visual.transformer.resblocks.").and_then(numbered) {
                last.vision = last.vision.max(n);
            } else if let Some((n, _)) = key.strip_prefix("transformer.resblocks.").and_then(numbered) {
                last.text = last.text.max(n);
            }
        }
        last
    }
}

/// `7.attn.weight` -> 7 and `attn.weight`.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn place(key: &str, last: &LastBlocks) -> Place {
    if key.ends_with("position_ids") {
        return Place::Buffer;
    }
    let whole = |name: &str| Place::Whole(name.to_owned());
    match key {
        "input_resolution" | "context_length" | "vocab_size" | "attn_mask" => return Place::Buffer,
        "visual.conv1.weight" => return whole("vision_model.embeddings.patch_embedding.weight"),
        "visual.class_embedding" => return whole("vision_model.embeddings.class_embedding"),
        "visual.positional_embedding" => return whole("vision_model.embeddings.position_embedding.weight"),
        "visual.proj" => return Place::Transposed("visual_projection.weight".into()),
        "token_embedding.weight" => return whole("text_model.embeddings.token_embedding.weight"),
        "positional_embedding" => return whole("text_model.embeddings.position_embedding.weight"),
        "text_projection" => return Place::Transposed("text_projection.weight".into()),
        "logit_scale" | "visual_projection.weight" | "text_projection.weight" => return whole(key),
        _ => {}
    }
    let renamed = [
        ("visual.ln_pre.", "vision_model.pre_layrnorm."),
        ("visual.ln_post.", "vision_model.post_layernorm."),
        ("ln_final.", "text_model.final_layer_norm."),
        ("vision_model.", "vision_model."),
        ("text_model.", "text_model."),
        ("vision_feature_moe.", "vision_feature_moe."),
        ("text_feature_moe.", "text_feature_moe."),
    ];
    for (from, to) in renamed {
        if let Some(rest) = key.strip_prefix(from) {
            return whole(&format!("{to}{rest}"));
        }
    }
    let blocks = [("visual.transformer.resblocks.", "vision_model"), ("transformer.resblocks.", "text_model")];
    for (from, tower) in blocks {
        if let Some((layer, rest)) = key.strip_prefix(from).and_then(numbered) {
            return block(&format!("{tower}.encoder.layers.{layer}"), rest);
        }
    }
    let mixtures = [
        ("tokenmoe11.", format!("vision_model.encoder.layers.{}.mlp", last.vision)),
        ("tokenmoe11TxT.", format!("text_model.encoder.layers.{}.mlp", last.text)),
        ("moe.", "vision_feature_moe".to_owned()),
        ("moetext.", "text_feature_moe".to_owned()),
    ];
    mixtures.iter().find_map(|(from, to)| Some(mixture(to, key.strip_prefix(from)?))).unwrap_or(Place::Unknown)
}

/// OpenAI's names inside a block.
fn block(block: &str, rest: &str) -> Place {
    if rest == "attn_mask" {
        return Place::Buffer;
    }
    if let Some(what) = rest.strip_prefix("attn.in_proj_").filter(|what| ["weight", "bias"].contains(what)) {
        return Place::Attention(["q", "k", "v"].map(|part| format!("{block}.self_attn.{part}_proj.{what}")));
    }
    let renamed = [
        ("attn.out_proj.", "self_attn.out_proj."),
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    let whole = renamed.iter().find_map(|(from, to)| Some(Place::Whole(format!("{block}.{to}{}", rest.strip_prefix(from)?))));
    let inside = || rest.strip_prefix("mlp.").map(|rest| mixture(&format!("{block}.mlp"), rest));
    whole.or_else(inside).unwrap_or(Place::Unknown)
}

/// Fair-MoE's names inside a mixture.
fn mixture(mixture: &str, rest: &str) -> Place {
    for (from, to) in [("gate.0.", "gate.fc1."), ("gate.2.", "gate.fc2.")] {
        if let Some(what) = rest.strip_prefix(from) {
            return Place::Whole(format!("{mixture}.{to}{what}"));
        }
    }
    let Some((expert, rest)) = rest.strip_prefix("experts.").and_then(numbered) else { return Place::Unknown };
    for (from, to) in [("network.c_fc.", "fc1."), ("network.c_proj.", "fc2.")] {
        if let Some(what) = rest.strip_prefix(from) {
            return Place::Expert(format!("{mixture}.experts.{to}{what}"), expert);
        }
    }
    Place::Unknown
}
