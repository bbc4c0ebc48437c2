//! `POST /v1/backup`: everything that is configured, as one signed snapshot file.
//!
//! It changes nothing and yet is a POST: what it gives away is for administrators, and a viewer's key may only GET.

use axum::http::{Method, StatusCode};

use super::Desk;
use super::answer::Answer;
use super::request::{Call, aside};

/// Serves a request for a backup.
pub(super) async fn serve(desk: &Desk, call: Call) -> Result<Answer, Answer> {
    if call.method != Method::POST {
        return Err(Answer::method_not_offered(call.method.as_str(), "this path"));
    }
    let Some(archiver) = desk.describe.archiver.get() else {
        let sentence = "a backup is signed with the archive's key, and this node has no archive: set archive.*";
        return Err(Answer::error(StatusCode::CONFLICT, sentence));
    };
    let config = desk.config(call.wants_stale()?).await?;
    let (cluster, level, now) = (desk.describe.peering.cluster, desk.describe.applied.borrow().level, desk.clock.now());
    let key = archiver.key();
    let encoding = aside(move || {
        let encoded = archive::write::encode_base(cluster, &archive::View::Whole, &config, level, now, &key);
        let failed = |e| format!("the backup could not be written: {e}");
        encoded.map_err(|e| Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &failed(e)))
    });
    let (header, bytes) = encoding.await?;
    Ok(Answer::file(bytes).with_text("x-holdfast-position", &header.position.to_string()))
}
