//! The tensors of a PyTorch archive: of a state dictionary, or of a TorchScript module.

use super::archive::Archive;
use super::pickle::{Node, Pickle, Storage, Value, View};
use super::stored::{Stored, size};
use super::{Contents, Fault};
use std::collections::BTreeMap;
use std::fs::File;

/// The keys under which training scripts put the state dictionary beside other things.
const WRAPPERS: [&str; 3] = ["model_state_dict", "state_dict", "model"];

/// What wrappers of a whole model put before every name.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// Far more than the longest name of a parameter, the deepest module, and all modules' attributes.
const LONGEST: usize = 512;
const DEEPEST: usize = 32;
const ATTRIBUTES: usize = 1 << 17;

/// Tensors may share numbers, but what is read must stay in proportion to the file.
const SHARED: u64 = 4;

/// Where each tensor lies.
pub(super) fn open(file: &File, length: u64) -> Result<Contents, Fault> {
    let mut archive = Archive::open(file, length)?;
    let bytes = archive.pickle()?;
    let pickle = Pickle::read(&bytes, archive.is_script())?;
    let views = match pickle.node(pickle.root) {
        Some(Node::Module(_)) => modules(&pickle)?,
        _ => state(&pickle)?,
    };
    let (mut tensors, mut total) = (BTreeMap::new(), 0u64);
    for (name, view) in views {
        let stored = place(&mut archive, view).map_err(|why| format!("{}: {why}", name.escape_debug()))?;
        total = total.saturating_add((stored.extent()?.0 as u64).saturating_mul(size(stored.dtype) as u64));
        if total / SHARED > length {
            return Err(format!("its tensors share numbers, and together are more than {SHARED} times as large as the file"));
        }
        tensors.insert(name, stored);
    }
    Ok(Contents { tensors, text: String::new() })
}

/// The tensors of a state dictionary, which may lie in another one.
fn state<'p>(pickle: &'p Pickle<'_>) -> Result<BTreeMap<String, &'p View<'p>>, Fault> {
    let root = pickle.items(pickle.root).ok_or("it holds neither a state dictionary nor a TorchScript module")?;
    let outer: BTreeMap<&str, Value> = root.collect();
    let is_state = |value: &&Value| pickle.items(**value).is_some();
    let inner = WRAPPERS.iter().find_map(|key| outer.get(key).filter(is_state));
    let items = inner.and_then(|&inner| pickle.items(inner)).map_or(outer.clone(), Iterator::collect);
    let mut views = BTreeMap::new();
    for (name, value) in items {
        if let Some(Node::Tensor(view)) = pickle.node(value) {
            check(name)?;
            views.insert(name.to_owned(), &**view);
        }
    }
    if views.is_empty() {
        let keys: Vec<_> = outer.keys().take(8).map(|key| key.escape_debug().to_string()).collect();
        let among = WRAPPERS.join(", ");
        return Err(format!("it holds no tensors, neither directly nor under {among}; it holds: {}", keys.join(", ")));
    }
    while let Some(prefix) = PREFIXES.iter().find(|prefix| views.keys().all(|name| name.starts_with(**prefix))) {
        views = views.into_iter().map(|(name, view)| (name[prefix.len()..].to_owned(), view)).collect();
    }
    Ok(views)
}

/// The tensors of a module, and of those in it.
fn modules<'p>(pickle: &'p Pickle<'_>) -> Result<BTreeMap<String, &'p View<'p>>, Fault> {
    let mut views = BTreeMap::new();
    let mut open = vec![(String::new(), pickle.root, 0)];
    let mut seen = 0;
    while let Some((name, value, depth)) = open.pop() {
        check(&name)?;
        match pickle.node(value) {
            Some(Node::Tensor(view)) => drop(views.insert(name, &**view)),
            Some(Node::Module(attributes)) => {
                let dot = if name.is_empty() { "" } else { "." };
                for (key, value) in pickle.items(*attributes).into_iter().flatten() {
                    seen += 1;
                    if depth == DEEPEST || seen == ATTRIBUTES {
                        return Err("its modules contain each other without end".into());
                    }
                    check(key)?;
                    open.push((format!("{name}{dot}{key}"), value, depth + 1));
                }
            }
            _ => {}
        }
    }
    Ok(views)
}

fn check(name: &str) -> Result<(), Fault> {
    if name.len() > LONGEST {
        return Err(format!("it has a name of {} bytes, more than {LONGEST}", name.len()));
    }
    Ok(())
}

/// A view's place in the file, once it is certain that all of it lies in its record.
fn place(archive: &mut Archive, view: &View) -> Result<Stored, Fault> {
    let storage = view.storage;
    let record = archive.storage(storage.key)?;
    let bytes = size(storage.dtype) as u64;
    if storage.elements.checked_mul(bytes) != Some(record.length) {
        let Storage { elements, .. } = storage;
        return Err(format!("its {elements} numbers of {bytes} bytes are in a record of {} bytes", record.length));
    }
    let mut stored = Stored::contiguous(storage.dtype, record.start, view.shape.clone());
    stored.strides.clone_from(&view.strides);
    let (_, span) = stored.extent()?;
    if view.offset.checked_add(span as u64).is_none_or(|end| end > storage.elements) {
        let Stored { shape, strides, .. } = stored;
        let held = storage.elements;
        return Err(format!("shape {shape:?} with strides {strides:?} from {} reaches beyond its {held} numbers", view.offset));
    }
    stored.start += view.offset * bytes;
    Ok(stored)
}
