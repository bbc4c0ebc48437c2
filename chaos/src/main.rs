//! `chaos`: scenarios by hand, and the demo.

fn main() {}
