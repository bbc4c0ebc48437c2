//! Nodes that DNS knows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use simple_dns::rdata::{A, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use crate::harness::client::{Client, get};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

/// What a DNS server knows of a name and kind: data, each with how many seconds it holds.
#[derive(Debug)]
struct Known {
    name: &'static str,
    kind: TYPE,
    data: Vec<(RData<'static>, u32)>,
}

/// A DNS server. It ends when this is dropped.
struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Vec<Known>>>,
    /// Questions so far.
    asked: Arc<Mutex<usize>>,
    serving: JoinHandle<()>,
}

impl DnsServer {
    /// `truncates`: by UDP it says only that the answer is too long.
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    async fn start(truncates: bool) -> Self {
        // The same port by both, which somebody else may have by one of them.
        let (tcp, udp, address) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = tcp.local_addr().unwrap();
            if let Ok(udp) = UdpSocket::bind(address).await {
                break (tcp, udp, address);
            }
        };
        let (zone, asked) = (Arc::<Mutex<Vec<Known>>>::default(), Arc::<Mutex<usize>>::default());
        let (known, count) = (zone.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            let mut datagram = [0; 512];
            loop {
                tokio::select! {
                    received = udp.recv_from(&mut datagram) => {
                        let (read, from) = received.unwrap();
                        *count.lock().unwrap() += 1;
                        let answer = answer(&known.lock().unwrap(), &datagram[..read], truncates);
                        udp.send_to(&answer, from).await.unwrap();
                    }
                    accepted = tcp.accept() => {
                        let (mut stream, _) = accepted.unwrap();
                        let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
                        stream.read_exact(&mut question).await.unwrap();
                        let bytes = answer(&known.lock().unwrap(), &question, false);
                        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                        stream.write_all(&bytes).await.unwrap();
                    }
                }
            }
        });
        Self { address, zone, asked, serving }
    }

    fn set(&self, name: &'static str, kind: TYPE, data: Vec<(RData<'static>, u32)>) {
        let mut zone = self.zone.lock().unwrap();
        zone.retain(|known| (known.name, known.kind) != (name, kind));
        zone.push(Known { name, kind, data });
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An answer; `truncated`: one that says only that it is too long.
fn answer(zone: &[Known], question: &[u8], truncated: bool) -> Vec<u8> {
    let asked = Packet::parse(question).unwrap();
    let question = asked.questions[0].clone();
    let mut answer = Packet::new_reply(asked.id());
    let text = question.qname.to_string();
    let known = zone.iter().find(|known| known.name == text && QTYPE::TYPE(known.kind) == question.qtype);
    match known {
        None => *answer.rcode_mut() = RCODE::NameError,
        Some(_) if truncated => answer.set_flags(PacketFlag::TRUNCATION),
        Some(known) => {
            let record = |(data, ttl): &(RData<'static>, u32)| {
                ResourceRecord::new(question.qname.clone(), CLASS::IN, *ttl, data.clone())
            };
            answer.answers.extend(known.data.iter().map(record));
        }
    }
    answer.questions.push(question.clone());
    answer.build_bytes_vec().unwrap()
}

fn a(last: u8) -> RData<'static> {
    RData::A(A { address: Ipv4Addr::new(127, 0, 0, last).into() })
}

