//! Plugins that change where a request goes, what it may bring and how it is answered, on real sockets. The cases share one
//! proxy.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::client::{Client, Response};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;
use crate::plugins::{consumer, sealed, seen};
use crate::tls::with_keyring;

fn with_plugins(uri: &str, origin: &Origin, plugins: Value) -> Value {
    let mut body = route(uri, origin.address);
    body["plugins"] = plugins;
    body
}

/// Asks on a connection of its own; `head` is what follows the request line and `Host`, up to the body.
async fn ask(scene: &Scene, method: &str, path: &str, head: &str) -> Response {
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test.example\r\n{head}\r\n")).await;
    client.response_to(method).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_shared_out_among_upstreams() {
    let (blue, green, own) = (Origin::named("blue").await, Origin::named("green").await, Origin::named("own").await);
    let shares = json!([
        {"upstream_id": "green", "weight": 2}, {"upstream": {"nodes": {own.address.to_string(): 1}}}, {"weight": 1},
    ]);
    let rules = json!([{"match": [{"vars": [["http_x_split", "==", "1"]]}], "weighted_upstreams": shares}]);
    let split = json!({"traffic-split": {"rules": rules}});
    let resources = [
        ("upstreams", "green", json!({"nodes": {green.address.to_string(): 1}})),
        ("routes", "r", with_plugins("/r", &blue, split)),
    ];
    let scene = Scene::with(&resources).await;
    let mut answered = Vec::new();
    for _ in 0..4 {
        answered.push(ask(&scene, "GET", "/r", "X-Split: 1\r\n").await.header("x-origin").unwrap().to_owned());
    }
    answered.sort();
    assert_eq!(answered, ["blue", "green", "green", "own"]);
    assert_eq!(ask(&scene, "GET", "/r", "").await.header("x-origin"), Some("blue"), "no rule takes it");
    // A share without an upstream is the route's own, also where a rule for all requests sends them elsewhere.
    let elsewhere = json!({"rules": [{"weighted_upstreams": [{"upstream_id": "green"}]}]});
    scene.put("global_rules", "g", json!({"plugins": {"traffic-split": elsewhere}})).await;
    assert_eq!(ask(&scene, "GET", "/r", "").await.header("x-origin"), Some("green"));
    let back = json!({"traffic-split": {"rules": [{"weighted_upstreams": [{"weight": 1}]}]}});
    scene.put("routes", "back", with_plugins("/back", &blue, back)).await;
    assert_eq!(ask(&scene, "GET", "/back", "").await.header("x-origin"), Some("blue"));
    scene.control_plane.commit(&[("global_rules", "g", None)]);
    scene.dp.serves(&scene.control_plane).await;
    // An edit of what is named holds for the next request.
    scene.put("upstreams", "green", json!({"nodes": {blue.address.to_string(): 1}})).await;
    for _ in 0..4 {
        assert_ne!(ask(&scene, "GET", "/r", "X-Split: 1\r\n").await.header("x-origin"), Some("green"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_prove_something() {
    let origin = Origin::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let shared = sealed("consumers", "jack", "hmac-auth", "secret_key", json!({"key_id": "k", "secret_key": "s"}));
    let signed = json!({"hmac-auth": {"validate_request_body": true, "clock_skew": 4_000_000_000_u64}});
    let resources = [
        ("consumers", "jack", json!({"username": "jack", "plugins": shared})),
        ("routes", "hmac", with_plugins("/hmac", &origin, signed)),
        (
            "routes",
            "csrf",
            with_plugins("/csrf", &origin, sealed("routes", "csrf", "csrf", "key", json!({"key": "k"}))),
        ),
        ("routes", "small", with_plugins("/small", &origin, json!({"client-control": {"max_body_size": 4}}))),
    ];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;

    // The signature is over "k", "POST /hmac?a=1", the date and the digest; this is that of "body".
    let head = "Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
        Authorization: Signature keyId=\"k\",algorithm=\"hmac-sha256\",headers=\"@request-target date digest\",signature=\"SIGNED\"\r\n\
        Digest: SHA-256=Iw2DWNyOiJC0xY3utikS7i8gNXrpKlzIYbmOaP4xrLU=\r\nTransfer-Encoding: chunked\r\n";
    let head = head.replace("SIGNED", "I+Xwig5i5Autkt5eVp6at3fWhlbPztvUDYyhONCFlaQ=");
    let passed = ask(&scene, "POST", "/hmac?a=1", &format!("{head}\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n")).await;
    assert_eq!((passed.status, seen(&passed.json(), "x-consumer-username")), (200, Some("jack")), "{}", passed.text());
    assert_eq!(passed.json()["body"], "body", "what was read to be checked goes on");
    let refused = ask(&scene, "POST", "/hmac?a=1", &format!("{head}\r\n4\r\nBODY\r\n0\r\n")).await;
    assert_eq!(
        (refused.status, refused.text()),
        (401, "{\"message\":\"client request can't be validated\"}\n".to_owned())
    );
    assert_eq!(refused.header("www-authenticate"), Some("hmac realm=\"hmac\""));
    // Who has shown no key is not asked for a body, however large it would be.
    let large = "Expect: 100-continue\r\nContent-Length: 100000000\r\n";
    assert_eq!(ask(&scene, "POST", "/hmac?a=1", large).await.status, 401);

    let given = ask(&scene, "GET", "/csrf", "").await;
    let cookie = given.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let token = cookie.strip_prefix("apisix-csrf-token=").unwrap();
    let shown = format!("Cookie: {cookie}\r\napisix-csrf-token: {token}\r\n");
    assert_eq!(ask(&scene, "POST", "/csrf", &shown).await.status, 200);
    let refused = ask(&scene, "POST", "/csrf", &format!("Cookie: {cookie}\r\n")).await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "{\"error_msg\":\"no csrf token in headers\"}\n"));

    assert_eq!(ask(&scene, "POST", "/small", "Content-Length: 4\r\n\r\nfour").await.json()["body"], "four");
    assert_eq!(ask(&scene, "POST", "/small", "Content-Length: 5\r\n").await.status, 413);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nfives\r\n0\r\n";
    assert_eq!(ask(&scene, "POST", "/small", chunked).await.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_in_front_may_say_who_asks_and_how() {
    let origin = Origin::echo().await;
    let inside =
        json!({"real-ip": {"source": "http_x_forwarded_for"}, "ip-restriction": {"whitelist": ["10.0.0.0/8"]}});
    let set = json!({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "outside.example"});
    let resources = [
        ("routes", "r", with_plugins("/r", &origin, json!({}))),
        ("routes", "ip", with_plugins("/ip", &origin, inside)),
        ("routes", "tls", with_plugins("/tls", &origin, json!({"redirect": {"http_to_https": true}}))),
        ("routes", "set", with_plugins("/set", &origin, json!({"proxy-rewrite": {"headers": {"set": set}}}))),
    ];
    let stranger = Scene::with(&resources).await;
    let passed = ask(&stranger, "GET", "/ip", "X-Forwarded-For: 9.9.9.9, 10.1.1.1\r\n").await.json();
    assert_eq!(seen(&passed, "x-real-ip"), Some("10.1.1.1"));
    assert_eq!(ask(&stranger, "GET", "/ip", "X-Forwarded-For: 9.9.9.9\r\n").await.status, 403);
    // A client without TLS cannot say that it has it, neither to this proxy nor to what stands behind it.
    let claims =
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: forged\r\nX-Forwarded-Port: 1\r\nForwarded: for=1.1.1.1\r\n";
    assert_eq!(ask(&stranger, "GET", "/tls", claims).await.status, 301);
    for (path, proto, host) in [("/r", "http", "test.example"), ("/set", "https", "outside.example")] {
        let told = ask(&stranger, "GET", path, claims).await.json();
        assert_eq!(
            (seen(&told, "x-forwarded-proto"), seen(&told, "x-forwarded-host")),
            (Some(proto), Some(host)),
            "{path}"
        );
        assert_ne!(seen(&told, "x-forwarded-port"), Some("1"), "{path}");
        assert_eq!(seen(&told, "forwarded"), None, "{path}");
    }
    // Who is trusted with the client's address is trusted with this too.
    let trusted =
        Scene::tuned(&resources, |settings| settings.proxy.real_ip.from = vec!["127.0.0.0/8".to_owned()]).await;
    assert_eq!(ask(&trusted, "GET", "/tls", claims).await.status, 200, "no loop behind a balancer that ends TLS");
    assert_eq!(ask(&trusted, "GET", "/tls", "X-Forwarded-Proto: http\r\n").await.status, 301);
    for (path, host) in [("/r", "forged"), ("/set", "outside.example")] {
        let told = ask(&trusted, "GET", path, claims).await.json();
        assert_eq!((seen(&told, "x-forwarded-proto"), seen(&told, "x-forwarded-host")), (Some("https"), Some(host)));
        assert_eq!((seen(&told, "x-forwarded-port"), seen(&told, "forwarded")), (Some("1"), Some("for=1.1.1.1")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_goes_by_the_consumer_and_by_what_the_client_asked() {
    let (blue, green) = (Origin::named("blue").await, Origin::named("green").await);
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    let hashed = |uri: &str, how: Value, plugins: Value| {
        let mut upstream =
            json!({"type": "chash", "nodes": {blue.address.to_string(): 1, green.address.to_string(): 1}});
        upstream.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
        json!({"uri": uri, "upstream": upstream, "plugins": plugins})
    };
    let by_header = json!({"proxy-rewrite": {"headers": {"set": {"X-Key": "$arg_key"}}}});
    let mut resources = vec![
        ("routes", "who", hashed("/who", json!({"hash_on": "consumer"}), json!({"key-auth": {}}))),
        ("routes", "uri", hashed("/uri/*", json!({"key": "uri"}), json!({"proxy-rewrite": {"uri": "/same"}}))),
        ("routes", "header", hashed("/header", json!({"hash_on": "header", "key": "x-key"}), by_header)),
    ];
    resources.extend(names.iter().map(|name| ("consumers", name.as_str(), consumer(name, name))));
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    for (path, of) in [("/who", "apikey: {}\r\n"), ("/uri/{}", ""), ("/header?key={}", "")] {
        let mut all = std::collections::BTreeSet::new();
        for name in &names {
            let (path, head) = (path.replace("{}", name), of.replace("{}", name));
            let first = ask(&scene, "GET", &path, &head).await.header("x-origin").unwrap().to_owned();
            assert_eq!(
                ask(&scene, "GET", &path, &head).await.header("x-origin"),
                Some(first.as_str()),
                "{path} {head}"
            );
            all.insert(first);
        }
        assert_eq!(all.len(), 2, "{path}: all keys went to one node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_compressed_to_who_takes_them_so() {
    let page = "<p>holdfast</p>".repeat(20_000);
    let whole =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"a\"\r\nContent-Length: {}\r\n\r\n", page.len());
    let origin = Origin::saying(whole + &page, false).await;
    let packed = Origin::saying(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: br\r\nContent-Length: 25\r\n\r\n1234567890123456789012345",
        false,
    )
    .await;
    // One that says something, and then nothing more.
    let slow = Origin::with(|mut conversation| async move {
        conversation.request().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nevent: 1\r\n";
        conversation.send(head).await;
        conversation.request().await;
    })
    .await;
    let gzip = || json!({"gzip": {"vary": true}});
    let resources = [
        ("routes", "page", with_plugins("/page", &origin, gzip())),
        ("routes", "packed", with_plugins("/packed", &packed, gzip())),
        ("routes", "slow", with_plugins("/slow", &slow, gzip())),
    ];
    let scene = Scene::with(&resources).await;
    let takes = "Accept-Encoding: br, gzip\r\n";
    let small = ask(&scene, "GET", "/page", takes).await;
    let said = |name: &str| small.header(name);
    assert_eq!(
        (said("content-encoding"), said("vary"), said("etag")),
        (Some("gzip"), Some("Accept-Encoding"), Some("W/\"a\""))
    );
    assert!(said("content-length").is_none() && small.body.len() < page.len() / 20, "{}", small.body.len());
    let mut open = String::new();
    GzDecoder::new(&small.body[..]).read_to_string(&mut open).unwrap();
    assert!(open == page);
    let plain = ask(&scene, "GET", "/page", "").await;
    assert_eq!((plain.header("content-encoding"), plain.body.len()), (None, page.len()));
    assert_eq!(ask(&scene, "GET", "/packed", takes).await.header("content-encoding"), Some("br"), "once is enough");
    // What came is not kept back for what may come.
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(format!("GET /slow HTTP/1.1\r\nHost: test.example\r\n{takes}\r\n")).await;
    let mut came = Vec::new();
    let mut event = [0; 8];
    for _ in 0..100 {
        came.extend(client.take_some(Duration::from_millis(50)).await);
        let body = came.windows(2).position(|two| two == b"\x1f\x8b").map_or(&[][..], |at| &came[at..]);
        if GzDecoder::new(body).read_exact(&mut event).is_ok() {
            break;
        }
    }
    assert_eq!(&event, b"event: 1", "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_asked_first() {
    let origin = Origin::echo().await;
    // It lets in who shows a token, and says who that is.
    let server = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let told: Vec<_> =
                ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-for", "x-forwarded-host", "cookie"]
                    .map(|name| request.header(name).unwrap_or("-").to_owned())
                    .into();
            let told = format!("{} {} {}", request.line, told.join(" "), String::from_utf8_lossy(&request.body));
            let (status, more) = match request.header("authorization") {
                Some("let me in") => ("200 OK", "X-User: jack\r\n"),
                Some("hang") => return std::future::pending().await,
                // Refusals that cannot be read to their end.
                Some("cut") => {
                    conversation.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\nsaid").await;
                    return;
                }
                Some("long") => {
                    let body = "said".repeat(1 << 19);
                    conversation
                        .send(format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len()))
                        .await;
                    conversation.send(body).await;
                    return;
                }
                _ => ("302 Found", "Location: /login\r\nX-Secret: 1\r\n"),
            };
            let answer = format!("HTTP/1.1 {status}\r\n{more}X-Told: {told}\r\nContent-Length: 4\r\n\r\nsaid");
            conversation.send(answer).await;
        }
    })
    .await;
    let uri = format!("http://{}/check?x=1", server.address);
    let asks = json!({"uri": uri, "request_headers": ["Authorization"], "upstream_headers": ["X-User", "X-Told"],
                      "client_headers": ["Location", "X-Told"], "timeout": 1000});
    let with = |more: Value| {
        let mut conf = asks.clone();
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"forward-auth": conf})
    };
    let nobody = json!({"uri": "http://127.0.0.1:1/", "allow_degradation": true, "upstream_headers": ["X-User"]});
    let resources = [
        ("routes", "get", with_plugins("/get", &origin, with(json!({})))),
        ("routes", "post", with_plugins("/post", &origin, with(json!({"request_method": "POST"})))),
        ("routes", "late", with_plugins("/late", &origin, with(json!({"timeout": 50, "status_on_error": 504})))),
        ("routes", "lax", with_plugins("/lax", &origin, with(json!({"allow_degradation": true})))),
        ("routes", "free", with_plugins("/free", &origin, json!({"forward-auth": nobody}))),
    ];
    let scene = Scene::with(&resources).await;
    let token = "Authorization: let me in\r\nX-User: forged\r\nCookie: private\r\n";
    let passed = ask(&scene, "GET", "/get?a=1", token).await.json();
    assert_eq!(seen(&passed, "x-user"), Some("jack"));
    let told = "GET /check?x=1 HTTP/1.1 GET /get?a=1 127.0.0.1 test.example - ";
    assert_eq!(seen(&passed, "x-told").map(str::trim), Some(told.trim()));
    let refused = ask(&scene, "GET", "/get", "").await;
    assert_eq!((refused.status, refused.header("location"), refused.text().as_str()), (302, Some("/login"), "said"));
    assert_eq!((refused.header("x-secret"), refused.header("x-content-type-options")), (None, Some("nosniff")));
    for (how, status) in [("cut", 401), ("long", 403)] {
        for path in ["/get", "/lax"] {
            let refused = ask(&scene, "GET", path, &format!("Authorization: {how}\r\n")).await;
            assert_eq!(refused.status, status, "{how} {path}: its status has been said");
        }
    }
    let posted = ask(&scene, "POST", "/post", &format!("{token}Content-Length: 4\r\n\r\nbody")).await.json();
    assert!(seen(&posted, "x-told").unwrap().ends_with(" body") && posted["body"] == "body", "{posted}");
    assert_eq!(ask(&scene, "GET", "/late", "Authorization: hang\r\n").await.status, 504);
    let free = ask(&scene, "GET", "/free", "X-User: forged\r\n").await;
    assert_eq!(free.status, 200, "nobody answers, and it may go on");
    assert_eq!(seen(&free.json(), "x-user"), None, "and nobody vouches for who it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_holds_wherever_a_plugin_is_run() {
    let origin = Origin::echo().await;
    let limit = json!({"limit-count": {"count": 9, "time_window": 60}});
    let resources = [
        ("plugin_metadata", "limit-count", json!({"limit_header": "X-Most"})),
        ("routes", "r", with_plugins("/r", &origin, limit)),
    ];
    let scene = Scene::with(&resources).await;
    let told = |answer: &Response| ["x-most", "x-ratelimit-limit"].map(|name| answer.header(name).map(str::to_owned));
    let nine = || Some("9".to_owned());
    assert_eq!(told(&ask(&scene, "GET", "/r", "").await), [nine(), None]);
    scene.control_plane.commit(&[("plugin_metadata", "limit-count", None)]);
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(told(&ask(&scene, "GET", "/r", "").await), [None, nine()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_case_that_holds_says_what_becomes_of_a_request() {
    // It says half of its answer, and the rest when it is told to.
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let origin = Origin::with(move |mut conversation| {
        let wait = wait.clone();
        async move {
            while let Some(request) = conversation.request().await {
                conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await;
                if request.line.contains("/conn") {
                    wait.notified().await;
                }
                conversation.send("b").await;
            }
        }
    })
    .await;
    let conn = json!({"conn": 1, "burst": 0, "default_conn_delay": 0.01, "key": "remote_addr", "rejected_code": 429});
    let rules = json!([
        {"case": [["uri", "==", "/w/no"]], "actions": [["return", {"code": 403}]]},
        {"case": [["uri", "==", "/w/conn"]], "actions": [["limit-conn", conn]]},
        {"actions": [["limit-count", {"count": 2, "time_window": 600, "rejected_code": 503}]]},
    ]);
    let workflow = with_plugins("/w/*", &origin, json!({"workflow": {"rules": rules}}));
    let scene = Scene::with(&[("routes", "w", workflow)]).await;
    let refused = ask(&scene, "GET", "/w/no", "").await;
    assert_eq!((refused.status, refused.text().as_str()), (403, "{\"error_msg\":\"rejected by workflow\"}\n"));
    // A rule without a case takes whatever none before has taken, and nothing else counts for it.
    for expected in [200, 200, 503, 503] {
        assert_eq!(ask(&scene, "GET", "/w/other", "").await.status, expected);
    }
    let mut first = Client::connect(scene.dp.address()).await;
    first.send("GET /w/conn HTTP/1.1\r\nHost: test.example\r\n\r\n").await;
    let mut came = Vec::new();
    until("its head is there, and half of its body", async || {
        came.extend(first.take_some(Duration::from_millis(20)).await);
        came.ends_with(b"\r\n\r\na")
    })
    .await;
    assert_eq!(ask(&scene, "GET", "/w/conn", "").await.status, 429, "it is still under way");
    go_on.notify_one();
    until("its end is there", async || first.take_some(Duration::from_millis(20)).await == b"b").await;
    until("it has ended for the limit too", async || {
        go_on.notify_one();
        ask(&scene, "GET", "/w/conn", "").await.status == 200
    })
    .await;
}
