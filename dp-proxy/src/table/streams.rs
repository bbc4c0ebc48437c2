//! Stream routes by what connections are asked for first: the name in their handshake, and the port that they came to.
//!
//! A connection whose handshake names somebody goes to a route for that name, exact before wildcards and longer wildcards
//! before shorter ones; then to one that asks for no name. Within these, a route for the port comes before one for all
//! ports, one for fewer addresses of the proxy before one for more, one for fewer clients before one for more, and then
//! the lower id.

use std::net::SocketAddr;
use std::sync::Arc;

use imbl::HashMap;
use ipnet::IpNet;
use protocol::Text;

use super::Handle;
use super::route::Target;

/// A compiled stream route.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamRoute {
    /// Its id.
    pub id: Text,
    pub(super) remote_addr: Option<IpNet>,
    pub(super) server_addr: Option<IpNet>,
    pub(super) target: Option<Target>,
    pub(super) service: Option<Handle>,
    /// Why it closes every connection.
    pub(super) sealed: Option<Box<str>>,
}

/// What is asked first: the pattern of names (`None`: no name is asked for), and the port (`None`: all).
pub(super) type Place = (Option<Text>, Option<u16>);

/// A connection that looks for its route.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Whom it is from.
    pub client: SocketAddr,
    /// Where it came to.
    pub local: SocketAddr,
    /// The name that its handshake asks for, in lower case; `None` for a connection without TLS.
    pub sni: Option<&'a str>,
}

/// All stream routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    /// At every place, in the order in which they are asked.
    by_place: HashMap<Place, Vec<Arc<StreamRoute>>>,
}

impl Streams {
    pub(super) fn find(&self, arrival: &Arrival<'_>) -> Option<&Arc<StreamRoute>> {
        let by_name = arrival.sni.and_then(|name| {
            self.at(&Some(name.into()), arrival).or_else(|| {
                let starts = name.char_indices().map(|(at, _)| at).chain([name.len()]);
                let mut patterns = starts.map(|at| format!("*{}", &name[at..]));
                patterns.find_map(|pattern| self.at(&Some(pattern.as_str().into()), arrival))
            })
        });
        by_name.or_else(|| self.at(&None, arrival))
    }

    fn at(&self, name: &Option<Text>, arrival: &Arrival<'_>) -> Option<&Arc<StreamRoute>> {
        let takes = |net: Option<IpNet>, address: SocketAddr| net.is_none_or(|net| net.contains(&address.ip()));
        [Some(arrival.local.port()), None].into_iter().find_map(|port| {
            let routes = self.by_place.get(&(name.clone(), port))?;
            routes
                .iter()
                .find(|route| takes(route.remote_addr, arrival.client) && takes(route.server_addr, arrival.local))
        })
    }

    pub(super) fn place(&mut self, place: &Place, route: Arc<StreamRoute>) {
        let routes = self.by_place.entry(place.clone()).or_default();
        let at = routes.partition_point(|other| rank(other) < rank(&route));
        routes.insert(at, route);
    }

    pub(super) fn remove(&mut self, place: &Place, id: &Text) {
        let Some(routes) = self.by_place.get_mut(place) else { return };
        routes.retain(|route| route.id != *id);
        if routes.is_empty() {
            self.by_place.remove(place);
        }
    }

    /// One fact a line, as [`super::Table::dump`]; `target` says where a route leads.
    pub(super) fn dump(&self, target: impl Fn(&StreamRoute) -> String) -> Vec<String> {
        let line = |(place, routes): (&Place, &Vec<Arc<StreamRoute>>)| {
            let routes: Vec<_> = routes
                .iter()
                .map(|route| {
                    let StreamRoute { id, remote_addr, server_addr, sealed, .. } = &**route;
                    format!("{id} {remote_addr:?} {server_addr:?} {sealed:?} {}", target(route))
                })
                .collect();
            format!("stream {place:?}: {}", routes.join(", "))
        };
        self.by_place.iter().map(line).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<StreamRoute>> {
        self.by_place.values().flatten()
    }
}

/// Who is asked first at one place.
fn rank(route: &StreamRoute) -> impl Ord + '_ {
    let breadth = |net: Option<IpNet>| net.map_or(u8::MAX, |net| net.max_prefix_len() - net.prefix_len());
    (breadth(route.server_addr), breadth(route.remote_addr), &route.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_that_says_most_takes_a_connection() {
        let mut streams = Streams::default();
        for (id, name, port, server, remote) in [
            ("any", None, None, None, None),
            ("port", None, Some(1), None, None),
            ("from", None, Some(1), None, Some("10.0.0.0/8")),
            ("closer", None, Some(1), None, Some("10.1.0.0/16")),
            ("at", None, Some(1), Some("127.0.0.9/32"), None),
            ("exact", Some("a.com"), None, None, None),
            ("wild", Some("*.a.com"), None, None, None),
            ("deep", Some("*.b.a.com"), Some(1), None, None),
            ("all", Some("*"), Some(2), None, None),
        ] {
            let net = |text: Option<&str>| text.map(|text| text.parse().unwrap());
            let route = StreamRoute {
                id: id.into(),
                remote_addr: net(remote),
                server_addr: net(server),
                target: None,
                service: None,
                sealed: None,
            };
            streams.place(&(name.map(Text::from), port), Arc::new(route));
        }
        let found = |streams: &Streams, client: &str, local: &str, sni: Option<&str>| {
            let (client, local) = (client.parse().unwrap(), local.parse().unwrap());
            streams.find(&Arrival { client, local, sni }).map(|route| route.id.to_string())
        };
        for (client, local, sni, expected) in [
            ("1.1.1.1:5", "127.0.0.1:3", None, "any"),
            ("1.1.1.1:5", "127.0.0.1:1", None, "port"),
            ("10.2.0.1:5", "127.0.0.1:1", None, "from"),
            ("10.1.0.1:5", "127.0.0.1:1", None, "closer"),
            ("10.1.0.1:5", "127.0.0.9:1", None, "at"),
            ("1.1.1.1:5", "127.0.0.1:3", Some("a.com"), "exact"),
            ("1.1.1.1:5", "127.0.0.1:3", Some("x.y.a.com"), "wild"),
            ("1.1.1.1:5", "127.0.0.1:1", Some("x.b.a.com"), "deep"),
            ("1.1.1.1:5", "127.0.0.1:3", Some("x.b.a.com"), "wild"),
            ("1.1.1.1:5", "127.0.0.1:2", Some("z.org"), "all"),
            ("1.1.1.1:5", "127.0.0.1:1", Some("z.org"), "port"),
        ] {
            assert_eq!(found(&streams, client, local, sni).as_deref(), Some(expected), "{client} {local} {sni:?}");
        }
        streams.remove(&(None, None), &"any".into());
        assert_eq!(found(&streams, "1.1.1.1:5", "127.0.0.1:3", None), None);
    }
}
