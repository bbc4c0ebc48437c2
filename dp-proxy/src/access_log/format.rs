//! What a line says: the settings' texts with variables, and a request's values in them.
//!
//! What the request itself has is noted when it comes, as one text; the rest is filled in when it is over. So a request
//! holds nothing of its head while its answer is under way.

use std::fmt::Write as _;
use std::time::Duration;

use protocol::entry::UnixMillis;
use protocol::resource::{Piece as TextPiece, Values, Variable, VariableText};

/// How lines look.
#[derive(Debug)]
pub struct Format(Shape);

#[derive(Debug)]
enum Shape {
    Text(Box<[Piece]>),
    /// The members of an object, in their order.
    Json(Box<[Member]>),
}

/// A member of an object: its name as JSON, and its value.
type Member = (Box<str>, Box<[Piece]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(Box<str>),
    Field(Field),
}

/// A value in a line.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Field {
    /// Of the request.
    Request(Variable),
    /// `$request`: its first line, as the client sent it.
    RequestLine,
    /// Known when it is over.
    End(End),
}

/// A value that is known when a request is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    BodyBytesSent,
    MatchedUri,
    Msec,
    RequestTime,
    RouteId,
    ServiceId,
    Status,
    TimeIso8601,
    TimeLocal,
    UpstreamAddr,
    UpstreamResponseTime,
    UpstreamStatus,
}

/// By name, sorted.
const ENDS: [(&str, End); 12] = [
    ("body_bytes_sent", End::BodyBytesSent),
    ("matched_uri", End::MatchedUri),
    ("msec", End::Msec),
    ("request_time", End::RequestTime),
    ("route_id", End::RouteId),
    ("service_id", End::ServiceId),
    ("status", End::Status),
    ("time_iso8601", End::TimeIso8601),
    ("time_local", End::TimeLocal),
    ("upstream_addr", End::UpstreamAddr),
    ("upstream_response_time", End::UpstreamResponseTime),
    ("upstream_status", End::UpstreamStatus),
];

/// A text that names a variable which no line can have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the variable ${0} is not known to this version of holdfast")]
pub struct BadFormat(String);

/// What is known of a request when it comes.
#[derive(Clone, Copy)]
pub(crate) struct RequestFacts<'r> {
    pub(crate) values: &'r dyn Values,
    pub(crate) method: &'r str,
    /// As the client sent it.
    pub(crate) target: &'r str,
    pub(crate) version: http::Version,
}

/// What was noted of a request: the values that [`Format`] takes from it, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    /// Where each ends; `None`: the request has none.
    ends: Vec<Option<usize>>,
}

/// What is known of a request when it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome<'o> {
    pub(crate) status: u16,
    pub(crate) body_bytes: u64,
    pub(crate) taken: Duration,
    pub(crate) route: &'o str,
    pub(crate) service: &'o str,
    pub(crate) matched_uri: &'o str,
    /// The nodes that it was sent to, in order, and what they said.
    pub(crate) nodes: &'o [String],
    pub(crate) statuses: &'o [u16],
    pub(crate) upstream_taken: Option<Duration>,
}

impl Format {
    /// Lines of text.
    ///
    /// # Errors
    /// [`BadFormat`].
    pub fn text(text: &str) -> Result<Self, BadFormat> {
        Ok(Self(Shape::Text(pieces(text)?)))
    }