fn srv(priority: u16, weight: u16, port: u16, target: &'static str) -> RData<'static> {
    RData::SRV(SRV { priority, weight, port, target: Name::new(target).unwrap() })
}

fn found_by_dns(service: &str, more: Value) -> Value {
    let mut upstream = json!({"service_name": service, "discovery_type": "dns"});
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    upstream
}

async fn scene(server: &DnsServer, upstream: Value) -> Scene {
    let resources = [("upstreams", "u", upstream), ("routes", "r", json!({"uri": "/*", "upstream_id": "u"}))];
    let servers = vec![server.address.to_string()];
    Scene::tuned(&resources, |settings| {
        settings.proxy.workers = 1;
        settings.proxy.dns.servers = servers;
    })
    .await
}

async fn origins(scene: &Scene, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(scene.dp.address()).await;
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let answer = client.get("x", "/").await;
        *counts.entry(answer.header("x-origin").unwrap_or("none").to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_records_name_nodes_with_ports_weights_and_priorities() {
    let (main, second, spare) =
        (Origin::named("main").await, Origin::named("second").await, Origin::named("spare").await);
    // Answers too long for a datagram come by TCP.
    let server = DnsServer::start(true).await;
    let records = |first: u16| {
        vec![
            (srv(1, 3, first, "one.example"), 1),
            (srv(1, 1, second.address.port(), "one.example"), 1),
            (srv(2, 1, spare.address.port(), "one.example"), 1),
        ]
    };
    server.set("_http._tcp.a.example", TYPE::SRV, records(main.address.port()));
    server.set("one.example", TYPE::A, vec![(a(1), 60)]);
    let checks = json!({"checks": {"active": {"healthy": {"interval": 60}}}});
    let scene = scene(&server, found_by_dns("_http._tcp.a.example", checks)).await;
    assert_eq!(origins(&scene, 8).await, BTreeMap::from([("main".into(), 6), ("second".into(), 2)]));
    let told = get(scene.dp.proxy.control_address(), "control", "/v1/healthcheck/upstreams/u").await.json();
    assert_eq!(told["nodes"].as_array().unwrap().len(), 3, "{told}");
    // Another answer is in force once the one before has run out.
    server.set("_http._tcp.a.example", TYPE::SRV, vec![(srv(1, 0, spare.address.port(), "one.example"), 1)]);
    until("the new nodes are used", async || origins(&scene, 4).await == BTreeMap::from([("spare".into(), 4)])).await;
    // Nobody answers any more: what was said last holds.
    let asked = server.asked();
    server.set("_http._tcp.a.example", TYPE::SRV, Vec::new());
    until("it is asked again", async || server.asked() > asked + 2).await;
    drop(server);
    assert_eq!(origins(&scene, 4).await, BTreeMap::from([("spare".into(), 4)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_srv_records_the_addresses_of_a_service_are_its_nodes() {
    let first = Origin::named("first").await;
    let port = first.address.port();
    let second = Origin::at(SocketAddr::from(([127, 0, 0, 2], port)), |mut conversation| async move {
        while conversation.request().await.is_some() {
            conversation.send("HTTP/1.1 200 OK\r\nX-Origin: second\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let server = DnsServer::start(false).await;
    let scene = scene(&server, found_by_dns(&format!("a.example:{port}"), json!({}))).await;
    assert_eq!(scene.dp.get("/").await.status, 503, "nothing is known of it");
    server.set("a.example", TYPE::A, vec![(a(1), 300), (a(2), 300)]);
    until("it is found", async || scene.dp.get("/").await.status == 200).await;
    assert_eq!(origins(&scene, 6).await, BTreeMap::from([("first".into(), 3), ("second".into(), 3)]));
    assert_eq!(second.address.port(), port);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_nodes_are_asked_of_the_servers_that_are_set() {
    let origin = Origin::named("named").await;
    let server = DnsServer::start(false).await;
    server.set("node.example", TYPE::A, vec![(a(1), 300)]);
    let mut body = route("/*", origin.address);
    body["upstream"] = json!({"nodes": {format!("node.example:{}", origin.address.port()): 1}});
    // Nobody listens at the first: it hears its own peer alone, and nobody else can have the port.
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    nobody.connect(nobody.local_addr().unwrap()).await.unwrap();
    let servers = vec![nobody.local_addr().unwrap().to_string(), server.address.to_string()];
    let scene = Scene::tuned(&[("routes", "r", body)], |settings| {
        settings.proxy.workers = 1;
        settings.proxy.dns.servers = servers;
        settings.proxy.dns_ttl = "10ms".parse().unwrap();
    })
    .await;
    assert_eq!(origins(&scene, 3).await, BTreeMap::from([("named".into(), 3)]));
    assert_eq!(server.asked(), 2, "A and AAAA, once: it holds for minutes");
}
