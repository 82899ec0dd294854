//! Carries out a launch plan, and enters a running guest.
