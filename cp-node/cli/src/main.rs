//! `hfctl`: the command line of Holdfast.

fn main() {}
