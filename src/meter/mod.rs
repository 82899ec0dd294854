//! Counters of a running guest.
