//! Anything that speaks S3: AWS, and the many stores that are compatible with it.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::meta::region::RegionProviderChain;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use aws_smithy_http_client::tls;
use bytes::Bytes;
use daemon::seams::SystemClock;
use futures_util::future::BoxFuture;
use protocol::seam::WallClock as _;
use tokio::time::{Instant, timeout};

use super::{Listed, Object, ObjectStore, PAGE_KEYS_MAX, Page, StoreError, Version, When, check_key};
use crate::settings::{S3Settings, Secret, ServerSide};

/// A body over this many bytes goes up in parts of as many: one that fails is repeated alone.
const PART_BYTES: usize = 16 << 20;

/// Dialling, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Until the first byte of an answer.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(15);

/// One attempt with its body up: 16 MiB at 1 MiB/s, and patience.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// All attempts of one request.
const CALL_MAX: Duration = Duration::from_secs(60);

/// Attempts of one request, the first included; between them the SDK waits with jitter, doubling from 1 s at most.
const ATTEMPTS_MAX: u32 = 3;

/// A body that comes down may pause for so long…
const STALL_MAX: Duration = Duration::from_secs(10);

/// …and must come at this rate on the whole, after as long as it may pause.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// Uploads that are cleaned up in one call.
const UPLOADS_MAX: i32 = 100;

/// A bucket. Clones share it.
#[derive(Clone, Debug)]
pub struct S3 {
    client: Client,
    bucket: String,
    endpoint: String,
    server_side: ServerSide,
    stall_max: Duration,
}

