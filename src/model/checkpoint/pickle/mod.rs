//! Pickles, as far as tensors in dictionaries and modules go. Nothing is executed: what a pickle asks to call must be on a short
//! list of names, and each of those stands for a plain value that is made here.
//!
//! Values refer to each other by number, so a pickle that contains itself or nests without end is nothing special.

mod globals;
mod machine;

use super::Fault;
use globals::Global;
use safetensors::Dtype;

/// More steps than any checkpoint takes; what they make is held in memory.
const STEPS: usize = 1 << 20;

/// More dimensions than any parameter has.
const DIMENSIONS: usize = 8;

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    /// What the pickle is all about.
    pub(super) root: Value<'a>,
}

/// A value, or the place of one that others refer to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// What nothing is to be read from: none, bools, floats, bytes, an optimiser's numbers.
    Other,
    Int(i64),
    Text(&'a str),
    Global(Global),
    Node(usize),
}

#[derive(Debug)]
pub(super) enum Node<'a> {
    /// A tuple, a list or a set.
    Sequence(Vec<Value<'a>>),
    /// A dictionary, in the order of its making.
    Mapping(Vec<(Value<'a>, Value<'a>)>),
    /// A module of TorchScript, with its attributes.
    Module(Value<'a>),
    Storage(Storage<'a>),
    Tensor(Box<View<'a>>),
}

/// A record of numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub(super) dtype: Dtype,
    /// The record's name in the archive.
    pub(super) key: &'a str,
    pub(super) elements: u64,
}

/// A tensor: a view of a storage.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub(super) storage: Storage<'a>,
    /// Its first element in the storage.
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle; `is_script` when it is TorchScript's, whose classes are bags of attributes.
    pub(super) fn read(bytes: &'a [u8], is_script: bool) -> Result<Self, Fault> {
        machine::run(bytes, is_script)
    }

    /// What a value refers to; none for plain ones.
    pub(super) fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(place) => self.nodes.get(place),
            _ => None,
        }
    }

    /// The items of a dictionary whose keys are texts; none where the value is no dictionary.
    pub(super) fn items(&self, value: Value<'a>) -> Option<impl Iterator<Item = (&'a str, Value<'a>)> + '_> {
        let Some(Node::Mapping(items)) = self.node(value) else { return None };
        Some(items.iter().filter_map(|&(key, value)| match key {
            Value::Text(key) => Some((key, value)),
            _ => None,
        }))
    }

    /// The elements of a tuple or a list.
    fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value) {
            Some(Node::Sequence(all)) => Some(all),
            _ => None,
        }
    }

    /// A tuple of sizes.
    fn sizes(&self, value: Value<'a>) -> Option<Vec<usize>> {
        let sizes = self.sequence(value).filter(|all| all.len() <= DIMENSIONS)?;
        let size = |value: &Value| match value {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        sizes.iter().map(size).collect()
    }
}
