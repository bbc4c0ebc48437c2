//! Wires of sockets that are cut in one direction: what is sent is held, and arrives after the heal.

use std::time::Duration;

use chaos::layout::Layout;
use chaos::wires::{End, Wire, Wires};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LAYOUT: Layout = Layout::Test { cluster: 0 };
/// How long something is looked at that must not come.
const STAYS_OUT: Duration = Duration::from_millis(200);
/// How long something may take that must.
const COMES: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_wire_holds_arrives_after_the_heal_and_the_other_direction_is_whole() {
    let (server, link) = (LAYOUT.postgres(1), LAYOUT.record_link(1));
    let listener = TcpListener::bind(&server).await.unwrap();
    let mut wires = Wires::of_sockets();
    wires.add(End::Record(1), &link, &server).await.unwrap();
    let mut client = TcpStream::connect(&link).await.unwrap();
    let (mut taken, _) = timeout(COMES, listener.accept()).await.unwrap().unwrap();

    // The test is nobody whose command line names it.
    let there = (End::Other, End::Record(1));
    wires.set(&[there], Wire { cut: true, ..Wire::default() }).await.unwrap();
    client.write_all(b"statement").await.unwrap();
    taken.write_all(b"answer").await.unwrap();
    let mut read = [0; 16];
    let came = timeout(COMES, client.read(&mut read)).await.unwrap().unwrap();
    assert_eq!(&read[..came], b"answer");
    timeout(STAYS_OUT, taken.read(&mut read)).await.unwrap_err();
    // Nobody tells the client that a new connection leads nowhere.
    let _new = TcpStream::connect(&link).await.unwrap();
    timeout(STAYS_OUT, listener.accept()).await.unwrap_err();
    assert!(wires.met().await.unwrap() >= 2);

    wires.heal().await.unwrap();
    let came = timeout(COMES, taken.read(&mut read)).await.unwrap().unwrap();
    assert_eq!(&read[..came], b"statement");
    timeout(COMES, listener.accept()).await.unwrap().unwrap();
    wires.link(End::Node(1), false).await.unwrap_err();
}
