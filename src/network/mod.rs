//! Bridge, addresses, firewall; hands out `NetOp`s.
