//! `regex-lite` by the name of `regex`.

pub use regex_lite::*;
