//! Lives of guests, and what goes wrong in them; needs root.

#[path = "../life/mod.rs"]
mod life;
#[path = "../support/mod.rs"]
mod support;
#[path = "../traces/mod.rs"]
mod traces;

mod bad_input;
mod capability;
mod change;
mod common;
mod debian;
mod demo;
mod escape;
mod fault;
mod life_cycle;
mod race;
mod readme;
mod scale;
mod seccomp;
