//! The proxies that are measured, each with one worker on a core of its own, and the origin behind all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;

use crate::holdfast::Holdfast;
use crate::process::Process;

/// The core of the proxies, of which one at a time has anything to do, and that of the load and the origin.
pub(super) const PROXY_CORE: &str = "0";
pub(super) const LOAD_CORE: &str = "1";

/// The origin: nginx, which serves files from memory.
const ORIGIN: &str = "127.40.4.1:1980";

/// The name that certificates are for.
pub(super) const NAME: &str = "bench.test";

/// How long a proxy may take to listen.
const LISTENS_MAX: Duration = Duration::from_secs(10);

/// Where a proxy is asked.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    pub(super) plain: String,
    pub(super) tls: String,
}

/// A proxy that runs.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) doors: Doors,
    pub(super) process: Process,
}

/// Programs of others: the origin and the peers.
pub(super) struct Programs<'a> {
    pub(super) dir: &'a Path,
    /// Envoy's program, where it is measured.
    pub(super) envoy: Option<&'a Path>,
    /// Pingora's program (`benches/pingora`), where it is measured.
    pub(super) pingora: Option<&'a Path>,
}

/// A certificate and its key, as files and as text.
pub(super) struct Certificate {
    pub(super) cert: String,
    pub(super) key: String,
}

impl Programs<'_> {
    /// Makes a certificate, and writes it where peers look for it.
    pub(super) fn certificate(&self) -> Result<Certificate> {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        let certificate = Certificate { cert: made.cert.pem(), key: made.signing_key.serialize_pem() };
        fs::write(self.dir.join("cert.pem"), &certificate.cert)?;
        fs::write(self.dir.join("key.pem"), &certificate.key)?;
        fs::write(self.dir.join("both.pem"), format!("{}{}", certificate.cert, certificate.key))?;
        Ok(certificate)
    }

    /// The origin: `/100k` is a file of 100 KiB, everything else one of 1 KiB.
    pub(super) async fn origin(&self) -> Result<Process> {
        let root = self.dir.join("origin");
        fs::create_dir_all(&root)?;
        fs::write(root.join("1k"), vec![b'x'; 1 << 10])?;
        fs::write(root.join("100k"), vec![b'x'; 100 << 10])?;
        let config = format!(
            "{} events {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000000; \
             open_file_cache max=10; default_type text/plain; server {{ listen {ORIGIN}; root {}; \
             location / {{ try_files /1k =404; }} location = /100k {{ }} }} }}\n",
            self.nginx_globals("origin"),
            root.display()
        );
        let process =
            self.pinned("origin", LOAD_CORE, &nginx(), &["-c".into(), self.write("origin.conf", &config)?])?;
        listens(ORIGIN).await?;
        Ok(process)
    }

    /// All peers; ours is started by [`holdfast`].
    pub(super) async fn peers(&self) -> Result<Vec<Peer>> {
        let mut peers = vec![self.nginx()?, self.haproxy()?];
        if let Some(envoy) = self.envoy {
            peers.push(self.envoy(envoy)?);
        }
        if let Some(pingora) = self.pingora {
            peers.push(self.pingora(pingora)?);
        }
        for peer in &peers {
            listens(&peer.doors.plain).await.with_context(|| peer.name)?;
        }
        Ok(peers)
    }

    fn nginx(&self) -> Result<Peer> {
        let doors = doors(1);
        let config = format!(
            "{} events {{ worker_connections 30000; }} worker_rlimit_nofile 60000;\nhttp {{ access_log off; \
             keepalive_requests 1000000000;\n upstream origin {{ server {ORIGIN}; keepalive 256; keepalive_requests 1000000000; }}\n \
             server {{ listen {} backlog=4096; listen {} ssl http2 backlog=4096;\n  ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {};\n  \
             location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n  \
             proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n  \
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n  \
             proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; }} }} }}\n",
            self.nginx_globals("nginx"),
            doors.plain,
            doors.tls,
            self.dir.join("cert.pem").display(),
            self.dir.join("key.pem").display(),
        );
        let process = self.pinned("nginx", PROXY_CORE, &nginx(), &["-c".into(), self.write("nginx.conf", &config)?])?;
        Ok(Peer { name: "nginx", doors, process })
    }

    fn haproxy(&self) -> Result<Peer> {
        let doors = doors(2);
        let config = format!(
            "global\n nbthread 1\n maxconn 8000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\n http-reuse always\n option forwardfor\nfrontend all\n bind {}\n bind {} ssl crt {} alpn h2,http/1.1\n \
             http-request set-header X-Forwarded-Proto http\n http-request set-header X-Real-IP %[src]\n \
             http-request set-header X-Forwarded-Host %[req.hdr(host)]\n http-request set-header X-Forwarded-Port %[dst_port]\n \
             default_backend origin\nbackend origin\n server origin {ORIGIN} pool-max-conn 256\n",
            doors.plain,
            doors.tls,
            self.dir.join("both.pem").display(),
        );
        let args = ["-db".into(), "-f".into(), self.write("haproxy.cfg", &config)?];
        let process = self.pinned("haproxy", PROXY_CORE, Path::new("haproxy"), &args)?;
        Ok(Peer { name: "HAProxy", doors, process })
    }

    fn envoy(&self, program: &Path) -> Result<Peer> {
        let doors = doors(3);
        let listener = |name: &str, address: &str, transport: serde_json::Value| {
            serde_json::json!({
                "name": name, "address": socket(address),
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": name, "codec_type": "AUTO", "use_remote_address": true,
                        // The one who counts handshakes speaks HTTP/1.0, and waits for the end of each connection.
                        "http_protocol_options": { "accept_http_10": true }, "delayed_close_timeout": "0s",
                        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "origin" } }] }] },
                        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] } }],
                    "transport_socket": transport }],
            })
        };
        let tls = serde_json::json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": { "alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [{
                "certificate_chain": { "filename": self.dir.join("cert.pem") },
                "private_key": { "filename": self.dir.join("key.pem") } }] } } });
        let config = serde_json::json!({ "static_resources": {
            "listeners": [listener("plain", &doors.plain, serde_json::Value::Null), listener("tls", &doors.tls, tls)],
            "clusters": [{ "name": "origin", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
                "cluster_name": "origin", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(ORIGIN) } }] }] } }] } });
        let config = self.write("envoy.json", &config.to_string())?;
        let args = ["--concurrency", "1", "--log-level", "error", "--base-id", "40", "-c"].map(str::to_owned);
        let args: Vec<String> = args.into_iter().chain([config]).collect();
        let process = self.pinned("envoy", PROXY_CORE, program, &args)?;
        Ok(Peer { name: "Envoy", doors, process })
    }

    fn pingora(&self, program: &Path) -> Result<Peer> {
        let doors = doors(5);
        let file = |name| self.dir.join(name).display().to_string();
        let args = [doors.plain.clone(), doors.tls.clone(), file("cert.pem"), file("key.pem"), ORIGIN.to_owned()];
        let process = self.pinned("pingora", PROXY_CORE, program, &args)?;
        Ok(Peer { name: "Pingora", doors, process })
    }

    fn nginx_globals(&self, name: &str) -> String {
        // One process, which is what is measured: no master beside its worker.
        format!("daemon off; master_process off; pid {0}/{name}.pid; error_log {0}/{name}.err;\n", self.dir.display())
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path.display().to_string())
    }

    fn pinned(&self, name: &str, core: &str, program: &Path, args: &[String]) -> Result<Process> {
        let pinned = ["-c".to_owned(), core.to_owned(), program.display().to_string()];
        let args: Vec<String> = pinned.into_iter().chain(args.iter().cloned()).collect();
        Process::spawn(name, Path::new("taskset"), &args, self.dir)
    }
}

