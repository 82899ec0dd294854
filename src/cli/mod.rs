//! The manager's front door: `bulkhead VERB GUEST`.
pub mod demo;
