//! The machine that a pickle is a program of: a stack, marks on it, and a memo.

use super::globals;
use super::{Fault, Node, Pickle, STEPS, Value};
use std::collections::HashMap;

struct Machine<'a> {
    bytes: &'a [u8],
    is_script: bool,
    stack: Vec<Value<'a>>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    pickle: Pickle<'a>,
}

pub(super) fn run(bytes: &[u8], is_script: bool) -> Result<Pickle<'_>, Fault> {
    let pickle = Pickle { nodes: vec![], root: Value::Other };
    let mut machine = Machine { bytes, is_script, stack: vec![], marks: vec![], memo: HashMap::new(), pickle };
    for _ in 0..STEPS {
        let opcode = machine.take(1)?[0];
        if opcode == b'.' {
            machine.pickle.root = machine.pop()?;
            return Ok(machine.pickle);
        }
        machine.step(opcode)?;
    }
    Err(format!("its pickle takes more than {STEPS} steps"))
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), Fault> {
        let value = match opcode {
            // PROTO, FRAME
            0x80 => return self.take(1).map(drop),
            0x95 => return self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            // POP, POP_MARK, DUP
            b'0' if self.marks.last() == Some(&self.stack.len()) => return self.cut().map(drop),
            b'0' => return self.pop().map(drop),
            b'1' => return self.cut().map(drop),
            b'2' => self.top()?,
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' | 0x88 | 0x89 => Value::Other,
            b'G' => self.take(8).map(|_| Value::Other)?,
            // BININT, BININT1, BININT2, LONG1, LONG4
            b'J' => Value::Int(self.number(4)? as u32 as i32 as i64),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINSTRING, SHORT_BINSTRING
            b'X' | b'T' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' => self.counted(4).map(|_| Value::Other)?,
            b'C' => self.counted(1).map(|_| Value::Other)?,
            0x8e | 0x96 => self.counted(8).map(|_| Value::Other)?,
            // EMPTY_TUPLE, EMPTY_LIST, EMPTY_SET; TUPLE, LIST, FROZENSET; TUPLE1, TUPLE2, TUPLE3
            b')' | b']' | 0x8f => self.pickle.add(Node::Sequence(vec![])),
            b't' | b'l' | 0x91 => {
                let all = self.cut()?;
                self.pickle.add(Node::Sequence(all))
            }
            0x85..=0x87 => {
                let all = self.last(usize::from(opcode - 0x84))?;
                self.pickle.add(Node::Sequence(all))
            }
            // EMPTY_DICT, DICT
            b'}' => self.pickle.add(Node::Mapping(vec![])),
            b'd' => {
                let all = self.cut()?;
                self.pickle.add(Node::Mapping(pairs(&all)?))
            }
            // APPEND; APPENDS, ADDITEMS; SETITEM, SETITEMS
            b'a' => {
                let all = self.last(1)?;
                return self.extend(all);
            }
            b'e' | 0x90 => {
                let all = self.cut()?;
                return self.extend(all);
            }
            b's' => {
                let all = self.last(2)?;
                return self.set(&all);
            }
            b'u' => {
                let all = self.cut()?;
                return self.set(&all);
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' | b'r' | 0x94 => {
                let place = match opcode {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len() as u64,
                };
                let top = self.top()?;
                self.memo.insert(place, top);
                return Ok(());
            }
            // BINGET, LONG_BINGET
            b'h' | b'j' => {
                let place = self.number(if opcode == b'h' { 1 } else { 4 })?;
                *self.memo.get(&place).ok_or_else(|| format!("its pickle refers to number {place}, which it never made"))?
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Global(globals::find(module, name, self.is_script)?)
            }
            0x93 => match self.last(2)?[..] {
                [Value::Text(module), Value::Text(name)] => Value::Global(globals::find(module, name, self.is_script)?),
                _ => return Err("its pickle names a function by something else than a text".into()),
            },
            // REDUCE, NEWOBJ; NEWOBJ_EX
            b'R' | 0x81 => {
                let call = self.last(2)?;
                self.pickle.call(call[0], call[1])?
            }
            0x92 => {
                let call = self.last(3)?;
                self.pickle.call(call[0], call[1])?
            }
            // BUILD
            b'b' => {
                let state = self.pop()?;
                let target = self.top()?;
                if let Value::Node(place) = target
                    && let Some(Node::Module(attributes)) = self.pickle.nodes.get_mut(place)
                {
                    *attributes = state;
                }
                return Ok(());
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.pickle.storage(id)?
            }
            _ => return Err(format!("its pickle has the instruction {opcode:#04x}, which PyTorch does not write")),
        };
        self.stack.push(value);
        Ok(())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        let split = usize::try_from(n).ok().and_then(|n| self.bytes.split_at_checked(n));
        let (taken, rest) = split.ok_or_else(|| format!("its pickle ends where {n} more bytes must follow"))?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: u64) -> Result<u64, Fault> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    /// So many bytes as a number before them says.
    fn counted(&mut self, bytes: u64) -> Result<&'a [u8], Fault> {
        let n = self.number(bytes)?;
        self.take(n)
    }

    /// An integer of any size; none that we need is beyond 64 bits.
    fn long(&mut self, bytes: u64) -> Result<Value<'a>, Fault> {
        let digits = self.counted(bytes)?;
        let sign = if digits.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        match whole.get_mut(..digits.len()) {
            Some(low) => low.copy_from_slice(digits),
            None => return Ok(Value::Other),
        }
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    fn text(&mut self, bytes: u64) -> Result<Value<'a>, Fault> {
        Ok(std::str::from_utf8(self.counted(bytes)?).map_or(Value::Other, Value::Text))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let end = self.bytes.iter().position(|&byte| byte == b'\n').ok_or("its pickle ends within a name")?;
        let line = self.take(end as u64 + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| "its pickle has a name that is no text".into())
    }

    /// How far down the stack may be taken from: to the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, Fault> {
        let top = self.stack.get(self.floor()..).and_then(<[_]>::last);
        top.copied().ok_or_else(|| "its pickle takes more from the stack than it put there".into())
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The last few, in order.
    fn last(&mut self, n: usize) -> Result<Vec<Value<'a>>, Fault> {
        let start = self.stack.len().checked_sub(n).filter(|&start| start >= self.floor());
        let start = start.ok_or("its pickle takes more from the stack than it put there")?;
        Ok(self.stack.split_off(start))
    }

    /// All behind the last mark.
    fn cut(&mut self) -> Result<Vec<Value<'a>>, Fault> {
        let mark = self
            .marks
            .pop()
            .filter(|&mark| mark <= self.stack.len())
            .ok_or("its pickle goes back to a mark that is not there")?;
        Ok(self.stack.split_off(mark))
    }

    fn extend(&mut self, values: Vec<Value<'a>>) -> Result<(), Fault> {
        match self.top()? {
            Value::Node(place) => match self.pickle.nodes.get_mut(place) {
                Some(Node::Sequence(all)) => all.extend(values),
                _ => return Err("its pickle appends to what is no list".into()),
            },
            Value::Other => {}
            _ => return Err("its pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, values: &[Value<'a>]) -> Result<(), Fault> {
        let new = pairs(values)?;
        match self.top()? {
            Value::Node(place) => match self.pickle.nodes.get_mut(place) {
                Some(Node::Mapping(all)) => all.extend(new),
                _ => return Err("its pickle sets an item of what is no dictionary".into()),
            },
            Value::Other => {}
            _ => return Err("its pickle sets an item of what is no dictionary".into()),
        }
        Ok(())
    }
}

fn pairs<'a>(values: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>, Fault> {
    if !values.len().is_multiple_of(2) {
        return Err("its pickle has a key without a value".into());
    }
    Ok(values.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
