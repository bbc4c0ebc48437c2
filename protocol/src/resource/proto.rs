//! A Protobuf definition, kept for plugins that read it.

use super::common::read_labelling;
use super::scope::Scope;

/// The longest definition.
pub const PROTO_CHARS_MAX: usize = 1 << 20;

/// A Protobuf definition.
#[derive(Clone, PartialEq, Debug)]
pub struct Proto {
    /// Its text, or a set of descriptors in base64. Nothing in this version reads it.
    pub content: String,
}

impl Proto {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        read_labelling(&fields);
        let content = fields.required("content", |s| s.string(1, PROTO_CHARS_MAX));
        fields.finish();
        Some(Self { content: content?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::check;
    use super::*;

    #[test]
    fn a_proto_has_a_content() {
        assert!(check(&json!({"content": "syntax = \"proto3\";", "desc": "d"}), Proto::read).is_ok());
        let report = check(&json!({}), Proto::read).unwrap_err();
        assert_eq!(report.summary(), "invalid configuration: property \"content\" is required");
    }
}
