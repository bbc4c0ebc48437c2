//! Plugins on real sockets: who gets in, what upstreams are asked, what clients are answered.

use std::sync::Arc;

use protocol::ResourceKey;
use protocol::crypto::Keyring;
use protocol::report::Path;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::client::{Client, Response};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;
use crate::tls::{Fixed, KEYRING, with_keyring};

/// A plugin's configuration with this field sealed for its place.
pub(crate) fn sealed(kind: &str, id: &str, plugin: &str, field: &str, mut configuration: Value) -> Value {
    let keyring = Keyring::parse(KEYRING).unwrap();
    let path = Path::default().property("plugins").property(plugin).property(field);
    let secret = configuration[field].as_str().unwrap().to_owned();
    let token = keyring.seal(&ResourceKey::new(kind, id), &path, secret.as_bytes(), &Fixed);
    configuration[field] = json!(token.to_string());
    json!({ plugin: configuration })
}

pub(crate) fn consumer(name: &str, key: &str) -> Value {
    json!({"username": name, "plugins": sealed("consumers", name, "key-auth", "key", json!({"key": key}))})
}

fn with_plugins(mut route: Value, plugins: Value) -> Value {
    route["plugins"] = plugins;
    route
}

async fn ask(scene: &Scene, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test.example\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(format!("{request}\r\n")).await;
    client.response_to(method).await.unwrap()
}

