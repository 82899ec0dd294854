//! Templates, images and roots; hands out `MountOp`s.
