//! Routing by everything that a request says, over real connections.

use serde_json::{Value, json};

use crate::harness::client::send;
use crate::harness::origin::Origin;
use crate::harness::proxy::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn vars_choose_among_routes_of_one_path() {
    let origin = Origin::echo().await;
    let names: [(&str, Value); 8] = [
        ("beta", json!([["http_x_beta", "~*", "^(on|yes)$"]])),
        ("old-app", json!([["http_user_agent", "~~", "^App/[0-3]\\."], ["arg_force", "==", null]])),
        ("inside", json!([["remote_addr", "ipmatch", ["127.0.0.0/8"]], ["arg_page", ">", 10]])),
        ("member", json!([["cookie_tier", "in", ["gold", "silver"]]])),
        ("writes", json!(["OR", ["request_method", "==", "PUT"], ["request_method", "==", "POST"]])),
        ("port", json!([["server_port", "==", 1]])),
        ("host", json!(["!AND", ["host", "~=", "special.example"], ["uri", "==", "/"]])),
        ("never", json!([["arg_a", "has", "b"]])),
    ];
    let routes: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, (name, vars))| {
            let upstream =
                json!({"nodes": {origin.address.to_string(): 1}, "pass_host": "rewrite", "upstream_host": name});
            ("routes", *name, json!({"uri": "/", "priority": 10 - i, "vars": vars, "upstream": upstream}))
        })
        .collect();
    let scene = Scene::with(&routes).await;
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Beta: YES\r\n", Some("beta")),
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Beta: YES!\r\n", None),
        ("GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: App/2.1\r\n", Some("old-app")),
        ("GET /?force HTTP/1.1\r\nHost: x\r\nUser-Agent: App/2.1\r\n", None),
        ("GET /?page=%311 HTTP/1.1\r\nHost: x\r\n", Some("inside")),
        ("GET /?page=9 HTTP/1.1\r\nHost: x\r\nCookie: a=b; tier=gold\r\n", Some("member")),
        ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n", Some("writes")),
        ("GET / HTTP/1.1\r\nHost: Special.Example:80\r\n", Some("host")),
        ("GET /?a=b HTTP/1.1\r\nHost: x\r\n", None),
    ] {
        let answer = send(scene.dp.address(), format!("{head}\r\n")).await.unwrap();
        let host = (answer.status == 200).then(|| {
            let headers = answer.json()["headers"].as_array().unwrap().clone();
            let host = headers.iter().find_map(|h| h.as_str().unwrap().strip_prefix("host: ").map(str::to_owned));
            host.unwrap_or_default()
        });
        assert_eq!(host.as_deref(), expected, "{head}");
    }
    // A changed condition counts from the next request on, without a change of what else the route takes.
    let upstream = json!({"nodes": {origin.address.to_string(): 1}, "pass_host": "rewrite", "upstream_host": "never"});
    scene
        .put(
            "routes",
            "never",
            json!({"uri": "/", "priority": 3, "vars": [["arg_a", "==", "b"]], "upstream": upstream}),
        )
        .await;
    let answer = send(scene.dp.address(), "GET /?a=b HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()).await.unwrap();
    assert_eq!(answer.status, 200);
}