    /// Lines of JSON: objects with these members. One that is a variable alone is a number where the variable is one,
    /// and `null` where it has no value.
    ///
    /// # Errors
    /// [`BadFormat`].
    pub fn json<'m>(members: impl IntoIterator<Item = (&'m str, &'m str)>) -> Result<Self, BadFormat> {
        let member = |(name, text): (&str, &str)| Ok((json_text(name.as_bytes()).into(), pieces(text)?));
        Ok(Self(Shape::Json(members.into_iter().map(member).collect::<Result<_, _>>()?)))
    }

    fn all_pieces(&self) -> impl Iterator<Item = &Piece> {
        let (text, json) = match &self.0 {
            Shape::Text(pieces) => (&**pieces, &[][..]),
            Shape::Json(members) => (&[][..], &**members),
        };
        text.iter().chain(json.iter().flat_map(|(_, pieces)| pieces.iter()))
    }

    pub(super) fn note(&self, request: &RequestFacts<'_>) -> Draft {
        let mut draft = Draft::default();
        for piece in self.all_pieces() {
            let known = match piece {
                Piece::Field(Field::Request(variable)) => match request.values.value(variable) {
                    Some(value) => {
                        draft.bytes.extend_from_slice(&value);
                        true
                    }
                    None => false,
                },
                Piece::Field(Field::RequestLine) => {
                    let RequestFacts { method, target, version, .. } = request;
                    // One that could not be read has none.
                    if !method.is_empty() {
                        draft.bytes.extend_from_slice(format!("{method} {target} {version:?}").as_bytes());
                    }
                    !method.is_empty()
                }
                _ => continue,
            };
            draft.ends.push(known.then_some(draft.bytes.len()));
        }
        draft
    }

    pub(super) fn line(&self, draft: &Draft, outcome: &Outcome<'_>, now: UnixMillis) -> Vec<u8> {
        let mut noted = draft.values();
        let mut value = |field: &Field| match field {
            Field::Request(_) | Field::RequestLine => noted.next().flatten().map(<[u8]>::to_vec),
            Field::End(end) => outcome.value(*end, now).map(String::into_bytes),
        };
        let mut out = String::with_capacity(256);
        match &self.0 {
            Shape::Text(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => out.push_str(text),
                        Piece::Field(field) => match value(field) {
                            Some(value) => escape(&value, &mut out),
                            None => out.push('-'),
                        },
                    }
                }
            }
            Shape::Json(members) => {
                for (i, (name, pieces)) in members.iter().enumerate() {
                    out.push_str(if i == 0 { "{" } else { "," });
                    out.push_str(name);
                    out.push(':');
                    match &**pieces {
                        [Piece::Field(field)] => match value(field) {
                            Some(value) if field.is_number() => out.push_str(&String::from_utf8_lossy(&value)),
                            Some(value) => out.push_str(&json_text(&value)),
                            None => out.push_str("null"),
                        },
                        pieces => {
                            let mut text = Vec::new();
                            for piece in pieces {
                                match piece {
                                    Piece::Text(plain) => text.extend_from_slice(plain.as_bytes()),
                                    Piece::Field(field) => text.extend(value(field).unwrap_or_else(|| b"-".to_vec())),
                                }
                            }
                            out.push_str(&json_text(&text));
                        }
                    }
                }
                out.push_str(if members.is_empty() { "{}" } else { "}" });
            }
        }
        out.push('\n');
        out.into_bytes()
    }
}

fn pieces(text: &str) -> Result<Box<[Piece]>, BadFormat> {
    let read = |piece: &TextPiece| {
        Ok(match piece {
            TextPiece::Text(text) => Piece::Text(text.as_str().into()),
            TextPiece::Variable(Variable::Unknown(name)) => Piece::Field(Field::of_the_log(name)?),
            TextPiece::Variable(variable) => Piece::Field(Field::Request(variable.clone())),
        })
    };
    VariableText::parse(text).pieces().iter().map(read).collect()
}

impl Field {
    fn of_the_log(name: &str) -> Result<Self, BadFormat> {
        if name == "request" {
            return Ok(Self::RequestLine);
        }
        let at = ENDS.binary_search_by(|(known, _)| (*known).cmp(name));
        at.map(|at| Self::End(ENDS[at].1)).map_err(|_| BadFormat(name.to_owned()))
    }

    /// Whether its values are numbers wherever there are any.
    fn is_number(&self) -> bool {
        let numbers =
            [End::BodyBytesSent, End::Msec, End::RequestTime, End::Status, End::UpstreamResponseTime].map(Field::End);
        numbers.contains(self)
    }
}

impl Draft {
    fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let from = start;
            start = end.unwrap_or(start);
            end.map(|end| &self.bytes[from..end])
        })
    }
}

