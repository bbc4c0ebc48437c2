//! Pingora as a proxy to one origin, which is told what the bench's other proxies tell it.
//!
//! `bench-pingora <plain> <tls> <certificate> <key> <origin>`

use std::env;
use std::net::SocketAddr;

use async_trait::async_trait;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Origin {
    address: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Origin {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.address, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut (),
    ) -> Result<()> {
        let client =
            session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_string());
        let client = client.ok_or_else(|| Error::new(ErrorType::InternalError))?;
        let server = session.server_addr().and_then(|address| address.as_inet()).map(SocketAddr::port).unwrap_or(0);
        let host = request.headers.get("host").map(|host| host.as_bytes().to_vec()).unwrap_or_default();
        request.insert_header("x-forwarded-for", &client)?;
        request.insert_header("x-real-ip", &client)?;
        request.insert_header("x-forwarded-proto", "http")?;
        request.insert_header("x-forwarded-host", host)?;
        request.insert_header("x-forwarded-port", server.to_string())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [plain, tls, certificate, key, origin] = &arguments[..] else {
        eprintln!("usage: bench-pingora <plain> <tls> <certificate> <key> <origin>");
        std::process::exit(2);
    };
    let address = origin.parse().or_err(ErrorType::InternalError, "the origin is no address")?;
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 256, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Origin { address });
    service.add_tcp(plain);
    let mut settings = TlsSettings::intermediate(certificate, key)?;
    settings.enable_h2();
    service.add_tls_with_settings(tls, None, settings);
    server.add_service(service);
    server.run_forever()
}
