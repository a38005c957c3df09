//! Facts of launches that follow one another and overlap. Each comes up while the one ahead still exchanges values in registers, where the
//! architecture lets it; elsewhere these hold of themselves.

// SAFETY: every launch reads and writes buffers of `COUNT` words; the graph is of this stream, and ends after it ran.
#![allow(unsafe_code)]

use super::{Answer, FactProbe, Shape, compare, launch};
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::session::Session;

const COUNT: usize = 1 << 16;
const EXCHANGES: i32 = 1000;

/// to[i] = from[i] + added.
fn follow(session: &Session, from: &Buffer<i32>, to: &Buffer<i32>, added: i32) -> Result<()> {
    let (a, out, count) = (from.pointer(), to.pointer(), COUNT as i32);
    let args = FactProbe { a, out, count, x: EXCHANGES, y: added, ..Default::default() };
    launch(session, "facts_follow", Shape::blocks(session.queue().driver.facts().multiprocessors), &args)
}

fn buffers<const N: usize>(session: &Session) -> Result<[Buffer<i32>; N]> {
    let mut all = vec![];
    for _ in 0..N {
        all.push(session.upload(&(0..COUNT as i32).collect::<Vec<_>>())?);
    }
    all.try_into().map_err(|_| crate::Error::Refused("a buffer is missing".into()))
}

fn expect(got: &Buffer<i32>, want: impl Fn(i32) -> i32) -> Answer {
    let want: Vec<i32> = (0..COUNT as i32).map(want).collect();
    Ok(compare(&got.to_vec()?, &want, |i| format!("word {i}")))
}

/// The last launch reads what the first wrote and what the second wrote.
pub(super) fn sees(session: &Session, captured: bool) -> Answer {
    let [a, b, c, first, second] = buffers(session)?;
    let all = || -> Result<()> {
        follow(session, &a, &b, 1)?;
        follow(session, &a, &c, 2)?;
        follow(session, &b, &first, 10)?;
        follow(session, &c, &second, 20)
    };
    let queue = session.queue();
    if captured {
        let graph = unsafe {
            queue.driver.begin_capture(queue.stream)?;
            let done = all();
            let graph = queue.driver.end_capture(queue.stream)?;
            done.and_then(|()| queue.driver.replay(queue.stream, &graph))?;
            graph
        };
        unsafe { queue.driver.synchronise(queue.stream)? };
        queue.driver.end_graph(graph);
    } else {
        all()?;
    }
    Ok(expect(&first, |i| i + 11)?.or(expect(&second, |i| i + 22)?))
}

pub(super) fn writes_later(session: &Session) -> Answer {
    let [a, other, out] = buffers(session)?;
    follow(session, &a, &out, 1)?;
    follow(session, &other, &a, -5)?;
    Ok(expect(&out, |i| i + 1)?.or(expect(&a, |i| i - 5)?))
}

pub(super) fn sees_a_fill(session: &Session) -> Answer {
    let [a, b, out] = buffers(session)?;
    let queue = session.queue();
    follow(session, &b, &a, 3)?;
    unsafe { queue.driver.fill(queue.stream, a.pointer(), 1, COUNT * 4)? };
    follow(session, &a, &out, 4)?;
    expect(&out, |_| 0x0101_0105)
}