impl S3 {
    /// A client for these settings. Nothing is dialled.
    ///
    /// # Errors
    /// Why a secret cannot be read.
    pub async fn open(settings: &S3Settings) -> Result<Self, crate::settings::BadArchive> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_MAX)
            .read_timeout(FIRST_BYTE_MAX.min(settings.timeout.0))
            .operation_attempt_timeout(ATTEMPT_MAX.min(settings.timeout.0))
            .operation_timeout(CALL_MAX.min(settings.timeout.0 * ATTEMPTS_MAX))
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts.clone())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX));
        loader = match settings.region.as_str() {
            // A store of one's own often has no regions, and takes any name.
            "" => loader.region(RegionProviderChain::default_provider().or_else("us-east-1")),
            region => loader.region(Region::new(region.to_owned())),
        };
        if !settings.access_key_id.is_empty() {
            let secret = Secret::read(
                "archive.s3.secret_access_key",
                &settings.secret_access_key,
                settings.secret_access_key_file.as_deref(),
            )?;
            let token = (!settings.session_token.is_empty()).then(|| settings.session_token.clone());
            loader = loader.credentials_provider(Credentials::new(
                settings.access_key_id.clone(),
                secret,
                token,
                None,
                "settings",
            ));
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.path_style)
            // Our objects carry their own checksums and signatures, and stores of one's own know S3's newest not.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if !settings.endpoint.is_empty() {
            config = config.endpoint_url(settings.endpoint.clone());
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket.clone(),
            endpoint: settings.endpoint.clone(),
            server_side: settings.server_side_encryption.clone(),
            stall_max: STALL_MAX.min(settings.timeout.0),
        })
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.server_side {
            ServerSide::None => (None, None),
            ServerSide::Aes256 => (Some(ServerSideEncryption::Aes256), None),
            ServerSide::Kms(key) => (Some(ServerSideEncryption::AwsKms), (!key.is_empty()).then(|| key.clone())),
        }
    }

    async fn put_whole(&self, key: &str, body: Bytes, when: &When) -> Result<Version, StoreError> {
        let (encryption, kms) = self.encryption();
        let (absent, is) = conditions(when);
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_if_none_match(absent)
            .set_if_match(is)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms)
            .body(ByteStream::from(body));
        let answer = put.send().await.map_err(|e| failed(&e, when))?;
        version(answer.e_tag)
    }

    async fn put_in_parts(&self, key: &str, body: &Bytes, when: &When) -> Result<Version, StoreError> {
        let (encryption, kms) = self.encryption();
        let created = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms)
            .send()
            .await
            .map_err(|e| failed(&e, &When::Always))?;
        let upload = created.upload_id.ok_or_else(|| StoreError::Unavailable("an upload has no id".to_owned()))?;
        let result = self.put_parts(key, body, when, &upload).await;
        if result.is_err() {
            // Should this fail as well, the next clean-up finds it.
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(&upload);
            if let Err(e) = abort.send().await {
                tracing::debug!(key, error = %DisplayErrorContext(&e), "an upload is left over");
            }
        }
        result
    }

    async fn put_parts(&self, key: &str, body: &Bytes, when: &When, upload: &str) -> Result<Version, StoreError> {
        let mut parts = CompletedMultipartUpload::builder();
        let mut number = 0;
        for at in (0..body.len()).step_by(PART_BYTES) {
            number += 1;
            let part = body.slice(at..(at + PART_BYTES).min(body.len()));
            let sent = self
                .client
                .upload_part()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number)
                .body(ByteStream::from(part))
                .send()
                .await
                .map_err(|e| failed(&e, &When::Always))?;
            parts = parts.parts(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        let (absent, is) = conditions(when);
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(upload)
            .set_if_none_match(absent)
            .set_if_match(is)
            .multipart_upload(parts.build());
        let answer = complete.send().await.map_err(|e| failed(&e, when))?;
        version(answer.e_tag)
    }

    async fn get_now(&self, key: &str, bytes_max: u64, unless: Option<&Version>) -> Result<Option<Object>, StoreError> {
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        let answer = match get.set_if_none_match(unless.map(|version| version.0.clone())).send().await {
            Ok(answer) => answer,
            Err(e) if e.raw_response().is_some_and(|response| response.status().as_u16() == 304) => return Ok(None),
            Err(e) => return Err(failed(&e, &When::Always)),
        };
        let announced = answer.content_length.and_then(|bytes| u64::try_from(bytes).ok());
        if announced.is_some_and(|bytes| bytes > bytes_max) {
            return Err(StoreError::TooLarge { max: bytes_max });
        }
        let version = version(answer.e_tag)?;
        // Some stores do not know conditional gets.
        if unless == Some(&version) {
            return Ok(None);
        }
        let body = self.read_body(answer.body, bytes_max).await?;
        if announced.is_some_and(|bytes| bytes != body.len() as u64) {
            return Err(StoreError::Unavailable("its body is cut short".to_owned()));
        }
        Ok(Some(Object { body, version }))
    }

    /// Reads a body as it comes: never more than the bound, never for longer than it is worth.
    async fn read_body(&self, mut body: ByteStream, bytes_max: u64) -> Result<Bytes, StoreError> {
        let began = Instant::now();
        let mut bytes = Vec::new();
        loop {
            let after = began.elapsed();
            let owed = after.saturating_sub(self.stall_max).as_secs() * BYTES_PER_SECOND_MIN;
            let slow = StoreError::Slow { bytes: bytes.len() as u64, after };
            if (bytes.len() as u64) < owed {
                return Err(slow);
            }
            match timeout(self.stall_max, body.next()).await {
                Err(_) => return Err(StoreError::Slow { bytes: bytes.len() as u64, after: began.elapsed() }),
                Ok(None) => return Ok(bytes.into()),
                Ok(Some(Err(e))) => return Err(StoreError::Unavailable(format!("its body is cut short: {e}"))),
                Ok(Some(Ok(part))) if (bytes.len() + part.len()) as u64 > bytes_max => {
                    return Err(StoreError::TooLarge { max: bytes_max });
                }
                Ok(Some(Ok(part))) => bytes.extend_from_slice(&part),
            }
        }
    }

    async fn list_now(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        let answer = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .max_keys(i32::try_from(PAGE_KEYS_MAX).unwrap_or(i32::MAX))
            .set_continuation_token(from.map(ToOwned::to_owned))
            .send()
            .await
            .map_err(|e| failed(&e, &When::Always))?;
        let objects = answer.contents.unwrap_or_default().into_iter().filter_map(|object| {
            Some(Listed { key: object.key?, bytes: u64::try_from(object.size.unwrap_or(0)).unwrap_or(0) })
        });
        let next = answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true));
        Ok(Page { objects: objects.collect(), next })
    }

    async fn folders_now(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        let mut from = None;
        loop {
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .delimiter("/")
                .set_continuation_token(from)
                .send()
                .await
                .map_err(|e| failed(&e, &When::Always))?;
            let folders = answer.common_prefixes.unwrap_or_default().into_iter().filter_map(|folder| folder.prefix);
            names.extend(
                folders.filter_map(|folder| Some(folder.strip_prefix(prefix)?.trim_end_matches('/').to_owned())),
            );
            if names.len() > PAGE_KEYS_MAX {
                return Err(StoreError::TooLarge { max: PAGE_KEYS_MAX as u64 });
            }
            from = answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true));
            if from.is_none() {
                return Ok(names);
            }
        }
    }

    async fn clean_now(&self, prefix: &str, age: Duration) -> Result<usize, StoreError> {
        let uploads = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix).max_uploads(UPLOADS_MAX);
        let answer = uploads.send().await.map_err(|e| failed(&e, &When::Always))?;
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let before = i64::try_from(SystemClock.now().saturating_sub(age)).unwrap_or(i64::MAX);
        let before = DateTime::from_millis(before);
        let mut cleaned = 0;
        for upload in answer.uploads.unwrap_or_default() {
            let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
            if upload.initiated.is_none_or(|begun| begun > before) {
                continue;
            }
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
            match abort.send().await.map_err(|e| failed(&e, &When::Always)) {
                Ok(_) | Err(StoreError::Missing) => cleaned += 1,
                Err(e) => return Err(e),
            }
        }
        Ok(cleaned)
    }
}

