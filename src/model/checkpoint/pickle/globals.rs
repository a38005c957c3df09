//! The names that a pickle may refer to, and what comes of calling them.

use super::{Fault, Node, Pickle, Storage, Value, View};
use safetensors::Dtype;

/// What one of the known names stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Global {
    /// A tensor from a storage, an offset, a shape and strides.
    Tensor,
    /// What its first argument is.
    First,
    /// A class of storages.
    Storage(Dtype),
    /// An empty dictionary.
    Mapping,
    /// A class of TorchScript.
    Module,
    /// Something that no parameter is read from.
    Other,
}

/// Looks up a name.
pub(super) fn find(module: &str, name: &str, is_script: bool) -> Result<Global, Fault> {
    if let Some(dtype) = name.strip_suffix("Storage").filter(|_| module == "torch").and_then(storage) {
        return Ok(Global::Storage(dtype));
    }
    Ok(match (module, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") | ("torch", "Size") => Global::First,
        ("torch.jit._pickle", "restore_type_tag") => Global::First,
        ("torch.jit._pickle", "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist") => Global::First,
        ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => Global::Mapping,
        ("builtins" | "__builtin__", "set") | ("_codecs", "encode") | ("torch", "device") => Global::Other,
        ("torch", "float16" | "bfloat16" | "float32" | "float64" | "int32" | "int64" | "uint8" | "bool") => Global::Other,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => Global::Other,
        ("numpy", "dtype" | "ndarray") => Global::Other,
        _ if is_script && (module == "__torch__" || module.starts_with("__torch__.")) => Global::Module,
        _ => {
            let name = format!("{module}.{name}");
            let name = name.escape_debug();
            return Err(format!("it asks for {name}, and nothing in a file is executed; save the model's state_dict() alone"));
        }
    })
}

fn storage(name: &str) -> Option<Dtype> {
    Some(match name {
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Double" => Dtype::F64,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        _ => return None,
    })
}

impl<'a> Pickle<'a> {
    /// What a call comes to.
    pub(super) fn call(&mut self, callee: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, Fault> {
        let Value::Global(callee) = callee else {
            // Nothing comes from what nothing is read from; all else cannot be called.
            return if callee == Value::Other { Ok(callee) } else { Err("it calls what is no function".into()) };
        };
        let arguments = self.sequence(arguments).ok_or("it calls something without a tuple of arguments")?;
        let node = match (callee, arguments) {
            (Global::Tensor, [storage, offset, shape, strides, ..]) => {
                let tensor = self.view(*storage, *offset, *shape, *strides);
                Node::Tensor(Box::new(tensor.ok_or("one of its tensors is described by something else than sizes")?))
            }
            (Global::First, [first, ..]) => return Ok(*first),
            (Global::Mapping, [] | [Value::Global(_) | Value::Other]) => Node::Mapping(vec![]),
            (Global::Module, _) => Node::Module(Value::Other),
            (Global::Other, _) => return Ok(Value::Other),
            _ => return Err("one of its calls has other arguments than PyTorch gives".into()),
        };
        Ok(self.add(node))
    }

    fn view(&self, storage: Value<'a>, offset: Value<'a>, shape: Value<'a>, strides: Value<'a>) -> Option<View<'a>> {
        let (Some(Node::Storage(storage)), Value::Int(offset)) = (self.node(storage), offset) else { return None };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        Some(View { storage: *storage, offset: u64::try_from(offset).ok()?, shape, strides })
    }

    /// What a persistent id names: PyTorch has none but storages.
    pub(super) fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>, Fault> {
        match self.sequence(id) {
            Some([Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, Value::Int(n), ..]) => {
                let elements = u64::try_from(*n).map_err(|_| format!("one of its storages has {n} elements"))?;
                let storage = Storage { dtype: *dtype, key, elements };
                Ok(self.add(Node::Storage(storage)))
            }
            _ => Err("it refers to something outside of it that is no storage of known numbers".into()),
        }
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Value<'a> {
        self.nodes.push(node);
        Value::Node(self.nodes.len() - 1)
    }
}
