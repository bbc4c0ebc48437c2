//! Routing by what stands in bodies.

use serde_json::{Value, json};

use crate::harness::client::{Response, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

/// Routes for the same path, each to the same origin under its own name, the first before the second.
fn routes(origin: &Origin, all: &[(&'static str, Value)]) -> Vec<(&'static str, &'static str, Value)> {
    let route = |(at, (name, vars)): (usize, &(&'static str, Value))| {
        let upstream = json!({"nodes": {origin.address.to_string(): 1}, "pass_host": "rewrite", "upstream_host": name});
        ("routes", *name, json!({"uri": "/*", "priority": 10 - at, "vars": vars, "upstream": upstream}))
    };
    all.iter().enumerate().map(route).collect()
}

async fn ask(scene: &Scene, request: &str, kind: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    send(scene.dp.address(), head + body).await.unwrap()
}

/// Which route took a request, and the body that its node got.
fn taken(answer: &Response) -> (String, String) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    let mut headers = told["headers"].as_array().unwrap().iter().map(|header| header.as_str().unwrap());
    let host = headers.find_map(|header| header.strip_prefix("host: ")).unwrap().to_owned();
    (host, told["body"].as_str().unwrap().to_owned())
}

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_forms_choose_among_routes_and_bodies_pass_as_they_came() {
    let origin = Origin::echo().await;
    let all = [
        ("gold", json!([["post_arg_tier", "==", "gold"]])),
        ("large", json!([["post_arg_n", ">", 10]])),
        ("other", json!([])),
    ];
    let scene = Scene::with(&routes(&origin, &all)).await;
    let long = format!("pad={}&n=%31%31", "x".repeat(200_000));
    for (kind, body, expected) in [
        (FORM, "a=1&tier=gold", "gold"),
        ("Application/X-WWW-form-urlencoded; charset=UTF-8", "tier=%67old&tier=iron", "gold"),
        (FORM, "n=11&tier=iron", "large"),
        (FORM, &long, "large"),
        (FORM, "n=9", "other"),
        (FORM, "", "other"),
        ("text/plain", "tier=gold", "other"),
    ] {
        let answer = ask(&scene, "POST /x", kind, body).await;
        assert_eq!(taken(&answer), (expected.to_owned(), body.to_owned()), "{kind} {}", &body[..body.len().min(40)]);
    }
    // In pieces, and asked for first.
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ntier=\r\n4\r\ngold\r\n0\r\n\r\n"
    );
    assert_eq!(taken(&send(scene.dp.address(), chunked).await.unwrap()), ("gold".into(), "tier=gold".into()));
    scene.dp.counts("holdfast_dp_buffered_bytes", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_looked_into_has_a_bound_and_others_do_not() {
    let origin = Origin::echo().await;
    let mut resources = routes(&origin, &[("gold", json!([["post_arg_tier", "==", "gold"]]))]);
    resources.push(("routes", "free", {
        let mut free = route("/free", origin.address);
        free["priority"] = json!(20);
        free
    }));
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.limits.matched_body_bytes_max = "100".parse().unwrap();
    })
    .await;
    for (path, pad, status) in [("/x", 90, 200), ("/x", 91, 413), ("/free", 1000, 200)] {
        let body = format!("tier=gold&{}", "p".repeat(pad));
        assert_eq!(ask(&scene, &format!("POST {path}"), FORM, &body).await.status, status, "{path} {pad}");
    }
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n\r\n",
        "p".repeat(101)
    );
    assert_eq!(send(scene.dp.address(), chunked).await.unwrap().status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_in_graphql_choose_among_routes() {
    let origin = Origin::echo().await;
    let all = [
        ("writes", json!([["graphql_operation", "==", "mutation"]])),
        ("repo", json!([["graphql_name", "==", "getRepo"], ["graphql_root_fields", "has", "owner"]])),
        ("form", json!([["post_arg_a", "==", "1"], ["graphql_name", "==", null]])),
        ("none", json!([["graphql_operation", "==", null]])),
        ("other", json!([])),
    ];
    let scene = Scene::with(&routes(&origin, &all)).await;
    let json = |query: &str| json!({"query": query, "variables": {"id": 7}}).to_string();
    let padded = format!("{}\nmutation {{ add {{ id }} }}", "# pad\n".repeat(10_000));
    for (request, kind, body, expected) in [
        ("POST /", "application/json", json("mutation { add(x: 1) { id } }"), "writes"),
        ("POST /", "application/json", json("query getRepo { alias: owner { name } repo { id } }"), "repo"),
        ("POST /", "application/json", json("query getRepo { repo { id } }"), "other"),
        ("POST /", "application/graphql", "query getRepo { owner { name } }".to_owned(), "repo"),
        ("POST /", "application/graphql", padded, "writes"),
        ("POST /", "application/json", "{}".to_owned(), "none"),
        ("POST /", FORM, "a=1".to_owned(), "form"),
        ("POST /", FORM, "a=2".to_owned(), "none"),
        ("POST /", "Multipart/form-data; boundary=x", "x".repeat((1 << 20) + 1), "none"),
        ("PUT /", "application/graphql", "{ a }".to_owned(), "none"),
        ("GET /?query=mutation%7Badd%7D", "text/plain", String::new(), "writes"),
        ("GET /?query=query+A%7Ba%7D+mutation+B%7Bb%7D&operationName=B", "text/plain", String::new(), "writes"),
        ("GET /", "text/plain", String::new(), "none"),
    ] {
        let answer = ask(&scene, request, kind, &body).await;
        assert_eq!(
            taken(&answer),
            (expected.to_owned(), body.clone()),
            "{request} {kind} {}",
            &body[..body.len().min(60)]
        );
    }
}
