#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
//! Real processes, disks and sockets.

#[test]
fn skeleton() {
    Some(1).unwrap();
}
