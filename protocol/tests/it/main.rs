//! Public behaviour of the crate, and the shape of the house.

mod golden;
mod house;
