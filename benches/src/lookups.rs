//! Finding the route of a request in a large table: what every request pays for there being many routes.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Result, ensure};
use dp_proxy::table::{Ask, NoValues, Table};
use protocol::resource::Method;

use crate::figures::Times;

/// Times that are taken at each size.
const TIMES: usize = 2_000;
/// Look-ups that share one time, so that to read the clock costs nothing beside them.
const TOGETHER: u32 = 64;

/// What a request asks for.
#[derive(Clone)]
struct Asked {
    host: String,
    path: String,
    /// The route that it must find.
    id: Option<String>,
}

impl Asked {
    fn ask(&self) -> Ask<'_> {
        let remote = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ask { host: &self.host, path: &self.path, method: Some(Method::Get), remote, values: &NoValues }
    }
}

/// The times of a look-up, for requests to all routes in an order that no cache knows, and for as many that have none.
///
/// # Errors
/// A request found another route than its own.
pub(crate) fn times(table: &Table, routes: usize) -> Result<[Times; 2]> {
    let number = |i: usize| i.wrapping_mul(7919) % routes;
    let host = |number: usize| format!("shop-{}.example.com", number % 300);
    let hits = (0..routes).map(number).map(|number| Asked {
        host: host(number),
        path: format!("/api/v1/things-{number}/a/b"),
        id: Some(format!("r{number}")),
    });
    let misses = (0..routes).map(number).map(|number| Asked {
        host: host(number),
        path: format!("/api/v1/other-{number}/a/b"),
        id: None,
    });
    Ok([measured(table, hits)?, measured(table, misses)?])
}

fn measured(table: &Table, asked: impl Iterator<Item = Asked>) -> Result<Times> {
    let asked: Vec<Asked> = asked.collect();
    for one in &asked {
        let found = table.find(&one.ask()).map(|found| found.route.id.as_str());
        ensure!(found == one.id.as_deref(), "{}{} finds {found:?}", one.host, one.path);
    }
    let mut asked = asked.iter().cycle();
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        // A request's host and path have just been read, and are at hand; its route is not.
        let together: Vec<Asked> = asked.by_ref().take(TOGETHER as usize).cloned().collect();
        let began = Instant::now();
        for one in &together {
            black_box(table.find(&one.ask()));
        }
        times.push(began.elapsed() / TOGETHER);
    }
    Ok(Times::new(times))
}
