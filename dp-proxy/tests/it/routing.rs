//! Routing by everything that a request says, over real connections.

use dp_proxy::table::Router;
use serde_json::{Value, json};

use crate::harness::client::{get, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_router_decides_whether_hosts_or_paths_come_first() {
    let origin = Origin::echo().await;
    let body = |uri: &str, hosts: &[&str]| {
        let mut body = route(uri, origin.address);
        if !hosts.is_empty() {
            body["hosts"] = serde_json::json!(hosts);
        }
        body
    };
    let service = serde_json::json!({"hosts": ["c.com"], "upstream": {"nodes": {origin.address.to_string(): 1}}});
    let resources = [
        ("services", "s", service),
        ("routes", "host", body("/*", &["a.com", "*.a.com"])),
        ("routes", "path", body("/deep/*", &[])),
        ("routes", "param", body("/users/:id", &[])),
        ("routes", "served", serde_json::json!({"uri": "/served", "service_id": "s"})),
    ];
    for (router, expected) in [
        (Router::HostUri, ["host", "host", "path", "none", "param", "served", "none"]),
        (Router::Uri, ["path", "path", "path", "none", "none", "served", "none"]),
        (Router::UriWithParameter, ["path", "path", "path", "none", "param", "served", "none"]),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let scene = Scene::tuned(&resources, |settings| {
            settings.proxy.router = router;
            settings.proxy.workers = 1;
            settings.proxy.access_log.file = Some(file.path().to_owned());
            settings.proxy.access_log.format = "$route_id".into();
        })
        .await;
        let asked = [
            ("a.com", "/deep/x"),
            ("x.a.com", "/deep/x"),
            ("b.com", "/deep/x"),
            ("b.com", "/x"),
            ("b.com", "/users/7"),
            ("c.com", "/served"),
            ("d.com", "/served"),
        ];
        for (host, path) in asked {
            get(scene.dp.address(), host, path).await;
        }
        // A service's hosts move with an edit of it.
        let moved = serde_json::json!({"hosts": ["*.d.com"], "upstream": {"nodes": {origin.address.to_string(): 1}}});
        scene.put("services", "s", moved).await;
        assert_eq!(get(scene.dp.address(), "c.com", "/served").await.status, 404, "{router:?}");
        assert_eq!(get(scene.dp.address(), "x.d.com", "/served").await.status, 200, "{router:?}");
        drop(scene);
        let told = std::fs::read_to_string(file.path()).unwrap().replace('-', "none");
        let told: Vec<&str> = told.lines().take(asked.len()).collect();
        assert_eq!(told, expected, "{router:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_listener_shows_what_is_held() {
    let origin = Origin::echo().await;
    let resources = [("routes", "r1", route("/1", origin.address)), ("routes", "r2", route("/2", origin.address))];
    let scene = Scene::with(&resources).await;
    let control = async |path: &str| get(scene.dp.proxy.control_address(), "control", path).await;
    let all = control("/v1/routes").await.json();
    let ids: Vec<_> = all.as_array().unwrap().iter().map(|route| route["value"]["id"].clone()).collect();
    assert_eq!(ids, ["r1", "r2"]);
    let one = control("/v1/route/r2").await.json();
    assert_eq!((&one["key"], &one["value"]["uri"]), (&"/apisix/routes/r2".into(), &"/2".into()));
    assert!(one["modifiedIndex"].is_u64(), "{one}");
    assert_eq!(control("/v1/upstreams").await.json(), serde_json::json!([]));
    assert_eq!(control("/v1/plugin_metadatas").await.json(), serde_json::json!([]));
    let schema = control("/v1/schema").await.json();
    assert!(schema["main"]["route"]["properties"]["uri"].is_object() && schema["main"]["global_rule"].is_object());
    assert_eq!(schema["plugins"]["key-auth"]["type"], "auth");
    for nothing in ["/v1/route/r3", "/v1/ssls", "/v1/", "/v1/route/"] {
        assert_eq!(control(nothing).await.status, 404, "{nothing}");
    }
}