impl ObjectStore for S3 {
    fn put<'s>(&'s self, key: &'s str, body: Bytes, when: When) -> BoxFuture<'s, Result<Version, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            match body.len() > PART_BYTES {
                true => self.put_in_parts(key, &body, &when).await,
                false => self.put_whole(key, body, &when).await,
            }
        })
    }

    fn get<'s>(
        &'s self,
        key: &'s str,
        bytes_max: u64,
        unless: Option<&'s Version>,
    ) -> BoxFuture<'s, Result<Option<Object>, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            self.get_now(key, bytes_max, unless).await
        })
    }

    fn list<'s>(&'s self, prefix: &'s str, from: Option<&'s str>) -> BoxFuture<'s, Result<Page, StoreError>> {
        Box::pin(self.list_now(prefix, from))
    }

    fn folders<'s>(&'s self, prefix: &'s str) -> BoxFuture<'s, Result<Vec<String>, StoreError>> {
        Box::pin(self.folders_now(prefix))
    }

    fn delete<'s>(&'s self, key: &'s str) -> BoxFuture<'s, Result<(), StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let delete = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
            match delete.map_err(|e| failed(&e, &When::Always)) {
                Ok(_) | Err(StoreError::Missing) => Ok(()),
                Err(e) => Err(e),
            }
        })
    }

    fn clean<'s>(&'s self, prefix: &'s str, age: Duration) -> BoxFuture<'s, Result<usize, StoreError>> {
        Box::pin(self.clean_now(prefix, age))
    }

    fn place(&self) -> String {
        match self.endpoint.as_str() {
            "" => format!("s3://{}", self.bucket),
            endpoint => format!("{}/{}", endpoint.trim_end_matches('/'), self.bucket),
        }
    }
}

fn conditions(when: &When) -> (Option<String>, Option<String>) {
    match when {
        When::Always => (None, None),
        When::Absent => (Some("*".to_owned()), None),
        When::Is(version) => (None, Some(version.0.clone())),
    }
}

fn version(e_tag: Option<String>) -> Result<Version, StoreError> {
    e_tag.map(Version).ok_or_else(|| StoreError::Unavailable("an answer without an ETag".to_owned()))
}

/// What a failure means. `when` is the condition of a put.
fn failed<E>(error: &SdkError<E>, when: &When) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let said = || DisplayErrorContext(error).to_string();
    let Some(response) = error.raw_response() else {
        return match error {
            SdkError::TimeoutError(_) => StoreError::Timeout(said()),
            _ => StoreError::Unavailable(said()),
        };
    };
    let message = error.code().map_or_else(
        || format!("status {}", response.status().as_u16()),
        |code| format!("status {}, {code}: {}", response.status().as_u16(), error.message().unwrap_or_default()),
    );
    match response.status().as_u16() {
        404 if *when == When::Always => StoreError::Missing,
        // An object whose version was to be replaced is gone.
        404 if matches!(when, When::Is(_)) && error.code() == Some("NoSuchKey") => StoreError::Lost,
        404 => StoreError::Missing,
        409 | 412 if *when != When::Always => StoreError::Lost,
        501 if *when != When::Always => StoreError::Unconditional,
        400 if *when != When::Always && error.code() == Some("NotImplemented") => StoreError::Unconditional,
        401 | 403 => StoreError::Denied(message),
        _ => StoreError::Unavailable(message),
    }
}
