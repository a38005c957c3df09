//! The memory that a reader takes at most.
#![allow(unsafe_code)] // A global allocator is unsafe by its trait.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Nobody gets more than this in all, so that what a hostile file asks for never reaches the machine.
const MOST: usize = 3 << 30;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts what is held, and hands on.
struct Counting;

/// Counts these bytes as held, if they may be.
fn take(bytes: usize) -> bool {
    let held = HELD.fetch_add(bytes, SeqCst).saturating_add(bytes);
    if held > MOST {
        HELD.fetch_sub(bytes, SeqCst);
    }
    PEAK.fetch_max(held, SeqCst);
    held <= MOST
}

// SAFETY: every call is handed on to the system's allocator as it came, or refused as an allocator may.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), SeqCst);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && !take(size - layout.size()) {
            return null_mut();
        }
        HELD.fetch_sub(layout.size().saturating_sub(size), SeqCst);
        unsafe { System.realloc(at, layout, size) }
    }
}

/// How many bytes `work` held at most, beyond what was held before.
pub fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.load(SeqCst);
    PEAK.store(before, SeqCst);
    work();
    PEAK.load(SeqCst).saturating_sub(before)
}
