//! Three functions of libc, replaced for the thread of the simulation: entropy comes from the seed, and clocks show simulated time. That
//! reaches what production code uses and we do not write: the keys of hash maps, tokio's and openraft's random numbers, the times that h2 and hyper
//! take of the standard library.
//!
//! ```text
//!   std, getrandom 0.3 and 0.4 ── getrandom, getentropy ─┐      on the simulation's thread: from the seed
//!   std::time::{Instant, SystemTime} ── clock_gettime ───┴───   on any other: the system call
//! ```
//!
//! getrandom 0.2 makes the system call by itself and is not reached; `deny.toml` keeps it out of the tree.
//!
//! **Invariant:** only this binary has them. A library that replaced functions of libc would do so in every program that links it.
#![allow(unsafe_code, reason = "functions of C are replaced by functions of the same form, which cannot be said without it")]

use std::cell::Cell;

use kontiki_sim::clock;

/// What the monotonic clocks show at the beginning: large, so that nothing that is subtracted from it goes below zero.
const MONOTONIC_S: u64 = 1_000_000;
/// What the real-time clocks show at the beginning, in s since the Unix epoch.
const REAL_S: u64 = 1_700_000_000;

thread_local! {
    /// The state of the generator, on the thread of the simulation.
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
    static TIMED: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread's clocks are simulated, and its entropy comes from the seed (`None`: from the system, still).
pub(crate) fn begin(seed: Option<u64>) {
    SEEDED.set(seed);
    TIMED.set(true);
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, mixed ^ (mixed >> 31))
}

/// Fills from the seed; false: this thread has none.
fn fill(bytes: &mut [u8]) -> bool {
    let Some(mut state) = SEEDED.get() else { return false };
    for chunk in bytes.chunks_mut(8) {
        let (after, drawn) = next(state);
        state = after;
        chunk.copy_from_slice(&drawn.to_le_bytes()[..chunk.len()]);
    }
    SEEDED.set(Some(state));
    true
}

/// `getrandom(2)`.
///
/// # Safety
/// As of the function of libc: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, length: libc::size_t, flags: libc::c_uint) -> libc::ssize_t {
    // SAFETY: the caller gives a buffer of that length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    if fill(bytes) {
        return length as libc::ssize_t;
    }
    // SAFETY: the same arguments, to the system.
    (unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) }) as libc::ssize_t
}

/// `getentropy(3)`.
///
/// # Safety
/// As of the function of libc: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getentropy(buffer: *mut libc::c_void, length: libc::size_t) -> libc::c_int {
    // SAFETY: handed through.
    let got = unsafe { getrandom(buffer, length, 0) };
    if got == length as libc::ssize_t { 0 } else { -1 }
}

/// `clock_gettime(2)`.
///
/// # Safety
/// As of the function of libc: `time` points to a `timespec`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if !TIMED.get() {
        // SAFETY: the same arguments, to the system.
        return (unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) }) as libc::c_int;
    }
    let real = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let now_us = clock::now_us();
    let seconds = now_us / 1_000_000 + if real { REAL_S } else { MONOTONIC_S };
    let simulated = libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: (now_us % 1_000_000 * 1000) as libc::c_long };
    // SAFETY: the caller gives a pointer to a `timespec`.
    unsafe { time.write(simulated) };
    0
}
