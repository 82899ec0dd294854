//! A repository as a whole, without a guest: what is stored is read, what is damaged is found, what
//! is not needed goes.
