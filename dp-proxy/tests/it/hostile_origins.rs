//! Origins that mean no good: what they send is passed on as what it is or not at all, their connections are used for nobody
//! else, and whoever is honest beside them does not notice. (Clients that mean no good are in `floods`.)

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::harness::client::Client;
use crate::harness::in_time;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

/// Asks one honest thing after another until `attack` is over; it must always be answered well.
async fn beside<T>(scene: &Scene, path: &str, attack: impl Future<Output = T>) -> T {
    let mut attack = std::pin::pin!(attack);
    let mut client = Client::connect(scene.dp.address()).await;
    let mut asked = 0;
    loop {
        tokio::select! {
            biased;
            answer = client.get("a.com", path) => assert_eq!(answer.status, 200, "after {asked} honest requests"),
            result = &mut attack, if asked > 0 => return result,
        }
        asked += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_origins_hurt_nobody_else() {
    let honest = Origin::echo().await;
    // What an origin sends by path, and whether it then goes on without end.
    let hostile = Origin::with(|mut conversation| async move {
        while let Some(head) = conversation.head().await {
            let (first, more): (String, &[u8]) = match head.line.split(' ').nth(1).unwrap() {
                "/hostile/huge-head" => {
                    ("HTTP/1.1 200 OK\r\n".into(), b"X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
                }
                "/hostile/one-header" => ("HTTP/1.1 200 OK\r\nX-One: ".into(), &[b'a'; 4096]),
                "/hostile/informational" => (String::new(), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
                "/hostile/garbage" => (String::new(), &[0xff; 4096]),
                "/hostile/lines" => (String::new(), b"\r\n\r\n\r\n\r\n"),
                "/hostile/early" => {
                    // Before the body is there; the proxy may do with the connection what it likes.
                    conversation.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
                    while conversation.take(1).await.is_some() {}
                    return;
                }
                "/hostile/chunks" => {
                    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n".into(), b"")
                }
                "/hostile/sizes" => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), &[b'0'; 4096]),
                path => (format!("HTTP/1.1 404 {path}\r\nContent-Length: 0\r\n\r\n"), b""),
            };
            conversation.send(first).await;
            while !more.is_empty() && conversation.stream.write_all(more).await.is_ok() {}
        }
    })
    .await;
    let resources =
        [("routes", "good", route("/good", honest.address)), ("routes", "bad", route("/hostile/*", hostile.address))];
    let scene = Scene::tuned(&resources, |settings| settings.proxy.workers = 1).await;
    for path in ["huge-head", "one-header", "informational", "garbage", "lines"] {
        let answer = beside(&scene, "/good", scene.dp.get(&format!("/hostile/{path}"))).await;
        assert_eq!(answer.status, 502, "{path}");
    }
    for path in ["chunks", "sizes"] {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(format!("GET /hostile/{path} HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
        let answer = beside(&scene, "/good", client.response()).await;
        // It may break off before the head has gone.
        assert!(answer.is_none_or(|answer| !answer.whole) && client.is_closed().await, "{path}: passed off as whole");
    }
    // An answer before the body has come reaches the client, and the connection is not used for anybody else.
    for _ in 0..3 {
        let before = hostile.connections();
        let mut client = Client::connect(scene.dp.address()).await;
        client.send("POST /hostile/early HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\nsome of it").await;
        let answer = beside(&scene, "/good", client.response()).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
        assert_eq!(hostile.connections(), before + 1);
    }
    assert_eq!(scene.dp.get("/good").await.status, 200);
}

/// What becomes of an oddity.
#[derive(Clone, Copy)]
enum Fate {
    /// It is a 502.
    Refused,
    /// It is passed on so: a status and a body that is whole.
    Passed(u16, &'static str),
    /// Its head may be passed on, and the client sees that its body is not whole.
    Cut,
}

use Fate::{Cut, Passed, Refused};

/// What an origin sends, then it waits. None of these connections may be used again.
const ODDITIES: &[(&str, &str, Fate)] = &[
    // More than an answer.
    ("more than the length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nonetwo", Passed(200, "one")),
    ("a second answer", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\n\r\n", Passed(200, "one")),
    (
        "more than the last chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\nx",
        Passed(200, "one"),
    ),
    ("a body where there is none", "HTTP/1.1 204 No Content\r\n\r\nbody", Passed(204, "")),
    ("a body that has not changed", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", Passed(304, "")),
    // Where an answer ends, said in more than one way.
    (
        "both framings",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        Passed(200, "one"),
    ),
    ("a length twice", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\none", Passed(200, "one")),
    ("a length in a list", "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\none", Passed(200, "one")),
    ("lines that end in LF", "HTTP/1.1 200 OK\nContent-Length: 3\n\none", Passed(200, "one")),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\none", Refused),
    ("two lengths in a list", "HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\none", Refused),
    ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\none", Refused),
    ("a length in hexadecimal", "HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\none", Refused),
    ("a length that overflows", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551619\r\n\r\none", Refused),
    (
        "chunked twice",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunks of HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    // Heads in which another may stand.
    ("a bare CR", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a bare CR in the status line", "HTTP/1.1 200 O\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a null", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a folded line", "HTTP/1.1 200 OK\r\nX: a\r\n Set-Cookie: b=c\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a blank before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\none", Refused),
    ("a line without a colon", "HTTP/1.1 200 OK\r\nnothing\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a name of nothing", "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a name with a blank", "HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a blank first line", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Refused),
    // No answers of HTTP/1.
    ("another version", "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", Refused),
    ("another protocol", "ICY 200 OK\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a status that is none", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", Refused),
    ("a switch that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Refused),
    ("a frame of HTTP/2", "\0\0\0\x04\0\0\0\0\0\r\n\r\n", Refused),
    // Chunks that are none: all of them behind a good one.
    ("no size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n\r\ntwo\r\n0\r\n\r\n", Cut),
    (
        "a size with a sign",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n-3\r\ntwo\r\n0\r\n\r\n",
        Cut,
    ),
    (
        "a size with a prefix",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0x3\r\ntwo\r\n0\r\n\r\n",
        Cut,
    ),
    (
        "a size that overflows",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n10000000000000003\r\ntwo\r\n",
        Cut,
    ),
    (
        "a size that ends in LF",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\ntwo\r\n0\r\n\r\n",
        Cut,
    ),
    ("a chunk that is longer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nones\r\n0\r\n\r\n", Cut),
    (
        "a trailer that is none",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nX : 1\r\n\r\n",
        Cut,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_is_passed_on_as_what_it_is_or_not_at_all() {
    let odd = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let place = request.line.split(['/', ' ']).nth(2).unwrap();
            match place.parse::<usize>() {
                Ok(place) => conversation.send(ODDITIES[place].1).await,
                Err(_) => conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await,
            }
        }
    })
    .await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", odd.address))], |settings| settings.proxy.workers = 1).await;
    assert_eq!(scene.dp.get("/good").await.text(), "good");
    assert_eq!((scene.dp.get("/good").await.text().as_str(), odd.connections()), ("good", 1), "whoever is not is kept");
    for (place, (what, _, fate)) in ODDITIES.iter().enumerate() {
        for _ in 0..2 {
            let mut client = Client::connect(scene.dp.address()).await;
            client.send(format!("GET /{place} HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
            let answer = client.response().await;
            let seen = answer.as_ref().map(|answer| (answer.status, answer.text(), answer.whole));
            match fate {
                Refused => assert_eq!(seen.map(|(status, ..)| status), Some(502), "{what}"),
                Passed(status, body) => assert_eq!(seen, Some((*status, (*body).to_owned(), true)), "{what}"),
                // It may break off before the head has gone.
                Cut => {
                    assert!(answer.is_none_or(|answer| !answer.whole) && client.is_closed().await, "{what}: {seen:?}");
                }
            }
            let before = odd.connections();
            assert_eq!(scene.dp.get("/good").await.text(), "good");
            assert_eq!(odd.connections(), before + 1, "{what}: its connection was used again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_before_the_answer_have_a_bound_in_number() {
    const INTERIMS: usize = 32;
    let origin = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let count: usize = request.line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            conversation.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count)).await;
            conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    for (count, status) in [(INTERIMS - 1, 200), (INTERIMS, 200), (INTERIMS + 1, 502)] {
        let mut client = Client::connect(scene.dp.address()).await;
        assert_eq!(client.get("a.com", &format!("/{count}")).await.status, status, "{count}");
        assert!(client.interims.len() <= count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_are_waited_for_from_byte_to_byte() {
    const READ: Duration = Duration::from_secs(1);
    // As nginx and APISIX count: a head that comes slowly is waited for as long as something of it comes.
    let origin = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let stops = request.line.contains("/stops");
            for piece in ["HTTP/1.1 200 OK\r\n", "Content-", "Length: 3\r\n\r\n", "on", "e"] {
                if stops && piece == "Length: 3\r\n\r\n" || request.line.contains("/short") && piece == "e" {
                    conversation.take(1).await;
                    return;
                }
                conversation.send(piece).await;
                sleep(READ / 3).await;
            }
        }
    })
    .await;
    let mut slow = route("/*", origin.address);
    slow["timeout"] = json!({"connect": 5, "send": 5, "read": READ.as_secs()});
    let scene = Scene::with(&[("routes", "r", slow)]).await;
    let whole = async {
        in_time("every piece comes within a read's time", async || {
            let began = Instant::now();
            let answer = scene.dp.get("/").await;
            let took = began.elapsed();
            // Four times a third, and what the machine was late together.
            if took >= READ * 5 / 3 {
                return None;
            }
            assert_eq!((answer.status, answer.text().as_str()), (200, "one"));
            assert!(took > READ, "it takes longer than one read may");
            Some(())
        })
        .await;
    };
    let stops = async {
        let began = Instant::now();
        assert_eq!(scene.dp.get("/stops").await.status, 504);
        assert!(began.elapsed() >= READ, "after {:?}", began.elapsed());
    };
    let short = async {
        in_time("its head comes within a read's time", async || {
            let mut client = Client::connect(scene.dp.address()).await;
            client.send("GET /short HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
            let answer = client.response().await.unwrap();
            if answer.status == 504 {
                return None;
            }
            assert!(!answer.whole && client.is_closed().await, "passed off as whole");
            Some(())
        })
        .await;
    };
    tokio::join!(whole, stops, short);
}