pub(crate) fn seen<'a>(origin_saw: &'a Value, name: &str) -> Option<&'a str> {
    let headers = origin_saw["headers"].as_array().unwrap().iter().filter_map(Value::as_str);
    headers.filter_map(|header| header.split_once(": ")).find(|(known, _)| *known == name).map(|(_, value)| value)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_in_and_what_the_upstream_is_told() {
    let origin = Origin::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let guarded = with_plugins(route("/echo", origin.address), json!({"key-auth": {}}));
    let basic = with_plugins(route("/basic", origin.address), json!({"basic-auth": {"hide_credentials": true}}));
    let credential = json!({"plugins": sealed("credentials", "jack/c1", "key-auth", "key", json!({"key": "second"}))});
    let password =
        sealed("credentials", "jack/c2", "basic-auth", "password", json!({"username": "j", "password": "p"}));
    let resources = [
        ("consumers", "jack", consumer("jack", "jack-key")),
        ("credentials", "jack/c1", credential),
        ("credentials", "jack/c2", json!({"plugins": password})),
        ("routes", "r", guarded),
        ("routes", "b", basic),
    ];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let refused = ask(&scene, "GET", "/echo", &[]).await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "{\"message\":\"Missing API key in request\"}\n"));
    assert_eq!(refused.header("www-authenticate"), Some("apikey realm=\"key\""));
    let refused = ask(&scene, "GET", "/echo", &[("apikey", "nope")]).await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "{\"message\":\"Invalid API key in request\"}\n"));
    let forged = [("apikey", "jack-key"), ("X-Consumer-Username", "root"), ("X-Credential-Identifier", "root")];
    let passed = ask(&scene, "GET", "/echo", &forged).await;
    assert_eq!((passed.status, seen(&passed.json(), "x-consumer-username")), (200, Some("jack")));
    // Nor can a client take away what it is not to say.
    let stripped = [("apikey", "jack-key"), ("Connection", "close, X-Consumer-Username")];
    let passed = ask(&scene, "GET", "/echo", &stripped).await;
    assert_eq!((passed.status, seen(&passed.json(), "x-consumer-username")), (200, Some("jack")));
    assert_eq!(seen(&passed.json(), "x-credential-identifier"), None);
    let passed = ask(&scene, "GET", "/echo?apikey=second", &[]).await.json();
    assert_eq!(
        (seen(&passed, "x-credential-identifier"), &passed["line"]),
        (Some("c1"), &json!("GET /echo?apikey=second HTTP/1.1"))
    );
    // "j:p" and "j:q".
    let passed = ask(&scene, "GET", "/basic", &[("Authorization", "Basic ajpw")]).await.json();
    assert_eq!((seen(&passed, "x-consumer-username"), seen(&passed, "authorization")), (Some("jack"), None));
    assert_eq!(ask(&scene, "GET", "/basic", &[("Authorization", "Basic ajpx")]).await.status, 401);
    // A new key lets in, and the old one no longer; a consumer that is gone takes its credentials with it.
    scene.put("consumers", "jack", consumer("jack", "new-key")).await;
    assert_eq!(ask(&scene, "GET", "/echo", &[("apikey", "jack-key")]).await.status, 401);
    assert_eq!(ask(&scene, "GET", "/echo", &[("apikey", "new-key")]).await.status, 200);
    scene.control_plane.commit(&[("consumers", "jack", None)]);
    scene.dp.serves(&scene.control_plane).await;
    for key in ["new-key", "second"] {
        assert_eq!(ask(&scene, "GET", "/echo", &[("apikey", key)]).await.status, 401, "{key}");
    }
    // One that cannot be read makes nobody known, and is reported.
    scene.put("consumers", "jill", json!({"username": "jill", "plugins": {"key-auth": {"key": "in the clear"}}})).await;
    assert_eq!(ask(&scene, "GET", "/echo", &[("apikey", "in the clear")]).await.status, 401);
    let rejected = scene.dp.config().await["rejected"].to_string();
    assert!(rejected.contains("jill") && rejected.contains("not sealed"), "{rejected}");
    // What was counted says whose it was.
    let counted = async |code: u16, consumer: &str, node: &str| {
        let route = r#"route="r",matched_uri="/echo",matched_host="",service="""#;
        let labels = format!(r#"{{code="{code}",{route},consumer="{consumer}",node="{node}"}}"#);
        scene.dp.metric(&format!("apisix_http_status{labels}")).await
    };
    let node = origin.address.to_string();
    until("all are counted", async || {
        (counted(200, "jack", &node).await, counted(200, "", &node).await, counted(401, "", "").await)
            == (4.0, 0.0, 6.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_particular_resource_has_its_way() {
    let origin = Origin::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let set = |value: &str| json!({"headers": {"set": {"X-By": value}}});
    let mut jack = consumer("jack", "jack-key");
    jack["group_id"] = json!("g");
    let of = |id: &str, more: Value| {
        let mut body = route(&format!("/{id}"), origin.address);
        merge(&mut body, more);
        body
    };
    let resources = [
        ("consumers", "jack", jack),
        ("consumers", "jill", consumer("jill", "jill-key")),
        ("consumer_groups", "g", json!({"plugins": {"proxy-rewrite": set("group")}})),
        ("plugin_configs", "p", json!({"plugins": {"proxy-rewrite": set("config"), "key-auth": {}}})),
        (
            "services",
            "s",
            json!({"plugins": {"proxy-rewrite": set("service"), "response-rewrite": {"headers": {"set": {"X-S": "1"}}}}}),
        ),
        ("routes", "service", of("service", json!({"service_id": "s"}))),
        ("routes", "config", of("config", json!({"service_id": "s", "plugin_config_id": "p"}))),
        (
            "routes",
            "route",
            of(
                "route",
                json!({"service_id": "s", "plugin_config_id": "p", "plugins": {"proxy-rewrite": set("route")}}),
            ),
        ),
    ];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    for (path, key, by) in [
        ("/service", None, "service"),
        ("/config", Some("jill-key"), "config"),
        ("/route", Some("jill-key"), "route"),
        ("/route", Some("jack-key"), "group"),
    ] {
        let headers: Vec<_> = key.map(|key| ("apikey", key)).into_iter().collect();
        let answer = ask(&scene, "GET", path, &headers).await;
        assert_eq!((answer.status, seen(&answer.json(), "x-by")), (200, Some(by)), "{path} {key:?}");
        assert_eq!(answer.header("x-s"), Some("1"), "a plugin that only the service has runs too");
    }
    assert_eq!(ask(&scene, "GET", "/config", &[]).await.status, 401);
    // What is missing or cannot be run is never left out: 503, and what does not need it goes on.
    scene.put("consumer_groups", "g", json!({"plugins": {"of-tomorrow": {}}})).await;
    assert_eq!(ask(&scene, "GET", "/route", &[("apikey", "jack-key")]).await.status, 200, "its last good entry");
    scene.control_plane.commit(&[("consumer_groups", "g", None)]);
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(ask(&scene, "GET", "/route", &[("apikey", "jack-key")]).await.status, 503);
    assert_eq!(ask(&scene, "GET", "/route", &[("apikey", "jill-key")]).await.status, 200);
    scene.put("consumer_groups", "g", json!({"plugins": {"of-tomorrow": {}}})).await;
    assert_eq!(ask(&scene, "GET", "/route", &[("apikey", "jack-key")]).await.status, 503);
    scene.control_plane.commit(&[("plugin_configs", "p", None)]);
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(ask(&scene, "GET", "/config", &[("apikey", "jill-key")]).await.status, 503);
}

/// Puts the members of `more` into `body`.
fn merge(body: &mut Value, more: Value) {
    let (Some(all), Value::Object(more)) = (body.as_object_mut(), more) else { return };
    all.extend(more);
}

#[tokio::test(flavor = "multi_thread")]
async fn global_rules_hold_for_every_request() {
    let origin = Origin::echo().await;
    let stamp = |value: &str| json!({"plugins": {"response-rewrite": {"headers": {"set": {"X-G": value}}}}});
    let resources = [
        ("global_rules", "a", stamp("1")),
        ("global_rules", "b", json!({"plugins": {"ip-restriction": {"blacklist": ["10.0.0.0/8"]}}})),
        ("routes", "r", route("/a", origin.address)),
    ];
    let scene = Scene::with(&resources).await;
    let found = ask(&scene, "GET", "/a", &[]).await;
    assert_eq!((found.status, found.header("x-g")), (200, Some("1")));
    let missing = ask(&scene, "GET", "/nosuch", &[]).await;
    assert_eq!((missing.status, missing.header("x-g")), (404, Some("1")));
    assert_eq!(missing.text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
    scene.put("global_rules", "b", json!({"plugins": {"ip-restriction": {"blacklist": ["127.0.0.0/8"]}}})).await;
    for path in ["/a", "/nosuch"] {
        let barred = ask(&scene, "GET", path, &[]).await;
        assert_eq!(
            (barred.status, barred.text().as_str()),
            (403, "{\"message\":\"Your IP address is not allowed\"}\n")
        );
        assert_eq!(barred.header("x-g"), Some("1"));
    }
    // They are run together, by priority: which of them has which id counts for nothing.
    let addresses = json!({"plugins": {"ip-restriction": {"whitelist": ["10.0.0.0/8"]}}});
    let real = json!({"plugins": {"real-ip": {"source": "http_x_real"}}});
    for (a, b) in [(&addresses, &real), (&real, &addresses)] {
        scene.control_plane.commit(&[("global_rules", "a", Some(a.clone())), ("global_rules", "b", Some(b.clone()))]);
        scene.dp.serves(&scene.control_plane).await;
        assert_eq!(ask(&scene, "GET", "/a", &[("X-Real", "10.1.1.1")]).await.status, 200, "{a} {b}");
        assert_eq!(ask(&scene, "GET", "/a", &[("X-Real", "9.1.1.1")]).await.status, 403, "{a} {b}");
    }
    scene.control_plane.commit(&[("global_rules", "a", None), ("global_rules", "b", None)]);
    scene.dp.serves(&scene.control_plane).await;
    let free = ask(&scene, "GET", "/a", &[]).await;
    assert_eq!((free.status, free.header("x-g")), (200, None));
    // One that this build cannot enforce stops everything.
    scene.put("global_rules", "c", json!({"plugins": {"of-tomorrow": {}}})).await;
    assert_eq!(ask(&scene, "GET", "/a", &[]).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_one_for_all_workers_and_outlives_other_edits() {
    let origin = Origin::echo().await;
    let limited = |message: &str, count: u64| {
        let limit = json!({"count": count, "time_window": 600, "rejected_code": 429, "rejected_msg": message});
        with_plugins(route("/lc", origin.address), json!({"limit-count": limit}))
    };
    let scene = Scene::tuned(&[("routes", "r", limited("slow down", 8))], |s| s.proxy.workers = 4).await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        // A connection each: the kernel spreads them over the workers.
        let answer = ask(&scene, "GET", "/lc", &[]).await;
        statuses.push(answer.status);
        assert_eq!(answer.header("x-ratelimit-limit"), Some("8"));
        let left = 8usize.saturating_sub(statuses.len()).to_string();
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(&*left));
        assert!(answer.header("x-ratelimit-reset").unwrap().parse::<f64>().unwrap() <= 600.0);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 429, 429]);
    assert_eq!(ask(&scene, "GET", "/lc", &[]).await.text(), "{\"error_msg\":\"slow down\"}\n");
    let mut renamed = limited("slow down", 8);
    renamed["desc"] = json!("another");
    scene.put("routes", "r", renamed).await;
    assert_eq!(ask(&scene, "GET", "/lc", &[]).await.status, 429, "an edit of something else forgets no count");
    scene.put("routes", "r", limited("slow down", 9)).await;
    assert_eq!(ask(&scene, "GET", "/lc", &[]).await.status, 200, "a new limit starts a new count");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_are_rewritten() {
    let origin = Origin::echo().await;
    let of = |uri: &str, plugins: Value| with_plugins(route(uri, origin.address), plugins);
    let broken = Origin::saying("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nETag: x\r\n\r\noops", false).await;
    let hidden = json!({"response-rewrite": {"status_code": 503, "body": "later\n", "vars": [["status", "==", 502]]}});
    let resources = [
        (
            "routes",
            "pr",
            of(
                "/pr/*",
                json!({"proxy-rewrite": {"regex_uri": ["^/pr/(.*)", "/echo?p=$1"], "host": "new.example", "method": "PUT"}}),
            ),
        ),
        ("routes", "file", of("/file", json!({"proxy-rewrite": {"uri": "/files/$arg_name"}}))),
        ("routes", "red", of("/red", json!({"redirect": {"uri": "/hello", "ret_code": 301}}))),
        ("routes", "id", of("/id", json!({"request-id": {}}))),
        ("routes", "cors", of("/cors", json!({"cors": {"allow_origins": "http://a.example"}}))),
        (
            "routes",
            "beta",
            of(
                "/beta",
                json!({"ip-restriction": {"blacklist": ["127.0.0.1"], "_meta": {"filter": [["arg_beta", "==", "1"]], "error_response": {"e": 1}}}}),
            ),
        ),
        ("routes", "hidden", with_plugins(route("/hidden", broken.address), hidden)),
    ];
    let scene = Scene::with(&resources).await;
    let answer = ask(&scene, "GET", "/pr/abc?q=1", &[("X-Forwarded-For", "1.1.1.1")]).await.json();
    assert_eq!((&answer["line"], seen(&answer, "host")), (&json!("PUT /echo?p=abc&q=1 HTTP/1.1"), Some("new.example")));
    assert_eq!(seen(&answer, "x-forwarded-host"), Some("test.example"));
    // A path that is made of what a client sent is held to what is asked of a client's path.
    for (name, line) in
        [("a", "/files/a?name=a"), ("x/../b//c", "/files/b/c?name=x/../b//c"), ("%2e%2e/d", "/d?name=%2e%2e/d")]
    {
        let answer = ask(&scene, "GET", &format!("/file?name={name}"), &[]).await.json();
        assert_eq!(answer["line"], format!("GET {line} HTTP/1.1"));
    }
    let refused = ask(&scene, "GET", "/file?name=../../etc", &[]).await;
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (400, "{\"error_msg\":\"400 Bad Request: the path leaves the root\"}\n")
    );
    let answer = ask(&scene, "GET", "/red", &[]).await;
    assert_eq!((answer.status, answer.header("location"), answer.body.len()), (301, Some("/hello"), 0));
    let answer = ask(&scene, "GET", "/id", &[]).await;
    assert_eq!(answer.header("x-request-id"), seen(&answer.json(), "x-request-id"));
    assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
    let answer = ask(&scene, "OPTIONS", "/cors", &[("Origin", "http://a.example")]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("http://a.example")));
    let answer = ask(&scene, "GET", "/cors", &[("Origin", "http://b.example")]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    assert_eq!(ask(&scene, "GET", "/beta", &[]).await.status, 200);
    let answer = ask(&scene, "GET", "/beta?beta=1", &[]).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "{\"e\":1}\n"));
    for _ in 0..2 {
        let answer = ask(&scene, "GET", "/hidden", &[]).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.whole), (503, "later\n", true));
        assert_eq!((answer.header("content-length"), answer.header("etag")), (Some("6"), None));
    }
    // On one connection, an answer by a plugin leaves the next request alone, whatever of its body was not read.
    let mut client = Client::connect(scene.dp.address()).await;
    client.send("POST /red HTTP/1.1\r\nHost: test.example\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.response_to("POST").await.unwrap().status, 301);
    assert_eq!(client.get("test.example", "/id").await.status, 200);
    assert_eq!(ask(&scene, "HEAD", "/hidden", &[]).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_as_under_way_until_the_last_of_its_answer() {
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let origin = Origin::with(move |mut conversation| {
        let wait = wait.clone();
        async move {
            while conversation.request().await.is_some() {
                conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await;
                wait.notified().await;
                conversation.send("b").await;
            }
        }
    })
    .await;
    let limit = json!({"conn": 1, "burst": 0, "default_conn_delay": 0.01, "key": "remote_addr"});
    let limited = with_plugins(route("/a", origin.address), json!({"limit-conn": limit}));
    let scene = Scene::with(&[("routes", "r", limited)]).await;
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    let mut first = TcpStream::connect(scene.dp.address()).await.unwrap();
    first.write_all(b"GET /a HTTP/1.1\r\nHost: test.example\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\na") {
        assert!(first.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(ask(&scene, "GET", "/a", &[]).await.status, 503, "its head is there, and its body is not");
    go_on.notify_one();
    while !answer.ends_with(b"ab") {
        assert!(first.read_buf(&mut answer).await.unwrap() > 0);
    }
    go_on.notify_one();
    until("the first has ended for the limit too", async || ask(&scene, "GET", "/a", &[]).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_answers_breaks_and_what_a_plugin_answers_does_not() {
    let broken = Origin::saying("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", false).await;
    let breaker = json!({"break_response_code": 502, "unhealthy": {"http_statuses": [500], "failures": 2}});
    let guarded = with_plugins(route("/a", broken.address), json!({"api-breaker": breaker}));
    let mocked = with_plugins(
        route("/mock", broken.address),
        json!({"api-breaker": breaker, "mocking": {"response_example": "no", "response_status": 500}}),
    );
    let scene = Scene::with(&[("routes", "r", guarded), ("routes", "m", mocked)]).await;
    let mut seen = Vec::new();
    for path in ["/mock", "/mock", "/mock", "/a", "/a", "/a"] {
        seen.push(ask(&scene, "GET", path, &[]).await.status);
    }
    assert_eq!(seen, [500, 500, 500, 500, 500, 502]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_where_a_plugin_says_so() {
    let origin = Origin::echo().await;
    let delayed = with_plugins(route("/a", origin.address), json!({"fault-injection": {"delay": {"duration": 0.2}}}));
    let scene = Scene::with(&[("routes", "r", delayed)]).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(ask(&scene, "GET", "/a", &[]).await.status, 200);
    assert!(begun.elapsed() >= std::time::Duration::from_millis(200), "{:?}", begun.elapsed());
}
