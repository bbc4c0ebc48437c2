//! Proves on real processes, disks and sockets that Holdfast holds fast.
