//! The life of one guest: its store, its verbs, its keeper.
