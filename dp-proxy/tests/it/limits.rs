//! Every bound on clients and nodes at its edge: one less fits, as much fits, and one more does not. By HTTP/1 and by HTTP/2.
//! (Bounds of TLS are in `tls`, of bodies that plugins look at in `bodies`, of sizes of chunks and trailers beside their parser.)

mod sizes;
mod streams;
mod times;
