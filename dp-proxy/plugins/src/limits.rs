//! What plugins that limit requests have in common: what requests are told apart by, and how they are refused.

use http::StatusCode;
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Known, Values, Variable, VariableText};
use serde_json::{Value, json};

use super::answer::Answer;
use super::plugin::{Step, check_variables};

/// What requests are told apart by.
#[derive(Debug)]
pub(crate) enum Key {
    Variable(Variable),
    Combination(VariableText),
    Constant(Box<str>),
}

/// How the text of a key is read.
#[derive(Clone, Copy)]
pub(crate) enum KeyType {
    Variable,
    Combination,
    Constant,
}

pub(crate) const KEY_TYPES: [(&str, KeyType); 3] =
    [("var", KeyType::Variable), ("var_combination", KeyType::Combination), ("constant", KeyType::Constant)];

/// How a request over the limit is answered.
#[derive(Debug)]
pub(crate) struct Rejection {
    code: StatusCode,
    message: Option<Box<str>>,
}

impl Rejection {
    pub(crate) fn read(fields: &Fields<'_, '_>) -> Option<Self> {
        let code = fields.optional("rejected_code", |s| s.integer(200, 599)).and_then(|code| u16::try_from(code).ok());
        let message = fields.optional("rejected_msg", |s| s.string(1, usize::MAX));
        Some(Self { code: StatusCode::from_u16(code.unwrap_or(503)).ok()?, message: message.map(Box::from) })
    }

    pub(crate) fn step(&self) -> Step {
        Step::Answer(match &self.message {
            Some(message) => Answer::error(self.code, message),
            None => Answer::empty(self.code),
        })
    }

    /// The fields in a schema.
    pub(crate) fn schema() -> Value {
        json!({
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 503 },
            "rejected_msg": { "type": "string", "minLength": 1 },
        })
    }
}

/// Refuses every word but the one that is served.
pub(crate) fn only(fields: &Fields<'_, '_>, field: &'static str, served: &str) {
    let word = fields.optional(field, |s| s.string(0, usize::MAX));
    if word.is_some_and(|word| word != served) {
        fields.rule(field, format!("{field} is not served by this version of holdfast but for {served:?}"));
    }
}

impl Key {
    /// Reads a key; one of variables that nothing knows is refused.
    pub(crate) fn read(scope: &Scope<'_, '_>, key_type: KeyType) -> Option<Self> {
        let text = scope.string(0, usize::MAX)?;
        Some(match key_type {
            KeyType::Constant => Key::Constant(text.into()),
            KeyType::Variable => {
                let variable = Variable::parse(text);
                check_variables(scope, [&variable]);
                Key::Variable(variable)
            }
            KeyType::Combination => {
                let combination = VariableText::parse(text);
                check_variables(scope, combination.variables());
                Key::Combination(combination)
            }
        })
    }

    /// The key of a request; its address when it has none of what is asked for, as in APISIX.
    pub(crate) fn of(&self, values: &dyn Values) -> Vec<u8> {
        let key = match self {
            Self::Constant(key) => return key.as_bytes().to_vec(),
            Self::Variable(variable) => values.value(variable).map(|value| value.into_owned()),
            Self::Combination(text) => text.fill(values),
        };
        key.unwrap_or_else(|| values.value(&Variable::Known(Known::RemoteAddr)).unwrap_or_default().into_owned())
    }
}
