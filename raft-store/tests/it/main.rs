//! Public behaviour of consensus storage.

mod cluster;
mod damage;
mod golden;
mod suite;
