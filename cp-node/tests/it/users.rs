//! Users and tokens of the Admin API.

use serde_json::{Value, json};

use super::node::{Api, KEY};

async fn with(api: &Api, key: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, answer) = api.raw(method, path, &[("x-api-key", key)], body.as_bytes()).await;
    (status, serde_json::from_str(&answer).unwrap_or_default())
}

async fn token(api: &Api, user: &str, body: &str) -> (String, String) {
    let (status, told) = api.call("POST", &format!("/v1/users/{user}/tokens"), body).await;
    assert_eq!(status, 201, "{told}");
    (told["id"].as_str().unwrap().to_owned(), told["token"].as_str().unwrap().to_owned())
}

const ROUTE: &str = r#"{"uri":"/x","upstream":{"nodes":{}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_user_comes_does_its_work_and_goes() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/v1/users/ci", r#"{"role":"admin"}"#).await.0, 201);
    assert_eq!(api.call("PUT", "/v1/users/eye", r#"{"role":"viewer"}"#).await.0, 201);
    let (first, secret) = token(&api, "ci", r#"{"desc":"the pipeline"}"#).await;
    let (_, viewing) = token(&api, "eye", "").await;
    let wrong = secret.replace(&secret[secret.len() - 4..], "0000");
    assert_eq!(with(&api, &secret, "PUT", "/apisix/admin/routes/r", ROUTE).await.0, 201);
    assert_eq!(with(&api, &wrong, "GET", "/apisix/admin/routes/r", "").await.0, 401);
    assert_eq!(with(&api, &viewing, "GET", "/apisix/admin/routes/r", "").await.0, 200);
    let (status, refused) = with(&api, &viewing, "PUT", "/apisix/admin/routes/r", ROUTE).await;
    assert_eq!((status, &refused["description"]), (401, &json!("invalid method for role viewer")));
    // The history names the user, and nothing that is kept or shown is the token.
    let (_, history) = api.call("GET", "/v1/history?kind=routes", "").await;
    assert_eq!(history["list"][0]["author"], "ci");
    let (_, users) = api.call("GET", "/v1/users", "").await;
    assert_eq!((&users["total"], &users["list"][0]["tokens"][0]["desc"]), (&json!(2), &json!("the pipeline")));
    let (_, all) = api.call("GET", "/v1/history", "").await;
    let part = secret.rsplit('_').next().unwrap();
    assert!(!users.to_string().contains(part) && !all.to_string().contains(part));
    // It outlives a restart; another role holds at once; a revoked token opens nothing.
    let api = api.restart().await;
    assert_eq!(with(&api, &secret, "PUT", "/apisix/admin/routes/r", ROUTE).await.0, 200);
    assert_eq!(api.call("PUT", "/v1/users/ci", r#"{"role":"viewer"}"#).await.0, 200);
    assert_eq!(with(&api, &secret, "PUT", "/apisix/admin/routes/r", ROUTE).await.0, 401);
    let (_, second) = token(&api, "ci", "").await;
    assert_eq!(api.call("DELETE", &format!("/v1/users/ci/tokens/{first}"), "").await.0, 200);
    let (status, refused) = with(&api, &secret, "GET", "/apisix/admin/routes", "").await;
    assert_eq!((status, &refused["description"]), (401, &json!("wrong apikey")));
    assert_eq!(with(&api, &second, "GET", "/apisix/admin/routes", "").await.0, 200);
    assert_eq!(api.call("DELETE", &format!("/v1/users/eye/tokens/{first}"), "").await.0, 404);
    // A user goes with its tokens.
    assert_eq!(api.call("DELETE", "/v1/users/ci", "").await.0, 200);
    assert_eq!(with(&api, &second, "GET", "/apisix/admin/routes", "").await.0, 401);
    assert_eq!(api.call("DELETE", "/v1/users/ci", "").await.0, 404);
    // Neither is a resource that anybody configures or that a proxy sees.
    let (_, configs) = api.call("GET", "/apisix/admin/configs", "").await;
    assert!(!configs.to_string().contains("eye"), "{configs}");
    assert_eq!(api.call("GET", "/apisix/admin/admin_users", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_user_or_token_is_refused() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/v1/users/ci", r#"{"role":"admin"}"#).await.0, 201);
    for (method, path, body, status, words) in [
        ("PUT", "/v1/users/root", r#"{"role":"admin"}"#, 409, "a key of this node's settings has the name root"),
        ("PUT", "/v1/users/a%20b", r#"{"role":"admin"}"#, 400, "is no name of a user"),
        ("PUT", "/v1/users/x", r#"{"role":"king"}"#, 400, "unknown variant"),
        ("PUT", "/v1/users/x", r#"{"role":"admin","more":1}"#, 400, "unknown field"),
        ("POST", "/v1/users/ci/tokens", r#"{"expires_seconds":0}"#, 400, "expires_seconds must be 1 to "),
        ("POST", "/v1/users/ci", "", 405, "not supported"),
    ] {
        let (got, answer) = api.call(method, path, body).await;
        assert!(got == status && answer["error_msg"].as_str().unwrap().contains(words), "{path}: {got} {answer}");
    }
    assert_eq!(api.call("POST", "/v1/users/nobody/tokens", "").await.0, 404);
    // Sent twice, the second answer cannot tell the token of the first, and makes no other.
    let twice = async || api.with("POST", "/v1/users/ci/tokens", &[("idempotency-key", "k")], "{}").await;
    assert_eq!(twice().await.0, 201);
    let (status, answer) = twice().await;
    assert!(status == 409 && answer["error_msg"].as_str().unwrap().contains("told once"), "{answer}");
    let most = api.call("GET", "/v1/limits", "").await.1["tokens"]["max"].as_u64().unwrap();
    for _ in 1..most {
        token(&api, "ci", "").await;
    }
    let (status, answer) = api.call("POST", "/v1/users/ci/tokens", "").await;
    assert!(status == 409 && answer["error_msg"].as_str().unwrap().contains("revoke one first"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_its_time_is_over() {
    let api = Api::start().await;
    api.call("PUT", "/v1/users/ci", r#"{"role":"viewer"}"#).await;
    let (_, secret) = token(&api, "ci", r#"{"expires_seconds":1}"#).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let (status, answer) = with(&api, &secret, "GET", "/apisix/admin/routes", "").await;
        if status == 401 {
            assert_eq!(answer["description"], "expired apikey");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it lives for ever");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(with(&api, KEY, "GET", "/apisix/admin/routes", "").await.0, 200);
}