impl Outcome<'_> {
    fn value(&self, end: End, now: UnixMillis) -> Option<String> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        match end {
            End::BodyBytesSent => Some(self.body_bytes.to_string()),
            End::MatchedUri => some(self.matched_uri),
            End::Msec => Some(format!("{}.{:03}", now / 1000, now % 1000)),
            End::RequestTime => Some(seconds(self.taken)),
            End::RouteId => some(self.route),
            End::ServiceId => some(self.service),
            End::Status => Some(self.status.to_string()),
            End::TimeIso8601 => Some(iso8601(now)),
            End::TimeLocal => Some(time_local(now)),
            End::UpstreamAddr => some(&self.nodes.join(", ")),
            End::UpstreamResponseTime => self.upstream_taken.map(seconds),
            End::UpstreamStatus => some(&self.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Seconds with three places, as nginx has them.
fn seconds(taken: Duration) -> String {
    format!("{}.{:03}", taken.as_secs(), taken.subsec_millis())
}

/// As nginx escapes: nothing in a value can end a field or a line.
fn escape(value: &[u8], out: &mut String) {
    for byte in value {
        match byte {
            b'"' | b'\\' | ..0x20 | 0x7f.. => write!(out, "\\x{byte:02X}").expect("a string takes everything"),
            byte => out.push(char::from(*byte)),
        }
    }
}

fn json_text(value: &[u8]) -> String {
    serde_json::Value::from(String::from_utf8_lossy(value)).to_string()
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Year, month (from 1) and day, hour, minute and second, UTC (Howard Hinnant's `civil_from_days`).
fn civil(now: UnixMillis) -> (u64, usize, u64, u64, u64, u64) {
    let seconds = now / 1000;
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let month = usize::try_from(month).expect("at most 12");
    (year, month, day, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

fn iso8601(now: UnixMillis) -> String {
    let (year, month, day, hour, minute, second) = civil(now);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}

fn time_local(now: UnixMillis) -> String {
    let (year, month, day, hour, minute, second) = civil(now);
    format!("{day:02}/{}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000", MONTHS[month - 1])
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use protocol::resource::Known;

    use super::*;

    struct One;

    impl Values for One {
        fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
            match variable {
                Variable::Known(Known::RemoteAddr) => Some(b"10.0.0.1"[..].into()),
                Variable::Header(name) if name == "user-agent" => Some(b"a \"b\"\n\xff"[..].into()),
                _ => None,
            }
        }
    }

    const NOW: UnixMillis = 1_795_731_839_007;

    fn line(format: &Format) -> String {
        let facts = RequestFacts { values: &One, method: "GET", target: "/x?y", version: http::Version::HTTP_11 };
        let outcome = Outcome {
            status: 504,
            body_bytes: 7,
            taken: Duration::from_millis(1234),
            route: "r1",
            service: "",
            matched_uri: "/*",
            nodes: &["10.1.1.1:80".to_owned(), "10.1.1.2:80".to_owned()],
            statuses: &[502, 504],
            upstream_taken: Some(Duration::from_millis(5)),
        };
        String::from_utf8(format.line(&format.note(&facts), &outcome, NOW)).unwrap()
    }

    #[test]
    fn text_is_escaped_as_nginx_does() {
        let text = "$remote_addr [$time_local] \"$request\" $status $body_bytes_sent \"$http_user_agent\" \
            $http_referer ${request_time}s $upstream_addr $upstream_status $upstream_response_time $route_id $service_id";
        let expected = "10.0.0.1 [26/Nov/2026:22:23:59 +0000] \"GET /x?y HTTP/1.1\" 504 7 \"a \\x22b\\x22\\x0A\\xFF\" \
            - 1.234s 10.1.1.1:80, 10.1.1.2:80 502, 504 0.005 r1 -\n";
        assert_eq!(line(&Format::text(text).unwrap()), expected);
    }

    #[test]
    fn json_has_numbers_and_nulls() {
        let members = [
            ("time", "$time_iso8601"),
            ("at", "$msec"),
            ("status", "$status"),
            ("seconds", "$request_time"),
            ("agent", "$http_user_agent"),
            ("referer", "$http_referer"),
            ("m\"", "$request_method$remote_addr$http_none"),
            ("service", "$service_id"),
        ];
        let expected = "{\"time\":\"2026-11-26T22:23:59+00:00\",\"at\":1795731839.007,\"status\":504,\"seconds\":1.234,\
            \"agent\":\"a \\\"b\\\"\\n\u{fffd}\",\"referer\":null,\"m\\\"\":\"-10.0.0.1-\",\"service\":null}\n";
        assert_eq!(line(&Format::json(members).unwrap()), expected);
        assert_eq!(line(&Format::json([]).unwrap()), "{}\n");
    }

    #[test]
    fn a_variable_that_nobody_knows_is_named() {
        assert!(ENDS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(Format::text("$status $nosuch").unwrap_err().to_string(), BadFormat("nosuch".into()).to_string());
    }

    #[test]
    fn days_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00+00:00"),
            (951_782_400, "2000-02-29T00:00:00+00:00"),
            (951_868_799, "2000-02-29T23:59:59+00:00"),
            (1_735_689_599, "2024-12-31T23:59:59+00:00"),
            (4_107_542_400, "2100-03-01T00:00:00+00:00"),
        ] {
            assert_eq!(iso8601(seconds * 1000), expected);
        }
    }

    #[test]
    fn fuzz_whatever_is_a_format_makes_one_line() {
        let seeds: [&[u8]; 5] = [
            b"$remote_addr [$time_local] \"$request\" $status \"$http_user_agent\"",
            b"${request_time}s ${http_user_agent}$upstream_addr",
            b"$ ${ $} ${} $$ $1 ${arg_a b}",
            b"$cookie_a$arg_b$http_user_agent${msec",
            b"{\"a\": \"$status\"}",
        ];
        fuzz::hammer(4, &seeds, |bytes| {
            let Ok(text) = str::from_utf8(bytes) else { return };
            if let Ok(format) = Format::text(text) {
                let line = line(&format);
                // What the setting itself has of line ends is the operator's wish.
                let wanted = text.matches('\n').count() + 1;
                assert!(line.ends_with('\n') && line.matches('\n').count() == wanted, "{text:?}: {line:?}");
            }
            if let Ok(format) = Format::json([("member", text), (text, "$status")]) {
                let line = line(&format);
                assert_eq!(line.find('\n'), Some(line.len() - 1), "{text:?}: {line:?}");
                let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                assert_eq!(value[text], 504, "{text:?}: {line}");
            }
        });
    }
}
