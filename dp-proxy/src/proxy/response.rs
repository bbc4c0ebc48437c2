//! An answer, whoever gives it.

use http::StatusCode;

use super::body::ResponseBody;
use super::fields::Fields;

/// An answer on its way to the client.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) fields: Fields,
    pub(crate) body: ResponseBody,
}

impl From<http::Response<ResponseBody>> for Response {
    fn from(response: http::Response<ResponseBody>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, fields: Fields::Made(head.headers), body }
    }
}

impl From<Response> for http::Response<ResponseBody> {
    fn from(Response { status, fields, body }: Response) -> Self {
        let mut response = Self::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = fields.into_map();
        response
    }
}
