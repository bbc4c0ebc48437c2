//! A library to preload into a process.