/// Our own: one node with so many routes to the origin, and a proxy that follows it.
pub(super) async fn holdfast(dir: &Path, routes: usize, certificate: &Certificate) -> Result<(Holdfast, Peer)> {
    let keyring = dir.join("keyring");
    fs::write(&keyring, KEYRING)?;
    let secret = format!("secrets.keyring_file={}", keyring.display());
    let holdfast = Holdfast::start_nodes(1, dir, std::slice::from_ref(&secret)).await?;
    let mut api = crate::holdfast::api(1);
    api.put("upstreams", "origin", &format!(r#"{{"type":"roundrobin","nodes":{{"{ORIGIN}":1}},"keepalive_pool":{{"size":256,"idle_timeout":60,"requests":1000000000}}}}"#)).await?;
    let ssl = serde_json::json!({ "snis": [NAME], "cert": certificate.cert, "key": certificate.key });
    api.put("ssls", "bench", &ssl.to_string()).await?;
    api.put("routes", "big", r#"{"uri":"/100k","upstream_id":"origin"}"#).await?;
    let all: Vec<_> = (0..routes)
        .map(|n| {
            ("routes", format!("r{n}"), serde_json::json!({ "uri": format!("/r/{n}/*"), "upstream_id": "origin" }))
        })
        .collect();
    api.put_all(&all).await?;
    let doors = doors(4);
    let more = [
        format!("proxy.tls.listen=[{}]", doors.tls),
        format!("proxy.listen=[{}]", doors.plain),
        secret,
        format!("proxy.tls.fallback_sni={NAME}"),
        "proxy.h2c=false".to_owned(),
    ];
    let process = holdfast.pinned_dp(1, dir, &more, PROXY_CORE).await?;
    Ok((holdfast, Peer { name: "Holdfast", doors, process }))
}

/// A key that seals the bench's own certificate: nothing that is secret.
const KEYRING: &str = "bench 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

fn nginx() -> PathBuf {
    // Debian puts it where users do not look.
    let debian = PathBuf::from("/usr/sbin/nginx");
    if debian.is_file() { debian } else { "nginx".into() }
}

fn doors(number: u8) -> Doors {
    Doors { plain: format!("127.40.5.{number}:9080"), tls: format!("127.40.5.{number}:9443") }
}

fn socket(address: &str) -> serde_json::Value {
    let (ip, port) = address.rsplit_once(':').expect("an address of ours has a port");
    let port: u16 = port.parse().expect("a port of ours is a number");
    serde_json::json!({ "socket_address": { "address": ip, "port_value": port } })
}

async fn listens(address: &str) -> Result<()> {
    let deadline = Instant::now() + LISTENS_MAX;
    while TcpStream::connect(address).await.is_err() {
        if Instant::now() > deadline {
            bail!("{address}: nobody listens within {LISTENS_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
